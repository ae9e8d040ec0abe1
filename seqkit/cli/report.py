"""Commands that show runs: report, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqkit.cli.app import Trust, app
from seqkit.console import table, tell


@app.command(epilog="Example: seqkit report runs/first --to first.html")
def report(
    run_paths: Annotated[list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Run folders, such as runs/first.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Where to write it; report.html in the run folder without it."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help="Show what the run makes of these data instead of its dev data.")
    ] = None,
    sentences: Annotated[int, typer.Option(min=0, help="How many texts open into explanation and gates.")] = 12,
    trust: Trust = False,
) -> None:
    """Write a page about a run: curves, scores, examples, explanations, gates; or compare several runs."""
    from seqkit.report import report as write

    tell(f"report: {write(run_paths, to, data=data, sentences=sentences, trust=trust)}")


@app.command(epilog="Example: seqkit runs --html runs.html")
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder of the runs.")] = Path("runs"),
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the table as a page that links the reports, too.")
    ] = None,
) -> None:
    """List the runs of a folder: task, score, time and state."""
    from seqkit.report import run_rows, write_runs

    rows = run_rows(folder)
    page = None if html is None else write_runs(rows, html)
    for line in table(
        [["run", "task", "score", "time", "state"], *([str(v) for v in row.shown()] for row in rows)], ""
    ):
        tell(line)
    if page is not None:
        tell(f"page: {page}")
