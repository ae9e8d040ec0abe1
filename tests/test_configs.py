"""Every shipped configuration runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import seqkit
from seqkit.run import read_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _data(generated_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQKIT_DATA", str(generated_data))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_it_runs_a_few_steps_and_predicts(path: Path, tmp_path: Path) -> None:
    shorter = ["training.epochs=null", "training.steps=3", "training.log_every=1", "training.evaluate_every=2"]
    checked, _ = read_config(path)
    for part in ("train", "dev", "test"):
        if getattr(checked.data, part).limit:  # type: ignore[attr-defined]
            shorter.append(f"data.{part}.limit=60")
    run = seqkit.train(path, *shorter, root=tmp_path)
    assert set(run.test) >= {"loss", "accuracy"}
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log if record["split"] == "train"] == [1, 2, 3]
    predictions = seqkit.load(run.folder).predict(["a film", ""])
    assert predictions[0].label in ("positive", "negative", "neutral")
    assert predictions[1].label is None


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_its_header_gives_command_cost_and_score(path: Path) -> None:
    header = "".join(line for line in path.read_text("utf-8").splitlines(keepends=True) if line.startswith("#"))
    assert f"seqkit train {name(path)}" in header
    assert re.search(r"^# Cost: .*\d+(\.\d+)? (seconds|minutes)\b", header, re.M), "no cost"
    assert re.search(r"accuracy 0\.\d{3}", header), "no measured score"


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_what_is_shown_reads_back_as_the_same(path: Path, tmp_path: Path) -> None:
    from seqkit.config import dump

    checked, _ = read_config(path)
    (tmp_path / "again.yaml").write_text(dump(checked), "utf-8")
    assert dump(read_config(tmp_path / "again.yaml")[0]) == dump(checked)
