"""The table of cells by name, and how a name becomes a cell."""

from __future__ import annotations

from collections.abc import Callable

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.cells.gru import GRUCell
from seqkit.nn.cells.lstm import LSTMCell
from seqkit.nn.cells.rnn import JordanCell, RNNCell
from seqkit.nn.checks import from_table

__all__ = ["CELLS", "Cell", "GRUCell", "JordanCell", "LSTMCell", "Prepared", "RNNCell", "State", "resolve_cell"]

CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell, "jordan": JordanCell}


def resolve_cell(cell: str | Callable[..., Cell]) -> Callable[..., Cell]:
    """Look up a cell.

    Args:
        cell: a name in `CELLS`, a `Cell` class, or a factory of cells.

    Returns:
        the class or factory.

    Raises:
        TypeError, ValueError: see `from_table`.
    """
    return from_table("cell", cell, CELLS)
