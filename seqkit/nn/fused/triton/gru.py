"""The GRU on Triton: what `fused/gru.py` computes, without its layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.fused.gru import GRUKernel
from seqkit.nn.fused.kernel import Kernel, Tensors, history
from seqkit.nn.fused.triton import launch
from seqkit.nn.packing import Packing


@dataclass(frozen=True)
class TritonGRU(Kernel):
    """See `seqkit.nn.GRUCell` for the equations. Gates lie in torch's order (r, z, n)."""

    options: GRUKernel

    def forward(self, given: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.fused.triton.gru_kernels import gru_forward

        h0 = given["h0"]
        B, H = h0.shape
        gates = launch.project(given, given.get("bias_ih"))
        hidden, outputs = history(h0, gates.size(0))
        inner = gates.new_empty(gates.size(0), H) if save else None
        final_h = torch.empty_like(h0)
        arguments = {
            **self._shared(given, packing),
            "gates": gates,
            "inner": inner,
            "hidden": hidden,
            "final_h": final_h,
            "weight": given["weight_hh"].contiguous(),
            "bias": given.get("bias_hh"),
            "SAVE": save,
        }
        launch.run(gru_forward, arguments, len(packing.batch_sizes), launch.forward_tile(h0, 4), B, H)
        saved = {} if inner is None else {"gates": gates, "hidden": hidden, "inner": inner}
        return [outputs, final_h], saved

    def _shared(self, given: Tensors, packing: Packing) -> dict[str, Any]:
        """Arguments of both kernels."""
        return {
            **launch.shared(given, packing),
            "mask_update": given.get("mask_update"),
            "mask_zoneout": given.get("mask_zoneout"),
            "zoneout": float(self.options.zoneout),
            "ZONEOUT": self.options.zoneout > 0,
        }

    def backward(
        self, given: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.fused.triton.gru_kernels import gru_backward

        h0, hidden, gates = given["h0"], saved["hidden"], saved["gates"]
        B, H = h0.shape
        delta_h, delta_x = torch.empty_like(gates), torch.empty_like(gates)
        grad_h0 = torch.empty_like(h0)
        before = launch.before_buffer(given, packing, gates.size(0))
        grad_output, grad_h = (None if grad is None else grad.contiguous() for grad in grads)
        arguments = {
            **self._shared(given, packing),
            "gates": gates,
            "inner": saved["inner"],
            "hidden": hidden,
            "delta_h": delta_h,
            "delta_x": delta_x,
            "before_rows": before,
            "weight": given["weight_hh"].t().contiguous(),
            "grad_output": grad_output,
            "grad_h": grad_h,
            "grad_h0": grad_h0,
            "flow_h": torch.empty(B, H, dtype=torch.float32, device=h0.device),
        }
        launch.run(gru_backward, arguments, len(packing.batch_sizes) + 1, launch.backward_tile(h0, gates.size(1)), B, H)
        rows = hidden[: gates.size(0)] if before is None else before
        return {**launch.weight_gradients(given, delta_x, delta_h, rows, needed), "h0": grad_h0}
