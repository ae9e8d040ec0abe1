"""The step loop under autograd: it runs any cell and defines what the other backends compute."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from seqkit.nn.backends.backend import Backend, Route
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.reference import reference_scan
from seqkit.nn.network import Network


class Reference(Backend):
    """The step loop."""

    needs_kernel: ClassVar[bool] = False

    def route(self, network: Network, x: Tensor, packing: Packing, reason: str) -> Route | str:
        return Route("reference", reason)

    def scan(
        self, cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared
    ) -> tuple[Tensor, State]:
        return reference_scan(cell, cell.project(rows, prepared), packing.batch_sizes, state, prepared)
