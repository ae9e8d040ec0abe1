"""What is to be read of a source: its rows, and the key under which the result is cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from seqkit._version import __version__
from seqkit.data.readers import Column, Rows


@dataclass(frozen=True)
class Job:
    """What to read, under which key the result is cached, and how to speak of it.

    Attributes:
        name: for messages.
        identity: what says which source this is and how it is read; `state` the version of it that lies there now.
        rows: lines with their values or with what is wrong.
        columns: the fields, in the order of the values.
        limit: how many good rows to read, None for all.
        skip_bad: bad rows are counted, not refused.
        has_lines: rows stand at lines (else they are counted).
        rows_from: the same rows from a line on, where those before can be passed over unread.
        changed: when the file system noticed the last change of each file (ctime): nobody can set it back, as the time
            in `state`. It decides whether a cache belongs to the file, and nothing else: a copy of a file has another.
        line_a_token: see `Reader`.
    """

    name: str
    identity: list[Any]
    state: list[Any]
    rows: Rows
    columns: dict[str, Column]
    limit: int | None
    skip_bad: bool
    has_lines: bool
    rows_from: Callable[[int], Rows] | None = None
    changed: list[int] = field(default_factory=list)
    line_a_token: bool = False

    @property
    def stem(self) -> str:
        """Cache file names of all states of one source begin with this."""
        return digest([__version__, *self.identity, self.limit, self.skip_bad, self._layout()])

    def _layout(self) -> list[list[str]]:
        return [[field, column.name, column.kind.__name__] for field, column in self.columns.items()]


def digest(parts: list[Any]) -> str:
    """Return a short name for parts of a key."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
