"""`seqkit lessons`: how recurrent networks work, computed and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqkit.cli.app import Trust, app
from seqkit.console import put, tell
from seqkit.errors import Option, UserError
from seqkit.lessons import LESSONS, TAKING_RUNS, find_lesson
from seqkit.lessons.base import check_page


@app.command(epilog="Example: seqkit lessons memory --to memory.html")
def lessons(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which one; without it, list all lessons.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write it as a page with pictures, too.")] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Look at this run instead of models that the lesson trains; may be repeated."),
    ] = None,
    trust: Trust = False,
) -> None:
    """Print a lesson about recurrent networks, computed on the spot, or list the lessons.

    Some lessons train small models, which takes up to a minute; the same seed gives the same numbers.
    """
    if name is None:
        if to is not None:
            raise UserError(Option("to", str(to)), f": which lesson? expected one of {', '.join(LESSONS)} before it")
        if run:
            raise UserError(Option("run", str(run[0])), f": which lesson? {', '.join(TAKING_RUNS)} take runs")
        for known, lesson in LESSONS.items():
            put(f"{known:12}{lesson.summary}")
        return
    lesson = find_lesson(name, LESSONS)
    if to is not None:
        check_page(to)
    blocks = lesson.blocks(run or [], trust=trust)
    if to is not None:  # first: whoever reads what is printed may close the pipe early
        lesson.write_page(to, blocks)
    for line in lesson.lines(blocks):
        tell(line)
    if to is not None:
        tell("")
        tell(f"page: {to}")
