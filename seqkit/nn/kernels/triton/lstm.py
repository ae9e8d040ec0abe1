"""The LSTM on Triton: what `kernels/lstm.py` computes, without its projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.kernels.kernel import Kernel, Tensors
from seqkit.nn.kernels.lstm import LSTMKernel
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton import launch, products

# Pointers of both kernels, after those of their own.
MORE = ("weight_peephole", "mask_recurrent", "mask_update", "mask_zoneout", "mask_zoneout_cell")
NORMS = ("norm_hh", "norm_cell", "norm_cell_bias")
# What layer norm saves for backward.
NORMED = ("normed", "scales", "normed_c", "scales_c")


@dataclass(frozen=True)
class TritonLSTM(Kernel):
    """See `seqkit.nn.LSTMCell` for the equations. Gates lie in torch's order; the memory is kept in float32.

    Layer norm needs all steps in one launch; where the card cannot hold that many programs, `kernels/lstm.py` computes.
    """

    options: LSTMKernel

    projection_weights = LSTMKernel.projection_weights

    @property
    def takes_projected(self) -> bool:
        return self.options.takes_projected

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        from seqkit.nn.kernels.triton.lstm_forward import lstm_forward

        h0, c0, norm = tensors["h0"], tensors["c0"], self.options.layer_norm
        B, H = c0.shape
        plan = launch.forward_plan(h0, 4)
        if norm and not (plan.persistent and launch.backward_plan(h0, self._gates * H).persistent):
            return self.options.forward(tensors, packing, save)
        sums = tensors["projected"].contiguous() if norm else products.project(tensors)
        N = sums.size(0)
        # The projection belongs to autograd where the norm took it there.
        gates = torch.empty_like(sums) if norm and save else sums
        hidden, memory = h0.new_empty(B + N, H), None
        if save or not plan.persistent:
            memory = c0.new_empty(B + N if save else B, H, dtype=torch.float32)
        final_h, final_c = torch.empty_like(h0), torch.empty_like(c0)
        told = plan.told(h0) if norm else None
        normed: list[Tensor | None] = [None] * len(NORMED)
        if norm and save:
            scales = c0.new_empty(2, N, dtype=torch.float32)
            normed = [torch.empty_like(sums), scales[0], h0.new_empty(N, H), scales[1]]
        buffers = [sums, gates, h0, c0, hidden, memory, final_h, final_c, tensors["weight_hh"].contiguous()]
        pointers = [
            *buffers,
            *products.optional(tensors, "bias_hh"),
            *normed,
            told,
            *products.optional(tensors, *NORMS),
        ]
        launch.run(
            lstm_forward,
            plan,
            packing,
            c0,
            len(packing.batch_sizes),
            [*pointers, *products.optional(tensors, *MORE)],
            self._rates,
            (*self._constants, plan.parts if norm else 0, save),
        )
        named = {"gates": gates, "hidden": hidden, "memory": memory, **dict(zip(NORMED, normed, strict=True))}
        saved = {name: value for name, value in named.items() if value is not None} if save else {}
        return [hidden[B:], final_h, final_c], saved

    @property
    def _gates(self) -> int:
        return 3 if self.options.coupled else 4

    @cached_property
    def _rates(self) -> tuple[float, ...]:
        """The floats of both kernels."""
        options = self.options
        return float(options.zoneout), float(options.zoneout_cell), float(options.cell_clip or 0.0)

    @cached_property
    def _constants(self) -> tuple[Any, ...]:
        """The constants of both kernels."""
        options = self.options
        return (
            self._gates,
            options.cell_activation,
            options.output_activation,
            options.cell_clip is not None,
            options.zoneout > 0,
            options.zoneout_cell > 0,
        )

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        from seqkit.nn.kernels.triton.lstm_backward import lstm_backward

        h0, c0, gates, norm = tensors["h0"], tensors["c0"], saved["gates"], self.options.layer_norm
        if norm and "normed" not in saved:
            return self.options.backward(tensors, saved, packing, grads, needed)
        (B, H), (N, terms) = c0.shape, gates.shape
        plan = launch.backward_plan(h0, terms)
        delta, grad_h0, grad_c0 = torch.empty_like(gates), torch.empty_like(h0), torch.empty_like(c0)
        delta_h = torch.empty_like(gates) if norm else None
        delta_c = h0.new_empty(N, H) if norm else None
        before = products.before_buffer(tensors, packing, N)
        flow_c = flow_h = peephole = None
        if not plan.persistent:
            flow_c, flow_h = c0.new_empty(2, B, H, dtype=torch.float32).unbind()
        if self.options.peephole:
            peephole = c0.new_zeros(plan.row_blocks, self._gates - 1, H, dtype=torch.float32)
        hidden, weight = saved["hidden"], products.turned(tensors["weight_hh"], plan.holds)
        incoming = [None if grad is None else grad.contiguous() for grad in grads]
        read = [gates, hidden, saved["memory"], *(saved.get(name) for name in NORMED), plan.told(h0) if norm else None]
        sums = products.bias_buffer(plan, gates, needed, norm)
        written = [delta, delta_h, delta_c, before, weight, *incoming, grad_h0, grad_c0, flow_c, flow_h, sums, peephole]
        launch.run(
            lstm_backward,
            plan,
            packing,
            c0,
            len(packing.batch_sizes) + 1,
            [*read, *written, *products.optional(tensors, *NORMS, *MORE)],
            self._rates,
            (*self._constants, plan.parts if norm else 0),
        )
        rows = hidden[:N] if before is None else before
        result = products.weight_gradients(tensors, delta, delta if delta_h is None else delta_h, rows, needed, sums)
        if peephole is not None:
            result["weight_peephole"] = peephole.sum(0).flatten().to(h0.dtype)
        if delta_c is not None:
            result |= {"projected": delta, "norm_hh": (delta * saved["normed"]).sum(0)}
            result |= {"norm_cell": (delta_c * saved["normed_c"]).sum(0), "norm_cell_bias": delta_c.sum(0)}
        return {**result, "h0": grad_h0, "c0": grad_c0}
