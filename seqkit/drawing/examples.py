"""Examples with their places, texts with marked words, and matrices of counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqkit.drawing.colours import readable_on, sequential
from seqkit.drawing.html import fragment, table
from seqkit.errors import require

_WIDE = 8  # columns from which on a matrix is set in small type


@dataclass(frozen=True)
class Piece:
    """A word of a text, or several.

    Attributes:
        text: the words.
        marked: they are what differs, or wrong.
        note: what stands small behind them, in a box with them.
        shade: from 0 to 1, the colour behind them; None: none.
        hover: what a mouse over a coloured piece shows.
        joined: no white space stands before them.
        mark: what stands behind the note of a marked piece.
    """

    text: str
    marked: bool = False
    note: str = ""
    shade: float | None = None
    hover: str = ""
    joined: bool = False
    mark: str = "wrong"


@dataclass(frozen=True)
class Example:
    """An example of some data.

    Attributes:
        title: what is to be known of it first.
        place: where it stands in its file.
        lines: its texts, each a label ("" for none) and the text's pieces.
        more: HTML of this room that is shown when its title is clicked; "" for none.
        more_title: that title.
    """

    title: str
    place: str
    lines: Sequence[tuple[str, Sequence[Piece]]]
    more: str = ""
    more_title: str = "explanation"


def pieces(text: Sequence[Piece]) -> str:
    """Return a text with its marks."""
    shown = []
    for piece in text:
        colour = "" if piece.shade is None else sequential(piece.shade)
        shown.append({**piece.__dict__, "colour": colour, "ink": readable_on(colour) if colour else ""})
    return fragment("examples.html", "pieces", shown)


def example_list(examples: Sequence[Example]) -> str:
    """Return a list of examples."""
    markup = require("markupsafe", "html", "jinja2").Markup
    items = [
        {
            "title": one.title,
            "place": one.place,
            "named": any(label for label, _ in one.lines),
            "lines": [(label, markup(pieces(text))) for label, text in one.lines],
            "more": markup(one.more),
            "more_title": one.more_title,
        }
        for one in examples
    ]
    return fragment("examples.html", "example_list", items)


def count_matrix(
    rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], caption: str, *, across: str = ""
) -> str:
    """Return a matrix of counts, each coloured by its share of its row; a count of 0 is left blank.

    Args:
        rows, columns: their names.
        counts: as many in each row as there are columns.
        caption: what is seen.
        across: what rows and columns are.
    """
    cells: list[tuple[str, list[dict[str, Any]]]] = []
    for name, row in zip(rows, counts, strict=True):
        colours = [sequential(count / max(sum(row), 1)) for count in row]
        shown = [
            {"text": f"{count:,}" if count else "", "colour": colour, "ink": readable_on(colour)}
            for count, colour in zip(row, colours, strict=True)
        ]
        cells.append((name, shown))
    return fragment("parts.html", "heat_map", across, columns, cells, caption, len(columns) > _WIDE)


def link_table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], caption: str) -> str:
    """Return a table whose first column links to other pages.

    Args:
        header: the name of each column.
        rows: each a relative address ("" for none) and texts, as many as there are columns.
        caption: what is seen.
    """
    link = require("markupsafe", "html", "jinja2").Markup('<a href="{}">{}</a>')
    lines = [[link.format(target, row[0]) if target else row[0], *row[1:]] for target, row in rows]
    return table(header, lines, caption)
