"""The GRU on Triton: what `fused/gru.py` computes, without its layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.nn.fused.gru import GRUKernel
from seqkit.nn.fused.kernel import Kernel, Tensors
from seqkit.nn.fused.triton import launch, products
from seqkit.nn.packing import Packing

# Pointers of both kernels, after those of their own.
MORE = ("mask_recurrent", "mask_update", "mask_zoneout")


@dataclass(frozen=True)
class TritonGRU(Kernel):
    """See `seqkit.nn.GRUCell` for the equations. Gates lie in torch's order (r, z, n)."""

    options: GRUKernel

    def forward(self, given: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.fused.triton.gru_kernels import gru_forward

        h0 = given["h0"]
        B, H = h0.shape
        plan = launch.forward_plan(h0, 4)
        gates = products.project(given)
        N = gates.size(0)
        hidden, inner = h0.new_empty(B + N, H), h0.new_empty(N, H) if save else None
        final_h = torch.empty_like(h0)
        buffers = [gates, inner, h0, hidden, final_h, given["weight_hh"].contiguous()]
        pointers = [*buffers, *products.optional(given, "bias_hh", *MORE)]
        zoneout = self.options.zoneout
        launch.run(
            gru_forward, plan, packing, h0, len(packing.batch_sizes), pointers, (float(zoneout),), (zoneout > 0, save)
        )
        saved = {} if inner is None else {"gates": gates, "hidden": hidden, "inner": inner}
        return [hidden[B:], final_h], saved

    def backward(
        self, given: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.fused.triton.gru_kernels import gru_backward

        h0, hidden, gates = given["h0"], saved["hidden"], saved["gates"]
        (B, H), (N, terms) = h0.shape, gates.shape
        plan = launch.backward_plan(h0, terms)
        delta_h, delta_x = torch.empty_like(gates), torch.empty_like(gates)
        grad_h0 = torch.empty_like(h0)
        before = products.before_buffer(given, packing, N)
        flow_h = None if plan.persistent else h0.new_empty(B, H, dtype=torch.float32)
        weight = products.turned(given["weight_hh"], plan.holds)
        incoming = [None if grad is None else grad.contiguous() for grad in grads]
        buffers = [gates, saved["inner"], hidden, delta_h, delta_x, before, weight, *incoming, grad_h0, flow_h]
        pointers = [*buffers, *products.optional(given, *MORE)]
        zoneout = self.options.zoneout
        launch.run(
            gru_backward, plan, packing, h0, len(packing.batch_sizes) + 1, pointers, (float(zoneout),), (zoneout > 0,)
        )
        rows = hidden[:N] if before is None else before
        return {**products.weight_gradients(given, delta_x, delta_h, rows, needed), "h0": grad_h0}
