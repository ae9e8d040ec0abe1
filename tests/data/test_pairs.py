"""Sentence pairs: two parallel files, one file with two columns, and every way in which they do not fit."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from seqkit.data import readers
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.source import Source
from seqkit.errors import UserError

PAIRS = [("ein Hund läuft", "a dog runs"), ("你好", "hello"), (' "drei"\tvier ', "three\u2028four")]


def files(folder: Path, source: str | bytes, target: str | bytes, ending: str = "") -> dict[str, Any]:
    found = {}
    for side, content in (("source", source), ("target", target)):
        data = content.encode() if isinstance(content, str) else content
        path = folder / f"x.{side}{ending}"
        path.write_bytes(gzip.compress(data) if ending == ".gz" else data)
        found[side] = str(path)
    return found


def lines(side: int, pairs: list[tuple[str, str]] = PAIRS) -> str:
    return "".join(pair[side] + "\n" for pair in pairs)


def load(**where: Any) -> Source:
    return open_pairs(PairConfig(**where), "train")


def pairs(source: Source) -> list[tuple[str, str]]:
    return list(zip(source.dataset["source"], source.dataset["target"], strict=True))


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("crlf", [False, True])
def test_two_files(tmp_path: Path, ending: str, crlf: bool) -> None:
    texts = [lines(side).replace("\n", "\r\n") if crlf else lines(side) for side in (0, 1)]
    where = files(tmp_path, texts[0], texts[1].rstrip("\r\n"), ending)
    source = load(**where)
    assert pairs(source) == PAIRS
    assert source.dataset["_line"][:] == [1, 2, 3]
    assert source.place(1) == f"{where['source']} + {where['target']}:2"


def test_one_file_with_columns_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("en\tde\na dog\tein Hund\n")
    assert pairs(load(path=str(path), columns={"source": "de", "target": "en"})) == [("ein Hund", "a dog")]


def test_the_built_in_pairs() -> None:
    source = open_pairs(PairConfig.model_validate("builtin:phrases"), "test")
    assert len(source.dataset) == 1000
    assert all(one.strip() and other.strip() for one, other in pairs(source))


def test_a_second_use_is_from_the_cache_until_one_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = files(tmp_path, lines(0), lines(1))
    load(**where)
    opened: list[Path] = []
    original = readers._open
    monkeypatch.setattr(readers, "_open", lambda path: opened.append(path) or original(path))
    assert pairs(load(**where)) == PAIRS
    assert opened == []
    Path(where["target"]).write_text("x\ny\nz\n")
    assert [target for _, target in pairs(load(**where))] == ["x", "y", "z"]
    assert len(opened) == 2


def test_limit_and_skipped_lines_keep_the_sides_together(tmp_path: Path) -> None:
    where = files(tmp_path, b"a\n\nc\n\xff\ne\nf\n", "A\nB\n \nD\nE\nF\n")
    source = load(**where, on_bad_line="skip", limit=2)
    assert pairs(source) == [("a", "A"), ("e", "E")]
    assert source.dataset["_line"][:] == [1, 5]
    assert source.skipped.lines == 3
    assert source.skipped.first == f"{where['source']}:2: the source is blank"


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (b"a\n\n", b"A\nB\n", r"x\.source:2: the source is blank"),
        (b"a\nb\n", b"A\n\xc2\xa0 \n", r"x\.target:2: the target is blank"),
        (b"a\nb\n", b"A\n\xff\n", r"x\.target:2: not UTF-8 text \(byte 0xff at position 1"),
        (b"a\nb\nc\n", b"A\nB\n", r"source has 3 lines, .*target 2: .*diverge at about line \d"),
        (b"a\nb\n", b"A\nB\n\n\n", r"source has 2 lines, .*target 4: .*the longer one ends in blank lines"),
        (b"", b"A\n", r"x\.source: the file is empty"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(tmp_path: Path, source: bytes, target: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(**files(tmp_path, source, target))
    assert "\n" not in str(caught.value)


def test_blank_cells_of_a_table_are_bad_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("source\ttarget\na\tA\nb\t \n")
    with pytest.raises(UserError, match=r"x\.tsv:3: the target is blank"):
        load(path=str(path))
    assert pairs(load(path=str(path), on_bad_line="skip")) == [("a", "A")]


@pytest.mark.parametrize("missing", [0, 1, 17, 40, 58, 59])
@pytest.mark.parametrize("side", [0, 1])
def test_the_place_of_a_lost_line_is_guessed(tmp_path: Path, missing: int, side: int) -> None:
    """Lengths that differ from line to line give it away, within a line or two."""
    generator = random.Random(missing)
    left = ["x" * generator.randint(10, 300) for _ in range(60)]
    right = ["y" * round(len(line) * generator.uniform(0.8, 1.2)) for line in left]
    (left, right)[side].pop(missing)
    where = files(tmp_path, *("\n".join(texts) + "\n" for texts in (left, right)))
    with pytest.raises(UserError, match=r"diverge at about line \d+") as caught:
        load(**where)
    assert abs(int(str(caught.value).rsplit(" ", 1)[1]) - 1 - missing) <= 2


def test_a_line_blank_in_one_file_only_is_named(tmp_path: Path) -> None:
    where = files(tmp_path, "a\nb\nc\n", "A\nB\n\nC\n")
    with pytest.raises(UserError, match="line 3 is blank in one of them only"):
        load(**where, on_bad_line="skip")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "expected source and target"),
        ({"source": "a"}, "expected source and target"),
        ({"path": "a.tsv", "source": "b"}, "path: one file"),
        ({"source": "a", "target": "b", "format": "tsv"}, "format: two parallel files are text"),
        ({"source": "a", "target": "b", "columns": {"source": "x"}}, "columns: two parallel"),
        ({"source": "a", "target": "b", "seed": 3}, "seed: two parallel"),
        ({"path": "a.tsv", "seed": 3}, "seed: only builtin: data"),
    ],
)
def test_settings_that_contradict_each_other(where: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PairConfig(**where)
