"""Optimisers: their table, how a configuration describes one, groups of parameters; gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from seqkit.config import OneOf, Section, maker
from seqkit.errors import UserError
from seqkit.training.patterns import matches, matching

Groups = list[dict[str, Any]]
Rate = Annotated[float, Field(ge=0, lt=1)]


def adamw(
    params: Groups, lr: float, *, betas: tuple[Rate, Rate] = (0.9, 0.999), eps: Annotated[float, Field(gt=0)] = 1e-8
) -> torch.optim.Optimizer:
    """Make an AdamW (Loshchilov & Hutter 2019), whose weight decay is decoupled.

    Args:
        params: groups of parameters.
        lr: peak learning rate.
        betas: decay rates of the two moving averages.
        eps: added to the root of the second moment, so that nothing is divided by 0.
    """
    return _fused(torch.optim.AdamW, params, lr=lr, betas=betas, eps=eps)


def adam(
    params: Groups, lr: float, *, betas: tuple[Rate, Rate] = (0.9, 0.999), eps: Annotated[float, Field(gt=0)] = 1e-8
) -> torch.optim.Optimizer:
    """Make an Adam (Kingma & Ba 2015), whose weight decay is an L2 term.

    Args:
        params: groups of parameters.
        lr: peak learning rate.
        betas: decay rates of the two moving averages.
        eps: added to the root of the second moment, so that nothing is divided by 0.
    """
    return _fused(torch.optim.Adam, params, lr=lr, betas=betas, eps=eps)


def sgd(params: Groups, lr: float, *, momentum: Rate = 0.0, nesterov: bool = False) -> torch.optim.Optimizer:
    """Make a stochastic gradient descent, whose weight decay is an L2 term.

    Args:
        params: groups of parameters.
        lr: peak learning rate.
        momentum: decay rate of the moving sum of gradients.
        nesterov: whether to use Nesterov's form of momentum (Sutskever et al. 2013); needs momentum above 0.
    """
    return torch.optim.SGD(params, lr=lr, momentum=momentum, nesterov=nesterov)


def _fused(kind: type[torch.optim.Adam], params: Groups, **options: Any) -> torch.optim.Optimizer:
    try:
        # One pass over the memory: on a CPU a ninth of the time of the step by step one.
        return kind([dict(group) for group in params], fused=True, **options)
    except RuntimeError:  # torch 2.3 on a CPU, or parameters of a kind that it does not serve
        return kind(params, **options)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "adam": adam, "sgd": sgd}
"""What `training.optimizer.name` may be."""


class OptimizerConfig(Section):
    """`training.optimizer`: the optimiser and its numbers. A bare name in YAML is short for `{name: ...}`.

    The arguments of the optimiser's constructor stand beside its name.
    """

    name: Annotated[str, OneOf("optimizer", OPTIMIZERS, torch.optim.Optimizer)] = "adamw"
    """An optimiser of seqkit, or `mypackage.module:MyOptimizer`."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay: decoupled for adamw, an L2 term for adam and sgd. Vectors (biases, gains) are not decayed."""
    lr_factors: dict[str, float] = {}
    """Parameter name pattern (`embedding*`, as in a shell) -> what the learning rate is multiplied by; the first
    pattern that matches a name holds, and a pattern that matches none is an error."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor between the learning rates of neighbouring groups of layers, from the output to the input (Howard & Ruder
    2018, section 3.1: 1 / 2.6); lr_factors come on top."""

    @model_validator(mode="after")
    def _sensible(self) -> OptimizerConfig:
        options = dict(self)
        if options.get("nesterov") and not options.get("momentum"):
            raise ValueError("nesterov needs momentum above 0")
        return self

    def make(self, groups: Groups) -> torch.optim.Optimizer:
        """Build the optimiser.

        Raises:
            UserError: its constructor refuses a setting, or it knows no weight decay and is to decay weights.
        """
        try:
            made: torch.optim.Optimizer = maker(self, OPTIMIZERS, OptimizerConfig)(groups, lr=self.lr)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name}: {error}", key="training.optimizer") from error
        for key, wanted in (("lr", True), ("weight_decay", self.weight_decay)):
            if wanted and key not in made.defaults:
                raise UserError(f"{self.name} has no such setting", key=f"training.optimizer.{key}")
        return made


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Return an optimiser over parameters, grouped by learning-rate factor and decay.

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
        raise UserError("every parameter is frozen; there is nothing to train", key="training")
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
    return config.make(groups)


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
