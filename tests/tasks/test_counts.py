"""Every report of scores says how many examples they are of and how many lines were skipped, in every task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import seqkit
from seqkit import run
from seqkit.console import tell_scores

GOOD: dict[str, list[dict[str, Any]]] = {
    "sentiment": [{"text": f"a {word} film", "label": word} for word in ("good", "bad")] * 4,
    "slots": [{"tokens": ["to", "rome"], "tags": ["O", "B-city"], "intent": f"{n % 2}"} for n in range(8)],
    "translation": [{"source": f"a b {'c' * n}", "target": f"A B {'C' * n}"} for n in range(1, 9)],
    "language_model": [{"text": "the acting is dull"}] * 8,
}
BLANK: dict[str, dict[str, Any]] = {
    "sentiment": {"text": " ", "label": "good"},
    "language_model": {"text": " "},
}
COUNTS = ("examples", "left_out", "skipped_lines")


def config(task: str, folder: Path) -> dict[str, Any]:
    """Training data with one bad line, dev with two, test with three and perhaps a blank one."""
    for part, bad in (("train", 1), ("dev", 2), ("test", 3)):
        rows = GOOD[task] + ([BLANK[task]] if part == "test" and task in BLANK else [])
        lines = [json.dumps(row) for row in rows]
        lines[1:1] = ["{", "[1]", '"text"'][:bad]
        (folder / f"{task}.{part}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    sizes = {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}}
    pairs = {name: {"size": 4} for name in ("source", "target")}
    pairs |= {name: {"hidden_size": 4} for name in ("encoder", "decoder")}
    parts = {part: str(folder / f"{task}.{part}.jsonl") for part in ("train", "dev", "test")}
    return {
        "task": task,
        "name": task,
        "device": "cpu",
        "data": {**parts, "batch_size": 2, "on_bad_line": "skip"},
        "model": pairs if task == "translation" else sizes,
        "text": {"tokenizer": "word"},
        "training": {"steps": 2, "keep_best": 2, "evaluate_every": 1},
    }


@pytest.mark.parametrize("task", GOOD)
def test_every_report_counts(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = config(task, tmp_path)
    made = seqkit.train(tree, root=tmp_path / "runs")
    left_out = int(task in BLANK)
    file = tmp_path / f"{task}.test.jsonl"
    bad = f"3 bad lines skipped, first {file}:2: not valid JSON: "
    said = capsys.readouterr().err
    assert bad in said
    assert f", last {file}:4: expected a JSON object, got str" in said
    assert f"1 bad line skipped, first {tmp_path / task}.train.jsonl:2: not valid JSON" in said

    wanted = {"dev": (8, 0, 2), "test": (8, left_out, 3)}
    written = json.loads((made.folder / "scores.json").read_text("utf-8"))
    for part, counts in wanted.items():
        assert tuple(written[part][name] for name in COUNTS) == counts
        assert set(COUNTS).isdisjoint(getattr(made, part))
    metrics = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    dev = [record for record in metrics if record["split"] == "dev"]
    assert [tuple(record[name] for name in COUNTS) for record in dev] == [wanted["dev"]] * 2
    tell_scores("test", made.test)
    assert f"  of 8 examples ({'1 left out; ' * left_out}{bad}" in capsys.readouterr().out

    scores, lines = run.evaluate(made.folder, device="cpu")
    assert run.counted(scores) == written["test"]
    assert bad in lines[0]
    average = run.average(made.folder, device="cpu")
    assert tuple(run.counted(average.after)[name] for name in COUNTS) == wanted["dev"]
    found = json.loads((average.folder / "scores.json").read_text("utf-8"))["dev"]
    assert tuple(found[name] for name in COUNTS) == wanted["dev"]
    if task == "translation":
        line = run.compare(made.folder, average.folder, device="cpu")[0]
        assert line.startswith(f"{file}: 8 pairs ({bad}")


def test_a_summary_of_seeds_counts(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(config("sentiment", tmp_path)), "utf-8")
    made = run.train_seeds(file, ["training.steps=1", "training.keep_best=1"], 2, root=tmp_path / "runs")
    summary = json.loads(made.file.read_text("utf-8"))
    assert summary["test_counts"] == [{"examples": 8, "left_out": 1, "skipped_lines": 3}] * 2
    assert summary["dev_counts"] == [{"examples": 8, "left_out": 0, "skipped_lines": 2}] * 2
    assert set(summary["test"]) == {"loss", "accuracy", "macro_f1"}


def test_one_seed_deviates_by_nothing(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(config("sentiment", tmp_path)), "utf-8")
    made = run.train_seeds(file, ["training.steps=1", "training.keep_best=1"], 1, root=tmp_path / "runs")
    assert [spread.deviation for spread in made.test.values()] == [0.0] * len(made.test)
    assert all(spread.values == [spread.mean] for spread in made.test.values())
