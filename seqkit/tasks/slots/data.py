"""Tagged sentences as numbers: words, characters, tags and intents, and how they become batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqkit.data.batching import Ragged, pad
from seqkit.data.labels import Labels, label_form, number_column, refuse_unknown
from seqkit.data.source import Source
from seqkit.errors import UserError, listed, shown
from seqkit.models import Spelling
from seqkit.text import Tokenizer

LONGEST = 10_000
"""Tokens in a sentence. A longer one is a broken file, not a sentence."""
LONGEST_WORD = 64
"""Characters of a token that are read; a longer one is not a word."""

Lists = tuple[NDArray[np.int32], NDArray[np.int32], list[str]]
"""Values as numbers, where each list begins and ends in them, and what the numbers stand for."""


def column_lists(source: Source, name: str) -> Lists:
    """Return a column of lists of strings."""
    import pyarrow.compute as pc

    column = source.dataset.data.column(name)
    flat = pc.list_flatten(column).dictionary_encode().combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())]).astype(np.int32)
    return flat.indices.to_numpy().astype(np.int32), offsets, flat.dictionary.to_pylist()


def plain_lists(rows: Sequence[Sequence[str]]) -> Lists:
    """Return the same from lists in memory."""
    numbers: dict[str, int] = {}
    values = np.fromiter((numbers.setdefault(word, len(numbers)) for row in rows for word in row), np.int32)
    return values, np.cumsum([0, *map(len, rows)], dtype=np.int32), list(numbers)


@dataclass(frozen=True)
class Words:
    """Sentences as numbers of their distinct words.

    Attributes:
        sentences: N lists of numbers below D.
        ids: (D,) int64, each word's number in the vocabulary.
        spelling: D lists of numbers of characters, if these are read.
    """

    sentences: Ragged
    ids: NDArray[np.int64]
    spelling: Ragged | None

    @classmethod
    def make(cls, lists: Lists, tokenizer: Tokenizer, letters: Tokenizer | None) -> Words:
        """From the words as they are written."""
        values, offsets, distinct = lists
        spelling = None
        if letters is not None:
            cut = [word[:LONGEST_WORD] for word in distinct]
            spelling = Ragged.from_lists(letters.encode(cut))
        ids = np.array(tokenizer.lookup(distinct), np.int64)
        return cls(Ragged([(values, offsets)]), ids, spelling)

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(N,) tokens of each sentence."""
        return self.sentences.lengths

    def known(self, unknown: int) -> float:
        """Return the share of tokens that are in the vocabulary."""
        counts = np.bincount(np.concatenate([self.sentences[row] for row in range(len(self))]), minlength=len(self.ids))
        return 1 - float(counts[self.ids == unknown].sum()) / max(int(counts.sum()), 1)

    def digest(self) -> str:
        """Return a hash of all that the model sees."""
        found = hashlib.sha256(self.sentences.digest().encode() + self.ids.tobytes())
        found.update((self.spelling.digest() if self.spelling else "").encode())
        return found.hexdigest()

    def collate(self, rows: NDArray[np.int64], tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Spelling | None]:
        """Ids (B, T), lengths (B,) and spelling of some sentences, on the CPU."""
        words, lengths = pad([self.sentences[row] for row in rows], 0)
        distinct, numbers = np.unique(words.numpy(), return_inverse=True)
        inverse = numbers.reshape(words.shape)
        ids = torch.from_numpy(self.ids[distinct][inverse])
        ids.masked_fill_(torch.arange(ids.size(1), device=ids.device) >= lengths.unsqueeze(1), tokenizer.pad_id)
        spelling = None
        if self.spelling is not None:
            letters, sizes = pad([self.spelling[word] for word in distinct], tokenizer.pad_id)
            spelling = Spelling(letters, sizes, torch.from_numpy(inverse))
        return ids, lengths, spelling


@dataclass(frozen=True)
class Tagged:
    """One part of the data.

    Attributes:
        words: the sentences.
        tags: N lists of numbers of tags.
        types: names of the slots' types: type t begins with tag 1 + 2 t and goes on with the next.
        intents: (N,) int64 numbers of intents, or None.
        intent_names: their names, or None.
        source: where they come from.
        repaired: how many tags were, and where the first of them stands.
    """

    words: Words
    tags: Ragged
    types: Labels
    intents: NDArray[np.int64] | None
    intent_names: Labels | None
    source: Source
    repaired: tuple[int, str]

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def known_tags(self) -> NDArray[np.bool_]:
        """(N,) whether all tags of a sentence are of types that are learned."""
        known = np.ones(len(self), bool)
        if self.types.unknown:
            values, lengths = self.tags.take(np.arange(len(self)))
            known[np.repeat(np.arange(len(self)), lengths)[values > 2 * self.types.known]] = False
        return known

    @cached_property
    def known_intents(self) -> NDArray[np.bool_]:
        """(N,) whether the intent of a sentence is learned."""
        if self.intents is None or self.intent_names is None:
            return np.ones(len(self), bool)
        return self.intents < self.intent_names.known

    @cached_property
    def tag_names(self) -> list[str]:
        """Return what the numbers of tags stand for."""
        return tags_of(self.types.names)

    @property
    def intent_labels(self) -> list[str]:
        """Return the name of the intent of each sentence; "" where none is learned."""
        if self.intents is None or self.intent_names is None:
            return [""] * len(self)
        return [self.intent_names.names[number] for number in self.intents]

    def fingerprint(self) -> str:
        """Return a digest of what is learned."""
        intents = b"" if self.intents is None else self.intents.tobytes()
        unknown = [*self.types.unknown, *(self.intent_names.unknown if self.intent_names else ())]
        intents += "\n".join(unknown).encode()
        return hashlib.sha256((self.words.digest() + self.tags.digest()).encode() + intents).hexdigest()


@dataclass(frozen=True)
class TagBatch:
    """B sentences: ids and tags (B, T) int64, padded at the end, lengths (B,), their words' spelling if it is read,
    intents (B,) if there are some, and the sentences' numbers in the data."""

    ids: Tensor
    lengths: Tensor
    spelling: Spelling | None
    tags: Tensor
    intents: Tensor | None
    rows: NDArray[np.int64]


def collate(data: Tagged, rows: NDArray[np.int64], tokenizer: Tokenizer) -> TagBatch:
    """Return one batch of the sentences with these numbers, on the CPU."""
    ids, lengths, spelling = data.words.collate(rows, tokenizer)
    tags, _ = pad([data.tags[row] for row in rows], 0)
    intents = None if data.intents is None else torch.from_numpy(data.intents[rows])
    return TagBatch(ids, lengths, spelling, tags, intents, rows)


def tag_names(source: Source) -> list[str]:
    """Return O, and B- and I- of every type that a source has."""
    _, _, distinct = column_lists(source, "tags")
    types = sorted({label_form(tag[2:]) for tag in distinct if tag != "O"})
    if not types:
        raise UserError(f"{source.name}: every tag is O; there is nothing to learn")
    return tags_of(types)


def tags_of(types: Sequence[str]) -> list[str]:
    """Return O, and B- and I- of every type."""
    return ["O", *(f"{mark}-{name}" for name in types for mark in "BI")]


def number_tags(
    source: Source, tags: Sequence[str], on_bad_tags: str, *, refuse: bool, learned: bool
) -> tuple[Ragged, Labels, tuple[int, str]]:
    """Return the tags of a source as numbers, their types, and how many were repaired, and where.

    Raises:
        UserError: types that `tags` lacks, see `refuse_unknown`; tags out of order, if that is an error.
    """
    values, offsets, distinct = column_lists(source, "tags")
    written = sorted({tag[2:] for tag in distinct if tag != "O"})
    types = Labels.match(written, [name[2:] for name in tags if name.startswith("B-")])
    begins = dict(zip(written, (1 + 2 * types.numbers).tolist(), strict=True))
    number = [0 if tag == "O" else begins[tag[2:]] + (tag[0] == "I") for tag in distinct]

    def place(position: int) -> tuple[str, int]:
        row = int(np.searchsorted(offsets, position, side="right")) - 1
        return source.place(row), position - int(offsets[row])

    found = np.array(number, np.int32)[values]
    missing = np.flatnonzero(found > 2 * types.known)
    if len(missing):
        bad = np.zeros(len(offsets) - 1, bool)
        bad[np.searchsorted(offsets, missing, side="right") - 1] = True
        tag = distinct[values[missing[0]]]
        message = f"{place(int(missing[0]))[0]}: unknown slot type in tag {shown(tag)}{types.hint(tag[2:])}"
        refuse_unknown(bad, message, "sentences", refuse=refuse, learned=learned)
    # In `tags` B-x has an odd number and I-x the next one.
    inside = (found > 0) & (found % 2 == 0)
    before = np.concatenate([[0], found[:-1]])
    before[offsets[:-1][offsets[:-1] < len(found)]] = 0
    bad = np.flatnonzero(inside & (before != found) & (before != found - 1))
    if not len(bad):
        return Ragged([(found, offsets)]), types, (0, "")
    where, index = place(int(bad[0]))
    if {"error": True, "repair": False}[on_bad_tags]:
        names = tags_of(types.names)
        last = names[before[bad[0]]] if index else "the start"
        raise UserError(
            f"{where}: tag {index + 1} is {names[found[bad[0]]]!r} after {last}; data.on_bad_tags: repair would begin "
            f"a slot there ({len(bad):,} such tags in the file)"
        )
    found[bad] -= 1
    return Ragged([(found, offsets)]), types, (len(bad), where)


def read_tagged(
    source: Source,
    tokenizer: Tokenizer,
    letters: Tokenizer | None,
    tags: Sequence[str],
    intents: Sequence[str],
    on_bad_tags: str,
    *,
    refuse: bool,
    learned: bool,
) -> Tagged:
    """Read one part of the data as numbers.

    Raises:
        UserError: a sentence that is none; see `number_tags` and `number_column`.
    """
    words = Words.make(column_lists(source, "tokens"), tokenizer, letters)
    if words.lengths.max() > LONGEST:
        row = int(words.lengths.argmax())
        raise UserError(
            f"{source.place(row)}: {words.lengths[row]:,} tokens are not a sentence (limit: {LONGEST:,}); remove it"
        )
    numbers, types, repaired = number_tags(source, tags, on_bad_tags, refuse=refuse, learned=learned)
    names, found = None, None
    if intents:
        names, found = number_column(source, "intent", intents, "sentences", refuse=refuse, learned=learned)
    return Tagged(words, numbers, types, found, names, source, repaired)


def unknown_lines(name: str, data: Tagged) -> Iterator[str]:
    """Yield lines about slot types and intents that training lacks."""
    begun = (data.tags.count(number) for number in range(1 + 2 * data.types.known, len(data.tag_names), 2))
    rows = "{:,} of {:,} sentences".format
    yield from data.types.unknown_line(name, "slot type", list(begun), rows(int((~data.known_tags).sum()), len(data)))
    if data.intents is not None and data.intent_names is not None:
        counts = np.bincount(data.intents, minlength=len(data.intent_names.names))[data.intent_names.known :].tolist()
        yield from data.intent_names.unknown_line(name, "intent", counts, rows(sum(counts), len(data)))


def describe(name: str, data: Tagged, unknown: int) -> Iterator[str]:
    """Yield lines about one part."""
    lengths = data.words.lengths
    begun = sum(data.tags.count(number) for number in range(1, len(data.tag_names), 2))
    yield (
        f"{name}: {len(data):,} sentences, {int(lengths.sum()):,} tokens, {begun:,} slots; length mean "
        f"{lengths.mean():.1f}, longest {lengths.max()}; {data.words.known(unknown):.1%} of tokens in the vocabulary"
    )
    if data.intents is not None and data.intent_names is not None:
        intents = data.intent_names.names
        counts = np.bincount(data.intents, minlength=len(intents))
        shares = (f"{intent} {count / len(data):.1%}" for intent, count in zip(intents, counts, strict=True))
        yield f"{name}: intents {listed(shares, 20)}"
        yield from data.intent_names.joined_line(name, "intent")
    yield from data.types.joined_line(name, "slot type")
    yield from unknown_lines(name, data)
    if data.repaired[0]:
        yield f"{name}: {data.repaired[0]:,} tags repaired, I- to B-, the first at {data.repaired[1]}"
    if skipped := data.source.skipped.note():
        yield f"{name}: {skipped}"
