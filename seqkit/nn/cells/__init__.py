"""The table of cells by name, and how a name becomes a cell."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.cells.gru import GRUCell
from seqkit.nn.cells.lstm import LSTMCell
from seqkit.nn.cells.rnn import JordanCell, RNNCell

__all__ = ["CELLS", "Cell", "GRUCell", "JordanCell", "LSTMCell", "Prepared", "RNNCell", "State", "resolve_cell"]

CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell, "jordan": JordanCell}


def resolve_cell(cell: str | Callable[..., Cell]) -> Callable[..., Cell]:
    """Look up a cell.

    Args:
        cell: a name in `CELLS`, a `Cell` class, or a factory of cells.

    Returns:
        the class or factory.

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
    close = difflib.get_close_matches(cell, CELLS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    own = "; a name in text is for YAML files: import the class and give it itself" if ":" in cell else ""
    raise ValueError(f"cell {cell!r} is unknown; known are {sorted(CELLS)} and any Cell class{hint}{own}")
