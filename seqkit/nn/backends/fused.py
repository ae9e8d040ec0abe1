"""The kernels with a hand-derived backward, which are written in torch and run on any device."""

from __future__ import annotations

from torch import Tensor

from seqkit.nn.backends.backend import Backend, Route
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.kernels.autograd import kernel_scan
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.network import Network


class Fused(Backend):
    """The cells' own kernels."""

    def route(self, network: Network, x: Tensor, packing: Packing, reason: str) -> Route | str:
        return Route("fused", reason or "hand-derived backward")

    def scan(
        self, cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared
    ) -> tuple[Tensor, State]:
        return kernel_scan(cell, cell.kernel(), rows, packing, state, prepared)
