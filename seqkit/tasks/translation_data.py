"""Sentence pairs as ids: which are learned, what was left out and why, and how they become batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqkit.config import UserError
from seqkit.data.batching import Ragged, encode_column, pad
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.sources import Source
from seqkit.tasks.translation_config import LONGEST, TranslationData
from seqkit.text import Tokenizer


@dataclass(frozen=True)
class Pairs:
    """One part of the data.

    Attributes:
        source, target: token ids of all N pairs, without <bos> and <eos> of the target.
        kept: numbers of the pairs that are used.
        left_out: reason -> how many of the others, and where the first of them stands.
        origin: where the pairs come from.
    """

    source: Ragged
    target: Ragged
    kept: NDArray[np.int64]
    left_out: dict[str, str]
    origin: Source

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def source_lengths(self) -> NDArray[np.int64]:
        """(len(self),) tokens of each source that is used."""
        return self.source.lengths[self.kept].astype(np.int64)

    @property
    def target_lengths(self) -> NDArray[np.int64]:
        """(len(self),) tokens of each target that is used, <eos> counted."""
        return self.target.lengths[self.kept].astype(np.int64) + 1

    def texts(self, side: str, limit: int | None = None) -> list[str]:
        """The pairs that are used, as they stand in the file."""
        rows = self.kept[:limit]
        return [str(text) for text in self.origin.dataset.select_columns([side])[rows.tolist()][side]]

    def fingerprint(self) -> str:
        """A digest of what is learned."""
        parts = self.source.digest() + self.target.digest()
        return hashlib.sha256(parts.encode() + self.kept.tobytes()).hexdigest()


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
    """The ids of a source's pairs; see `open_split`."""
    ids = encode_column(origin.dataset, "source", source), encode_column(origin.dataset, "target", target)
    reasons = _reasons(*ids, target, filters) if filters else {}
    kept, left_out = np.ones(len(ids[0]), bool), {}
    for reason, found in reasons.items():
        rows = np.flatnonzero(found & kept)
        if len(rows):
            left_out[reason] = f"{len(rows):,} (the first is {origin.place(int(rows[0]))})"
            kept[rows] = False
    if not kept.any():
        why = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise UserError(f"{origin.name}: no pair is left to learn from; {why}")
    for side, lengths in (("source", ids[0].lengths), ("target", ids[1].lengths)):
        row = int(np.where(kept, lengths, 0).argmax())
        if kept[row] and lengths[row] > LONGEST:
            raise UserError(
                f"{origin.place(row)}: a {side} of {lengths[row]:,} tokens is no sentence (the most is {LONGEST:,}); "
                "take it out"
            )
    return Pairs(*ids, np.flatnonzero(kept), left_out, origin)


def _reasons(
    source: Ragged, target: Ragged, tokenizer: Tokenizer, filters: TranslationData
) -> dict[str, NDArray[np.bool_]]:
    """For each reason, which pairs (N,) it would leave out."""
    s, t = source.lengths, target.lengths
    reasons = {
        "nothing left of a side after tokenising": (s == 0) | (t == 0),
        f"source longer than data.max_source_length {filters.max_source_length}": s > filters.max_source_length,
        f"target longer than data.max_target_length {filters.max_target_length}": t > filters.max_target_length,
        "target of unknown words only": _all_unknown(target, tokenizer.unk_id),
    }
    if filters.max_ratio is not None:
        shorter, longer = np.minimum(s, t), np.maximum(s, t)
        reasons[f"lengths differ more than data.max_ratio {filters.max_ratio}"] = longer > filters.max_ratio * shorter
    return reasons


def _all_unknown(ids: Ragged, unknown: int) -> NDArray[np.bool_]:
    rows = (ids[number] for number in range(len(ids)))
    return np.fromiter((len(row) > 0 and bool((row == unknown).all()) for row in rows), bool, len(ids))


def collate(
    pairs: Pairs, rows: NDArray[np.int64], tokenizer: Tokenizer, device: torch.device, own_inputs: float = 0.0
) -> PairBatch:
    """One batch.

    Args:
        pairs: the data.
        rows: numbers among the pairs that are used.
        tokenizer: of the target, for its special tokens.
        device: where the batch goes.
        own_inputs: rate of scheduled sampling.
    """
    rows = pairs.kept[rows]
    source, source_lengths = pad([pairs.source[row] for row in rows], tokenizer.pad_id)
    targets = [pairs.target[row] for row in rows]
    inputs, lengths = pad([np.concatenate([[tokenizer.bos_id], row]) for row in targets], tokenizer.pad_id)
    outputs, _ = pad([np.concatenate([row, [tokenizer.eos_id]]) for row in targets], tokenizer.pad_id)
    source, source_lengths, inputs, outputs, lengths = (
        part.to(device) for part in (source, source_lengths, inputs, outputs, lengths)
    )
    return PairBatch(source, source_lengths, inputs, outputs, lengths, rows, own_inputs)


def describe(name: str, pairs: Pairs, source: Tokenizer, target: Tokenizer) -> Iterator[str]:
    """Lines about one part: how many pairs, how long, how many words are known, what was left out or skipped."""
    parts = []
    for side, ids, tokenizer in (("source", pairs.source, source), ("target", pairs.target, target)):
        lengths = ids.lengths[pairs.kept]
        known = 1 - ids.count(tokenizer.unk_id) / max(int(ids.lengths.sum()), 1)
        parts.append(
            f"{side} length mean {lengths.mean():.1f}, longest {lengths.max()}, {known:.1%} of tokens in the vocabulary"
        )
    yield f"{name}: {len(pairs):,} pairs; {'; '.join(parts)}"
    for reason, count in pairs.left_out.items():
        yield f"{name}: left out, {reason}: {count}"
    if pairs.origin.skipped:
        yield f"{name}: {pairs.origin.skipped:,} bad lines skipped, the first: {pairs.origin.first_skipped}"
