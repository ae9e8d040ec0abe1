"""ATen's own functions for one step of a plain cell, which take half the time of a step from single operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.checks import transformed

ATEN_STEPS: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm_cell,
    "GRU": torch.gru_cell,
    "RNN_TANH": torch.rnn_tanh_cell,
    "RNN_RELU": torch.rnn_relu_cell,
}
"""ATen's name of a cell (see `Cell.vendor_mode`) -> its function."""


def aten_step(mode: str, weights: Sequence[Tensor], x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Run one step.

    Args:
        mode: a key of `ATEN_STEPS`.
        weights: W_ih, W_hh and, if there are biases, b_ih and b_hh.
        x: (B, I).
        state: each tensor (B, H).

    Returns:
        the new state; None where ATen would compute something else than the cell, or has no derivative of some kind.

    Raises:
        RuntimeError: sizes that do not fit each other.
    """
    if x.is_cuda and transformed():  # CUDA's kernel has no forward mode
        return None
    for part in state:
        if part.dim() != 2 or part.dtype is not x.dtype:
            return None
    if mode == "LSTM":
        return ATEN_STEPS[mode](x, state, *weights)  # type: ignore[no-any-return]
    return (ATEN_STEPS[mode](x, *state, *weights),)
