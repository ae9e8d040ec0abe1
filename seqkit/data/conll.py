"""CoNLL files: a token a line with its columns, and a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from seqkit.data.readers import BadRow, Column, Rows, read_lines
from seqkit.data.textform import Form
from seqkit.errors import UserError

_MARK = "-DOCSTART-"  # begins a document in the shared tasks' files
_TAG = re.compile(r"(O|[BI]-.+)$")
_HEAD, _HEAD_SIZE = 200, 1 << 20  # lines, and about how many characters, that tell what separates
_LONGEST = 100_000  # tokens of a sentence; in a file without blank lines it would be all of it


def read_conll(path: Path, columns: Sequence[Column], form: Form) -> Rows:
    """Yield the sentences of a file, each with one list a column; `line` is the line of its first token, or of what is
    wrong.

    Tabs separate, and tokens may hold spaces, if the first lines (up to 200) all have as many tabs; else tabs and
    spaces do. The column `tokens` is the first of a line and `tags` the last; another name is the column's number,
    counted from 1. Lines that begin with -DOCSTART- are passed over, and so are comments: lines before a sentence that
    begin with # and have fewer or more columns than the others, or a word where O, B-type or I-type stands else.

    Raises:
        UserError: a damaged file, or a column that such a file cannot have.
    """
    places = [_place(path, column) for column in columns]
    width, first, rows = 0, 0, list[list[str]]()
    bad: tuple[int, BadRow] | None = None
    for number, cells, problem in _cells(read_lines(path, encoding=form.encoding), places):
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
    """Count a bad line as all lines of its sentence, which is lost with it."""
    return None if bad is None else (bad[0], replace(bad[1], lines=count))


def _cells(lines: Iterator[tuple[int, str, str]], places: Sequence[int]) -> Iterator[tuple[int, list[str], str]]:
    """Yield the columns of each line, none where it is blank; without comments."""
    head, size = [], 0
    for line in lines:
        head.append(line)
        size += len(line[1])
        if len(head) == _HEAD or size > _HEAD_SIZE:
            break
    plain = [text for _, text, _ in head if not text.startswith("#") and text.split()[:1] not in ([], [_MARK])]
    tabs = {text.strip().count("\t") for text in plain}
    split = _by_tabs if len(tabs) == 1 and tabs != {0} else _by_space
    widths = {len(split(plain[0]))} if plain else set()
    inside = False
    for number, text, problem in chain(head, lines):
        cells = [] if text.split()[:1] in ([], [_MARK]) else split(text)
        comment = text.startswith("#") and not inside and not problem and not _is_token(cells, widths, places)
        if not comment:
            inside = bool(cells)
            yield number, cells, problem


def _is_token(cells: Sequence[str], widths: Collection[int], places: Sequence[int]) -> bool:
    """Return whether a line that begins with # is a token's, by its columns and its tag."""
    if widths and len(cells) not in widths:
        return False
    return any(_TAG.match(cells[place]) for place in places if place < len(cells))


def _by_tabs(text: str) -> list[str]:
    return [cell.strip(" ") for cell in text.rstrip().split("\t")]


def _by_space(text: str) -> list[str]:
    return [cell for cell in re.split(r"[ \t]+", text.rstrip("\r\n")) if cell]


def _place(path: Path, column: Column) -> int:
    """Return where in a line the column stands."""
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
    """Return how many columns the file has, by its first line."""
    needed = max(2, *(place + 1 for place in places))
    if len(cells) < needed:
        raise UserError(f"{path}:{number}: {_counted(cells)}; expected at least {needed}: a token, its tag")
    return len(cells)
