"""The numbers of a report, against independent computations."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkit.report.classes import reliability
from seqkit.report.compare import _p_value, bootstrap, mcnemar
from seqkit.report.language_model import perplexity, surprisal_pieces
from seqkit.report.section import Explainer, by_length
from seqkit.report.slots import NOTHING, confusions, tagged
from seqkit.report.translation import marked


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_the_calibration_error_is_that_of_a_loop(pairs: list[tuple[float, bool]]) -> None:
    error, bins = reliability([share for share, _ in pairs], [right for _, right in pairs])
    wanted, count = 0.0, 0
    for number in range(10):
        low, high = number / 10, (number + 1) / 10
        inside = [(c, r) for c, r in pairs if low < c * 1.0 <= high or (number == 0 and c == 0)]
        # A share that is a multiple of a tenth up to rounding may lie on either side.
        if any(abs(c * 10 - round(c * 10)) < 1e-9 and c not in (0, 1) for c, _ in pairs):
            return
        if inside:
            count += 1
            mean, rate = sum(c for c, _ in inside) / len(inside), sum(r for _, r in inside) / len(inside)
            wanted += abs(mean - rate) * len(inside) / len(pairs)
    assert error == pytest.approx(wanted)
    assert len(bins) == count
    assert sum(one.count for one in bins) == len(pairs)


def test_a_calibrated_model_has_no_error() -> None:
    shares = [0.75] * 40
    assert reliability(shares, [True] * 30 + [False] * 10)[0] == pytest.approx(0)
    assert reliability(shares, [True] * 20 + [False] * 20)[0] == pytest.approx(0.25)


@pytest.mark.parametrize(("only", "but", "both"), [(0, 0, 5), (1, 9, 3), (30, 12, 100), (7, 7, 0), (400, 460, 1000)])
def test_mcnemar_is_a_binomial_test(only: int, but: int, both: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    first = [True] * only + [False] * but + [True] * both
    second = [False] * only + [True] * but + [True] * both
    wanted = stats.binomtest(only, only + but).pvalue if only + but else 1.0
    assert mcnemar(first, second) == pytest.approx(wanted)
    assert mcnemar(second, first) == pytest.approx(wanted)


def test_a_tiny_p_value_is_not_zero() -> None:
    shown = [_p_value(mcnemar([True] * count, [False] * count)) for count in (3, 10, 40)]
    assert shown == ["0.2500", "0.0020", "below 0.0001"]


def test_the_bootstrap_tells_a_difference_from_chance() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(300, 1))
    mean = lambda total: float(total[0])  # noqa: E731
    assert bootstrap(noise, noise, mean) == 1.0
    assert bootstrap(noise, noise + 1 + generator.normal(size=(300, 1)) * 0.1, mean) < 0.01
    same = [bootstrap(generator.normal(size=(100, 1)), generator.normal(size=(100, 1)), mean) for _ in range(20)]
    assert sum(p < 0.05 for p in same) <= 4
    shift = generator.normal(size=(200, 1)) + 0.07
    stats = pytest.importorskip("scipy.stats")
    assert bootstrap(np.zeros_like(shift), shift, mean) == pytest.approx(
        stats.ttest_1samp(shift[:, 0], 0).pvalue, abs=0.05
    )


WORDS = st.lists(st.sampled_from(["a", "b", "c", "der", "hund"]), max_size=12)


@given(WORDS, WORDS)
def test_marks_keep_every_word_and_what_is_unmarked_is_common(one: list[str], other: list[str]) -> None:
    left, right = marked(" ".join(one), " ".join(other))
    assert [word for piece in left for word in piece.text.split()] == one
    assert [word for piece in right for word in piece.text.split()] == other
    common = [[word for piece in side if not piece.marked for word in piece.text.split()] for side in (left, right)]
    assert common[0] == common[1]
    if one == other:
        assert not any(piece.marked for piece in left)


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    left, right = marked("我喜歡貓", "我喜歡狗")
    assert [(piece.text, piece.marked) for piece in left] == [("我喜歡", False), ("貓", True)]
    assert [(piece.text, piece.marked) for piece in right] == [("我喜歡", False), ("狗", True)]


def tags_of(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize(
    ("gold", "found", "wanted"),
    [
        ("O B-a I-a", "O B-a I-a", []),
        ("O B-a I-a", "O B-b I-b", [("a", "b")]),
        ("B-a I-a O", "B-a O O", [("a", "a, other tokens")]),
        ("B-a O O", "O O B-b", [("a", NOTHING), (NOTHING, "b")]),
        ("O O O", "B-b O O", [(NOTHING, "b")]),
        ("B-a I-a I-a", "B-b B-c I-c", [("a", "c"), (NOTHING, "b")]),
    ],
)
def test_spans_are_paired_with_what_overlaps_them(gold: str, found: str, wanted: list[tuple[str, str]]) -> None:
    assert confusions(tags_of(gold), tags_of(found)) == wanted


def test_a_tagging_keeps_every_token_and_marks_what_the_other_lacks() -> None:
    pieces = tagged(list("uvwxy"), tags_of("O B-a I-a O B-b"), tags_of("O B-a I-a O O"))
    assert [(piece.text, piece.note, piece.marked) for piece in pieces] == [
        ("u", "", False), ("v w", "a", False), ("x", "", False), ("y", "b", True),
    ]  # fmt: skip


@given(st.lists(st.integers(1, 40), max_size=50))
def test_parts_by_length_hold_every_example_once(lengths: list[int]) -> None:
    seen: list[int] = []

    def score(rows: Any) -> list[str]:
        seen.extend(rows)
        return []

    rows = by_length(lengths, score)
    assert sorted(seen) == list(range(len(lengths)))
    assert sum(int(row[1].replace(",", "")) for row in rows) == len(lengths)


def test_surprise_is_shaded_by_bits() -> None:
    generator = random.Random(0)
    log_probs = [-generator.random() * 20 for _ in range(30)]
    pieces = surprisal_pieces(["x"] * 30, log_probs)
    for piece, value in zip(pieces, log_probs, strict=True):
        assert piece.shade == pytest.approx(min(-value / math.log(2) / 12, 1))
    assert perplexity([math.log(0.5), math.log(0.125)]) == pytest.approx(4)


def explainer(left: int, room: int) -> Explainer:
    """Make the HTML of a text as long as the text: a half from its explanation, a half from its gates."""
    half = lambda text: SimpleNamespace(html=lambda: "x" * (len(text) // 2))  # noqa: E731
    task: Any = SimpleNamespace(explain=lambda texts: [half(texts[0])], trace=half)
    return Explainer(task, left, room)


def texts_of(kind: str, count: int, length: int = 10) -> list[str]:
    return [f"{kind}{number}".ljust(length, "-") for number in range(count)]


def test_each_kind_of_example_gets_its_share_of_explanations() -> None:
    explain = explainer(12, 1000)
    shown = []
    for kinds, texts in ((3, texts_of("a", 20)), (2, texts_of("b", 2)), (1, texts_of("c", 20))):
        explain.share(kinds)
        shown.append(sum(bool(explain(text)) for text in texts))
    assert shown == [4, 2, 6]  # what the second kind leaves, the third one takes
    assert explain.note() == ""


def test_a_kind_of_example_does_not_take_the_room_of_the_next() -> None:
    explain = explainer(12, 100)
    explain.share(2)
    assert sum(bool(explain(text)) for text in texts_of("a", 20, 20)) == 2
    explain.share(1)
    assert sum(bool(explain(text)) for text in texts_of("b", 20)) == 6
    assert explain.note() == "Some texts open into no explanation: 4 that the page has no room for."


def test_the_last_kind_tries_others_for_texts_that_are_too_large() -> None:
    explain = explainer(4, 100)
    explain.share(2)
    assert [bool(explain(text)) for text in texts_of("a", 3)] == [True, True, False]
    explain.share(1)
    assert [bool(explain(text)) for text in (*texts_of("b", 2, 200), *texts_of("c", 3))] == [
        False, False, True, True, False,
    ]  # fmt: skip
    explain.share(1)
    assert explain.left == 0


def test_texts_that_are_too_long_are_passed_over_and_told() -> None:
    explain = explainer(2, 10_000)
    long = "x" * 2001
    assert [bool(explain(text)) for text in (long, long, *texts_of("a", 3))] == [False, False, True, True, False]
    assert explain.note() == "Some texts open into no explanation: 1 longer than 2,000 characters."
