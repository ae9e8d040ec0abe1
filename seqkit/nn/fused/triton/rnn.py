"""The Elman cell on Triton: what `fused/rnn.py` computes, without its layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.nn.fused.kernel import Kernel, Tensors
from seqkit.nn.fused.rnn import RNNKernel
from seqkit.nn.fused.triton import launch, products
from seqkit.nn.packing import Packing

# Pointers of both kernels, after those of their own.
MORE = ("mask_recurrent", "mask_zoneout")


@dataclass(frozen=True)
class TritonRNN(Kernel):
    """See `seqkit.nn.RNNCell` for the equations."""

    options: RNNKernel

    def forward(self, given: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.fused.triton.rnn_kernels import rnn_forward

        h0, zoneout = given["h0"], self.options.zoneout
        B, H = h0.shape
        plan = launch.forward_plan(h0, 1)
        sums = products.project(given)
        hidden, final_h = h0.new_empty(B + sums.size(0), H), torch.empty_like(h0)
        # Zoned units hide the activation, which backward needs.
        keep = save and zoneout > 0
        buffers = [sums, h0, hidden, final_h, given["weight_hh"].contiguous()]
        pointers = [*buffers, *products.optional(given, "bias_hh", *MORE)]
        constants = (self.options.nonlinearity, zoneout > 0, save, keep)
        launch.run(rnn_forward, plan, packing, h0, len(packing.batch_sizes), pointers, (float(zoneout),), constants)
        saved = {"hidden": hidden, **({"active": sums} if keep else {})} if save else {}
        return [hidden[B:], final_h], saved

    def backward(
        self, given: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.fused.triton.rnn_kernels import rnn_backward

        h0, hidden, zoneout = given["h0"], saved["hidden"], self.options.zoneout
        B, H = h0.shape
        plan = launch.backward_plan(h0, H)
        active = saved["active"] if "active" in saved else hidden[B:]
        N = active.size(0)
        delta, grad_h0 = torch.empty_like(active), torch.empty_like(h0)
        before = products.before_buffer(given, packing, N)
        flow_h = None if plan.persistent else h0.new_empty(B, H, dtype=torch.float32)
        weight = products.turned(given["weight_hh"], plan.holds)
        incoming = [None if grad is None else grad.contiguous() for grad in grads]
        buffers = [active, hidden, delta, before, weight, *incoming, grad_h0, flow_h]
        pointers = [*buffers, *products.optional(given, *MORE)]
        constants = (self.options.nonlinearity, zoneout > 0)
        launch.run(
            rnn_backward, plan, packing, h0, len(packing.batch_sizes) + 1, pointers, (float(zoneout),), constants
        )
        rows = hidden[:N] if before is None else before
        return {**products.weight_gradients(given, delta, delta, rows, needed), "h0": grad_h0}
