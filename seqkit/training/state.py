"""Where a run stands, what it leaves behind, and the checks before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from seqkit.config import UserError, nearest, require
from seqkit.training.devices import device_name
from seqkit.training.freezing import Freezing
from seqkit.training.optim import make_optimizer, schedule_factor
from seqkit.training.settings import TrainingConfig
from seqkit.training.task import Task


@dataclass
class State:
    """Where a run stands: all that decides how it goes on, beside weights, optimiser and random generators."""

    step: int = 0  # updates made
    epoch: int = 0  # epochs completed
    position: int = 0  # batches used of the present epoch
    evaluated: int = -1  # the step of the last evaluation
    best: list[tuple[float, int]] = field(default_factory=list)  # (score, step), best first
    reference: float | None = None  # the last score that counted as better
    stale: int = 0  # evaluations since then
    plateau_factor: float = 1.0
    plateau_stale: int = 0
    losses: dict[str, float] = field(default_factory=dict)  # since the last log line: total of each loss
    norms: float = 0.0
    rate: float = 0.0  # the learning rate of the last update
    logged: int = 0  # the step of the last log line
    sizes: dict[str, int] = field(default_factory=dict)  # of the log files
    stage: int = -1  # of unfreezing, the last that was reported

    def count(self, losses: Mapping[str, float], norm: float, rate: float) -> None:
        """Add an update to what the next log line will say."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        if math.isfinite(norm):  # else the loss scaler has skipped this update
            self.norms += norm
        self.rate = rate

    def judge(self, score: float, config: TrainingConfig) -> bool:
        """Enter a score into the list of the best; whether it is in it."""
        sign = 1.0 if config.more_is_better else -1.0
        value = sign * score if math.isfinite(score) else -math.inf
        better = self.reference is None or value > sign * self.reference + config.margin
        if better:
            self.reference = sign * value
        self.stale = 0 if better else self.stale + 1
        self.plateau_stale = 0 if better else self.plateau_stale + 1
        if config.schedule.name == "plateau" and self.plateau_stale > config.schedule.patience:
            self.plateau_factor *= config.schedule.factor
            self.plateau_stale = 0
        entry = (sign * value, self.step)
        # Sorting is stable: of two equal scores the earlier step stays ahead.
        self.best = sorted([*self.best, entry], key=lambda pair: -sign * pair[0])[: config.keep_best]
        return entry in self.best


@dataclass(frozen=True)
class Result:
    """What `Trainer.fit` leaves behind: the step whose weights the model now has, and their dev scores."""

    step: int
    scores: dict[str, float]
    averaged: bool


def shapes(batch: Any) -> str:
    """The shapes of the tensors in a batch, whatever it is made of: `ids 64x31, lengths 64`; "" where it has none."""
    found: list[str] = []

    def look(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(f"{name} {'x'.join(map(str, value.shape)) or 'one number'}".strip())
        elif is_dataclass(value) and not isinstance(value, type):
            for part in fields(value):
                look(part.name, getattr(value, part.name))
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            for part_name, part_value in zip(value._fields, value, strict=True):
                look(part_name, part_value)
        elif isinstance(value, Mapping):
            for key, part_value in value.items():
                look(str(key), part_value)
        elif isinstance(value, (list, tuple)):
            for part_value in value[:16]:
                look(name, part_value)

    look("", batch)
    return ", ".join(found)


def surroundings(device: torch.device) -> dict[str, str]:
    """What numbers depend on in their last bits, beside configuration and data."""
    return {"torch": str(torch.__version__), "device": device_name(device), "threads": str(torch.get_num_threads())}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each thing of `surroundings` that has changed, {} standing for a run that kept no record."""
    more = {"device": ", and masks of dropout are drawn by another generator"}
    return [
        f"{name} was {before[name]} and is {value}: the results may differ in their last bits{more.get(name, '')}"
        for name, value in now.items()
        if before.get(name, value) != value
    ]


def count_steps(task: Task, config: TrainingConfig) -> int | None:
    """How many updates a run makes, None where the task does not know its number of batches."""
    if config.steps:
        return config.steps
    batches = task.batches(0)
    if not isinstance(batches, Sized):
        return None
    return config.most_epochs * math.ceil(len(batches) / config.accumulate)


def check_settings(task: Task, config: TrainingConfig) -> None:
    """Refuse before anything is written what would be refused later.

    Raises:
        UserError: an unknown metric, a pattern without a parameter, nothing to train or to unfreeze, a schedule that
            needs the number of updates, an extra that is not installed.
    """
    if task.scores:
        check_metric(config.metric, task.scores)
    factors = Freezing(task.model, task.layer_groups(), config).factors
    make_optimizer(task.model, config.optimizer, factors)
    schedule_factor(config.schedule, 0, count_steps(task, config))
    if config.tensorboard:
        require("torch.utils.tensorboard", "tensorboard", "tensorboard")


def check_metric(name: str, scores: tuple[str, ...]) -> None:
    """Refuse a metric that is not among the scores.

    Raises:
        UserError: with the nearest score.
    """
    if name not in scores:
        known = nearest(name, scores) or f"; known: {', '.join(scores)}"
        raise UserError(f"training.metric: this task has no score {name!r}{known}")
