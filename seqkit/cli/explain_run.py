"""`seqkit explain`: why a run answers a text as it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seqkit.cli.app import Device, RunPath, Trust, app
from seqkit.console import put, tell
from seqkit.errors import Option, UserError, require
from seqkit.files import to_json, write_text

if TYPE_CHECKING:
    from seqkit.tasks import RunTask
    from seqkit.tasks.explain import Explanation


@app.command(epilog='Example: seqkit explain runs/first "the film is anything but dull ." --html why.html')
def explain(
    run_path: RunPath,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One text or several, each in quotes.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with pictures and the gate viewer, too.")
    ] = None,
    form: Annotated[
        Literal["text", "json"], typer.Option("--format", help="Tables, or one JSON object a text.")
    ] = "text",
    method: Annotated[
        Literal["auto", "gradients", "occlusion"],
        typer.Option(help="gradients: integrated gradients beside occlusion; auto: where captum is installed."),
    ] = "auto",
    units: Annotated[int, typer.Option(min=1, help="How many units of a layer the gate viewer shows at most.")] = 64,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Say which words decided, what was attended to, how surprising each token was, and what the gates kept."""
    from seqkit import run

    if html is not None:
        _check_page(html)
    task = run.load(run_path, device, trust=trust)
    explanations = task.explain(texts, method=method)
    if html is not None:  # first: whoever reads what is printed may close the pipe early
        write_text(html, _page(task, run_path.name, explanations, units))
    for place, explanation in enumerate(explanations):
        if form == "json":
            put(to_json(explanation.to_json()))
            continue
        if len(texts) > 1:
            tell(f"{'' if place == 0 else chr(10)}text: {explanation.text}")
        for line in explanation.lines():
            tell(line)
    if html is not None and form == "text":
        tell("")
        tell(f"page: {html}")


def _page(task: RunTask, run: str, explanations: Sequence[Explanation], units: int) -> str:
    """Return a page of explanations, each with its gates."""
    from seqkit.drawing import page, section

    parts = []
    for explanation in explanations:
        parts += [section(explanation.text if explanation.text.strip() else "(a blank text)"), explanation.html()]
        if explanation.kept:
            parts.append(task.trace(explanation.text).html(units=units))
    return page(f"Why {run} answers so", f"A {task.kind} run, explained.", parts)


def _check_page(file: Path) -> None:
    """Refuse, before a model is run, a page that could not be written."""
    option = Option("html", str(file))
    if file.suffix.lower() not in (".html", ".htm"):
        raise UserError(option, ": expected the name of an HTML file, such as ", file.with_suffix(".html").name)
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(option, ": is a folder" if file.is_dir() else f": no folder {file.parent}")
    require("jinja2", "html")
