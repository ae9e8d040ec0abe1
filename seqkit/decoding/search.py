"""The settings of a search, checked, and its one public call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from seqkit.decoding.backpointers import Hypothesis
from seqkit.decoding.beam import Front, Loop, Rules
from seqkit.decoding.checks import number, whole
from seqkit.decoding.constraints import (
    Constraint,
    MaxLength,
    MaxRatio,
    MinLength,
    MinRatio,
    NoRepeatNgram,
    NoUnknown,
    length_limits,
)
from seqkit.decoding.one_sentence import OneSentence
from seqkit.decoding.penalties import LengthPenaltyKind, length_penalty
from seqkit.decoding.selection import Draws
from seqkit.decoding.step import StepFunction, Tree, leaves, precise, reorder

WIDEST = 10_000
"""The greatest number of hypotheses side by side; each takes memory for scores of the whole vocabulary."""


class Search:
    """Decode over any step function: greedily (a beam of 1), by beam search or by sampling.

    In a beam, the K best hypotheses by the sum of their log-probabilities go on at each step, and one is complete when
    its <eos> is among the K best. A sentence is done with K complete hypotheses, or as soon as no hypothesis can still
    come among the `n_best`; these are ranked by sum / length penalty + coverage penalty. Only where there are fewer
    complete ones, those cut at the maximum length follow. Probabilities are the model's own, over the whole vocabulary,
    also where tokens are forbidden. A hypothesis that may not go on in any way (n-grams) may end, however short.

    Args:
        beam_size: hypotheses kept at each step, K; 1 is greedy decoding.
        n_best: hypotheses returned for a sentence, at most K; with `sample`, the number drawn.
        length_penalty: exponent of the length penalty, alpha: the score is divided by a penalty that grows with the
            length, so that higher values give longer outputs; 0: no penalty.
        length_penalty_kind: the length penalty of n tokens, <eos> counted. "gnmt": ((5 + n) / 6) ** alpha; "average":
            n ** alpha, the mean for an alpha of 1.
        coverage_penalty: factor of the penalty for source words hardly looked at, beta (Wu et al. 2016, eq. 14).
        min_length: fewest tokens, <eos> not counted.
        max_length: most tokens, <eos> not counted. Without it and `max_ratio`: 2 * source + 20.
        min_ratio: fewest tokens as a multiple of the source's length. Of two limits the stricter one holds, and the
            upper one where they contradict each other for a sentence.
        max_ratio: most tokens as a multiple of the source's length.
        no_repeat_ngram: no n-gram of this size occurs twice in a hypothesis (Paulus et al. 2018); 0: any may.
        sample: draw each token at random instead of searching.
        temperature: with `sample`: scores are divided by it; below 1 is safer, above 1 wilder.
        top_k: with `sample`: draw among the k most probable tokens (Fan et al. 2018); 0: all.
        top_p: with `sample`: draw among the fewest tokens that hold this share of the probability (Holtzman et al.
            2020).
        allow_unknown: whether the unknown word may be chosen.
        constraints: more rules that every hypothesis obeys.

    Raises:
        ValueError: a setting out of range, or settings that contradict each other.
    """

    def __init__(
        self,
        *,
        beam_size: int = 1,
        n_best: int = 1,
        length_penalty: float = 0.0,
        length_penalty_kind: LengthPenaltyKind = "gnmt",
        coverage_penalty: float = 0.0,
        min_length: int = 0,
        max_length: int | None = None,
        min_ratio: float = 0.0,
        max_ratio: float | None = None,
        no_repeat_ngram: int = 0,
        sample: bool = False,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        allow_unknown: bool = True,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self.beam_size = whole("beam_size", beam_size, 1, WIDEST)
        self.n_best = whole("n_best", n_best, 1, WIDEST)
        self.length_penalty = number("length_penalty", length_penalty, most=40)  # a power of the length, in floats
        self.length_penalty_kind = length_penalty_kind
        self.coverage_penalty = number("coverage_penalty", coverage_penalty, most=1e6)
        self.sample = bool(sample)
        self.temperature = number("temperature", temperature, above=True)
        self.top_k = whole("top_k", top_k, 0)
        self.top_p = number("top_p", top_p, above=True)
        self.constraints: list[Constraint] = [MinLength(min_length), MinRatio(min_ratio)]
        self.constraints += [] if max_length is None else [MaxLength(max_length)]
        self.constraints += [] if max_ratio is None else [MaxRatio(max_ratio)]
        self.constraints += [NoRepeatNgram(no_repeat_ngram)] if no_repeat_ngram else []
        self.constraints += [*([] if allow_unknown else [NoUnknown()]), *constraints]
        self._check(min_length, max_length, min_ratio, max_ratio)

    def _check(self, min_length: int, max_length: int | None, min_ratio: float, max_ratio: float | None) -> None:
        """Refuse arguments that contradict each other."""
        if self.length_penalty_kind not in get_args(LengthPenaltyKind):
            kinds = ", ".join(get_args(LengthPenaltyKind))
            raise ValueError(f"length_penalty_kind: must be one of {kinds}, got {self.length_penalty_kind!r}")
        if self.length_penalty_kind != "gnmt" and not self.length_penalty:
            raise ValueError(
                f"length_penalty_kind: {self.length_penalty_kind} needs a length_penalty above 0 (1 for the mean)"
            )
        if max_length is not None and min_length > max_length:
            raise ValueError(f"min_length: {min_length} is above max_length, {max_length}")
        if max_ratio is not None and min_ratio > max_ratio:
            raise ValueError(f"min_ratio: {float(min_ratio)} is above max_ratio, {float(max_ratio)}")
        if self.top_p > 1:
            raise ValueError(f"top_p: must be at most 1, got {self.top_p}")
        if self.sample and self.beam_size > 1:
            raise ValueError(f"beam_size: sampling has no beam (n_best is the number of samples), got {self.beam_size}")
        if not self.sample:
            for name, neutral in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
                if getattr(self, name) != neutral:
                    raise ValueError(f"{name}: applies to sampling only: set sample too")
            if self.n_best > self.beam_size:
                raise ValueError(f"n_best: {self.n_best} is above beam_size, {self.beam_size}")

    @torch.no_grad()
    def __call__(
        self,
        step: StepFunction,
        state: Tree,
        memory: Tree,
        *,
        source_lengths: Tensor,
        bos_id: int = 2,
        eos_id: int = 3,
        unk_id: int = 1,
        words: Sequence[str] = (),
        forbidden: Sequence[int] = (0, 2),
        prefix: Sequence[Sequence[int]] | None = None,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        keep_attention: bool = False,
    ) -> list[list[Hypothesis]]:
        """Decode a batch.

        Args:
            step: the model, a `StepFunction`.
            state: start of each sentence, leaves (B, 1, ...).
            memory: what its hypotheses share, leaves (B, ...).
            source_lengths: (B,) int64; the limits on the length follow them.
            bos_id: first token fed.
            eos_id: ends a hypothesis.
            unk_id: the unknown word, for `allow_unknown`.
            words: the vocabulary in the order of its ids, for constraints that look at words.
            forbidden: ids that are never chosen.
            prefix: tokens that each sentence's output must begin with; they may be any but `eos_id`, and count in all
                scores and lengths.
            seeds: a seed for each sentence, for sampling: its samples depend on that, on its probabilities and on
                `n_best`, and on nothing else in the batch.
            generator: gives the seeds where there are none, one after the other; without it, torch's global one.
            keep_attention: give each hypothesis its attention.

        Returns:
            for each sentence its `n_best` hypotheses, the best first; fewer where there are no more.

        Raises:
            ValueError: sizes that do not fit; a prefix that is impossible; a step function without a finite score.
        """
        batch = len(source_lengths)
        if batch == 0:
            return []
        banned = {*forbidden, *(token for one in self.constraints for token in one.forbidden(words, unk_id))}
        if eos_id in banned:
            raise ValueError(f"forbidden: must not hold eos_id {eos_id}: no output would end")
        _check_rows(state, memory, batch)
        device = next(leaves((state, memory)), source_lengths).device
        width = self.n_best if self.sample else self.beam_size
        draws = Draws(_seeds(seeds, generator, batch), width, device) if self.sample else None
        lengths = source_lengths.cpu()  # limits are computed there, and nothing asks the device for them again
        limits = self.limits(lengths)
        front = self._front(state, memory, lengths, limits, device, bos_id, prefix, eos_id)
        rules = self._rules({*banned, eos_id}, limits, prefix, eos_id, words, device, keep_attention)
        alone = batch == 1 and draws is None and device.type == "cpu"
        loop = OneSentence(step, front, rules) if alone else Loop(step, front, rules, draws)
        loop.run()
        return loop.result(lengths.tolist())

    def _rules(
        self,
        banned: set[int],
        limits: tuple[Tensor, Tensor],
        prefix: Sequence[Sequence[int]] | None,
        eos_id: int,
        words: Sequence[str],
        device: torch.device,
        keep_attention: bool,
    ) -> Rules:
        """Return how the loop chooses: never the ids in `banned`."""
        shortest, longest = limits
        constraints = [one for one in self.constraints if type(one).__call__ is not Constraint.__call__]
        return Rules(
            width=self.n_best if self.sample else self.beam_size,
            n_best=self.n_best,
            length_penalty=self.length_penalty,
            length_penalty_kind=self.length_penalty_kind,
            coverage_penalty=self.coverage_penalty,
            constraints=constraints,
            words=words,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            banned=torch.tensor(sorted(banned), device=device),
            eos_id=eos_id,
            keep_attention=keep_attention,
            highest=max([*banned, *(token for tokens in prefix or () for token in tokens)]),
            free_from=int(shortest.max()),
            first_limit=int(longest.min()),
        )

    def limits(self, source_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the limits on the number of tokens, <eos> not counted.

        Args:
            source_lengths: (B,) int64.

        Returns:
            fewest and most tokens, (B,) each.
        """
        return length_limits(source_lengths, self.constraints)

    def _front(
        self,
        state: Tree,
        memory: Tree,
        lengths: Tensor,
        limits: tuple[Tensor, Tensor],
        device: torch.device,
        bos_id: int,
        prefix: Sequence[Sequence[int]] | None,
        eos_id: int,
    ) -> Front:
        """Return all sentences at their start, on the device; lengths and limits (B,) are on the CPU."""
        batch, slots = len(lengths), self.n_best if self.sample else 1
        if slots > 1:
            state = reorder(state, torch.zeros(batch, slots, dtype=torch.int64, device=device))
        most = limits[1].tolist()
        largest = [length_penalty(n + 1, self.length_penalty, self.length_penalty_kind) for n in most]
        return Front(
            rows=torch.arange(batch, device=device),
            tokens=torch.full((batch, slots), bos_id, device=device),
            state=state,
            memory=memory,
            shortest=limits[0].to(device),
            longest=limits[1].to(device),
            divisor=torch.tensor(largest, dtype=precise(device), device=device),
            prefix=None if prefix is None else _prefix(prefix, most, eos_id, device),
            lengths=lengths.to(device),
        )


def _check_rows(state: Tree, memory: Tree, batch: int) -> None:
    for leaf in leaves(state):
        if leaf.shape[:2] != (batch, 1):
            raise ValueError(f"state: leaves must begin with {(batch, 1)}, got {tuple(leaf.shape)}")
    for leaf in leaves(memory):
        if leaf.shape[:1] != (batch,):
            raise ValueError(f"memory: leaves must begin with {batch}, got {tuple(leaf.shape)}")


def _seeds(seeds: Sequence[int] | None, generator: torch.Generator | None, batch: int) -> Sequence[int]:
    if seeds is None:
        device = None if generator is None else generator.device
        drawn: list[int] = torch.randint(2**62, (batch,), generator=generator, device=device).tolist()
        return drawn
    if generator is not None:
        raise ValueError("seeds: cannot be given together with a generator")
    if len(seeds) != batch:
        raise ValueError(f"seeds: {len(seeds)} for {batch} sentences")
    return seeds


def _prefix(
    prefix: Sequence[Sequence[int]], longest: Sequence[int], eos_id: int, device: torch.device
) -> Tensor | None:
    """(B, P) int64, -1 beyond each one's end; None where all are empty."""
    if len(prefix) != len(longest):
        raise ValueError(f"prefix: {len(prefix)} for {len(longest)} sentences")
    for row, (tokens, most) in enumerate(zip(prefix, longest, strict=True)):
        if len(tokens) > most:
            raise ValueError(f"prefix: sentence {row} has {len(tokens)} tokens of at most {most}")
        if any(token < 0 or token == eos_id for token in tokens):
            raise ValueError(f"prefix: sentence {row} holds <eos> or a negative id: {list(tokens)}")
    width = max(map(len, prefix))
    table = [[*tokens] + [-1] * (width - len(tokens)) for tokens in prefix]
    return torch.tensor(table, device=device) if width else None
