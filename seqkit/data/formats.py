"""Formats of files: which one a name tells, and which reader each has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from seqkit.data.conll import read_conll
from seqkit.data.csvfile import read_csv
from seqkit.data.readers import Column, Rows, read_jsonl, read_parquet, read_text, read_tsv
from seqkit.data.textform import Form
from seqkit.errors import UserError

_READERS: dict[str, Callable[[Path, Sequence[Column], Form], Rows]] = {
    "tsv": read_tsv,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "text": read_text,
    "conll": read_conll,
}
FORMATS = tuple(_READERS)
_EXTENSIONS = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
}


def detect(path: Path) -> str:
    """The format that the file's name tells, a last `.gz` passed over.

    Raises:
        UserError: the extension is not a known one.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    extension = suffixes[-1] if suffixes else ""
    if extension not in _EXTENSIONS:
        raise UserError(
            f"{path}: the name does not tell the format (known: {', '.join(_EXTENSIONS)}, each also with .gz); "
            f"set format: to one of {', '.join(FORMATS)}"
        )
    return _EXTENSIONS[extension]


def read(
    path: Path, form: str, columns: Sequence[Column], *, delimiter: str | None = None, encoding: str = "utf-8"
) -> Rows:
    """The rows of a file; `line` is the number of the row's first line, counted from 1 (parquet: the row's number).

    Blank lines are passed over, except in `text`, where each is a row, so that parallel files stay aligned. In tsv,
    csv and text a list is written with spaces between its elements. For conll see `read_conll`.

    Args:
        path: the file.
        form: one of `FORMATS`.
        columns: which to read.
        delimiter, encoding: see `Form`; Parquet files have none.

    Raises:
        UserError: a damaged file, no header, or a header without one of the columns.
    """
    return _READERS[form](path, columns, Form(delimiter, encoding))
