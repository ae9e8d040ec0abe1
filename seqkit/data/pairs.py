"""Sentence pairs: two parallel text files, or two columns of one file, as one source with `source` and `target`."""

from __future__ import annotations

import itertools
from array import array
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from seqkit.config import UserError
from seqkit.data.readers import BadRow, Column, Rows, read_lines
from seqkit.data.sources import Job, Source, SourceConfig, check_file, make_job, open_job

SIDES = ("source", "target")
_FIELDS: dict[str, type] = {"source": str, "target": str}


class PairConfig(SourceConfig):
    """One part of the data: `source` and `target`, two text files with a sentence a line, or `path`, one file."""

    path: str = Field(
        default="",
        description="One file with a column for each side, plain or gzip, or builtin:phrases. In YAML a bare string "
        "stands for `{path: string}`.",
    )
    source: str = Field(default="", description="A text file with a sentence a line, plain or gzip.")
    target: str = Field(default="", description="Its translation, line for line.")

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
        if self.columns or self.seed is not None:
            key = "columns" if self.columns else "seed"
            raise ValueError(f"{key}: two parallel text files have none; leave it out")
        return self


def open_pairs(config: PairConfig, part: str) -> Source:
    """Read sentence pairs, or map what an earlier run read.

    A pair with a blank side is a bad line.

    Raises:
        UserError: what `open_source` raises; the two files differ in their number of lines.
    """
    if config.path:
        job = make_job(config, _FIELDS, part)
        job = replace(job, rows=_filled(job.rows), identity=[*job.identity, "pairs"])
    else:
        job = _parallel_job(config)
    return open_job(job)


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
    return Job(
        name=f"{paths[0]} + {paths[1]}",
        identity=["parallel", *(str(path.resolve()) for path in paths)],
        state=[*states],
        rows=_parallel(*paths),
        columns={side: Column(side, str) for side in SIDES},
        limit=config.limit,
        skip_bad=config.on_bad_line == "skip",
        has_lines=True,
    )


def _parallel(source: Path, target: Path) -> Rows:
    """Line i of both files; what is wrong with one of them names that file.

    Raises:
        UserError: one file ends before the other, with a guess where they part.
    """
    sizes = array("q"), array("q")  # characters of each line
    with closing(read_lines(source)) as left, closing(read_lines(target)) as right:  # type: ignore[type-var]
        for pair in itertools.zip_longest(left, right):
            lines = [line for line in pair if line is not None]
            for size, line in zip(sizes, pair, strict=True):
                if line is not None:
                    size.append(len(line[1].strip()))
            if len(sizes[0]) == len(sizes[1]):
                yield lines[0][0], _row(lines, (str(source), str(target)))
    if len(sizes[0]) != len(sizes[1]):
        counts = f"{source} has {len(sizes[0]):,} lines, {target} {len(sizes[1]):,}"
        raise UserError(f"{counts}: line N of one must be the translation of line N of the other; {_parting(*sizes)}")


def _row(lines: list[tuple[int, str, str]], files: tuple[str, str]) -> list[str | list[str]] | BadRow:
    for (_, _, problem), file in zip(lines, files, strict=True):
        if problem:
            return BadRow(problem, file)
    row: list[str | list[str]] = [text.rstrip("\r\n") for _, text, _ in lines]
    return _blank(row, files) or row


def _parting(source: array[int], target: array[int]) -> str:
    """Where the files probably part: a line blank in one only, or else where the ratio of lengths fits no more.

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
    return f"by the lengths of their lines they part at about line {int(costs.argmin()) + 1}"
