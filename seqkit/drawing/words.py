"""Texts whose words are coloured, and matrices of words against words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from seqkit.drawing.colours import diverging, readable_on, sequential
from seqkit.drawing.html import fragment, number


class Word(NamedTuple):
    """A word as it stands in a text.

    Attributes:
        text: the word.
        joined: no white space stands before it.
    """

    text: str
    joined: bool = False


def marked_words(
    words: Sequence[Word], values: Sequence[float], caption: str, *, largest: float | None = None, shares: bool = False
) -> str:
    """Return a text whose words are coloured by numbers.

    Args:
        words: of the text.
        values: a number for each word.
        caption: what is seen.
        largest: the number that gets the full colour; None: the largest absolute value.
        shares: no number is negative: pale to dark blue. Otherwise orange is negative, purple positive.
    """
    top = largest or max((abs(value) for value in values), default=0.0) or 1.0
    colours = [(sequential if shares else diverging)(value / top) for value in values]
    return fragment("words.html", "marked_words", _cells(words, values, colours), caption)


def labelled_text(pieces: Sequence[tuple[str, str]], caption: str) -> str:
    """Return a text in which some stretches have labels.

    Args:
        pieces: the text, cut up: each stretch and its label, "" for none.
        caption: what is seen.
    """
    return fragment("words.html", "labelled_text", pieces, caption)


_MOST = 100  # rows and columns of a matrix


def word_matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    caption: str,
    *,
    shares: bool = True,
) -> str:
    """Return a matrix of colours, with a word for each row and column; the numbers show under the pointer.

    Of more than 100 rows or columns it draws the first 100, and the caption says so; a page of 30 MB helps nobody.

    Args:
        rows, columns: the words.
        values: a list of numbers for each row.
        caption: what is seen.
        shares: as in `marked_words`; the largest absolute value of the matrix gets the full colour, with shares 1 does.
    """
    top = 1.0 if shares else max((abs(value) for row in values for value in row), default=0.0) or 1.0
    colour = sequential if shares else diverging
    for what, names in (("rows", rows), ("columns", columns)):
        if len(names) > _MOST:
            caption += f" The first {_MOST} of {len(names):,} {what}."
    rows, columns, values = rows[:_MOST], columns[:_MOST], [row[:_MOST] for row in values[:_MOST]]
    lines = [
        (name, _cells([Word(f"{name} - {column}") for column in columns], row, [colour(value / top) for value in row]))
        for name, row in zip(rows, values, strict=True)
    ]
    return fragment("words.html", "word_matrix", columns, lines, caption)


def _cells(words: Sequence[Word], values: Sequence[float], colours: Sequence[str]) -> list[dict[str, object]]:
    return [
        {
            "text": word.text,
            "joined": word.joined,
            "value": number(value),
            "colour": colour,
            "ink": readable_on(colour),
        }
        for word, value, colour in zip(words, values, colours, strict=True)
    ]
