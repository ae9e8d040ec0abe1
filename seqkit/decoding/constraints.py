"""What a hypothesis may not do: be too short or too long, repeat itself, leave its prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.decoding.checks import number, whole

LONGEST = 1_000_000
"""The greatest limit on the number of tokens."""
UNLIMITED = torch.iinfo(torch.int64).max
"""The most tokens of a sentence that has no limit."""


@dataclass
class Beam:
    """The hypotheses whose next tokens are about to be chosen: b sentences still at work, K hypotheses each.

    Attributes:
        time: number of tokens of each hypothesis so far.
        rows: (b,) int64, which sentences of the batch these are.
        source_lengths: (b,) int64.
        words: the vocabulary in the order of its ids; empty where the caller of the search gave none.
        eos_id: ends a hypothesis.
        past: reads `tokens`, when they are asked for.
    """

    time: int
    rows: Tensor
    source_lengths: Tensor
    words: Sequence[str]
    eos_id: int
    past: Callable[[], Tensor]

    @property
    def tokens(self) -> Tensor:
        """(b, K, time) int64, the tokens of each hypothesis so far, a forced prefix included."""
        return self.past()


class Constraint:
    """A rule for all hypotheses, in greedy decoding, beam search and sampling.

    Derive from it and override one of its three methods, or more. One object serves many batches.
    """

    def forbidden(self, words: Sequence[str], unk_id: int) -> Iterable[int]:
        """Return ids that are never chosen; called once a batch, so that they cost nothing at a step.

        Args:
            words: the vocabulary in the order of its ids; empty where the caller of the search gave none.
            unk_id: the unknown word.
        """
        return ()

    def limits(self, fewest: Tensor, most: Tensor, source_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Narrow the limits on the number of tokens, <eos> not counted; called once a batch.

        Args:
            fewest, most: (B,) int64 on the CPU, the limits so far; `UNLIMITED`: none.
            source_lengths: (B,) int64 on the CPU.

        Returns:
            the new limits, both (B,) int64. Where they contradict each other for a sentence, the upper one wins.
        """
        return fewest, most

    def __call__(self, log_probs: Tensor, beam: Beam) -> None:
        """Set to -inf, in place, whatever may not come next; called once a step.

        A hypothesis to which the constraints leave no token may end.

        Args:
            log_probs: (b, K, V) of the next token, <eos> included.
            beam: the hypotheses.
        """


class MinLength(Constraint):
    """A fewest number of tokens.

    Args:
        length: the number, <eos> not counted.
    """

    def __init__(self, length: int) -> None:
        self.length = whole("min_length", length, 0, LONGEST)

    def limits(self, fewest: Tensor, most: Tensor, source_lengths: Tensor) -> tuple[Tensor, Tensor]:
        return fewest.clamp(min=self.length), most


class MaxLength(Constraint):
    """A greatest number of tokens.

    Args:
        length: the number, <eos> not counted.
    """

    def __init__(self, length: int) -> None:
        self.length = whole("max_length", length, 1, LONGEST)

    def limits(self, fewest: Tensor, most: Tensor, source_lengths: Tensor) -> tuple[Tensor, Tensor]:
        return fewest, most.clamp(max=self.length)


class MinRatio(Constraint):
    """A fewest number of tokens that grows with the source.

    Args:
        ratio: tokens for each token of the source; the product is rounded up.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = number("min_ratio", ratio, most=1000)

    def limits(self, fewest: Tensor, most: Tensor, source_lengths: Tensor) -> tuple[Tensor, Tensor]:
        # Not exact products: 0.1 * 30 must not round up to 4.
        return torch.maximum(fewest, torch.ceil(source_lengths.double() * self.ratio - 1e-9).long()), most


class MaxRatio(Constraint):
    """A greatest number of tokens that grows with the source.

    Args:
        ratio: tokens for each token of the source; the product is rounded down.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = number("max_ratio", ratio, above=True, most=1000)

    def limits(self, fewest: Tensor, most: Tensor, source_lengths: Tensor) -> tuple[Tensor, Tensor]:
        return fewest, torch.minimum(most, torch.floor(source_lengths.double() * self.ratio + 1e-9).long())


class NoRepeatNgram(Constraint):
    """No n-gram occurs twice in a hypothesis (Paulus et al. 2018, section 2.5).

    Args:
        size: n; 0: any may.
    """

    def __init__(self, size: int) -> None:
        self.size = whole("no_repeat_ngram", size, 0)

    def __call__(self, log_probs: Tensor, beam: Beam) -> None:
        if self.size:
            ban_repeats(log_probs, beam.tokens, self.size)


class NoUnknown(Constraint):
    """The unknown word is never chosen."""

    def forbidden(self, words: Sequence[str], unk_id: int) -> Iterable[int]:
        return (unk_id,)


CONSTRAINTS: dict[str, type[Constraint]] = {
    "min_length": MinLength,
    "max_length": MaxLength,
    "min_ratio": MinRatio,
    "max_ratio": MaxRatio,
    "no_repeat_ngram": NoRepeatNgram,
    "no_unknown": NoUnknown,
}
"""Constraints by name."""


def length_limits(source_lengths: Tensor, constraints: Iterable[Constraint]) -> tuple[Tensor, Tensor]:
    """Return the fewest and most tokens of each sentence, <eos> not counted.

    The strictest constraint holds. Without an upper limit it is 2 * source + 20, or the lower limit where that is above
    it. Where the two contradict each other for one sentence, the upper one wins; it is never below 1.

    Args:
        source_lengths: (B,) int64.
        constraints: of the search.

    Returns:
        two (B,) int64.
    """
    fewest, most = torch.zeros_like(source_lengths), torch.full_like(source_lengths, UNLIMITED)
    for constraint in constraints:
        fewest, most = constraint.limits(fewest, most, source_lengths)
    default = torch.maximum(2 * source_lengths + 20, fewest)
    most = torch.where(most == UNLIMITED, default, most.clamp(min=1))
    return torch.minimum(fewest, most), most


def ban_repeats(scores: Tensor, history: Tensor, size: int) -> None:
    """Set to -inf, in place, every token that would complete an n-gram which its hypothesis already holds.

    Args:
        scores: (B, K, V).
        history: (B, K, T) tokens so far.
        size: n.
    """
    steps = history.size(2)
    if steps < size:
        return
    ends = history[:, :, size - 1 :]  # (B, K, T - n + 1): the last token of each n-gram
    if size > 1:
        starts = history.unfold(2, size - 1, 1)  # (B, K, T - n + 2, n - 1); the last one is what goes on now
        same = (starts[:, :, :-1] == starts[:, :, -1:]).all(3)
        # An n-gram that does not match bans what some other token bans already, or puts back what it read.
        kept = scores.gather(2, ends)
        scores.scatter_reduce_(2, ends, torch.where(same, -torch.inf, kept), "amin")
    else:
        scores.scatter_(2, ends, -torch.inf)


def force(scores: Tensor, wanted: Tensor, values: Tensor) -> None:
    """Set all but one token to -inf, in place.

    Args:
        scores: (B, K, V).
        wanted: (B,) int64, the only token allowed to a sentence; below 0: it is free.
        values: (B, K) scores of the wanted tokens, which may be -inf in `scores`.
    """
    forced = (wanted >= 0).view(-1, 1, 1)
    at = wanted.clamp(min=0).view(-1, 1, 1).expand(-1, scores.size(1), 1)
    kept = torch.where(forced, values.unsqueeze(2), scores.gather(2, at))
    scores.masked_fill_(forced, -torch.inf).scatter_(2, at, kept)
