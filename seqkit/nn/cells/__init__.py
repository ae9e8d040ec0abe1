"""The table of cells by name, and how a name becomes a cell."""

from __future__ import annotations

from collections.abc import Callable

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.cells.gru import GRUCell
from seqkit.nn.cells.lstm import LSTMCell
from seqkit.nn.cells.rnn import JordanCell, RNNCell
from seqkit.nn.checks import did_you_mean

__all__ = ["CELLS", "Cell", "GRUCell", "JordanCell", "LSTMCell", "Prepared", "RNNCell", "State", "resolve_cell"]

CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell, "jordan": JordanCell}


def resolve_cell(cell: str | Callable[..., Cell]) -> Callable[..., Cell]:
    """The class or factory behind `cell`: a name in `CELLS`, or the thing itself.

    Raises:
        ValueError: an unknown name.
        TypeError: something that is neither text nor callable.
    """
    if not isinstance(cell, str):
        if not callable(cell):
            raise TypeError(f"cell must be a name or a Cell class, got {cell!r}")
        return cell
    if cell in CELLS:
        return CELLS[cell]
    hint = did_you_mean(cell, CELLS)
    advice = "; a name in text is for YAML files: import the class and give it itself" if ":" in cell else ""
    raise ValueError(f"cell {cell!r} is unknown; known are {sorted(CELLS)} and any Cell class{hint}{advice}")
