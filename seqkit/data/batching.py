"""Token ids where they lie on disk, and length-bucketed batches in a seeded order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from seqkit.config import Section

T = TypeVar("T")
_BLOCK = 1 << 20  # rows or ids looked at together, where all of them would take memory


class BatchingConfig(Section):
    """How examples are put together."""

    batch_size: int = Field(default=32, gt=0)
    """Number of sentences in a batch; with `batch_by: tokens` number of tokens, padding included."""
    batch_by: Literal["sentences", "tokens"] = "sentences"
    """What `batch_size` counts."""
    bucket: int = Field(default=50, ge=0)
    """Shuffled examples are sorted by length within groups of N batches, so that batches hold little padding; 0: no
    sorting."""


class Ragged:
    """Sequences of token ids of different lengths, read where they lie (memory-mapped, see `encode_column`).

    Args:
        chunks: pairs of (values, offsets): sequence i of a chunk is `values[offsets[i] : offsets[i + 1]]`.
        lengths: (N,) of all sequences, where they lie somewhere already.
        known: what is known of them: their digest, and how often an id occurs in them (id -> number).
    """

    def __init__(
        self,
        chunks: Sequence[tuple[NDArray[np.int32], NDArray[np.integer[Any]]]],
        lengths: NDArray[np.int32] | None = None,
        known: tuple[str, dict[int, int]] | None = None,
    ) -> None:
        self._chunks = [chunk for chunk in chunks if len(chunk[1]) > 1]
        self._starts = np.cumsum([0, *(len(offsets) - 1 for _, offsets in self._chunks)])
        self._digest, self._counts = known or ("", {})
        if lengths is None:
            parts = [np.diff(offsets).astype(np.int32, copy=False) for _, offsets in self._chunks]
            lengths = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        #: number of ids of each sequence, (N,) int32
        self.lengths: NDArray[np.int32] = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        values, offsets = self._chunks[chunk]
        row = index - self._starts[chunk]
        return values[offsets[row] : offsets[row + 1]]

    def take(self, rows: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the ids of some sequences, one after the other, and the length of each of them."""
        lengths = self.lengths[rows]
        if len(self._chunks) == 1:
            values, offsets = self._chunks[0]
            return values[stretches(offsets[rows], lengths)], lengths
        return np.concatenate([np.zeros(0, np.int32), *(self[int(row)] for row in rows)]), lengths

    def digest(self) -> str:
        """Return a hash of all ids and lengths."""
        if not self._digest:
            found = hashlib.sha256(np.ascontiguousarray(self.lengths).data)
            for values, offsets in self._chunks:
                found.update(np.ascontiguousarray(values[offsets[0] : offsets[-1]]).data)
            self._digest = found.hexdigest()
        return self._digest

    def count(self, number: int) -> int:
        """Return how often an id occurs in all sequences together."""
        if number not in self._counts:
            self._counts[number] = sum(
                int(np.count_nonzero(values[start : min(start + _BLOCK, int(offsets[-1]))] == number))
                for values, offsets in self._chunks
                for start in range(int(offsets[0]), int(offsets[-1]), _BLOCK)
            )
        return self._counts[number]

    def only(self, number: int, first: int, last: int) -> NDArray[np.bool_]:
        """Return which of the sequences from number `first` to `last` - 1 have tokens, and all of them this id."""
        found = np.zeros(last - first, bool)
        if self.count(number):
            lengths = self.lengths[first:last]
            filled = np.flatnonzero(lengths)
            if len(filled):
                values, sizes = self.take(first + filled)
                starts = np.cumsum(sizes, dtype=np.int64) - sizes
                found[filled] = np.logical_and.reduceat(values == number, starts)
        return found

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        """Join several, one after the other; nothing is copied but the lengths."""
        return parts[0] if len(parts) == 1 else cls([chunk for part in parts for chunk in part._chunks])

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """Return the same from lists in memory."""
        offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int32)
        values = np.fromiter((number for row in rows for number in row), np.int32, count=int(offsets[-1]))
        return cls([(values, offsets)])


def stretches(starts: NDArray[np.integer[Any]], counts: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the positions of stretches of an array, one stretch after the other: each begins at its start and is so
    long."""
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + counts, counts) + np.arange(total)


class Plan(Sequence[NDArray[np.int64]]):
    """Which examples go into which batch: a sequence of arrays of indices that exist while they are looked at.

    Args:
        order: all indices, batch after batch.
        ends: where in `order` each batch ends.
        turns: numbers of the batches, in the order in which they come.
    """

    def __init__(
        self, order: NDArray[np.integer[Any]], ends: NDArray[np.int64], turns: NDArray[np.integer[Any]]
    ) -> None:
        self._order, self._ends, self._turns = order, ends, turns

    def __len__(self) -> int:
        return len(self._turns)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, index: slice) -> Plan: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.int64] | Plan:
        if isinstance(index, slice):
            return Plan(self._order, self._ends, self._turns[index])
        turn = self._turns[index]
        start = self._ends[turn - 1] if turn else 0
        return self._order[start : self._ends[turn]].astype(np.int64)


def plan_batches(
    lengths: NDArray[np.integer[Any]],
    config: BatchingConfig,
    *,
    seed: int | None = None,
    epoch: int = 0,
    then: NDArray[np.integer[Any]] | None = None,
    rows: NDArray[np.integer[Any]] | None = None,
    extra: int = 0,
    window: int | None = None,
) -> Plan:
    """Return which examples go into which batch.

    What it keeps is four bytes an example (eight from 2**31 on), and less than that while it works, if `seed` is given;
    `lengths` and `then` may be mapped and are looked up where needed.

    Args:
        lengths: (N,) of the examples.
        config: sizes.
        seed: the order is a permutation by (seed, epoch); None: longest first, for evaluation.
        epoch: number of the epoch.
        then: (N,) other lengths, by which examples of one length are sorted within a bucket.
        rows: the indices to use, where not all N.
        extra: tokens that each example has beyond its length.
        window: number of the stretch of the data that these examples are, where they are not all; the order is then
            by (seed, epoch, window).

    Returns:
        The batches, each an array of indices; every example is in exactly one. With `batch_by: tokens` a batch is as
        large as its longest example allows, and an example longer than `batch_size` is a batch of its own.
    """
    if seed is None:
        order = np.arange(len(lengths)) if rows is None else rows
        order = order[np.argsort(-lengths[order], kind="stable")]
        ends = _ends(order, lengths, config, extra)
        return Plan(order, ends, np.arange(len(ends)))
    generator = np.random.default_rng([seed, epoch] if window is None else [seed, epoch, window])
    count = len(lengths) if rows is None else len(rows)
    order = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)
    generator.shuffle(order)  # the same as generator.permutation(count), in half the memory
    if rows is not None:
        for start in range(0, count, _BLOCK):
            order[start : start + _BLOCK] = rows[order[start : start + _BLOCK]]
    if not config.bucket:
        ends = _ends(order, lengths, config, extra)
        return Plan(order, ends, np.arange(len(ends)))
    window = config.bucket * _typical(lengths, config, rows, extra)
    parts = [np.zeros(0, np.int64)]
    for start in range(0, count, window):
        part = order[start : start + window]
        part = part[np.lexsort((lengths[part],) if then is None else (then[part], lengths[part]))]
        order[start : start + window] = part
        parts.append(start + _ends(part, lengths, config, extra))
    ends = np.concatenate(parts)
    return Plan(order, ends, generator.permutation(len(ends)))


def by_sentences(config: BatchingConfig) -> bool:
    """Return whether the size of a batch counts examples, not tokens."""
    return {"sentences": True, "tokens": False}[config.batch_by]


def _typical(
    lengths: NDArray[np.integer[Any]], config: BatchingConfig, rows: NDArray[np.integer[Any]] | None, extra: int
) -> int:
    """Return how many examples a batch holds on average."""
    count = len(lengths) if rows is None else len(rows)
    if by_sentences(config):
        return config.batch_size
    total = sum(
        int(lengths[start : start + _BLOCK].sum() if rows is None else lengths[rows[start : start + _BLOCK]].sum())
        for start in range(0, count, _BLOCK)
    )
    return max(1, round(config.batch_size / max((total + extra * count) / count, 1.0))) if count else 1


def _ends(
    order: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]], config: BatchingConfig, extra: int
) -> NDArray[np.int64]:
    """Return where the batches of examples in this order end."""
    count = len(order)
    if by_sentences(config):
        return np.minimum(np.arange(0, count, config.batch_size) + config.batch_size, count)
    ends, start, ahead = [], 0, 32
    while start < count:
        sizes = np.maximum(lengths[order[start : start + ahead]] + extra, 1)
        areas = np.maximum.accumulate(sizes) * np.arange(1, len(sizes) + 1)
        fits = int(np.searchsorted(areas, config.batch_size, side="right"))
        if fits == len(sizes) and start + fits < count:
            ahead *= 2
            continue
        start += max(fits, 1)
        ends.append(start)
        ahead = 2 * max(fits, 16)
    return np.array(ends, np.int64)


class Planner:
    """The plans of the epochs of one part; the last one is remembered, for it is asked for more than once.

    Args:
        lengths: (N,) of the examples.
        config: sizes.
        seed: of the order.
        options: see `plan_batches`.
    """

    def __init__(self, lengths: NDArray[np.integer[Any]], config: BatchingConfig, seed: int, **options: Any) -> None:
        self._lengths, self._config, self._seed, self._options = lengths, config, seed, options
        self._last: tuple[int, Plan] | None = None

    def __call__(self, epoch: int) -> Plan:
        """Return the batches of an epoch."""
        if self._last is None or self._last[0] != epoch:
            self._last = None  # two at a time would take twice the memory
            plan = plan_batches(self._lengths, self._config, seed=self._seed, epoch=epoch, **self._options)
            self._last = epoch, plan
        return self._last[1]


@dataclass(frozen=True)
class Spare:
    """A batch that only keeps its process busy: there are more processes than examples, and it does not count."""

    batch: Any


Split = Callable[[NDArray[np.int64], int, int], tuple[NDArray[np.int64], bool]]
"""From an item of a plan, rank and world to what this process reads of it, and whether that counts."""


def split_rows(rows: NDArray[np.int64], rank: int, world: int) -> tuple[NDArray[np.int64], bool]:
    """Return every `world`-th example from number `rank` on: neighbours are of like length, and so are the shares."""
    return (rows[rank::world], True) if rank < len(rows) else (rows[:1], False)


class Batches(Generic[T]):
    """A sized iterable of collated batches.

    Args:
        plan: arrays of example indices.
        collate: makes one batch from one of them.
        start: number of the first batch to give.
        split: how several processes share an item of the plan, if it is anything but examples.
    """

    def __init__(
        self,
        plan: Sequence[NDArray[np.int64]],
        collate: Callable[[NDArray[np.int64]], T],
        start: int = 0,
        split: Split | None = None,
    ) -> None:
        self._plan, self._collate, self._split = plan[start:], collate, split or split_rows

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[T]:
        return (self._collate(indices) for indices in self._plan)

    def share(self, rank: int, world: int) -> Batches[T | Spare]:
        """Return what process number `rank` of `world` reads of these batches: a part of each."""

        def collate(indices: NDArray[np.int64]) -> T | Spare:
            own, counts = self._split(indices, rank, world)
            batch = self._collate(own)
            return batch if counts else Spare(batch)

        return Batches(self._plan, collate)


def pad(rows: Sequence[NDArray[np.integer[Any]] | Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return rows of ids as one rectangle.

    Returns:
        ids (B, T) int64, filled up with `pad_id` at the end, T at least 1; lengths (B,) int64.
    """
    values = np.concatenate([np.zeros(0, np.int64), *(np.asarray(row, np.int64) for row in rows)])
    return lay_out(values, np.array([len(row) for row in rows], np.int64), pad_id)


def lay_out(
    values: NDArray[np.integer[Any]],
    lengths: NDArray[np.integer[Any]],
    pad_id: int,
    *,
    first: int | None = None,
    last: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return rows of ids that lie one after the other (see `Ragged.take`) as one rectangle.

    Args:
        values: the ids of all rows.
        lengths: (B,) how many belong to each.
        pad_id: what fills up the end of a row.
        first: an id to put before each row.
        last: an id to put behind each row.

    Returns:
        ids (B, T) int64, T at least 1; lengths (B,) int64, with what was added.
    """
    before, after = int(first is not None), int(last is not None)
    total = lengths.astype(np.int64) + (before + after)
    ids = np.full((len(total), max(1, int(total.max(initial=0)))), pad_id, np.int64)
    if first is not None:
        ids[:, 0] = first
    columns = np.arange(ids.shape[1] - before)
    ids[:, before:][columns < lengths[:, None]] = values
    if last is not None:
        ids[np.arange(len(total)), total - 1] = last
    return torch.from_numpy(ids), torch.from_numpy(total)
