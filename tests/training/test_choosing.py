"""Which evaluation is the best, and what ends or slows a training: on dev scores that are given."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from seqkit.config import from_mapping
from seqkit.training import Loss, Task, Trainer, TrainingConfig
from seqkit.training.best import OLD_TIES
from seqkit.training.checkpoint import Checkpoints, load_weights
from seqkit.training.trainer_state import State

SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.75, math.nan])
LOSSES = st.sampled_from([0.5, 1.0, math.inf, math.nan])


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it takes most of the time; only a power cut needs it


class Scripted(Task):
    """Two updates an epoch, and dev scores that are given: of each evaluation a score and a loss, None: no loss."""

    def __init__(self, *scores: tuple[float, float | None]) -> None:
        torch.manual_seed(1)
        self.model = nn.Linear(2, 1)
        self.script, self.asked = list(scores), 0

    def batches(self, epoch: int, start: int = 0) -> Iterable[Tensor]:
        return [torch.full((3, 2), 1.0 + epoch), torch.full((3, 2), -1.0)][start:]

    def loss(self, batch: Tensor, carry: Any) -> tuple[dict[str, Loss], Any]:
        return {"loss": Loss((self.model(batch) - 3).pow(2).sum(), 3.0)}, None

    def evaluate(self) -> dict[str, float]:
        score, loss = self.script[min(self.asked, len(self.script) - 1)]
        self.asked += 1
        return {"accuracy": score} | ({} if loss is None else {"loss": loss})


def settings(**tree: Any) -> TrainingConfig:
    return from_mapping({"log_every": 1, "metric": "accuracy", **tree}).check(TrainingConfig)


def trainer_of(folder: Path, *scores: tuple[float, float | None], **tree: Any) -> Trainer:
    return Trainer(Scripted(*scores), settings(**tree), folder, device="cpu")


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def judged(script: Sequence[tuple[float, float]], config: TrainingConfig) -> list[State]:
    """The state after each evaluation."""
    state, found = State(), []
    for step, (score, loss) in enumerate(script, 1):
        state.step = step
        state.judge({"accuracy": score, "loss": loss}, config)
        found.append(copy.deepcopy(state))
    return found


@given(st.lists(st.tuples(SCORES, LOSSES), min_size=1, max_size=9), st.booleans(), st.integers(1, 4))
def test_the_best_are_by_score_then_by_loss_then_the_latest(
    script: list[tuple[float, float]], more: bool, keep: int
) -> None:
    config = settings(metric_mode="max" if more else "min", keep_best=keep)
    worst = -math.inf if more else math.inf

    def key(step: int) -> tuple[float, float, int]:
        score, loss = script[step - 1]
        score = worst if math.isnan(score) else score
        loss = math.inf if math.isnan(loss) else loss
        return (score if more else -score, -loss, step)

    expected: list[int] = []
    for step, state in enumerate(judged(script, config), 1):
        expected = sorted([*expected, step], key=key, reverse=True)[:keep]
        assert [at for _, at in state.best] == expected
        assert set(state.dev_losses) == set(expected)


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), LOSSES), min_size=1, max_size=12),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from([0.5, 0.1]),
    st.sampled_from([0.0, 0.15]),
)
def test_plateau_is_torchs_and_a_tie_is_no_improvement(
    script: list[tuple[float, float]], more: bool, patience: int, factor: float, margin: float
) -> None:
    mode: Any = "max" if more else "min"
    config = settings(
        metric_mode=mode,
        schedule={"name": "plateau", "patience": patience, "factor": factor},
        early_stopping={"min_delta": margin},
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = ReduceLROnPlateau(
        optimizer, mode, factor, patience, threshold=margin, threshold_mode="abs", min_lr=0.0, eps=0.0
    )
    best, since = None, 0
    for (score, _), state in zip(script, judged(script, config), strict=True):
        reference.step(score)
        assert state.plateau_factor == pytest.approx(optimizer.param_groups[0]["lr"])
        better = best is None or (score > best + margin if more else score < best - margin)
        best, since = (score, 0) if better else (best, since + 1)
        assert (state.reference, state.stale) == (best, since)


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_early_stopping_ends_after_exactly_its_patience_and_says_so(
    tmp_path: Path, patience: int, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ties (at a lower loss, even) and worse scores run patience down; a better one restores all of it."""
    sign = 1.0 if mode == "max" else -1.0
    script = [(sign * 0.2, 5.0), (sign * 0.3, 4.0), *[(sign * 0.3, 3.0 - n / 9) for n in range(patience - 1)]]
    script += [(sign * 0.4, 2.0), *[(sign * (0.4 - n % 2), 1.0) for n in range(9)]]
    trainer = trainer_of(
        tmp_path, *script, epochs=30, metric_mode=mode, early_stopping={"patience": patience}, checkpoint_every=7
    )
    result = trainer.fit()
    last = 2 + (patience - 1) + 1 + patience  # evaluations
    assert trainer.state.epoch == last
    line = f"early stopping after step {2 * last}: accuracy has not improved in "
    assert result.stopped.startswith(line)
    assert f"patience: {patience})" in result.stopped
    assert f"of step {result.step}" in result.stopped
    said = capsys.readouterr().err
    assert said.count(result.stopped) == 1
    event = {"split": "early_stopping", "step": 2 * last, "epoch": last, "patience": patience, "best": result.step}
    assert records(tmp_path)[-1] == event
    log = (tmp_path / "metrics.jsonl").read_bytes()
    again = trainer_of(tmp_path, *script, epochs=30, metric_mode=mode, early_stopping={"patience": patience})
    again.restore()
    assert again.fit().stopped == result.stopped
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_patience_and_plateau_go_on_where_they_stood(tmp_path: Path, stop: int) -> None:
    script = [(0.5, 1.0), (0.5, 0.9), (0.4, 1.0), (0.6, 1.0), (0.6, 1.0), (0.5, 1.0), (0.6, 0.8), (0.9, 1.0)]
    tree = {
        "early_stopping": {"patience": 3},
        "schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "keep_best": 2,
    }
    whole = trainer_of(tmp_path / "whole", *script, epochs=9, **tree)
    result = whole.fit()
    assert whole.state.epoch == 7
    trainer_of(tmp_path / "cut", *script, epochs=stop, **tree).fit()
    again = trainer_of(tmp_path / "cut", *script[stop:], epochs=9, **tree)
    again.restore()
    assert again.fit().step == result.step == 14
    states = [{**vars(trainer.state), "logs": None} for trainer in (again, whole)]  # timings differ in length
    assert states[0] == states[1]
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_a_training_of_full_length_was_not_stopped_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even where patience ends with it."""
    result = trainer_of(tmp_path, (0.3, 1.0), epochs=3, early_stopping={"patience": 2}).fit()
    assert result.stopped == ""
    assert "early stopping" not in capsys.readouterr().err
    assert all(record["split"] != "early_stopping" for record in records(tmp_path))


def test_plateau_lowers_the_rate_of_the_next_update(tmp_path: Path) -> None:
    tree = {"schedule": {"name": "plateau", "patience": 1, "factor": 0.1}, "optimizer": {"name": "sgd", "lr": 0.01}}
    trainer_of(tmp_path, (0.5, 1.0), (0.5, 0.9), (0.4, 0.9), (0.6, 0.9), (0.5, 0.9), epochs=6, **tree).fit()
    rates = [record["lr"] for record in records(tmp_path) if record["split"] == "train"]
    assert rates == pytest.approx([0.01] * 6 + [0.001] * 6)


def test_a_tie_moves_the_best_and_the_log_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A score of 1.0 from the first epoch on keeps the weights of the lowest loss."""
    trainer = trainer_of(tmp_path, (1.0, 0.28), (1.0, 0.1), (1.0, 0.2), (1.0, 0.1), epochs=4)
    result = trainer.fit()
    assert result.step == 8
    notes = [line.partition("loss")[2] for line in capsys.readouterr().err.splitlines() if "dev:" in line]
    assert notes == [
        " 0.2800  (best)",
        " 0.1000  (best: the score of step 2 again, at a lower loss)",
        " 0.2000",
        " 0.1000  (best: the score of step 4 again, later)",
    ]
    last = load_weights(Checkpoints(tmp_path / "checkpoints").weights(8))
    assert all(torch.equal(value, last[name]) for name, value in load_weights(tmp_path / "model.safetensors").items())


def test_without_a_dev_loss_the_later_of_equals_is_best(tmp_path: Path) -> None:
    assert trainer_of(tmp_path, (0.5, None), (0.5, None), (0.4, None), epochs=3).fit().step == 4


@pytest.mark.parametrize(("loss", "kept"), [(0.5, True), (1.0, True), (1.5, False)])
def test_the_average_of_the_best_is_kept_by_the_same_order(tmp_path: Path, loss: float, kept: bool) -> None:
    script = [(0.5, 2.0), (0.5, 1.0), (0.5, 1.0), (0.5, loss)]
    trainer = trainer_of(tmp_path, *script, epochs=2, keep_best=2, average_best=True)
    result = trainer.fit()
    assert result.averaged is kept
    assert result.scores["loss"] == (loss if kept else 1.0)
    first, second = (load_weights(Checkpoints(tmp_path / "checkpoints").weights(step)) for step in (4, 2))
    for state in (trainer.task.model.state_dict(), load_weights(tmp_path / "model.safetensors")):
        for name, value in state.items():
            torch.testing.assert_close(value, (first[name] + second[name]) / 2 if kept else first[name])


def test_a_run_begun_without_dev_losses_goes_on_by_the_old_order(tmp_path: Path) -> None:
    """The earlier of equals: what such a run was made with."""
    trainer_of(tmp_path / "a", (0.5, 2.0), epochs=1).fit()
    checkpoints = Checkpoints(tmp_path / "a/checkpoints")
    weights, saved = checkpoints.load(2)
    for name in ("ties", "dev_losses", "evaluations", "zeros"):
        del saved["state"][name]
    checkpoints.save(2, weights, saved)
    trainer = trainer_of(tmp_path / "a", (0.5, 1.0), epochs=3)
    assert trainer.restore() == 2
    assert trainer.state.ties == OLD_TIES
    assert trainer.fit().step == 2


@pytest.mark.parametrize(("score", "kept"), [(0.5, True), (0.4, False)])
def test_by_the_old_order_a_mean_of_equal_score_is_kept_whatever_its_loss(
    tmp_path: Path, score: float, kept: bool
) -> None:
    script = [(0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (score, 1.5)]
    trainer = trainer_of(tmp_path, *script, epochs=2, keep_best=2, average_best=True)
    trainer.state.ties = OLD_TIES
    result = trainer.fit()
    assert (result.averaged, result.step) == (kept, 2)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_dev_is_scored_after_so_many_epochs_and_at_the_end(tmp_path: Path, every: int) -> None:
    trainer_of(tmp_path, (0.5, 1.0), epochs=5, evaluate_epochs=every).fit()
    found = [record["epoch"] for record in records(tmp_path) if record["split"] == "dev"]
    assert found == sorted({*range(every, 6, every), 5})


@pytest.mark.parametrize("zeros", [1, 2, 3, 4])
def test_a_score_that_stays_0_is_said(tmp_path: Path, zeros: int, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_of(tmp_path / "a", (0.0, 0.0), epochs=zeros).fit()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("accuracy: 0 in ")]
    assert len(lines) == 1 + (zeros > 3)  # after the third, and at the end
    assert lines[-1].startswith(
        f"accuracy: 0 in {f'all {zeros} evaluations' if zeros > 1 else 'its only evaluation'}: "
    )
    assert "too few updates" in lines[-1]
    trainer_of(tmp_path / "b", (0.0, 1.0), (0.1, 1.0), (0.0, 1.0), epochs=5).fit()
    assert "accuracy: 0 in" not in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [2, 4, 6])
def test_a_damaged_checkpoint_among_the_best_leaves_the_next_one(tmp_path: Path, damaged: int) -> None:
    """Of the best, at steps 4, 2 and 6 in this order, one is damaged: the others stay in theirs."""
    tree = {"keep_best": 3}
    script = [(0.7, 1.0), (0.9, 1.0), (0.5, 1.0), (0.1, 1.0)]
    trainer_of(tmp_path, *script, epochs=4, **tree).fit()
    path = Checkpoints(tmp_path / "checkpoints").path(damaged) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    trainer = trainer_of(tmp_path, (0.2, 1.0), epochs=6, **tree)
    assert trainer.restore() == 8
    left = [step for step in (4, 2, 6) if step != damaged]
    assert [step for _, step in trainer.state.best] == left
    result = trainer.fit()
    assert [step for _, step in trainer.state.best] == [*left, 12]
    assert result.step == left[0]
    best = load_weights(Checkpoints(tmp_path / "checkpoints").weights(left[0]))
    for state in (load_weights(tmp_path / "model.safetensors"), trainer.task.model.state_dict()):
        assert all(torch.equal(value, state[name]) for name, value in best.items())


class Measured(Scripted):
    """Its scores are those of its weights; training leads away from the best ones."""

    def loss(self, batch: Tensor, carry: Any) -> tuple[dict[str, Loss], Any]:
        return {"loss": Loss((self.model.weight.sum() - 50.0).pow(2), 1.0)}, None

    def evaluate(self) -> dict[str, float]:
        away = float((self.model.weight.sum() - 2.0).abs().detach())
        return {"accuracy": -away, "loss": away}


@pytest.mark.parametrize("tree", [{}, {"ema": 0.5}, {"keep_best": 3, "average_best": True}, {"checkpoint_every": 1}])
def test_the_scores_are_those_of_the_weights_that_are_handed_out(tmp_path: Path, tree: dict[str, Any]) -> None:
    """Also of averages, and where the best weights are not the last."""
    shutil.rmtree(tmp_path)
    task = Measured()
    config = settings(epochs=8, optimizer={"lr": 0.3}, **tree)
    result = Trainer(task, config, tmp_path, device="cpu").fit()
    assert result.scores == task.evaluate()
    assert result.step < 16
    dev = {record["step"]: record["accuracy"] for record in records(tmp_path) if record["split"] == "dev"}
    assert result.averaged or result.scores["accuracy"] == max(dev.values()) == dev[result.step]
    other = Measured()
    other.model.load_state_dict(load_weights(tmp_path / "model.safetensors"))
    assert other.evaluate() == result.scores
