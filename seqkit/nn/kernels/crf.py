"""Sums and maxima over all label sequences of a chain: what a conditional random field is computed with.

The sum runs in float64 on probabilities, scaled at each step: a matrix product a step instead of a logarithm of
K x K exponentials a sequence. Where scores lie so far apart that a probability underflows, it runs again on logarithms,
which is slower and exact whatever the scores. On devices other than the CPU it runs on logarithms from the start:
asking whether something has underflowed would wait for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqkit.nn.checks import batched, recorded, tracing
from seqkit.nn.kernels.autograd import through_graph
from seqkit.nn.kernels.packing import steps_within
from seqkit.nn.sending import send

# A scaled probability below this may have lost digits.
_SMALLEST = 1e-290


class Chain(NamedTuple):
    """Scores in float64, time first.

    Attributes:
        emissions: (T, B, K), 0 on padding.
        transitions: (K, K) from row to column; -inf: impossible.
        start, end: (K,).
        valid: (T, B, 1) bool, False on padding.
    """

    emissions: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor
    valid: Tensor


class Posterior(NamedTuple):
    """Expected counts, that is derivatives of the log partition: tags (T, B, K), and over the whole batch those of
    transitions (K, K), start (K,) and end (K,)."""

    tags: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor


@dataclass
class _Scaled:
    """The forward pass on probabilities.

    Attributes:
        factors: (T, B, K) exp(emission - the largest of its step).
        move: (K, K) exp(transition - the largest).
        alphas: (T, B, K) forward probabilities, each step divided by `totals` (T, B, 1).
        last: (B, K) alphas of each sequence's last step times exp(end), divided by their sum `ending` (B, 1).
        log_partition: (B,).
    """

    chain: Chain
    factors: Tensor
    move: Tensor
    leave: Tensor
    alphas: Tensor
    totals: Tensor
    ending: Tensor
    last: Tensor
    log_partition: Tensor

    @classmethod
    def run(cls, chain: Chain) -> _Scaled:
        peaks = chain.emissions.amax(2, keepdim=True)  # (T, B, 1)
        factors = torch.exp(chain.emissions - peaks)
        tops = [part.max() for part in (chain.start, chain.transitions, chain.end)]
        enter, move, leave = (
            torch.exp(part - top) for part, top in zip((chain.start, chain.transitions, chain.end), tops, strict=True)
        )
        alpha = enter * factors[0]
        total = alpha.sum(1, keepdim=True)
        alpha = alpha / total
        alphas, totals = [alpha], [total]
        for factor, valid in zip(factors[1:].unbind(), chain.valid[1:].unbind(), strict=True):
            moved = torch.mm(alpha, move).mul_(factor)
            total = moved.sum(1, keepdim=True)
            alpha = torch.where(valid, moved.div_(total), alpha)
            alphas.append(alpha)
            totals.append(total)
        last = alpha * leave
        ending = torch.where(chain.valid[0], last.sum(1, keepdim=True), 1.0)
        scales = torch.stack(totals)
        steps = chain.valid.sum(0)  # (B, 1)
        scores = torch.where(chain.valid, scales.log() + peaks, 0.0).sum(0) + (steps - 1) * tops[1]
        total = torch.where(steps > 0, scores + ending.log() + tops[0] + tops[2], 0.0)
        return cls(chain, factors, move, leave, torch.stack(alphas), scales, ending, last / ending, total.squeeze(1))

    def exact(self) -> bool:
        """Return whether nothing that can be reached has underflowed."""
        small = (self.alphas < _SMALLEST) & reachable(self.chain).unsqueeze(1) & self.chain.valid
        return bool(~small.any() & self.log_partition.isfinite().all())

    def posterior(self, weights: Tensor) -> Posterior:
        valid, count = self.chain.valid, len(self.factors)
        beta = self.leave / self.ending  # (B, K): alpha times beta adds up to 1 at each step
        betas, pulls = [beta], []
        for step in range(count - 1, 0, -1):
            pull = torch.where(valid[step], self.factors[step] * beta / self.totals[step], 0.0)
            beta = torch.where(valid[step], torch.mm(pull, self.move.T), beta)
            betas.append(beta)
            pulls.append(pull)
        tags = self.alphas * torch.stack(betas[::-1]) * weights
        if pulls:
            pulled = (torch.stack(pulls[::-1]) * weights).flatten(0, 1)
            pairs = self.move * (self.alphas[:-1].flatten(0, 1).T @ pulled)
        else:
            pairs = torch.zeros_like(self.move)
        return Posterior(tags * valid, pairs, tags[0].sum(0), (self.last * weights).sum(0))


@dataclass
class _Logarithms:
    """The same on logarithms."""

    chain: Chain
    alphas: Tensor
    last: Tensor
    log_partition: Tensor

    @classmethod
    def run(cls, chain: Chain) -> _Logarithms:
        alpha = chain.start + chain.emissions[0]
        alphas = [alpha]
        for emission, valid in zip(chain.emissions[1:].unbind(), chain.valid[1:].unbind(), strict=True):
            moved = torch.logsumexp(alpha.unsqueeze(2) + chain.transitions, 1) + emission
            alpha = torch.where(valid, moved, alpha)
            alphas.append(alpha)
        last = alpha + chain.end
        total = torch.where(chain.valid[0].squeeze(1), torch.logsumexp(last, 1), 0.0)
        return cls(chain, torch.stack(alphas), last, total)

    def posterior(self, weights: Tensor) -> Posterior:
        chain = self.chain
        total = self.log_partition.unsqueeze(1)
        pairs = torch.zeros_like(chain.transitions)
        beta = chain.end.expand_as(self.last)
        betas = [beta]
        for step in range(len(self.alphas) - 1, 0, -1):
            ahead = chain.transitions + (chain.emissions[step] + beta).unsqueeze(1)  # (B, K, K)
            shares = self.alphas[step - 1].unsqueeze(2) + ahead - total.unsqueeze(2)
            shares = torch.where(chain.valid[step].unsqueeze(2), shares, -torch.inf).exp()
            pairs += (shares * weights.unsqueeze(2)).sum(0)
            beta = torch.where(chain.valid[step], torch.logsumexp(ahead, 2), beta)
            betas.append(beta)
        # Scores of steps that do not exist are no logarithms of probabilities: exp of them may overflow.
        logs = torch.where(chain.valid, self.alphas + torch.stack(betas[::-1]) - total, -torch.inf)
        tags = logs.exp() * weights
        ends = torch.where(chain.valid[0], self.last - total, -torch.inf).exp() * weights
        return Posterior(tags, pairs, tags[0].sum(0), ends.sum(0))


def reachable(chain: Chain) -> Tensor:
    """(T, K) bool: which tags some legal beginning leads to."""
    here = chain.start > -torch.inf
    reached = [here]
    allowed = (chain.transitions > -torch.inf).to(chain.transitions.dtype)
    while len(reached) < len(chain.emissions):
        ahead = (here.to(allowed.dtype) @ allowed) > 0
        if torch.equal(here, ahead):  # it stays so from here on
            reached += [here] * (len(chain.emissions) - len(reached))
            break
        reached.append(ahead)
        here = ahead
    return torch.stack(reached)


def time_first(emissions: Tensor, lengths: Tensor, *scores: Tensor) -> Chain:
    """Return emissions (B, T, K) and lengths (B,) as a `Chain` without a graph; see `differentiable_chain`."""
    return differentiable_chain(emissions.detach(), lengths, *(score.detach() for score in scores))


def differentiable_chain(emissions: Tensor, lengths: Tensor, *scores: Tensor) -> Chain:
    """Return emissions (B, T, K) and lengths (B,) as a `Chain`; `scores` are transitions, start and end."""
    turned = emissions.transpose(0, 1).double()
    valid = steps_within(lengths, turned)
    transitions, start, end = (score.double() for score in scores)
    return Chain(torch.where(valid, turned, 0.0), transitions, start, end, valid)


def sum_paths(chain: Chain) -> _Scaled | _Logarithms:
    """Run the forward pass: `log_partition` of the result is (B,), its `posterior(weights)` takes weights (B, 1)."""
    if chain.emissions.device.type != "cpu" or tracing() or torch.compiler.is_compiling():
        return _Logarithms.run(chain)
    scaled = _Scaled.run(chain)
    return scaled if scaled.exact() else _Logarithms.run(chain)


# Stands for an impossible score where derivatives are taken: exp(it) is 0, and it makes no NaN as infinity does.
_IMPOSSIBLE = -1e30


def finite(*scores: Tensor) -> list[Tensor]:
    """Return scores in float64, with impossible ones large and negative instead of minus infinity."""
    return [score.double().clamp(min=_IMPOSSIBLE) for score in scores]


def closing(alpha: Tensor, end: Tensor, some: Tensor) -> Tensor:
    """Sum the last step's `finite` scores (..., K) to the log partition (...); `some`: the sequence has a step."""
    total = torch.logsumexp(alpha + end, -1)
    # No legal path: minus infinity, as the other roads have it.
    total = torch.where(total > 0.5 * _IMPOSSIBLE, total, -torch.inf)
    return torch.where(some, total, 0.0)


def differentiable_log_partition(
    emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor
) -> Tensor:
    """Compute the log partition (B,) under autograd, for derivatives of any order and `torch.func`.

    Takes the arguments of `LogPartition`. Slower, and it keeps (B, K, K) terms for every step.
    """
    steps = torch.arange(emissions.size(1), device=emissions.device)
    valid = (steps < send(lengths, emissions.device).unsqueeze(-1)).unsqueeze(-1)  # (B, T, 1)
    scores = torch.where(valid, emissions, 0.0).double().unbind(-2)
    transitions, start, end = finite(transitions, start, end)
    alpha = start + scores[0]
    for step in range(1, len(scores)):
        moved = torch.logsumexp(alpha.unsqueeze(-1) + transitions, -2) + scores[step]
        alpha = torch.where(valid[..., step, :], moved, alpha)
    return closing(alpha, end, valid[..., 0, 0])


class LogPartition(torch.autograd.Function):
    """Emissions (B, T, K), transitions (K, K), start and end (K,), lengths (B,) -> log partition (B,) float64.

    The derivative is the forward-backward algorithm (Rabiner 1989, eq. 37). Where it must itself be differentiable
    (`create_graph=True`), or comes for many output gradients at once, it comes from `differentiable_log_partition`.
    """

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor
    ) -> Tensor:
        paths = sum_paths(time_first(emissions, lengths, transitions, start, end))
        ctx.paths, ctx.types = paths, (emissions.dtype, transitions.dtype)
        ctx.save_for_backward(emissions, transitions, start, end, lengths)  # read for second derivatives only
        return paths.log_partition.clone()  # a function that held its own output would never be freed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or batched(grad):
            *scores, lengths = ctx.saved_tensors

            def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
                emissions, transitions, start, end = inputs
                return (differentiable_log_partition(emissions, transitions, start, end, lengths),)

            return *through_graph(run, scores, ctx.needs_input_grad[:4], [grad]), None
        paths = ctx.paths
        counts = paths.posterior((grad * paths.chain.valid[0].squeeze(1)).unsqueeze(1))
        emission_type, parameter_type = ctx.types
        return (
            counts.tags.transpose(0, 1).to(emission_type),
            counts.transitions.to(parameter_type),
            counts.start.to(parameter_type),
            counts.end.to(parameter_type),
            None,
        )


def best_path(
    emissions: Tensor, lengths: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the most probable sequence of each chain (Viterbi 1967).

    Args:
        emissions: (B, T, K).
        lengths: (B,) integers, 0 allowed.
        transitions: (K, K) from row to column; -inf: impossible.
        start, end: (K,).

    Returns:
        tags (B, T) int64, 0 on padding; their score (B,), 0 for an empty sequence.
    """
    chain = time_first(emissions, lengths, transitions, start, end)
    # Where nothing is padding, as in a single sentence, nothing need be put back.
    full = emissions.device.type == "cpu" and not recorded() and bool(chain.valid.all())
    score = chain.start + chain.emissions[0]
    scores = [score]
    for emission, valid in zip(chain.emissions[1:].unbind(), chain.valid[1:].unbind(), strict=True):
        moved = (score.unsqueeze(2) + chain.transitions).amax(1).add_(emission)
        score = moved if full else torch.where(valid, moved, score)
        scores.append(score)
    best, tag = (score + chain.end).max(1)
    # Only the best path is followed back, so that the K x K comparisons above need not say where they came from.
    before, flags = chain.transitions.T.contiguous(), chain.valid.squeeze(2)
    path = [tag]
    for step in range(len(scores) - 1, 0, -1):
        came = (scores[step - 1] + before.index_select(0, tag)).argmax(1)
        tag = came if full else torch.where(flags[step], came, tag)
        path.append(tag)
    tags = torch.stack(path[::-1])
    return torch.where(flags, tags, 0).T.contiguous(), torch.where(flags[0], best, 0.0)
