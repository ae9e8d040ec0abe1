"""Text columns as token ids: tokenised once, into a file that is mapped from then on.

Most of a text is words that were seen before. So a text is cut at its spaces by Arrow, and the tokenizer sees each
distinct stretch once; what remains is numpy. Tokenizers whose tokens reach across a space read whole texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqkit._version import __version__
from seqkit.console import say
from seqkit.data.batching import Ragged, stretches
from seqkit.data.cache import Unwritable, cache_folder, cached_file
from seqkit.files import write_text

if TYPE_CHECKING:
    from datasets import Dataset

    from seqkit.text import TextConfig, Tokenizer

# Part of the key under which tokenised data is cached: raise it when `encode_column` changes what it stores.
ENCODING_VERSION = 2
_ROWS = 20_000  # tokenised together, unless they have more than
_BYTES = 1 << 22  # of text: a text of nothing but spaces takes 30 times its size while it is cut
_REMEMBERED = 1 << 25  # characters of stretches, each counted with what it costs beside them
_OVERHEAD = 128

# What torchtext's tokenizers are made of.
_FOREIGN_CODE = ("torchtext", "spacy", "en_core_web_sm", "sacremoses", "nltk", "revtok")


def encode_column(dataset: Dataset, column: str, tokenizer: Tokenizer) -> Ragged:
    """Tokenise one text column, once: the result is cached, and mapped from there.

    Args:
        dataset: a memory-mapped data set (`open_source(...).dataset`).
        column: name of a column of strings.
        tokenizer: its fingerprint, the data set's and the version of the code are the key of the cache.

    Raises:
        UserError: the disk under the cache is full. Where the cache cannot be written at all, the ids stay in memory.
    """
    versions = [ENCODING_VERSION, *code_versions(tokenizer.config)]
    key = json.dumps([dataset._fingerprint, column, tokenizer.fingerprint, versions])
    target = cache_folder() / f"ids-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    notes = target.with_suffix(".json")
    # The ids are renamed into place first: where the notes are, the ids are.
    with suppress(OSError, ValueError, KeyError):
        if notes.is_file():
            return _mapped(target, len(dataset), json.loads(notes.read_text("utf-8")))
    parts = _encoded(dataset, column, Encoder(tokenizer))
    try:
        with cached_file(target, f"{column} of {_name(dataset)}") as file:
            tokens = _write(parts, len(dataset), file)
    except Unwritable as error:
        say(f"tokenised in memory; the cache {target.parent} cannot be written ({error})")
        return _joined(parts)
    found = _mapped(target, len(dataset), {"tokens": tokens})
    facts = {"tokens": tokens, "digest": found.digest(), "unknown": found.count(tokenizer.unk_id)}
    with suppress(OSError):
        write_text(notes, json.dumps({**facts, "unk_id": tokenizer.unk_id}))
    return found


def code_versions(config: TextConfig) -> list[str]:
    """Return the versions of all code that decides how texts become tokens: part of the key of whatever is cached of
    them."""
    found = [__version__, version("tokenizers")]
    for name in _FOREIGN_CODE if config.is_foreign else ():
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _name(dataset: Dataset) -> str:
    files = dataset.cache_files
    return str(files[0]["filename"]) if files else "the data"


def _write(parts: Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]], rows: int, file: IO[bytes]) -> int:
    """Write the file, and return the number of ids in it.

    It holds where each row begins and the last one ends (rows + 1, int64), the number of ids in each row (rows, int32),
    and all ids (int32).
    """
    row, tokens = 0, 0
    file.write(bytes(8))
    for values, lengths in parts:
        file.seek(8 * (row + 1))
        file.write((tokens + np.cumsum(lengths)).data)
        file.seek(8 * (rows + 1) + 4 * row)
        file.write(lengths.astype(np.int32).data)
        file.seek(8 * (rows + 1) + 4 * rows + 4 * tokens)
        file.write(np.ascontiguousarray(values).data)
        row, tokens = row + len(lengths), tokens + len(values)
    return tokens


def _mapped(path: Path, rows: int, facts: dict[str, Any]) -> Ragged:
    """Return what `_write` wrote.

    Raises:
        ValueError: the file is not as long as it should be.
    """
    tokens = facts["tokens"]
    data = np.memmap(path, np.uint8, "r")
    ends = np.cumsum([8 * (rows + 1), 4 * rows, 4 * tokens])
    if len(data) != ends[-1]:
        raise ValueError(f"{path}: {len(data)} bytes; expected {ends[-1]}")
    offsets, lengths, values = np.split(np.asarray(data), ends[:-1])
    known = (facts["digest"], {facts["unk_id"]: facts["unknown"]}) if "digest" in facts else None
    return Ragged([(values.view(np.int32), offsets.view(np.int64))], lengths.view(np.int32), known)


def encode_here(dataset: Dataset, column: str, encode: Encoder) -> Ragged:
    """Return the ids of a text column, in memory."""
    return _joined(_encoded(dataset, column, encode))


def _joined(parts: Iterable[tuple[NDArray[np.int32], NDArray[np.int64]]]) -> Ragged:
    values, lengths = zip(*parts, strict=True)
    return Ragged([(np.concatenate(values), np.append(0, np.cumsum(np.concatenate(lengths))))])


def _encoded(dataset: Dataset, column: str, encode: Encoder) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Return the ids of a few thousand rows, one row after the other, and how many each has."""
    return map(encode, column_arrays(dataset, column))


def column_arrays(dataset: Dataset, column: str) -> Iterator[Any]:
    """Yield a column as Arrow arrays of bounded size."""
    if dataset._indices is None:
        for chunk in dataset.data.column(column).chunks:
            rows = max(1, min(_ROWS, len(chunk) * _BYTES // max(chunk.nbytes, 1)))
            for start in range(0, len(chunk), rows):
                yield chunk.slice(start, rows)
    else:
        for table in dataset.with_format("arrow").iter(1000):
            yield from table.column(column).chunks


class Encoder:
    """Many texts to ids: `Tokenizer.encode`, by arrays.

    Args:
        tokenizer: says what the ids are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stretches = _Stretches(tokenizer.bare())

    def __call__(self, texts: Any) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Encode.

        Args:
            texts: (N,) an Arrow array of strings.

        Returns:
            the ids of all texts, one after the other, and the number (N,) of each.
        """
        import pyarrow.compute as pc

        if not self._tokenizer.separable or texts.nbytes > 4 * _BYTES:
            rows = Ragged.from_lists(self._tokenizer.encode(texts.to_pylist()))
            return rows.take(np.arange(len(rows)))[0], rows.lengths.astype(np.int64)
        cut = pc.split_pattern(texts, " ")
        borders = cut.offsets.to_numpy()
        distinct = cut.values.dictionary_encode()
        numbers = distinct.indices.to_numpy()
        values, starts, sizes = self._stretches(distinct.dictionary.to_pylist())
        starts, sizes = starts[numbers], sizes[numbers]
        # An empty stretch is a space mark within a text, but no token of an empty text.
        sizes[borders[:-1][pc.binary_length(texts).to_numpy() == 0]] = 0
        ends = np.append(0, np.cumsum(sizes))
        return self._bordered(values[stretches(starts, sizes)], np.diff(ends[borders]))

    def _bordered(
        self, values: NDArray[np.int32], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Cut to the longest that is allowed, and put <bos> and <eos> around each text."""
        config = self._tokenizer.config
        before, added = int(config.add_bos), int(config.add_bos) + int(config.add_eos)
        if config.max_length is not None:
            kept = np.minimum(lengths, config.max_length - added)
            starts = np.cumsum(lengths) - lengths + {"start": np.zeros_like(kept), "end": lengths - kept}[config.keep]
            values, lengths = values[stretches(starts, kept)], kept
        if not added:
            return values, lengths
        ends = np.cumsum(lengths + added)
        starts = ends - lengths - added
        whole = np.empty(len(values) + added * len(lengths), np.int32)
        whole[stretches(starts + before, lengths)] = values
        if config.add_bos:
            whole[starts] = self._tokenizer.bos_id
        if config.add_eos:
            whole[ends - 1] = self._tokenizer.eos_id
        return whole, lengths + added


class _Stretches:
    """The ids of stretches of text without a space, remembered from call to call."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._values = np.zeros(0, np.int32)
        self._ends = np.zeros(1, np.int64)
        self._characters = 0

    def __call__(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Return an array of ids, and for each of the (N,) texts where its ids begin there and how many they are."""
        if self._characters > _REMEMBERED:
            self._forget()
        fresh = [text for text in texts if text not in self._numbers]
        if fresh:
            self._numbers.update((text, number) for number, text in enumerate(fresh, len(self._numbers)))
            self._characters += sum(map(len, fresh)) + _OVERHEAD * len(fresh)
            # Between two spaces: the tokenizer writes a mark for each space, and none before nothing.
            rows = self._tokenizer.encode([text or " " for text in fresh])
            ids = Ragged.from_lists(
                [row if text else row[: len(row) // 2] for text, row in zip(fresh, rows, strict=True)]
            )
            self._values = np.concatenate([self._values, ids.take(np.arange(len(ids)))[0]])
            self._ends = np.append(self._ends, self._ends[-1] + np.cumsum(ids.lengths, dtype=np.int64))
        numbers = np.fromiter(map(self._numbers.__getitem__, texts), np.int64, len(texts))
        return self._values, self._ends[numbers], self._ends[numbers + 1] - self._ends[numbers]
