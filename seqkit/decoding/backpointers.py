"""Where hypotheses came from: back pointers of every step, walked once at the end; and the best that are complete."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class NoFiniteScoreError(ValueError):
    """The step function gave a sentence no finite score."""


@dataclass(frozen=True)
class Hypothesis:
    """One output for one sentence.

    Attributes:
        tokens: ids without <bos> and <eos>; a forced prefix is part of them.
        score: what the search ranks by: the sum of `log_probs` over the length penalty, plus the coverage penalty.
        log_probs: the model's natural log-probability of each token, and last of <eos> where `finished`; over the whole
            vocabulary and before any temperature.
        attention: (T, S) on the CPU, a row for each of `log_probs` and a column for each source token, or None.
        finished: ended in <eos>; False: cut at the maximum length.
    """

    tokens: list[int]
    score: float
    log_probs: list[float]
    attention: Tensor | None
    finished: bool


class Pool:
    """The N best complete hypotheses of each of B sentences.

    A hypothesis is named by the step at which it ended and by its slot in the beam then.

    Args:
        batch: B.
        size: N.
        like: gives dtype and device of the scores.
    """

    def __init__(self, batch: int, size: int, like: Tensor) -> None:
        self.scores = like.new_full((batch, size), -torch.inf)  # in descending order; -inf: none
        self.last = like.new_zeros(batch, size)  # log-probability of <eos>
        self.steps = torch.zeros(batch, size, dtype=torch.int64, device=like.device)
        self.slots = torch.zeros_like(self.steps)

    def add(self, rows: Tensor, step: int, scores: Tensor, last: Tensor) -> None:
        """Offer a hypothesis from every slot.

        Args:
            rows: (b,) int64 sentences.
            step: at which they ended, the number of their tokens.
            scores: (b, K); -inf: none.
            last: (b, K) log-probability of <eos>.
        """
        slots = torch.arange(scores.size(1), device=scores.device).expand(scores.shape)
        best, at = torch.cat([self.scores[rows], scores], dim=1).topk(self.scores.size(1), dim=1)
        self.scores[rows] = best
        for kept, new in ((self.last, last), (self.steps, torch.full_like(slots, step)), (self.slots, slots)):
            kept[rows] = torch.cat([kept[rows], new], dim=1).gather(1, at)


class History:
    """Parents, tokens and log-probabilities of each step, and attention where it is kept.

    Args:
        batch: B, the sentences at the start.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._rows: Tensor | None = None
        self._positions: list[Tensor] = []  # of each step: sentence -> its row then
        self._steps: list[tuple[Tensor | None, Tensor, Tensor]] = []
        self._attention: list[Tensor] = []

    def begin(self, rows: Tensor, attention: Tensor | None) -> None:
        """A step of sentences `rows` (b,), with attention (b, J, S) in the order of the slots before it, or None."""
        if rows is self._rows:
            self._positions.append(self._positions[-1])
        else:
            self._rows = rows
            position = torch.zeros(self._batch, dtype=torch.int64, device=rows.device)
            position[rows] = torch.arange(len(rows), device=rows.device)
            self._positions.append(position)
        if attention is not None:
            self._attention.append(attention)

    def end(self, parents: Tensor | None, tokens: Tensor, log_probs: Tensor) -> None:
        """The same step's choice (b, K): parents (None: each slot goes on by itself), tokens, log-probabilities."""
        self._steps.append((parents, tokens, log_probs))

    def trace(self, sentences: Tensor, ends: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Walk back from the ends of F hypotheses.

        Args:
            sentences: (F,) int64.
            ends: (F,) int64, the step at which each ended, and so the number of its tokens.
            slots: (F,) int64, where each stood then.

        Returns:
            tokens (F, T) int64 and log_probs (F, T), valid up to `ends`; attention (F, T + 1, S), valid up to the step
            of <eos>, or None.
        """
        longest = int(ends.max())
        tokens, log_probs, attention = [], [], []
        for time in range(longest, -1, -1):
            rows = self._positions[time][sentences]
            if time < longest:
                parents, chosen, scores = self._steps[time]
                tokens.append(chosen[rows, slots])
                log_probs.append(scores[rows, slots])
                if parents is not None:
                    slots = torch.where(time < ends, parents[rows, slots], slots)
            if self._attention:
                attention.append(self._attention[time][rows, slots])
        if not tokens:
            none = ends.new_zeros(len(ends), 0)
            return none, none.to(torch.float32), attention[0].unsqueeze(1) if attention else None
        whole = torch.stack(attention[::-1], dim=1) if attention else None
        return torch.stack(tokens[::-1], dim=1), torch.stack(log_probs[::-1], dim=1), whole


def gather(history: History, complete: Pool, cut: Pool, n_best: int, lengths: list[int]) -> list[list[Hypothesis]]:
    """Return the hypotheses of each sentence, best first: those that are complete, then those that were cut.

    Args:
        history: of the search.
        complete: hypotheses that ended in <eos>.
        cut: hypotheses cut at the maximum length.
        n_best: most of a sentence.
        lengths: of the sources.

    Raises:
        NoFiniteScoreError: a sentence has none, which only a step function without a finite score brings about.
    """
    scores = torch.cat([complete.scores, cut.scores], dim=1)
    table = scores.tolist()
    size = complete.scores.size(1)
    places = []
    for row, values in enumerate(table):
        found = [(row, place) for place, value in enumerate(values) if value > -torch.inf][:n_best]
        if not found:
            raise NoFiniteScoreError(f"step: no hypothesis of sentence {row} has a finite score")
        places += found
    rows, ranks = torch.tensor(places, device=scores.device).T
    ends, slots, last = (
        torch.cat([getattr(complete, name), getattr(cut, name)], dim=1)[rows, ranks]
        for name in ("steps", "slots", "last")
    )
    tokens, log_probs, attention = history.trace(rows, ends, slots)
    token_rows, log_prob_rows = tokens.tolist(), log_probs.tolist()
    last_values, counts = last.tolist(), ends.tolist()
    weights = None if attention is None else attention.cpu()
    result: list[list[Hypothesis]] = [[] for _ in lengths]
    for number, (row, rank) in enumerate(places):
        count, finished = counts[number], rank < size
        values = log_prob_rows[number][:count] + ([last_values[number]] if finished else [])
        own = None if weights is None else weights[number, : len(values), : lengths[row]].clone()
        result[row].append(Hypothesis(token_rows[number][:count], table[row][rank], values, own, finished))
    return result
