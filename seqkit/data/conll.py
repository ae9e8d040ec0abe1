"""CoNLL files: a token a line with its columns, and a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seqkit.config import UserError
from seqkit.data.readers import BadRow, Column, Rows, read_lines

_MARK = "-DOCSTART-"  # begins a document in the shared tasks' files
_LONGEST = 100_000  # tokens of a sentence; in a file without blank lines it would be all of it


def read_conll(path: Path, columns: Sequence[Column], encoding: str = "utf-8") -> Rows:
    """The sentences of a file, each with one list a column; `line` is that of its first token, or of what is wrong.

    Tabs or spaces separate. The column `tokens` is the first of a line and `tags` the last; another name is the
    column's number, counted from 1. Lines that begin with -DOCSTART- are passed over.

    Raises:
        UserError: a damaged file, or a column that such a file cannot have.
    """
    places = [_place(path, column) for column in columns]
    width, first, rows = 0, 0, list[list[str]]()
    bad: tuple[int, BadRow] | None = None
    for number, text, problem in read_lines(path, encoding=encoding):
        cells = [cell for cell in re.split(r"[ \t]+", text.rstrip("\r\n")) if cell]
        if cells and cells[0] == _MARK:
            cells = []
        if cells or problem:
            if not rows:
                first = number
            rows.append(cells)
            if len(rows) > _LONGEST:
                raise UserError(f"{path}:{first}: a sentence of more than {_LONGEST:,} tokens; a blank line ends it")
            width = width or _width(path, number, cells, places)
            if bad is None and (problem or len(cells) != width):
                bad = number, BadRow(problem or f"{_counted(cells)}; expected {width} as before")
        elif rows:
            yield _lines(bad, len(rows)) or (first, [[row[place] for row in rows] for place in places])
            rows, bad = [], None
    if rows:
        yield _lines(bad, len(rows)) or (first, [[row[place] for row in rows] for place in places])


def _lines(bad: tuple[int, BadRow] | None, count: int) -> tuple[int, BadRow] | None:
    """A bad line costs its whole sentence."""
    return None if bad is None else (bad[0], replace(bad[1], lines=count))


def _place(path: Path, column: Column) -> int:
    """Where in a line the column stands."""
    named = {"tokens": 0, "tags": -1}
    if column.kind is list and column.name in named:
        return named[column.name]
    if column.kind is list and column.name.isdecimal() and len(column.name) < 10 and int(column.name) > 0:
        return int(column.name) - 1
    raise UserError(
        f"{path}: a CoNLL file has no column {column.name!r} (columns: tokens, tags, or a number counted from 1)"
    )


def _counted(cells: Sequence[str]) -> str:
    return f"{len(cells)} column{'s' if len(cells) != 1 else ''}"


def _width(path: Path, number: int, cells: Sequence[str], places: Sequence[int]) -> int:
    """How many columns the file has, by its first line."""
    needed = max(2, *(place + 1 for place in places))
    if len(cells) < needed:
        raise UserError(f"{path}:{number}: {_counted(cells)}; expected at least {needed}: a token, its tag")
    return len(cells)
