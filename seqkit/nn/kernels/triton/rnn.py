"""The Elman cell on Triton: what `kernels/rnn.py` computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.nn.kernels.kernel import Kernel, Tensors
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.rnn import RNNKernel
from seqkit.nn.kernels.triton import launch, products

# Pointers of both kernels, after those of their own.
MORE = ("norm", "mask_recurrent", "mask_zoneout")


@dataclass(frozen=True)
class TritonRNN(Kernel):
    """See `seqkit.nn.RNNCell` for the equations.

    Layer norm needs all steps in one launch; where the card cannot hold that many programs, `kernels/rnn.py` computes.
    """

    options: RNNKernel

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.kernels.triton.rnn_kernels import rnn_forward

        h0, norm, zoneout = tensors["h0"], self.options.layer_norm, self.options.zoneout
        B, H = h0.shape
        plan = launch.forward_plan(h0, 1)
        if norm and not (plan.persistent and launch.backward_plan(h0, H).persistent):
            return self.options.forward(tensors, packing, save)
        sums, bias = products.project(tensors, bias=not norm), tensors.get("bias_hh")
        if norm and bias is not None:  # which comes after the norm
            bias = bias + tensors["bias_ih"]
        N = sums.size(0)
        hidden, final_h = h0.new_empty(B + N, H), torch.empty_like(h0)
        # Zoned units hide the activation, which backward needs.
        keep = save and zoneout > 0
        normed = [torch.empty_like(sums), h0.new_empty(N, dtype=torch.float32)] if norm and save else [None, None]
        buffers = [sums, h0, hidden, final_h, tensors["weight_hh"].contiguous(), bias]
        launch.run(
            rnn_forward,
            plan,
            packing,
            h0,
            len(packing.batch_sizes),
            [*buffers, *normed, plan.told(h0) if norm else None, *products.optional(tensors, *MORE)],
            (float(zoneout),),
            (self.options.nonlinearity, zoneout > 0, plan.parts if norm else 0, save, keep),
        )
        named = {"hidden": hidden, "sums": sums if keep else None, "normed": normed[0], "scales": normed[1]}
        saved = {name: value for name, value in named.items() if value is not None} if save else {}
        return [hidden[B:], final_h], saved

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.kernels.triton.rnn_kernels import rnn_backward

        h0, norm, zoneout = tensors["h0"], self.options.layer_norm, self.options.zoneout
        if norm and "normed" not in saved:
            return self.options.backward(tensors, saved, packing, grads, needed)
        B, H = h0.shape
        plan, hidden = launch.backward_plan(h0, H), saved["hidden"]
        active = saved["sums"] if "sums" in saved else hidden[B:]
        N = active.size(0)
        delta, grad_h0 = torch.empty_like(active), torch.empty_like(h0)
        delta_n = torch.empty_like(active) if norm else None
        before = products.before_buffer(tensors, packing, N)
        flow_h = None if plan.persistent else h0.new_empty(B, H, dtype=torch.float32)
        weight = products.turned(tensors["weight_hh"], plan.holds)
        incoming = [None if grad is None else grad.contiguous() for grad in grads]
        sums = products.bias_buffer(plan, active, needed, norm)
        read = [active, hidden, saved.get("normed"), saved.get("scales"), plan.told(h0) if norm else None]
        launch.run(
            rnn_backward,
            plan,
            packing,
            h0,
            len(packing.batch_sizes) + 1,
            [
                *read,
                delta,
                delta_n,
                before,
                weight,
                *incoming,
                grad_h0,
                sums,
                flow_h,
                *products.optional(tensors, *MORE),
            ],
            (float(zoneout),),
            (self.options.nonlinearity, zoneout > 0, plan.parts if norm else 0),
        )
        rows = hidden[:N] if before is None else before
        result = products.weight_gradients(tensors, delta, delta, rows, needed, sums)
        if delta_n is not None:
            result["norm"] = (delta_n * saved["normed"]).sum(0)
            result["bias_ih"] = result["bias_hh"] = delta_n.sum(0)
        return {**result, "h0": grad_h0}
