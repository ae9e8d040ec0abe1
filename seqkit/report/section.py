"""What the sections of the tasks share: explanations on demand, and scores by length."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqkit.drawing import Example, Piece
from seqkit.errors import UserError
from seqkit.tasks import RunTask

Record = dict[str, Any]
_LONGEST = 1200  # characters of a text that is shown
_EXPLAINED = 2000  # characters of a text that is explained: the gates of a longer one fill the page


@dataclass
class Explainer:
    """Explains texts by a run's model, as many as the page has room for, and none twice.

    Args:
        task: the run's model; None: nothing is explained.
        left: how many texts may still be explained.
        room: how many characters of HTML that may still take.
        advance: called after each.
    """

    task: RunTask | None = None
    left: int = 0
    room: int = 3_400_000
    advance: Callable[[], object] = lambda: None
    _kept: tuple[int, int] = (0, 0)  # texts and room of the kinds that are still to come
    _tries: int | None = None  # left to this kind
    _done: set[str] = field(default_factory=set)
    _long: int = 0
    _large: int = 0
    _failed: str = ""

    def share(self, kinds: int) -> None:
        """Begin with the next kind of example, the first of `kinds` that are still to come: it gets its share of the
        texts and of the room, and leaves what it does not take to the others. The last kind may try others for texts
        that are too large."""
        share = -(-self.left // kinds)
        self._kept = self.left - share, self.room - self.room // kinds
        self._tries = share if kinds > 1 else 2 * share

    def note(self) -> str:
        """Return in a sentence which texts are not explained, and why; "" where nothing is left out."""
        if self._failed:
            return f"Explanations are left out: {self._failed}".replace("`", "'")
        why = [f"{self._long:,} longer than {_EXPLAINED:,} characters"] if self._long else []
        why += [f"{self._large:,} that the page has no room for"] if self._large else []
        return f"Some texts open into no explanation: {', and '.join(why)}." if why else ""

    def __call__(self, text: str) -> str:
        """Return explanation and gates of a text as HTML; "" where there is no room for it."""
        task, blank = self.task, not text.strip()
        full = self.left <= self._kept[0] or self.room <= self._kept[1] or self._tries == 0
        if task is None or full or self._failed or blank or text in self._done:
            return ""
        self._done.add(text)
        if len(text) > _EXPLAINED:
            self._long += 1
            return ""
        if self._tries is not None:
            self._tries -= 1
        makers: list[Callable[[], str]] = [lambda: task.explain([text])[0].html(), lambda: task.trace(text).html()]
        parts, failed = [], ""
        for make in makers:
            try:
                parts.append(make())
            except UserError as error:
                failed = str(error)
        html = "".join(parts)
        if not parts:
            self._failed = failed
        if len(html) > self.room - self._kept[1]:
            self._large += 1
            return ""
        self.left -= 1
        self.room -= len(html)
        self.advance()
        return html


def shown_text(text: object) -> str:
    """Return a text of an example, a very long one cut after a word."""
    written = str(text)
    return written if len(written) <= _LONGEST else textwrap.shorten(written, _LONGEST, placeholder=" …")


def plain_example(record: Record, title: str, explain: Explainer) -> Example:
    """Return an example with its whole text."""
    text = str(record.get("text", ""))
    lines = [("", [Piece(shown_text(text))])]
    return Example(title, str(record.get("place", "")), lines, explain(text))


def number_of(record: Record, key: str, default: float = 0.0) -> float:
    """Return a number of a record."""
    value = record.get(key)
    return float(value) if isinstance(value, (int, float)) else default


def share_text(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}"


def by_length(
    lengths: Sequence[float], score: Callable[[Sequence[int]], Sequence[str]], parts: int = 4
) -> list[list[str]]:
    """Return rows of a table: which lengths, how many examples, and what `score` makes of their numbers.

    Args:
        lengths: of the examples, in tokens.
        score: takes the numbers of some examples.
        parts: into how many parts of about one size the examples are divided.
    """
    if not len(lengths):
        return []
    values = np.asarray(lengths)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)[1:], method="higher"))
    rows, low = [], float(values.min())
    for high in edges.tolist():
        chosen = np.flatnonzero((values >= low) & (values <= high)).tolist()
        if chosen:
            span = f"{low:.0f} to {high:.0f}" if low < high else f"{high:.0f}"
            rows.append([span, f"{len(chosen):,}", *score(chosen)])
        low = high + 1
    return rows


def sample_note(run_examples: int | None, kept: int) -> str:
    """Return how many dev examples a section is about."""
    if run_examples is None or run_examples <= kept:
        return f"All numbers of this section are of the {kept:,} dev examples in `dev.jsonl`."
    return (
        f"All numbers of this section are of the {kept:,} dev examples in `dev.jsonl`, spread evenly over the "
        f"{run_examples:,} (`training.keep_outputs`)."
    )
