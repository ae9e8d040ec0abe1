"""Texts fed bit by bit: the prediction is that of the whole text, and what has settled is read once."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.errors import UserError
from seqkit.run import load
from seqkit.tasks.base import RunTask
from seqkit.tasks.stream import Growing, check_forward, reads_forward

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUNS = (
    "2026-11/language_model-finished",
    "2026-11/sentiment-finished",
    "2026-11/slots-finished",
    "2026-11/translation-finished",
    "2026-11-options/language_model-adaptive-finished",
    "2026-11-options/sentiment-pooled-finished",
    "2026-11-options/slots-characters-finished",
)
_loaded: dict[str, Any] = {}


def task(name: str) -> Any:
    if name not in _loaded:
        _loaded[name] = load(FIXTURES / name, device="cpu")
        vocabulary = getattr(_loaded[name], "tokenizer", None) or _loaded[name].source
        _loaded[name].sample = vocabulary.vocabulary[4:12]
    return _loaded[name]


def close(first: Any, second: Any) -> bool:
    """Whether two predictions are the same but for rounding."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and close(list(first.values()), list(second.values()))
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(close, first, second))
    if isinstance(first, float):
        return math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-5)
    return bool(first == second)


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_whole_is_the_sum_of_its_parts(name: str, data: st.DataObject) -> None:
    used = task(name)
    words = st.sampled_from([*used.sample, " ", " ", "xq", "\u00e9", "中文", ""])
    if used.kind in ("sentiment", "slots") and not reads_forward(used.model.encoder):
        with pytest.raises(UserError, match="cannot stream"):
            used.stream()
        return
    stream = used.stream()
    fed = ""
    for part in data.draw(st.lists(words, max_size=8)):
        fed += part
        found = stream.feed(part)
        if used.kind != "language_model":
            assert close(astuple(found), astuple(used.predict([fed])[0])), fed
    assert stream.text == fed
    assert close(astuple(stream.end()), astuple(used.predict([fed])[0])), fed


@pytest.mark.parametrize("name", ["2026-11/sentiment-finished", "2026-11/slots-finished"])
def test_no_words_before_a_text_are_nothing(name: str) -> None:
    used = task(name)
    stream, text = used.stream(), " ".join(used.sample[:3])
    stream.feed([])
    assert close(astuple(stream.feed(text)), astuple(used.predict([text])[0]))
    assert close(astuple(stream.end()), astuple(used.predict([text])[0]))


def test_slots_take_words_as_they_are() -> None:
    used = task("2026-11/slots-finished")
    words = [*used.sample[:3], "a.b", used.sample[0]]
    stream = used.stream()
    stream.feed(words[:2])
    stream.feed(words[2:])
    assert stream.end() == used.predict([words], is_split_into_words=True)[0]
    mixed = used.stream()
    mixed.feed("text")
    with pytest.raises(ValueError, match="not both"):
        mixed.feed(["word"])
    with pytest.raises(ValueError, match="has ended"):
        stream.feed("more")


@pytest.mark.parametrize("kind", ["slots", "sentiment"])
@pytest.mark.parametrize("given", [None, 3, b"ab", ["a", None]])
def test_what_is_neither_text_nor_words_is_named(kind: str, given: Any) -> None:
    stream = task(f"2026-11/{kind}-finished").stream()
    with pytest.raises(TypeError, match=r"^more(\[1\])? is "):
        stream.feed(given)


def test_what_has_settled_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    used = task("2026-11/sentiment-finished")
    stream, counts = used.stream(), []
    read = type(used.model.encoder).forward

    def counted(self: Any, ids: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        counts.append(ids.size(1))
        return read(self, ids, *arguments, **options)

    monkeypatch.setattr(type(used.model.encoder), "forward", counted)
    for _ in range(50):
        stream.feed(used.sample[0] + " ")
    assert sum(counts) <= 2 * 50


def test_tokens_that_change_are_read_again() -> None:
    def read(items: Any, state: Any) -> tuple[torch.Tensor, int]:
        sums = torch.tensor([list(items)], dtype=torch.float64).cumsum(1) + (state or 0)
        return sums, int(sums[0, -1])

    growing = Growing(read)
    assert growing([1, 2, 3], 2)[0].tolist() == [[1, 3, 6]]
    assert growing([1, 2, 5, 6], 3)[0].tolist() == [[1, 3, 8, 14]]
    assert growing([1, 9], 2)[0].tolist() == [[1, 10]]
    assert growing([1, 9, 1], 3)[1] == 11


def test_an_encoder_that_looks_ahead_is_refused() -> None:
    with pytest.raises(UserError, match="cannot stream"):
        check_forward(torch.nn.Identity())
    with pytest.raises(UserError, match="cannot stream"):
        RunTask.stream(task("2026-11/sentiment-finished"))


def test_the_next_tokens_are_those_of_the_whole_line() -> None:
    used = task("2026-11/language_model-finished")
    stream = used.stream()
    for part in (used.sample[0], " ", used.sample[1]):
        stream.feed(part)
    ids = used.tokenizer.encode([stream.text])[0]
    features = used.model(torch.tensor([[used.tokenizer.eos_id, *ids]])).features[:, -1:]
    wanted = torch.log_softmax(used.model.scores(features).flatten(), 0).topk(3)
    found = stream.following(3)
    assert [used.tokenizer.vocabulary[place] for place in wanted.indices.tolist()] == [word for word, _ in found]
    assert close([value for _, value in found], wanted.values.tolist())
