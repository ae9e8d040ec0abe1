"""Reports: a page about a run, or about several beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from seqkit.console import bar, say
from seqkit.drawing import page, paragraph, section
from seqkit.errors import Option, UserError, require
from seqkit.files import write_text
from seqkit.report.classes import class_section
from seqkit.report.compare import comparison
from seqkit.report.curves import curves, samples
from seqkit.report.generic import generic_section
from seqkit.report.language_model import language_model_section, sample_section
from seqkit.report.section import Explainer
from seqkit.report.slots import slots_section
from seqkit.report.stored import StoredRun, read_run
from seqkit.report.trained import score_table, score_text, trained
from seqkit.report.translation import search_section, translation_section
from seqkit.run import counted, load
from seqkit.tasks import RunTask

_SECTIONS: dict[str, Callable[[StoredRun, int, Explainer], list[str]]] = {
    "sentiment": class_section,
    "slots": slots_section,
    "translation": translation_section,
    "language_model": language_model_section,
}
"""The section of each task; other tasks, such as one of the user's, get the one for any task."""
SUMMARY = 10
"""Examples of each kind in the report that training writes."""
_MOST = 2000  # examples of data that the user names
FULL = 20
"""The same in the one that `seqkit report` writes."""


def check_extras() -> None:
    """Refuse to begin where a page cannot be drawn.

    Raises:
        UserError: jinja2 or matplotlib is not installed.
    """
    require("jinja2", "html")
    require("matplotlib", "plot")


def write_summary(path: str | Path) -> Path:
    """Write report.html into a run folder, from what lies there: no model is run.

    Returns:
        the file.

    Raises:
        UserError: no such run; jinja2 or matplotlib is not installed; the file cannot be written.
    """
    check_extras()
    run = read_run(path)
    return write_page(run.folder.report, one_run(run, SUMMARY, Explainer()))


def report(
    runs: str | Path | Sequence[str | Path],
    to: str | Path | None = None,
    *,
    data: str | None = None,
    sentences: int = 12,
    trust: bool = False,
) -> Path:
    """Write a page about a run, with explanations of some dev examples; or about several runs beside each other.

    Args:
        runs: a run folder, or several.
        to: the file; None: report.html in the folder of the only run, or in the current folder.
        data: a file whose examples are shown instead of the run's own dev examples, which lie in the run folder. No
            other data is opened.
        sentences: how many texts open into their explanation and the gates.
        trust: import code that a run folder names, such as a cell of the user's own.

    Returns:
        the file.

    Raises:
        UserError: no such run; jinja2 or matplotlib is not installed; bad data; the file cannot be written.

    Example:
        >>> report(["runs/first", "runs/second"], "comparison.html")
    """
    check_extras()
    paths = [runs] if isinstance(runs, (str, Path)) else list(runs)
    if not paths:
        raise UserError("report: expected a run folder")
    found = [read_run(path) for path in paths]
    if len(found) > 1:
        if data is not None:
            raise UserError(Option("data", data), ": only a report of a single run takes data")
        return write_page(Path(to or "report.html"), several_runs(found))
    (run,) = found
    task = _model(run, trust, data)
    if task is not None and data is not None:
        run = _on_data(run, task, data)
    with bar(sentences if task is not None else 0, unit="text") as progress:
        text = one_run(run, FULL, Explainer(task, sentences, advance=progress.update), task)
    return write_page(run.folder.report if to is None else Path(to), text)


def _model(run: StoredRun, trust: bool, data: str | None) -> RunTask | None:
    """Return the run's model; where there is none, the page says why."""
    try:
        return load(run.folder.path, trust=trust)
    except UserError as error:
        if data is not None:
            raise
        say(f"the report explains nothing: {error}")
        run.notes.append(f"Without explanations: {error}".replace("`", "'"))
        return None


def _on_data(run: StoredRun, task: RunTask, data: str) -> StoredRun:
    """Return the run with the outputs and scores of other data."""
    with torch.no_grad():
        task.model.eval()
        task.read_dev(data)
        scores = task.evaluate()
        outputs = task.dev_outputs(_MOST)
    note = f"Examples and dev scores are of {data}."
    return replace(run, outputs=outputs, final={"dev": counted(scores)}, notes=[*run.notes, note])


def several_runs(runs: Sequence[StoredRun]) -> str:
    """Return the page about several runs."""
    names = ", ".join(run.name for run in runs)
    parts = [score_table(runs), *comparison(runs), *curves(runs), *samples(runs)]
    for run in runs:
        parts += trained(run, heading=f"What was trained: {run.name}")
    return page(f"{len(runs)} runs", f"{names}.", parts, contents=True)


def one_run(run: StoredRun, size: int, explain: Explainer, task: RunTask | None = None) -> str:
    """Return the page of a run.

    Args:
        run: what its folder tells.
        size: how many examples of each kind are shown.
        explain: what each opens into.
        task: the run's model, which decodes and writes; None: no model is run.
    """
    of_task = _SECTIONS.get(run.task, generic_section)(run, size, explain)
    if not of_task:
        of_task = [section("What it gets right and wrong"), paragraph(_no_outputs(run))]
    if task is not None and run.task == "translation" and run.outputs:
        of_task += search_section(task, run.outputs)
    if task is not None and run.task == "language_model":
        of_task += sample_section(task)
    notes = [*run.notes, *filter(None, [explain.note()])]
    parts = [score_table([run]), *map(paragraph, notes), *curves([run]), *samples([run]), *of_task, *trained(run)]
    return page(run.name, _summary(run), parts, contents=True)


def _summary(run: StoredRun) -> str:
    """Say in a line what the run is, and what has come of it."""
    split = "test" if run.scores("test") else "dev"
    scores = run.scores(split)
    metric = str(run.training.get("metric", ""))
    name = metric if metric in scores and metric != "loss" else next((one for one in scores if one != "loss"), "")
    score = f" {name} {score_text(scores[name])} on {split};" if name else ""
    return f"A run of the task {run.task}:{score} {run.state}."


def _no_outputs(run: StoredRun) -> str:
    if not run.outputs:
        if not run.final:
            return "There are no examples: `dev.jsonl` is written when training ends; `seqkit resume` goes on with it."
        if run.training.get("keep_outputs") == 0:
            return "There are no examples: `training.keep_outputs` is 0."
        return (
            "There are no examples: the run folder has no `dev.jsonl` (no dev data, or an earlier version trained it)."
        )
    return "The records in `dev.jsonl` have no texts that could be shown."


def write_page(path: Path, text: str) -> Path:
    """Write a page, whole or not at all.

    Returns:
        the file.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_text(path, text)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    return path
