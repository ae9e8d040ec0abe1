"""Marked words, matrices of words, and labelled stretches: escaping, colours, spaces, direction."""

from __future__ import annotations

import re

import pytest

from seqkit import drawing
from seqkit.drawing import Word

pytest.importorskip("jinja2")

HOSTILE = '<b title="x">&'


def colours(html: str) -> list[str]:
    return re.findall(r"background:(#\w{6})", html)


def test_words_stand_as_in_the_text_and_are_coloured_by_sign_and_size() -> None:
    html = drawing.marked_words([Word("don"), Word("'t", True), Word("go")], [1.0, -0.5, 0.0], "caption")
    assert re.sub("<[^>]*>", "", html).split("caption")[0].strip() == "don&#39;t go"
    assert colours(html) == [drawing.diverging(1), drawing.diverging(-0.5), drawing.diverging(0)]
    assert 'title="don: 1"' in html
    assert colours(drawing.marked_words([Word("a")], [1.0], "", largest=2.0)) == [drawing.diverging(0.5)]
    assert colours(drawing.marked_words([Word("a"), Word("b")], [1.0, 4.0], "", shares=True)) == [
        drawing.sequential(0.25), drawing.sequential(1),
    ]  # fmt: skip


def test_every_colour_can_be_read() -> None:
    html = drawing.marked_words([Word("a")] * 41, [place / 20 - 1 for place in range(41)], "")
    pairs = re.findall(r"background:(#\w{6});color:(#\w{6})", html)
    assert len(pairs) == 41
    assert all(drawing.contrast(*pair) >= 4.5 for pair in pairs)


def test_a_matrix_has_a_cell_for_each_pair() -> None:
    html = drawing.word_matrix(["x", HOSTILE], ["a", "b", "c"], [[0, 0.5, 1], [1, 0, 0]], "caption")
    assert colours(html) == [drawing.sequential(value) for value in (0, 0.5, 1, 1, 0, 0)]
    assert HOSTILE not in html
    assert "x - b: 0.5" in html
    signed = drawing.word_matrix(["x"], ["a", "b"], [[-2, 1]], "", shares=False)
    assert colours(signed) == [drawing.diverging(-1), drawing.diverging(0.5)]
    assert drawing.word_matrix([], [], [], "") != ""


def test_a_large_matrix_is_cut_and_says_so():
    names = [f"w{number}" for number in range(140)]
    html = drawing.word_matrix(names[:90], names, [[0.5] * 140] * 90, "Seen.")
    assert "Seen. The first 100 of 140 columns." in html
    assert "rows" not in html
    assert "w99" in html
    assert "w100" not in html
    assert len(html) < 250 * 90 * 100
    whole = drawing.word_matrix(names[:100], names[:100], [[0.5] * 100] * 100, "Seen.")
    assert "The first" not in whole


def test_texts_of_any_script_keep_their_direction_and_are_escaped() -> None:
    words = [Word("مرحبا"), Word("你好", True), Word(HOSTILE)]
    for html in (
        drawing.marked_words(words, [1, 1, 1], HOSTILE),
        drawing.word_matrix([word.text for word in words], ["שלום"], [[1]] * 3, HOSTILE),
        drawing.labelled_text([(word.text, HOSTILE) for word in words], HOSTILE),
    ):
        assert 'dir="auto"' in html
        assert "مرحبا" in html
        assert "你好" in html
        assert HOSTILE not in html


def test_stretches_keep_every_space() -> None:
    html = drawing.labelled_text([("to  ", ""), ("Rome", "city"), (" now", "")], "")
    assert re.search(r'to  <mark><span dir="auto">Rome</span> <small>city</small></mark> now', html)
