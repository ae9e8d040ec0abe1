"""A text as one long stream of tokens, cut into parallel streams that are read on window by window.

For a model that carries its state from batch to batch: row b of a window goes on where row b of the one before ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from seqkit.config import Section
from seqkit.data.batching import Ragged

# Of the variable length of windows (Merity et al. 2017, section 4.1): deviation, and the shortest that is drawn.
_DEVIATION = 5.0
_SHORTEST = 5
_FULL = 0.95


class StreamConfig(Section):
    """How a text is cut into batches of continuous streams."""

    batch_size: int = Field(default=20, gt=0)
    """Number of streams that are read side by side; the text is cut into as many equal parts."""
    bptt: int = Field(default=70, gt=0)
    """Number of tokens of each stream in a batch, over which gradients reach back; the state is carried further."""
    variable_bptt: bool = True
    """Draw the length of each batch at random (Merity et al. 2017, section 4.1), so that batches begin elsewhere in
    every epoch: about bptt, and half of it once in 20 times."""
    shuffle: bool = False
    """Shuffle the lines in every epoch: for lines that do not belong together."""
    eval_batch_size: int = Field(default=1, gt=0)
    """Number of streams in which dev and test are read. 1 is exact; more are faster, but the model begins each stream
    without the text before it."""


class TokenStream:
    """Lines of token ids as one text, each line followed by <eos>; lines without a token are left out.

    Ids stay where they lie (see `Ragged`); only what is read is copied.

    Args:
        ids: of N lines.
        eos_id: what follows each line, and stands before the first.
        order: (N,) the order of the lines; None: as they stand.
    """

    def __init__(self, ids: Ragged, eos_id: int, order: NDArray[np.int64] | None = None) -> None:
        self._ids, self._eos = ids, eos_id
        lengths = ids.lengths if order is None else ids.lengths[order]
        kept = np.flatnonzero(lengths)
        self._rows = kept if order is None else order[kept]
        self._ends = np.cumsum(lengths[kept], dtype=np.int64) + np.arange(1, len(kept) + 1)

    def __len__(self) -> int:
        """Tokens, each line's <eos> counted."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, first: int, count: int) -> NDArray[np.int64]:
        """(count,) tokens from number `first` on; number -1 is the <eos> that stands before the text."""
        found = np.full(count, self._eos, np.int64)
        place = 1 if first < 0 else 0
        first = max(first, 0)
        row = int(np.searchsorted(self._ends, first, side="right"))
        skip = first - (int(self._ends[row - 1]) if row else 0)
        while place < count:
            tokens = self._ids[int(self._rows[row])]
            part = tokens[skip : skip + count - place]
            found[place : place + len(part)] = part
            place += len(tokens) - skip + 1
            row, skip = row + 1, 0
        return found

    def window(self, streams: int, first: int, count: int, rows: Sequence[int] | None = None) -> NDArray[np.int64]:
        """Return a window of parallel streams, each `len(self) // streams` tokens long; what is left at the end is not
        read.

        Args:
            streams: B.
            first: where in each stream the window begins.
            count: T.
            rows: the numbers of the streams to read, where not all.

        Returns:
            (B, T + 1): the token before the window, and its T tokens. Inputs are all but the last, targets all but the
            first.
        """
        length = len(self) // streams
        chosen = range(streams) if rows is None else rows
        return np.stack([self.read(row * length + first - 1, count + 1) for row in chosen])


def plan_windows(length: int, bptt: int, *, seed: int | None = None, epoch: int = 0) -> list[NDArray[np.int64]]:
    """Return the windows of one epoch over streams of `length` tokens.

    Args:
        length: of each stream.
        bptt: of each window; the last one has what is left.
        seed: draw the lengths, by (seed, epoch): from a normal distribution around bptt with probability 0.95 and
            around bptt / 2 otherwise, with a deviation of 5 (at most a quarter of bptt) and never below 5 (Merity et
            al. 2017, section 4.1). All are then stretched alike by so little that they fill the streams exactly, and
            every epoch has the same number of them; None: all are `bptt` long.

    Returns:
        arrays (first, count) that cover every token of the streams once.
    """
    if seed is None:
        borders = np.append(np.arange(0, length, bptt), length)
    else:
        generator = np.random.default_rng([seed, epoch, bptt])
        count = max(1, round(length / (bptt * (_FULL + (1 - _FULL) / 2))))
        middles = np.where(generator.random(count) < _FULL, bptt, bptt / 2)
        drawn = np.maximum(generator.normal(middles, min(_DEVIATION, bptt / 4)), min(_SHORTEST, bptt))
        ends = np.cumsum(drawn)
        borders = np.unique(np.append(0, np.round(ends * (length / ends[-1]))).astype(np.int64))
    return [np.array([first, end - first], np.int64) for first, end in itertools.pairwise(borders.tolist())]
