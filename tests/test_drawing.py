"""Pages and pictures: escaping, contrast, numbers, and the empty cases."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkit import drawing
from seqkit.drawing import Line, Step

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

HOSTILE = '<script>alert("x")</script>&\'$\\frac$'
SHADES = [place / 100 for place in range(101)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.0, "0"), (1.0, "1"), (-3.0, "-3"),
        (32.0, "32"), (0.5, "0.5"), (2.7048, "2.7"), (0.044, "0.044"),
        (20751.6, "20,752"), (9_999_999.0, "9,999,999"), (2.05e7, "2.05e7"), (4.5398e-5, "4.54e-5"), (-9.5, "-9.5"),
        (0.99995, "1"), (999.6, "1,000"), (2e65, "2e65"), (float("nan"), "not a number"), (float("inf"), "infinity"),
        (float("-inf"), "-infinity"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert drawing.number(value) == text


@given(st.floats(-1e300, 1e300))
def test_a_number_reads_back_to_three_digits(value: float) -> None:
    shown = float(drawing.number(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.0051, abs=0)


@pytest.mark.parametrize("colours", [drawing.sequential, drawing.diverging])
def test_texts_on_colours_can_be_read(colours: object) -> None:
    for share in SHADES:
        for value in (share, -share):
            background = colours(value)  # type: ignore[operator]
            assert drawing.contrast(drawing.readable_on(background), background) >= 4.5


def test_the_contrast_is_that_of_the_guidelines() -> None:
    assert drawing.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert drawing.contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)  # the known nearest miss of 4.5
    assert drawing.luminance("#ff0000") == pytest.approx(0.2126)


def test_shades_grow_darker_with_size() -> None:
    """So that they can be told apart without seeing colours."""
    for colours in (drawing.sequential, drawing.diverging, lambda share: drawing.diverging(-share)):
        assert all(one > other for one, other in pairwise(drawing.luminance(colours(share)) for share in SHADES[::10]))
    assert drawing.sequential(7) == drawing.sequential(1)
    assert drawing.diverging(-7) == drawing.diverging(-1)


def variables(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def test_the_colours_of_pages_have_the_contrast_of_wcag_aa() -> None:
    style = (Path(drawing.__file__).parent / "style.css").read_text("utf-8")
    light, dark = (variables(block) for block in re.findall(r":root \{(.*?)\}", style, re.S))
    assert set(light) == set(dark) != set()
    for theme in (light, dark):
        for text in ("ink", "soft"):
            assert drawing.contrast(theme[text], theme["paper"]) >= 4.5
        for ground in ("panel", "memory"):
            assert drawing.contrast(theme["ink"], theme[ground]) >= 4.5
        for number in range(1, 6):  # lines: 3 to 1 (section 1.4.11)
            assert drawing.contrast(theme[f"series-{number}"], theme["paper"]) >= 3


def test_every_text_is_escaped() -> None:
    bad = HOSTILE
    parts = [
        drawing.section(bad),
        drawing.paragraph(f"{bad} `{bad}`"),
        drawing.numbered([bad]),
        drawing.table([bad, bad], [[bad, bad]], bad),
        drawing.heat_map([bad], [bad], [[1.0]], bad, across=bad),
        drawing.unrolled([Step(bad, [(bad, bad)], (bad, bad), bad)], bad),
        drawing.line_chart([Line(bad, [0, 1], [0, 1]), Line(bad, [0, 1], [1, 2])], bad, bad, bad),
    ]
    text = drawing.page(bad, bad, parts)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("<h1>") == text.count("</html>") == 1


def test_empty_and_single_values() -> None:
    assert "<table" in drawing.table(["a"], [], "none")
    assert "<table" in drawing.heat_map(["a"], [], [[]], "none")
    assert "0" in drawing.heat_map(["a"], ["b"], [[0.0]], "one")
    assert "<svg" in drawing.line_chart([Line("a", [1], [2])], "x", "y", "one point")
    assert "<svg" in drawing.line_chart([], "x", "y", "none")


def test_a_column_of_numbers_is_aligned_on_the_right() -> None:
    text = drawing.table(["name", "score", "remark"], [["a", "-0.5", "1 of 2"], ["b", "(1, 2)", "none"]], "c")
    assert re.findall(r'<td class="(\w+)"', text) == ["number", "text", "number", "text"]


def test_a_chart_has_no_colour_of_its_own() -> None:
    text = drawing.line_chart([Line(str(n), [0, 1], [n, n + 1]) for n in range(5)], "x", "y", "five")
    assert not re.findall(r"#[0-9a-f]{6}(?![0-9a-f-])", text.lower())
    for number in range(1, 6):
        assert f"var(--series-{number})" in text
    with pytest.raises(ValueError, match="5 lines at most, got 6"):
        drawing.line_chart([Line(str(n), [0, 1], [0, 1]) for n in range(6)], "x", "y", "six")


@pytest.mark.parametrize(
    "names",
    [
        ["span_precision", "span_recall", "span_f1", "sentence_accuracy", "intent_accuracy"],
        ["training", "dev", "a-run-with-a-name-of-thirty-six-sig"],
        ["a", "b", "c", "d", "e"],
    ],
)
def test_the_legend_fits_the_chart(names: list[str]) -> None:
    svg = drawing.line_chart([Line(name, [0, 1], [0, 1]) for name in names], "x", "y", "c")
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])  # type: ignore[index]
    for name in names:
        start = re.search(rf'<text[^>]* x="([\d.]+)"[^>]*>{name}<', svg)
        assert start is not None
        assert float(start[1]) + 5.5 * len(name) < width  # a letter of 8.5 points is 5 to 5.5 wide on average
