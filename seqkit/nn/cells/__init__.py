"""The table of cells by name, and how a name becomes a cell."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.cells.gru import GRUCell
from seqkit.nn.cells.lstm import LSTMCell
from seqkit.nn.cells.rnn import JordanCell, RNNCell
from seqkit.nn.checks import did_you_mean, from_table

__all__ = [
    "CELLS",
    "Cell",
    "GRUCell",
    "JordanCell",
    "LSTMCell",
    "Prepared",
    "RNNCell",
    "State",
    "build_cell",
    "resolve_cell",
]

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


def build_cell(
    factory: Callable[..., Cell], input_size: int, hidden_size: int, options: dict[str, Any], device: Any, dtype: Any
) -> Cell:
    """Build one cell; options are checked against the factory's signature."""
    parameters = inspect.signature(factory).parameters
    free = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    where = {name: value for name, value in (("device", device), ("dtype", dtype)) if name in parameters}
    known = [name for name in parameters if name not in ("input_size", "hidden_size", "device", "dtype")]
    for name in options:
        if name not in known and not free:
            cell_name = getattr(factory, "__name__", factory)
            raise TypeError(f"{name} is not an option of cell {cell_name!s}{did_you_mean(name, known)}")
    cell = factory(input_size, hidden_size, **options, **where)
    if not isinstance(cell, Cell):
        raise TypeError(f"cell must make a seqkit.nn.Cell, got {type(cell).__name__}")
    return cell if len(where) == 2 else cell.to(device=device, dtype=dtype)
