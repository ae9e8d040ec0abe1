"""Where a run stands, what it leaves behind, and the checks before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from seqkit.config import Named
from seqkit.errors import UserError, nearest
from seqkit.training.best import TIES, rank
from seqkit.training.config import TrainingConfig
from seqkit.training.devices import device_name
from seqkit.training.freezing import Freezing
from seqkit.training.optim import make_optimizer
from seqkit.training.schedules import schedule_factor
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
    skipped: int = 0  # updates since then whose norm is not among these: fp16 has overflowed
    clipped: int = 0  # updates since then whose norm was above training.clip_norm
    rate: float = 0.0  # the learning rate of the last update
    logged: int = 0  # the step of the last log line
    logs: dict[str, Any] = field(default_factory=dict)  # where each logger is, by its name
    stage: int = -1  # of unfreezing, the last that was reported
    ties: str = TIES  # how equal scores are ordered
    dev_losses: dict[int, float] = field(default_factory=dict)  # of the steps in `best`
    evaluations: int = 0
    zeros: list[str] = field(default_factory=list)  # scores that were 0 in each of them

    def count(self, losses: Mapping[str, float], norm: float, rate: float, limit: float | None) -> None:
        """Add an update to what the next log line will say; `limit` is the norm from which on gradients are clipped."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        if math.isfinite(norm):
            self.norms += norm
            self.clipped += limit is not None and norm > limit
        else:  # the loss scaler has skipped this update
            self.skipped += 1
        self.rate = rate

    def judge(self, scores: Mapping[str, float], config: TrainingConfig) -> Verdict:
        """Enter the scores of an evaluation into the list of the best.

        Of equal scores the one with the lower dev loss is the better one, then the later one; but only a better score
        is an improvement, for early stopping and for plateau.
        """
        sign = 1.0 if config.more_is_better else -1.0
        value, loss = rank(scores, config, self.ties)
        better = self.reference is None or value > sign * self.reference + config.margin
        if better:
            self.reference = sign * value
        self.stale = 0 if better else self.stale + 1
        self.plateau_stale = 0 if better else self.plateau_stale + 1
        if (change := config.schedule.make().after_evaluation(self.plateau_stale)) != 1.0:
            self.plateau_factor *= change
            self.plateau_stale = 0
        self.dev_losses[self.step] = -loss
        entry = (sign * value, self.step)
        ranked = sorted([*self.best, entry], key=lambda pair: self._key(pair, sign), reverse=True)
        self.best = ranked[: config.keep_best]
        note = self._note(ranked, entry) if ranked[0] == entry else ""
        self.dev_losses = {step: self.dev_losses[step] for _, step in self.best if step in self.dev_losses}
        self._count_zeros(scores, config)
        return Verdict(entry in self.best, note)

    def complete(self, config: TrainingConfig) -> bool:
        """Return whether training has its full length."""
        return self.step >= config.steps if config.steps else self.epoch >= config.most_epochs

    def lost_patience(self, config: TrainingConfig) -> bool:
        """Return whether early stopping ends it."""
        return config.early_stopping is not None and self.stale >= config.early_stopping.patience

    def _key(self, pair: tuple[float, int], sign: float) -> tuple[float, float, int]:
        score, step = pair
        return sign * score, -self.dev_losses.get(step, math.inf), step if self.ties == TIES else -step

    def _note(self, ranked: list[tuple[float, int]], entry: tuple[float, int]) -> str:
        if len(ranked) == 1 or ranked[1][0] != entry[0]:
            return "  (best)"
        before = ranked[1][1]
        lower = self.dev_losses[entry[1]] < self.dev_losses.get(before, -math.inf)
        return f"  (best: the score of step {before} again, {'at a lower loss' if lower else 'later'})"

    def _count_zeros(self, scores: Mapping[str, float], config: TrainingConfig) -> None:
        names = self.zeros if self.evaluations else [name for name in scores if config.higher_is_better(name)]
        self.zeros = [name for name in names if scores.get(name) == 0]
        self.evaluations += 1


@dataclass(frozen=True)
class Verdict:
    """Of an evaluation: whether it is among the best that are kept, and what its line in the log ends with."""

    kept: bool
    note: str


def early_news(state: State, config: TrainingConfig) -> tuple[str, dict[str, Any]]:
    """Return what to say and to log when early stopping has ended a training."""
    patience = config.early_stopping.patience if config.early_stopping else 0
    best = f"; the best is {state.best[0][0]:.4f}, of step {state.best[0][1]}" if state.best else ""
    more = f" by more than {config.margin}" if config.margin else ""
    times = "an evaluation" if patience == 1 else f"{patience} evaluations"
    line = (
        f"early stopping after step {state.step}: {config.metric} has not improved{more} in {times} "
        f"(training.early_stopping.patience: {patience}){best}"
    )
    begun = state.epoch + bool(state.position)
    step = state.best[0][1] if state.best else None
    return line, {"step": state.step, "epoch": begun, "patience": patience, "best": step}


def shapes(batch: Any) -> str:
    """Return the shapes of the tensors in a batch, whatever it is made of: `ids 64x31, lengths 64`; "" where it has
    none."""
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
    """Return what numbers depend on in their last bits, beside configuration and data."""
    return {"torch": str(torch.__version__), "device": device_name(device), "threads": str(torch.get_num_threads())}


def log_positions(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return where each logger was, of the `state` in a checkpoint; earlier versions knew the sizes of two files."""
    return dict(state["logs"] if "logs" in state else {"jsonl": state.get("sizes", {})})


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each thing of `surroundings` that has changed, {} standing for a run that kept no record."""
    more = {"device": ", and masks of dropout are drawn by another generator"}
    return [
        f"{name} was {before[name]} and is {value}: the results may differ in their last bits{more.get(name, '')}"
        for name, value in now.items()
        if before.get(name, value) != value
    ]


def count_steps(task: Task, config: TrainingConfig) -> int | None:
    """Return how many updates a run makes, None where the task does not know its number of batches."""
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
    config.make_loggers()


def check_metric(name: str, scores: tuple[str, ...]) -> None:
    """Refuse a metric that is not among the scores.

    Raises:
        UserError: with the nearest score.
    """
    if name not in scores and not isinstance(name, Named):
        known = nearest(name, scores) or f"; known: {', '.join(scores)}"
        raise UserError(f"this task has no score {name!r}{known}", key="training.metric")
