"""What a lesson is made of, and how its parts are printed and drawn."""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqkit import drawing
from seqkit.console import table
from seqkit.errors import Option, UserError, nearest, require
from seqkit.files import write_text

_WIDTH = 80


class Block(ABC):
    """A part of a lesson."""

    @abstractmethod
    def lines(self) -> list[str]:
        """Return it as lines for a terminal; none where only a page can show it."""

    @abstractmethod
    def html(self) -> str:
        """Return it as HTML."""


@dataclass(frozen=True)
class Heading(Block):
    """The beginning of a section."""

    text: str

    def lines(self) -> list[str]:
        return [self.text, "-" * len(self.text)]

    def html(self) -> str:
        return drawing.section(self.text)


class Text(Block):
    """A paragraph, whose line breaks do not count; what stands between backquotes is code."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())

    def lines(self) -> list[str]:
        return textwrap.wrap(self.text, _WIDTH, break_long_words=False, break_on_hyphens=False)

    def html(self) -> str:
        return drawing.paragraph(self.text)


@dataclass(frozen=True)
class Numbered(Block):
    """Sentences with numbers from 1, such as one for each step."""

    items: Sequence[str]

    def lines(self) -> list[str]:
        shown: list[str] = []
        for place, item in enumerate(self.items, 1):
            shown += textwrap.wrap(item, _WIDTH, initial_indent=f"{place:3}. ", subsequent_indent=" " * 5)
        return shown

    def html(self) -> str:
        return drawing.numbered(self.items)


@dataclass(frozen=True)
class Table(Block):
    """Numbers in rows, of which the first column says what they belong to."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str

    def lines(self) -> list[str]:
        return [*table([self.header, *self.rows]), *Text(self.caption).lines()]

    def html(self) -> str:
        return drawing.table(self.header, self.rows, self.caption)


@dataclass(frozen=True)
class HeatMap(Block):
    """Named values over time: time goes down in a terminal and to the right on a page.

    `shares`, `across`: see `seqkit.drawing.heat_map`.
    """

    times: Sequence[str]
    values: Mapping[str, Sequence[float]]
    caption: str
    shares: bool = False
    across: str = "step"

    def lines(self) -> list[str]:
        rows = zip(self.times, *(map(drawing.number, row) for row in self.values.values()), strict=True)
        return [*table([(self.across, *self.values), *rows]), *Text(self.caption).lines()]

    def html(self) -> str:
        rows = list(self.values.values())
        return drawing.heat_map(
            list(self.values), self.times, rows, self.caption, across=self.across, shares=self.shares
        )


@dataclass(frozen=True)
class MarkedWords(Block):
    """A text whose words have shares between 0 and 1, by colour on a page and as a table in a terminal."""

    words: Sequence[str]
    values: Sequence[float]
    name: str
    caption: str

    def lines(self) -> list[str]:
        rows = [(word, drawing.number(value)) for word, value in zip(self.words, self.values, strict=True)]
        return [*table([("word", self.name), *rows]), *Text(self.caption).lines()]

    def html(self) -> str:
        return drawing.marked_words([drawing.Word(word) for word in self.words], self.values, self.caption, shares=True)


@dataclass(frozen=True)
class Unrolled(Block):
    """A recurrent network, a panel for each step."""

    steps: Sequence[drawing.Step]
    caption: str

    def lines(self) -> list[str]:
        first = self.steps[0]
        rows = [("step", first.memory[0], *(name for name, _ in first.layers))]
        rows += [(step.title, step.memory[1], *(value for _, value in step.layers)) for step in self.steps]
        return [*table(rows), *Text(self.caption).lines()]

    def html(self) -> str:
        return drawing.unrolled(self.steps, self.caption)


@dataclass(frozen=True)
class Chart(Block):
    """Lines over an axis; on a page only. `log`, `y_range`: see `seqkit.drawing.line_chart`."""

    curves: Sequence[drawing.Line]
    x_label: str
    y_label: str
    caption: str
    log: bool = False
    y_range: tuple[float, float] | None = None

    def lines(self) -> list[str]:
        return []

    def html(self) -> str:
        return drawing.line_chart(
            self.curves, self.x_label, self.y_label, self.caption, log=self.log, y_range=self.y_range
        )


@dataclass(frozen=True)
class Lesson:
    """A lesson: what it is about, and the function that computes it.

    Attributes:
        title: its heading.
        summary: what it shows, in a line.
        entry: where the function is that returns its blocks, as `package.module:Name`; imported when the lesson runs.
        task: of the runs that it can look at instead of training models of its own; "": it takes none. Its function
            then takes their folders, and whether to trust code that they name.
        most: how many runs it can look at.
    """

    title: str
    summary: str
    entry: str
    task: str = ""
    most: int = 0

    def blocks(self, run: Sequence[Path] = (), *, trust: bool = False) -> list[Block]:
        """Run the lesson.

        Args:
            run: folders of runs to look at instead of models that the lesson trains.
            trust: import code that a run folder names.

        Raises:
            UserError: the lesson takes no runs, or fewer; a run cannot be loaded, or is of another task.
        """
        from seqkit.config.names import built_in  # a list of lessons needs no schema library

        if len(run) > self.most:
            takes = f"at most {self.most} of the task {self.task}" if self.task else "none: its numbers are exact"
            raise UserError(Option("run", str(run[self.most])), f": of runs, this lesson takes {takes}")
        entry = built_in(self.entry)
        blocks: list[Block] = entry(list(run), trust=trust) if self.task else entry()
        return blocks

    def lines(self, blocks: Iterable[Block]) -> list[str]:
        """Return the lesson as lines for a terminal."""
        shown = [self.title, "=" * len(self.title)]
        for block in blocks:
            if lines := block.lines():
                shown += ["", *lines]
        return shown

    def write_page(self, to: Path, blocks: Iterable[Block]) -> None:
        """Write the lesson as an HTML page that needs no other file.

        Raises:
            UserError: see `check_page`.
        """
        check_page(to)
        write_text(to, drawing.page(self.title, self.summary, [block.html() for block in blocks]))


def check_page(to: Path) -> None:
    """Check, before a lesson runs, that a page can be written there.

    Raises:
        UserError: its name is not that of an HTML file, its folder does not exist, or an extra is missing.
    """
    option = Option("to", str(to))
    if to.suffix.lower() not in (".html", ".htm"):
        raise UserError(option, ": expected the name of an HTML file, such as ", to.with_suffix(".html").name)
    if to.is_dir() or not to.parent.is_dir():
        raise UserError(option, ": is a folder" if to.is_dir() else f": no folder {to.parent}")
    for module, extra in (("jinja2", "html"), ("matplotlib", "plot")):
        require(module, extra)


def find_lesson(name: str, lessons: Mapping[str, Lesson]) -> Lesson:
    """Return a lesson of a table.

    Raises:
        UserError: there is none of this name.
    """
    if name not in lessons:
        raise UserError(f"lessons: no lesson {name!r}{nearest(name, lessons)}; `seqkit lessons` lists all lessons")
    return lessons[name]
