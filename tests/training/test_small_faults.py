"""Single-place faults that other tests let pass: logs, what a resume may change, schedules, options of optimisers."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkit import run
from seqkit.config import from_mapping
from seqkit.errors import UserError
from seqkit.run.curves import curves, run_parts
from seqkit.run.resume_rules import read_change
from seqkit.training import Loss, RunFolder, Task, Trainer, TrainingConfig, run_log
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.optim import OptimizerConfig, make_optimizer, set_rate
from seqkit.training.run_folder import check_name
from seqkit.training.run_log import Progress
from seqkit.training.schedules import schedule_factor
from seqkit.training.signals import not_finite

RUNS = Path(__file__).parents[1] / "fixtures/2026-11"


class Points(Task):
    """Four updates an epoch; dev scores and samples that are given."""

    def __init__(self, *scores: float, batches: int = 4) -> None:
        torch.manual_seed(1)
        self.model = nn.Linear(2, 1)
        self.script, self.asked, self.count = scores or (0.5,), 0, batches

    def batches(self, epoch: int, start: int = 0) -> Iterable[Tensor]:
        return [torch.full((3, 2), 1.0)] * (self.count - start)

    def loss(self, batch: Tensor, carry: Any) -> tuple[dict[str, Loss], Any]:
        return {"loss": Loss((self.model(batch) - 3).pow(2).sum(), 3.0)}, None

    def weights(self, batch: Tensor) -> dict[str, float]:
        return {"loss": 3.0}

    def evaluate(self) -> dict[str, float]:
        self.asked += 1
        return {"accuracy": self.script[min(self.asked, len(self.script)) - 1]}

    def samples(self) -> list[dict[str, str]]:
        return [{"text": f"sample {self.asked}"}]


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def trainer_of(task: Task, folder: Path, **tree: Any) -> Trainer:
    config = from_mapping({"log_every": 3, "metric": "accuracy", **tree}).check(TrainingConfig)
    return Trainer(task, config, folder, device="cpu")


def records(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def test_the_log_has_the_epoch_that_is_in_work_and_every_update_once(tmp_path: Path) -> None:
    """An evaluation ends a window of the log, so that nothing before it is counted after it."""
    trainer_of(Points(), tmp_path, epochs=2, clip_norm=1e-6).fit()
    found = [(one["step"], one["epoch"], one["clipped"]) for one in records(tmp_path, "train")]
    assert found == [(3, 1, 3), (4, 1, 1), (7, 2, 3), (8, 2, 1)]
    assert [one["text"] for one in records(tmp_path, "sample")] == ["sample 1", "sample 2"]


def test_a_checkpoint_that_is_due_is_saved_though_an_evaluation_of_that_step_is_not_the_best(tmp_path: Path) -> None:
    task = Points(0.9, 0.1, 0.1, 0.1)
    trainer = trainer_of(task, tmp_path, steps=8, evaluate_every=2, checkpoint_every=4)
    saved: list[int] = []
    save = trainer._checkpoints.save
    trainer._checkpoints.save = lambda step, *rest: saved.append(step) or save(step, *rest)  # type: ignore[func-returns-value,method-assign]
    trainer.fit()
    assert saved == [2, 4, 8]
    assert not task.model.training


def test_fewer_of_the_best_are_kept_from_a_resume_on(tmp_path: Path) -> None:
    trainer_of(Points(0.3, 0.2, 0.1), tmp_path, epochs=3, keep_best=3).fit()
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4, 8, 12]
    trainer = trainer_of(Points(), tmp_path, epochs=3, keep_best=1)
    trainer.restore()
    trainer.fit()
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4, 12]


def test_training_data_without_a_batch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the training data gave no batch"):
        trainer_of(Points(batches=0), tmp_path, steps=2).fit()


def test_the_last_window_of_an_epoch_may_be_short_and_counts_as_an_update(tmp_path: Path) -> None:
    """A schedule over the whole training reaches its end with the last of them."""
    tree = {"accumulate": 3, "epochs": 2, "log_every": 1, "optimizer": {"name": "sgd", "lr": 1.0}}
    trainer_of(Points(), tmp_path, schedule={"name": "linear", "final": 0.1}, clip_norm=1.0, **tree).fit()
    assert [one["lr"] for one in records(tmp_path, "train")] == pytest.approx([1.0, 0.7, 0.4, 0.1])


def test_early_stopping_names_its_margin(tmp_path: Path) -> None:
    tree = {"early_stopping": {"patience": 1, "min_delta": 0.25}, "steps": 20, "evaluate_every": 3}
    line = trainer_of(Points(0.5, 0.7), tmp_path, **tree).fit().stopped
    assert "accuracy has not improved by more than 0.25 in an evaluation" in line
    assert records(tmp_path, "early_stopping")[0]["epoch"] == 2


def test_speed_and_time_left_are_of_this_window_and_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: clock[0])
    logged: list[dict[str, Any]] = []

    class Log:
        def log(self, record: dict[str, Any]) -> None:
            logged.append(record)

    progress = Progress(10, 30, {"log": Log()})  # type: ignore[dict-item]
    values = {"epoch": 1, "loss": 1.0, "grad_norm": 1.0, "lr": 0.1}
    for step, seconds, tokens, waited in ((12, 4.0, 100, 1.0), (14, 2.0, 80, 0.5)):
        clock[0] += seconds
        progress.step(tokens, waited)
        progress.train({"step": step, **values})
    clock[0] += 50.0
    progress.scores(14, 1, {"accuracy": 0.5}, "")
    clock[0] += 1.0
    progress.step(30, 0.0)
    progress.train({"step": 15, **values})
    timing = [one for one in logged if one["split"] == "timing"]
    assert [one["tokens_per_second"] for one in timing] == [25.0, 40.0, 30.0]
    assert [one["waiting_for_data"] for one in timing] == [1.0, 0.5, 0.0]
    left = [line.partition("  left ")[2] for line in capsys.readouterr().err.splitlines() if "step 12/30" in line]
    assert left == [run_log.duration(36.0)]  # 18 updates at 2 seconds each


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_after_a_warm_up_the_last_update_has_the_final_rate(name: str) -> None:
    config = TrainingConfig.model_validate({"schedule": {"name": name, "warmup": 4, "final": 0.2}}).schedule
    factors = [schedule_factor(config, step, 12) for step in range(12)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[-1] == pytest.approx(0.2)
    assert factors[-2] > 0.2


def test_one_cycle_rises_for_its_warm_up() -> None:
    config = TrainingConfig.model_validate({"schedule": {"name": "one_cycle", "warmup": 8}}).schedule
    factors = [schedule_factor(config, step, 20) for step in range(20)]
    assert factors.index(max(factors)) == 7
    assert factors[0] == pytest.approx(1 / 25)


def test_the_first_pattern_that_matches_holds_and_the_logged_rate_is_of_no_group() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 2), "output": nn.Linear(2, 3)})
    factors = {"embedding.w*": 0.5, "*": 0.1}
    optimizer = make_optimizer(model, OptimizerConfig.model_validate({"lr": 1.0, "lr_factors": factors}))
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert found[id(model["embedding"].weight)] == 0.5
    assert set_rate(optimizer, 0.25) == 0.25


def test_names_of_runs_have_their_longest_length() -> None:
    for name in ("x" * 100, "é" * 100):
        check_name(name)
    for name in ("x" * 101, "漢" * 67, ".x", "", "a/b"):
        with pytest.raises(UserError, match="not a plain name"):
            check_name(name)


CHANGES = [
    ("device=auto", ""),
    ("data.test=x.tsv", ""),
    ("data.on_unknown_label=error", ""),
    ("training.keep_best=2 training.average_best=true", ""),
    ("training.keep_outputs=1", ""),
    ("training.report=false", ""),
    ("training.loggers=[]", ""),
    ("training.evaluate_every=3", ""),
    ("training.early_stopping.patience=3", ""),
    ("training.metric=loss", "dev scores from before and after could not be compared"),
    ("training.optimizer.lr=0.5", "the updates would be different"),
    ("init.run=x", "they were loaded when the run began"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_what_may_change_in_a_resume(tmp_path: Path, change: str, reason: str) -> None:
    folder = RunFolder(shutil.copytree(RUNS / "sentiment-finished", tmp_path / "r"))
    if not reason:
        assert len(read_change(folder, change.split())[2]) >= 1
        return
    with pytest.raises(UserError, match=reason):
        read_change(folder, [change])


@pytest.mark.parametrize("change", ["decoding.beam_size=2", "scoring.tokenize=char", "training.dev_limit=5"])
def test_what_dev_scores_depend_on_stays(tmp_path: Path, change: str) -> None:
    folder = RunFolder(shutil.copytree(RUNS / "translation-finished", tmp_path / "r"))
    with pytest.raises(UserError, match="dev scores from before and after could not be compared"):
        read_change(folder, [change])


def test_a_share_of_warm_up_fixes_the_length(tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(RUNS / "sentiment-finished", tmp_path / "r"))
    about = folder.about()
    for warmup, refused in ((0.5, True), (2, False)):
        about["config"]["training"]["schedule"] = {"name": "constant", "warmup": warmup}
        folder.describe({key: value for key, value in about.items() if key != "format"})
        texts = [f"training.schedule.warmup={warmup}", "training.epochs=50", "training.steps=null"]
        if refused:
            with pytest.raises(UserError, match=r"training\.epochs: the constant schedule spreads over the whole"):
                read_change(folder, texts)
        else:
            read_change(folder, texts)


def test_a_length_that_is_reached_already_is_no_mistake(tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(RUNS / "sentiment-finished", tmp_path / "r"))
    about = folder.about()
    about["config"]["training"]["steps"] = 50
    folder.describe({key: value for key, value in about.items() if key != "format"})
    assert read_change(folder, ["training.steps=12"])[2] == ["training.steps: 50 -> 12"]
    with pytest.raises(UserError, match="11 is less than the 12 that"):
        read_change(folder, ["training.steps=11"])


@pytest.mark.parametrize(
    ("schedule", "key", "refused"),
    [("plateau", "patience", False), ("plateau", "min_delta", True), ("constant", "min_delta", False)],
)
def test_a_plateau_depends_on_the_margin_of_early_stopping_alone(
    tmp_path: Path, schedule: str, key: str, refused: bool
) -> None:
    folder = RunFolder(shutil.copytree(RUNS / "sentiment-finished", tmp_path / "r"))
    about = folder.about()
    about["config"]["training"].update(schedule={"name": schedule}, early_stopping={"patience": 3, "min_delta": 0.5})
    folder.describe({name: value for name, value in about.items() if name != "format"})
    stopping = {"patience": 3, "min_delta": 0.5, key: 9}
    texts = [f"training.schedule={{name: {schedule}}}", f"training.early_stopping={json.dumps(stopping)}"]
    if refused:
        with pytest.raises(UserError, match=r"the plateau schedule goes by min_delta, too"):
            read_change(folder, texts)
    else:
        assert len(read_change(folder, texts)[2]) == 1


def test_an_epoch_that_has_begun_cannot_be_taken_back(tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(RUNS / "sentiment-finished", tmp_path / "r"))
    checkpoints = Checkpoints(folder.checkpoints)
    step = checkpoints.latest()
    assert step is not None
    weights, saved = checkpoints.load(step)
    saved["state"].update(epoch=1, position=1)
    checkpoints.save(step, weights, saved)
    with pytest.raises(UserError, match=r"1 is less than the 2 that .* has trained already"):
        read_change(folder, ["training.steps=null", "training.epochs=1"])


@pytest.mark.parametrize("key", ["model.dropout", "text.lowercase", "task", "init.run", "lora.rank"])
def test_a_trained_run_keeps_what_its_weights_depend_on(key: str) -> None:
    with pytest.raises(UserError, match=rf"command line: '{key}=1': a trained run keeps its model"):
        run.load(RUNS / "sentiment-finished", "cpu", [f"{key}=1"])


def test_the_curves_of_a_log_that_is_cut_off(tmp_path: Path) -> None:
    lines = [
        {"split": "train", "step": 3, "epoch": 1, "loss": 2.0, "lr": 0.1},
        {"split": "dev", "step": 4, "epoch": 1, "loss": 1.5, "accuracy": 0.5, "examples": 8, "skipped_lines": 0},
        {"split": "dev", "step": 8, "epoch": 2, "loss": None, "accuracy": 0.75, "examples": 8, "left_out": 1},
        {"split": "timing", "step": 8, "loss": 7.0},
        {"split": "train", "step": 8, "epoch": 2, "loss": 1.0, "lr": 0.1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '[1]\n{"split": "dev", "st'
    RunFolder(tmp_path).metrics.write_text(text, "utf-8")
    assert curves(tmp_path) == {
        "train loss": ([3, 8], [2.0, 1.0]),
        "dev loss": ([4], [1.5]),
        "accuracy": ([4, 8], [0.5, 0.75]),
    }
    assert curves(tmp_path / "none") == {}


def test_a_notebook_shows_notes_scores_losses_and_what_else_was_scored(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    records = [{"split": split, "step": 1, "loss": 2.0, "accuracy": 0.5, "f1": 0.4} for split in ("train", "dev")]
    RunFolder(tmp_path).metrics.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    note, table, losses, others = run_parts(tmp_path, {"dev": {"accuracy": 0.75}, "test": {}}, ["one `note`"])
    assert "one &#39;note&#39;" in note
    assert re.findall(r"<t[hd]\b[^>]*>([^<]*)", table) == ["data", "accuracy", "dev", "0.75"]
    names = ("train loss", "dev loss", "accuracy", "f1")
    assert [name in losses for name in names] == [True, True, False, False]
    assert [name in others for name in names] == [False, False, True, True]
    assert run_parts(tmp_path / "none", {}, []) == []


@pytest.mark.parametrize("content", [None, "{", '{"format": 1}', '{"config": null}', "[]"])
def test_a_run_without_its_configuration_has_no_settings(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert RunFolder(tmp_path).settings() == {}


@pytest.mark.parametrize("count", [0, 1, 8, 9, 30])
def test_eight_examples_of_a_batch_that_went_wrong_are_shown_and_the_rest_counted(count: int) -> None:
    lines = str(not_finite(3, "the loss is nan", [f"{number}" * 300 for number in range(count)], "kept")).splitlines()
    assert lines[0].startswith("step 3: the loss is nan; kept. In a new run")
    assert lines[1:] == ["  " + f"{number}" * 200 for number in range(min(count, 8))] + [
        f"  ... and {count - 8} more"
    ] * (count > 8)
