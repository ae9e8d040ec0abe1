"""Sentence pairs: two parallel text files, or two columns of one file, as one source with `source` and `target`."""

from __future__ import annotations

from array import array
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from pydantic import model_validator

from seqkit.data.job import Job
from seqkit.data.readers import SKIPS, BadRow, Column, Rows, read_lines
from seqkit.data.source import Source, SourceConfig, check_text_form, text_identity
from seqkit.data.sources import check_file, make_job, open_job
from seqkit.data.textform import text_encoding
from seqkit.errors import UserError

SIDES = ("source", "target")
_FIELDS: dict[str, type] = {"source": str, "target": str}


class PairConfig(SourceConfig):
    """One part of the data: `source` and `target`, two text files with a sentence a line, or `path`, one file."""

    path: str = ""
    """One file with a column for each side, plain or gzip, builtin:phrases, hub:NAME or torchtext:NAME. In YAML a bare
    string stands for `{path: string}`."""
    source: str = ""
    """A text file with a sentence a line, plain or gzip."""
    target: str = ""
    """Its translation, line for line."""

    @model_validator(mode="after")
    def _consistent(self) -> PairConfig:
        if self.path and (self.source or self.target):
            raise ValueError("path: one file with both sides excludes source and target; give one or the other")
        if self.path:
            super()._consistent()  # type: ignore[operator]
            return self
        if not (self.source and self.target):
            raise ValueError("expected source and target, two text files, or path, one file with both columns")
        if self.format not in ("auto", "text"):
            raise ValueError("format: two parallel files are text, a sentence a line; for others give path")
        check_text_form(self, "")
        for key in ("delimiter", "columns", "seed", "split", "revision", "root"):
            if getattr(self, key) not in (None, {}):
                raise ValueError(f"{key}: two parallel text files have none; leave it out")
        return self


def open_pairs(config: PairConfig, part: str) -> Source:
    """Read sentence pairs, or map what an earlier run read.

    Raises:
        UserError: see `open_source` and `pairs_job`.
    """
    return open_job(pairs_job(config, part))


def pairs_job(config: PairConfig, part: str) -> Job:
    """Return what `open_pairs` would read; a pair with a blank side is a bad line.

    Raises:
        UserError: a file is missing; when the rows are read, the two files differ in their number of lines.
    """
    if not config.path:
        return _parallel_job(config)
    job = make_job(config, _FIELDS, part)
    return replace(job, rows=_filled(job.rows), identity=[*job.identity, "pairs"])


def _filled(rows: Rows) -> Rows:
    with closing(rows):
        for line, row in rows:
            yield line, row if isinstance(row, BadRow) else _blank(row, ("", "")) or row


def _blank(row: list[str | list[str]], files: tuple[str, str]) -> BadRow | None:
    for side, text, file in zip(SIDES, row, files, strict=True):
        if isinstance(text, str) and not text.strip():
            return BadRow(f"the {side} is blank", file)
    return None


def _parallel_job(config: PairConfig) -> Job:
    paths, states = zip(*(check_file(name) for name in (config.source, config.target)), strict=True)
    rows = partial(_parallel, paths[0], paths[1], text_encoding(config.encoding))
    return Job(
        name=f"{paths[0]} + {paths[1]}",
        identity=["parallel", *(str(path.resolve()) for path in paths), *text_identity(config)],
        state=[*states],
        rows=rows(),
        columns={side: Column(side, str) for side in SIDES},
        limit=config.limit,
        skip_bad=SKIPS[config.on_bad_line],
        has_lines=True,
        rows_from=rows,
        changed=[path.stat().st_ctime_ns for path in paths],
    )


def _parallel(source: Path, target: Path, encoding: str, first: int = 1) -> Rows:
    """Yield line i of both files, from line `first` on; what is wrong with one of them names that file.

    Blank lines at the end of one that the other lacks are bad rows.

    Raises:
        UserError: one file ends before the other's text, with a guess where they part.
    """
    extra = 0
    with (
        closing(read_lines(source, first, encoding)) as left,  # type: ignore[type-var]
        closing(read_lines(target, first, encoding)) as right,  # type: ignore[type-var]
    ):
        for one, other in zip_longest(left, right):
            if one is not None and other is not None:
                yield one[0], _row([one, other], (str(source), str(target)))
                continue
            number, text, problem = one or other
            if text.strip() or problem:
                break
            extra += 1
            begin, longer = number - extra + 1, target if one is None else source
        else:
            if extra:
                yield begin, BadRow(_unlike(source, target, encoding), str(longer), extra)
            return
    raise UserError(_unlike(source, target, encoding))


def _unlike(source: Path, target: Path, encoding: str) -> str:
    """Return how two files differ that should have as many lines as each other."""
    sizes = _sizes(source, encoding), _sizes(target, encoding)
    counts = f"{source} has {len(sizes[0]):,} lines, {target} {len(sizes[1]):,}"
    return f"{counts}: line N of one must be the translation of line N of the other; {_parting(*sizes)}"


def _sizes(path: Path, encoding: str) -> array[int]:
    """Return the characters of each line."""
    with closing(read_lines(path, 1, encoding)) as lines:  # type: ignore[type-var]
        return array("q", (len(text.strip()) for _, text, _ in lines))


def _row(lines: list[tuple[int, str, str]], files: tuple[str, str]) -> list[str | list[str]] | BadRow:
    for (_, _, problem), file in zip(lines, files, strict=True):
        if problem:
            return BadRow(problem, file)
    row: list[str | list[str]] = [text.rstrip("\r\n") for _, text, _ in lines]
    return _blank(row, files) or row


def _parting(source: array[int], target: array[int]) -> str:
    """Return where the files probably part: a line blank in one only, or else where the ratio of lengths fits no more.

    The guess is the k for which lines before k as they stand, and from k on shifted by the missing lines, have
    the least sum of |log ratio of lengths|.
    """
    a, b = (np.asarray(side, dtype=np.float64) for side in (source, target))
    short, long = (a, b) if len(a) < len(b) else (b, a)
    if not (long[len(short) :] > 0).any():
        return "the longer one ends in blank lines"
    both = len(short)
    blank = np.flatnonzero((short == 0) != (long[:both] == 0))
    if len(blank):
        return f"line {blank[0] + 1} is blank in one of them only"
    shift = len(long) - both
    logs = [np.log1p(side) for side in (short, long)]
    ratio = np.median(logs[0] - logs[1][:both]) if both else 0.0
    before = np.abs(logs[0] - logs[1][:both] - ratio)
    after = np.abs(logs[0] - logs[1][shift:] - ratio)
    costs = np.concatenate([[0.0], np.cumsum(before)]) + np.concatenate([np.cumsum(after[::-1])[::-1], [0.0]])
    return f"judging by the lengths of lines, they diverge at about line {int(costs.argmin()) + 1}"
