"""What numbers `training:` takes, and what it is without them."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch

from seqkit.config import from_mapping
from seqkit.errors import UserError
from seqkit.training import TrainingConfig
from seqkit.training.optim import OptimizerConfig
from seqkit.training.schedules import ScheduleConfig, schedule_factor

# Key, the least and the greatest value it takes (None: no bound), and those just beyond.
BOUNDS: list[tuple[str, Any, Any, list[Any]]] = [
    ("epochs", 1, 10**6, [0, -1, 1.5]),
    ("steps", 1, 10**9, [0, -1, 2.5]),
    ("optimizer.lr", 1e-12, 10.0, [0, -1e-3]),
    ("optimizer.weight_decay", 0, 1.0, [-1e-6]),
    ("optimizer.eps", 1e-16, 1.0, [0, -1e-8]),
    ("optimizer.momentum", 0, 0.999, [-0.1, 1]),
    ("optimizer.layer_decay", 1e-3, 1, [0, 1.001]),
    ("optimizer.betas", [0.0, 0.0], [0.999, 0.999], [[0.9], [0.9, 0.99, 0.999], [1.0, 0.9], [0.9, 1.0], [-0.1, 0.9]]),
    ("schedule.warmup", 0, 10**6, [-0.1]),
    ("schedule.final", 0, 1, [-0.1, 1.1]),
    ("schedule.factor", 1e-3, 0.999, [0, 1]),
    ("schedule.patience", 0, 10**6, [-1, 0.5]),
    ("early_stopping.patience", 1, 10**6, [0, -1]),
    ("early_stopping.min_delta", 0, 1e6, [-1e-9]),
    ("unfreeze.every", 1, 10**6, [0]),
    ("clip_norm", 1e-6, 1e6, [0, -1]),
    ("clip_value", 1e-6, 1e6, [0, -1]),
    ("accumulate", 1, 10**6, [0]),
    ("evaluate_every", 1, 10**9, [0]),
    ("evaluate_epochs", 1, 10**6, [0]),
    ("checkpoint_every", 1, 10**9, [0]),
    ("log_every", 1, 10**9, [0]),
    ("keep_best", 1, 10**6, [0]),
    ("ema", 1e-6, 0.99999, [0, 1]),
]
NEEDS: dict[str, dict[str, Any]] = {
    "optimizer.momentum": {"optimizer": {"name": "sgd"}},
    "schedule.final": {"schedule": {"name": "cosine"}},
    "schedule.factor": {"schedule": {"name": "plateau"}},
    "schedule.patience": {"schedule": {"name": "plateau"}},
}


def settings(key: str, value: Any) -> TrainingConfig:
    tree = copy.deepcopy(NEEDS.get(key, {}))
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
    node[last] = value
    return from_mapping(tree).check(TrainingConfig)


@pytest.mark.parametrize(("key", "least", "greatest", "beyond"), BOUNDS, ids=[bound[0] for bound in BOUNDS])
def test_numbers_have_the_bounds_that_make_sense(key: str, least: Any, greatest: Any, beyond: list[Any]) -> None:
    for value in (least, greatest):
        settings(key, value)
    for value in beyond:
        with pytest.raises(UserError, match=key.replace(".", r"[.:] ?")):
            settings(key, value)


def test_defaults_of_optimisers_are_torchs() -> None:
    ours = TrainingConfig().optimizer
    for kind in (torch.optim.Adam, torch.optim.AdamW):
        theirs = {name: value.default for name, value in inspect.signature(kind).parameters.items()}
        assert (ours.lr, tuple(ours.betas), ours.eps) == (theirs["lr"], theirs["betas"], theirs["eps"])


def test_warm_up_below_one_is_a_share_of_the_updates_and_from_one_on_their_number() -> None:
    factors = [schedule_factor(ScheduleConfig(warmup=1), step, 10) for step in range(3)]
    assert factors == pytest.approx([0.5, 1, 1])
    factors = [schedule_factor(ScheduleConfig(warmup=0.4), step, 10) for step in range(6)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "one_cycle", "plateau"])
@pytest.mark.parametrize("warmup", [0, 0.5, 3])
def test_what_is_spread_over_the_updates_needs_their_number(name: Any, warmup: float) -> None:
    config = ScheduleConfig(name=name, warmup=warmup)
    if name in ("constant", "plateau") and warmup != 0.5:
        assert schedule_factor(config, 9, None) == 1
    else:
        with pytest.raises(UserError, match="needs to know the number of updates"):
            schedule_factor(config, 9, None)


def test_options_of_other_optimisers_may_be_there_at_their_defaults() -> None:
    """Earlier versions wrote those of all."""
    written = {"name": "sgd", "momentum": 0.5, "betas": [0.9, 0.999], "eps": 1e-8}
    optimizer = from_mapping({"optimizer": written}).check(TrainingConfig).optimizer
    assert optimizer.model_dump() == {**OptimizerConfig(name="sgd").model_dump(), "momentum": 0.5, "nesterov": False}
    with pytest.raises(UserError, match="betas is for adamw and adam, not for sgd"):
        from_mapping({"optimizer": {**written, "betas": [0.8, 0.999]}}).check(TrainingConfig)
