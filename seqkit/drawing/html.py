"""Pages, tables and heat maps as HTML: every text is escaped, nothing is loaded from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from seqkit.console import say
from seqkit.drawing.colours import diverging, readable_on, sequential
from seqkit.errors import UserError, require

_BRIEF = 12  # characters of a cell that a narrow screen need not break


@dataclass(frozen=True)
class Step:
    """One time step of a network that is drawn unrolled.

    Attributes:
        title: what stands above it.
        layers: (name, value) of each layer, the input first.
        memory: (name, value) of what the step before has left.
        carried: the name of the layer that becomes the memory of the next step.
    """

    title: str
    layers: Sequence[tuple[str, str]]
    memory: tuple[str, str]
    carried: str


def number(value: float) -> str:
    """Return a number with three significant digits, whole numbers below 10 million in full."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinity" if value > 0 else "-infinity"
    if value == 0:
        return "0"
    if abs(value) < 1e7 and (abs(value) >= 1000 or value == int(value)):
        return f"{value:,.0f}"
    if 1e-3 <= abs(value) < 1000:
        return f"{float(f'{value:.3g}'):,g}"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def page(title: str, summary: str, parts: Iterable[str], *, contents: bool = False) -> str:
    """Return a whole HTML page, for light and dark screens, phones and paper.

    Args:
        title: of the page.
        summary: the line below it.
        parts: HTML that this module or `line_chart` made, in order.
        contents: begin with links to the sections.

    Raises:
        UserError: jinja2 is not installed.
    """
    markup = require("markupsafe", "html", "jinja2").Markup
    parts, headings = list(parts), list[str]()
    for place, part in enumerate(parts):
        if contents and (found := _HEADING.fullmatch(part)):
            headings.append(markup(found[1]))
            parts[place] = f'<h2 id="section-{len(headings)}">{found[1]}</h2>'
    parts = [markup(part) for part in parts]
    code = markup(script()) if any(MARK in part for part in parts) else ""
    template = _templates().get_template("page.html")
    text: str = template.render(
        title=title, summary=summary, style=markup(style()), parts=parts, script=code, contents=headings
    )
    return text


_HEADING = re.compile(r"\s*<h2>(.*)</h2>\s*")  # what `section` returns, its text escaped


MARK = "data-gates"
"""The attribute of the elements that the script of a page serves."""


def style() -> str:
    """Return the style sheet of a page."""
    return (Path(__file__).parent / "style.css").read_text("utf-8")


def script() -> str:
    """Return the script of a page, which holds no data; it may run more than once."""
    return (Path(__file__).parent / "gates.js").read_text("utf-8")


def embedded(*parts: str) -> str:
    """Return parts with their style and script, to stand in a page of somebody else's, such as a notebook."""
    own = style().replace(":root", "&").replace("body {", "& {").replace("main {", "& > main {")
    code = f"<script>{script()}</script>" if any(MARK in part for part in parts) else ""
    return f'<div class="seqkit"><style>.seqkit {{\n{own}}}</style>{"".join(parts)}{code}</div>'


def notebook(make: Callable[[], Iterable[str]]) -> str | None:
    """Return what `_repr_html_` returns: the parts that `make` returns; where that fails None, after a line that says
    why, so that the notebook shows the text of the object instead."""
    try:
        return embedded(*make())
    except UserError as error:
        say(f"shown as text: {error}")
    except Exception as error:  # a defect of ours must not hide the object
        say(f"shown as text: {type(error).__name__}: {error}")
    return None


def section(heading: str) -> str:
    """Return a heading of a section."""
    return _part("section", heading)


def paragraph(text: str) -> str:
    """Return a paragraph; what stands between backquotes is code."""
    return _part("paragraph", text.split("`"))


def numbered(items: Sequence[str]) -> str:
    """Return a list with numbers from 1."""
    return _part("numbered", items)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a table whose first column names the rows.

    Args:
        header: the name of each column; none: a table of names and what they stand for.
        rows: texts, as many in each row as there are columns; columns of numbers are aligned on the right.
        caption: what is seen.
    """
    brief = all(len(cell) <= _BRIEF for row in rows for cell in row[1:])
    return _part("table", header, rows, _column_kinds(header, rows), brief, caption)


def _column_kinds(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return `number` or `text` for each column of a table; the first one names the rows."""
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    return ["text", *("number" if all(map(_is_numeric, column)) else "text" for column in columns[1:])]


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    caption: str,
    *,
    across: str = "",
    shares: bool = False,
) -> str:
    """Return a heat map: a table of numbers on colours.

    Args:
        rows: the name of each row.
        columns: the name of each column.
        values: rows of numbers.
        caption: what is seen.
        across: what the columns are, such as `step`.
        shares: the values lie in [0, 1] and go from pale to dark blue, such as those of gates. Otherwise each row is
            scaled by its largest absolute value: orange is negative, purple positive.
    """
    cells = [_cells(row, sequential if shares else _scaled(row)) for row in values]
    return _part("heat_map", across, columns, list(zip(rows, cells, strict=True)), caption)


def unrolled(steps: Sequence[Step], caption: str) -> str:
    """Return a recurrent network unrolled in time: a panel for each step, from which the memory goes to the next."""
    return _part("unrolled", steps, caption)


def folded(title: str, part: str) -> str:
    """Return HTML of this room that is shown when its title is clicked."""
    return _part("folded", title, require("markupsafe", "html", "jinja2").Markup(part))


def chart(svg: str, caption: str) -> str:
    """Return an SVG picture, which is trusted, above its caption."""
    return _part("chart", require("markupsafe", "html", "jinja2").Markup(svg), caption)


def _is_numeric(text: str) -> bool:
    return text in ("", "–") or text.lstrip("-+(")[:1].isdigit()


def _scaled(row: Sequence[float]) -> Callable[[float], str]:
    largest = max((abs(value) for value in row), default=0.0) or 1.0
    return lambda value: diverging(value / largest)


def _cells(row: Sequence[float], colour_of: Callable[[float], str]) -> list[dict[str, str]]:
    pairs = [(number(value), colour_of(value)) for value in row]
    return [{"text": text, "colour": colour, "ink": readable_on(colour)} for text, colour in pairs]


@cache
def _templates() -> Any:
    jinja = require("jinja2", "html")
    loader = jinja.FileSystemLoader(Path(__file__).parent)
    found = jinja.Environment(
        loader=loader, autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # thousands of numbers
    return found


def _part(name: str, *values: Any) -> str:
    return fragment("parts.html", name, *values)


def fragment(template: str, macro: str, *values: Any) -> str:
    """Return what a macro of a template in this folder makes of values: all text is escaped.

    Raises:
        UserError: jinja2 is not installed.
    """
    return str(getattr(_templates().get_template(template).module, macro)(*values))
