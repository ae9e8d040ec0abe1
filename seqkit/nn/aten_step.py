"""ATen's own functions for one step of a plain cell, which take half the time of a step from single operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

ATEN_STEPS: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm_cell,
    "GRU": torch.gru_cell,
    "RNN_TANH": torch.rnn_tanh_cell,
    "RNN_RELU": torch.rnn_relu_cell,
}
"""ATen's name of a cell (see `Cell.vendor_mode`) -> its function."""

ONE_BIAS = ("LSTM", "RNN_TANH", "RNN_RELU")
"""Cells that add both biases in one place. ATen's GRU mixes the old state and the new in another order of operations
than ours, with other last bits."""


class OneBiasStep:
    """Steps of a plain cell without gradient and with weights that stay: the cell's own step, bit for bit, in one call.

    Args:
        mode: of `ONE_BIAS`.
        weights: the cell's, by name, as they are now.
    """

    def __init__(self, mode: str, weights: Mapping[str, Tensor]) -> None:
        self._mode, bias = mode, None
        if "bias_ih" in weights:
            bias = weights["bias_ih"] + weights["bias_hh"]
        self._weights = weights["weight_ih"], weights["weight_hh"], bias, None

    def __call__(self, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (N, I) and the state, each (N, H), to the output (N, H) and the state after."""
        new = ATEN_STEPS[self._mode](x, *([state] if len(state) > 1 else state), *self._weights)
        return (new[0], tuple(new)) if len(state) > 1 else (new, (new,))


def aten_step(mode: str, weights: Sequence[Tensor], x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Run one step, where neither autocast nor a transform of torch.func is at work.

    Args:
        mode: a key of `ATEN_STEPS`.
        weights: W_ih, W_hh and, if there are biases, b_ih and b_hh.
        x: (B, I).
        state: each tensor (B, H).

    Returns:
        the new state; None where the state needs a closer look.

    Raises:
        RuntimeError: sizes that do not fit each other.
    """
    for part in state:
        if part.dim() != 2 or part.dtype is not x.dtype:
            return None
    if mode == "LSTM":
        return ATEN_STEPS[mode](x, state, *weights)  # type: ignore[no-any-return]
    return (ATEN_STEPS[mode](x, *state, *weights),)


def aten_layers(
    mode: str, weights: Sequence[Tensor], x: Tensor, states: Sequence[Tensor], num_directions: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one step of all layers and directions, without dropout, cell by cell.

    Args:
        mode: a key of `ATEN_STEPS`.
        weights: of all layer-directions, in torch's order.
        x: (1, B, I).
        states: each (layer-directions, B, H).
        num_directions: 1 or 2.

    Returns:
        output (1, B, F), and the states after the step.
    """
    run, single, rows = ATEN_STEPS[mode], len(states) == 1, x.squeeze(0)
    count = states[0].size(0)
    if count == 1:  # without the loop, which takes as long as a small cell
        new = run(rows, states[0].squeeze(0) if single else [part.squeeze(0) for part in states], *weights)
        new = (new,) if single else new
        return torch.stack((new[0],)), tuple([torch.stack((part,)) for part in new])
    each = len(weights) // count
    before = list(zip(*(part.unbind(0) for part in states), strict=True))
    after, outputs = [], []
    for index in range(count):
        hx = before[index]
        new = run(rows, hx[0] if single else hx, *weights[index * each : (index + 1) * each])
        after.append((new,) if single else new)
        outputs.append(after[-1][0])
        if len(outputs) == num_directions:
            rows, outputs = outputs[0] if num_directions == 1 else torch.cat(outputs, 1), []
    # Copies: a change in place of the output leaves the states alone, and `detach_()` refuses views.
    return torch.stack((rows,)), tuple([torch.stack(parts) for parts in zip(*after, strict=True)])
