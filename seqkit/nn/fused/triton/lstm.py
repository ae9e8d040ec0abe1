"""The LSTM on Triton: what `fused/lstm.py` computes, without its layer norm and its projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.fused.kernel import Kernel, Tensors, history
from seqkit.nn.fused.lstm import LSTMKernel
from seqkit.nn.fused.triton import launch
from seqkit.nn.packing import Packing


@dataclass(frozen=True)
class TritonLSTM(Kernel):
    """See `seqkit.nn.LSTMCell` for the equations. Gates lie in torch's order; the memory is kept in float32."""

    options: LSTMKernel

    def forward(self, given: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.fused.triton.lstm_kernels import lstm_forward

        h0, c0 = given["h0"], given["c0"]
        B, H = c0.shape
        bias = given["bias_ih"] + given["bias_hh"] if "bias_ih" in given else None
        gates = launch.project(given, bias)
        hidden, outputs = history(h0, gates.size(0))
        if save:
            memory = torch.empty(B + gates.size(0), H, dtype=torch.float32, device=c0.device)
            memory[:B] = c0
        else:
            memory = c0.to(torch.float32, copy=True)
        final_h, final_c = torch.empty_like(h0), torch.empty_like(c0)
        arguments = {
            **self._shared(given, packing),
            "gates": gates,
            "hidden": hidden,
            "memory": memory,
            "final_h": final_h,
            "final_c": final_c,
            "weight": given["weight_hh"].contiguous(),
            "SAVE": save,
        }
        launch.run(lstm_forward, arguments, len(packing.batch_sizes), launch.forward_tile(h0, 4), B, H)
        saved = {"gates": gates, "hidden": hidden, "memory": memory} if save else {}
        return [outputs, final_h, final_c], saved

    def _shared(self, given: Tensors, packing: Packing) -> dict[str, Any]:
        """Arguments of both kernels."""
        options = self.options
        return {
            **launch.shared(given, packing),
            "peephole": given.get("weight_peephole"),
            "mask_update": given.get("mask_update"),
            "mask_zoneout": given.get("mask_zoneout"),
            "mask_cell": given.get("mask_zoneout_cell"),
            "zoneout": float(options.zoneout),
            "zoneout_cell": float(options.zoneout_cell),
            "clip": float(options.cell_clip or 0.0),
            "GATES": 3 if options.coupled else 4,
            "CELL": options.cell_activation,
            "OUTPUT": options.output_activation,
            "CLIP": options.cell_clip is not None,
            "ZONEOUT": options.zoneout > 0,
            "ZONEOUT_CELL": options.zoneout_cell > 0,
        }

    def backward(
        self, given: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.fused.triton.lstm_kernels import lstm_backward

        h0, c0, hidden, gates = given["h0"], given["c0"], saved["hidden"], saved["gates"]
        B, H = c0.shape
        device, terms = h0.device, gates.size(1)
        tile = launch.backward_tile(h0, terms)
        delta = torch.empty_like(gates)
        grad_h0, grad_c0 = torch.empty_like(h0), torch.empty_like(c0)
        before = launch.before_buffer(given, packing, gates.size(0))
        grad_output, grad_h, grad_c = (None if grad is None else grad.contiguous() for grad in grads)
        peephole = None
        if self.options.peephole:
            blocks = tile.programs(B, H)[0]
            peephole = torch.zeros(blocks, terms // H - 1, H, dtype=torch.float32, device=device)
        arguments = {
            **self._shared(given, packing),
            "gates": gates,
            "hidden": hidden,
            "memory": saved["memory"],
            "delta": delta,
            "before_rows": before,
            "weight": given["weight_hh"].t().contiguous(),
            "grad_output": grad_output,
            "grad_h": grad_h,
            "grad_c": grad_c,
            "grad_h0": grad_h0,
            "grad_c0": grad_c0,
            "flow_c": torch.empty(B, H, dtype=torch.float32, device=device),
            "flow_h": torch.empty(B, H, dtype=torch.float32, device=device) if self.options.zoneout else None,
            "grad_peephole": peephole,
        }
        launch.run(lstm_backward, arguments, len(packing.batch_sizes) + 1, tile, B, H)
        rows = hidden[: gates.size(0)] if before is None else before
        result = launch.weight_gradients(given, delta, delta, rows, needed)
        if peephole is not None:
            result["weight_peephole"] = peephole.sum(0).flatten().to(h0.dtype)
        return {**result, "h0": grad_h0, "c0": grad_c0}
