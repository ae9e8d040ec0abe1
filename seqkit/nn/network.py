"""`Network`: a recurrent network as plain values, for one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from seqkit.nn.cell import Cell, Prepared
from seqkit.nn.kernels.packing import no_rows


class Network(NamedTuple):
    """What a call of a recurrent network depends on besides its arguments.

    `Recurrent.network` makes one at every call, with the options and weights of the moment. Layer-directions
    are counted layer by layer: index = layer * num_directions + direction.

    Attributes:
        name: of the module, for messages.
        cells: of each layer-direction.
        weights: reads the weights of a layer-direction, by the cell's names. Reading computes a parametrized weight, so
            each call reads once, layer by layer.
        parameters: all of them.
        example: one of them, for its device and dtype; None: there are none.
        learned_state: reads, for each tensor of the state, the start of each layer-direction (size,), where none is
            given; None: what the cells say.
        input_size, hidden_size, num_layers, num_directions, batch_first, backend, training, dropout, locked_dropout,
            residual, checkpoint_chunks: see `Recurrent`.
    """

    name: str
    cells: Sequence[Cell]
    weights: Callable[[int], Mapping[str, Tensor]]
    parameters: Callable[[], Iterable[Tensor]]
    example: Tensor | None
    learned_state: Callable[[], Sequence[Sequence[Tensor]]] | None
    input_size: int
    hidden_size: int
    num_layers: int
    num_directions: int
    batch_first: bool
    backend: str
    training: bool
    dropout: float
    locked_dropout: float
    residual: bool
    checkpoint_chunks: int


def prepare(cell: Cell, weights: Mapping[str, Tensor], rows: Tensor, batch_sizes: Sequence[int]) -> Prepared:
    """Fix the weights and sample the masks of one layer-direction for a call, in the dtype of rows.

    Args:
        cell: of the layer-direction.
        weights: by the cell's names.
        rows: packed (N, F); gives the dtype.
        batch_sizes: rows alive at each step.

    Returns:
        weights and masks; see `Cell.prepare`.
    """
    if cell.flat:
        dtype = rows.dtype
        for value in weights.values():
            if value.dtype != dtype:
                weights = {name: value.to(dtype) for name, value in weights.items()}
                break
    return cell.prepare(weights, batch_sizes)


def no_output(cell: Cell, weights: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Return the output (0, output_size) of a layer-direction where no sequence has a step."""
    return no_rows([rows, *(weights.values() if cell.flat else cell.parameters())], cell.output_size)
