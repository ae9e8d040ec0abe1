"""All layers and directions of a call, on the route that `choose` picks, and the dropout between layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from seqkit.nn.backends import backend_named, choose, scan
from seqkit.nn.backends.backend import Route
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import tracing
from seqkit.nn.custom_op import compiled_direction, held
from seqkit.nn.dropout import between_layers
from seqkit.nn.exported_loops import loop_direction
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.layout import Entered, leave
from seqkit.nn.network import Network, no_output, prepare
from seqkit.nn.onnx import onnx_direction


def route_of(network: Network, entered: Entered) -> Route:
    """Return how a call runs; see `choose`."""
    return choose(network, entered.x, entered.packing, open_lengths=entered.padded_lengths is not None)


def run_layers(network: Network, entered: Entered) -> tuple[Any, State]:
    """Run all layers and directions on the route that `choose` picks."""
    route = route_of(network, entered)
    if route.whole is not None:
        x, packing = entered.x, entered.packing
        if packing.is_full != (x.dim() == 3):
            x = packing.unpack(x) if packing.is_full else entered.data
        outputs = backend_named(route.name).whole(network, route.whole, x, entered.states, packing)
        return leave(network, *outputs, entered)
    if route.onnx:
        return over_layers(network, entered, partial(onnx_direction, network, lengths=entered.padded_lengths))
    if route.loop:
        return over_layers(network, entered, partial(loop_direction, network, lengths=entered.padded_lengths))
    if route.operator:
        return over_layers(network, entered, partial(compiled_direction, network, lengths=entered.padded_lengths))
    entered = entered._replace(x=held(entered.x, 0, network.name))
    return over_layers(network, entered, partial(_direction, network, backend=route.name))


def over_layers(
    network: Network, entered: Entered, direction: Callable[[int, Tensor, Packing, State], tuple[Tensor, State]]
) -> tuple[Any, State]:
    """Call `direction(index, rows, packing, state)` for each layer and direction, and join what comes out.

    Args:
        network: options, cells and weights.
        entered: the arguments of a call, checked and packed.
        direction: gives the output and the final state of one layer-direction.

    Returns:
        output and final state, as `Recurrent.forward`.
    """
    data, finals, count = entered.data, [], network.num_directions
    states = list(zip(*(part.unbind(0) for part in entered.states), strict=True))
    for layer in range(network.num_layers):
        rows = data
        if layer and network.training:
            packing = entered.packing
            rows = between_layers(data, network.dropout, network.locked_dropout, packing.batch_size, packing.spread)
        outputs = []
        for index in range(layer * count, (layer + 1) * count):
            output, final = direction(index, rows, entered.packing, states[index])
            outputs.append(output)
            finals.append(final)
        output = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        data = output + data if network.residual and layer else output
    # A copy even of a single one: `detach_()`, which loops over long texts call on states, refuses views.
    return leave(network, data, tuple(torch.stack(parts) for parts in zip(*finals, strict=True)), entered)


def _direction(
    network: Network, index: int, rows: Tensor, packing: Packing, state: State, backend: str
) -> tuple[Tensor, State]:
    """Run one layer in one direction: packed (N, F) to packed (N, output_size) and the final state, each (B, size)."""
    cell, reverse = network.cells[index], index % network.num_directions == 1
    if not packing.batch_sizes:
        return no_output(cell, network.weights(index), rows), state
    prepared = prepare(cell, network.weights(index), rows, packing.batch_sizes)
    rows = packing.flip(rows) if reverse else rows
    chunks = network.checkpoint_chunks if torch.is_grad_enabled() and not tracing() else 1
    if chunks > 1:
        output, final = _checkpointed(cell, rows, packing, state, prepared, backend, chunks)
    else:
        output, final = scan(backend, cell, rows, packing, state, prepared)
    return (packing.flip(output) if reverse else output), final


def _checkpointed(
    cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared, backend: str, chunks: int
) -> tuple[Tensor, State]:
    """Run `scan` in chunks of time, each recomputed in the backward pass. All masks are drawn before."""
    outputs = []
    for part, first, end in packing.chunks(chunks):
        here = prepared.cut(first, end)

        def run(rows: Tensor, *state: Tensor, part: Packing = part, here: Prepared = here) -> Any:
            return scan(backend, cell, rows, part, state, here)

        output, state = checkpoint(run, rows[first:end], *state, use_reentrant=False, preserve_rng_state=False)
        outputs.append(output)
    return torch.cat(outputs), state
