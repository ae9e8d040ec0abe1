"""The search of a single sentence: what `Loop` keeps in tensors for many of them is numbers and lists here."""

from __future__ import annotations

import ctypes
import math
from operator import attrgetter, itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from seqkit.decoding.backpointers import Hypothesis, NoFiniteScoreError
from seqkit.decoding.beam import Front, Loop, Rules
from seqkit.decoding.selection import best_places
from seqkit.decoding.step import StepFunction

# Scores of a step up to which the best of each hypothesis come from one call.
_FEW = 65_536

_Choice = tuple[list[int], list[int], list[float], list[float]]


class _End(NamedTuple):
    """Where a hypothesis ended.

    Attributes:
        score: what it is ranked by.
        step: at which it ended, the number of its tokens.
        slot: its slot in the beam then.
        last: log-probability of <eos>; None: it was cut.
    """

    score: float
    step: int
    slot: int
    last: float | None


class OneSentence(Loop):
    """The greedy and the beam search of `Loop` over a batch of one, on the CPU.

    A small tensor costs as much as a thousand multiplications, and more between two products that have driven
    everything else from the caches. So a step reads what it needs into Python, and decides there. Sums and scores are
    rounded where those of `Loop` are: hypotheses are the same.

    Args:
        step: the model.
        front: its start, with one hypothesis.
        rules: the settings.
    """

    def __init__(self, step: StepFunction, front: Front, rules: Rules) -> None:
        super().__init__(step, front, rules, None)
        self._steps: list[tuple[list[int], list[int], list[float]]] = []  # parents, tokens, log-probabilities
        self._attention: list[Tensor] = []  # (J, S), in the order of the slots before each step
        self._sums = [0.0]  # log-probability of each hypothesis; -inf: none
        self._finished: list[_End] = []  # the best n that are complete, in descending order
        self._stopped: list[_End] = []  # those cut at the maximum length
        self._number = 0  # of complete hypotheses, better or worse
        # From here on a step may choose any token but those that never are.
        self._free_from = rules.free_from if front.prefix is None else max(rules.free_from, front.prefix.size(1))
        self._plain = not (rules.constraints or rules.coverage_penalty)

    def _open(self, sums: Tensor) -> None:
        """There is nothing to lay out."""

    def _begin(self, attention: Tensor | None) -> None:
        if attention is not None:
            self._attention.append(attention[0])

    def _past(self, time: int) -> Tensor:
        walks = [self._walk(time, slot)[0] for slot in range(len(self._sums))]
        return torch.tensor([walks], dtype=torch.int64)

    def _walk(self, step: int, slot: int) -> tuple[list[int], list[float], list[int]]:
        """Return tokens and log-probabilities of the hypothesis in a slot before a step, and its slots up to then."""
        tokens, values, slots = [], [], [slot]
        for parents, chosen, log_probs in self._steps[:step][::-1]:
            tokens.append(chosen[slot])
            values.append(log_probs[slot])
            slot = parents[slot]
            slots.append(slot)
        return tokens[::-1], values[::-1], slots[::-1]

    def _scores(self, time: int) -> tuple[Tensor, list[float]]:
        """Return `_ask` without the dimension of sentences: log-probabilities (J, V), and those of <eos>."""
        front, rules = self._front, self._rules
        if time < self._free_from or not self._plain:
            log_probs, last = self._ask(time)
            return log_probs[0], last[0].tolist()
        logits, front.state, attention = self._step(front.tokens, front.state, front.memory)
        if time == 0:
            self._first(logits, attention)
        if rules.keep_attention:
            self._begin(attention)
        log_probs = torch.log_softmax(logits[0], 1, dtype=self._dtype)
        end: list[float] = log_probs.select(1, rules.eos_id).tolist()
        return log_probs.index_fill_(1, rules.banned, -math.inf), end

    def _take(self, time: int) -> bool:
        """See `Loop._extend`."""
        width, slots = self._rules.width, len(self._sums)
        log_probs, last = self._scores(time)
        ends = list(map(self._add, self._sums, last))
        parents, tokens, sums, chosen = self._best(log_probs) if slots > 1 or width > 1 else self._first_of(log_probs)
        values = sums + ends
        least = sorted(values, key=_rising if math.isnan(sum(values)) else None)[slots]
        ended = [slot for slot, value in enumerate(ends) if value >= least and value > -math.inf]
        if ended:
            self._collect_ends(time, ended, ends, last)
        if time >= self._rules.first_limit:
            self._collect_cut(time, ended)
            return False
        if self._number >= width or not self._may_rank(sums[0]):
            return False
        self._steps.append((parents, tokens, chosen))
        front = self._front
        front.tokens, self._sums = torch.tensor([tokens]), sums
        if self._rules.coverage_penalty:
            front.coverage = self._covered
        if parents != list(range(slots)):
            front.reorder(torch.tensor([parents]))
        return True

    def _add(self, total: float, value: float) -> float:
        """Return a sum as tensors have it."""
        return total + value if self._dtype is torch.float64 else ctypes.c_float(total + value).value

    def _first_of(self, log_probs: Tensor) -> _Choice:
        """`_best` of one hypothesis and a width of 1: greedy."""
        token = int(log_probs.argmax())
        value = log_probs.select(1, token).item()
        total = self._add(self._sums[0], value)
        return [0], [token if total > -math.inf else 0], [total], [value]

    def _best(self, log_probs: Tensor) -> _Choice:
        """Return the K best continuations, best first: parents, tokens, sums, and log-probabilities of the tokens; see
        `best_continuations`."""
        width, (slots, size) = self._rules.width, log_probs.shape
        if slots * size > _FEW or width > size:
            sums = log_probs.new_tensor([self._sums])
            scores, places = best_places(log_probs.unsqueeze(0), sums, width)
            found = [divmod(place, size) for place in places[0].tolist()]
            parents, tokens = ([one[part] for one in found] for part in range(2))
            return parents, tokens, scores[0].tolist(), log_probs.view(-1).take(places[0]).tolist()
        best, at = log_probs.topk(width, dim=1)
        pairs = zip(self._sums, best.tolist(), at.tolist(), strict=True)
        every = [
            (self._add(total, value), value, slot, token)
            for slot, (total, values, ids) in enumerate(pairs)
            for value, token in zip(values, ids, strict=True)
        ]
        lost = math.isnan(sum(map(itemgetter(0), every)))
        every.sort(key=(lambda one: _rising(one[0])) if lost else itemgetter(0), reverse=True)
        kept = [one if one[0] > -math.inf else (one[0], one[1], 0, 0) for one in every[:width]]
        parents, tokens = [one[2] for one in kept], [one[3] for one in kept]
        return parents, tokens, [one[0] for one in kept], [one[1] for one in kept]

    def _may_rank(self, best: float) -> bool:
        """Return whether what goes on, the best of it with this sum, can come among the n best."""
        if len(self._finished) < self._rules.n_best:
            return best > -math.inf
        bound = torch.tensor([best], dtype=self._dtype) / self._front.divisor
        return bool(bound.item() > self._finished[-1].score)

    def _rank(self, sums: list[float], length: int, coverage: Tensor | None) -> list[float]:
        scores: list[float] = self._score(torch.tensor([sums], dtype=self._dtype), length, coverage)[0].tolist()
        return scores

    def _collect_ends(self, time: int, ended: list[int], ends: list[float], last: list[float]) -> None:
        """Take in the hypotheses that end at a step, by their slots; see `Loop._extend`."""
        scores = self._rank(ends, time + 1, self._covered if self._rules.coverage_penalty else None)
        self._number += len(ended)
        self._finished += [_End(scores[slot], time, slot, last[slot]) for slot in ended if scores[slot] > -math.inf]
        self._finished = _best(self._finished, self._rules.n_best)

    def _collect_cut(self, time: int, ended: list[int]) -> None:
        """Take in the hypotheses that have the greatest length and do not end."""
        scores = self._rank(self._sums, time, self._front.coverage)
        left = [_End(score, time, slot, None) for slot, score in enumerate(scores) if slot not in ended]
        self._stopped = _best([one for one in left if one.score > -math.inf], self._rules.n_best)

    def result(self, lengths: list[int]) -> list[list[Hypothesis]]:
        ends = [*self._finished, *self._stopped][: self._rules.n_best]
        if not ends:
            raise NoFiniteScoreError("step: no hypothesis of sentence 0 has a finite score")
        return [[self._hypothesis(end, lengths[0]) for end in ends]]

    def _hypothesis(self, end: _End, length: int) -> Hypothesis:
        tokens, values, slots = self._walk(end.step, end.slot)
        if end.last is not None:
            values.append(end.last)
        weights = None
        if self._attention:
            rows = zip(self._attention, slots[: len(values)], strict=False)
            weights = torch.stack([attention[slot, :length] for attention, slot in rows])
        return Hypothesis(tokens, end.score, values, weights, end.last is not None)


def _rising(value: float) -> tuple[bool, float]:
    """Order values as `topk` does: NaN is the greatest, so that it ends a search."""
    return value != value, value


def _best(ends: list[_End], count: int) -> list[_End]:
    """Return the best of all, in descending order; of two that are equal the earlier one comes first."""
    return sorted(ends, key=attrgetter("score"), reverse=True)[:count]
