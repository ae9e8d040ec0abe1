"""Data that is read as it comes, in windows, without an index of its rows: for files that should not be copied.

Every epoch reads the file again from its beginning. A window is N rows in file order; its examples are shuffled
and put into batches of like length by a permutation of (seed, epoch, window). So the order of an epoch is known from
these three numbers, and a run is resumed at its window and the place in there.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count, islice
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqkit._version import __version__
from seqkit.data.batching import Plan, Spare, Split, split_rows
from seqkit.data.cache import cache_folder
from seqkit.data.job import Job
from seqkit.data.skipped import Skipped, good_rows, no_rows
from seqkit.data.source import Source
from seqkit.data.sources import arrow_batches, arrow_schema
from seqkit.data.token_cache import column_arrays
from seqkit.data.tokenizer_cache import Texts
from seqkit.errors import UserError

T = TypeVar("T")
W = TypeVar("W")


class Stream:
    """A source that is read window by window.

    Args:
        job: makes what is read (see `make_job`), once for each pass.
        size: rows of a window.

    Attributes:
        name: of the source, for messages.
        key: which source it is and in which state.
        skipped: bad lines that the last pass has passed over.

    Raises:
        UserError: the file is missing or cannot be read.
    """

    def __init__(self, job: Callable[[], Job], size: int) -> None:
        self._job, self.size = job, size
        first = job()
        self.name, self.key, self._changed = first.name, self._key(first), first.changed
        self.skipped = Skipped()

    @staticmethod
    def _key(job: Job) -> str:
        return f"{job.stem} {json.dumps(job.state)}"

    def windows(self, first: int = 0, line: int = 0) -> Iterator[tuple[int, Source]]:
        """Yield the windows from number `first` on, each with its number; the rows before are read past, or, where the
        window is known to begin at a `line` of a text file, not even that.

        Raises:
            UserError: a bad line, unless they are skipped; no row at all; the file is not what it was.
        """
        import datasets
        import pyarrow as pa

        job = self._job()
        if self._key(job) != self.key or job.changed != self._changed:
            raise UserError(f"{self.name}: the file has changed since training began")
        self.skipped = Skipped()
        past = first * self.size
        if line and job.rows_from is not None:
            left = None if job.limit is None else max(job.limit - past, 0)
            job, past = replace(job, rows=job.rows_from(line), limit=left), 0
        with closing(job.rows):
            rows = good_rows(job, self.skipped)
            deque(islice(rows, past), maxlen=0)
            for number in count(first):
                batches = list(arrow_batches(job, islice(rows, self.size)))
                if not batches:
                    break
                table = datasets.table.InMemoryTable(pa.Table.from_batches(batches, arrow_schema(job)))
                data = datasets.Dataset(table, fingerprint=f"window{number}")
                del batches, table
                yield number, Source(data, self.name, job.has_lines)
        if not number:
            raise no_rows(self.name, self.skipped)

    def texts(self, *fields: str) -> Texts:
        """Return all texts of a column, or of several, for a vocabulary."""

        def arrays() -> Iterator[Any]:
            for field in fields:
                for _, source in self.windows():
                    yield from column_arrays(source.dataset, field)

        return Texts(arrays, [self.key, fields])


class Sizes:
    """How many batches each window of an epoch gives and at which line it begins, as far as it is known; kept in the
    cache, from run to run.

    With these a resumed run goes to its window at once: those before it are not tokenised again.

    Args:
        key: all that decides the number.
        alike: whether it is the same in every epoch.
    """

    def __init__(self, key: list[Any], *, alike: bool) -> None:
        digest = hashlib.sha256(json.dumps([*key, __version__]).encode()).hexdigest()[:24]
        self._path, self._alike = cache_folder() / f"windows-{digest}.jsonl", alike
        self._known: dict[tuple[int, int], int] = {}
        self._lines: dict[int, int] = {}
        with suppress(OSError):
            for line in self._path.read_text("utf-8").splitlines():
                with suppress(ValueError, TypeError):  # the last line of a process that was killed
                    epoch, window, batches, self._lines[window] = json.loads(line)
                    self._known[epoch, window] = batches

    def _epoch(self, epoch: int) -> int:
        return 0 if self._alike else epoch

    def find(self, epoch: int, start: int) -> tuple[int, int, int]:
        """Return the window of batch `start`, as far as known, the number of its first batch, and its first line or
        0."""
        window, before = 0, 0
        while before + (size := self._known.get((self._epoch(epoch), window), start + 1)) <= start:
            window, before = window + 1, before + size
        return window, before, self._lines.get(window, 0)

    def note(self, epoch: int, window: int, batches: int, line: int) -> None:
        """Remember one."""
        place = self._epoch(epoch), window
        if place not in self._known:
            self._known[place], self._lines[window] = batches, line
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([*place, batches, line]) + "\n")


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items; the next one is made by a thread while this one is used. What it raises is raised here."""
    with ThreadPoolExecutor(1, "windows") as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


class WindowBatches(Generic[T, W]):
    """An iterable of collated batches; how many there are is not known before they are read.

    Args:
        windows: reads the windows from a number on, which begins at a line or, if that is 0, who knows where; gives
            the number and the first line of each with it.
        plan: the batches of a window, given its number.
        collate: makes one batch from rows of a window.
        sizes: of this epoch and others.
        epoch: number of the epoch.
        start: number of the first batch to give.
    """

    def __init__(
        self,
        windows: Callable[[int, int], Iterable[tuple[int, int, W]]],
        plan: Callable[[W, int], Plan],
        collate: Callable[[W, NDArray[np.int64]], T],
        sizes: Sizes,
        epoch: int,
        start: int = 0,
    ) -> None:
        self._windows, self._plan, self._collate = windows, plan, collate
        self._sizes, self._epoch, self._start = sizes, epoch, start

    def __iter__(self) -> Iterator[T]:
        first, before, line = self._sizes.find(self._epoch, self._start)
        skip = self._start - before
        for window, plan in _ahead(self._planned(first, line)):
            for rows in plan[skip:]:
                yield self._collate(window, rows)
            skip = max(0, skip - len(plan))

    def _planned(self, first: int, line: int) -> Iterator[tuple[W, Plan]]:
        for number, begin, window in self._windows(first, line):
            plan = self._plan(window, number)
            self._sizes.note(self._epoch, number, len(plan), begin)
            yield window, plan

    def share(self, rank: int, world: int, split: Split = split_rows) -> WindowBatches[T | Spare, W]:
        """Return what one of several processes reads of these batches; see `split_rows`."""

        def collate(window: W, rows: NDArray[np.int64]) -> T | Spare:
            own, counts = split(rows, rank, world)
            batch = self._collate(window, own)
            return batch if counts else Spare(batch)

        return WindowBatches(self._windows, self._plan, collate, self._sizes, self._epoch, self._start)
