"""The one loop: ask the model, collect what is complete, choose what goes on, drop what is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from seqkit.decoding.backpointers import History, Hypothesis, Pool, gather
from seqkit.decoding.constraints import Beam, Constraint, force
from seqkit.decoding.penalties import LengthPenaltyKind, coverage_penalty, length_penalty
from seqkit.decoding.selection import Draws, best_continuations, draw
from seqkit.decoding.step import StepFunction, Tree, reorder, select

# Sentences that are done leave the batch once they are this share of it: a copy of the memory is not free.
_COMPACT_AT = 0.125


@dataclass(frozen=True)
class Rules:
    """Settings of a search that the loop needs; see `Search`."""

    width: int
    n_best: int
    length_penalty: float
    length_penalty_kind: LengthPenaltyKind
    coverage_penalty: float
    constraints: Sequence[Constraint]  # those that look at each step
    words: Sequence[str]
    temperature: float
    top_k: int
    top_p: float
    banned: Tensor  # ids that are never chosen, <eos> among them: it is looked at by itself
    eos_id: int
    keep_attention: bool
    highest: int  # of all ids that are banned or in a prefix
    free_from: int  # the step from which no sentence is too short to end
    first_limit: int  # the step at which the first of them must


@dataclass
class Front:
    """The sentences still at work, b of B, with K hypotheses each; every tensor has b rows."""

    rows: Tensor  # (b,) int64, which of the B
    tokens: Tensor  # (b, K) int64, the last ones
    state: Tree
    memory: Tree
    shortest: Tensor  # (b,) int64
    longest: Tensor  # (b,) int64
    divisor: Tensor  # (b,) length penalty at the greatest length
    prefix: Tensor | None  # (b, P) int64, -1: free
    lengths: Tensor  # (b,) int64 of the sources
    sums: Tensor | None = None  # (b, K) log-probability of each hypothesis; -inf: none
    coverage: Tensor | None = None  # (b, K, S) attention so far
    past: Tensor | None = None  # (b, K, T) int64 tokens so far, from when a constraint asks for them

    def keep(self, rows: Tensor) -> None:
        """Drop all sentences but these."""
        for field in fields(self):
            setattr(self, field.name, select(getattr(self, field.name), rows))

    def reorder(self, parents: Tensor) -> None:
        """Let every hypothesis go on from its parent, (b, K) int64."""
        self.state, self.coverage, self.past = reorder((self.state, self.coverage, self.past), parents)


class Loop:
    """A search over one batch.

    Args:
        step: the model.
        front: its start, with one hypothesis a sentence (`width` of them for sampling).
        rules: the settings.
        draws: random numbers, for sampling.
    """

    def __init__(self, step: StepFunction, front: Front, rules: Rules, draws: Draws | None) -> None:
        self.history = History(len(front.rows))
        self.complete: Pool
        self.cut: Pool
        self._step, self._front, self._rules, self._draws = step, front, rules, draws
        self._buffer: Tensor | None = None
        self._counts = torch.zeros_like(front.rows)  # complete hypotheses of each sentence
        # A question to another device waits for it, so that there is one a step, and what is spared elsewhere by asking
        # is done without.
        self._asks = front.rows.device.type == "cpu"

    def run(self) -> None:
        """Search until every sentence is done: at its maximum length at the latest."""
        time = 0
        while self._take(time):
            time += 1

    def _take(self, time: int) -> bool:
        """Take a step; return whether a sentence is still at work."""
        log_probs, last = self._ask(time)
        self._sample(time, log_probs, last) if self._draws is not None else self._extend(time, log_probs, last)
        return len(self._front.rows) > 0

    def result(self, lengths: list[int]) -> list[list[Hypothesis]]:
        """Return the hypotheses of each sentence, whose sources have these lengths; see `gather`."""
        return gather(self.history, self.complete, self.cut, self._rules.n_best, lengths)

    def _ask(self, time: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities (b, J, V) of what may go on, without <eos>, and those (b, J) of <eos>."""
        front, rules = self._front, self._rules
        logits, front.state, attention = self._step(front.tokens, front.state, front.memory)
        if time == 0:
            self._first(logits, attention)
        log_probs = self._normalise(logits)
        self._begin(attention if rules.keep_attention else None)
        if rules.coverage_penalty:
            assert attention is not None
            self._covered = attention if front.coverage is None else front.coverage + attention
        column = log_probs[:, :, rules.eos_id]
        end = column.clone()
        wanted = front.prefix[:, time] if front.prefix is not None and time < front.prefix.size(1) else None
        if wanted is not None:
            at = wanted.clamp(min=0).view(-1, 1, 1).expand(-1, log_probs.size(1), 1)
            values = log_probs.gather(2, at).squeeze(2)
        log_probs.index_fill_(2, rules.banned, -torch.inf)
        last = end
        if rules.constraints:
            column.copy_(end)
            beam = Beam(time, front.rows, front.lengths, rules.words, rules.eos_id, lambda: self._past(time))
            for constraint in rules.constraints:
                constraint(log_probs, beam)
            last = column.clone()
            column.fill_(-torch.inf)
        if time < rules.free_from:
            last = last.masked_fill((time < front.shortest).unsqueeze(1), -torch.inf)
        if last is not end and not (self._asks and torch.equal(last, end)):
            # Where nothing else is allowed, <eos> is, however short.
            last = torch.where(log_probs.amax(2) == -torch.inf, end, last)
        if wanted is not None:
            force(log_probs, wanted, values)
            last.masked_fill_((wanted >= 0).unsqueeze(1), -torch.inf)
        return log_probs, last

    def _begin(self, attention: Tensor | None) -> None:
        """A step has been asked for, with attention (b, J, S), or None."""
        self.history.begin(self._front.rows, attention)

    def _past(self, time: int) -> Tensor:
        """Return the tokens (b, J, time) of all hypotheses, which are kept from the first call on."""
        front = self._front
        if front.past is None:
            batch, slots = front.tokens.shape
            front.past = front.tokens.new_empty(batch, slots, 0)
            if time:
                slot = torch.arange(slots, device=front.rows.device).repeat(batch)
                rows = front.rows.repeat_interleave(slots)
                front.past = self.history.trace(rows, torch.full_like(rows, time), slot)[0].view(batch, slots, time)
        return front.past

    def _first(self, logits: Tensor, attention: Tensor | None) -> None:
        """Check what the first step gave and lay out what needs its type and size."""
        front, rules = self._front, self._rules
        if logits.dim() != 3 or logits.shape[:2] != front.tokens.shape:
            raise ValueError(f"step: logits must be {(*front.tokens.shape, 'V')}, got {tuple(logits.shape)}")
        size = logits.size(2)
        if rules.highest >= size:
            raise ValueError(f"token {rules.highest} is not in the vocabulary of {size} that the step function scores")
        if rules.coverage_penalty and attention is None:
            raise ValueError("coverage_penalty: the step function gives no attention")
        self._dtype = logits.dtype if logits.dtype == torch.float64 else torch.float32
        front.sums = logits.new_zeros(front.tokens.shape, dtype=self._dtype)
        front.divisor = front.divisor.to(self._dtype)
        self._open(front.sums)

    def _open(self, sums: Tensor) -> None:
        """Lay out what collects the hypotheses; `sums` gives dtype and device of their scores."""
        self.complete, self.cut = (Pool(len(self._front.rows), self._rules.n_best, sums) for _ in range(2))

    def _normalise(self, logits: Tensor) -> Tensor:
        """Log-probabilities in a buffer of their own, which lasts until the next step."""
        if self._buffer is None or self._buffer.numel() < logits.numel():
            # Fresh pages for each step would cost as much as the arithmetic.
            self._buffer = logits.new_empty(logits.numel() * self._rules.width // logits.size(1), dtype=self._dtype)
        out = self._buffer[: logits.numel()].view(logits.shape)
        return torch.log_softmax(logits.to(self._dtype), -1, out=out)

    def _extend(self, time: int, log_probs: Tensor, last: Tensor) -> None:
        """Take a step of beam search.

        The K best continuations go on, <eos> not among them. A hypothesis is complete when its <eos> is among the K
        best with <eos> counted. A sentence is done with K complete ones, or when none can still be among the n best.
        """
        front, width = self._front, self._rules.width
        assert front.sums is not None
        sums, parents, tokens = best_continuations(log_probs, front.sums, width)
        ends = front.sums + last
        least = torch.cat([sums, ends], dim=1).topk(width, dim=1).values[:, -1:]
        done = self._collect(time, (ends >= least) & (ends > -torch.inf), ends, last)
        # Log-probabilities are at most 0 and the penalties grow with the length, so that nothing which goes on from a
        # sum can score higher than that sum over the greatest penalty; coverage only takes away.
        worst = self.complete.scores[front.rows, -1]
        done |= ~(sums[:, 0] / front.divisor > worst) | (self._counts[front.rows] >= width)
        places = parents * log_probs.size(2) + tokens
        chosen = log_probs.flatten(1).gather(1, places)
        self._advance(done, parents if last.size(1) > 1 or width > 1 else None, tokens, chosen, sums)

    def _sample(self, time: int, log_probs: Tensor, last: Tensor) -> None:
        """Take a step of sampling: every slot goes its own way until it draws <eos>."""
        front, rules = self._front, self._rules
        assert front.sums is not None
        assert self._draws is not None
        log_probs[:, :, rules.eos_id] = last
        uniform = self._draws(time, front.rows)
        tokens = draw(log_probs, uniform, temperature=rules.temperature, top_k=rules.top_k, top_p=rules.top_p)
        ended = (tokens == rules.eos_id) & (front.sums > -torch.inf)
        done = self._collect(time, ended, front.sums + last, last)
        chosen = log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2)
        sums = (front.sums + chosen).masked_fill(ended, -torch.inf)
        self._advance(done | ~(sums.amax(1) > -torch.inf), None, tokens, chosen, sums)

    def _collect(self, time: int, ended: Tensor, ends: Tensor, last: Tensor) -> Tensor:
        """Take in the hypotheses (b, J) that end here; which sentences (b,) are at their maximum length."""
        front = self._front
        assert front.sums is not None
        if not self._asks or bool(ended.any()):
            scores = self._score(ends, time + 1, self._covered if self._rules.coverage_penalty else None)
            self.complete.add(front.rows, time, scores.masked_fill(~ended, -torch.inf), last)
            self._counts[front.rows] += ended.sum(1)
        full = front.longest <= time
        if time >= self._rules.first_limit and (not self._asks or bool(full.any())):
            scores = self._score(front.sums, time, front.coverage)
            self.cut.add(front.rows, time, scores.masked_fill(ended | ~full.unsqueeze(1), -torch.inf), last)
        return full

    def _score(self, sums: Tensor, length: int, coverage: Tensor | None) -> Tensor:
        rules = self._rules
        scores = sums / length_penalty(length, rules.length_penalty, rules.length_penalty_kind)
        if coverage is not None:
            scores = scores + rules.coverage_penalty * coverage_penalty(coverage, self._front.lengths)
        return scores

    def _advance(self, done: Tensor, parents: Tensor | None, tokens: Tensor, chosen: Tensor, sums: Tensor) -> None:
        """Set the front on the tokens chosen, without the sentences that are done once they are many."""
        front = self._front
        finished, parents = self._read(done, parents)
        self.history.end(parents, tokens, chosen)
        front.tokens = tokens
        if self._rules.coverage_penalty:
            front.coverage = self._covered
        # No more of these: without a hypothesis of finite score a sentence stays done.
        front.sums = sums.masked_fill(done.unsqueeze(1), -torch.inf) if finished else sums
        if finished and finished >= _COMPACT_AT * len(done):
            rows = done.int().argsort(stable=True)[: len(done) - finished]  # those that are not done, in their order
            front.keep(rows)
            parents = None if parents is None else parents[rows]
            tokens = front.tokens
        if parents is not None and len(parents):
            front.reorder(parents)
        if front.past is not None and len(tokens):
            front.past = torch.cat([front.past, tokens.unsqueeze(2)], dim=2)

    def _read(self, done: Tensor, parents: Tensor | None) -> tuple[int, Tensor | None]:
        """Read, once, how many sentences are done; give the parents too, or None where each slot goes on by itself."""
        if parents is None or self._front.tokens.size(1) != parents.size(1):
            return int(done.sum()), parents
        moved = (parents != torch.arange(parents.size(1), device=parents.device)).sum()
        finished, moves = torch.stack([done.sum(), moved]).tolist()
        return finished, parents if moves else None
