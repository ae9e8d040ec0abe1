"""Optimisers, learning-rate schedules and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqkit.errors import UserError
from seqkit.training.config import OptimizerConfig, ScheduleConfig
from seqkit.training.patterns import matches, matching


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """An optimiser over parameters, grouped by learning-rate factor and decay.

    Args:
        model: whose parameters are learned.
        config: how.
        factors: the names of those that ever train, and what the rate of each is multiplied by before `lr_factors`;
            None: all that want a gradient, alike. One that gets its first gradient late gets its moments then.

    Raises:
        UserError: a pattern of `lr_factors` matches no parameter, or nothing is left to train.
    """
    if factors is None:
        factors = {name: 1.0 for name, parameter in model.named_parameters() if parameter.requires_grad}
    named = [(name, parameter) for name, parameter in model.named_parameters() if name in factors]
    if not named:
        raise UserError("training: every parameter is frozen; there is nothing to train")
    names = [name for name, _ in named]
    matching(config.lr_factors, names, "training.optimizer.lr_factors", "no trained parameter")
    grouped: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        factor = next((f for pattern, f in config.lr_factors.items() if matches(name, [pattern])), 1.0)
        grouped.setdefault((factor * factors[name], parameter.dim() > 1), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": config.lr * factor,
            "peak_lr": config.lr * factor,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in grouped.items()
    ]
    return OPTIMIZERS[config.name](groups, config)


Groups = list[dict[str, Any]]


def _sgd(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def _of_adam(kind: type[torch.optim.Adam | torch.optim.AdamW]) -> Callable[..., torch.optim.Optimizer]:
    def make(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
        own: dict[str, Any] = {"lr": config.lr, "betas": (config.betas[0], config.betas[1]), "eps": config.eps}
        try:
            # One pass over the memory: on a CPU a ninth of the time of the step by step one.
            return kind([dict(group) for group in groups], fused=True, **own)
        except RuntimeError:  # torch 2.3 on a CPU, or parameters of a kind that it does not serve
            return kind(groups, **own)

    return make


OPTIMIZERS: dict[str, Callable[[Groups, OptimizerConfig], torch.optim.Optimizer]] = {
    "adamw": _of_adam(torch.optim.AdamW),
    "adam": _of_adam(torch.optim.Adam),
    "sgd": _sgd,
}
"""What `training.optimizer.name` may be."""


@dataclass(frozen=True)
class Schedule:
    """A way in which the learning rate moves.

    Attributes:
        factor: of the configuration, the update's number from 0, how many there are (0: not known) and how many of them
            warm up.
        spreads: over the whole training, whose length it must know.
    """

    factor: Callable[[ScheduleConfig, int, int, float], float]
    spreads: bool


def _falling(shape: Callable[[float, float], float]) -> Callable[[ScheduleConfig, int, int, float], float]:
    """Linear warm-up, then a shape of `final` and of how much of the rest is done."""

    def factor(config: ScheduleConfig, step: int, total: int, warmup: float) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return shape(config.final, min((step - warmup) / max(total - 1 - warmup, 1), 1.0))

    return factor


def _one_cycle(config: ScheduleConfig, step: int, total: int, warmup: float) -> float:
    rise = max(warmup or 0.3 * total, 1.0) - 1
    if step < rise:
        return _cosine(1 / 25, 1.0, step / rise)
    return _cosine(1.0, config.final, min((step - rise) / max(total - 1 - rise, 1), 1.0))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES = {
    "constant": Schedule(_falling(lambda final, done: 1.0), spreads=False),
    "linear": Schedule(_falling(lambda final, done: 1.0 + (final - 1.0) * done), spreads=True),
    "cosine": Schedule(_falling(lambda final, done: _cosine(1.0, final, done)), spreads=True),
    "one_cycle": Schedule(_one_cycle, spreads=True),
    "plateau": Schedule(_falling(lambda final, done: 1.0), spreads=False),  # what it takes off the trainer keeps
}
"""What `training.schedule.name` may be."""


def schedule_factor(config: ScheduleConfig, step: int, total: int | None) -> float:
    """What the peak learning rate is multiplied by for update number `step` (from 0) of `total`.

    `linear` and `cosine` reach `final` at the last update (cosine: Loshchilov & Hutter 2017, eq. 5, one period);
    `one_cycle` rises from 1/25 of the peak and falls by half cosines (Smith & Topin 2018). `plateau` is 1 here: its
    reductions depend on scores and are kept by the trainer.

    Raises:
        UserError: the schedule needs the number of steps and the task does not know it.
    """
    schedule = SCHEDULES[config.name]
    if total is None and (schedule.spreads or 0 < config.warmup < 1):
        raise UserError(
            f"training.schedule: {config.name} needs to know the number of updates: "
            "give training.steps, or batches with a length"
        )
    total = total or 0
    return schedule.factor(config, step, total, config.warmup * total if config.warmup < 1 else config.warmup)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Give every group `factor` times its peak rate; returns the rate of a group whose own factor is 1, for the log."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return float(optimizer.defaults["lr"] * factor)


def clip(parameters: Iterable[nn.Parameter], norm: float | None, value: float | None) -> Tensor:
    """Clip gradients in place; returns their total norm before that (a scalar tensor)."""
    kept = [parameter for parameter in parameters if parameter.grad is not None]
    total = nn.utils.clip_grad_norm_(kept, norm if norm is not None else math.inf)
    if value is not None:
        nn.utils.clip_grad_value_(kept, value)
    return total
