"""Helpers for states that live longer than one call."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def detach_state(state: Any) -> Any:
    """Cut a state from its history, for truncated backpropagation through time (Williams & Peng 1990).

    Args:
        state: a tensor, None, or tuples, lists and dicts of these, as any module here returns or takes.

    Returns:
        the same structure with detached tensors.

    Example:
        state = None
        for chunk in text.split(70):
            output, state = lstm(chunk, detach_state(state))

    Raises:
        TypeError: anything else.
    """
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {name: detach_state(part) for name, part in state.items()}
    if isinstance(state, (tuple, list)):
        return type(state)(detach_state(part) for part in state)
    raise TypeError(f"state must be tensors in tuples, lists or dicts, got {type(state).__name__}")
