"""Constraints: each one of the table, and those of a caller, in greedy decoding, beam search and sampling."""

from __future__ import annotations

import pytest
import torch

from seqkit.decoding import CONSTRAINTS, Constraint, Search

HOW = [{}, {"beam_size": 3, "n_best": 2}, {"sample": True, "n_best": 3}]
IDS = ["greedy", "beam", "sampling"]
BATCH = [[1, 2, 3], [4], [5, 1]]


def search(model, constraints, step=None, options=None, **arguments):
    state, memory, lengths = model.encode(BATCH)
    seeds = range(3) if (options or {}).get("sample") else None
    made = Search(**{"max_length": 8, **(options or {})}, constraints=constraints)
    found = made(step or model.step, state, memory, source_lengths=lengths, seeds=seeds, **arguments)
    return [(one.tokens, one.log_probs, one.score, one.finished) for hypotheses in found for one in hypotheses]


class NoDigits(Constraint):
    """Goes by words."""

    def __call__(self, log_probs, beam) -> None:
        digits = [number for number, word in enumerate(beam.words) if word.isdigit()]
        log_probs[:, :, digits] = -torch.inf


class NoSevens(Constraint):
    """Forbids once a batch."""

    def forbidden(self, words, unk_id):
        return [words.index("7")]


class NoRepeat(Constraint):
    """Of the tokens that it looks at, from some step on, none comes again; checks that they are those of the search."""

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.fed = []

    def watch(self, step):
        def watched(tokens, state, memory):
            self.fed.append(tokens)
            return step(tokens, state, memory)

        return watched

    def __call__(self, log_probs, beam) -> None:
        if beam.time >= self.start:
            assert beam.tokens.shape == (*log_probs.shape[:2], beam.time)
            if beam.time:
                assert torch.equal(beam.tokens[:, :, -1], self.fed[-1])
            for row, slots in enumerate(beam.tokens.tolist()):
                for slot, tokens in enumerate(slots):
                    log_probs[row, slot, tokens] = -torch.inf


class EndsIn(Constraint):
    """<eos> comes after one token only."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, log_probs, beam) -> None:
        right = beam.tokens[:, :, -1] == self.token if beam.time else torch.zeros(log_probs.shape[:2], dtype=torch.bool)
        log_probs[:, :, beam.eos_id].masked_fill_(~right, -torch.inf)


class Nothing(Constraint):
    def __call__(self, log_probs, beam) -> None:
        if beam.time == 2:
            log_probs.fill_(-torch.inf)


class HalfOfTheSource(Constraint):
    def limits(self, fewest, most, source_lengths):
        return fewest, torch.minimum(most, (source_lengths + 1) // 2)


@pytest.mark.parametrize("how", HOW, ids=IDS)
def test_words_that_a_constraint_forbids_are_as_forbidden_ids(plain, how) -> None:
    model = plain.Model(3)
    words = ["<pad>", "<unk>", "<bos>", "<eos>", "12", "a", "7"]
    found = search(model, [NoDigits()], options=how, words=words)
    assert found == search(model, [], options=how, forbidden=(0, 2, 4, 6))
    once = search(model, [NoSevens()], options=how, words=words)
    assert once == search(model, [], options=how, forbidden=(0, 2, 6)) != found
    with pytest.raises(ValueError, match="forbidden: must not hold eos_id 3"):
        search(model, [NoSevens()], options=how, words=[*words[:3], "7"])
    assert found != search(model, [], options=how)


@pytest.mark.parametrize("how", HOW, ids=IDS)
@pytest.mark.parametrize("start", [0, 1])
def test_a_constraint_sees_the_tokens_so_far_from_whenever_it_asks(plain, how, start) -> None:
    for seed in range(4):
        model = plain.Model(seed)
        mine = NoRepeat(start)
        found = search(model, [mine], mine.watch(model.step), options=how)
        assert found == search(model, [], options={**how, "no_repeat_ngram": 1})
        late = NoRepeat(start=3)  # what it sees is still checked
        search(model, [late], late.watch(model.step), options=how)


@pytest.mark.parametrize("how", HOW, ids=IDS)
def test_a_constraint_may_forbid_the_end(plain, how) -> None:
    for seed in range(4):
        found = search(plain.Model(seed, eos=1.0), [EndsIn(5)], options=how)
        assert all(tokens[-1:] == [5] for tokens, *_, finished in found if finished)
        assert all(finished or len(tokens) == 8 for tokens, *_, finished in found)


@pytest.mark.parametrize("how", HOW, ids=IDS)
def test_a_hypothesis_without_a_way_on_may_end(plain, how) -> None:
    model = plain.Model(1, eos=-2.0)
    for tokens, log_probs, _, finished in search(model, [Nothing()], options=how):
        assert finished
        assert len(tokens) <= 2
        assert torch.tensor(log_probs).isfinite().all()


def test_a_constraint_may_set_limits(plain) -> None:
    found = search(plain.Model(1, eos=-9.0), [HalfOfTheSource()])
    assert [len(tokens) for tokens, *_ in found] == [2, 1, 1]


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("min_length", 4, 4),
        ("max_length", 3, 3),
        ("min_ratio", 2.0, 2.0),
        ("max_ratio", 0.5, 0.5),
        ("no_repeat_ngram", 1, 1),
        ("no_unknown", None, False),
    ],
)
@pytest.mark.parametrize("how", HOW, ids=IDS)
def test_each_constraint_of_the_table_is_an_option_of_the_search(plain, name, value, option, how) -> None:
    made = CONSTRAINTS[name](*([] if value is None else [value]))
    key = {"no_unknown": "allow_unknown"}.get(name, name)
    changed = 0
    for seed in range(3):
        model = plain.Model(seed)
        found = search(model, [made], options=how)
        assert found == search(model, [], options={"max_length": 8, **how, key: option})
        changed += found != search(model, [], options=how)
    assert changed


def test_the_table_is_tested_whole() -> None:
    assert set(CONSTRAINTS) == {"min_length", "max_length", "min_ratio", "max_ratio", "no_repeat_ngram", "no_unknown"}
