"""The Elman cell on Triton: what `fused/rnn.py` computes, without its layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.fused.kernel import Kernel, Tensors, history
from seqkit.nn.fused.rnn import RNNKernel
from seqkit.nn.fused.triton import launch
from seqkit.nn.packing import Packing


@dataclass(frozen=True)
class TritonRNN(Kernel):
    """See `seqkit.nn.RNNCell` for the equations."""

    options: RNNKernel

    def forward(self, given: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.fused.triton.rnn_kernels import rnn_forward

        h0 = given["h0"]
        B, H = h0.shape
        sums = launch.project(given, given["bias_ih"] + given["bias_hh"] if "bias_ih" in given else None)
        hidden, outputs = history(h0, sums.size(0))
        final_h = torch.empty_like(h0)
        # Zoned units hide the activation, which backward needs.
        keep = save and self.options.zoneout > 0
        arguments = {
            **self._shared(given, packing),
            "sums": sums,
            "hidden": hidden,
            "final_h": final_h,
            "weight": given["weight_hh"].contiguous(),
            "KEEP": keep,
        }
        launch.run(rnn_forward, arguments, len(packing.batch_sizes), launch.forward_tile(h0, 1), B, H)
        saved = {"hidden": hidden, **({"active": sums} if keep else {})} if save else {}
        return [outputs, final_h], saved

    def _shared(self, given: Tensors, packing: Packing) -> dict[str, Any]:
        """Arguments of both kernels."""
        return {
            **launch.shared(given, packing),
            "mask_zoneout": given.get("mask_zoneout"),
            "zoneout": float(self.options.zoneout),
            "ZONEOUT": self.options.zoneout > 0,
            "ACTIVATION": self.options.nonlinearity,
        }

    def backward(
        self, given: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.fused.triton.rnn_kernels import rnn_backward

        h0, hidden = given["h0"], saved["hidden"]
        B, H = h0.shape
        active = saved.get("active", hidden[B:])
        delta, grad_h0 = torch.empty_like(active), torch.empty_like(h0)
        before = launch.before_buffer(given, packing, active.size(0))
        grad_output, grad_h = (None if grad is None else grad.contiguous() for grad in grads)
        carries = self.options.zoneout > 0
        arguments = {
            **self._shared(given, packing),
            "active": active,
            "hidden": hidden,
            "delta": delta,
            "before_rows": before,
            "weight": given["weight_hh"].t().contiguous(),
            "grad_output": grad_output,
            "grad_h": grad_h,
            "grad_h0": grad_h0,
            "flow_h": torch.empty(B, H, dtype=torch.float32, device=h0.device) if carries else None,
        }
        launch.run(rnn_backward, arguments, len(packing.batch_sizes) + 1, launch.backward_tile(h0, H), B, H)
        rows = hidden[: active.size(0)] if before is None else before
        return {**launch.weight_gradients(given, delta, delta, rows, needed), "h0": grad_h0}
