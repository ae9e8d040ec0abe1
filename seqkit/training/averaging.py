"""Averages of weights: over the steps of a run (EMA) and over checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from seqkit.training.checkpoint import load_finite


class MovingAverage:
    """Exponential moving average of a module's trained parameters.

    After update t (from 1): `average = d * average + (1 - d) * parameter`, with d = min(decay, (1 + t) / (10 + t)), so
    that the start of a short run is forgotten sooner.

    Args:
        model: its parameters that have requires_grad now are followed, in updates while they have it.
        decay: the largest d.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._followed = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in self._followed.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        self.updates += 1
        weight = 1 - min(self._decay, (1 + self.updates) / (10 + self.updates))
        for name, value in self._followed.items():
            if value.requires_grad:  # else it is frozen as yet, and is its own average
                self.average[name].lerp_(value, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model computes with the averages inside this context."""
        own = {name: value.detach().clone() for name, value in self._followed.items()}
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._followed.items():
            parameter.copy_(values[name])

    def state(self) -> dict[str, object]:
        return {"updates": self.updates, "average": self.average}

    def restore(self, updates: int, average: Mapping[str, Tensor]) -> None:
        self.updates = updates
        for name, value in average.items():
            self.average[name].copy_(value)


def average_weights(paths: Sequence[Path], own: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the element-wise mean of several weights files, summed in float64; whole numbers come from the first file.

    Tied weights stay one tensor under several names.

    Args:
        paths: the files.
        own: see `load_finite`.

    Raises:
        UserError: see `load_finite`.
    """
    states = [load_finite(path, own) for path in paths]
    mean: dict[str, Tensor] = {}
    done: dict[tuple[int, ...], Tensor] = {}
    for name, first in states[0].items():
        key = tuple(id(state[name]) for state in states)
        if key not in done:
            done[key] = first
            if first.is_floating_point():
                total = sum((state[name].double() for state in states[1:]), first.double())
                done[key] = (total / len(states)).to(first.dtype)
        mean[name] = done[key]
    return mean
