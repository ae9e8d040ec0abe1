"""The score of additive attention, v . tanh(q + k) for every pair of query and key, with a hand-derived backward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.checks import autocast_enabled, batched, recorded
from seqkit.nn.kernels.kernel import SLOPES, quick, reaches, tanh_
from seqkit.nn.kernels.tuning import ADDITIVE_FEW, ADDITIVE_TERMS, MIN_REACH


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """score[b, q, s] = sum over a of vector[a] * tanh(query[b, q, a] + keys[b, s, a]).

    The (B, Q, S, A) terms are made block by block; the backward pass makes them again.

    Args:
        query: (B, Q, A).
        keys: (B, S, A).
        vector: (A,).

    Returns:
        (B, Q, S).
    """
    # torch.func, forward-mode differentiation and compilers need operators that they know; complex derivatives are
    # others.
    if recorded() or query.is_complex():
        return torch.tanh(query.unsqueeze(2) + keys.unsqueeze(1)) @ vector
    if torch.is_grad_enabled() and (query.requires_grad or keys.requires_grad or vector.requires_grad):
        return AdditiveScores.apply(query, keys, vector)  # type: ignore[no-any-return, no-untyped-call]
    return _forward(query, keys, vector)


class _Terms:
    """The terms of all queries, block by block, in one buffer: tanh(q + k), or where that is faster s(2q + 2k).

    tanh(x) = 2 s(2x) - 1, s the sigmoid. It serves where some q or k is not small, see `tanh_`.

    Attributes:
        scale: 2 where a term is s(2q + 2k), 1 where it is tanh(q + k).
        dtype: of the terms; under autocast the scores may have another.
    """

    def __init__(self, query: Tensor, keys: Tensor) -> None:
        fast = quick(keys) and quick(query) and not autocast_enabled("cpu")
        self.scale = 2 if fast and (reaches(keys, MIN_REACH) or reaches(query, MIN_REACH)) else 1
        self._query, self._keys = query * self.scale, (keys * self.scale).unsqueeze(1)
        self._step = max(1, ADDITIVE_TERMS // max(1, keys.numel()))
        self.dtype = torch.promote_types(query.dtype, keys.dtype)
        self._buffer = keys.new_empty(min(self._step, query.size(1)) * keys.numel(), dtype=self.dtype)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the queries of each block, and its terms (B, q, S, A), which the next block overwrites."""
        for first in range(0, self._query.size(1), self._step):
            part = slice(first, first + self._step)
            query = self._query[:, part].unsqueeze(2)
            shape = (query.size(0), query.size(1), *self._keys.shape[2:])
            terms = torch.add(query, self._keys, out=self._buffer[: math.prod(shape)].view(shape))
            yield part, terms.sigmoid_() if self.scale == 2 else terms.tanh_()


def _forward(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    if query.size(1) * keys.numel() <= ADDITIVE_FEW:
        total = query.unsqueeze(2) + keys.unsqueeze(1)
        return tanh_(total, total) @ vector
    blocks = _Terms(query, keys)
    weights = vector * blocks.scale
    scores = torch.cat([terms @ weights for _, terms in blocks], 1)
    return scores.sub_(vector.sum()) if blocks.scale == 2 else scores


class AdditiveScores(torch.autograd.Function):
    """(query, keys, vector) -> scores; see `additive_scores`."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, vector)
        return _forward(query, keys, vector)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, vector = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(grad):  # what follows is itself differentiated, or vmapped
            terms, weighted = torch.tanh(query.unsqueeze(2) + keys.unsqueeze(1)), grad.unsqueeze(3)
            slopes = (1 - terms.square()) * vector * weighted
            return slopes.sum(2), slopes.sum(1), (terms * weighted).sum((0, 1, 2))
        grad_query, grad_keys, grad_vector = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(vector)
        blocks = _Terms(query, keys)
        grad = grad.to(blocks.dtype)
        for part, terms in blocks:
            outer = grad[:, part].contiguous().unsqueeze(-1)  # (B, q, S, 1)
            grad_vector += terms.flatten(0, 2).t() @ outer.flatten()
            # `vector` and the inner derivative are the same for all terms and come in at the end.
            if blocks.scale == 2:
                slopes = SLOPES["sigmoid"](outer.expand_as(terms), terms, terms)
                grad_query[:, part] = slopes.sum(2)
                grad_keys += slopes.squeeze(1) if slopes.size(1) == 1 else slopes.sum(1)
            else:
                # 1 - tanh^2 in two parts, as in `AdditiveReader`.
                squares = terms.square_().mul_(outer)
                grad_query[:, part] = outer.sum(2) - squares.sum(2)
                grad_keys += outer.sum(1) - squares.sum(1)
        if blocks.scale == 2:
            grad_vector = grad_vector.mul_(2).sub_(grad.sum())
        inner = blocks.scale**2 * vector
        return grad_query.mul_(inner), grad_keys.mul_(inner), grad_vector
