"""The GRU on Triton: what `kernels/gru.py` computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.nn.kernels.gru import GRUKernel
from seqkit.nn.kernels.kernel import Kernel, Tensors
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton import launch, products

# Pointers of both kernels, after those of their own.
MORE = ("mask_recurrent", "mask_update", "mask_zoneout")
# What layer norm saves for backward.
NORMED = ("normed", "scales", "scales_n")


@dataclass(frozen=True)
class TritonGRU(Kernel):
    """See `seqkit.nn.GRUCell` for the equations. Gates lie in torch's order (r, z, n).

    Layer norm needs all steps in one launch; where the card cannot hold that many programs, `kernels/gru.py` computes.
    """

    options: GRUKernel

    projection_weights = GRUKernel.projection_weights

    @property
    def takes_projected(self) -> bool:
        return self.options.takes_projected

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.kernels.triton.gru_kernels import gru_forward

        h0, norm, zoneout = tensors["h0"], self.options.layer_norm, self.options.zoneout
        B, H = h0.shape
        plan = launch.forward_plan(h0, 4)
        if norm and not (plan.persistent and launch.backward_plan(h0, 3 * H).persistent):
            return self.options.forward(tensors, packing, save)
        sums = tensors["projected"].contiguous() if norm else products.project(tensors)
        N = sums.size(0)
        # The projection belongs to autograd where the norm took it there.
        gates = torch.empty_like(sums) if norm and save else sums
        hidden, inner = h0.new_empty(B + N, H), h0.new_empty(N, H) if save else None
        final_h = torch.empty_like(h0)
        normed: list[Tensor | None] = [None] * len(NORMED)
        if norm and save:
            normed = [torch.empty_like(sums), *h0.new_empty(2, N, dtype=torch.float32).unbind()]
        buffers = [sums, gates, inner, h0, hidden, final_h, tensors["weight_hh"].contiguous()]
        pointers = [*buffers, *products.optional(tensors, "bias_hh"), *normed, plan.told(h0) if norm else None]
        launch.run(
            gru_forward,
            plan,
            packing,
            h0,
            len(packing.batch_sizes),
            [*pointers, *products.optional(tensors, "norm_hh", *MORE)],
            (float(zoneout),),
            (zoneout > 0, plan.parts if norm else 0, save),
        )
        named = {"gates": gates, "hidden": hidden, "inner": inner, **dict(zip(NORMED, normed, strict=True))}
        saved = {name: value for name, value in named.items() if value is not None} if save else {}
        return [hidden[B:], final_h], saved

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.kernels.triton.gru_kernels import gru_backward

        h0, gates, norm, zoneout = tensors["h0"], saved["gates"], self.options.layer_norm, self.options.zoneout
        if norm and "normed" not in saved:
            return self.options.backward(tensors, saved, packing, grads, needed)
        (B, H), (N, terms) = h0.shape, gates.shape
        plan = launch.backward_plan(h0, terms)
        delta_h, delta_x = torch.empty_like(gates), torch.empty_like(gates)
        delta_m = h0.new_empty(N, H) if norm else None
        grad_h0 = torch.empty_like(h0)
        before = products.before_buffer(tensors, packing, N)
        flow_h = None if plan.persistent else h0.new_empty(B, H, dtype=torch.float32)
        hidden, weight = saved["hidden"], products.turned(tensors["weight_hh"], plan.holds)
        incoming = [None if grad is None else grad.contiguous() for grad in grads]
        read = [gates, saved["inner"], hidden, *(saved.get(name) for name in NORMED), plan.told(h0) if norm else None]
        sums = products.bias_buffer(plan, gates, needed, norm)
        written = [delta_h, delta_x, delta_m, before, weight, *incoming, grad_h0, sums, flow_h]
        launch.run(
            gru_backward,
            plan,
            packing,
            h0,
            len(packing.batch_sizes) + 1,
            [*read, *written, *products.optional(tensors, "norm_hh", *MORE)],
            (float(zoneout),),
            (zoneout > 0, plan.parts if norm else 0),
        )
        rows = hidden[:N] if before is None else before
        result = products.weight_gradients(tensors, delta_x, delta_h, rows, needed, sums)
        if delta_m is not None:
            delta_n = torch.cat([delta_x[:, : 2 * H], delta_m], 1)
            result |= {"projected": delta_x, "norm_hh": (delta_n * saved["normed"]).sum(0), "bias_hh": delta_n.sum(0)}
        return {**result, "h0": grad_h0}
