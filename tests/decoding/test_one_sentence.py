"""One sentence goes the short way: it gives what the same sentence gives in a batch, bit for bit."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqkit.decoding import NoFiniteScoreError, Search, one_sentence
from seqkit.decoding.one_sentence import OneSentence

PENALTIES = [
    {},
    {"length_penalty": 0.8},
    {"length_penalty": 1.0, "length_penalty_kind": "average"},
    {"length_penalty": 1.2, "coverage_penalty": 0.5},
]
LIMITS = [
    {"max_length": 9},
    {"max_length": 6, "min_length": 3},
    {"max_length": 3, "min_length": 3},
    {"max_ratio": 1.5, "min_ratio": 0.5},
    {"max_length": 8, "no_repeat_ngram": 1},
    {"max_length": 10, "no_repeat_ngram": 2, "allow_unknown": False},
]


class Table:
    """Scores that depend on all tokens so far and are looked up, so that the batch around a row cannot change them."""

    def __init__(self, seed: int, words: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(997, words, generator=generator, dtype=dtype)
        self.weights = torch.rand(997, 4, generator=generator, dtype=dtype).softmax(1)

    def step(self, tokens, state, memory):
        state = (state * 31 + tokens + memory.unsqueeze(1)) % 997
        return self.logits[state], state, self.weights[state]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(PENALTIES),
    st.sampled_from(LIMITS),
    st.integers(1, 9),
    st.sampled_from([7, 70, 1500]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([[], [5], [6, 1, 4]]),
    st.sampled_from([0, 65_536]),
)
@example(8, {}, LIMITS[2], 3, 7, torch.float32, [], 65_536)  # some end where the others are cut
def test_a_sentence_alone_is_that_sentence_in_a_batch(
    seed, penalties, limits, width, words, dtype, prefix, few
) -> None:
    table, keep = Table(seed, words, dtype), seed % 3 > 0
    search = Search(beam_size=width, n_best=1 + seed % width, **penalties, **limits)

    def decode(batch: int):
        lengths = torch.full((batch,), 2 + seed % 3)
        state, memory = torch.full((batch, 1), seed % 997), torch.full((batch,), seed % 5)
        starts = [prefix] * batch
        return search(table.step, state, memory, source_lengths=lengths, prefix=starts, keep_attention=keep)

    with patch.object(one_sentence, "_FEW", few):
        (alone,), (first, second) = decode(1), decode(2)
    for found, wanted, again in zip(alone, first, second, strict=True):
        assert (found.tokens, found.score, found.log_probs, found.finished) == (
            wanted.tokens,
            wanted.score,
            wanted.log_probs,
            wanted.finished,
        )
        assert torch.equal(found.attention, wanted.attention) if keep else found.attention is wanted.attention is None
        assert found.tokens == again.tokens


def test_one_sentence_takes_the_short_way_and_two_or_samples_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    table, taken = Table(0, 9, torch.float32), []
    take = OneSentence._take
    monkeypatch.setattr(OneSentence, "_take", lambda self, time: taken.append(1) or take(self, time))
    for batch, sample, short in ((1, False, True), (2, False, False), (1, True, False)):
        taken.clear()
        state, memory, lengths = (torch.ones(shape, dtype=torch.int64) for shape in ((batch, 1), (batch,), (batch,)))
        Search(sample=sample)(table.step, state, memory, source_lengths=lengths, seeds=[1] * batch if sample else None)
        assert bool(taken) is short


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_scores_that_are_not_finite_end_a_search(value: float) -> None:
    state, memory, lengths = torch.zeros(1, 1), torch.zeros(1), torch.tensor([2])
    for width in (1, 3):
        with pytest.raises(NoFiniteScoreError, match="no hypothesis of sentence 0 has a finite score"):
            Search(beam_size=width)(
                lambda tokens, state, memory: (torch.full((1, tokens.size(1), 9), value), state, None),
                state,
                memory,
                source_lengths=lengths,
            )


def test_a_hypothesis_without_a_number_ends_a_search_as_in_a_batch() -> None:
    table = Table(0, 9, torch.float32)
    table.logits[::7] = math.nan

    def decode(seed: int, batch: int):
        state, memory, lengths = torch.full((batch, 1), seed), torch.zeros(batch, dtype=torch.int64), torch.ones(batch)
        search = Search(beam_size=3, n_best=3, max_length=6)
        try:
            found = search(table.step, state, memory, source_lengths=lengths.long())[0]
        except NoFiniteScoreError as error:
            return str(error)
        return [(one.tokens, one.score, one.finished) for one in found]

    for seed in range(20):
        assert decode(seed, 1) == decode(seed, 2)
