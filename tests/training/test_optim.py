"""Schedules against torch's own, groups, clipping."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, OneCycleLR

from seqkit.errors import UserError
from seqkit.training.averaging import MovingAverage
from seqkit.training.config import TrainingConfig
from seqkit.training.optim import OptimizerConfig, clip, make_optimizer, set_rate
from seqkit.training.schedules import ScheduleConfig, schedule_factor


def rates(scheduler: LRScheduler, steps: int) -> list[float]:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            found.append(scheduler.get_last_lr()[0])
            scheduler.optimizer.step()
            scheduler.step()
    return found


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def ours(total: int, **tree: object) -> list[float]:
    config = TrainingConfig(schedule=tree).schedule  # type: ignore[arg-type]
    return [schedule_factor(config, step, total) for step in range(total)]


def test_schedules_equal_torchs() -> None:
    total = 20
    linear = rates(LinearLR(sgd(), 1.0, 0.1, total_iters=total - 1), total)
    assert ours(total, name="linear", final=0.1) == pytest.approx(linear)
    cosine = rates(CosineAnnealingLR(sgd(), total - 1, eta_min=0.2), total)
    assert ours(total, name="cosine", final=0.2) == pytest.approx(cosine)
    cycle = rates(OneCycleLR(sgd(), 1.0, total, pct_start=0.3, div_factor=25, final_div_factor=1e12), total)
    assert ours(total, name="one_cycle") == pytest.approx(cycle, abs=1e-9)
    warm = rates(LambdaLR(sgd(), lambda step: min((step + 1) / 6, 1.0)), total)
    assert ours(total, name="constant", warmup=5) == pytest.approx(warm)
    assert ours(total, name="constant", warmup=0.25) == pytest.approx(warm)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "one_cycle", "plateau"])
@pytest.mark.parametrize("total", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1, 60])
def test_factors_stay_between_nothing_and_the_peak(name: str, total: int, warmup: float) -> None:
    values = ours(total, name=name, warmup=warmup) + [schedule_factor(ScheduleConfig(name=name), total + 9, total)]  # type: ignore[arg-type]
    assert all(0 <= value <= 1 and math.isfinite(value) for value in values)


def test_a_schedule_that_needs_the_end_says_so() -> None:
    with pytest.raises(UserError, match=r"linear needs to know the number of updates: give training\.steps"):
        schedule_factor(ScheduleConfig(name="linear"), 0, None)
    assert schedule_factor(ScheduleConfig(warmup=4), 0, None) == pytest.approx(0.2)


def test_groups_by_pattern_and_no_decay_for_vectors() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 2), "output": nn.Linear(2, 3)})
    config = OptimizerConfig(lr=0.1, weight_decay=0.5, lr_factors={"embed*": 0.1})
    optimizer = make_optimizer(model, config)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {name: (of[id(p)]["lr"], of[id(p)]["weight_decay"]) for name, p in model.named_parameters()}
    assert found == {
        "embedding.weight": (pytest.approx(0.01), 0.5),
        "output.weight": (0.1, 0.5),
        "output.bias": (0.1, 0.0),
    }
    set_rate(optimizer, 0.5)
    assert of[id(model["embedding"].weight)]["lr"] == pytest.approx(0.005)
    with pytest.raises(
        UserError, match=r"'embeding.weight' matches no trained parameter; did you mean 'embedding.weight'"
    ):
        make_optimizer(model, OptimizerConfig(lr_factors={"embeding.weight": 0.1}))
    model.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        make_optimizer(model, config)


def test_clip_by_norm_and_value_return_the_norm_before() -> None:
    def parameters() -> list[nn.Parameter]:
        made = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
        made[0].grad, made[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([-4.0])
        return made

    for norm, value, expected in [(1.0, None, [0.6, -0.8]), (None, 2.0, [2.0, -2.0]), (None, None, [3.0, -4.0])]:
        made = parameters()
        assert clip(made, norm, value).item() == pytest.approx(5.0)
        assert [made[0].grad[0].item(), made[1].grad[0].item()] == pytest.approx(expected, rel=1e-5)  # type: ignore[index,union-attr]


def test_moving_average_is_the_plain_recurrence() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    average = MovingAverage(model, 0.9)
    expected = model.weight.item()
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.fill_(math.sin(step))
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * math.sin(step)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-12)
    assert model.weight.item() == math.sin(199)
