"""What a hypothesis may not do: be too short or too long, repeat itself, leave its prefix."""

from __future__ import annotations

import torch
from torch import Tensor


def length_limits(
    source_lengths: Tensor,
    *,
    min_length: int,
    max_length: int | None,
    min_ratio: float,
    max_ratio: float | None,
) -> tuple[Tensor, Tensor]:
    """Fewest and most tokens of each sentence, <eos> not counted.

    The stricter of the absolute limit and the ratio of the source's length holds (ratios rounded inwards). Without
    either upper limit it is 2 * source + 20, or the lower limit where that is above it. Where the two contradict each
    other for one sentence, the upper one wins; it is never below 1.

    Args:
        source_lengths: (B,) int64.

    Returns:
        two (B,) int64.
    """
    lengths = source_lengths.double()
    # Not exact products: 0.1 * 30 must not round up to 4.
    shortest = torch.ceil(lengths * min_ratio - 1e-9).long().clamp(min=min_length)
    if max_length is None and max_ratio is None:
        return shortest, torch.maximum(2 * source_lengths + 20, shortest)
    longest = torch.full_like(shortest, torch.iinfo(torch.int64).max if max_length is None else max_length)
    if max_ratio is not None:
        longest = torch.minimum(longest, torch.floor(lengths * max_ratio + 1e-9).long())
    longest = longest.clamp(min=1)
    return torch.minimum(shortest, longest), longest


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
