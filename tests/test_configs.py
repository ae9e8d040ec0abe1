"""Every shipped configuration runs."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
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


def commands(path: Path) -> list[list[str]]:
    """The lines of a header that are to be typed, as words: all up to the one that trains the file itself."""
    lines = re.findall(r"^#   (?:[A-Z_]+=\S+ )*((?:seqkit train|python) .*)$", path.read_text("utf-8"), re.M)
    own = next(number for number, line in enumerate(lines) if f"seqkit train {name(path)}" in line)
    return [shlex.split(line) for line in lines[:own]]


def shorter(path: Path, *overrides: str) -> list[str]:
    """Overrides for a few steps on little data."""
    few = ["training.epochs=null", "training.steps=3", "training.log_every=1", "training.evaluate_every=2"]
    checked, kind = read_config(path, overrides)
    for part in ("train", "dev", "test"):
        source = getattr(checked.data, part)  # type: ignore[attr-defined]
        if source is not None and source.limit:
            few.append(f"data.{part}.limit=60")
    if kind.kind == "translation":  # what has not learned yet ends no sentence by itself
        few += ["decoding.max_length=10", "training.samples=1"]
    return [*overrides, *few]


def prepare(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what the header says comes before: the runs or files that this one starts from."""
    for program, first, *rest in commands(path):
        if program == "python":
            monkeypatch.setattr(sys, "argv", [first, *rest, "--quick"])
            runpy.run_path(str(ROOT / first), run_name="__main__")
        else:
            config = ROOT / rest[0]
            seqkit.train(config, *shorter(config, *rest[1:]))


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_it_runs_a_few_steps_and_predicts(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(path, monkeypatch)
    kind = read_config(path)[1]
    run = seqkit.train(path, *shorter(path))
    own = {"translation": "bleu", "slots": "span_f1", "language_model": "perplexity"}
    score = own.get(kind.kind, "accuracy")
    assert set(run.test or run.dev) >= {"loss", score}
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log if record["split"] == "train"] == [1, 2, 3]
    predictions = seqkit.load(run.folder).predict(["a film", ""])
    if kind.kind == "translation":
        assert predictions[0].log_probs
        assert predictions[1].text == ""
    elif kind.kind == "slots":
        assert predictions[0].tokens == ["a", "film"]
        assert predictions[1].intent is None
    elif kind.kind == "language_model":
        assert predictions[0].log_prob < 0
        assert predictions[1].log_prob is None
    else:
        assert predictions[0].label in ("positive", "negative", "neutral")
        assert predictions[1].label is None


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_its_header_gives_command_cost_and_score(path: Path) -> None:
    header = "".join(line for line in path.read_text("utf-8").splitlines(keepends=True) if line.startswith("#"))
    assert f"seqkit train {name(path)}" in header
    assert re.search(r"^# Cost: .*\d+(\.\d+)? (seconds|minutes)\b", header, re.M), "no cost"
    scores = r"BLEU \d\d\.\d|(accuracy|F1) [01]\.\d{3}|perplexity \d+\.\d\d|bits per character \d\.\d{3}"
    assert re.search(scores, header), "no measured score"


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_what_is_shown_reads_back_as_the_same(path: Path, tmp_path: Path) -> None:
    from seqkit.config import dump

    checked, _ = read_config(path)
    (tmp_path / "again.yaml").write_text(dump(checked), "utf-8")
    assert dump(read_config(tmp_path / "again.yaml")[0]) == dump(checked)
