"""The application object, and what its commands share: arguments, reading lines, showing scores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Annotated

import typer

from seqkit._version import __version__
from seqkit.cli.streams import put_line, show
from seqkit.errors import UserError
from seqkit.files import LONGEST_LINE, read_lines

app = typer.Typer(
    help="Recurrent sequence models: train, resume, evaluate and use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[Path, typer.Argument(help="A YAML file, such as configs/sentiment/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as name=first training.epochs=3.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/first.")]
InputFile = Annotated[Path | None, typer.Argument(help="A file with one text a line; without it standard input.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import code that a run folder names: cells and tasks that are your own.")
]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, mps, xpu, or cuda:1.")]
# How tokens are drawn, of predict and translate.
Temperature = Annotated[float | None, typer.Option(help="Temperature of sampling: below 1 is safer, above 1 wilder.")]
TopK = Annotated[int | None, typer.Option(help="Sample among the K most probable tokens; 0: all.")]
TopP = Annotated[
    float | None, typer.Option(help="Sample among the fewest tokens that hold this share of the probability.")
]
SampleSeed = Annotated[int | None, typer.Option(min=0, help="Seed of sampling; without it the run's own.")]


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@contextmanager
def line_groups(file: Path | None) -> Iterator[Iterator[list[str]]]:
    """The lines of a file or of standard input, in groups.

    Raises:
        UserError: the file cannot be read; while reading, text that is not UTF-8.
    """
    try:
        opened = file.open("rb") if file else nullcontext(sys.stdin.buffer)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    with opened as source:
        if file is None and source.isatty():
            end = "Ctrl-Z and Enter end" if os.name == "nt" else "Ctrl-D at the beginning of a line ends"
            show(f"reading from the terminal, one text a line; {end} it")
        yield _groups(source, str(file or "standard input"))


def _groups(source: IO[bytes], name: str, largest: int = 512) -> Iterator[list[str]]:
    """Lines in growing groups, so that the first answer comes soon and a long file goes fast.

    A person at a terminal gets each answer before the next question. Otherwise the groups depend on nothing but the
    number and the length of lines: not on how fast they come, so that equal input gives equal output.
    """
    largest = 1 if source.isatty() else largest
    size, held, lines = 1, 0, list[str]()
    for number, raw in enumerate(read_lines(source), 1):
        if len(raw) > LONGEST_LINE:
            yield lines
            raise UserError(f"{name}:{number}: a line of more than {LONGEST_LINE:,} bytes")
        try:
            lines.append(raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError as error:
            yield lines
            raise UserError(f"{name}:{number}: not UTF-8 text (byte {error.start} of the line)") from None
        held += len(raw)
        if len(lines) >= size or held > LONGEST_LINE:
            yield lines
            size, held, lines = min(size * 2, largest), 0, []
    if lines:
        yield lines


def tell(text: str) -> None:
    """One line on standard output, control characters escaped; of several processes only the first one speaks."""
    from seqkit import run

    if run.first():
        put_line(text)


def show_scores(title: str, scores: dict[str, float]) -> None:
    """One line of named numbers, with how many examples they are of; nothing where there is none."""
    if scores:
        note = getattr(scores, "note", str)()
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        tell(f"{title}: {shown}" + (f"  of {note}" if note else ""))
