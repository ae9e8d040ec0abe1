"""Tagged sentences out of CoNLL files, JSON lines and the built-in data, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from seqkit.data.source import Source, SourceConfig
from seqkit.data.tagged import has_intents, open_tagged
from seqkit.errors import UserError

ROWS = [
    (["fly", "to", "New York", "ü"], ["O", "O", "B-city", "I-city"]),
    (["#"], ["O"]),
    (["1\u00a0000", "B-x"], ["B-number", "O"]),
]


def load(path: Path | str, *, intent: bool = False, **options: Any) -> Source:
    return open_tagged(SourceConfig(path=str(path), **options), "train", intent=intent)


def rows(source: Source) -> list[tuple[list[str], list[str]]]:
    return [(row["tokens"], row["tags"]) for row in source.dataset]


def conll(separator: str, between: str = "", end: str = "\n") -> str:
    sentences = []
    for tokens, tags in ROWS:
        lines = [
            separator.join([token, *([between] if between else []), tag])
            for token, tag in zip(tokens, tags, strict=True)
        ]
        sentences.append(end.join(lines) + end)
    return end.join(sentences)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_conll_with_tabs_and_a_column_between(tmp_path: Path, ending: str, end: str) -> None:
    text = conll("\t", "NN", end).replace("New York", "New_York").encode()
    path = tmp_path / f"x.conll{ending}"
    path.write_bytes(gzip.compress(text) if ending else text)
    expected = [(["fly", "to", "New_York", "ü"], ROWS[0][1]), *ROWS[1:]]
    source = load(path)
    assert rows(source) == expected
    assert [source.place(row).rpartition(":")[2] for row in range(3)] == ["1", "6", "8"]


def test_conll_with_spaces_document_marks_and_many_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.iob"
    path.write_text("-DOCSTART- -X- O\n\n\na  NN O\nb NN  B-x\n \t\n-DOCSTART- O\nc NN B-y", "utf-8")
    source = load(path)
    assert rows(source) == [(["a", "b"], ["O", "B-x"]), (["c"], ["B-y"])]
    assert source.dataset["_line"][:] == [4, 8]


def test_tokens_with_spaces_in_a_file_of_tabs(tmp_path: Path) -> None:
    path = tmp_path / "x.conll"
    path.write_text(conll("\t", "N N"), "utf-8")
    assert rows(load(path)) == ROWS
    assert rows(load(path, columns={"tags": "3"})) == ROWS


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a\tB-x\nNew York\tO\n", [["a", "New York"]]),
        ("New York\tO\t\n a \tO\t\n", [["New York", "a"]]),  # tabs at the ends are no columns, as ever
        ("a\tO\nb O\n", [["a", "b"]]),  # not every line has a tab: both separate
        ("a\t\tO\nlonger\tO\n", [["a", "longer"]]),  # not as many tabs
        ("a\u3000b\tO\nc\u00a0d\tO\n", [["a\u3000b", "c\u00a0d"]]),
        ("a\u3000b O\n", [["a\u3000b"]]),
    ],
)
def test_what_separates_the_columns_is_told_by_the_first_lines(
    tmp_path: Path, text: str, tokens: list[list[str]]
) -> None:
    path = tmp_path / "x.conll"
    path.write_text(text, "utf-8")
    assert [found for found, _ in rows(load(path))] == tokens


COMMENTS = "# newdoc\n#\n# sent_id = 1\n# text = # and a\n"


@pytest.mark.parametrize("between", ["\t", " ", "\tNN\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_comments_stand_before_sentences_and_a_hash_is_a_token(tmp_path: Path, between: str, end: str) -> None:
    path = tmp_path / "x.conll"
    lines = [[f"#{between}O", f"a{between}B-x", f"#{between}O"], [f"#tag{between}B-x"], [f"b{between}O"]]
    text = "\n".join(COMMENTS + "".join(line + "\n" for line in sentence) for sentence in lines) + "\n# the end\n"
    path.write_bytes(text.replace("\n", end).encode())
    source = load(path)
    assert rows(source) == [(["#", "a", "#"], ["O", "B-x", "O"]), (["#tag"], ["B-x"]), (["b"], ["O"])]
    assert source.dataset["_line"][:] == [5, 13, 19]


def test_a_file_of_hashes_and_a_hash_without_its_tag(tmp_path: Path) -> None:
    path = tmp_path / "x.conll"
    path.write_text("# O\n\n# B-x\n", "utf-8")
    assert rows(load(path)) == [(["#"], ["O"]), (["#"], ["B-x"])]
    path.write_text("a O\n#\nb O\n", "utf-8")
    with pytest.raises(UserError, match=r"x\.conll:2: 1 column; expected 2 as before"):
        load(path)
    path.write_text("# a b\n" * 3, "utf-8")
    with pytest.raises(UserError, match=r"x\.conll: no rows"):
        load(path)


def test_conll_columns_by_number(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("1 a B-x -\n2 b O -\n", "utf-8")
    assert rows(load(path, format="conll", columns={"tokens": "2", "tags": "3"})) == [(["a", "b"], ["B-x", "O"])]
    with pytest.raises(UserError, match=r"x\.txt:1: 4 columns; expected at least 5"):
        load(path, format="conll", columns={"tags": "5"})
    for name in ("word", "0", "-1"):
        with pytest.raises(UserError, match=f"no column '{name}'"):
            load(path, format="conll", columns={"tags": name})
    with pytest.raises(UserError, match="no column 'intent'"):
        load(path, format="conll", intent=True)


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [json.dumps({"tokens": tokens, "tags": tags, "intent": "go"}) for tokens, tags in ROWS]
    path.write_text("\n".join(lines), "utf-8")
    source = load(path, intent=True)
    assert rows(source) == ROWS  # tokens stay as they are, spaces and all
    assert source.dataset["intent"][:] == ["go"] * 3
    assert "intent" not in load(path).dataset.column_names


def test_the_built_in_requests() -> None:
    source = load("builtin:travel", intent=True, limit=20)
    assert len(source.dataset) == 20
    assert all(len(row["tokens"]) == len(row["tags"]) for row in source.dataset)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens and 1 tags; expected one tag for each token"),
        ({"tokens": [], "tags": []}, "a sentence without tokens"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "token 2 is blank"),
        ({"tokens": ["a"], "tags": ["S-x"]}, r"tag 1 \('a'\) is 'S-x'; expected O, B-type or I-type"),
        ({"tokens": ["a"], "tags": ["B-"]}, r"tag 1 \('a'\) is 'B-'"),
        ({"tokens": ["a"], "tags": "O"}, "'tags': expected a list of strings"),
        ({"tokens": ["a"], "tags": ["O"], "intent": " "}, "' ' is not a valid intent"),
        ({"tokens": ["a"], "tag": ["O"]}, "did you mean 'tag'"),
    ],
)
def test_bad_rows_are_errors_with_their_line_or_counted(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.jsonl"
    good = json.dumps({"tokens": ["a"], "tags": ["O"], "intent": "go"})
    path.write_text(f"{good}\n\n{json.dumps({'intent': 'go', **row})}\n{good}\n", "utf-8")
    with pytest.raises(UserError, match=rf"x\.jsonl:3: .*{message}"):
        load(path, intent=True)
    source = load(path, intent=True, on_bad_line="skip")
    assert (len(source.dataset), source.skipped.lines) == (2, 1)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"a O\nb\nc O\n\nd O\n", 2, "1 column; expected 2 as before"),
        (b"a O\nb O\n\nd X O\n", 4, "3 columns; expected 2"),
        (b"d O\n\na O\nb \xff O\n", 4, "not UTF-8 text"),
        (b"d O\n\na O\nb O-x\n", 3, r"tag 2 \('b'\) is 'O-x'"),
    ],
)
def test_bad_lines_of_conll(tmp_path: Path, text: bytes, line: int, message: str) -> None:
    path = tmp_path / "x.conll"
    path.write_bytes(text)
    with pytest.raises(UserError, match=rf"x\.conll:{line}: {message}"):
        load(path)
    source = load(path, on_bad_line="skip")
    left = sum(len(tokens) for tokens, _ in rows(source))
    assert source.skipped.lines == sum(map(bool, text.split(b"\n"))) - left  # a whole sentence
    assert [tokens for tokens, _ in rows(source)] in ([["d"]], [["a", "b"]])


def test_a_file_of_one_column(tmp_path: Path) -> None:
    path = tmp_path / "x.conll"
    path.write_text("word\n", "utf-8")
    with pytest.raises(UserError, match=r"x\.conll:1: 1 column; expected at least 2: a token, its tag"):
        load(path)


def test_which_formats_can_have_an_intent() -> None:
    assert has_intents(SourceConfig(path="x.jsonl"))
    assert has_intents(SourceConfig(path="builtin:travel"))
    assert not has_intents(SourceConfig(path="x.bio.gz"))
    assert not has_intents(SourceConfig(path="x.txt", format="conll"))
