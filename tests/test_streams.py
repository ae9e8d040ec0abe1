"""Standard input and output of every command: other encodings, full disks, readers that leave, terminals, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqkit.cli import main
from seqkit.config import read
from seqkit.errors import UserError
from seqkit.text import load_vectors

pty = pytest.importorskip("pty")

RUNS = Path(__file__).parent / "fixtures" / "2026-11"
SENTIMENT = str(RUNS / "sentiment-finished")
CPU = ("--device", "cpu")
COMMANDS = {
    "predict": ["predict", SENTIMENT, "lines", *CPU],
    "predict-jsonl": ["predict", SENTIMENT, "lines", *CPU, "--format", "jsonl"],
    "translate": ["translate", str(RUNS / "translation-finished"), "lines", *CPU],
    "evaluate": ["evaluate", SENTIMENT, *CPU, "--data", "é.jsonl"],
    "evaluate-json": ["evaluate", SENTIMENT, *CPU, "--data", "é.jsonl", "--format", "json"],
    "show": ["config", "show", "c.yaml", "data.train=é\x1b[31m.tsv"],
    "check": ["config", "check", "c.yaml"],
    "schema": ["config", "schema", "c.yaml"],
    "explain": ["config", "explain", "c.yaml"],
    "doctor": ["doctor", SENTIMENT],
    "doctor-json": ["doctor", SENTIMENT, "--format", "json"],
    "lessons": ["lessons"],
    "lesson": ["lessons", "memory", "--to", "page.html"],
    "why": ["explain", SENTIMENT, "a dull plot", "--method", "occlusion", "--html", "page.html", *CPU],
    "why-json": ["explain", SENTIMENT, "a dull plot", "--method", "occlusion", "--format", "json", *CPU],
    "runs": ["runs", str(RUNS), "--html", "page.html"],
    "help": ["--help"],
    "version": ["--version"],
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lines").write_text("the plot is dull\n" * 3, "utf-8")
    rows = [{"text": "a dull plot", "label": label} for label in ("negative", "positive")]
    (tmp_path / "é.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "c.yaml").write_text(Path(SENTIMENT, "config.yaml").read_text("utf-8"), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, command: list[str], out: Any, stdin: Any = None) -> tuple[int, str]:
    """The exit code of a command with this standard output (and input), and what it said on standard error."""
    errors = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", errors)
        if stdin is not None:
            patch.setattr(sys, "stdin", stdin)
        with pytest.raises(SystemExit) as left:
            main(command)
    return int(left.value.code or 0), errors.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    code, said = call(monkeypatch, COMMANDS[name], out)
    assert (code, said) == (0, "")
    written = out.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]
    if name.endswith(("json", "jsonl", "schema")):
        for text in written.splitlines() if name == "predict-jsonl" else [written]:
            assert isinstance(json.loads(text, parse_constant=pytest.fail), dict)
    elif name == "show":  # data: as it is
        assert yaml.safe_load(written)["data"]["train"]["path"] == "é\x1b[31m.tsv"
        assert "é" in written
    elif name == "evaluate":  # for a person: as far as the stream can
        assert written.startswith("\\xe9.jsonl: 2 texts\n")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with open("/dev/full", "w", encoding="utf-8") as out:
        code, said = call(monkeypatch, COMMANDS[name], out)
    assert code == 1
    assert "No space left on device" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_left(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", 1, encoding="utf-8") as out:
        assert call(monkeypatch, COMMANDS[name], out) == (0, "")
    assert Path("page.html").exists() == ("page.html" in COMMANDS[name])


def test_errors_say_nothing_that_steers_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (
        ["train", "--\x1b[31mx"],
        ["\x1b]0;x\x07"],
        ["train", "\x1b[2J.yaml"],
        ["train", "c.yaml", "\x1b=1"],
    ):
        code, said = call(monkeypatch, command, io.StringIO())
        assert code == 2
        assert "\\x1b" in said
        assert not {*said} & {"\x1b", "\x07"}


@pytest.fixture
def terminal() -> Iterator[tuple[Any, int]]:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r+b", buffering=0) as raw:
        yield raw, ours
    os.close(ours)


def test_a_terminal_gets_no_control_characters_of_data(monkeypatch: pytest.MonkeyPatch, terminal: Any) -> None:
    raw, ours = terminal
    with io.TextIOWrapper(io.FileIO(raw.fileno(), "w", closefd=False), encoding="utf-8", write_through=True) as out:
        assert out.isatty()
        assert call(monkeypatch, ["config", "show", "c.yaml", "name=é", "data.train=\x9b31m\u202e.tsv"], out) == (0, "")
    shown = os.read(ours, 1 << 16).decode()
    assert not {*shown} & {"\x1b", "\x9b", "\u202e"}
    assert "é" in shown


def test_who_waits_at_a_terminal_says_so(monkeypatch: pytest.MonkeyPatch, terminal: Any) -> None:
    raw, ours = terminal
    os.write(ours, b"the plot is dull\n\x04")
    stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(raw.fileno(), "r", closefd=False)))
    command = ["predict", SENTIMENT, *CPU]
    out = io.StringIO()
    code, said = call(monkeypatch, command, out, stdin)
    assert code == 0
    assert said.startswith("seqkit: reading from the terminal, one text a line; Ctrl-D ")
    assert out.getvalue() in ("negative\n", "positive\n")
    monkeypatch.chdir("/")
    code, said = call(monkeypatch, command, io.StringIO(), io.TextIOWrapper(io.BytesIO(b"dull\n")))
    assert (code, said) == (0, "")


class _Interrupted(io.BytesIO):
    def readline(self, size: int | None = -1) -> bytes:
        raise KeyboardInterrupt


def test_an_interrupt_outside_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["predict", SENTIMENT, *CPU], ["translate", str(RUNS / "translation-finished"), *CPU]):
        found = call(monkeypatch, command, io.StringIO(), io.TextIOWrapper(_Interrupted()))
        assert found == (130, "seqkit: stopped\n")


def test_what_is_no_file_is_refused_and_not_waited_for(home: Path) -> None:
    os.mkfifo(home / "pipe")
    for path in (home / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="this is a pipe, a device or a socket; expected a YAML file"):
            read(path)
        with pytest.raises(UserError, match="this is a pipe, a device or a socket; expected a file of vectors"):
            load_vectors(path, ["a"])
    reading, writing = os.pipe()  # as the shell's <(...)
    os.write(writing, b"name: x\n")
    os.close(writing)
    for _ in range(2):  # --seeds reads it for each run
        assert read(f"/dev/fd/{reading}").tree == {"name": "x"}
    os.close(reading)
