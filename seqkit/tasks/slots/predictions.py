"""What slot filling found in a text, and how a line of output shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from seqkit import drawing
from seqkit.files import to_json
from seqkit.tasks.lines import as_json
from seqkit.tasks.slots.metrics import spans
from seqkit.tasks.text_trace import figure_axes
from seqkit.text.joining import one_line


@dataclass(frozen=True)
class Slot:
    """A stretch of the text: `text[start:end]`, counted in characters."""

    type: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Tagging:
    """What was found in one text.

    Attributes:
        text: as it was given.
        intent: None where the model has none, and for a blank text.
        slots: in their order.
        tokens, tags: what the text was split into, and the tag of each.
    """

    text: str
    intent: str | None = None
    slots: list[Slot] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def _repr_html_(self) -> str | None:
        return drawing.notebook(self._parts)

    def _parts(self) -> list[str]:
        pieces, place = list[tuple[str, str]](), 0
        for slot in self.slots:
            pieces += [(self.text[place : slot.start], ""), (slot.text, slot.type)]
            place = slot.end
        caption = "The slots of the text." if self.intent is None else f"The intent is {self.intent}."
        return [drawing.labelled_text([*pieces, (self.text[place:], "")], caption)]

    def plot(self) -> Any:
        """Return matplotlib axes with the tag of each token.

        Raises:
            UserError: matplotlib is not installed.
        """
        names = sorted(set(self.tags))
        axes = figure_axes(0.35 * len(self.tokens), 0.3 * len(names))
        axes.scatter(range(len(self.tags)), [names.index(tag) for tag in self.tags], marker="s")
        axes.set_xticks(range(len(self.tokens)), [token.replace("$", r"\$") for token in self.tokens], rotation=90)
        axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
        return axes


def make_tagging(text: str, offsets: Sequence[tuple[int, int]], tags: Sequence[str], intent: str | None) -> Tagging:
    """Return a text's tags as slots; `offsets` say where its tokens stand."""
    slots = []
    for span in spans(tags):
        start, end = offsets[span.start][0], offsets[span.end - 1][1]
        slots.append(Slot(span.type, text[start:end], start, end))
    return Tagging(text, intent, slots, [text[start:end] for start, end in offsets], list(tags))


def format_tagging(found: Tagging, form: str) -> str:
    """One line: `jsonl`; or `text`, the text itself with its slots in brackets, and the intent before it if there is
    one: `book: a table in [city Boston]`."""
    if as_json(form):
        return to_json({name: value for name, value in asdict(found).items() if name != "text"})
    parts, place = [], 0
    for slot in found.slots:
        parts += [found.text[place : slot.start], f"[{slot.type} {slot.text}]"]
        place = slot.end
    line = "".join([*parts, found.text[place:]])
    return one_line(f"{found.intent}: {line}" if found.intent is not None else line)
