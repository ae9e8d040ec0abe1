"""The score of additive attention, v . tanh(q + k) for every pair of query and key, with a hand-derived backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkit.nn.checks import batched, recorded
from seqkit.nn.kernels.kernel import tanh_
from seqkit.nn.kernels.tuning import ADDITIVE_TERMS


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


def _blocks(query: Tensor, keys: Tensor) -> int:
    """Return how many queries a block takes."""
    return max(1, ADDITIVE_TERMS // max(1, keys.numel()))


def _terms(query: Tensor, keys: Tensor) -> Tensor:
    """Return tanh(query + keys) of a block: (B, q, S, A)."""
    total = query.unsqueeze(2) + keys.unsqueeze(1)
    return tanh_(total, total)


def _forward(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    step = _blocks(query, keys)
    if query.size(1) <= step:
        return _terms(query, keys) @ vector
    return torch.cat([_terms(part, keys) @ vector for part in torch.split(query, step, 1)], 1)


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
        step = _blocks(query, keys)
        for first in range(0, query.size(1), step):
            part = slice(first, first + step)
            terms, outer = _terms(query[:, part], keys), grad[:, part].contiguous()  # (B, q, S, A), (B, q, S)
            grad_vector += terms.flatten(0, 2).t() @ outer.flatten()
            # The derivative of tanh is 1 - tanh^2, and the sums of grad * 1 come in at the end, as does `vector`.
            squares = terms.square_()
            by_query = torch.bmm(outer.flatten(0, 1).unsqueeze(1), squares.flatten(0, 1))
            grad_query[:, part] = by_query.view_as(grad_query[:, part])
            squares *= outer.unsqueeze(-1)
            grad_keys += squares.squeeze(1) if squares.size(1) == 1 else squares.sum(1)
        grad_query = (grad.sum(2).unsqueeze(-1) - grad_query).mul_(vector)
        return grad_query, (grad.sum(1).unsqueeze(-1) - grad_keys).mul_(vector), grad_vector
