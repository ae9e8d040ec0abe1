"""Exported folders of classifiers and taggers: predict.py says what the run says, evaluate scores the same."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqkit import export, run

onnx = pytest.importorskip("onnx", reason="onnx is an extra of the tests")

Exported = Callable[[str], tuple[Path, Path]]
Alone = Callable[..., subprocess.CompletedProcess[bytes]]

# Name of a run -> its recurrent nodes: one a layer and direction; Scan where ONNX has no node for the cell.
CLASSES = {
    "2026-11/sentiment-killed": {"LSTM": 1},  # bpe
    "2026-11-options/sentiment-pooled-finished": {"Scan": 4},
    "2026-11-options/sentiment-char-killed": {"Scan": 1},  # max_length
}
TAGS = {
    "2026-11-options/slots-characters-finished": {"GRU": 1, "LSTM": 2},
    "2026-11-options/slots-window-killed": {},
}


def lines() -> list[str]:
    """Texts of all lengths, among them what a file should not hold."""
    generator = random.Random(0)
    written = "the plot is dull i want to fly from berlin rome Paris cheap don't ünknown 中文 😀 <pad> <unk> to/from"
    words = written.split()
    texts = [" ".join(generator.choices(words, k=generator.randint(1, 30))) for _ in range(60)]
    odd = [
        "",
        "   ",
        "\t",
        "\u3000",
        "é",
        "e\u0301a\u0301 u\u0308ber",
        "a\u2028b c\x85d",
        "x" * 200,
        "a\x00b",
        "\x1c",
        "q w\r",
    ]
    return [*odd, *texts, " ".join(words * 20), "\u0301"]


def said(task: Any, rows: list[Any], form: str) -> list[str]:
    return [task.format(found, form) for found in task.predict(rows)]


def assert_same(got: bytes, want: list[str], form: str) -> None:
    """The same lines; probabilities, which are rounded to six digits, within one of the last digit."""
    rows = got.decode().split("\n")
    assert rows.pop() == ""
    if form == "text":
        assert rows == want
        return
    assert len(rows) == len(want)
    for one, other in zip(map(json.loads, rows), map(json.loads, want), strict=True):
        assert list(one) == list(other)
        shares, expected = one.pop("probabilities", {}), other.pop("probabilities", {})
        assert list(shares) == list(expected)
        assert list(shares.values()) == pytest.approx(list(expected.values()), abs=2e-6)
        assert one == other


@pytest.mark.parametrize("form", ["text", "jsonl"])
@pytest.mark.parametrize("name", [*CLASSES, *TAGS])
def test_predict_py_says_what_the_run_says(exported: Exported, alone: Alone, name: str, form: str) -> None:
    folder, made = exported(name)
    texts = lines()
    done = alone(made, "--format", form, text="\n".join(texts).encode())
    assert done.stderr == b""
    task = run.load(folder, device="cpu")
    assert_same(done.stdout, said(task, [text.rstrip("\r") for text in texts], form), form)


def test_the_texts_tell_models_apart(exported: Exported) -> None:
    for name in (*CLASSES, *TAGS):
        answers = said(run.load(exported(name)[0], device="cpu"), lines(), "jsonl")
        assert len(set(answers)) > 10


def test_lines_of_tokens_are_tagged_as_they_are(exported: Exported, alone: Alone) -> None:
    folder, made = exported("2026-11-options/slots-characters-finished")
    rows = [["to", "New York"], [], ["don't", "e\u0301", "to/from", "Paris", "中文"]]
    text = "".join(json.dumps({"tokens": row, "other": 1}) + "\n" if row else "\n" for row in rows)
    done = alone(made, "--tokens", "--format", "jsonl", text=text.encode())
    task = run.load(folder, device="cpu")
    task.adjust(tokens=True)
    assert_same(done.stdout, said(task, rows, "jsonl"), "jsonl")
    for bad in ('{"tokens": ["a", " "]}', '{"words": []}', "[1]", "{", '{"tokens": ["\\ud800"]}'):
        done = alone(made, "--tokens", text=f'{{"tokens": ["a"]}}\n{bad}\n'.encode())
        assert done.returncode == 2
        assert done.stdout.count(b"\n") == 1
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("standard input: line 2: ")


@pytest.mark.parametrize("name", [*CLASSES, *TAGS])
def test_evaluate_scores_a_folder_as_its_run(exported: Exported, name: str) -> None:
    folder, made = exported(name)
    want, lines_of_run = run.evaluate(folder, device="cpu")
    scores, report = export.evaluate(made)
    assert scores == pytest.approx(want, rel=1e-5)
    assert report == lines_of_run


@pytest.mark.parametrize(("name", "kinds"), [*CLASSES.items(), *TAGS.items()])
def test_each_layer_and_direction_is_one_node(exported: Exported, name: str, kinds: dict[str, int]) -> None:
    model = onnx.load(str(exported(name)[1] / "model.onnx"))
    found = Counter(node.op_type for node in model.graph.node)
    assert {kind: found[kind] for kind in ("LSTM", "GRU", "RNN", "Scan", "Loop") if found[kind]} == kinds
    ids = next(value for value in model.graph.input if value.name == "ids")
    assert [size.dim_param for size in ids.type.tensor_type.shape.dim] == ["batch", "time"]


def test_what_predict_py_cannot_read_is_one_line(exported: Exported, alone: Alone, tmp_path: Path) -> None:
    made = exported("2026-11/sentiment-killed")[1]
    done = alone(made, text=b"good\nbad \xff\ngood\n")
    assert (done.returncode, done.stdout.count(b"\n")) == (2, 1)
    assert b"standard input: line 2: 'utf-8' codec" in done.stderr
    done = alone(made, str(tmp_path / "none.txt"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"none.txt" in done.stderr
    for text in (b"", b"\n", b"\n \n\n"):
        done = alone(made, text=text)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"\n" * text.count(b"\n"), b"")


def test_a_text_longer_than_the_limit_is_cut_and_said(exported: Exported, alone: Alone) -> None:
    folder, made = exported("2026-11-options/slots-window-killed")
    text = "to Rome " * 5001
    done = alone(made, text=text.encode())
    assert b"a text of 10,002 tokens is cut" in done.stderr
    assert_same(done.stdout, said(run.load(folder, device="cpu"), [text], "text"), "text")


def test_a_predictor_is_a_library_too(exported: Exported) -> None:
    """Tokenizers and sessions are made once; a list of texts at a time."""
    folder, made = exported("2026-11/sentiment-killed")
    code = f"import sys; sys.path.insert(0, {str(made)!r}); import predict; p = predict.Predictor()"
    code += "; print(p([]), [one['label'] for one in p(['the plot is dull', ''])], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    label = run.load(folder, device="cpu").predict(["the plot is dull"])[0].label
    assert done.stdout.strip() == f"[] {[label, None]} False", done.stderr
