"""Layers with an attention after one of them: one pass, which every road of a decoder runs, and the loop over steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.kernels.packing import Packing


class Stack(NamedTuple):
    """How layers, an attention and shortcuts follow each other.

    Attributes:
        num_layers: L.
        attention_layer: k, from 1: the attention reads after layer k.
        residual: every layer but the first adds its input, before dropout, to its output.
    """

    num_layers: int
    attention_layer: int
    residual: bool

    def through(
        self,
        x: Tensor,
        context: Tensor | None,
        layer: Callable[[int, list[Tensor]], Tensor],
        read: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None,
        first: int = 1,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run layer after layer: s^l = layer_l(s^(l-1)) up to k, c = read(s^k), and s^l = layer_l([s^(l-1); c]) above.

        Args:
            x: s^0 (..., F).
            context: what is known instead of `read`'s result where there is no attention.
            layer: takes a layer's number, from 0, and what enters it in parts to be joined, [x] or [x, context]. It
                applies the dropout on x.
            read: from the query to the context and the weights; None: no attention.
            first: how many layers the first call of `layer` runs.

        Returns:
            s^L, the context and the weights.
        """
        weights = None
        for number in (0, *range(first, self.num_layers)):
            parts = [x, context] if number >= self.attention_layer and context is not None else [x]
            output = layer(number, parts)
            x = output + x if self.residual and number else output
            if read is not None and self.attention_layer == (number + 1 if number else first):
                context, weights = read(x)
        return x, context, weights


@dataclass(frozen=True)
class FedSteps:
    """A call whose steps run one by one, each fed with the features of the one before; in the packed layout.

    Attributes:
        stack: see there.
        rows: (N, E), the input.
        packing: has no sequence of length 0.
        states: for each layer its first state, each (b_0, size).
        memory: keys, values and padding, each (b_0, ...).
        prepared: weights and masks of each layer's cell.
        masks: for each layer the dropout on its input (N, H), or None.
    """

    stack: Stack
    rows: Tensor
    packing: Packing
    states: Sequence[State]
    memory: tuple[Tensor, ...]
    prepared: Sequence[Prepared]
    masks: Sequence[Tensor | None]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """(..., F1), (..., F2), ... side by side: (..., F1 + F2 + ...)."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)  # type: ignore[arg-type]


def step_loop(
    call: FedSteps,
    cells: Sequence[Cell],
    read: Callable[..., tuple[Tensor, Tensor]],
    combine: Callable[[Tensor, Tensor | None, Tensor], Tensor],
    feed_size: int,
) -> tuple[Tensor, Tensor]:
    """Run the steps one by one under autograd; it defines what `feed_scan` computes.

    Args:
        read: from a query (b, H) and `memory` to the context (b, C) and the weights (b, 1, S).
        combine: from the top output, the context and the input to the features (b, F).
        feed_size: F.

    Returns:
        features (N, F) and weights (N, S).
    """
    rows, sizes, states, memory = call.rows, call.packing.batch_sizes, call.states, call.memory
    ready = [one.split(sizes) for one in call.prepared]
    masks = [None if mask is None else mask.split_with_sizes(sizes) for mask in call.masks]
    fed, features, weights = rows.new_zeros(sizes[0], feed_size), [], []
    for t, (size, input) in enumerate(zip(sizes, rows.split_with_sizes(sizes), strict=True)):
        states = [tuple(part[:size] for part in state) for state in states]
        memory = tuple(part[:size] for part in memory)
        here, mask = [one[t] for one in ready], [None if one is None else one[t] for one in masks]
        fed, weight, states = fed_step(call.stack, cells, here, mask, read, combine, input, fed[:size], states, memory)
        features.append(fed)
        weights.append(weight)
    return torch.cat(features), torch.cat(weights)


def fed_step(
    stack: Stack,
    cells: Sequence[Cell],
    prepared: Sequence[Prepared],
    masks: Sequence[Tensor | None],
    read: Callable[..., tuple[Tensor, Tensor]],
    combine: Callable[[Tensor, Tensor | None, Tensor], Tensor],
    input: Tensor,
    fed: Tensor,
    states: Sequence[State],
    memory: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor, list[State]]:
    """Run one step of `step_loop`: input (b, E), fed (b, F) to features (b, F), weights (b, S) and the states."""
    after = list(states)

    def layer(number: int, parts: list[Tensor]) -> Tensor:
        cell, here, mask = cells[number], prepared[number], masks[number]
        if mask is not None:
            parts[0] = parts[0] * mask
        after[number], _ = cell.step(cell.project(joined(parts), here), after[number], here)
        return after[number][0]

    top, context, weight = stack.through(torch.cat([input, fed], 1), None, layer, partial(read, memory=memory))
    assert weight is not None
    return combine(top, context, input), weight.squeeze(1), after
