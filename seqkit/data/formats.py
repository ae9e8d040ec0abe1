"""Formats of files: which one a name tells, and which reader each has."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seqkit.config import Named, maker
from seqkit.data.conll import read_conll
from seqkit.data.csvfile import read_csv
from seqkit.data.readers import Column, Reader, Rows, read_jsonl, read_parquet, read_text, read_tsv
from seqkit.data.textform import Form
from seqkit.errors import Part, UserError


class Tsv(Reader):
    """Tabs between the columns, whose names are the first line."""

    endings = (".tsv", ".tab")
    read = staticmethod(read_tsv)


class Csv(Reader):
    """Commas or another delimiter between the columns, whose names are the first line."""

    endings = (".csv",)
    has_delimiter = True
    read = staticmethod(read_csv)


class Jsonl(Reader):
    """A JSON object a line."""

    endings = (".jsonl", ".ndjson")
    read = staticmethod(read_jsonl)


class Parquet(Reader):
    """A table of Apache Parquet."""

    endings = (".parquet",)
    has_lines = has_encoding = False
    read = staticmethod(read_parquet)


class Text(Reader):
    """A sentence a line."""

    endings = (".txt",)
    read = staticmethod(read_text)


class Conll(Reader):
    """A token a line with its columns, a blank line after each sentence."""

    endings = (".conll", ".iob", ".bio")
    line_a_token = True
    read = staticmethod(read_conll)


READERS: dict[str, type[Reader]] = {
    "tsv": Tsv,
    "csv": Csv,
    "jsonl": Jsonl,
    "parquet": Parquet,
    "text": Text,
    "conll": Conll,
}
"""What `format` may be, beside auto."""


def reader(form: str) -> Reader:
    """Make the reader of a format: a name in `READERS`, or the validated value of a key `format`."""
    made: Reader = maker(form, READERS)()
    return made


def reader_state(form: str) -> list[Any]:
    """Describe options and version of a user's own reader, for the key of a cache; [] for readers of the table."""
    if not isinstance(form, Named):
        return []
    state: list[Any] = [form.options.model_dump(mode="json")]
    with suppress(TypeError, OSError):  # of code without a file
        status = Path(inspect.getfile(form.entry)).stat()
        state += [status.st_size, status.st_mtime_ns]
    return state


def detect(path: Path, *advice: Part) -> str:
    """Return the format that the file's name tells, a last `.gz` passed over.

    Args:
        path: of the file.
        advice: what to do where the name does not tell, as parts of a message; by default to set `format`.

    Raises:
        UserError: the extension is not a known one.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    extension = suffixes[-1] if suffixes else ""
    endings = {ending: name for name, kind in READERS.items() for ending in kind.endings}
    if extension not in endings:
        raise UserError(
            f"{path}: the name does not tell the format (known: {', '.join(endings)}, each also with .gz); ",
            *(advice or [f"set format: to one of {', '.join(READERS)}"]),
        )
    return endings[extension]


def read(
    path: Path, form: str, columns: Sequence[Column], *, delimiter: str | None = None, encoding: str = "utf-8"
) -> Rows:
    """Return the rows of a file; `line` is the number of the row's first line, counted from 1 (parquet: the row's
    number).

    Blank lines are passed over, except in `text`, where each is a row, so that parallel files stay aligned. In tsv,
    csv and text a list is written with spaces between its elements. For conll see `read_conll`.

    Args:
        path: the file.
        form: see `reader`.
        columns: which to read.
        delimiter, encoding: see `Form`; Parquet files have none.

    Raises:
        UserError: a damaged file, no header, or a header without one of the columns.
    """
    return reader(form).read(path, columns, Form(delimiter, encoding))
