"""Token ids where they lie on disk, and length-bucketed batches in a seeded order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from seqkit.config import Section

if TYPE_CHECKING:
    from datasets import Dataset

    from seqkit.text import Tokenizer

T = TypeVar("T")
# Part of the key under which tokenised data is cached: raise it when `encode_column` changes what it stores.
ENCODING_VERSION = 1


class BatchingConfig(Section):
    """How examples are put together."""

    batch_size: int = Field(default=32, gt=0)
    """Sentences, or with `batch_by: tokens` tokens (padding included), in a batch."""
    batch_by: Literal["sentences", "tokens"] = "sentences"
    bucket: int = Field(default=50, ge=0)
    """So many batches' worth of shuffled examples are sorted by length together, so that batches hold little
    padding; 0: no sorting."""


class Ragged:
    """Sequences of token ids of different lengths, read where they lie (memory-mapped Arrow).

    Args:
        chunks: pairs of (values, offsets): sequence i of a chunk is `values[offsets[i] : offsets[i + 1]]`.
    """

    def __init__(self, chunks: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> None:
        self._chunks = [chunk for chunk in chunks if len(chunk[1]) > 1]
        self._starts = np.cumsum([0, *(len(offsets) - 1 for _, offsets in self._chunks)])
        parts = [np.diff(offsets) for _, offsets in self._chunks]
        #: number of ids of each sequence, (N,) int32
        self.lengths: NDArray[np.int32] = np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        values, offsets = self._chunks[chunk]
        row = index - self._starts[chunk]
        return values[offsets[row] : offsets[row + 1]]

    def digest(self) -> str:
        """A hash of all ids and lengths."""
        found = hashlib.sha256(self.lengths.tobytes())
        for values, offsets in self._chunks:
            found.update(values[offsets[0] : offsets[-1]].tobytes())
        return found.hexdigest()

    def count(self, number: int) -> int:
        """How often an id occurs in all sequences together."""
        return sum(int((values[offsets[0] : offsets[-1]] == number).sum()) for values, offsets in self._chunks)

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        """Several, one after the other; nothing is copied."""
        return cls([chunk for part in parts for chunk in part._chunks])

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """The same from lists in memory."""
        offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int32)
        values = np.fromiter((number for row in rows for number in row), np.int32, count=int(offsets[-1]))
        return cls([(values, offsets)])


def encode_column(dataset: Dataset, column: str, tokenizer: Tokenizer) -> Ragged:
    """Tokenise one text column, once: the result is cached beside the data set's own files.

    Args:
        dataset: a memory-mapped data set (`open_source(...).dataset`).
        column: name of a column of strings.
        tokenizer: its fingerprint and the data set's are the key of the cache.
    """
    import datasets
    from datasets.fingerprint import Hasher

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": tokenizer.encode(batch[column])}

    key = Hasher.hash([dataset._fingerprint, column, tokenizer.fingerprint, ENCODING_VERSION])
    with _quiet(datasets):
        encoded = dataset.map(
            encode,
            batched=True,
            remove_columns=dataset.column_names,
            features=datasets.Features({"ids": datasets.Sequence(datasets.Value("int32"))}),
            new_fingerprint=key,
        )
    chunks = encoded.data.column("ids").chunks
    return Ragged([(c.values.to_numpy(zero_copy_only=True), c.offsets.to_numpy(zero_copy_only=True)) for c in chunks])


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """The library's own progress bars are off inside."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def plan_batches(
    lengths: NDArray[np.integer[Any]],
    config: BatchingConfig,
    *,
    seed: int | None = None,
    epoch: int = 0,
    then: NDArray[np.integer[Any]] | None = None,
) -> list[NDArray[np.int64]]:
    """Which examples go into which batch.

    Args:
        lengths: (N,) of the examples.
        config: sizes.
        seed: the order is a permutation by (seed, epoch); None: longest first, for evaluation.
        epoch: number of the epoch.
        then: (N,) other lengths, by which examples of one length are sorted within a bucket.

    Returns:
        The batches, each an array of indices; every example is in exactly one. With `batch_by: tokens` a batch is as
        large as its longest example allows, and an example longer than `batch_size` is a batch of its own.
    """
    if seed is None:
        order = np.argsort(-lengths, kind="stable")
        return _cut(order, lengths, config)
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    if not config.bucket:
        return _cut(order, lengths, config)
    per_batch = config.batch_size
    if config.batch_by == "tokens":
        per_batch = max(1, round(config.batch_size / max(float(lengths.mean()), 1.0))) if len(lengths) else 1
    window = config.bucket * per_batch
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        if then is not None:
            part = part[np.argsort(then[part], kind="stable")]
        batches += _cut(part[np.argsort(lengths[part], kind="stable")], lengths, config)
    return [batches[number] for number in generator.permutation(len(batches))]


def _cut(order: NDArray[Any], lengths: NDArray[Any], config: BatchingConfig) -> list[NDArray[np.int64]]:
    if config.batch_by == "sentences":
        return [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
    batches, start, longest = [], 0, 0
    for position, index in enumerate(order):
        longest = max(longest, int(lengths[index]), 1)
        if position > start and longest * (position - start + 1) > config.batch_size:
            batches.append(order[start:position])
            start, longest = position, max(int(lengths[index]), 1)
    if start < len(order):
        batches.append(order[start:])
    return batches


class Batches(Generic[T]):
    """A sized iterable of collated batches.

    Args:
        plan: arrays of example indices.
        collate: makes one batch from one of them.
        start: number of the first batch to give.
    """

    def __init__(
        self, plan: Sequence[NDArray[np.int64]], collate: Callable[[NDArray[np.int64]], T], start: int = 0
    ) -> None:
        self._plan, self._collate = plan[start:], collate

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[T]:
        return (self._collate(indices) for indices in self._plan)


def pad(rows: Sequence[NDArray[np.integer[Any]] | Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of ids as one rectangle.

    Returns:
        ids (B, T) int64, filled up with `pad_id` at the end, T at least 1; lengths (B,) int64.
    """
    lengths = [len(row) for row in rows]
    ids = np.full((len(rows), max(1, *lengths) if lengths else 1), pad_id, np.int64)
    for number, row in enumerate(rows):
        ids[number, : lengths[number]] = row
    return torch.from_numpy(ids), torch.tensor(lengths, dtype=torch.int64)
