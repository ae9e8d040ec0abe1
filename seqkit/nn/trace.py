"""Looking inside: every named gate and state of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from seqkit.nn.cells import State
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.reference import traced_scan
from seqkit.nn.layout import enter

if TYPE_CHECKING:
    from seqkit.nn.recurrent import Recurrent


class Trace(NamedTuple):
    """What `trace` returns.

    Attributes:
        output: as from `forward`.
        state: the tuple of final states.
        records: one dict per layer and direction (layer 0 forward, layer 0 reverse, layer 1 forward, ...), from the
            names of the gates (LSTM: input, forget, cell, output; GRU: reset, update, new) and of the states (h, c) to
            their values (T, B, size), with batch_first (B, T, size), at the step of the input that they belong to; zero
            past each length. Unbatched: (T, size). Packed input gives (T, B, size) in the packed order of sequences.
    """

    output: Any
    state: State
    records: list[dict[str, Tensor]]


def trace(module: Recurrent, input: Any, hx: Any, lengths: Any) -> Trace:
    """Run `module` step by step and keep everything; see `Trace`."""
    entered = enter(module, input, hx, lengths)
    records: list[dict[str, Tensor]] = []

    def direction(index: int, rows: Tensor, packing: Packing, state: State) -> tuple[Tensor, State]:
        cell, reverse = module.cell_at(index), index % module.num_directions == 1
        if not packing.batch_sizes:
            records.append({})
            return module.no_output(index, rows), state
        prepared = module.prepare(index, rows, packing.batch_sizes)
        drive = cell.project(packing.flip(rows) if reverse else rows, prepared)
        output, final, found = traced_scan(cell, drive, packing.batch_sizes, state, prepared)
        flip = packing.flip if reverse else (lambda value: value)
        records.append({name: arrange(packing.unpack(flip(value))) for name, value in found.items()})
        return flip(output), final

    def arrange(value: Tensor) -> Tensor:
        if not entered.batched:
            return value.squeeze(1)
        return value.transpose(0, 1) if module.batch_first and entered.packed is None else value

    output, state = module.over_layers(entered, direction)
    return Trace(output, state, records)
