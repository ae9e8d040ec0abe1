"""Learning-rate schedules: their table, how a configuration describes one, and the factor of an update."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import Field

from seqkit.config import OneOf, Section, maker
from seqkit.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]


class Schedule:
    """How the learning rate moves: constant after a linear warm-up. Derive from it for another one.

    A factor depends on the arguments alone: a resumed run asks for those that are left.

    Attributes:
        spreads: it spreads over the whole training, whose length it must know.
        reacts: it overrides `after_evaluation`.
    """

    spreads: ClassVar[bool] = False
    reacts: ClassVar[bool] = False

    def __call__(self, step: int, total: int, warmup: float) -> float:
        """Return what the peak learning rate is multiplied by.

        Args:
            step: number of the update, from 0.
            total: number of updates; 0: not known.
            warmup: how many of them warm up.
        """
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return self.after_warmup(step - warmup, total - 1 - warmup)

    def after_warmup(self, step: float, last: float) -> float:
        """Return the factor of an update after the warm-up.

        Args:
            step: its number, from 0.
            last: the number of the last one; below 0 where that is not known.
        """
        return 1.0

    def after_evaluation(self, stale: int) -> float:
        """Return what all later factors are multiplied by, after `stale` evaluations in a row without a better score.

        These are counted from 0 again after a factor other than 1.
        """
        return 1.0


class Linear(Schedule):
    """A straight line down to the last update.

    Args:
        final: the rate of the last update, as a share of the peak.
    """

    spreads = True

    def __init__(self, *, final: Share = 0.0) -> None:
        self.final = final

    def after_warmup(self, step: float, last: float) -> float:
        return 1.0 + (self.final - 1.0) * _share(step, last)


class Cosine(Linear):
    """A half cosine down to the last update (Loshchilov & Hutter 2017, equation 5, one period).

    Args:
        final: the rate of the last update, as a share of the peak.
    """

    def after_warmup(self, step: float, last: float) -> float:
        return _cosine(1.0, self.final, _share(step, last))


class OneCycle(Linear):
    """A half cosine up from 1/25 of the peak, and one down (Smith & Topin 2018).

    Args:
        final: the rate of the last update, as a share of the peak.
    """

    def __call__(self, step: int, total: int, warmup: float) -> float:
        rise = max(warmup or 0.3 * total, 1.0) - 1
        if step < rise:
            return _cosine(1 / 25, 1.0, step / rise)
        return _cosine(1.0, self.final, _share(step - rise, total - 1 - rise))


class Plateau(Schedule):
    """Constant until the dev metric stops improving, then lower.

    Args:
        factor: the rate is multiplied by this when the metric stops improving.
        patience: how many evaluations without a better metric to wait before that.
    """

    reacts = True

    def __init__(
        self, *, factor: Annotated[float, Field(gt=0, lt=1)] = 0.5, patience: Annotated[int, Field(ge=0)] = 2
    ) -> None:
        self.factor, self.patience = factor, patience

    def after_evaluation(self, stale: int) -> float:
        return self.factor if stale > self.patience else 1.0


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Schedule,
    "linear": Linear,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "plateau": Plateau,
}
"""What `training.schedule.name` may be."""


class ScheduleConfig(Section):
    """`training.schedule`: how the learning rate moves. A bare name in YAML is short for `{name: ...}`.

    The arguments of the schedule's constructor stand beside its name.
    """

    name: Annotated[str, OneOf("schedule", SCHEDULES, Schedule)] = "constant"
    """How the rate moves after the warm-up: not at all (constant), down in a line or a half cosine, up and down in one
    cycle (Smith & Topin 2018), or down by a factor whenever the metric stops improving (plateau); or
    `mypackage.module:MySchedule`."""
    warmup: float = Field(default=0.0, ge=0)
    """Linear warm-up: below 1 a share of all steps, from 1 on a number of steps. one_cycle rises for this long
    (0.3 of all steps where it is 0)."""

    def make(self) -> Schedule:
        """Build the schedule."""
        made: Any = maker(self, SCHEDULES, ScheduleConfig)()
        return made  # type: ignore[no-any-return]


def schedule_factor(config: ScheduleConfig, step: int, total: int | None) -> float:
    """Return what the peak learning rate is multiplied by for update number `step` (from 0) of `total`.

    The reductions of a schedule that goes by dev scores are kept by the trainer.

    Raises:
        UserError: the schedule needs the number of steps and the task does not know it.
    """
    schedule = config.make()
    if total is None and (schedule.spreads or 0 < config.warmup < 1):
        raise UserError(
            f"{config.name} needs to know the number of updates: give training.steps, or batches with a length",
            key="training.schedule",
        )
    total = total or 0
    return schedule(step, total, config.warmup * total if config.warmup < 1 else config.warmup)


def _share(step: float, last: float) -> float:
    return min(step / max(last, 1), 1.0)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
