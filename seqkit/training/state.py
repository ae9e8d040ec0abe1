"""Where a run stands, what it leaves behind, and the checks before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field

import torch

from seqkit.config import UserError, nearest, require
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

    def count(self, losses: Mapping[str, float], norm: float, rate: float) -> None:
        """Add an update to what the next log line will say."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        if math.isfinite(norm):  # else the loss scaler has skipped this update
            self.norms += norm
        self.rate = rate


@dataclass(frozen=True)
class Result:
    """What `Trainer.fit` leaves behind: the step whose weights the model now has, and their dev scores."""

    step: int
    scores: dict[str, float]
    averaged: bool


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device.

    Raises:
        UserError: CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device: cuda was asked for, but torch finds no CUDA device here; use device=cpu or device=auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def count_steps(task: Task, config: TrainingConfig) -> int | None:
    """How many updates a run makes, None where the task does not know its number of batches."""
    if config.steps:
        return config.steps
    batches = task.batches(0)
    if not isinstance(batches, Sized):
        return None
    return (config.epochs or 10) * math.ceil(len(batches) / config.accumulate)


def check_settings(task: Task, config: TrainingConfig) -> None:
    """Refuse before anything is written what would be refused later.

    Raises:
        UserError: an unknown metric, a pattern without a parameter, a schedule that needs the number of updates, an
            extra that is not installed.
    """
    if task.scores:
        check_metric(config.metric, task.scores)
    make_optimizer(task.model, config.optimizer)
    schedule_factor(config.schedule, 0, count_steps(task, config))
    if config.tensorboard:
        require("torch.utils.tensorboard", "tensorboard")


def check_metric(name: str, scores: tuple[str, ...]) -> None:
    """Refuse a metric that is not among the scores.

    Raises:
        UserError: with the nearest score.
    """
    if name not in scores:
        known = nearest(name, scores) or f"; known: {', '.join(scores)}"
        raise UserError(f"training.metric: this task has no score {name!r}{known}")
