"""All runs of a folder: what they are, and how they stand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from seqkit.console import duration
from seqkit.drawing import link_table, page, paragraph
from seqkit.errors import UserError
from seqkit.report.page import write_page
from seqkit.report.stored import StoredRun, read_run
from seqkit.report.trained import score_text
from seqkit.training.locks import is_held
from seqkit.training.run_folder import hidden


@dataclass(frozen=True)
class RunRow:
    """A run in a table.

    Attributes:
        name: of its folder.
        task: its kind.
        score: the metric that chose its weights, on test where it is scored there, else on dev; "" without a score.
        time: of its updates, as `MM:SS`.
        state: finished, stopped at step N, running, or why its folder cannot be read.
        report: its report.html; None where it has none.
    """

    name: str
    task: str
    score: str
    time: str
    state: str
    report: Path | None = None

    def shown(self) -> list[str]:
        """Return its columns for a terminal."""
        return [self.name, self.task, self.score, self.time, self.state]


def run_rows(folder: str | Path = "runs") -> list[RunRow]:
    """Return a row for each run in a folder, and for each that is about to begin, by name.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(folder)
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    rows = [_row(folder / name) for name in names if not name.startswith(".") and (folder / name / "run.json").exists()]
    begun = [name[1:-5] for name in names if name.startswith(".") and name.endswith("~lock")]
    known = {row.name for row in rows}
    rows += [
        RunRow(name, "", "", "", "starting")
        for name in begun
        if name not in known and is_held(hidden(folder / name, "lock"))
    ]
    return sorted(rows, key=lambda row: row.name)


def write_runs(rows: Sequence[RunRow], path: Path) -> Path:
    """Write the table as a page that links the reports.

    Returns:
        the file.

    Raises:
        UserError: jinja2 is not installed; the file cannot be written.
    """
    here = Path(os.path.abspath(path)).parent
    lines = [(_address(row.report, here), row.shown()) for row in rows]
    header = ["run", "task", "score", "time", "state"]
    caption = "Runs; those with a report are links to it. Time: of the updates, in minutes and seconds."
    parts = [link_table(header, lines, caption)] if rows else []
    parts = parts or [paragraph("There are no runs in this folder yet.")]
    return write_page(path, page("Runs", f"{len(rows):,} run{'' if len(rows) == 1 else 's'}.", parts))


def _address(report: Path | None, here: Path) -> str:
    return "" if report is None else quote(Path(os.path.relpath(os.path.abspath(report), here)).as_posix())


def _row(path: Path) -> RunRow:
    try:
        run = read_run(path)
    except UserError as error:
        return RunRow(path.name, "", "", "", str(error).removeprefix(f"{path}: "))
    report = run.folder.report if run.folder.report.exists() else None
    return RunRow(path.name, run.task, _score(run), duration(run.seconds) if run.seconds else "", _state(run), report)


def _score(run: StoredRun) -> str:
    metric = str(run.training.get("metric", ""))
    for split in ("test", "dev"):
        scores = run.scores(split)
        if metric in scores:
            return f"{metric} {score_text(scores[metric])} ({split})"
        if scores:
            name = next(iter(scores))
            return f"{name} {score_text(scores[name])} ({split})"
    return ""


def _state(run: StoredRun) -> str:
    if is_held(run.folder.path / ".lock"):
        return f"running, step {run.steps:,}"
    return run.state
