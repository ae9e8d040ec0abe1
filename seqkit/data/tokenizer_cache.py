"""Tokenizers trained on columns of data, once: the result is cached beside the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from seqkit.console import say
from seqkit.data.cache import cache_folder
from seqkit.data.source import Source
from seqkit.data.token_cache import code_versions, column_arrays
from seqkit.errors import UserError
from seqkit.text import TextConfig, Tokenizer

# Part of the key under which tokenizers are cached: raise it when training one gives another result.
TRAINING_VERSION = 3
_STRETCHES = 500_000  # about 60 MB


@dataclass(frozen=True)
class Texts:
    """Texts that can be read again, and what changes when one of them does.

    Attributes:
        arrays: begins to read them, as Arrow arrays of bounded size.
        fingerprint: anything that JSON can write.
    """

    arrays: Callable[[], Iterator[Any]]
    fingerprint: Any

    def __iter__(self) -> Iterator[Any]:
        for array in self.arrays():
            yield from array.to_pylist()


def column_texts(columns: Sequence[tuple[Source, str]]) -> Texts:
    """Return columns of sources, one after the other, read where they lie."""

    def arrays() -> Iterator[Any]:
        for source, name in columns:
            yield from column_arrays(source.dataset, name)

    return Texts(arrays, [[source.dataset._fingerprint, name] for source, name in columns])


def train_tokenizer(texts: Texts, config: TextConfig) -> Tokenizer:
    """`Tokenizer.train` on columns; the texts, the settings and the versions of the code are the key of the cache.

    Raises:
        UserError: see `Tokenizer.train`.
    """
    config = config.settled()
    if config.stop_words not in ("none", "english"):
        return Tokenizer.train(texts, config)  # a file of the user's decides, too
    versions = [TRAINING_VERSION, *code_versions(config)]
    key = json.dumps([texts.fingerprint, config.model_dump(mode="json"), versions])
    target = cache_folder() / f"tokenizer-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    with suppress(UserError):  # absent or damaged
        return Tokenizer.load(target)
    counts = _counts(texts) if config.tokenizer == "word" else None
    tokenizer = Tokenizer.train(texts, config) if counts is None else Tokenizer.train_counted(counts, config)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(target)
    except OSError as error:
        say(f"the tokenizer is not cached in {target.parent} ({error.strerror or error})")
    return tokenizer


def _counts(texts: Texts) -> dict[str, int] | None:
    """Return how often each stretch between two spaces occurs; None where they are so many that they would fill the
    memory."""
    import pyarrow.compute as pc

    found: dict[str, int] = {}
    for array in texts.arrays():
        counted = pc.value_counts(pc.split_pattern(array, " ").values)
        stretches, numbers = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
        for stretch, number in zip(stretches, numbers, strict=True):
            found[stretch] = found.get(stretch, 0) + number
        if len(found) > _STRETCHES:
            return None
    return found
