"""Every kind of damage a file can have, read on to the end of `open_source`: a bad line stops or is counted."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqkit.data import readers
from seqkit.data.formats import detect, read
from seqkit.data.source import Source, SourceConfig
from seqkit.data.sources import open_source
from seqkit.errors import UserError

TSV = "text\tlabel\na good film\tpos\nein Mädchen, 你好\tneg\n"
FIELDS: dict[str, type] = {"text": str, "label": str}


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def load(path: Path | str, fields: dict[str, type] = FIELDS, part: str = "train", **options: Any) -> Source:
    return open_source(SourceConfig(path=str(path), **options), fields, part)


def pairs(source: Source) -> list[tuple[str, str]]:
    return list(zip(source.dataset["text"], source.dataset["label"], strict=True))


def test_csv_quotes_and_lines(tmp_path: Path) -> None:
    content = 'text,label\r\n"two\r\nlines, ""quoted""",pos\r\n\r\nplain,neg\r\n'
    path = write(tmp_path / "d.csv", content)
    source = load(path)
    assert pairs(source) == [('two\r\nlines, "quoted"', "pos"), ("plain", "neg")]
    assert [source.place(0), source.place(1)] == [f"{path}:2", f"{path}:5"]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6))
def test_csv_and_jsonl_round_trip(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    with (tmp_path / "h.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    assert [(t, la) for _, (t, la) in _read(tmp_path / "h.csv")] == rows
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=len(text) % 2 == 0) for text, label in rows]
    write(tmp_path / "h.jsonl", "\n".join(lines))
    assert [(t, la) for _, (t, la) in _read(tmp_path / "h.jsonl")] == rows


def _read(path: Path) -> list[Any]:
    columns = [readers.Column("text", str), readers.Column("label", str)]
    return list(read(path, detect(path), columns))


BAD_LINES = [
    ("d.tsv", b"text\tlabel\na\tx\nonly one\nb\ty\n", r"d.tsv:3: 1 column; expected 2 \(text, label\)"),
    ("d.tsv", b"text\tlabel\na\tx\n1\t2\t3\nb\ty\n", r"d.tsv:3: 3 columns; expected 2 \(text, label\)"),
    ("d.tsv", b"text\tlabel\na\tx\nab\xff\tx\nb\ty\n", r"d.tsv:3: not UTF-8 text \(byte 0xff at position 3 of"),
    ("d.tsv", b"text\tlabel\na\tx\n\0\tx\nb\ty\n", r"d.tsv:3: a NUL byte at position 1 of the line"),
    ("d.csv", b'text,label\na,x\n"1\n2",3,4\nb,y\n', r"d.csv:3: 3 columns; expected 2"),
    ("d.csv", b'text,label\na,x\n"1\n\xe9",z\nb,y\n', r"d.csv:3: not UTF-8 text \(byte 0xe9 at position 1"),
    ("d.csv", b"text,label\na,x\n1\0,z\nb,y\n", r"d.csv:3: a NUL byte at position 2"),
    ("d.csv", b'text,label\na,x\n"1"2,z\nb,y\n', r"d.csv:3: not CSV: "),
    ("d.csv", b'text,label\na,x\nb,y\n"never,closed\n\n', r"d.csv:4: a quoted field is never closed"),
    ("d.jsonl", b'{"text":"a","label":"x"}\n{"text":\n{"text":"b","label":"y"}', r"d.jsonl:2: not valid JSON: Exp"),
    ("d.jsonl", b'{"text":"a","label":"x"}\n[1]\n{"text":"b","label":"y"}', r":2: expected a JSON object, got list"),
    (
        "d.jsonl",
        b'{"text":"a","label":"x"}\n{"text":"","labels":1}\n{"text":"b","label":"y"}',
        r":2: no key 'label' \(keys: text, labels\); did you mean 'labels'",
    ),
    (
        "d.jsonl",
        b'{"text":"a","label":"x"}\n{"text":["a"],"label":""}\n{"text":"b","label":"y"}',
        r":2: 'text': expected text, got \['a'\]",
    ),
    (
        "d.jsonl",
        b'{"text":"a","label":"x"}\n{"text":"a","label":true}\n{"text":"b","label":"y"}',
        r":2: 'label': expected text, got True",
    ),
    (
        "d.jsonl",
        b'{"text":"a","label":"x"}\n{"text":"\\ud800","label":""}\n{"text":"b","label":"y"}',
        r":2: not valid Unicode: half of a surrogate",
    ),
    ("d.jsonl", b'{"text":"a","label":"x"}\n\xc3(\n{"text":"b","label":"y"}', r":2: not UTF-8 text \(byte 0xc3 at"),
    (
        "d.jsonl",
        b'{"text":"a","label":"x"}\n' + b"[" * 100_000 + b'\n{"text":"b","label":"y"}',
        r":2: not valid JSON",
    ),
    (
        "d.jsonl",
        b'{"text":"a","label":"x"}\n{"text":' + b"1" * 5000 + b',"label":""}\n{"text":"b","label":"y"}',
        r":2: (not valid JSON|'text': expected)",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_LINES)
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_bad_lines_stop_or_are_counted(
    tmp_path: Path, cache: Path, name: str, content: bytes, message: str, gz: str
) -> None:
    path = write(tmp_path / (name + gz), content)
    with pytest.raises(UserError, match=message.replace(name, name + gz)) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not list(cache.iterdir())
    for _ in range(2):  # the second time from the cache
        source = load(path, on_bad_line="skip")
        assert pairs(source) == [("a", "x"), ("b", "y")]
        assert source.skipped.lines == content.count(b'"1\n') + 1  # such a record takes two
        assert source.skipped.first == source.skipped.last == str(caught.value)


def test_lists_of_the_wrong_type(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", '{"tokens": ["a", 1]}\n')
    with pytest.raises(UserError, match=r"d.jsonl:1: 'tokens': expected a list of strings, got \['a', 1\]"):
        load(path, {"tokens": list})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.tsv", b"", "d.tsv: the file is empty"),
        ("d.tsv", b"text\tlabel\n", "d.tsv: no rows"),
        ("d.tsv", b"Text\tlabel\na\tb\n", r"d.tsv:1: no column 'text' \(columns: Text, label\); did you mean 'Text'"),
        ("d.csv", b"text\tlabel\na\tb\n", r"d.csv:1: no column 'text' \(columns: text label\)"),
        ("d.tsv", b"text\ttext\tlabel\na\tb\tc\n", r"d.tsv:1: 2 columns are called 'text'"),
        ("d.tsv", b"te\xffxt\tlabel\na\tb\n", r"d.tsv:1: not UTF-8"),
        ("d.csv", b"te\xffxt,label\na,b\n", r"d.csv:1: not UTF-8"),
        ("d.csv", b'"text,label\na,b\n', r"d.csv:1: a quoted field is never closed"),
        ("d.tsv", "text\tlabel\na\tb\n".encode("utf-16"), "d.tsv: this is UTF-16 text; expected UTF-8"),
        ("d.jsonl", b"\n\n", "d.jsonl: no rows"),
        ("d.xyz", b"text", "d.xyz: the name does not tell the format"),
        ("d", b"text", "d: the name does not tell the format"),
    ],
)
def test_useless_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_every_line_skipped_says_why(tmp_path: Path) -> None:
    path = write(tmp_path / "d.tsv", "text\tlabel\nx\ny\n")
    with pytest.raises(
        UserError, match=r"no rows; 2 bad lines skipped, first .*d.tsv:2: 1 column; expected 2 .*, last .*d.tsv:3: "
    ):
        load(path, on_bad_line="skip")


@pytest.mark.parametrize("cut", [12, 5])
def test_damaged_gzip(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "d.tsv.gz"
    path.write_bytes(gzip.compress(TSV.encode())[:-cut])
    with pytest.raises(UserError, match=r"d.tsv.gz: damaged gzip file after line"):
        load(path)


@pytest.mark.parametrize("name", ["d.tsv", "d.csv", "d.jsonl", "d.txt"])
def test_a_line_of_ten_megabytes(tmp_path: Path, name: str) -> None:
    long = "wörter " * 1_500_000
    before = 131_072
    csv.field_size_limit(before)
    write(
        tmp_path / name,
        {
            "d.tsv": f"text\tn\n{long}\t1\n",
            "d.csv": f"text,n\n{long},1\n",
            "d.jsonl": json.dumps({"text": long}),
            "d.txt": long,
        }[name],
    )
    assert load(tmp_path / name, {"text": str}).dataset[0]["text"] == long
    assert csv.field_size_limit() == before
