"""Several seeds by one command: what it goes on with, what it replaces and what it refuses."""

from __future__ import annotations

import json
import os
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


@pytest.fixture
def train(small_run: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., run.Seeds]:
    """`train(*overrides, seeds=2)`: train r-seed1 and so on."""
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(small_run()), "utf-8")

    def call(*overrides: str, seeds: int = 2, overwrite: bool = False) -> run.Seeds:
        return run.train_seeds(file, list(overrides), seeds, overwrite=overwrite, root=tmp_path / "runs")

    return call


Train = Callable[..., run.Seeds]


def begun(folder: Path) -> tuple[int, int]:
    """Tells a run from another one of its name; an inode alone may be used again."""
    about = (folder / "run.json").stat()
    return about.st_ino, about.st_mtime_ns


def test_the_same_command_goes_on_and_overwrite_starts_anew(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = train("seed=3")
    assert [(seed, one.folder) for seed, one in made.runs.items()] == [
        (seed, tmp_path / f"runs/r-seed{seed}") for seed in (3, 4)
    ]
    first = [begun(one.folder) for one in made.runs.values()]
    capsys.readouterr()
    again = train("seed=3")
    assert [begun(one.folder) for one in again.runs.values()] == first
    assert capsys.readouterr().err.count("started by the same command before; continuing it") == 2
    fresh = train("seed=3", "training.optimizer.lr=0.5", overwrite=True)
    assert all(begun(one.folder) not in first for one in fresh.runs.values())
    assert "continuing" not in capsys.readouterr().err
    assert [RunFolder(one.folder).settings()["training"]["optimizer"]["lr"] for one in fresh.runs.values()] == [0.5] * 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["r-seed3", "r-seed4", "r-seeds.json"]


def test_a_run_that_another_process_goes_on_with_is_refused_before_any_trains(train: Train, tmp_path: Path) -> None:
    train(seeds=1)
    before = begun(tmp_path / "runs/r-seed1")
    with RunFolder(tmp_path / "runs/r-seed1").locked():
        with pytest.raises(UserError, match=f"r-seed1: process {os.getpid()} is training in this folder"):
            train()
        with pytest.raises(UserError, match=f"r-seed1: process {os.getpid()} is training in this folder"):
            train(overwrite=True)
    assert begun(tmp_path / "runs/r-seed1") == before
    assert not (tmp_path / "runs/r-seed2").exists()


def test_runs_that_do_not_say_what_was_asked_are_known_by_their_configuration(train: Train) -> None:
    """As versions before this digest have written them."""
    whole = ["text.split=spaces", "text.split_chinese=true"]  # nothing is left to be filled in
    made = train(*whole, seeds=1)
    folder = RunFolder(made.runs[1].folder)
    about = {name: value for name, value in folder.about().items() if name not in ("asked", "format")}
    folder.describe(about)
    before = begun(folder.path)
    train(*whole, seeds=1)
    assert begun(folder.path) == before
    with pytest.raises(UserError, match="r-seed1: this run exists already"):
        train(*whole, "training.optimizer.lr=0.5", seeds=1)
    assert begun(folder.path) == before
