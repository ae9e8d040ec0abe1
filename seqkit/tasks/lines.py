"""One line of output for each line of input, whatever a model has learned; and no more lines than can be read."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from seqkit.text.joining import one_line

_LONGEST_EXAMPLE = 120  # characters
_SHOWN, _WIDEST = 40, 40  # lines of a table, and characters of a name in it


def command_on(text: str, folder: Path, command: str = "predict", options: str = "") -> str:
    """Return a command line that gives a text to a run, to be typed as it stands; a long text is cut after a word."""
    text = textwrap.shorten(one_line(text), _LONGEST_EXAMPLE, placeholder="") or one_line(text)[:_LONGEST_EXAMPLE]
    # `echo` takes -n for itself, and some shells take \n in its text for a line end.
    say = "printf '%s\\n'" if text.startswith("-") or "\\" in text else "echo"
    return f"{say} {shlex.quote(text)} | seqkit {command} {shlex.quote(str(folder))}{options and ' '}{options}"


def table_name(name: str) -> str:
    """Return a name for a column of a table, cut where it is long."""
    return name if len(name) <= _WIDEST else f"{name[: _WIDEST - 3]}..."


def most_wrong(mistakes: Sequence[int], what: str) -> tuple[list[int], list[str]]:
    """Return which lines of a table to show: all of them, or of very many those with the most mistakes.

    Args:
        mistakes: of each line.
        what: the lines' name.

    Returns:
        their numbers, in the table's order, and a line on the rest, if there is one.
    """
    chosen = sorted(range(len(mistakes)), key=lambda number: (-mistakes[number], number))[:_SHOWN]
    left = len(mistakes) - len(chosen)
    return sorted(chosen), [f"... and {left:,} {what} with as many mistakes or fewer"] if left else []


def as_json(form: str) -> bool:
    """Return whether a prediction is to be written as JSON, by the name of the form.

    Raises:
        ValueError: the form is neither `text` nor `jsonl`.
    """
    if form not in ("text", "jsonl"):
        raise ValueError(f"form: expected 'text' or 'jsonl', got {form!r}")
    return form == "jsonl"
