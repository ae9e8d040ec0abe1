"""Looking inside: every named gate and state of a run."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from seqkit.nn.cell import State
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.reference import traced_scan
from seqkit.nn.layout import Entered, arranged
from seqkit.nn.network import Network, no_output, prepare


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


class Recorder:
    """Runs layer-directions on the reference scan and keeps `records`, one for each; see `Trace`."""

    def __init__(self, network: Network, entered: Entered) -> None:
        self.network, self.entered = network, entered
        self.records: list[dict[str, Tensor]] = []

    def __call__(self, index: int, rows: Tensor, packing: Packing, state: State) -> tuple[Tensor, State]:
        """Bring packed rows (N, F) to packed outputs (N, output_size) and the final state, each (B, size)."""
        network = self.network
        cell, reverse = network.cells[index], index % network.num_directions == 1
        if not packing.batch_sizes:
            self.records.append({})
            return no_output(cell, network.weights(index), rows), state
        prepared = prepare(cell, network.weights(index), rows, packing.batch_sizes)
        drive = cell.project(packing.flip(rows) if reverse else rows, prepared)
        output, final, record = traced_scan(cell, drive, packing.batch_sizes, state, prepared)
        flip = packing.flip if reverse else (lambda value: value)
        self.records.append(
            {name: arranged(network, packing.unpack(flip(value)), self.entered) for name, value in record.items()}
        )
        return flip(output), final
