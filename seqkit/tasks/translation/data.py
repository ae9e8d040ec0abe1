"""Sentence pairs as ids: which are learned, what was left out and why, and how they become batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from seqkit.data.batching import BatchingConfig, Planner, Ragged, lay_out
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.skipped import counted_line
from seqkit.data.source import Source
from seqkit.data.token_cache import encode_column
from seqkit.errors import UserError
from seqkit.tasks.translation.config import LONGEST, TranslationData
from seqkit.text import Tokenizer

_BLOCK = 1 << 16  # pairs looked at together: an array of all of them would not be small


@dataclass(frozen=True)
class Pairs:
    """One part of the data.

    Attributes:
        source, target: token ids of all N pairs, without <bos> and <eos> of the target.
        kept: numbers of the pairs that are used.
        left_out: reason -> how many of the others, and the place of the first of them.
        origin: where the pairs come from.
    """

    source: Ragged
    target: Ragged
    kept: NDArray[np.integer[Any]]
    left_out: dict[str, tuple[int, str]]
    origin: Source

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def source_lengths(self) -> NDArray[np.int32]:
        """(len(self),) tokens of each source that is used."""
        lengths: NDArray[np.int32] = self.source.lengths[self.kept]
        return lengths

    @property
    def target_lengths(self) -> NDArray[np.int32]:
        """(len(self),) tokens of each target that is used, <eos> counted."""
        lengths: NDArray[np.int32] = self.target.lengths[self.kept] + 1
        return lengths

    def counted(self) -> str:
        """Return how many they are, and what was skipped."""
        return counted_line(self.origin.name, len(self), "pairs", self.origin.skipped)

    def planner(self, config: BatchingConfig, seed: int) -> Planner:
        """Return the batches of the epochs, as numbers of pairs."""
        return Planner(self.target.lengths, config, seed, then=self.source.lengths, rows=self.kept, extra=1)

    def texts(self, side: str, limit: int | None = None) -> list[str]:
        """Return the pairs that are used, as they stand in the file."""
        rows = self.kept[:limit]
        return [str(text) for text in self.origin.dataset.select_columns([side])[rows.tolist()][side]]

    def fingerprint(self) -> str:
        """Return a digest of what is learned."""
        found = hashlib.sha256((self.source.digest() + self.target.digest()).encode())
        for start in range(0, len(self), _BLOCK):
            found.update(self.kept[start : start + _BLOCK].astype(np.int64).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class PairBatch:
    """B pairs: source (B, S), inputs (B, T) from <bos> on, targets (B, T) to <eos>, all int64 and padded at the end;
    the lengths (B,) count <bos> or <eos>. `rows` are the pairs' numbers in the data, `own_inputs` is the rate of
    scheduled sampling."""

    source: Tensor
    source_lengths: Tensor
    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    rows: NDArray[np.int64]
    origin: Source
    own_inputs: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens to predict, <eos> counted."""
        return int(self.lengths.sum())


def open_split(
    config: PairConfig, part: str, source: Tokenizer, target: Tokenizer, filters: TranslationData | None = None
) -> Pairs:
    """Read and tokenise one part.

    Args:
        config: where it is.
        part: train, dev or test.
        source, target: of the two sides.
        filters: what to leave out of training; None: nothing.

    Raises:
        UserError: see `open_pairs`; a sentence longer than any; nothing is left.
    """
    return tokenise(open_pairs(config, part), source, target, filters)


def tokenise(origin: Source, source: Tokenizer, target: Tokenizer, filters: TranslationData | None = None) -> Pairs:
    """Return the ids of a source's pairs; see `open_split`."""
    ids = encode_column(origin.dataset, "source", source), encode_column(origin.dataset, "target", target)
    pairs = choose(origin, *ids, target, filters)
    if not len(pairs):
        why = "; ".join(left_out_lines(pairs.left_out))
        raise UserError(f"{origin.name}: no pair is left to learn from; {why}")
    return pairs


def choose(
    origin: Source, source: Ragged, target: Ragged, tokenizer: Tokenizer, filters: TranslationData | None = None
) -> Pairs:
    """Return the pairs that are used.

    Args:
        origin: where they come from.
        source, target: ids of all of them.
        tokenizer: of the target.
        filters: what to leave out; None: nothing.

    Raises:
        UserError: a sentence that is used is longer than any.
    """
    ids = source, target
    kept, counts = _kept(*ids, tokenizer, filters)
    left_out = {reason: (count, origin.place(first)) for reason, (count, first) in counts.items()}
    for side, part in zip(("source", "target"), ids, strict=True):
        for start in range(0, len(kept), _BLOCK):
            rows = kept[start : start + _BLOCK]
            row = int(rows[part.lengths[rows].argmax()])
            if part.lengths[row] > LONGEST:
                raise UserError(
                    f"{origin.place(row)}: a {side} of {part.lengths[row]:,} tokens is not a sentence (the limit is "
                    f"{LONGEST:,}); remove it"
                )
    return Pairs(*ids, kept, left_out, origin)


def _kept(
    source: Ragged, target: Ragged, tokenizer: Tokenizer, filters: TranslationData | None
) -> tuple[NDArray[np.integer[Any]], dict[str, tuple[int, int]]]:
    """Return which pairs are used; and for each reason, how many others it left out and which was the first."""
    count = len(source)
    used = np.ones(count, bool)
    counts: dict[str, tuple[int, int]] = {}
    for start in range(0, count if filters else 0, _BLOCK):
        part = used[start : start + _BLOCK]
        assert filters is not None
        s, t = source.lengths[start : start + _BLOCK], target.lengths[start : start + _BLOCK]
        unknown = target.only(tokenizer.unk_id, start, start + len(part))
        for reason, found in _reasons(s, t, unknown, filters):
            rows = np.flatnonzero(found & part)
            if len(rows):
                before, first = counts.get(reason, (0, start + int(rows[0])))
                counts[reason] = before + len(rows), first
                part[rows] = False
    kept = np.empty(np.count_nonzero(used), np.int32 if count < 2**31 else np.int64)
    place = 0
    for start in range(0, count, _BLOCK):
        rows = np.flatnonzero(used[start : start + _BLOCK])
        kept[place : place + len(rows)] = start + rows
        place += len(rows)
    return kept, counts


def _reasons(
    source: NDArray[np.int32], target: NDArray[np.int32], unknown: NDArray[np.bool_], filters: TranslationData
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Return, for each reason, which of N pairs it would leave out.

    Args:
        source, target: (N,) tokens of the sides.
        unknown: (N,) whether the target has unknown words only.
        filters: the settings.
    """
    yield "nothing left of a side after tokenising", (source == 0) | (target == 0)
    yield f"source longer than data.max_source_length {filters.max_source_length}", source > filters.max_source_length
    yield f"target longer than data.max_target_length {filters.max_target_length}", target > filters.max_target_length
    yield "target of unknown words only", unknown
    if filters.max_ratio is not None:
        apart = np.maximum(source, target) > filters.max_ratio * np.minimum(source, target)
        yield f"lengths differ more than data.max_ratio {filters.max_ratio}", apart


def collate(pairs: Pairs, rows: NDArray[np.int64], tokenizer: Tokenizer, own_inputs: float = 0.0) -> PairBatch:
    """Return one batch, on the CPU.

    Args:
        pairs: the data.
        rows: numbers of pairs.
        tokenizer: of the target, for its special tokens.
        own_inputs: rate of scheduled sampling.
    """
    source, source_lengths = lay_out(*pairs.source.take(rows), tokenizer.pad_id)
    targets = pairs.target.take(rows)
    inputs, lengths = lay_out(*targets, tokenizer.pad_id, first=tokenizer.bos_id)
    outputs, _ = lay_out(*targets, tokenizer.pad_id, last=tokenizer.eos_id)
    return PairBatch(source, source_lengths, inputs, outputs, lengths, rows, pairs.origin, own_inputs)


def left_out_lines(left_out: Mapping[str, tuple[int, str]]) -> list[str]:
    """Return each reason, with how many it left out and where the first of them stands."""
    return [f"{reason}: {count:,} (the first is {place})" for reason, (count, place) in left_out.items()]


def describe(name: str, pairs: Pairs, source: Tokenizer, target: Tokenizer) -> Iterator[str]:
    """Yield lines about one part: how many pairs, how long, how many words are known, what was left out or skipped."""
    parts = []
    for side, ids, tokenizer in (("source", pairs.source, source), ("target", pairs.target, target)):
        total, longest = 0, 0
        for start in range(0, len(pairs), _BLOCK):
            lengths = ids.lengths[pairs.kept[start : start + _BLOCK]]
            total, longest = total + int(lengths.sum()), max(longest, int(lengths.max()))
        known = 1 - ids.count(tokenizer.unk_id) / max(int(ids.lengths.sum()), 1)
        parts.append(
            f"{side} length mean {total / len(pairs):.1f}, longest {longest}, {known:.1%} of tokens in the vocabulary"
        )
    yield f"{name}: {len(pairs):,} pairs; {'; '.join(parts)}"
    for line in left_out_lines(pairs.left_out):
        yield f"{name}: left out, {line}"
    if skipped := pairs.origin.skipped.note():
        yield f"{name}: {skipped}"
