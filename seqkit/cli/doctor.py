"""`seqkit doctor`: what is on this machine, and whether a run folder is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from seqkit.cli.app import app
from seqkit.console import put, tell


@app.command(epilog="Example: seqkit doctor runs/first")
def doctor(
    run_path: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A run or exported folder to check; without it only the machine."),
    ] = None,
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")] = "text",
) -> None:
    """Show versions, devices, threads and backends; with RUN, check every file of it (status 1 if one is bad)."""
    from seqkit import export
    from seqkit.run.doctor import doctor as look

    report = export.doctor(run_path) if run_path is not None and export.is_exported(run_path) else look(run_path)
    if form == "json":
        put(report.as_json())
    else:
        for line in report.lines():
            tell(line)
    if not report.good:
        raise typer.Exit(1)
