"""The table of cells by name, and how a name (or "package.module:Class") becomes a cell."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable

from seqkit.nn.cells.cell import Cell, Prepared, State
from seqkit.nn.cells.gru import GRUCell
from seqkit.nn.cells.lstm import LSTMCell
from seqkit.nn.cells.rnn import JordanCell, RNNCell

__all__ = ["CELLS", "Cell", "GRUCell", "JordanCell", "LSTMCell", "Prepared", "RNNCell", "State", "resolve_cell"]

CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell, "jordan": JordanCell}


def resolve_cell(cell: str | Callable[..., Cell]) -> Callable[..., Cell]:
    """The class or factory behind `cell`: a name in `CELLS`, "package.module:Class", or the thing itself.

    Raises:
        ValueError: an unknown name, or a module or attribute that cannot be found.
        TypeError: something that is neither text nor callable.
    """
    if not isinstance(cell, str):
        if not callable(cell):
            raise TypeError(f"cell must be a name, 'package.module:Class' or a Cell class, got {cell!r}")
        return cell
    if cell in CELLS:
        return CELLS[cell]
    if ":" not in cell:
        close = difflib.get_close_matches(cell, CELLS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"cell {cell!r} is unknown; known are {sorted(CELLS)} and 'package.module:Class'{hint}")
    module_name, _, attribute = cell.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cell {cell!r}: cannot import module {module_name!r}: {error}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"cell {cell!r}: module {module_name!r} has no class {attribute!r}")
    return found  # type: ignore[no-any-return]
