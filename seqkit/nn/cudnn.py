"""cuDNN's recurrent networks on CUDA: plain cells, all layers and directions in one call, padded or packed.

torch's own entry to cuDNN refuses gradients in evaluation mode and second derivatives, and copies the weights with a
warning where they do not lie in one block. Here the weights are joined in one copy, cuDNN always keeps what its
backward pass needs where a gradient is asked for, and a second derivative goes through the step loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.kernels.autograd import Call, scanned
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.reference import reference_scan

_ops = torch.ops.aten  # a test puts its own in its place
MODES = {"RNN_RELU": 0, "RNN_TANH": 1, "LSTM": 2, "GRU": 3}
"""cuDNN's numbers (cudnnRNNMode_t)."""


def serves(mode: str, data: Tensor) -> bool:
    """Return whether cuDNN computes this mode on the device and in the dtype of `data`."""
    return data.is_cuda and mode in MODES and torch.version.hip is None and bool(torch.cudnn_is_acceptable(data))


def network(
    cells: Sequence[Cell],
    directions: int,
    mode: str,
    x: Tensor,
    packing: Packing,
    states: State,
    weights: Sequence[Sequence[Tensor]],
) -> tuple[Tensor, State]:
    """Run a stack of plain cells without anything between the layers.

    Args:
        cells: one for each layer and direction.
        x: (T, B, I) for full batches, else packed rows (N, I).
        states: each (layers * directions, B, size), rows in packed order.
        weights: of each cell, in torch's order.

    Returns:
        outputs in the layout of x, and the final states, shaped like `states`.
    """
    call = NetworkCall(tuple(cells), directions, mode, packing, len(states), tuple(len(values) for values in weights))
    flat = [value for values in weights for value in values]
    output, *finals = scanned(call, [x.contiguous(), *states, *flat])
    return output, tuple(finals)


@dataclass
class NetworkCall(Call):
    """Tensors in the order x, states, weights of every cell."""

    cells: tuple[Cell, ...]
    directions: int
    mode: str
    packing: Packing
    num_states: int
    counts: tuple[int, ...]

    def _parts(self, tensors: Sequence[Tensor]) -> tuple[Tensor, State, list[Tensor]]:
        cut = 1 + self.num_states
        return tensors[0], tuple(tensors[1:cut]), list(tensors[cut:])

    def _options(self, save: bool) -> tuple[Any, ...]:
        """Return the arguments of cuDNN's entries from the mode to the dropout's state."""
        first = self.cells[0]
        projected = first.output_size if first.output_size != first.hidden_size else 0
        sizes = [] if self.packing.is_full else self.packing.batch_sizes
        layers = len(self.cells) // self.directions
        both = self.directions == 2
        return MODES[self.mode], first.hidden_size, projected, layers, False, 0.0, save, both, sizes, None

    def _living(self, states: State) -> list[Tensor | None]:
        """Return h and c (None where the cell has none) of the sequences that have a step."""
        count = self.packing.first_rows
        whole = count == self.packing.batch_size
        parts: list[Tensor | None] = [(part if whole else part[:, :count]).contiguous() for part in states]
        return [*parts, *[None] * (2 - len(parts))]

    def forward(self, tensors: Sequence[Tensor], save: bool) -> tuple[list[Tensor], list[Tensor]]:
        x, states, weights = self._parts(tensors)
        options = self._options(save)
        buffer = joined(weights, self.counts[0], x, options)
        hx, cx = self._living(states)
        output, *finals, reserve, _ = _ops._cudnn_rnn(x, weights, self.counts[0], buffer, hx, cx, *options)
        living = self.packing.first_rows
        ends = [
            torch.cat([part, old[:, living:]], 1) if living < self.packing.batch_size else part
            for part, old in zip(finals, states, strict=False)
        ]
        return [output, *ends], [output, reserve, buffer] if save else []

    def backward(
        self,
        tensors: Sequence[Tensor],
        saved: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        x, states, weights = self._parts(tensors)
        output, reserve, buffer = saved
        hx, cx = self._living(states)
        count = self.packing.first_rows
        d_out, *d_finals = [None if grad is None else grad.contiguous() for grad in grads]
        d_living = [None if grad is None else grad[:, :count].contiguous() for grad in d_finals]
        d_living += [None] * (2 - len(d_living))
        cut = 1 + self.num_states
        asked = [wanted[0], wanted[1], len(states) > 1 and wanted[2], any(wanted[cut:])]
        # cuDNN writes into the reserve while it reads it, and a graph that is retained comes here again.
        d_x, d_h, d_c, d_weights = _ops._cudnn_rnn_backward(
            x, weights, self.counts[0], buffer, hx, cx, output, d_out, *d_living, *self._options(True),
            reserve.clone(), asked,
        )  # fmt: skip
        results: list[Tensor | None] = [d_x]
        for old, living, whole in zip(states, (d_h, d_c), d_finals, strict=False):
            rest = old[:, count:].new_zeros(old[:, count:].shape) if whole is None else whole[:, count:]
            results.append(
                living if living is None or count == self.packing.batch_size else torch.cat([living, rest], 1)
            )
        results += d_weights if asked[3] else [None] * len(weights)
        return [value if want else None for value, want in zip(results, wanted, strict=True)]

    def reference(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, states, weights = self._parts(tensors)
        packing, shape = self.packing, x.shape
        rows, finals = x.flatten(0, -2), []
        for layer in range(0, len(self.cells), self.directions):
            outputs = []
            for index in range(layer, layer + self.directions):
                cell, reverse = self.cells[index], index % self.directions == 1
                first = sum(self.counts[:index])
                values = weights[first : first + self.counts[index]]
                prepared = Prepared(dict(zip(cell.weight_names, values, strict=True)))
                drive = cell.project(packing.flip(rows) if reverse else rows, prepared)
                state = tuple(part[index] for part in states)
                output, final = reference_scan(cell, drive, packing.batch_sizes, state, prepared)
                outputs.append(packing.flip(output) if reverse else output)
                finals.append(final)
            rows = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        ends = (torch.stack(parts) for parts in zip(*finals, strict=True))
        return rows.view(*shape[:-1], rows.size(-1)), *ends


def joined(weights: list[Tensor], stride: int, x: Tensor, options: Sequence[Any]) -> Tensor:
    """Return all weights in one block, laid out as cuDNN wants them.

    Args:
        stride: weights of each layer-direction.
        options: what `NetworkCall._options` gives.
    """
    mode, hidden_size, projected, layers, _, _, _, both, *_ = options
    sizes = (stride, x.size(-1), mode, hidden_size, projected, layers, False, both)
    order = _order(sizes, tuple(value.shape for value in weights), x.dtype, x.device)
    if order is not None:
        return torch.cat([weights[index].reshape(-1) for index in order])
    return _ops._cudnn_rnn_flatten_weight([value.clone() for value in weights], *sizes)  # type: ignore[no-any-return]


@lru_cache(maxsize=256)
def _order(
    sizes: tuple[Any, ...], shapes: tuple[torch.Size, ...], dtype: torch.dtype, device: torch.device
) -> tuple[int, ...] | None:
    """Return in which order cuDNN lays weights of these shapes one after another, or None if it leaves gaps."""
    probes = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
    buffer = _ops._cudnn_rnn_flatten_weight(probes, *sizes)  # turns the probes into views of the block
    places = [(probe.data_ptr() - buffer.data_ptr()) // buffer.element_size() for probe in probes]
    order = sorted(range(len(probes)), key=places.__getitem__)
    end = 0
    for index in order:
        if places[index] != end:
            return None
        end += probes[index].numel()
    return tuple(order) if end == buffer.numel() else None
