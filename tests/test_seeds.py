"""Several seeds by one command: what it goes on with, what it replaces and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqkit import run
from seqkit.errors import UserError
from seqkit.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # only a power cut needs it


WHOLE = ("seed=3", "text.split=spaces", "text.split_chinese=true")  # nothing is left to be filled in from the data


@pytest.fixture(scope="module")
def trained(
    small_run: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, run.Seeds]:
    """A configuration file, and what two seeds of it have made beside it."""
    file = tmp_path_factory.mktemp("seeds") / "c.yaml"
    file.write_text(json.dumps(small_run()), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        return file, run.train_seeds(file, list(WHOLE), 2, root=file.parent / "runs")


@pytest.fixture
def train(trained: tuple[Path, run.Seeds], tmp_path: Path) -> Callable[..., run.Seeds]:
    """`train(*overrides, seeds=2)`: the command that made r-seed3 and r-seed4, which are there."""
    file, made = trained
    for one in made.runs.values():
        shutil.copytree(one.folder, tmp_path / "runs" / one.folder.name)

    def call(*overrides: str, seeds: int = 2, overwrite: bool = False) -> run.Seeds:
        return run.train_seeds(file, [*WHOLE, *overrides], seeds, overwrite=overwrite, root=tmp_path / "runs")

    return call


Train = Callable[..., run.Seeds]


def begun(folder: Path) -> tuple[int, int]:
    """Tells a run from another one of its name; an inode alone may be used again."""
    about = (folder / "run.json").stat()
    return about.st_ino, about.st_mtime_ns


def test_the_same_command_goes_on_and_overwrite_starts_anew(
    train: Train, trained: tuple[Path, run.Seeds], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, made = trained
    assert [(seed, one.folder) for seed, one in made.runs.items()] == [
        (seed, file.parent / f"runs/r-seed{seed}") for seed in (3, 4)
    ]
    first = [begun(tmp_path / f"runs/r-seed{seed}") for seed in (3, 4)]
    capsys.readouterr()
    again = train()
    assert [one.folder for one in again.runs.values()] == [tmp_path / f"runs/r-seed{seed}" for seed in (3, 4)]
    assert [begun(one.folder) for one in again.runs.values()] == first
    assert capsys.readouterr().err.count("started by the same command before; continuing it") == 2
    fresh = train("training.optimizer.lr=0.5", overwrite=True)
    assert all(begun(one.folder) not in first for one in fresh.runs.values())
    assert "continuing" not in capsys.readouterr().err
    assert [RunFolder(one.folder).settings()["training"]["optimizer"]["lr"] for one in fresh.runs.values()] == [0.5] * 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["r-seed3", "r-seed4", "r-seeds.json"]


def test_a_run_that_another_process_goes_on_with_is_refused_before_any_trains(train: Train, tmp_path: Path) -> None:
    before = begun(tmp_path / "runs/r-seed3")
    shutil.rmtree(tmp_path / "runs/r-seed4")
    with RunFolder(tmp_path / "runs/r-seed3").locked():
        with pytest.raises(UserError, match=f"r-seed3: process {os.getpid()} is training in this folder"):
            train()
        with pytest.raises(UserError, match=f"r-seed3: process {os.getpid()} is training in this folder"):
            train(overwrite=True)
    assert begun(tmp_path / "runs/r-seed3") == before
    assert not (tmp_path / "runs/r-seed4").exists()


def test_runs_that_do_not_say_what_was_asked_are_known_by_their_configuration(train: Train, tmp_path: Path) -> None:
    """As versions before this digest have written them."""
    folder = RunFolder(tmp_path / "runs/r-seed3")
    about = {name: value for name, value in folder.about().items() if name not in ("asked", "format")}
    folder.describe(about)
    before = begun(folder.path)
    train(seeds=1)
    assert begun(folder.path) == before
    with pytest.raises(UserError, match="r-seed3: this run exists already"):
        train("training.optimizer.lr=0.5", seeds=1)
    assert begun(folder.path) == before
