"""Resuming by `seqkit.run`: what may change in between, which data may move, and what is damaged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqkit import run
from seqkit.errors import Stopped, UserError
from seqkit.training import RunFolder
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.loggers import JsonlLogger
from seqkit.training.signals import SignalWatch
from seqkit.training.trainer_state import log_positions

SETTINGS = {"epochs": 2, "log_every": 3, "keep_best": 2, "optimizer": {"lr": 0.02}}


def configuration(data: Path, **training: Any) -> dict[str, Any]:
    return {
        "task": "sentiment",
        "name": "r",
        "device": "cpu",
        "data": {part: {"path": str(data / f"sst2/{part}.tsv")} for part in ("train", "dev", "test")}
        | {"batch_size": 16},
        "model": {"embedding": {"size": 6}, "encoder": {"cell": "gru", "hidden_size": 5}, "dropout": 0.2},
        "training": {**SETTINGS, **training},
    }


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run that is a result; timings, the lock and the configuration are none."""
    others = ("timing.jsonl", "report.html", ".lock", "config.yaml", "run.json", "trainer.json", "manifest.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in others
    }


@pytest.fixture(scope="module")
def finished(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    return run.train(configuration(generated_data), root=root).folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "r"))


def test_a_finished_run_stays_as_it_is(copy: Path) -> None:
    before = content(copy), (copy / "config.yaml").read_bytes(), (copy / "run.json").read_bytes()
    assert run.counted(run.resume(copy).test) == json.loads((copy / "scores.json").read_text())["test"]
    assert before == (content(copy), (copy / "config.yaml").read_bytes(), (copy / "run.json").read_bytes())


def test_a_longer_training_is_as_if_it_had_been_asked_for_at_first(
    copy: Path, generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.train(configuration(generated_data, epochs=4), root=tmp_path / "whole")
    run.resume(copy, "training.epochs=4", "training.checkpoint_every=100")
    said = capsys.readouterr().err
    assert f"{copy}: changed training.epochs: 2 -> 4" in said
    assert f"{copy}: changed training.checkpoint_every: None -> 100" in said
    assert content(copy) == content(tmp_path / "whole/r")
    assert RunFolder.open(copy).about()["config"]["training"]["epochs"] == 4
    run.resume(copy)
    assert "changed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("seed=2", "every random number"),
        ("name=other", "rename the folder"),
        ("text.lowercase=true", "this vocabulary"),
        ("model.encoder.hidden_size=6", "this model"),
        ("model.dropout=0.3", "this model"),
        ("data.batch_size=8", "the batches would be different"),
        ("training.optimizer.lr=0.1", "the updates would be different"),
        ("training.clip_norm=null", "the updates would be different"),
        ("training.accumulate=2", "the updates would be different"),
        ("training.precision=bf16", "the updates would be different"),
        ("training.ema=0.9", "the updates would be different"),
        ("training.schedule.name=linear", "the updates would be different"),
        ("training.metric=loss", "could not be compared"),
    ],
)
def test_what_may_not_change_is_refused_by_name(finished: Path, change: str, reason: str) -> None:
    before = content(finished), (finished / "config.yaml").read_bytes()
    with pytest.raises(UserError) as caught:
        run.resume(finished, change, "training.log_every=4")
    key = change.partition("=")[0]
    lines = str(caught.value).splitlines()
    assert [line for line in lines if line.startswith("  ")] == [lines[1]]
    assert lines[1].startswith(f"  {key}: ")
    assert reason in lines[1]
    assert before == (content(finished), (finished / "config.yaml").read_bytes())


def test_every_refused_key_is_named_at_once(cli: Callable[..., Any], finished: Path) -> None:
    done = cli(finished.parent, "resume", "r", "training.optimizer.lr=0.1", "seed=5")
    assert done.returncode == 2
    text = done.stderr.decode()
    assert re.search(r"(?s)r: these keys cannot change.*seed: .*training.optimizer.lr: .*init.run=", text)


@pytest.mark.parametrize("change", ["training.steps=3", "training.epochs=1"])
def test_what_is_done_cannot_be_shortened(copy: Path, change: str) -> None:
    before = content(copy), (copy / "config.yaml").read_bytes()
    other = "training.epochs=null" if "steps" in change else "training.steps=null"
    with pytest.raises(
        UserError, match=rf"{change.split('=')[0]}: \d is less than the \d+ that .* has trained already"
    ) as mistake:
        run.resume(copy, other, change)
    assert mistake.value.key == change.partition("=")[0]
    assert before == (content(copy), (copy / "config.yaml").read_bytes())


def test_the_command_line_lists_what_it_changes(cli: Callable[..., Any], copy: Path) -> None:
    done = cli(copy.parent, "resume", "r", "training.log_every=5")
    assert done.returncode == 0
    assert "r: changed training.log_every: 3 -> 5" in done.stderr.decode()
    assert done.stdout.startswith(b"dev: ")


@pytest.mark.parametrize("change", ["training.epochs=3", "training.steps=9"])
def test_a_schedule_over_the_whole_training_fixes_its_length(generated_data: Path, tmp_path: Path, change: str) -> None:
    length = change.partition("=")[0].rpartition(".")[2]
    tree = configuration(generated_data, **{"epochs": None, length: 2, "schedule": {"name": "one_cycle"}})
    folder = run.train(tree, root=tmp_path).folder
    with pytest.raises(UserError, match=rf"training\.{length}: the one_cycle schedule"):
        run.resume(folder, change)


def test_the_plateau_schedule_fixes_when_dev_is_scored(generated_data: Path, tmp_path: Path) -> None:
    tree = configuration(generated_data, schedule={"name": "plateau"})
    folder = run.train(tree, root=tmp_path).folder
    with pytest.raises(UserError, match="the plateau schedule counts evaluations"):
        run.resume(folder, "training.evaluate_every=2")
    with pytest.raises(UserError, match="the plateau schedule goes by min_delta"):
        run.resume(folder, "training.early_stopping.min_delta=0.1")
    run.resume(folder, "training.epochs=3", "training.early_stopping.patience=3")


def test_a_configuration_edited_by_hand_is_compared_too(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("batch_size: 16", "batch_size: 8"))
    with pytest.raises(UserError, match=r"data\.batch_size: the batches"):
        run.resume(copy)
    path.write_text(text.replace("log_every: 3", "log_every: 7"))
    run.resume(copy, "training.keep_best=1")
    said = capsys.readouterr().err
    assert "changed training.log_every: 3 -> 7" in said
    assert "changed training.keep_best: 2 -> 1" in said
    path.write_text("task: [")
    with pytest.raises(UserError, match=r"config\.yaml"):
        run.resume(copy)


def test_a_run_without_its_first_configuration_can_be_resumed(copy: Path) -> None:
    """Those that were made before run.json held it."""
    about = json.loads((copy / "run.json").read_text())
    for key in ("config", "dev"):
        del about[key]
    (copy / "run.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="seed: every random number"):
        run.resume(copy, "seed=3")
    run.resume(copy)


def test_data_may_move_and_must_be_the_same(copy: Path, generated_data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(generated_data / "sst2", moved)
    run.resume(copy, f"data.train.path={moved}/train.tsv", f"data.dev.path={moved}/dev.tsv")
    assert str(moved) in (copy / "config.yaml").read_text()
    before = (copy / "config.yaml").read_bytes()
    for part, what in (("train", "the training data is not"), ("dev", "the data of dev is not")):
        path = moved / f"{part}.tsv"
        path.write_text(path.read_text() + "positive\ta warm film\n")
        with pytest.raises(UserError, match=what):
            run.resume(copy, "training.log_every=9")
        shutil.copy(generated_data / f"sst2/{part}.tsv", path)
    with pytest.raises(UserError, match="the data of dev is not"):
        run.resume(copy, "data.dev.limit=50")
    assert (copy / "config.yaml").read_bytes() == before


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 4
    path.write_bytes(data[: len(data) // 2] if how == "truncate" else data)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("model.safetensors", "flip"),
        ("trainer.safetensors", "truncate"),
        ("trainer.json", "flip"),
        ("manifest.json", "truncate"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    copy: Path, finished: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = Checkpoints(copy / "checkpoints").steps()
    damage(copy / f"checkpoints/step-{last:08d}" / name, how)
    run.resume(copy)
    said = capsys.readouterr().err
    assert f"step-{last:08d}: damaged checkpoint; passed over" in said
    assert f"continuing after step {first}" in said
    assert content(copy) == content(finished)


def test_without_any_whole_checkpoint_training_begins_anew(
    copy: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in Checkpoints(copy / "checkpoints").steps():
        damage(copy / f"checkpoints/step-{step:08d}/trainer.json", "truncate")
    run.resume(copy)
    assert "no whole checkpoint; starting over" in capsys.readouterr().err
    assert content(copy) == content(finished)


def test_a_damaged_checkpoint_leaves_the_list_of_the_best(copy: Path) -> None:
    checkpoints = Checkpoints(copy / "checkpoints")
    first, last = checkpoints.steps()
    best = [step for _, step in checkpoints.load(last)[1]["state"]["best"]]
    assert set(best) == {first, last}
    damage(checkpoints.weights(first), "flip")
    run.resume(copy)
    assert json.loads((copy / "scores.json").read_text())["step"] == last


def test_a_checkpoint_of_another_model_is_refused(copy: Path) -> None:
    last = Checkpoints(copy / "checkpoints").steps()[-1]
    state = json.loads((copy / f"checkpoints/step-{last:08d}/trainer.json").read_text())
    weights, saved = Checkpoints(copy / "checkpoints").load(last)
    assert state
    del saved["optimizer"]
    Checkpoints(copy / "checkpoints").save(last, weights, saved)
    with pytest.raises(UserError, match=rf"step-{last:08d}: does not fit this configuration"):
        run.resume(copy)


def test_other_surroundings_are_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(copy / "checkpoints")
    last = checkpoints.steps()[-1]
    weights, saved = checkpoints.load(last)
    saved["made_with"]["threads"] = "77"
    checkpoints.save(last, weights, saved)
    run.resume(copy)
    assert "threads was 77 and is" in capsys.readouterr().err


def test_nobody_else_may_write_while_a_run_trains(copy: Path, generated_data: Path) -> None:
    with RunFolder(copy).locked():
        for call in (
            lambda: run.resume(copy),
            lambda: run.average(copy),
            lambda: run.train(configuration(generated_data), root=copy.parent, overwrite=True),
        ):
            with pytest.raises(UserError, match="is training in this folder"):
                call()


@pytest.mark.parametrize("at", ["test", "average"])
def test_a_stop_after_the_last_checkpoint_loses_nothing(
    finished: Path, generated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A signal while the averaged weights are scored, and a crash while test is scored."""
    from seqkit.tasks.sentiment.task import SentimentTask
    from seqkit.training import best

    tree = configuration(generated_data, average_best=True)
    whole = run.train(tree, root=tmp_path / "whole").folder
    with monkeypatch.context() as patch:
        if at == "test":

            def crash(self: Any, data: str | None = None) -> Any:
                raise RuntimeError("out of luck")

            patch.setattr(SentimentTask, "score", crash)
        else:
            mean = best.average_weights

            def signalled(*given: Any) -> Any:
                watches[0].received = 15
                return mean(*given)

            watches: list[SignalWatch] = []
            enter = SignalWatch.__enter__
            patch.setattr(SignalWatch, "__enter__", lambda self: watches.append(self) or enter(self))
            patch.setattr(best, "average_weights", signalled)
        with pytest.raises((RuntimeError, Stopped)):
            run.train(tree, root=tmp_path / "cut")
    folder = tmp_path / "cut/r"
    assert not (folder / "scores.json").exists()
    run.resume(folder)
    assert content(folder) == content(whole)


def test_a_log_is_cut_back_to_a_checkpoint_of_an_earlier_version(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).metrics
    path.write_text('{"step": 1}\n{"step": 2}\n')
    logger = JsonlLogger()
    logger.resumed(1, log_positions({"sizes": {"metrics": 12, "timing": 0}})["jsonl"])
    logger.start(tmp_path, {})
    logger.end(None)
    assert path.read_text() == '{"step": 1}\n'
