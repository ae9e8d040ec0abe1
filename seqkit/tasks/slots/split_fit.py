"""Whether a text is split into the tokens that tagged sentences have; what is split otherwise is tagged otherwise.

A sentence written with spaces between its tokens is split as each of its tokens is, since no token of a word tokenizer
reaches across a space. So it is enough to look at each distinct token once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqkit.tasks.slots.data import Lists, Tagged, column_lists
from seqkit.text import TextConfig, Tokenizer

# From the finest to the coarsest: the first of those that fit equally well is the one for text of other origins, too.
_SPLITS = tuple({"split": split, "split_chinese": han} for han in (True, False) for split in ("words", "spaces"))


class Misfit(NamedTuple):
    """What does not come back when sentences are written as text and split again, and the first such token."""

    sentences: int
    tokens: int
    slots: int
    example: str

    def __str__(self) -> str:
        counted = zip((self.tokens, self.sentences, self.slots), ("token", "sentence", "slot"), strict=True)
        tokens, sentences, slots = (f"{count:,} {name}{'s' * (count != 1)}" for count, name in counted)
        return f"{tokens}, such as {self.example!r}, in {sentences} with {slots} in them"


def misfit(tokenizer: Tokenizer, lists: Lists, begins: NDArray[np.bool_], tagged: NDArray[np.bool_]) -> Misfit:
    """Compare the tokens of some sentences with those into which the tokenizer splits their text.

    Args:
        tokenizer: of words.
        lists: the sentences.
        begins, tagged: at which of their tokens a slot begins, and which are in one.
    """
    values, offsets, distinct = lists
    broken = np.array([tokenizer.offsets(word) != [(0, len(word))] for word in distinct], bool)[values]
    places = np.flatnonzero(broken)
    if not len(places):
        return Misfit(0, 0, 0, "")
    sentences = np.unique(np.searchsorted(offsets, places, side="right"))
    slots = np.unique(np.cumsum(begins)[broken & tagged])
    return Misfit(len(sentences), len(places), len(slots), distinct[values[places[0]]])


def misfit_of(tokenizer: Tokenizer, data: Tagged) -> Misfit:
    """Return the same for one part of the data."""
    tags, _ = data.tags.take(np.arange(len(data)))
    return misfit(tokenizer, column_lists(data.source, "tokens"), tags % 2 == 1, tags > 0)  # B-x has an odd number


def fitted(tokenizer: Tokenizer, lists: Lists, given: TextConfig) -> Tokenizer:
    """Return the tokenizer, splitting texts as the sentences are split; what the configuration says stays as it says.

    The fewest sentences that do not come back decide; of equal ones the tokenizer's own way, then the finest.
    """
    return _best(tokenizer, lists, given)[0]


def _best(tokenizer: Tokenizer, lists: Lists, given: TextConfig | None) -> tuple[Tokenizer, Misfit]:
    own = {name: getattr(tokenizer.config, name) for name in _SPLITS[0]}
    flags = np.zeros(len(lists[0]), bool)
    best = tokenizer, misfit(tokenizer, lists, flags, flags)
    for split in _SPLITS:
        said = {name: getattr(given, name) for name in split if given is not None and getattr(given, name) != "auto"}
        if best[1].sentences == 0 or split == own or {**split, **said} != split:
            continue
        other = tokenizer.resplit(**split)
        found = misfit(other, lists, flags, flags)
        if found.sentences < best[1].sentences:
            best = other, found
    return best


def split_of(tokenizer: Tokenizer) -> str:
    """Return how texts are split, as the configuration says it."""
    config = tokenizer.config
    return f"text.split: {config.split}" + ("" if config.split_chinese else ", text.split_chinese: false")


def fit_lines(tokenizer: Tokenizer, splits: dict[str, Tagged]) -> Iterator[str]:
    """For the report: what of each part `predict` splits otherwise when it is given as text, and whether another split
    would do better."""
    found = {part: misfit_of(tokenizer, data) for part, data in splits.items()}
    for part, wrong in found.items():
        if wrong.sentences:
            advice = "`seqkit predict RUN tokens=true` takes tokens"
            yield f"{part}: given as text, predict splits {wrong} differently; {advice}"
    lists = column_lists(splits["train"].source, "tokens")
    if found["train"].sentences:
        other, left = _best(tokenizer, lists, None)
        if left.sentences < found["train"].sentences:
            yield (
                f"warning: {split_of(tokenizer)} splits {found['train'].sentences:,} training sentences differently "
                f"from their tokens, {split_of(other)} {left.sentences:,}; without these keys the better one is chosen"
            )
    if tokenizer.config.split == "spaces":
        yield from _attached(lists)


def _attached(lists: Lists) -> Iterator[str]:
    """With `spaces`: whether a text needs spaces that people do not write."""
    values, offsets, distinct = lists
    alone = np.array([not any(character.isalnum() for character in word) for word in distinct], bool)[values]
    places = np.flatnonzero(alone)
    if len(places):
        sentences = len(np.unique(np.searchsorted(offsets, places, side="right")))
        yield (
            f"text.split: spaces fits the data, in which {distinct[values[places[0]]]!r} is a token of its own (such "
            f"are in {sentences:,} sentences): a text for predict must have a space before it, too"
        )
