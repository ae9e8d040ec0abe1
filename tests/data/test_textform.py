"""How text is written: delimiters of CSV files and encodings, which are asked for and never guessed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqkit.config import from_mapping
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.source import Source, SourceConfig
from seqkit.data.sources import open_source
from seqkit.data.textform import text_encoding
from seqkit.errors import UserError
from seqkit.tasks.common import SplitData, beside

FIELDS: dict[str, type] = {"text": str, "label": str}


def load(path: Path, **options: Any) -> Source:
    return open_source(SourceConfig(path=str(path), **options), FIELDS, "train")


def pairs(source: Source) -> list[tuple[str, str]]:
    return list(zip(source.dataset["text"], source.dataset["label"], strict=True))


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("named", [True, False])
def test_delimiters(tmp_path: Path, delimiter: str, named: bool) -> None:
    path = tmp_path / "d.csv"
    rows = f'text{delimiter}label\n"a{delimiter}b, ""c"""{delimiter}x\n'
    path.write_text((f"sep={delimiter}\r\n" if named else "") + rows, "utf-8")
    options = {} if named else {"delimiter": delimiter}
    source = load(path, **options)
    assert pairs(source) == [(f'a{delimiter}b, "c"', "x")]
    assert source.place(0) == f"{path}:{2 + named}"
    assert load(path, delimiter=delimiter).dataset[:] == source.dataset[:]
    if delimiter != "," and not named:
        with pytest.raises(UserError, match=r"no column 'text' \(columns: .*; if .* separates .*, set data.delimiter"):
            load(path)
    if named:
        with pytest.raises(UserError, match=r"d.csv:1: its first line says sep=., but delimiter is ':'; leave"):
            load(path, delimiter=":")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "shift_jis", "gb18030", "big5", "koi8-r", "utf-8-sig"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_encodings(tmp_path: Path, encoding: str, form: str) -> None:
    text = {"cp1252": "café „x“", "latin-1": "café", "koi8-r": "мир"}.get(encoding, "表示中文")
    path = tmp_path / f"d.{form}"
    content = {"csv": f"text,label\n{text},x\n", "tsv": f"text\tlabel\n{text}\tx\n"}
    path.write_bytes(content.get(form, f'{{"text": "{text}", "label": "x"}}\n').encode(encoding))
    assert pairs(load(path, encoding=encoding)) == [(text, "x")]
    if encoding != "utf-8-sig":
        with pytest.raises(UserError, match=rf"d.{form}:[12]: not UTF-8 text \(byte 0x.*\); if .* set data.encoding$"):
            load(path)
        with pytest.raises(UserError, match=rf"d.{form}:[12]: not ascii text"):
            load(path, encoding="ascii")


def test_two_readings_of_one_file_are_not_one_in_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes("text;label\nÄ;b,c\n".encode("latin-1"))
    found = [load(path, delimiter=";", encoding=encoding) for encoding in ("cp1252", "cp1251", "cp1252")]
    assert [one.dataset["text"][0] for one in found] == ["Ä", "Д", "Ä"]
    sides = {"source": str(tmp_path / "a"), "target": str(tmp_path / "b")}
    for side in sides.values():
        Path(side).write_bytes(b"\xc4\n")
    both = [
        open_pairs(PairConfig(**sides, encoding=name), "train").dataset["source"][0] for name in ("cp1252", "cp1251")
    ]
    assert both == ["Ä", "Д"]


CODECS = [
    "utf-16",
    "cp037",
    "utf-7",
    "rot13",
    "base64",
    "utf-32-be",
    "hex",
    "utf_6",
    "unicode_escape",
    "raw_unicode_escape",
    "idna",
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.one_of(st.sampled_from(CODECS), st.text()))
def test_every_name_is_an_encoding_with_lines_or_refused(name: str) -> None:
    try:
        found = text_encoding(name)
    except ValueError as error:
        assert str(error).startswith("encoding: ")  # noqa: PT017
        if advised := re.search(r"did you mean '(.*)'\?$", str(error)):
            assert text_encoding(advised[1])
    else:
        assert b"a\n".decode(found) == "a\n"
        assert rb"\u0000 \n.xn--nxa".decode(found) == r"\u0000 \n.xn--nxa"  # ASCII is what it says, no escapes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "d.csv", "encoding": "cp1525"}, r"encoding: no text encoding 'cp1525'; did you mean 'cp125\d'"),
        ({"path": "d.csv", "encoding": "utf-16"}, "'utf-16' does not begin with ASCII, .*iconv -f utf-16 -t utf-8"),
        ({"path": "d.csv", "delimiter": ";;"}, "delimiter: expected one character, .*, got ';;'"),
        ({"path": "d.csv", "delimiter": '"'}, "delimiter: expected one character, neither a quote"),
        ({"path": "d.csv", "delimiter": ";", "format": "jsonl"}, "delimiter: only CSV files have one"),
        ({"path": "builtin:reviews", "delimiter": ";"}, "delimiter: only CSV files have one"),
        ({"path": "builtin:reviews", "encoding": "cp1252"}, "encoding: builtin:NAME has none"),
        ({"path": "d.parquet", "format": "parquet", "encoding": "cp1252"}, "encoding: a Parquet file has none"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_mapping(options).check(SourceConfig)


def test_what_the_format_has_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text("text\tlabel\na\tx\n", "utf-8")
    with pytest.raises(UserError, match=r"d.tsv: this is tsv, which has no delimiter to choose"):
        load(path, delimiter=";")
    path.write_text("\ufefftext\tlabel\na\tx\n", "utf-8")
    with pytest.raises(UserError, match=r"d.tsv: begins with the byte order mark of UTF-8, but encoding is cp1252"):
        load(path, encoding="cp1252")


def test_the_keys_beside_the_parts_hold_for_all_and_for_other_files(tmp_path: Path) -> None:
    tree = {"train": "a.csv", "dev": {"path": "b.csv", "delimiter": "|"}, "delimiter": ";", "encoding": "cp1252"}
    data = from_mapping(tree).check(
        type("Data", (SplitData,), {"__annotations__": {"train": SourceConfig, "dev": SourceConfig}})
    )
    assert (data.train.delimiter, data.dev.delimiter, data.dev.encoding) == (";", "|", "cp1252")
    assert beside(data.train, "c.csv").delimiter == ";"
    assert beside(data.train, "c.csv.gz").encoding == "cp1252"
    assert beside(data.train, "c.jsonl").delimiter is None
    assert beside(data.train, "c.parquet").encoding == "utf-8"
    with pytest.raises(
        UserError, match=r"c.dat: the name does not tell the format .*; give the file a name that does$"
    ):
        beside(data.train, "c.dat")
