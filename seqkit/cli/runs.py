"""Commands for every kind of run: train, resume, evaluate, predict, average, and a look at configurations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seqkit.cli.app import (
    OPTIONS_OF_RUN,
    Application,
    Config,
    Device,
    Given,
    HelpOptions,
    Overrides,
    RunPath,
    Trust,
    app,
    line_groups,
    split_arguments,
)
from seqkit.config import dump
from seqkit.console import finish, put, tell, tell_scores
from seqkit.errors import UserError
from seqkit.files import to_json

if TYPE_CHECKING:
    from seqkit.run import Run

configs = Application(help="Look at a configuration without running it.", no_args_is_help=True)
app.add_typer(configs, name="config")


@app.command(epilog="Example: seqkit train configs/sentiment/quickstart.yaml name=first training.epochs=3")
def train(
    config: Config,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run of the same name, once the new one has weights.")
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Train N times, with seeds from `seed` on, and print mean and deviation."),
    ] = None,
    trust: Trust = False,
) -> None:
    """Train what a YAML file describes, and score it."""
    from seqkit import report, run

    if seeds is None:
        _show(report.train(config, *(overrides or []), overwrite=overwrite, trust=trust))
        return

    def ended(seed: int, made: Run) -> None:
        report.summarise(made.folder)
        tell_scores(f"seed={seed} {'test' if made.test else 'dev'}", made.test or made.dev)

    found = run.train_seeds(config, overrides or [], seeds, overwrite=overwrite, trust=trust, ended=ended)
    for part, spreads in (("dev", found.dev), ("test", found.test)):
        for name, spread in spreads.items():
            tell(f"{part} {name}: mean {spread.mean:.4f}, standard deviation {spread.deviation:.4f}, {seeds} seeds")
    tell(f"summary: {found.file}")


@app.command(epilog="Example: seqkit resume runs/first training.epochs=20")
def resume(
    run_path: RunPath,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as training.epochs=20.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Go on with a run that was stopped or killed, from its last checkpoint."""
    from seqkit import report

    _show(report.resume(run_path, *(overrides or []), trust=trust))


def _show(finished: Run) -> None:
    """Say what a training has come to."""
    if finished.stopped:
        tell(finished.stopped)
    tell_scores("dev", finished.dev)
    tell_scores("test", finished.test)
    tell(f"run folder: {finished.folder}")
    tell(f"try it: {finished.example}")


@app.command(
    context_settings=OPTIONS_OF_RUN,
    epilog="Example: seqkit evaluate runs/first --data reviews.tsv",
)
def evaluate(
    run_path: RunPath,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Options of the run, such as beam_size=10.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A file with the columns of the training data; without it the run's test (or else dev) data."
        ),
    ] = None,
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print the scores.")] = "text",
    help_options: HelpOptions = False,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Score a run, or an exported folder, on its test data (or else dev), or on a file."""
    from seqkit import export, run

    exported = export.is_exported(run_path)
    how: dict[str, Any] = {"opener": export.open_exported} if exported else {}
    file, texts = split_arguments(run_path, "evaluate", options, trust, help_options, **how)
    if file is not None:
        raise UserError(f"{file}: expected an option, KEY=VALUE; a file of data is given with --data {file}")
    evaluate_it = export.evaluate if exported else run.evaluate
    scores, lines = evaluate_it(run_path, data, device, texts, trust=trust)
    if form == "json":
        put(to_json(run.counted(scores)))
        return
    for line in lines:
        tell(line)
    tell_scores("scores", scores)


@app.command(
    context_settings=OPTIONS_OF_RUN,
    epilog='Example: echo "the film is anything but dull ." | seqkit predict runs/first --format jsonl',
)
def predict(
    run_path: RunPath,
    given: Given = None,
    form: Annotated[
        Literal["text", "jsonl"], typer.Option("--format", help="The answer alone, or JSON with all that is known.")
    ] = "text",
    help_options: HelpOptions = False,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """One line out for each line in, blank lines included."""
    from seqkit import run

    file, texts = split_arguments(run_path, "predict", given, trust, help_options)
    with line_groups(file) as groups:
        task = run.load_predictor(run_path, device, texts, trust=trust)
        for rows in _rows(groups, task.read_line, str(file or "standard input")):
            for prediction in task.predict(rows):
                put(task.format(prediction, form), flush=False)
            finish()


def _rows(groups: Iterable[list[str]], read: Callable[[str], Any], name: str) -> Iterator[list[Any]]:
    """Yield lines as a task takes them; those before a bad one are still answered."""
    number = 0
    for lines in groups:
        rows = []
        for line in lines:
            number += 1
            try:
                rows.append(read(line))
            except UserError as error:
                yield rows
                raise error.at(f"{name}:{number}") from None
        yield rows


@app.command(epilog="Example: seqkit average runs/first --best 5 --to first-averaged")
def average(
    run_path: RunPath,
    best: Annotated[
        int | None, typer.Option(min=2, help="How many of the best checkpoints; without it all that were kept.")
    ] = None,
    name: Annotated[str | None, typer.Option("--to", help="Name of the new run; NAME-average without it.")] = None,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Make a run beside RUN whose weights are the mean of RUN's best checkpoints; both are scored on dev."""
    from seqkit import run

    made = run.average(run_path, best, name, device, trust=trust)
    tell_scores(f"dev, {run_path}", made.before)
    tell_scores(f"dev, mean of steps {', '.join(map(str, made.steps))}", made.after)
    tell(f"run folder: {made.folder}")


@configs.command(epilog="Example: seqkit config check my.yaml training.epochs=3")
def check(config: Config, overrides: Overrides = None, trust: Trust = False) -> None:
    """Say whether a configuration is valid; every mistake with its line."""
    from seqkit import run

    run.read_config(config, overrides or [], trust=trust)
    tell(f"{config}: valid")


@configs.command(epilog="Example: seqkit config show my.yaml")
def show(config: Config, overrides: Overrides = None, trust: Trust = False) -> None:
    """Print the whole configuration, inherited values and defaults filled in."""
    from seqkit import run

    put(dump(run.read_config(config, overrides or [], trust=trust)[0]).rstrip("\n"))


@configs.command(epilog="Example: seqkit config schema configs/sentiment/quickstart.yaml > schema.json")
def schema(config: Config, trust: Trust = False) -> None:
    """Print the JSON Schema of this kind of configuration, for editors."""
    from seqkit import run

    checked, _ = run.read_config(config, trust=trust)
    put(json.dumps(type(checked).model_json_schema(), indent=2))
