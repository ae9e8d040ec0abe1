"""What was passed over: bad lines, counted, with the place of the first and the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from seqkit.data.job import Job
from seqkit.data.readers import BadRow
from seqkit.errors import UserError


@dataclass
class Skipped:
    """Bad rows that were passed over.

    Attributes:
        lines: lines of the file that they take; a bad row of a table (Parquet, hub) counts as one.
        first: the message of the first row, with its place, or "".
        last: the place of the last one.
    """

    lines: int = 0
    first: str = ""
    last: str = ""

    def add(self, message: str, lines: int) -> None:
        """Count one row."""
        self.first, self.last = self.first or message, message
        self.lines += lines

    def note(self) -> str:
        """Return how many, and where: `2 bad lines skipped, first a.csv:3: why, last a.csv:9: why`; "" where there is
        none."""
        if not self.lines:
            return ""
        last = f", last {self.last}" if self.last != self.first else ""
        return f"{self.lines:,} bad line{'s' if self.lines != 1 else ''} skipped, first {self.first}{last}"


def place(name: str, line: int, has_lines: bool) -> str:
    """Return where a row stands: `file:line`, or `file: row N` where rows have no lines."""
    return f"{name}:{line}" if has_lines else f"{name}: row {line}"


def good_rows(job: Job, skipped: Skipped) -> Iterator[tuple[int, list[Any]]]:
    """Yield the rows that can be read, each with its line, up to the limit.

    Args:
        job: what to read.
        skipped: counts the others.

    Raises:
        UserError: one cannot be read, and bad rows are not to be skipped.
    """
    count = 0
    for line, row in job.rows:
        if not isinstance(row, BadRow):
            yield line, row
            count += 1
            if count == job.limit:
                return
            continue
        message = f"{place(row.file or job.name, line, job.has_lines)}: {row.message}"
        if not job.skip_bad:
            raise UserError(message)
        skipped.add(message, row.lines)


def no_rows(name: str, skipped: Skipped) -> UserError:
    """Return what to raise where nothing is left."""
    note = skipped.note()
    return UserError(f"{name}: no rows{'; ' if note else ''}{note}")


def counted_line(name: str, count: int, what: str, *notes: object) -> str:
    """Return how many examples of a source are meant, and what was passed over: `a.csv: 90 texts (2 bad lines skipped,
    ...)`.

    Args:
        name: of the source, or "".
        count: of the examples.
        what: they are.
        notes: texts about others, and the `Skipped` of the source; those without anything to say are left out.
    """
    told = [text for note in notes if (text := note.note() if isinstance(note, Skipped) else str(note or ""))]
    return f"{name}{': ' if name else ''}{count:,} {what}" + (f" ({'; '.join(told)})" if told else "")
