"""Search against plain searches in Python, and against itself: alone and in a batch."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.decoding import Search

PENALTIES = [
    {},
    {"length_penalty": 0.8},
    {"length_penalty": 1.0, "length_penalty_kind": "average"},
    {"length_penalty": 2.5, "length_penalty_kind": "average"},
    {"coverage_penalty": 0.3},
    {"length_penalty": 1.2, "coverage_penalty": 0.5},
]
LIMITS = [
    {"max_length": 9},
    {"max_length": 6, "min_length": 3},
    {"max_length": 5, "min_length": 5},
    {"max_ratio": 1.5, "min_ratio": 0.5},
    {"max_ratio": 1.0, "min_length": 4},
    {"max_length": 8, "no_repeat_ngram": 1},
    {"max_length": 10, "no_repeat_ngram": 2},
    {"max_length": 7, "min_length": 6, "no_repeat_ngram": 1},
    {"max_length": 9, "allow_unknown": False},
    {"max_length": 8, "min_ratio": 1.0, "no_repeat_ngram": 3},
]


def sources(seed: int, count: int, longest: int = 7) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(29) for _ in range(chance.randint(1, longest))] for _ in range(count)]


def run(model, batch, padding=0, prefix=None, seeds=None, keep_attention=True, **options):
    state, memory, lengths = model.encode(batch, padding)
    return Search(**options)(
        model.step,
        state,
        memory,
        source_lengths=lengths,
        prefix=prefix,
        seeds=seeds,
        keep_attention=keep_attention,
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(PENALTIES), st.sampled_from(LIMITS), st.integers(1, 5), st.floats(-2, 3))
def test_a_beam_equals_the_plain_one_without_early_exit(plain, seed, penalties, limits, width, eos) -> None:
    # 300 words: from the second step on the best continuations are looked for in chunks.
    model = plain.Model(seed, vocabulary=300 if seed % 5 == 0 else 7, eos=eos, sharp=3.0)
    options = {**penalties, **limits, "beam_size": width, "n_best": 1 + seed % width}
    batch = sources(seed, 3, 5)
    starts = [[]] * 3
    if seed % 3 == 0 and "max_ratio" not in limits:
        starts = [[1, 5, 4, 6][seed % 4 : seed % 4 + row] for row in range(3)]
    found = run(model, batch, seed % 3, starts, **options)
    for hypotheses, source, start in zip(found, batch, starts, strict=True):
        plain.assert_same(hypotheses, plain.beam(model, source, start, **options))


@pytest.mark.parametrize(
    "limits",
    [
        {"max_length": 4},
        {"max_length": 4, "min_length": 2},
        {"max_ratio": 2.0, "min_ratio": 0.5},
        {"max_length": 4, "no_repeat_ngram": 2},
        {"max_length": 5, "no_repeat_ngram": 1, "allow_unknown": False},
    ],
)
@pytest.mark.parametrize("penalties", PENALTIES)
def test_a_large_beam_equals_exhaustive_search(plain, penalties, limits) -> None:
    batch = [[3, 14], [15], [9, 2]]
    for seed in range(2):
        model = plain.Model(seed, eos=2.0 * seed)
        found = run(model, batch, beam_size=300, n_best=7, **penalties, **limits)
        for hypotheses, source in zip(found, batch, strict=True):
            plain.assert_same(hypotheses, plain.everything(model, source, n_best=7, **penalties, **limits))
            assert all(one.finished for one in hypotheses)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(LIMITS), st.sampled_from(PENALTIES), st.floats(-3, 3))
def test_a_beam_of_one_is_greedy(plain, seed, limits, penalties, eos) -> None:
    model = plain.Model(seed, eos=eos)
    batch = sources(seed, 3)
    for (found,), source in zip(run(model, batch, **limits, **penalties), batch, strict=True):
        tokens, log_probs, finished = plain.greedy(model, source, **limits)
        assert (found.tokens, found.finished) == (tokens, finished)
        torch.testing.assert_close(found.log_probs, log_probs, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.lists(st.integers(0, 28), max_size=9), min_size=1, max_size=9),
    st.sampled_from([{}, {"beam_size": 3, "n_best": 2}, {"sample": True, "n_best": 3, "temperature": 1.5}]),
    st.sampled_from(PENALTIES),
    st.integers(0, 4),
)
def test_a_batch_equals_its_sentences_one_by_one(plain, seed, batch, how, penalties, padding) -> None:
    model = plain.Model(seed, vocabulary=20, eos=2.0)
    options = {**how, **penalties, "no_repeat_ngram": seed % 3}
    seeds = list(range(seed, seed + len(batch))) if "sample" in how else None
    together = run(model, batch, padding, seeds=seeds, **options)
    for row, source in enumerate(batch):
        (alone,) = run(model, [source], seeds=seeds and seeds[row : row + 1], **options)
        plain.assert_same(together[row], alone)


def test_lengths_without_limits_stop_at_twice_the_source_and_twenty(plain) -> None:
    model = plain.Model(0, eos=-1e4)
    for width in (1, 3):
        for found, length in zip(run(model, [[1], [2, 3, 4], []], beam_size=width), (22, 26, 20), strict=True):
            assert (len(found[0].tokens), found[0].finished) == (length, False)
            assert len(found[0].log_probs) == len(found[0].attention) == length
    (drawn,) = run(model, [[]], sample=True)[0]
    assert len(drawn.tokens) == 20
    assert len(run(model, [[1]], min_length=40)[0][0].tokens) == 40


def test_cut_hypotheses_come_after_complete_ones(plain) -> None:
    mixed = 0
    for seed in range(20):
        model = plain.Model(seed, eos=0.5)
        (found,) = run(model, [[4, 8]], beam_size=4, n_best=4, max_length=3, length_penalty=1.0)
        assert [one.finished for one in found] == sorted((one.finished for one in found), reverse=True)
        for kind in (True, False):
            scores = [one.score for one in found if one.finished == kind]
            assert scores == sorted(scores, reverse=True)
        mixed += len({one.finished for one in found}) > 1
    assert mixed > 3


@pytest.mark.parametrize("penalties", PENALTIES)
def test_the_search_ends_as_soon_as_nothing_can_improve(plain, penalties) -> None:
    saved = 0
    for seed in range(10):
        model = plain.Model(seed, eos=1.0, sharp=3.0)
        options = {"beam_size": 6, "max_length": 12, "n_best": 1 + seed % 2, **penalties}
        (found,) = run(model, [[4, 8, 15]], **options)
        calls = model.calls
        plain.assert_same(found, plain.beam(model, [4, 8, 15], **options))
        assert calls <= model.steps
        saved += model.steps - calls
    # A strong reward for length leaves hope to the last.
    assert saved > 0 or penalties.get("length_penalty", 0) > 2


def test_what_is_done_leaves_the_batch(plain) -> None:
    model = plain.Model(3, vocabulary=30, eos=1.0)
    batch = sources(3, 40)
    found = run(model, batch, beam_size=3)
    work = [max(len(one.tokens) for one in hypotheses) + 1 for hypotheses in found]
    assert sorted(set(model.rows), reverse=True) == model.rows[1:] or model.rows[1] == 120
    assert model.rows[-1] < 0.3 * model.rows[1]
    assert sum(model.rows[1:]) < 0.8 * 3 * len(batch) * (len(model.rows) - 1)
    assert max(work) <= len(model.rows)


def test_a_model_without_finite_scores_is_refused_and_ends() -> None:
    calls = []

    def broken(tokens, state, memory):
        calls.append(1)
        return torch.full((*tokens.shape, 6), math.nan), state, None

    for options in ({}, {"beam_size": 3}, {"sample": True}):
        with pytest.raises(ValueError, match="no hypothesis of sentence 0 has a finite score"):
            Search(**options)(broken, None, None, source_lengths=torch.tensor([5, 2]))
    assert len(calls) < 100


def test_probability_zero_for_the_end_does_not_matter() -> None:
    def endless(tokens, state, memory):
        logits = torch.zeros(*tokens.shape, 6)
        logits[:, :, 3] = -math.inf
        return logits, state, None

    for options in ({}, {"beam_size": 2, "n_best": 2}, {"sample": True, "n_best": 2}):
        for hypotheses in Search(max_length=4, **options)(endless, None, None, source_lengths=torch.tensor([5, 2])):
            for one in hypotheses:
                assert (len(one.tokens), one.finished) == (4, False)
                assert one.score == pytest.approx(4 * math.log(1 / 5), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_float64_stays_and_half_precision_is_summed_in_float32(dtype) -> None:
    def step(tokens, state, memory):
        generator = torch.Generator().manual_seed(int(tokens[0, 0]))
        return torch.randn(*tokens.shape, 50, generator=generator).to(dtype), state, None

    (found,) = Search()(step, None, None, source_lengths=torch.tensor([2]))[0]
    token, exact = 2, []
    for chosen in [*found.tokens, 3][: len(found.log_probs)]:
        logits = step(torch.tensor([[token]]), None, None)[0].double()
        exact.append(logits.log_softmax(2)[0, 0, chosen].item())
        token = chosen
    torch.testing.assert_close(found.log_probs, exact, rtol=1e-14 if dtype == torch.float64 else 1e-6, atol=0)


def test_the_step_function_keeps_its_logits_and_states(plain) -> None:
    model = plain.Model(0)
    table = torch.randn(7, 7, dtype=torch.float64)
    before = table.clone()
    state = torch.zeros(2, 1, 3)

    def step(tokens, state, memory):
        return table[tokens[:1]].expand(2, -1, -1), [state], None

    Search(beam_size=3, no_repeat_ngram=1, min_length=2)(step, state, None, source_lengths=torch.tensor([2, 2]))
    assert torch.equal(table, before)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size: must be at least 1, got 0"),
        ({"beam_size": 2.0}, "beam_size: must be a whole number"),
        ({"beam_size": True}, "beam_size: must be a whole number"),
        ({"n_best": 0}, "n_best: must be at least 1"),
        ({"beam_size": 3, "n_best": 4}, "n_best: 4 is above beam_size, 3"),
        ({"length_penalty": -0.1}, "length_penalty: must be at least 0"),
        ({"length_penalty": math.nan}, "length_penalty: must be a finite number"),
        ({"length_penalty_kind": "google"}, "length_penalty_kind: must be one of gnmt, average"),
        ({"length_penalty_kind": "average"}, "length_penalty_kind: average needs a length_penalty"),
        ({"length_penalty": 1000}, "length_penalty: must be at most 40, got 1000"),
        ({"coverage_penalty": -1}, "coverage_penalty: must be at least 0"),
        ({"coverage_penalty": 1e300}, "coverage_penalty: must be at most"),
        ({"min_length": -1}, "min_length: must be at least 0"),
        ({"max_length": 0}, "max_length: must be at least 1"),
        ({"max_length": 10**20}, "max_length: must be at most 1,000,000"),
        ({"min_length": 6, "max_length": 5}, "min_length: 6 is above max_length, 5"),
        ({"min_ratio": -1}, "min_ratio: must be at least 0"),
        ({"max_ratio": 0}, "max_ratio: must be above 0"),
        ({"max_ratio": 1e30}, "max_ratio: must be at most 1,000"),
        ({"min_ratio": 2, "max_ratio": 1}, "min_ratio: 2.0 is above max_ratio, 1.0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram: must be at least 0"),
        ({"sample": True, "beam_size": 2}, "beam_size: sampling has no beam"),
        ({"sample": True, "temperature": 0}, "temperature: must be above 0"),
        ({"sample": True, "top_k": -1}, "top_k: must be at least 0"),
        ({"sample": True, "top_p": 0}, "top_p: must be above 0"),
        ({"sample": True, "top_p": 1.1}, "top_p: must be at most 1"),
        ({"temperature": 0.5}, "temperature: applies to sampling only"),
        ({"top_k": 5}, "top_k: applies to sampling only"),
        ({"top_p": 0.5}, "top_p: applies to sampling only"),
    ],
)
def test_bad_settings_name_the_argument(options, message) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Search(**options)


def test_bad_calls_name_the_argument(plain) -> None:
    model = plain.Model(0)
    state, memory, lengths = model.encode([[1, 2], [3]])

    def call(message, step=model.step, state=state, memory=memory, lengths=lengths, options=None, **arguments):
        with pytest.raises(ValueError, match=message):
            Search(**options or {})(step, state, memory, source_lengths=lengths, **arguments)

    def silent(tokens, state, memory):
        return model.step(tokens, state, memory)[0], state, None

    call("^state: leaves must begin with", state={"h": (torch.zeros(2, 6), None)})
    call("^memory: leaves must begin with 3", lengths=torch.tensor([1, 1, 1]), state=None)
    call("^forbidden: must not hold eos_id 3", forbidden=(0, 3))
    call("^prefix: 1 for 2 sentences", prefix=[[4]])
    call("^prefix: sentence 1 has 3 tokens of at most 2", prefix=[[], [4, 4, 4]], options={"max_length": 2})
    call("^prefix: sentence 0 holds <eos>", prefix=[[3], []])
    call("^token 7 is not in the vocabulary of 7", prefix=[[7], []])
    call("^token 9 is not in the vocabulary of 7", forbidden=(9,))
    call("^coverage_penalty: the step function gives no attention", step=silent, options={"coverage_penalty": 0.1})
    call("^step: logits must be", step=lambda tokens, state, memory: (torch.zeros(2, 7), state, None))
    call("^seeds: 1 for 2", seeds=[1], options={"sample": True})
    call("^seeds: .* a generator", seeds=[1, 2], generator=torch.Generator(), options={"sample": True})


def test_an_empty_batch_gives_nothing() -> None:
    assert Search()(lambda *_: pytest.fail("asked"), None, None, source_lengths=torch.zeros(0, dtype=torch.int64)) == []


def test_attention_is_there_only_when_asked_for(plain) -> None:
    model = plain.Model(0)
    batch = [[1, 2, 3], [4]]
    assert run(model, batch, keep_attention=False)[0][0].attention is None
    for (found,), source in zip(run(model, batch, 2), batch, strict=True):
        assert found.attention.shape == (len(found.log_probs), len(source))
        torch.testing.assert_close(found.attention.sum(1), torch.ones(len(found.log_probs), dtype=torch.float64))
