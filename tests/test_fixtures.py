"""Runs made by earlier versions load, predict the same, and resume: tests/fixtures/make.py made them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seqkit import run

FIXTURES = Path(__file__).parent / "fixtures"
RUNS = sorted(path.parent for path in FIXTURES.glob("*/*/run.json"))


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_fixtures", FIXTURES / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_near(got: Any, want: Any, where: str = "") -> None:
    """Equal, numbers within 1e-5 of their size; what earlier versions did not tell is passed over."""
    if isinstance(want, dict):
        for name, part in want.items():
            assert_near(got[name], part, f"{where}.{name}")
    elif isinstance(want, list):
        assert len(got) == len(want), where
        for number, (one, other) in enumerate(zip(got, want, strict=True)):
            assert_near(one, other, f"{where}[{number}]")
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-5), where
    else:
        assert got == want, where


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_run_of_an_earlier_version(folder: Path, tmp_path: Path, maker: ModuleType) -> None:
    task = folder.name.partition("-")[0]
    want = json.loads((folder.parent / "expected.json").read_text("utf-8"))[folder.name]
    own = tmp_path / folder.name
    shutil.copytree(folder, own)
    assert_near(maker.answers(task, own), want["answers"])
    if "resumed" not in want:
        return
    run.resume(own)
    assert_near(maker.losses(own), want["resumed"]["losses"])
    assert_near(maker.answers(task, own), want["resumed"]["answers"])


def test_there_are_runs_of_every_task() -> None:
    for task in ("sentiment", "translation", "slots", "language_model"):
        finished = [path for path in RUNS if path.match(f"{task}-*finished")]
        killed = [path for path in RUNS if path.match(f"{task}-*killed")]
        assert len(finished) == len(killed) == 2
