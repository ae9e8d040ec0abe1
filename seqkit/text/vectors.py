"""Pretrained word vectors from GloVe, word2vec-text and fastText-text files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import torch

from seqkit.errors import UserError, opening
from seqkit.files import LONGEST_LINE, read_lines
from seqkit.text.pipeline import SPECIAL_TOKENS

_LARGEST = float(np.finfo(np.float32).max)
_WIDEST = 1 << 16  # numbers in a vector; times the vocabulary it decides the memory

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """An embedding matrix for a vocabulary.

    Attributes:
        matrix: (V, E) float32, one row a token.
        found: number of tokens whose row comes from the file.
        coverage: `found` divided by the number of tokens that are not special, between 0 and 1.
        known: (V,) bool, which tokens these are.
    """

    matrix: torch.Tensor
    found: int
    coverage: float
    known: torch.Tensor

    @property
    def size(self) -> int:
        """Return E, the numbers in a vector."""
        return self.matrix.size(1)


def load_vectors(
    path: str | Path,
    vocabulary: Sequence[str],
    *,
    size: int | None = None,
    padding_index: int | None = 0,
    seed: int = 0,
    norm: float | None = None,
) -> Vectors:
    """Read the vectors of a vocabulary's words from a text file, plain or gzip.

    A line is a word and its numbers, separated by spaces; a first line `COUNT SIZE` is recognised. The file is read
    as a stream: memory holds the matrix and nothing else of it. A word that the file lacks takes the vector of its
    lower-case form; where a word comes twice the first one counts. Rows found in neither form are drawn from
    N(0, s^2), s being the standard deviation of the numbers found; the padding row is zero.

    Every line is checked for its width and its encoding, the lines of the vocabulary also for their numbers.

    Args:
        path: the file.
        vocabulary: V words in the order of their ids; one that comes twice has the same vector twice.
        size: E, if it is known; default: the file's.
        padding_index: the row of zeros, or None.
        seed: seed of the rows that are drawn.
        norm: scale every row but the padding to this Euclidean length; default: leave them as they are.

    Returns:
        the matrix, and which rows come from the file.

    Raises:
        UserError: the file is missing, empty, damaged, not UTF-8, of uneven or unexpected width, holds something
            that is not a finite number, or has no word of the vocabulary.
    """
    path = Path(path)
    matrix, found = _read(path, vocabulary, size, padding_index)
    if not found.any():
        raise UserError(f"{path}: holds none of the {len(vocabulary)} tokens of the vocabulary")
    missing = ~found
    if padding_index is not None:
        missing[padding_index] = False
    tensor = torch.from_numpy(matrix)
    deviation = float(matrix[found].std(dtype=np.float64))
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(int(missing.sum()), tensor.size(1), generator=generator, device="cpu") * deviation
    if not torch.isfinite(drawn).all():
        raise UserError(f"{path}: numbers with a standard deviation of {deviation:.3g} are not word vectors")
    tensor[torch.from_numpy(missing)] = drawn
    if norm is not None:
        tensor = torch.nn.functional.normalize(tensor, dim=1) * norm
    words = sum(token not in SPECIAL_TOKENS for token in vocabulary)
    return Vectors(tensor, int(found.sum()), float(found.sum()) / max(words, 1), torch.from_numpy(found))


def vector_words(path: str | Path) -> Iterator[str]:
    """Read the words of a vectors file.

    Args:
        path: a GloVe, word2vec or fastText text file, plain or gzip.

    Returns:
        the words in the order of the file, read one by one.

    Raises:
        UserError: the file cannot be read; see `load_vectors`.
    """
    return (word.decode() for _, word, _, _ in _rows(Path(path), None))


def _read(
    path: Path, vocabulary: Sequence[str], size: int | None, padding_index: int | None
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the matrix (V, E) with the rows that the file has, and which these are (V,)."""
    wanted, lowered = _wanted(vocabulary, padding_index)
    matrix: Floats | None = None
    exact = np.zeros(len(vocabulary), dtype=bool)
    lower = np.zeros(len(vocabulary), dtype=bool)
    for line, word, numbers, width in _rows(path, size):
        if matrix is None:
            matrix = np.zeros((len(vocabulary), width), dtype=np.float32)
        same = [index for index in wanted.get(word, ()) if not exact[index]]
        rows = [index for index in lowered.get(word, ()) if not exact[index] and not lower[index]]
        if not same and not rows:
            continue
        vector = _numbers(path, line, numbers)
        if same:
            matrix[same] = vector
            exact[same] = True
        if rows:
            matrix[rows] = vector
            lower[rows] = True
    if matrix is None:
        raise UserError(f"{path}: no vectors in this file")
    return matrix, exact | lower


def _wanted(
    vocabulary: Sequence[str], padding_index: int | None
) -> tuple[dict[bytes, list[int]], dict[bytes, list[int]]]:
    """Return rows by the word itself, and rows by its lower-case form where that is another word."""
    wanted: dict[bytes, list[int]] = {}
    lowered: dict[bytes, list[int]] = {}
    for index, token in enumerate(vocabulary):
        if index == padding_index or token in SPECIAL_TOKENS:
            continue
        wanted.setdefault(token.encode(), []).append(index)
        if token.lower() != token:
            lowered.setdefault(token.lower().encode(), []).append(index)
    return wanted, lowered


def _numbers(path: Path, line: int, fields: bytes) -> Floats:
    try:
        with np.errstate(over="ignore"):
            vector = np.array(fields.split(b" "), dtype=np.float32)
        if np.isfinite(vector).all():
            return vector
    except ValueError:
        pass
    bad = next(field for field in fields.split(b" ") if not _is_number(field))
    raise UserError(f"{path}:{line}: {bad.decode()!r} is not a finite number of 32 bits")


def _is_number(field: bytes) -> bool:
    try:
        return abs(float(field)) <= _LARGEST  # false for nan
    except ValueError:
        return False


def _rows(path: Path, size: int | None) -> Iterator[tuple[int, bytes, bytes, int]]:
    """(line number, word, the numbers joined by spaces, width) of every line."""
    with _open(path) as file:
        width = 0
        announced: int | None = None
        count = 0
        try:
            for line, raw in enumerate(read_lines(file), 1):
                if len(raw) > LONGEST_LINE:
                    raise UserError(f"{path}:{line}: a line of more than {LONGEST_LINE:,} bytes")
                text = raw.rstrip(b" \t\r\n")
                if line == 1:
                    text = text.removeprefix(b"\xef\xbb\xbf")
                if not raw.isascii():
                    _check_utf8(path, line, raw)
                if b"\t" in text:
                    text = text.replace(b"\t", b" ")
                fields = text.count(b" ")
                if line == 1 and fields == 1 and all(part.isdigit() and len(part) < 19 for part in text.split(b" ")):
                    announced, width = (int(part) for part in text.split(b" "))
                    _check_size(path, line, width, size)
                    continue
                if not width:
                    width = fields
                    _check_size(path, line, width, size)
                if fields == width:
                    word, _, numbers = text.partition(b" ")
                else:
                    word, numbers = _odd(path, line, text, width)
                count += 1
                yield line, word, numbers, width
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: damaged gzip file after line {count} ({error})") from None
        if announced is not None and count != announced:
            raise UserError(f"{path}: the first line announces {announced} vectors, the file holds {count}")


def _check_size(path: Path, line: int, width: int, size: int | None) -> None:
    if width < 1:
        raise UserError(f"{path}:{line}: expected a word and its numbers, separated by spaces")
    if width > _WIDEST:
        raise UserError(f"{path}:{line}: vectors of {width:,} numbers; the most is {_WIDEST:,}")
    if size is not None and width != size:
        raise UserError(f"{path}:{line}: vectors of {width} numbers; expected {size}")


def _check_utf8(path: Path, line: int, raw: bytes) -> None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{line}: not UTF-8 text (byte {raw[error.start]:#04x} at position {error.start}); "
            "expected vectors as text, not word2vec's binary format"
        ) from None


def _odd(path: Path, line: int, text: bytes, width: int) -> tuple[bytes, bytes]:
    """Return word and numbers of a line with more fields, whose word has spaces in it (glove.840B has some)."""
    fields = text.split(b" ")
    extra = len(fields) - 1 - width
    if extra > 0 and not any(_is_number(field) for field in fields[1 : 1 + extra]):
        return b" ".join(fields[: 1 + extra]), b" ".join(fields[1 + extra :])
    raise UserError(f"{path}:{line}: {len(fields) - 1} numbers; expected {width}, as on the lines before")


def _open(path: Path) -> IO[bytes]:
    with opening(path, "a file of vectors"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: this is a pipe, a device or a socket; expected a file of vectors")
        with path.open("rb") as file:
            magic = file.read(2)
        if not magic:
            raise UserError(f"{path}: the file is empty")
        return cast(IO[bytes], gzip.open(path, "rb") if magic == b"\x1f\x8b" else path.open("rb"))
