"""The loop: exact resume, accumulation, averaging, early stopping, signals, failures."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkit.config import from_mapping
from seqkit.errors import Stopped, UserError
from seqkit.training import Loss, Task, Trainer, TrainingConfig
from seqkit.training import trainer as trainer_module
from seqkit.training.checkpoint import Checkpoints, load_weights
from seqkit.training.loggers import TensorBoardLogger


class Regression(Task):
    """A two-layer network with dropout on generated rows; batches in a seeded order."""

    def __init__(self, rows: int = 60, size: int = 8, losses: int = 1, dropout: float = 0.2) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(rows, 4, generator=generator)
        self.y = (self.x.sum(1, keepdim=True)).tanh()
        torch.manual_seed(5)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1))
        self.size, self.losses = size, losses
        self.calls = 0
        self.at: dict[int, Any] = {}

    def batches(self, epoch: int, start: int = 0) -> Iterable[Tensor]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(epoch))
        return list(order.split(self.size))[start:]

    def loss(self, batch: Tensor, carry: Any) -> tuple[dict[str, Loss], Any]:
        self.calls += 1
        if self.calls in self.at:
            self.at[self.calls]()
        error = self.model(self.x[batch]) - self.y[batch]
        total = {"square": Loss(error.pow(2).sum(), float(len(batch)))}
        if self.losses == 2:
            # Another weight per batch, so that no common factor can stand for both.
            total["first"] = Loss(error[:1].abs().sum(), 1.0, coefficient=0.5)
        return total, (0 if carry is None else carry) + batch.sum()

    def weights(self, batch: Tensor) -> dict[str, float]:
        weights = {"square": float(len(batch)), "first": 1.0}
        return dict(list(weights.items())[: self.losses])

    def evaluate(self) -> dict[str, float]:
        torch.rand(3)  # a careless task: must not disturb the training's random numbers
        return {"loss": float((self.model(self.x) - self.y).pow(2).mean().detach()), "negated": -self.calls / 1.0}

    def tokens(self, batch: Tensor) -> int:
        return len(batch)

    def describe(self, batch: Tensor) -> list[str]:
        return [f"row {int(row)}" for row in batch]


def settings(**tree: Any) -> TrainingConfig:
    return from_mapping({"log_every": 3, **tree}).check(TrainingConfig)


def fit(task: Task, folder: Path, **tree: Any) -> dict[str, Tensor]:
    Trainer(task, settings(**tree), folder, device="cpu", seed=7).fit()
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


VARIANTS: list[dict[str, Any]] = [
    {"epochs": 3},
    {"steps": 20, "evaluate_every": 7, "checkpoint_every": 5},
    {"epochs": 3, "ema": 0.9, "accumulate": 3},
    {"epochs": 4, "schedule": {"name": "plateau", "patience": 0}, "keep_best": 2, "average_best": True},
    {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, "schedule": "one_cycle"},
]


@pytest.mark.parametrize("tree", VARIANTS)
def test_same_seed_same_result(tmp_path: Path, tree: dict[str, Any]) -> None:
    one, other = fit(Regression(), tmp_path / "a", **tree), fit(Regression(), tmp_path / "b", **tree)
    assert same(one, other)
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()


@pytest.mark.parametrize("tree", VARIANTS)
@pytest.mark.parametrize("stop", [2, 9, 13, 16])
def test_a_run_that_was_stopped_ends_as_if_it_had_not(tmp_path: Path, tree: dict[str, Any], stop: int) -> None:
    whole = fit(Regression(), tmp_path / "whole", **tree)
    task = Regression()
    task.at[stop] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    trainer = Trainer(task, settings(**tree), tmp_path / "cut", device="cpu", seed=7)
    with pytest.raises(Stopped, match="seqkit resume") as caught:
        trainer.fit()
    assert caught.value.exit_code == 143
    again = Regression()
    with torch.no_grad():
        again.model[0].weight.zero_()
    torch.rand(100)
    trainer = Trainer(again, settings(**tree), tmp_path / "cut", device="cpu", seed=7)
    assert trainer.restore() > 0
    trainer.fit()
    assert same(whole, again.model.state_dict())
    saved = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert saved[0] == saved[1]
    logs = [records(tmp_path / run / "metrics.jsonl") for run in ("whole", "cut")]
    for log in logs:
        for record in log:
            record.pop("negated", None)  # counts calls, which start anew
    assert logs[0] == logs[1]


@pytest.mark.parametrize("every", [3, 50])
def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, every: int) -> None:
    tree = {"epochs": 2, "ema": 0.9, "log_every": every}
    whole = fit(Regression(), tmp_path, **tree)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    task = Regression()
    trainer = Trainer(task, settings(**tree), tmp_path, device="cpu", seed=7)
    assert trainer.restore() == 16
    trainer.fit()
    assert same(whole, task.model.state_dict())
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert [record["epoch"] for record in records(tmp_path / "metrics.jsonl")][-1] == 2


def test_a_signal_in_the_last_evaluation_is_not_lost(tmp_path: Path) -> None:
    task = Regression()
    evaluate = task.evaluate
    calls: list[int] = []

    def slow() -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate()

    task.evaluate = slow  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="seqkit resume") as caught:
        fit(task, tmp_path, epochs=2)
    assert caught.value.exit_code == 130
    assert Checkpoints(tmp_path / "checkpoints").latest() == 16


def test_a_lost_terminal_saves_too_but_not_under_nohup(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    given = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, given))
    task = Regression()
    task.at[2] = lambda: os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(Stopped, match="everything is saved") as caught:
        fit(task, tmp_path / "a", epochs=1)
    assert caught.value.exit_code == 129
    task = Regression()
    task.at[2] = lambda: os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(task, tmp_path / "b", epochs=1)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_twice_stops_at_once_and_says_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Regression()

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    task.at[11] = twice
    with pytest.raises(KeyboardInterrupt):
        fit(task, tmp_path, epochs=2)
    assert f"the checkpoint of step 8 is whole: `seqkit resume {tmp_path}`" in capsys.readouterr().err
    assert Checkpoints(tmp_path / "checkpoints").latest() == 8


def test_an_error_says_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def break_it() -> None:
        raise ZeroDivisionError

    for call, kept in ((2, "there is no checkpoint yet"), (11, "the checkpoint of step 8 is whole")):
        task = Regression()
        task.at[call] = break_it
        with pytest.raises(ZeroDivisionError):
            fit(task, tmp_path / str(call), epochs=2)
        assert f"stopped in update {call} by an error; {kept}" in capsys.readouterr().err


def test_a_second_training_does_not_delete_what_a_first_has_left(tmp_path: Path) -> None:
    fit(Regression(), tmp_path, epochs=1)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds the checkpoints of an earlier training"):
        fit(Regression(), tmp_path, epochs=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("losses", [1, 2])
def test_the_logged_loss_is_what_is_minimised(tmp_path: Path, losses: int) -> None:
    """One update from all rows, by accumulation: the log must show the loss over them, not over the last batch."""
    task = Regression(losses=losses, dropout=0.0)
    with torch.no_grad():
        error = task.model(task.x) - task.y
        expected = error.pow(2).mean().item()
        firsts = [task.model(task.x[b[:1]]) - task.y[b[:1]] for b in task.batches(0)]
        if losses == 2:
            expected += 0.5 * torch.cat(firsts).abs().mean().item()
    fit(task, tmp_path, epochs=1, accumulate=8, log_every=1)
    first = records(tmp_path / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    assert ("square" in first) == (losses == 2)


def test_averaged_tied_weights_are_averages_under_both_names(tmp_path: Path) -> None:
    class Tied(Regression):
        def __init__(self) -> None:
            super().__init__(dropout=0.0)
            self.model = nn.Sequential(
                nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False), nn.Linear(4, 1)
            )
            self.model[2].weight = self.model[0].weight

    task = Tied()
    fit(task, tmp_path, epochs=3, ema=0.99)
    found = load_weights(tmp_path / "model.safetensors")
    assert torch.equal(found["0.weight"], found["2.weight"])
    dev = {record["step"]: record["loss"] for record in records(tmp_path / "metrics.jsonl") if record["split"] == "dev"}
    task.model.eval()
    assert task.evaluate()["loss"] == pytest.approx(min(dev.values()), rel=1e-6)


def test_a_crash_between_checkpoints_is_undone(tmp_path: Path) -> None:
    """What was logged after the last checkpoint is cut off again."""
    whole = fit(Regression(), tmp_path / "whole", epochs=3)
    task = Regression()

    def crash() -> None:
        raise RuntimeError("crash")

    task.at[14] = crash
    with pytest.raises(RuntimeError, match="crash"):
        Trainer(task, settings(epochs=3), tmp_path / "cut", device="cpu", seed=7).fit()
    again = Regression()
    trainer = Trainer(again, settings(epochs=3), tmp_path / "cut", device="cpu", seed=7)
    assert trainer.restore() == 8
    trainer.fit()
    assert same(whole, again.model.state_dict())
    steps = [record["step"] for record in records(tmp_path / "cut/metrics.jsonl")]
    assert steps == [record["step"] for record in records(tmp_path / "whole/metrics.jsonl")]


@pytest.mark.parametrize("losses", [1, 2])
def test_accumulated_batches_equal_one_large_batch(tmp_path: Path, losses: int) -> None:
    """60 rows as 8+8+...+4: with several losses and uneven batches the mean of means would differ."""

    class Whole(Regression):
        def batches(self, epoch: int, start: int = 0) -> Iterable[Tensor]:
            return [torch.cat(list(super().batches(epoch)))][start:]

        def loss(self, batch: Tensor, carry: Any) -> tuple[dict[str, Loss], Any]:
            parts = [Regression.loss(self, part, None)[0] for part in batch.split(self.size)]
            names = parts[0]
            return {
                name: Loss(
                    torch.stack([part[name].sum for part in parts]).sum(),
                    sum(part[name].weight for part in parts),
                    names[name].coefficient,
                )
                for name in names
            }, None

    tree = {"epochs": 2, "clip_norm": None, "optimizer": {"name": "sgd", "lr": 0.5}}
    one = fit(Regression(losses=losses, dropout=0.0), tmp_path / "a", accumulate=8, **tree)
    other = fit(Whole(losses=losses, dropout=0.0), tmp_path / "b", **tree)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)


def test_training_learns_and_keeps_the_best(tmp_path: Path) -> None:
    task = Regression()
    before = task.evaluate()["loss"]
    result = Trainer(task, settings(epochs=40, optimizer={"lr": 0.01}), tmp_path, device="cpu", seed=7).fit()
    log = records(tmp_path / "metrics.jsonl")
    dev = {record["step"]: record["loss"] for record in log if record["split"] == "dev"}
    task.model.eval()
    assert result.scores["loss"] == min(dev.values()) == pytest.approx(task.evaluate()["loss"])
    assert dev[result.step] == min(dev.values()) < before / 4
    assert same(load_weights(tmp_path / "model.safetensors"), task.model.state_dict())
    assert all(record["grad_norm"] > 0 for record in log if record["split"] == "train")
    assert {"step", "tokens_per_second"} <= set(records(tmp_path / "timing.jsonl")[0])


def test_early_stopping_counts_evaluations_without_a_better_score(tmp_path: Path) -> None:
    task = Regression()
    scores: Iterator[float] = iter([0.5, 0.6, 0.59, 0.6, 0.605, 0.9])
    task.evaluate = lambda: {"accuracy": next(scores)}  # type: ignore[method-assign]
    tree = {"epochs": 9, "metric": "accuracy", "early_stopping": {"patience": 3, "min_delta": 0.01}, "keep_best": 2}
    trainer = Trainer(task, settings(**tree), tmp_path, device="cpu")
    trainer.fit()  # five evaluations, and one more of the chosen weights
    assert next(scores, None) is None
    assert trainer.state.epoch == 5
    assert [step for _, step in trainer.state.best] == [40, 32]  # of equals the later


def test_only_the_best_and_the_last_checkpoint_stay(tmp_path: Path) -> None:
    task = Regression()
    values = iter([3.0, 1.0, 2.0, 5.0, 4.0, 1.0])
    task.evaluate = lambda: {"loss": next(values)}  # type: ignore[method-assign]
    Trainer(task, settings(epochs=5, keep_best=2), tmp_path, device="cpu").fit()
    assert Checkpoints(tmp_path / "checkpoints").steps() == [16, 24, 40]


def test_average_of_the_best_is_their_mean_and_kept_only_if_no_worse(tmp_path: Path) -> None:
    for final, kept in ((0.5, True), (9.0, False)):
        task, folder = Regression(), tmp_path / str(kept)
        values = iter([3.0, 1.0, 2.0, 1.0, final])
        task.evaluate = lambda values=values: {"loss": next(values)}  # type: ignore[method-assign,misc]
        result = Trainer(task, settings(epochs=3, keep_best=2, average_best=True), folder, device="cpu").fit()
        states = [load_weights(Checkpoints(folder / "checkpoints").weights(step)) for step in (16, 24)]
        assert result.averaged is kept
        for name, value in load_weights(folder / "model.safetensors").items():
            expected = (states[0][name] + states[1][name]) / 2 if kept else states[0][name]
            torch.testing.assert_close(value, expected)


def test_a_loss_that_is_not_finite_stops_with_step_examples_and_checkpoint(tmp_path: Path) -> None:
    task = Regression()

    def poison() -> None:
        with torch.no_grad():
            task.model[0].weight.fill_(float("nan"))

    task.at[11] = poison
    with pytest.raises(Stopped) as caught:
        fit(task, tmp_path, epochs=3)
    assert caught.value.exit_code == 1
    assert "step 11: the loss is nan" in str(caught.value)
    assert "the checkpoint of step 8 is whole" in str(caught.value)
    assert "row " in str(caught.value)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 8


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    task = Regression()
    task.at[2] = lambda: task.model[0].weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(Stopped, match=r"step 2: the gradient is (nan|inf)"):
        fit(task, tmp_path, epochs=1)


def test_a_disk_that_is_full_after_a_checkpoint_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a checkpoint that cannot be written and is whole."""

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer_module, "copyfile", full)
    with pytest.raises(Stopped) as stopped:
        fit(Regression(), tmp_path, epochs=None, steps=4, checkpoint_every=2)
    assert "cannot write model.safetensors after step 2 (No space left on device)" in str(stopped.value)
    assert "the checkpoint of step 2 is whole" in str(stopped.value)


def test_a_disk_that_refuses_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Regression()
    original = Checkpoints.save

    def full(self: Checkpoints, step: int, *rest: Any) -> None:
        if step > 8:
            raise OSError(28, "No space left on device")
        original(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(Stopped, match=r"No space left on device.*the checkpoint of step 8 is whole"):
        fit(task, tmp_path, epochs=3)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 8


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    task = Regression()

    def second() -> None:
        with pytest.raises(UserError, match=f"process {os.getpid()} is training"):
            fit(Regression(), tmp_path, epochs=1)

    task.at[2] = second
    fit(task, tmp_path, epochs=1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_reaches_the_model(tmp_path: Path, precision: str) -> None:
    task = Regression()
    seen: set[torch.dtype] = set()
    task.model[0].register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    fit(task, tmp_path, epochs=1, precision=precision)
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert task.model[0].weight.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own import
def test_compile_gives_the_same_names_and_nearly_the_same_weights(tmp_path: Path) -> None:
    plain = fit(Regression(dropout=0.0), tmp_path / "a", epochs=1)
    compiled = fit(Regression(dropout=0.0), tmp_path / "b", epochs=1, compile=True)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)


def test_tensorboard_files_hold_the_scores(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fit(Regression(), tmp_path, epochs=2, tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("dev/loss")] == [8, 16]


def test_tensorboard_shows_a_resumed_run_from_its_checkpoint_on_and_all_before(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for checkpoint, steps, loss in ((None, (1, 2, 3), 1.0), (2, (3, 4), 9.0)):
        logger = TensorBoardLogger()
        if checkpoint is not None:
            logger.resumed(checkpoint, None)
        logger.start(tmp_path, {})
        for step in steps:
            logger.log({"split": "train", "step": step, "loss": loss})
        logger.end(None)
        if checkpoint is None:  # files are read in the order of their names, which hold the second and a number
            (file,) = (tmp_path / "tensorboard").iterdir()
            file.rename(file.with_name("events.out.tfevents.0"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(1, 1.0), (2, 1.0), (3, 9.0), (4, 9.0)]


def test_settings_that_contradict_each_other_are_refused() -> None:
    for tree, word in [
        ({"epochs": 1, "steps": 1}, "steps and epochs"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "clip_value and clip_norm"),
        ({"average_best": True}, "keep_best"),
        ({"optimizer": {"name": "sgd", "nesterov": True}}, "momentum"),
        ({"optimizer": {"momentum": 0.5}}, "momentum is for sgd, not for adamw"),
        ({"schedule": {"final": 0.5}}, "final is for linear"),
        ({"optimizer": {"lr": -1.0}}, "optimizer.lr"),
    ]:
        with pytest.raises(UserError, match=word):
            settings(**tree)


def test_clip_value_takes_the_place_of_clip_norm_and_reads_back() -> None:
    config = settings(clip_value=0.5)
    assert (config.clip_norm, config.clip_value) == (None, 0.5)
    assert settings(**config.model_dump(mode="json")) == config  # as config.yaml has it
    assert settings(clip_norm=2.0, clip_value=None).clip_norm == 2.0
    assert settings(clip_value=None).clip_norm == settings().clip_norm == 1.0


def test_a_misspelt_metric_is_refused_before_training(tmp_path: Path) -> None:
    task = Regression()
    task.scores = ("loss", "accuracy")
    with pytest.raises(UserError, match="no score 'acuracy'; did you mean 'accuracy'"):
        fit(task, tmp_path, metric="acuracy")
    assert task.calls == 0
