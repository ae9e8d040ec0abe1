"""Commands for translation runs: translate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from seqkit.cli.app import (
    OPTIONS_OF_RUN,
    Device,
    Given,
    HelpOptions,
    RunPath,
    Trust,
    app,
    line_groups,
    split_arguments,
)
from seqkit.console import finish, put, tell
from seqkit.errors import UserError


@app.command(
    context_settings=OPTIONS_OF_RUN,
    epilog="Example: seqkit translate runs/first news.de beam_size=5 length_penalty=1 > news.en",
)
def translate(
    run_path: RunPath,
    given: Given = None,
    ensemble: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="One more run to decode with; may be given several times.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What every translation begins with.")] = "",
    form: Annotated[
        Literal["text", "jsonl"], typer.Option("--format", help="The text, or JSON with tokens and log-probabilities.")
    ] = "text",
    alignments: Annotated[
        bool, typer.Option("--alignments", help="Add the most attended source token of each: `||| source-target ...`.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the attention of the first line that is not blank (.png, .pdf, .svg)."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most sentences decoded together.")] = 64,
    help_options: HelpOptions = False,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Translate: `predict` for translation runs. One line out for each line in, in order, blank lines included."""
    from seqkit import run

    file, texts = split_arguments(run_path, "predict", given, trust, help_options)
    attention = {"attention": True} if alignments or plot is not None else {}
    with line_groups(file) as groups:
        task = run.load_translator(
            run_path,
            ensemble or [],
            device,
            texts,
            trust=trust,
            prefix=prefix,
            batch_size=batch_size,
            **attention,
        )
        if plot is not None:
            task.check_plot(plot)
        _write(task, groups, form, alignments, plot)


def _write(task: Any, groups: Any, form: str, alignments: bool, plot: Path | None) -> None:
    number = 0
    for lines in groups:
        for found in task.predict(lines):
            put(task.format(found, form, number=number, alignments=alignments), flush=False)
            number += 1
            if plot is not None and found.tokens:
                task.plot(found, plot)
                plot = None
        finish()
    if plot is not None:
        raise UserError("--plot: there is no sentence to draw")


@app.command(context_settings=OPTIONS_OF_RUN, epilog="Example: seqkit compare runs/first runs/second")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="The baseline.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="What is compared with it.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[reference=FILE]", help="The text file of references, if --data has sources alone."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A file with both columns, or with reference=FILE a text file of sources.")
    ] = None,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Test whether one translation run is better than another: paired bootstrap on test data (Koehn 2004)."""
    from seqkit import run

    file, texts = split_arguments(first, "evaluate", options, trust)
    if file is not None:
        raise UserError(f"{file}: expected two runs, and reference=FILE; got a third argument")
    for line in run.compare(first, second, data, device, texts, trust=trust):
        tell(line)
