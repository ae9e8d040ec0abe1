"""Files with damaged lines, read with `on_bad_line: skip`: what is whole survives, and what does not is counted."""

from __future__ import annotations

import csv
import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqkit.data import csvfile
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.skipped import Skipped, good_rows
from seqkit.data.source import Source, SourceConfig
from seqkit.data.sources import make_job, open_source
from seqkit.errors import UserError

FIELDS: dict[str, type] = {"text": str, "label": str}


def load(path: Path, **options: Any) -> Source:
    return open_source(SourceConfig(path=str(path), on_bad_line="skip", **options), FIELDS, "train")


def pairs(source: Source) -> list[tuple[str, str]]:
    return list(zip(source.dataset["text"], source.dataset["label"], strict=True))


# Texts that begin with a letter: of a cell that is only a comma and a quote nobody can say which line opened it.
WORD = st.text("abcé", min_size=1, max_size=3)
TEXT = st.builds(
    lambda words, gaps: "".join(a + b for a, b in zip(words, gaps, strict=True)) + words[-1],
    *[
        st.lists(WORD, min_size=3, max_size=3),
        st.lists(st.sampled_from([" ", ", ", '"', "\n", '",', "\n\n"]), min_size=3, max_size=3),
    ],
)


def written(cells: list[str], quoting: Any) -> str:
    sink = io.StringIO()
    csv.writer(sink, quoting=quoting, lineterminator="\n").writerow(cells)
    return sink.getvalue()


def damaged(kind: str) -> bytes:
    return {
        "open": b'1,"never closed,x\n',
        "open first": b'"never closed,y,x\n',
        "stray": b'1,"a" b,x\n',
        "short": b"1,a\n",
        "long": b'1,"a, b",x,more\n',
        "bytes": b"1,\xff\xfe,x\n",
        "bytes in two": b'1,"two\n\xff lines",x\n',
        "nul": b"1,a\0b,x\n",
    }[kind]


KINDS = ("open", "open first", "stray", "short", "long", "bytes", "bytes in two", "nul")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.one_of(st.tuples(TEXT, st.sampled_from("xy")), st.sampled_from(KINDS)), min_size=1, max_size=12),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_every_whole_record_of_a_damaged_csv_file_survives(tmp_path: Path, rows: list[Any], quoting: Any) -> None:
    content, good, bad, line, places = b"number,text,label\n", [], 0, 2, []
    for row in rows:
        if isinstance(row, str):
            part = damaged(row)
            bad += part.count(b"\n")
            places.append(line)
        else:
            part = written(["1", *row], quoting).encode()
            good.append([*row])
        line += part.count(b"\n")
        content += part
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    skipped = Skipped()
    job = make_job(SourceConfig(path=str(path), on_bad_line="skip"), FIELDS, "train")
    assert [row for _, row in good_rows(job, skipped)] == good
    assert skipped.lines == bad
    if places:
        assert skipped.first.startswith(f"{path}:{places[0]}: ")
        assert skipped.last.startswith(f"{path}:{places[-1]}: ")


@pytest.mark.parametrize("at", [2, 50, 300])
def test_an_unclosed_quote_costs_one_line(tmp_path: Path, at: int) -> None:
    lines = [f"text {number},pos\n" for number in range(300)]
    lines[at - 1] = lines[at - 1].replace("text", '"text')
    path = tmp_path / "d.csv"
    path.write_text("text,label\n" + "".join(lines), "utf-8")
    source = load(path)
    assert len(source.dataset) == 299
    assert source.skipped == Skipped(1, *[f"{path}:{at + 1}: a quoted field is never closed"] * 2)
    assert source.skipped == load(path).skipped  # from the cache
    assert source.place(298) == f"{path}:{301 if at < 300 else 300}"


def test_a_quote_that_another_line_closes_costs_one_line(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('text,label\n"open,x\ngood,y\n", with a comma",z\nlast,y\n', "utf-8")
    source = load(path)
    assert pairs(source) == [("good", "y"), (", with a comma", "z"), ("last", "y")]
    assert source.skipped.lines == 1


def test_a_record_over_several_lines_with_too_many_cells_gives_no_rows_of_its_text(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('text,label\n"one\ntwo, three\nfour",x,more\nlast,y\n', "utf-8")
    source = load(path)
    assert pairs(source) == [("last", "y")]
    assert source.skipped == Skipped(3, *[f"{path}:2: 3 columns; expected 2 (text, label)"] * 2)


def test_quotes_that_are_open_on_purpose_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfile, "LONGEST_LINE", 1 << 16)
    monkeypatch.setattr(csvfile, "_REREAD", 1 << 18)
    path = tmp_path / "d.csv"
    path.write_text("text,label\n" + 'x","\n' * 50_000, "utf-8")
    tracemalloc.start()
    with pytest.raises(UserError, match=r"d.csv:\d+: a quoted field is never closed, as in many lines before"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_blank_lines_behind_the_end_of_one_side_are_bad_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\n", "utf-8")
    (tmp_path / "b").write_text("eins\nzwei\n\n \n", "utf-8")
    where = {"source": str(tmp_path / "a"), "target": str(tmp_path / "b")}
    with pytest.raises(UserError, match=r"b:3: .*a has 2 lines, .*b 4: .*the longer one ends in blank lines"):
        open_pairs(PairConfig(**where), "train")
    source = open_pairs(PairConfig(**where, on_bad_line="skip"), "train")
    assert (len(source.dataset), source.skipped.lines) == (2, 2)
    (tmp_path / "b").write_text("eins\nzwei\n\ndrei\n", "utf-8")
    with pytest.raises(UserError, match=r"a has 2 lines, .*b 4"):
        open_pairs(PairConfig(**where, on_bad_line="skip"), "train")


def test_empty_cells_of_tables_are_counted(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    table = pa.table({"text": ["a", None, "b", "c"], "label": ["x", "y", None, "z"]})
    pq.write_table(table, path)
    for source in (load(path), open_source(SourceConfig(path=f"hub:{tmp_path}", on_bad_line="skip"), FIELDS, "train")):
        assert pairs(source) == [("a", "x"), ("c", "z")]
        assert source.skipped.lines == 2
        assert "row 2: 'text': expected text, got None" in source.skipped.first
        assert "row 3: 'label': expected text, got None" in source.skipped.last
