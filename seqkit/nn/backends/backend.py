"""`Backend`: what computes a call of a recurrent network, as a row of the table `BACKENDS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.network import Network


class Choice(NamedTuple):
    """The backend of a call and the reason for it.

    Attributes:
        name: of the backend.
        reason: in words.
    """

    name: str
    reason: str


class Route(NamedTuple):
    """How a call runs.

    Attributes:
        name, reason: see `Choice`.
        whole: where one call serves all layers and directions, what `Backend.whole` has to know; None: one after
            another.
        operator: whether a layer-direction is one opaque operator, for a compiler or a trace.
        onnx: whether a layer-direction is one node of ONNX.
        loop: whether a layer-direction is one loop of an exported program.
    """

    name: str
    reason: str
    whole: str | None = None
    operator: bool = False
    onnx: bool = False
    loop: bool = False


class Backend:
    """A way to run cells over time.

    Attributes:
        needs_kernel: whether it runs only cells that have a kernel.
    """

    needs_kernel: ClassVar[bool] = True

    def unfit(self, cells: Sequence[Cell]) -> str | None:
        """Return why no call of these cells can ask for this backend by its name; None if one can."""
        if not self.needs_kernel or all(cell.kernel() is not None for cell in cells):
            return None
        return f"needs a cell with a fused kernel, {type(cells[0]).__name__} has none"

    def route(self, network: Network, x: Tensor, packing: Packing, reason: str) -> Route | str:
        """Return how the backend runs a call, or why it does not.

        Args:
            network: options, cells and weights. Where `network.backend` is "auto", a call that another backend of the
                table runs faster is to be left to it.
            x: the input, padded or packed, in the dtype that is computed with.
            packing: its layout, with at least one step.
            reason: for the route: "asked for", or what the last backend said that left the call; may be empty.
        """
        raise NotImplementedError

    def scan(
        self, cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared
    ) -> tuple[Tensor, State]:
        """Run one cell in one direction.

        Args:
            cell: of the layer-direction.
            rows: (N, F) packed.
            packing: their layout.
            state: each (B, size).
            prepared: weights and masks.

        Returns:
            outputs (N, output_size) and the state after each sequence's last step, each (B, size).
        """
        raise NotImplementedError

    def whole(self, network: Network, how: str, x: Tensor, states: State, packing: Packing) -> tuple[Tensor, State]:
        """Run all layers and directions in one call; for a backend whose routes have `whole`.

        Args:
            how: `whole` of the route.
            x: (T, B, I) for full batches, else packed rows (N, I).
            states: each (layer-directions, B, size), rows in packed order.

        Returns:
            outputs in the layout of x, and the final states, shaped like `states`.
        """
        raise NotImplementedError


def trains(network: Network, x: Tensor) -> bool:
    """Return whether a gradient will be asked for."""
    return torch.is_grad_enabled() and (x.requires_grad or any(value.requires_grad for value in network.parameters()))
