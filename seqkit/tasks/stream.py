"""Predictions for a text that is still being written: what has been read is not read again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from seqkit.errors import UserError
from seqkit.models.encoder import Encoder
from seqkit.text import take_texts

T = TypeVar("T")
P = TypeVar("P")
# Characters without a space after which a text is taken to be written without any, and how many of them may change yet.
_UNBROKEN, _OPEN = 64, 32


class Stream(ABC, Generic[P]):
    """A text that grows at its end, and the prediction for what is there.

    After `end`, and after any `feed`, the prediction is what `predict` says of the whole text so far, but for rounding
    (about 1e-6).

    Attributes:
        text: what has been fed so far.
    """

    def __init__(self) -> None:
        self.text = ""
        self._ended = False

    @torch.no_grad()
    def feed(self, more: str | Iterable[str]) -> P:
        """Add to the text.

        Args:
            more: text, which may break off inside a word; or words, which get a space between them.

        Returns:
            the prediction so far. It may change with what follows.

        Raises:
            ValueError: the stream has ended; see `seqkit.text.take_texts`. TypeError: neither text nor words.
        """
        if self._ended:
            raise ValueError("this stream has ended; stream() begins another")
        self.add(more)
        return self.predict(final=False)

    @torch.no_grad()
    def end(self) -> P:
        """Return the prediction for the whole text; nothing can be fed from here on."""
        self._ended = True
        return self.predict(final=True)

    def add(self, more: str | Iterable[str]) -> None:
        """Add text, or words."""
        if isinstance(more, str):
            self.text = take_texts([self.text + more])[0]
            return
        if words := take_texts(more, "more"):
            space = " " if self.text and not self.text[-1].isspace() else ""
            self.text += space + " ".join(words)

    @abstractmethod
    def predict(self, *, final: bool) -> P:
        """Return the prediction for `text`, which is whole where it is `final`."""

    def settled(self, items: Sequence[T], split: Callable[[str], Sequence[T]]) -> int:
        """Return how many of the first tokens will stay whatever follows, as far as one can tell.

        Args:
            items: the tokens of `text`.
            split: makes tokens of a text.
        """
        text = self.text
        place = len(text)
        while place and not text[place - 1].isspace() and len(text) - place <= _UNBROKEN:
            place -= 1
        if len(text) - place > _UNBROKEN:
            place = len(text) - _OPEN
        return common(items, split(text[:place])) if place else 0


def common(first: Sequence[T], second: Sequence[T]) -> int:
    """Return how many items at the start of both are equal."""
    most = min(len(first), len(second))
    return next((place for place in range(most) if first[place] != second[place]), most)


class Growing(Generic[T]):
    """What a model computes for each token of a sequence that grows at its end; what has settled is read once.

    Args:
        read: from tokens and the state before them to something for each, (1, T, ...), and the state after.
        carried: false reads everything again where anything has changed, as both directions of an encoder must.
    """

    def __init__(self, read: Callable[[Sequence[T], Any], tuple[Tensor, Any]], *, carried: bool = True) -> None:
        self._read, self._carried = read, carried
        self._kept: list[T] = []
        self._outputs: list[Tensor] = []
        self._state: Any = None

    def __call__(self, items: Sequence[T], settled: int) -> tuple[Tensor, Any]:
        """Return what was computed for all tokens, (1, T, ...), and the state after the last.

        Args:
            items: all tokens so far, one or more.
            settled: how many of them will stay; where one does not after all, everything is read again.
        """
        settled = settled if self._carried else 0
        if common(items, self._kept) < len(self._kept):
            self._kept, self._outputs, self._state = [], [], None
        fresh = items[len(self._kept) : settled]
        if len(fresh):
            output, self._state = self._read(fresh, self._state)
            self._outputs = [torch.cat([*self._outputs, output], 1)]
            self._kept = list(items[:settled])
        rest = items[len(self._kept) :]
        if not len(rest):
            return self._outputs[0], self._state
        output, state = self._read(rest, self._state)
        return torch.cat([*self._outputs, output], 1), state


def reads_forward(encoder: Any) -> bool:
    """Return whether an encoder's outputs stay what they are when tokens follow."""
    return isinstance(encoder, Encoder) and not encoder.recurrent.bidirectional


def check_forward(encoder: Any) -> None:
    """Refuse an encoder that looks ahead.

    Raises:
        UserError: it does.
    """
    if not reads_forward(encoder):
        raise UserError(
            "the encoder reads each word together with those after it, so that new words change what came before: this "
            "run cannot stream (train with model.encoder.bidirectional=false, or call predict on each text)"
        )
