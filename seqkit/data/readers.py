"""Rows out of files: one generator a format, each row with its line number, a bad line as a value.

A reader yields `(line, values)` with one value a column asked for, in that order, or `(line, BadRow)`; whether a bad
row stops the program is not its business. What makes the whole file useless raises `UserError` at once.
"""

from __future__ import annotations

import gzip
import json
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from seqkit.data.textform import Form
from seqkit.errors import UserError, listed, nearest, shown
from seqkit.files import LONGEST_LINE
from seqkit.files import read_lines as raw_lines

Value = str | list[str]

_MOST_PARTS = 1 << 20  # brackets in a line of JSON: an empty list takes thirty times the memory of its two characters
_PARQUET_ROWS = 1000  # read at a time


@dataclass(frozen=True)
class Column:
    """A column to read: `kind` is `str`, or `list` for a list of strings."""

    name: str
    kind: type


@dataclass(frozen=True)
class BadRow:
    """Why a row cannot be used, in which file, where the rows come from more than one, and how many lines it takes."""

    message: str
    file: str = ""
    lines: int = 1


SKIPS = {"error": False, "skip": True}
"""What `data.on_bad_line` may be: whether a bad row is passed over."""
Rows = Generator[tuple[int, list[Value] | BadRow], None, None]


class Reader(ABC):
    """Reads files of one format. Derive from it for another format.

    Attributes:
        endings: of such files' names, in small letters, such as `.tsv`; a last `.gz` is passed over.
        has_lines: rows begin at lines; otherwise rows are counted.
        has_encoding: the file is text, in an encoding that can be set.
        has_delimiter: what separates the columns can be set.
        line_a_token: a row takes a line for each token, and has no column that is not a list.
    """

    endings: ClassVar[tuple[str, ...]] = ()
    has_lines: ClassVar[bool] = True
    has_encoding: ClassVar[bool] = True
    has_delimiter: ClassVar[bool] = False
    line_a_token: ClassVar[bool] = False

    @abstractmethod
    def read(self, path: Path, columns: Sequence[Column], form: Form) -> Rows:
        """Yield the rows of a file: `(line, values)`, or `(line, BadRow)` where a row cannot be used.

        Args:
            path: the file.
            columns: which to read; a row has one value for each of them, in this order.
            form: how the text is written.

        Raises:
            UserError: the whole file is useless: it is damaged, or has no such column.
        """


def convert(value: Any, column: Column) -> Value | BadRow:
    """Return a value as the column wants it: text (an integer becomes its digits) or a list of strings."""
    if column.kind is list:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        expected = "a list of strings"
    else:
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        expected = "text"
    return BadRow(f"{column.name!r}: expected {expected}, got {shown(value, 40)}")


def picker(positions: Sequence[int], columns: Sequence[Column]) -> Callable[[list[str]], list[Value]]:
    """From the cells of a line to the values of the columns."""
    if all(column.kind is str for column in columns):
        return lambda cells: [cells[at] for at in positions]  # twice as fast as the general way
    pairs = [(at, column.kind is list) for at, column in zip(positions, columns, strict=True)]
    return lambda cells: [cells[at].split() if splits else cells[at] for at, splits in pairs]


def convert_row(values: Iterable[Any], columns: Iterable[Column]) -> list[Value] | BadRow:
    """Return the values of a row as their columns want them, or what is wrong with the first that is not."""
    row: list[Value] = []
    for value, column in zip(values, columns, strict=True):
        found = convert(value, column)
        if isinstance(found, BadRow):
            return found
        row.append(found)
    return row


def read_lines(path: Path, first: int = 1, encoding: str = "utf-8") -> Iterator[tuple[int, str, str]]:
    """(number, text with its line end, what is wrong or "") of each line, plain or gzip, without the BOM.

    Those before line `first` are passed over unseen.
    """
    named = "UTF-8" if encoding == "utf-8" else encoding
    number = 0
    with closing(_open(path)) as file:
        try:
            lines = raw_lines(file)
            deque(islice(lines, first - 1), maxlen=0)
            for number, raw in enumerate(lines, first):
                if len(raw) > LONGEST_LINE:
                    raise UserError(f"{path}:{number}: a line of more than {LONGEST_LINE:,} bytes")
                if number == 1:
                    raw = _without_mark(raw, path, encoding)
                problem = ""
                try:
                    text = raw.decode(encoding)
                except UnicodeDecodeError as error:
                    text = raw.decode(encoding, errors="replace")
                    at = f"byte {raw[error.start]:#04x} at position {error.start + 1} of the line"
                    problem = (
                        f"not {named} text ({at}); if the file has another encoding, such as cp1252, set data.encoding"
                    )
                if "\0" in text:
                    problem = problem or f"a NUL byte at position {raw.index(0) + 1} of the line"
                    text = text.replace("\0", "")
                yield number, text, problem
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: damaged gzip file after line {number} ({error})") from None


def _without_mark(raw: bytes, path: Path, encoding: str) -> bytes:
    """Return the first line of a file without the byte order mark of UTF-8."""
    if encoding == "utf-8":
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path}: this is UTF-16 text; expected UTF-8; convert it: iconv -f UTF-16 -t UTF-8 FILE")
        return raw.removeprefix(b"\xef\xbb\xbf")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise UserError(f"{path}: begins with the byte order mark of UTF-8, but encoding is {encoding}; leave that out")
    return raw


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(2)
    return cast(IO[bytes], gzip.open(path, "rb") if magic == b"\x1f\x8b" else path.open("rb"))


def positions(header: Sequence[str], columns: Sequence[Column], place: str, hint: str = "") -> list[int]:
    """Return where in the header each column stands.

    Raises:
        UserError: one is not there; the message begins with `place` and ends in `hint`.
    """
    found = []
    for column in columns:
        count = header.count(column.name)
        if count == 0:
            known = listed(header)
            raise UserError(
                f"{place}: no column {column.name!r} (columns: {known}){nearest(column.name, header)}{hint}"
            )
        if count > 1:
            raise UserError(f"{place}: {count} columns are called {column.name!r}")
        found.append(header.index(column.name))
    return found


def wrong_width(found: int, header: Sequence[str]) -> BadRow:
    """Return a row of another number of cells than the header."""
    return BadRow(f"{found} column{'s' if found != 1 else ''}; expected {len(header)} ({listed(header)})")


def read_tsv(path: Path, columns: Sequence[Column], form: Form) -> Rows:
    """Yield a row a line: tabs separate, a quote is a character like any other."""
    header: list[str] | None = None
    pick = picker((), ())
    for number, text, problem in read_lines(path, encoding=form.encoding):
        text = text.rstrip("\r\n")
        if header is None:
            if problem:
                raise UserError(f"{path}:{number}: {problem}")
            header = text.split("\t")
            pick = picker(positions(header, columns, f"{path}:{number}"), columns)
            continue
        if not text and not problem:
            continue
        cells = text.split("\t")
        if problem:
            yield number, BadRow(problem)
        elif len(cells) != len(header):
            yield number, wrong_width(len(cells), header)
        else:
            yield number, pick(cells)


def read_jsonl(path: Path, columns: Sequence[Column], form: Form) -> Rows:
    """Yield a JSON object a line."""
    for number, text, problem in read_lines(path, encoding=form.encoding):
        if problem:
            yield number, BadRow(problem)
        elif text.strip():
            yield number, json_row(text, columns)


def json_row(text: str, columns: Sequence[Column]) -> list[Value] | BadRow:
    """Return the columns of a JSON object in one line."""
    if text.count("[") + text.count("{") > _MOST_PARTS:
        return BadRow(f"more than {_MOST_PARTS:,} brackets")
    try:
        row = json.loads(text)
    except RecursionError:
        return BadRow("not valid JSON: nested too deeply")
    except json.JSONDecodeError as error:
        return BadRow(f"not valid JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return BadRow(f"not valid JSON: {error}")
    if not isinstance(row, dict):
        return BadRow(f"expected a JSON object, got {type(row).__name__}")
    for column in columns:
        if column.name not in row:
            known = listed(row)
            return BadRow(f"no key {column.name!r} (keys: {known}){nearest(column.name, row)}")
    values = convert_row([row[column.name] for column in columns], columns)
    if "\\u" in text and isinstance(values, list):
        # JSON can spell half of a surrogate pair, which no encoding of Unicode can hold.
        try:
            json.dumps(values, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return BadRow("not valid Unicode: half of a surrogate pair")
    return values


def read_text(path: Path, columns: Sequence[Column], form: Form) -> Rows:
    """Yield a row a line, blank ones included: all of it is the one column."""
    if len(columns) != 1:
        names = ", ".join(column.name for column in columns)
        raise UserError(f"{path}: a plain text file has one column; needed: {names}")
    pick = picker([0], columns)
    for number, text, problem in read_lines(path, encoding=form.encoding):
        yield number, BadRow(problem) if problem else pick([text.rstrip("\r\n")])


def read_parquet(path: Path, columns: Sequence[Column], form: Form) -> Rows:
    """Yield the rows of a table; it has no lines and no encoding."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            positions(file.schema_arrow.names, columns, str(path))
            number = 0
            for batch in file.iter_batches(_PARQUET_ROWS, columns=[column.name for column in columns]):
                for values in zip(*(batch.column(column.name).to_pylist() for column in columns), strict=True):
                    number += 1
                    yield number, convert_row(values, columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: a column's name
        raise UserError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})") from None
