"""Line charts as SVG, by matplotlib; their colours are the page's, in light and dark."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqkit.drawing.html import chart, number
from seqkit.errors import require

# What matplotlib draws in these colours, the page draws in its own (style.css).
_INK, _SOFT, _LINE = "#010101", "#010102", "#010103"
_SERIES = [f"#0102{number:02x}" for number in range(1, 6)]
_ON_PAGE = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)},
}
_DASHES = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 2.5))]
_MARKS = "osD^v"


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: for the legend.
        x: where its points lie.
        y: their values; as many as x has.
        marked: draw the points, not what lies between them.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marked: bool = False


def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str, caption: str, *, log: bool = False,
    y_range: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """Return a chart of up to five lines, told apart by colour and by dashes or marks.

    Args:
        lines: what to draw.
        x_label, y_label: what the axes show, with units.
        caption: what is seen; screen readers read it.
        log: a logarithmic y axis.
        y_range: the lowest and highest y that are shown; None: all.

    Raises:
        UserError: matplotlib or jinja2 is not installed.
        ValueError: there are more than five lines, or a line has other numbers of x than of y.
    """
    if len(lines) > len(_SERIES):
        raise ValueError(f"a chart has {len(_SERIES)} lines at most, got {len(lines)}")
    matplotlib = require("matplotlib", "plot")
    figures = require("matplotlib.figure", "plot")
    style = {
        "svg.fonttype": "none", "svg.hashsalt": f"chart: {caption}", "font.size": 8.5, "text.color": _INK,
        "axes.labelcolor": _SOFT, "axes.edgecolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _SOFT,
        "grid.color": _LINE, "axes.spines.top": False, "axes.spines.right": False,
        "axes.prop_cycle": matplotlib.cycler(color=_SERIES),
    }  # fmt: skip
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the page's fonts have what matplotlib's own lacks
        figure = figures.Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for place, line in enumerate(lines):
            how = {"ls": "", "marker": _MARKS[place], "ms": 4} if line.marked else {"ls": _DASHES[place], "lw": 1.6}
            axes.plot(line.x, line.y, label=_plain(line.name), **how)
        axes.set(xlabel=_plain(x_label), ylabel=_plain(y_label))
        if all(value == int(value) for line in lines for value in line.x):
            axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axes.set_yscale("log")
            if axes.get_ylim()[1] < 1000 * axes.get_ylim()[0]:  # plain numbers, not powers of 10
                _plain_ticks(axes.yaxis)
        if y_range is not None:
            axes.set_ylim(*y_range)
        axes.grid(lw=0.6)
        axes.tick_params(length=0)
        if len(lines) > 1:
            longest = max(len(line.name) for line in lines)
            columns = 1 if longest > 24 else 2 if longest > 14 or len(lines) == 4 else 3
            figure.legend(loc="outside upper left", ncols=columns, frameon=False, handlelength=2.6)
        return chart(_as_svg(figure, caption), caption)


def _plain_ticks(axis: Any) -> None:
    """Label the ticks of a logarithmic axis with plain numbers, those between powers of 10 where there are few."""
    ticker = require("matplotlib.ticker", "plot")
    chosen = ticker.LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.4))
    chosen.set_axis(axis)

    def minor(value: float, place: int) -> str:
        return number(value) if chosen(value, place) else ""

    def locations(values: Any) -> None:
        chosen.set_locs(values)

    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(value)))
    formatter = ticker.FuncFormatter(minor)
    formatter.set_locs = locations
    axis.set_minor_formatter(formatter)


def _plain(text: str) -> str:
    """`$` begins a formula in matplotlib's texts."""
    return text.replace("$", r"\$")


def _as_svg(figure: Any, caption: str) -> str:
    """The figure as SVG to stand inside a page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.S)
    for colour, variable in _ON_PAGE.items():
        text = text.replace(colour, variable)
    # Names of elements are unique on a page, of which this chart is one of several.
    prefix = f"c{hashlib.sha256(caption.encode()).hexdigest()[:8]}-"
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
