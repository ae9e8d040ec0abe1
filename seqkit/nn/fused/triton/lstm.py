"""The LSTM on Triton: what `fused/lstm.py` computes, without its layer norm and its projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.fused.kernel import Kernel, Tensors
from seqkit.nn.fused.lstm import LSTMKernel
from seqkit.nn.fused.triton import launch, products
from seqkit.nn.packing import Packing

# Pointers of both kernels, after those of their own.
MORE = ("weight_peephole", "mask_recurrent", "mask_update", "mask_zoneout", "mask_zoneout_cell")


@dataclass(frozen=True)
class TritonLSTM(Kernel):
    """See `seqkit.nn.LSTMCell` for the equations. Gates lie in torch's order; the memory is kept in float32."""

    options: LSTMKernel

    def forward(self, given: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.fused.triton.lstm_kernels import lstm_forward

        h0, c0 = given["h0"], given["c0"]
        B, H = c0.shape
        plan = launch.forward_plan(h0, 4)
        gates = products.project(given)
        N = gates.size(0)
        hidden, memory = h0.new_empty(B + N, H), None
        if save or not plan.persistent:
            memory = c0.new_empty(B + N if save else B, H, dtype=torch.float32)
        final_h, final_c = torch.empty_like(h0), torch.empty_like(c0)
        buffers = [gates, h0, c0, hidden, memory, final_h, final_c, given["weight_hh"].contiguous()]
        pointers = [*buffers, *products.optional(given, "bias_hh", *MORE)]
        launch.run(
            lstm_forward, plan, packing, c0, len(packing.batch_sizes), pointers, self._rates, (*self._options, save)
        )
        saved = {"gates": gates, "hidden": hidden, "memory": memory} if save and memory is not None else {}
        return [hidden[B:], final_h, final_c], saved

    @cached_property
    def _rates(self) -> tuple[float, ...]:
        """The floats of both kernels."""
        options = self.options
        return float(options.zoneout), float(options.zoneout_cell), float(options.cell_clip or 0.0)

    @cached_property
    def _options(self) -> tuple[Any, ...]:
        """The constants of both kernels."""
        options = self.options
        return (
            3 if options.coupled else 4,
            options.cell_activation,
            options.output_activation,
            options.cell_clip is not None,
            options.zoneout > 0,
            options.zoneout_cell > 0,
        )

    def backward(
        self, given: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.fused.triton.lstm_kernels import lstm_backward

        h0, c0, hidden, gates = given["h0"], given["c0"], saved["hidden"], saved["gates"]
        (B, H), (N, terms) = c0.shape, gates.shape
        plan = launch.backward_plan(h0, terms)
        delta = torch.empty_like(gates)
        grad_h0, grad_c0 = torch.empty_like(h0), torch.empty_like(c0)
        before = products.before_buffer(given, packing, N)
        flow_c = flow_h = peephole = None
        if not plan.persistent:
            flow_c, flow_h = c0.new_empty(2, B, H, dtype=torch.float32).unbind()
        if self.options.peephole:
            peephole = c0.new_zeros(plan.row_blocks, terms // H - 1, H, dtype=torch.float32)
        weight = products.turned(given["weight_hh"], plan.holds)
        incoming = [None if grad is None else grad.contiguous() for grad in grads]
        buffers = [gates, hidden, saved["memory"], delta, before, weight, *incoming]
        pointers = [*buffers, grad_h0, grad_c0, flow_c, flow_h, peephole, *products.optional(given, *MORE)]
        launch.run(lstm_backward, plan, packing, c0, len(packing.batch_sizes) + 1, pointers, self._rates, self._options)
        rows = hidden[:N] if before is None else before
        result = products.weight_gradients(given, delta, delta, rows, needed)
        if peephole is not None:
            result["weight_peephole"] = peephole.sum(0).flatten().to(h0.dtype)
        return {**result, "h0": grad_h0, "c0": grad_c0}
