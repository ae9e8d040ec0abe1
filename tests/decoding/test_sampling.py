"""Sampling: distributions against counting, seeds, and the cuts of top-k and top-p."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.decoding import Search
from seqkit.decoding.selection import best_continuations, draw

LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.2, -math.inf, 0.9, 2.2, -0.4], dtype=torch.float64)


def plain_distribution(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """By sorting, in plain Python."""
    weights = [math.exp(value / temperature) for value in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])[: top_k or len(logits)]
    total = sum(weights[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if mass >= top_p:
            break
        kept.append(i)
        mass += weights[i] / total
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (1, 1.0), (0, 0.8), (0, 0.05), (5, 0.7), (99, 1.0)])
def test_draws_follow_the_distribution(temperature, top_k, top_p) -> None:
    # Evenly spaced numbers meet every token in proportion to its probability, to one part in their count.
    count = 4000
    uniform = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).view(4, -1)
    tokens = draw(LOGITS.expand(4, count // 4, -1), uniform, temperature=temperature, top_k=top_k, top_p=top_p)
    shares = Counter(tokens.flatten().tolist())
    for token, expected in enumerate(plain_distribution(LOGITS.tolist(), temperature, top_k, top_p)):
        assert shares[token] / count == pytest.approx(expected, abs=1.5 / count)
        assert expected > 0 or shares[token] == 0


def test_the_largest_number_below_one_meets_a_possible_token() -> None:
    uniform = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    logits = torch.tensor([-math.inf, 1.0, 0.0, -math.inf], dtype=torch.float64).expand(1, 2, -1)
    assert draw(logits, uniform, temperature=1.0, top_k=0, top_p=1.0).tolist() == [[1, 2]]


def samples(model, batch, seeds, **options):
    state, memory, lengths = model.encode(batch)
    return Search(sample=True, **options)(model.step, state, memory, source_lengths=lengths, seeds=seeds)


def test_whole_samples_are_as_frequent_as_they_are_probable(plain) -> None:
    model = plain.Model(1, eos=1.0)
    count = 4000
    (found,) = samples(model, [[3, 5]], [0], n_best=count, max_length=2)
    shares = Counter((tuple(one.tokens), one.finished) for one in found)
    for one in {(tuple(one.tokens), one.finished): one for one in found}.values():
        # Probability is over the whole vocabulary: of what is forbidden, nothing comes back in `log_probs`.
        assert one.score == pytest.approx(sum(one.log_probs), rel=1e-12)
    search = plain.Sentence(model, [3, 5], [], {"max_length": 2})
    allowed, _ = search.next(search.start())
    total = sum(math.exp(value) for value in allowed.values())
    for token, value in allowed.items():
        first = sum(n for (tokens, _), n in shares.items() if (tokens[:1] or (plain.EOS,)) == (token,)) / count
        expected = math.exp(value) / total
        assert abs(first - expected) < 5 * math.sqrt(expected * (1 - expected) / count) + 1e-12


def test_log_probs_are_the_models_own(plain) -> None:
    model = plain.Model(2, eos=1.0)
    (found,) = samples(model, [[3, 5, 6]], [7], n_best=5, max_length=6, temperature=2.0, top_k=3, top_p=0.95)
    for one in found:
        sentence = plain.Sentence(model, [3, 5, 6], [], {"max_length": 6})
        live = sentence.start()
        for token, value in zip([*one.tokens, plain.EOS], one.log_probs, strict=False):
            allowed, after = sentence.next(live)
            assert value == pytest.approx(allowed[token], rel=1e-9)
            live = sentence.extend(live, after, token, value)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=6))
def test_a_sentences_samples_depend_on_its_seed_alone(plain, seed, seeds) -> None:
    # Sentences of 2 to 300 steps: the random numbers are drawn in blocks of 64.
    model = plain.Model(seed, vocabulary=12, eos=-1.0, sharp=0.5)
    batch = [[row] * (1 + 60 * (row % 2)) for row in range(len(seeds))]
    together = samples(model, batch, seeds, n_best=2)
    for row, source in enumerate(batch):
        (alone,) = samples(model, [source], [seeds[row]], n_best=2)
        plain.assert_same(together[row], alone)
    one, other = (samples(model, batch[:1], [seeds[0] ^ flip], n_best=1, min_length=20)[0] for flip in (0, 1))
    assert one != other


def test_a_generator_gives_the_seeds_in_order(plain) -> None:
    model = plain.Model(0, sharp=0.5)
    state, memory, lengths = model.encode([[1, 2], [3]])

    def texts(generator):
        found = Search(sample=True)(model.step, state, memory, source_lengths=lengths, generator=generator)
        return [one.tokens for (one,) in found]

    first = texts(torch.Generator().manual_seed(1))
    assert first == texts(torch.Generator().manual_seed(1))
    assert first != texts(torch.Generator().manual_seed(2))
    torch.manual_seed(1)
    assert first == texts(None)


def test_top_one_is_greedy(plain) -> None:
    for seed in range(5):
        model = plain.Model(seed)
        (found,) = samples(model, [[seed, 4]], [seed], top_k=1, no_repeat_ngram=2, min_length=2)[0]
        tokens, _, finished = plain.greedy(model, [seed, 4], no_repeat_ngram=2, min_length=2)
        assert (found.tokens, found.finished) == (tokens, finished)


def test_samples_keep_prefix_and_limits(plain) -> None:
    model = plain.Model(4, sharp=0.5)
    state, memory, lengths = model.encode([[1, 2], [3]])
    search = Search(sample=True, n_best=6, min_length=3, max_length=5, allow_unknown=False)
    found = search(model.step, state, memory, source_lengths=lengths, prefix=[[6, 1], []], seeds=[0, 1])
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == 6
        for one in hypotheses:
            assert 3 <= len(one.tokens) <= 5
            assert one.tokens[:2] == [6, 1] if row == 0 else 1 not in one.tokens
            assert not {0, 2, 3} & set(one.tokens)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 6), st.integers(1, 1500), st.integers(1, 9))
def test_best_continuations_equal_a_sort_of_all(seed, batch, slots, size, width) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(batch, slots, size, generator=generator, dtype=torch.float64)
    log_probs[torch.rand(log_probs.shape, generator=generator) < 0.2] = -math.inf
    sums = torch.randn(batch, slots, generator=generator, dtype=torch.float64)
    sums[torch.rand(sums.shape, generator=generator) < 0.2] = -math.inf
    scores, parents, tokens = best_continuations(log_probs, sums, width)
    totals = (log_probs + sums[:, :, None]).flatten(1)
    for row in range(batch):
        expected = sorted(totals[row].tolist(), reverse=True)[:width]
        expected += [-math.inf] * (width - len(expected))
        assert scores[row].tolist() == expected
        for value, parent, token in zip(scores[row], parents[row], tokens[row], strict=True):
            assert value == -math.inf or value == log_probs[row, parent, token] + sums[row, parent]
            assert 0 <= parent < slots
            assert 0 <= token < size
