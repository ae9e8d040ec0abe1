"""What a terminal or a pipe gets: no control characters of the data, no error where the reader leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seqkit
from seqkit import console, run
from seqkit.console import say, tell
from seqkit.errors import visible

RUNS = Path(__file__).parent / "fixtures" / "2026-11"
CPU = ("--device", "cpu")
ESCAPE = "\x1b[31m\x07\x9b2J\u202e\r"
UNSAFE = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u2028\u2029\u202a\u202b\u202c\u202d\u202e"}


@given(text=st.text(max_size=20), lines=st.booleans())
def test_visible_text_cannot_steer_a_terminal(text: str, lines: bool) -> None:
    text += "\x1b\n\x9b\ud800" if lines else ""
    shown = visible(text, lines=lines)
    assert not UNSAFE & ({*shown} - ({"\n"} if lines else set()))
    shown.encode("utf-8")
    if not UNSAFE & {*text} and text.isprintable():
        assert shown == text
    assert visible("زبان\u200cها é 日本　") == "زبان\u200cها é 日本　"  # a joiner is part of words


def test_lines_for_a_person_are_visible(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a{ESCAPE}b")
    tell(f"a{ESCAPE}b")
    captured = capsys.readouterr()
    assert captured.err == captured.out == "a\\x1b[31m\\x07\\x9b2J\\u202e\\rb\n"


def test_a_process_that_is_muted_prints_errors_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_muted", False)
    console.mute()
    say("a")
    tell("b")
    console.put("c")
    console.tell_scores("dev", {"loss": 1.0})
    console.bar(3).update()
    assert capsys.readouterr() == ("", "")
    console.show_error("d")
    assert capsys.readouterr() == ("", "seqkit: d\n")


def test_columns_of_a_table_are_aligned() -> None:
    assert console.table([("a", "bcd", "e"), ("fg", "h", "")]) == ["  a   bcd  e", "  fg  h"]


def unsafe(output: bytes) -> set[str]:
    return UNSAFE & ({*output.decode()} - {"\n"})


def test_control_characters_of_data_do_not_reach_the_terminal(
    tmp_path: Path, cli: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Training with samples, reports, messages, scores: labels, slots and texts are all hostile."""
    bad = ESCAPE.rstrip("\r")
    hostile: dict[str, list[dict[str, Any]]] = {
        "sentiment": [{"text": f"a {bad} b", "label": f"l{number}{bad}"} for number in (0, 1)] * 4,
        "slots": [
            {"tokens": [f"a{bad}", "b"], "tags": ["O", f"B-x{bad}"], "intent": f"{number}{bad}"} for number in (0, 1)
        ]
        * 4,
        "translation": [{"source": f"a {bad} b", "target": f"c {bad} d"}] * 8,
        "language_model": [{"text": f"a {bad} b"}] * 8,
    }
    sizes = {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}}
    pairs = {name: {"size": 4} for name in ("source", "target")}
    pairs |= {name: {"hidden_size": 4} for name in ("encoder", "decoder")}
    for task, rows in hostile.items():
        file = tmp_path / f"{task}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        tree = {
            "task": task,
            "name": task,
            "device": "cpu",
            "data": {"train": str(file), "dev": str(file), "test": str(file), "batch_size": 2},
            "model": pairs if task == "translation" else sizes,
            "text": {"tokenizer": "word"},
            "training": {"steps": 2},
        }
        (tmp_path / f"{task}.yaml").write_text(json.dumps(tree), "utf-8")
        for command in (["train", f"{task}.yaml"], ["evaluate", f"runs/{task}", *CPU], ["doctor", f"runs/{task}"]):
            done = cli(tmp_path, *command)
            told = capfd.readouterr()
            output = done.stdout + done.stderr + (told.out + told.err).encode()
            assert done.returncode == 0, output
            assert not unsafe(output), (command, output)
        file.write_text(json.dumps(rows[0]).replace("b", f"b{bad}").replace("\x1b", "\\u001b") + "\n{", "utf-8")
        done = cli(tmp_path, "evaluate", f"runs/{task}", *CPU, "--data", str(file))
        assert done.returncode == 2
        assert not unsafe(done.stderr.replace(b"\r", b"")), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["predict", str(RUNS / "sentiment-finished")],
        ["translate", str(RUNS / "translation-finished")],
        ["config", "schema", "c.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_a_reader_that_leaves_is_no_mistake(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "lines").write_text("the plot is dull\n" * 3000, "utf-8")
    shutil.copy(RUNS / "sentiment-finished" / "config.yaml", tmp_path / "c.yaml")
    arguments = command if command[0] == "config" else [*command, "lines", *CPU]
    with subprocess.Popen(
        [sys.executable, "-m", "seqkit", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == 0
    assert said == b""


def test_blank_texts_get_no_label_and_are_not_scored(tmp_path: Path, cli: Callable[..., Any]) -> None:
    folder = RUNS / "sentiment-finished"
    model: Any = run.load(folder, device="cpu")
    texts = ["the plot is dull", "a lovely film", "the acting is superb", "bad"]
    blank = ["", " ", "\t \u3000", "\xa0\u2003", "\x1c\x1f\x85\v"]
    assert [found.label for found in model.predict(blank)] == [None] * len(blank)
    labels = [model.classes[number % 2] for number in range(len(texts))]
    found = [one.label for one in model.predict(texts)]
    right = sum(one == other for one, other in zip(found, labels, strict=True)) / len(texts)
    scores = {}
    for name, more in (("some", []), ("all", blank)):
        rows = [*zip(texts, labels, strict=True), *((text, model.classes[0]) for text in more)]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows), "utf-8")
        scores[name], lines = run.evaluate(folder, str(file), device="cpu")
        assert lines[0].endswith(": 4 texts" + (" (5 blank ones left out: they get no label)" if more else ""))
    assert scores["all"] == scores["some"]
    assert scores["all"]["accuracy"] == pytest.approx(right)
    only = tmp_path / "only.jsonl"
    only.write_text(json.dumps({"text": " ", "label": model.classes[0]}) + "\n", "utf-8")
    done = cli(tmp_path, "evaluate", str(folder), *CPU, "--data", str(only))
    assert done.returncode == 2
    assert "every text is blank" in done.stderr.decode()


def test_scores_on_dev_leave_blank_texts_out_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"{word} film", "label": word} for word in ("good", "bad")] * 3
    for name, more in (("whole", []), ("blank", [{"text": " ", "label": "good"}])):
        for part, some in (("train", rows), (name, rows + more)):
            (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    trained = [
        seqkit.train(
            {
                "task": "sentiment",
                "name": name,
                "device": "cpu",
                "data": {"train": str(tmp_path / "train.jsonl"), "dev": str(tmp_path / f"{name}.jsonl")},
                "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}},
                "training": {"steps": 2},
            },
            root=tmp_path,
        ).dev
        for name in ("whole", "blank")
    ]
    assert trained[0] == trained[1]
    assert "1 blank, which are not scored" in capfd.readouterr().err


def test_help_says_what_a_temperature_does(cli: Callable[..., Any], tmp_path: Path) -> None:
    for command, kind in (("predict", "language_model"), ("translate", "translation")):
        done = cli(tmp_path, command, str(RUNS / f"{kind}-finished"), "--help-options")
        assert "below 1 is safer" in done.stdout.decode().lower()
