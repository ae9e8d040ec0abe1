"""What a training carries with it: between batches, over a stop and a resume, and past an evaluation."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqkit import run
from seqkit.config import from_mapping
from seqkit.errors import Stopped
from seqkit.training import Loss, Task, Trainer, TrainingConfig
from seqkit.training.checkpoint import load_weights
from seqkit.training.update import _on_cpu

ROWS, SIZE = 20, 4  # five batches an epoch


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it takes most of the time; only a power cut needs it


class Recorded(Task):
    """A small network; it records each carry that it gets, and its batches may be of any size of numbers."""

    def __init__(self, dropout: float = 0.0, scales: Iterable[float] = ()) -> None:
        torch.manual_seed(4)
        self.model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 1))
        self.x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1))
        self.scales, self.updates = dict(enumerate(scales)), 0
        self.carries: list[int | None] = []
        self.stop_in = 0  # a signal comes in this call of `loss`

    def batches(self, epoch: int, start: int = 0) -> Iterable[tuple[int, Tensor]]:
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch)).split(SIZE)
        return [(5 * epoch + number, rows) for number, rows in enumerate(order)][start:]

    def loss(self, batch: tuple[int, Tensor], carry: Any) -> tuple[dict[str, Loss], Any]:
        number, rows = batch
        self.carries.append(None if carry is None else int(carry))
        if len(self.carries) == self.stop_in:
            os.kill(os.getpid(), signal.SIGTERM)
        seen = 0.0 if carry is None else float(carry) / 50
        error = (self.model(self.x[rows]).float() - self.x[rows].sum(1, keepdim=True) - seen) * self.scales.get(
            number, 1.0
        )
        return {"loss": Loss(error.pow(2).sum(), float(SIZE))}, torch.tensor(number)

    def evaluate(self) -> dict[str, float]:
        return {"loss": float((self.model(self.x) - self.x.sum(1, keepdim=True)).pow(2).mean().detach())}


def settings(**tree: Any) -> TrainingConfig:
    return from_mapping({"log_every": 2, **tree}).check(TrainingConfig)


def trainer_of(task: Task, folder: Path, **tree: Any) -> Trainer:
    return Trainer(task, settings(**tree), folder, device="cpu", seed=7)


def stopped_and_resumed(
    make: Callable[[], Recorded], folder: Path, stop: int, **tree: Any
) -> tuple[Recorded, Recorded]:
    """The task that was stopped in its `stop`-th batch, and the one that went on."""
    first, second = make(), make()
    first.stop_in = stop
    with pytest.raises(Stopped):
        trainer_of(first, folder, **tree).fit()
    trainer = trainer_of(second, folder, **tree)
    assert trainer.restore() == stop
    trainer.fit()
    return first, second


def same(one: Task, other: Task) -> bool:
    states = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def lines(folder: Path, split: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [record for record in found if record["split"] == split]


def test_a_carry_goes_from_batch_to_batch_and_ends_with_its_epoch(tmp_path: Path) -> None:
    task = Recorded()
    trainer_of(task, tmp_path, epochs=3).fit()
    assert task.carries == [None if number % 5 == 0 else number - 1 for number in range(15)]


@pytest.mark.parametrize("stop", [4, 5, 6])
def test_a_resumed_training_gets_the_carry_that_it_was_stopped_with(tmp_path: Path, stop: int) -> None:
    """In the middle of an epoch the last one; at its end none."""
    whole = Recorded(dropout=0.3)
    trainer_of(whole, tmp_path / "whole", epochs=2).fit()
    first, second = stopped_and_resumed(lambda: Recorded(dropout=0.3), tmp_path / "cut", stop, epochs=2)
    assert first.carries + second.carries == whole.carries
    assert second.carries[0] == (None if stop == 5 else stop - 1)
    assert same(whole, second)


class Careless(Recorded):
    """Its evaluation draws random numbers of every kind."""

    draws = True

    def evaluate(self) -> dict[str, float]:
        if self.draws:
            torch.rand(3), np.random.rand(3), random.random()
        return super().evaluate()

    def loss(self, batch: tuple[int, Tensor], carry: Any) -> tuple[dict[str, Loss], Any]:
        noise = random.random() + float(np.random.rand())
        self.model[0].bias.data += 0.01 * noise
        return super().loss(batch, carry)


def test_an_evaluation_does_not_move_the_random_numbers_of_training(tmp_path: Path) -> None:
    """Whether it draws any, and how often dev is scored."""
    tasks = []
    for draws, every in ((True, 1), (False, 1), (True, 3), (True, 15)):
        task = Careless(dropout=0.3)
        task.draws = draws
        trainer = trainer_of(task, tmp_path / f"{draws}{every}", steps=15, evaluate_every=every, metric_mode="max")
        trainer.fit()
        last = load_weights(tmp_path / f"{draws}{every}/checkpoints/step-00000015/model.safetensors")
        task.model.load_state_dict(last)
        tasks.append(task)
    assert all(same(tasks[0], task) for task in tasks[1:])


def reference(
    task: Recorded, epochs: int, ema: float, clip: float | None
) -> tuple[dict[str, Tensor], list[bool], float]:
    """The same training as a plain loop by torch's own parts: averages of the weights, which updates were made, the
    scale in the end."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.05, momentum=0.9)
    average = {name: value.detach().clone() for name, value in task.model.named_parameters()}
    made: list[bool] = []
    for epoch in range(epochs):
        carry = None
        for batch in task.batches(epoch):
            with torch.autocast("cpu", torch.float16):
                losses, carry = task.loss(batch, carry)
            scaler.scale(losses["loss"].sum / SIZE).backward()
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(task.model.parameters(), math.inf if clip is None else clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            made.append(bool(norm.isfinite()))
            if made[-1]:
                decay = min(ema, (1 + sum(made)) / (10 + sum(made)))
                for name, value in task.model.named_parameters():
                    average[name].lerp_(value.detach(), 1 - decay)
    return average, made, scaler.get_scale()


@pytest.mark.parametrize("clip", [0.05, None])
@pytest.mark.parametrize("stop", [2, 5, 7, 8, 12])
def test_fp16_is_torchs_also_over_overflows_and_a_resume(tmp_path: Path, clip: float | None, stop: int) -> None:
    """The gradient is clipped after it was unscaled; an update that overflows is skipped, and counts for nothing but
    the scale; a resume keeps the scale."""
    scales = [1.0] * 6 + [300.0, 1.0, 1e4] + [1.0] * 6

    def make() -> Recorded:
        return Recorded(scales=scales)

    expected, made, scale = reference(make(), 3, 0.9, clip)
    assert 0 < made.count(False) < 10
    assert made[stop - 1 :].count(False) or stop == 12
    tree = {
        "epochs": 3,
        "precision": "fp16",
        "ema": 0.9,
        "clip_norm": clip,
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "metric_mode": "max",
        "keep_best": 9,
        "log_every": 1,
    }
    stopped_and_resumed(make, tmp_path, stop, **tree)
    last = load_weights(tmp_path / "checkpoints/step-00000015/model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(last[name], value, rtol=1e-5, atol=1e-6)
    trainer = trainer_of(make(), tmp_path, **tree)
    trainer.restore()
    assert trainer.updater.scaler.get_scale() == scale
    assert trainer.average is not None
    assert trainer.average.updates == made.count(True)
    norms = [record["grad_norm"] for record in lines(tmp_path, "train")]
    assert [norm > 0 for norm in norms] == made


def test_the_logged_norm_is_the_mean_of_the_updates_that_were_made(tmp_path: Path) -> None:
    scales = [0.01, 1e4, 0.02, 0.03, 1e4, *[0.01] * 5]
    tree = {"epochs": 2, "precision": "fp16", "optimizer": {"name": "sgd", "lr": 1e-9}, "clip_norm": None}
    trainer_of(Recorded(scales=scales), tmp_path / "one", log_every=1, **tree).fit()
    single = [record["grad_norm"] for record in lines(tmp_path / "one", "train")]
    assert [norm > 0 for norm in single] == [True, False, True, True, False, *[True] * 5]
    trainer_of(Recorded(scales=scales), tmp_path / "all", log_every=5, **tree).fit()
    first, second = (record["grad_norm"] for record in lines(tmp_path / "all", "train"))
    assert first == pytest.approx((single[0] + single[2] + single[3]) / 3, rel=1e-3)
    assert second == pytest.approx(sum(single[5:]) / 5, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "length"),
    [(["training.epochs=2"], {"epochs": 2}), (["training.epochs=null", "training.steps=13"], {"steps": 13})],
)
def test_a_run_that_is_shortened_in_mid_epoch_ends_as_if_it_had_been_asked_for_at_first(
    generated_data: Path, tmp_path: Path, changes: list[str], length: dict[str, int]
) -> None:
    def tree(**training: Any) -> dict[str, Any]:
        return {
            "task": "sentiment",
            "name": "r",
            "device": "cpu",
            "data": {"train": str(generated_data / "sst2/train.tsv"), "dev": str(generated_data / "sst2/dev.tsv")}
            | {"batch_size": 16},
            "model": {"embedding": {"size": 4}, "encoder": {"cell": "rnn", "hidden_size": 4}, "dropout": 0.2},
            "training": {"log_every": 1, "optimizer": {"lr": 0.02}, **training},
        }

    whole = run.train(tree(**length), root=tmp_path / "whole")
    from seqkit.training.update import Updater

    call = Updater.__call__

    def stopping(self: Updater, window: Any, step: int, *rest: Any) -> Any:
        if step == 9:  # of eight in an epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, window, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updater, "__call__", stopping)
        with pytest.raises(Stopped):
            run.train(tree(epochs=5), root=tmp_path / "cut")
    cut = run.resume(tmp_path / "cut/r", *changes)
    assert (cut.dev, cut.test) == (whole.dev, whole.test)
    for name in ("model.safetensors", "metrics.jsonl", "scores.json", "dev.jsonl"):
        assert (tmp_path / "cut/r" / name).read_bytes() == (tmp_path / "whole/r" / name).read_bytes()


def test_a_task_that_counts_no_tokens_shows_no_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for counts in (False, True):
        task = Recorded()
        if counts:
            task.tokens = lambda batch: SIZE  # type: ignore[method-assign]
        shutil.rmtree(tmp_path)
        trainer_of(task, tmp_path, epochs=1).fit()
        said = capsys.readouterr().err
        timing = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text("utf-8").splitlines()]
        assert ("tok/s" in said) is counts
        assert all(("tokens_per_second" in record) is counts for record in timing)
        assert all(record["seconds"] >= 0 for record in timing)


class Pair(NamedTuple):
    """A carry as a user may make one."""

    state: torch.Tensor
    count: int


def test_a_carry_of_any_shape_reaches_the_other_processes() -> None:
    one = torch.ones(2)
    carry = {"a": one, "b": [Pair(one, 3), None], "c": (one, {"d": one})}
    there = _on_cpu(carry)
    assert there == carry
    assert isinstance(there["b"][0], Pair)
    assert [type(part) for part in there.values()] == [torch.Tensor, list, tuple]
