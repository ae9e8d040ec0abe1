"""The next tokens: the best continuations of a beam, and random draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.decoding.step import precise

_CHUNK = 64
# Steps for which a sentence's random numbers are drawn at a time.
_BLOCK = 64


def best_continuations(log_probs: Tensor, sums: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the K best of all J * V continuations of each sentence.

    Args:
        log_probs: (B, J, V), -inf for what is not allowed.
        sums: (B, J) score of each hypothesis so far, -inf: none.
        width: K.

    Returns:
        scores (B, K) in descending order, parents (B, K) and tokens (B, K) int64; where there are fewer than K
        continuations, the rest has -inf, parent 0 and token 0.
    """
    scores, places = best_places(log_probs, sums, width)
    if log_probs.size(1) == 1:
        return scores, torch.zeros_like(places), places
    parents = places.div(log_probs.size(2), rounding_mode="floor")
    return scores, parents, places - parents * log_probs.size(2)


def best_places(log_probs: Tensor, sums: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return `best_continuations` with parent and token in one number, parent * V + token.

    In a large vocabulary only the K chunks of 64 tokens with the highest maxima are looked at: they hold the K best.

    Returns:
        scores (B, K) and places (B, K) int64; where there are fewer, -inf and place 0.
    """
    batch, slots, size = log_probs.shape
    if width == slots == 1:  # greedy; argmax is three times as fast as max, which gives both
        tokens = log_probs.argmax(2)
        scores = log_probs.view(batch, size).gather(1, tokens) + sums
        return scores, tokens.masked_fill(scores == -torch.inf, 0)
    if width * _CHUNK * 4 > slots * size:
        totals = (log_probs + sums.unsqueeze(2)).flatten(1)  # (B, J * V)
        scores, places = totals.topk(min(width, totals.size(1)), dim=1)
    else:
        scores, places = _best_of_chunks(log_probs, sums, width)
    if missing := width - scores.size(1):
        scores = torch.cat([scores, scores.new_full((batch, missing), -torch.inf)], dim=1)
        places = torch.cat([places, places.new_zeros(batch, missing)], dim=1)
    return scores, places


def _best_of_chunks(log_probs: Tensor, sums: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """`best_places` of a vocabulary so large that there are K chunks."""
    batch, slots, size = log_probs.shape
    chunks, whole = -(-size // _CHUNK), size // _CHUNK
    maxima = log_probs[:, :, : whole * _CHUNK].view(batch, slots, whole, _CHUNK).amax(3)
    if whole < chunks:
        maxima = torch.cat([maxima, log_probs[:, :, whole * _CHUNK :].amax(2, keepdim=True)], dim=2)
    chosen = (maxima + sums.unsqueeze(2)).flatten(1).topk(width, dim=1, sorted=False).indices  # (B, K) of J * C
    rows = chosen.div(chunks, rounding_mode="floor")
    ids = (chosen - rows * chunks).mul_(_CHUNK).unsqueeze(2) + torch.arange(_CHUNK, device=sums.device)  # (B, K, 64)
    outside = ids >= size
    ids.clamp_(max=size - 1)
    places = (ids + rows.unsqueeze(2) * size).flatten(1)
    totals = log_probs.flatten(1).gather(1, places).view_as(ids) + sums.gather(1, rows).unsqueeze(2)
    scores, at = totals.masked_fill_(outside, -torch.inf).flatten(1).topk(width, dim=1)
    return scores, places.gather(1, at)


class Draws:
    """Random numbers of a sentence that do not depend on the batch it is in: a generator for each.

    Args:
        seeds: B of them, one for each sentence.
        width: K, samples of a sentence.
        device: where the numbers are wanted; they are drawn on the CPU, so that all devices agree.
    """

    def __init__(self, seeds: Sequence[int], width: int, device: torch.device) -> None:
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._width = width
        self._device = device
        self._block = torch.empty(0)

    def __call__(self, step: int, rows: Tensor) -> Tensor:
        """Numbers in [0, 1), (b, K) in the dtype of `precise`, for step 0, 1, 2, ... in turn.

        Args:
            step: its number.
            rows: (b,) int64, the sentences still at work.
        """
        if step % _BLOCK == 0:
            block = torch.empty(len(self._generators), _BLOCK, self._width, dtype=torch.float64, device="cpu")
            for own, generator in zip(block, self._generators, strict=True):
                torch.rand(own.shape, generator=generator, out=own, device="cpu")
            if precise(self._device) == torch.float32:
                block = block.float().clamp_(max=1 - 2**-24)  # rounded to 1 it would lie past every token
            block = block.pin_memory() if self._device.type == "cuda" else block
            self._block = block.to(self._device, non_blocking=True)
        return self._block[:, step % _BLOCK].index_select(0, rows)


def draw(log_probs: Tensor, uniform: Tensor, *, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Draw one token from each distribution, by inversion of its cumulative sum.

    The scores are divided by the temperature, cut to the `top_k` highest (Fan et al. 2018; 0: all), then to the fewest
    tokens that hold the share `top_p` of the probability (Holtzman et al. 2020, eq. 2 and 3), and normalised.

    Args:
        log_probs: (B, K, V), normalised or not; -inf for what is not allowed.
        uniform: (B, K) in [0, 1), in the dtype of `precise`.

    Returns:
        (B, K) int64.
    """
    scores, ids = log_probs.to(precise(log_probs.device)) / temperature, None
    if top_k or top_p < 1:
        scores, ids = scores.topk(min(top_k or scores.size(2), scores.size(2)), dim=2)
    weights = torch.softmax(scores, dim=2)
    if top_p < 1:
        before = weights.cumsum(2) - weights
        weights = weights.masked_fill(before >= top_p, 0.0)
    sums = weights.cumsum(2)
    # right=True: the first sum above the number, so that a token without weight is never met.
    place = torch.searchsorted(sums, (uniform * sums[:, :, -1]).unsqueeze(2), right=True).clamp_(max=sums.size(2) - 1)
    return (place if ids is None else ids.gather(2, place)).squeeze(2)
