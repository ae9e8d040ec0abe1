"""One line of output for each line of input, whatever a model has learned."""

from __future__ import annotations


def one_line(text: str) -> str:
    """The text with a space for each line end inside it (all that `str.splitlines` knows), and none at its end."""
    return " ".join(text.splitlines())


def has_line_end(text: str) -> bool:
    """Whether a line ends in the text, or at its end."""
    return text.splitlines() not in ([], [text])


def as_json(form: str) -> bool:
    """Whether a prediction is to be written as JSON, by the name of the form.

    Raises:
        ValueError: the form is neither `text` nor `jsonl`.
    """
    if form not in ("text", "jsonl"):
        raise ValueError(f"form: expected 'text' or 'jsonl', got {form!r}")
    return form == "jsonl"
