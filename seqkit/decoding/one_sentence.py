"""The search of a single sentence: what `Loop` keeps in tensors for many of them is numbers and lists here."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from seqkit.decoding.backpointers import Hypothesis, NoFiniteScoreError
from seqkit.decoding.beam import Front, Loop, Rules
from seqkit.decoding.selection import best_places
from seqkit.decoding.step import StepFunction


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

    A small tensor costs as much as a thousand multiplications, so that a step reads what it needs in two transfers and
    decides in Python. Sums and scores are still rounded where `Loop` rounds them: hypotheses are the same.

    Args:
        step: the model.
        front: its start, with one hypothesis.
        rules: the settings.
    """

    def __init__(self, step: StepFunction, front: Front, rules: Rules) -> None:
        super().__init__(step, front, rules, None)
        self._steps: list[tuple[list[int], list[int], list[float]]] = []  # parents, tokens, log-probabilities
        self._attention: list[Tensor] = []  # (J, S), in the order of the slots before each step
        self._finished: list[_End] = []  # the best n that are complete, in descending order
        self._stopped: list[_End] = []  # those cut at the maximum length
        self._number = 0  # of complete hypotheses, better or worse
        self._done = False

    def _take(self, time: int) -> bool:
        self._extend(time, *self._ask(time))
        return not self._done

    def _open(self, sums: Tensor) -> None:
        """There is nothing to lay out."""

    def _begin(self, attention: Tensor | None) -> None:
        if attention is not None:
            self._attention.append(attention[0])

    def _past(self, time: int) -> Tensor:
        walks = [self._walk(time, slot)[0] for slot in range(self._front.tokens.size(1))]
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

    def _extend(self, time: int, log_probs: Tensor, last: Tensor) -> None:
        front, width, size = self._front, self._rules.width, log_probs.size(2)
        assert front.sums is not None
        sums, places = best_places(log_probs, front.sums, width)
        ends = front.sums + last
        chosen = log_probs.view(1, -1).gather(1, places)
        numbers: list[float] = torch.cat([sums, ends, chosen, last], dim=1)[0].tolist()
        slots = len(numbers) // 2 - width
        best, ending = numbers[:width], numbers[width : width + slots]
        least = sorted(numbers[: width + slots])[slots]
        ended = [slot for slot, value in enumerate(ending) if value >= least and value > -math.inf]
        if ended:
            self._collect_ends(time, ended, ends, numbers[-slots:])
        if time >= self._rules.first_limit:
            self._collect_cut(time, ended, front.sums)
            self._done = True
        # As in `Loop`: nothing that goes on from a sum can score higher than it over the greatest penalty.
        elif self._number >= width or not self._may_rank(best[0], sums):
            self._done = True
        else:
            parents, tokens = zip(*(divmod(place, size) for place in places[0].tolist()), strict=True)
            self._steps.append((list(parents), list(tokens), numbers[width + slots : -slots]))
            self._go_on(places, sums, slots)

    def _may_rank(self, best: float, sums: Tensor) -> bool:
        """Return whether what goes on, the best of it with the first sum, can come among the n best."""
        if len(self._finished) < self._rules.n_best:
            return best > -math.inf
        return bool((sums[0, 0] / self._front.divisor[0]).item() > self._finished[-1].score)

    def _go_on(self, places: Tensor, sums: Tensor, slots: int) -> None:
        """Set the front on the continuations that were chosen; before them there were `slots` hypotheses."""
        front, (parents, tokens, _) = self._front, self._steps[-1]
        front.tokens = places if slots == 1 else torch.tensor([tokens])
        front.sums = sums
        if self._rules.coverage_penalty:
            front.coverage = self._covered
        if len(parents) != slots or parents != list(range(slots)):
            front.reorder(torch.tensor([parents]))

    def _collect_ends(self, time: int, ended: list[int], ends: Tensor, last: list[float]) -> None:
        """Take in the hypotheses that end at a step, by their slots; see `Loop._extend`."""
        coverage = self._covered if self._rules.coverage_penalty else None
        scores: list[float] = self._score(ends, time + 1, coverage)[0].tolist()
        self._number += len(ended)
        self._finished += [_End(scores[slot], time, slot, last[slot]) for slot in ended if scores[slot] > -math.inf]
        self._finished = _best(self._finished, self._rules.n_best)

    def _collect_cut(self, time: int, ended: list[int], sums: Tensor) -> None:
        """Take in the hypotheses that have the greatest length and do not end."""
        scores: list[float] = self._score(sums, time, self._front.coverage)[0].tolist()
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


def _best(ends: list[_End], count: int) -> list[_End]:
    """Return the best of all, in descending order; of two that are equal the earlier one comes first."""
    return sorted(ends, key=lambda end: -end.score)[:count]
