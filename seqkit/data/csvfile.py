"""CSV files (RFC 4180), and what is left of a damaged one: a quote that is never closed costs its own line alone."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from seqkit.data.readers import BadRow, Column, Rows, picker, positions, read_lines, wrong_width
from seqkit.data.textform import Form, check_delimiter
from seqkit.errors import UserError
from seqkit.files import LONGEST_LINE

_REREAD = 1 << 28  # characters that may be read again, beside four times the file: quotes may be open on purpose
_UNCLOSED = "a quoted field is never closed"


class _Endless(Exception):
    """A record has become longer than any."""


class _Feed:
    """Lines for the parser; the lines of the current record can be given back.

    Attributes:
        record: (number, text) of each line that the record in work has taken.
        problems: what is wrong with lines, by their number.
    """

    def __init__(self, path: Path, lines: Iterator[tuple[int, str, str]]) -> None:
        self._path, self._lines = path, lines
        self._waiting: deque[tuple[int, str]] = deque()
        self._size = self._read = self._again = 0
        self.record: list[tuple[int, str]] = []
        self.problems: dict[int, str] = {}

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._waiting:
            number, text = self._waiting.popleft()
        else:
            number, text, problem = next(self._lines)
            self._read += len(text)
            if problem:
                self.problems[number] = problem
        self._size += len(text)
        self.record.append((number, text))
        if self._size > LONGEST_LINE:  # an unclosed quote must not swallow a file larger than memory
            raise _Endless
        return text

    def begin(self) -> None:
        """What comes is another record."""
        for number, _ in self.record:
            self.problems.pop(number, None)
        self._size, self.record = 0, []

    def give_back(self, keep: int = 1) -> None:
        """The lines of the record in work are to be read again, but for the first ones.

        Raises:
            UserError: so much was read again that this is not damage but the way the file is written.
        """
        self._waiting.extendleft(reversed(self.record[keep:]))
        self._again += sum(len(text) for _, text in self.record[keep:])
        if self._again > _REREAD + 4 * self._read:
            raise UserError(f"{self._path}:{self.record[0][0]}: {_UNCLOSED}, as in many lines before; this is not CSV")
        del self.record[keep:]

    @property
    def problem(self) -> str:
        """Return what is wrong with the first bad line of the record in work, or ""."""
        return next((self.problems[number] for number, _ in self.record if number in self.problems), "")


def read_csv(path: Path, columns: Sequence[Column], form: Form) -> Rows:
    """Yield the rows of a CSV file; see `read`. A first line `sep=;`, as Excel writes it, names the delimiter.

    A record that cannot be parsed, or that ends where another one began, is a bad row of its first line alone: the
    lines after that are read again, since the quote that took them in should have been closed before.
    """
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, LONGEST_LINE))
    lines = read_lines(path, encoding=form.encoding)
    try:
        with closing(lines):  # type: ignore[type-var]
            yield from _rows(path, columns, _Feed(path, lines), form.delimiter)
    finally:
        csv.field_size_limit(limit)


def _rows(path: Path, columns: Sequence[Column], feed: _Feed, delimiter: str | None) -> Rows:
    sep = _named(path, feed, delimiter)
    whole = _whole(sep)
    header: list[str] | None = None
    pick = picker((), ())
    for cells in _records(csv.reader(feed, strict=True, delimiter=sep), feed):
        first = feed.record[0][0]
        if header is not None and isinstance(cells, list) and len(cells) != len(header):
            if len(feed.record) > 1 and whole.fullmatch(feed.record[-1][1].rstrip("\r\n")):
                feed.give_back()  # the last line is one of its own: its quote closed what was open
            cells = wrong_width(len(cells), header)
        if problem := feed.problem:
            cells = BadRow(problem)
        if isinstance(cells, BadRow):
            if header is None:
                raise UserError(f"{path}:{first}: {cells.message}")
            yield first, BadRow(cells.message, lines=len(feed.record))
        elif header is None:
            header = cells
            pick = picker(positions(header, columns, f"{path}:{first}", _likelier(header, sep)), columns)
        else:
            yield first, pick(cells)


def _records(reader: Any, feed: _Feed) -> Iterator[list[str] | BadRow]:
    """Yield the cells of every record, blank ones passed over; what the parser refuses is a bad row of one line."""
    while True:
        feed.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _Endless) as error:
            endless = isinstance(error, _Endless) or "end of data" in str(error)
            feed.give_back()
            yield BadRow(_UNCLOSED if endless else f"not CSV: {error}")
            continue
        if cells:
            yield cells


def _whole(sep: str) -> re.Pattern[str]:
    """Return a pattern of a record's first line, by the letter of RFC 4180; its last field may go on in the next."""
    plain, quoted = f'[^"{re.escape(sep)}]*', '"(?:[^"]|"")*"'
    return re.compile(f'(?:(?:{quoted}|{plain}){re.escape(sep)})*(?:{quoted}|{plain}|"(?:[^"]|"")*)')


def _named(path: Path, feed: _Feed, delimiter: str | None) -> str:
    """Return the delimiter: the one asked for, else what a line `sep=` says, which is taken away, else the comma."""
    try:
        text = next(feed)
    except (StopIteration, _Endless):
        text = ""
    found = re.fullmatch(r"sep=([^\r\n])[\r\n]*", text, re.IGNORECASE)
    if found is None:
        feed.give_back(0)
        return delimiter or ","
    check_delimiter(found[1], f"{path}:1: sep=")
    if delimiter not in (None, found[1]):
        raise UserError(
            f"{path}:1: its first line says sep={found[1]}, but delimiter is {delimiter!r}; leave delimiter out"
        )
    return found[1]


def _likelier(header: Sequence[str], sep: str) -> str:
    """Return a hint where the header looks as if another delimiter separated it."""
    if len(header) != 1:
        return ""
    other = max(";\t|,", key=header[0].count)
    if other == sep or other not in header[0]:
        return ""
    return f"; if {other!r} separates the columns, set data.delimiter"
