"""The command line."""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NoReturn

import typer

from seqkit import __version__
from seqkit.config import UserError, dump

app = typer.Typer(
    help="Recurrent sequence models: train, resume, evaluate and use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
configs = typer.Typer(help="Look at a configuration without running it.", no_args_is_help=True)
app.add_typer(configs, name="config")

# Click's base class of usage errors: newer versions of typer carry a click of their own, older ones import it.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

Config = Annotated[Path, typer.Argument(help="A YAML file, such as configs/sentiment/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as name=first training.epochs=3.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/first.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog="Example: seqkit train configs/sentiment/quickstart.yaml name=first training.epochs=3")
def train(
    config: Config,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of the same name.")] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Train so many times, with seeds from `seed` on; print mean and deviation."),
    ] = None,
) -> None:
    """Train what a YAML file describes, and score it."""
    from seqkit import run

    if seeds is None:
        finished = run.train(config, *(overrides or []), overwrite=overwrite)
        _show("dev", finished.dev)
        _show("test", finished.test)
        print(f"run folder: {finished.folder}")
        print(f'try it: echo "not bad at all" | seqkit predict {finished.folder}')
        return
    runs = []
    for own in run.seed_configs(config, overrides or [], seeds, overwrite=overwrite):
        runs.append(run.train(config, *own, overwrite=overwrite))
        _show(f"{own[-2]} test" if runs[-1].test else f"{own[-2]} dev", runs[-1].test or runs[-1].dev)
    for part in ("dev", "test"):
        table = [getattr(one, part) for one in runs]
        for name in table[0]:
            values = [scores[name] for scores in table]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{part} {name}: mean {statistics.mean(values):.4f}, standard deviation {spread:.4f}, {seeds} seeds")


@app.command(epilog="Example: seqkit resume runs/first")
def resume(run_path: RunPath) -> None:
    """Go on with a run that was stopped, from its last checkpoint."""
    from seqkit import run

    finished = run.resume(run_path)
    _show("dev", finished.dev)
    _show("test", finished.test)
    print(f"run folder: {finished.folder}")


@app.command(epilog="Example: seqkit evaluate runs/first --data reviews.tsv")
def evaluate(
    run_path: RunPath,
    data: Annotated[
        str | None, typer.Option(help="A file with the columns of the training data; the run's test data without it.")
    ] = None,
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print the scores.")] = "text",
    device: Device = "auto",
) -> None:
    """Score a run on its test data, or on a file."""
    from seqkit import run

    scores, lines = run.evaluate(run_path, data, device)
    if form == "json":
        print(json.dumps(scores))
        return
    for line in lines:
        print(line)
    _show("scores", scores)


@app.command(epilog='Example: echo "not bad at all" | seqkit predict runs/first --format jsonl')
def predict(
    run_path: RunPath,
    file: Annotated[Path | None, typer.Argument(help="One text a line; standard input without it.")] = None,
    form: Annotated[
        Literal["text", "jsonl"], typer.Option("--format", help="The label alone, or JSON with probabilities.")
    ] = "text",
    device: Device = "auto",
) -> None:
    """One line out for each line in, blank lines included."""
    from seqkit import run

    try:
        opened = file.open("rb") if file else nullcontext(sys.stdin.buffer)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    task = run.load(run_path, device)
    with opened as source:
        for lines in _chunks(source, str(file or "standard input")):
            for prediction in task.predict(lines):
                sys.stdout.write(task.format(prediction, form) + "\n")
            sys.stdout.flush()


def _chunks(source: IO[bytes], name: str, largest: int = 512) -> Iterator[list[str]]:
    """Lines in growing groups, so that the first answer comes soon and a long file goes fast."""
    size, lines = 1, []
    for number, raw in enumerate(source, 1):
        try:
            lines.append(raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError as error:
            yield lines
            raise UserError(f"{name}:{number}: not UTF-8 text (byte {error.start} of the line)") from None
        if len(lines) >= size:
            yield lines
            size, lines = min(size * 2, largest), []
    if lines:
        yield lines


@configs.command(epilog="Example: seqkit config check my.yaml training.epochs=3")
def check(config: Config, overrides: Overrides = None) -> None:
    """Say whether a configuration is valid; every mistake with its line."""
    from seqkit import run

    run.read_config(config, overrides or [])
    print(f"{config}: valid")


@configs.command(epilog="Example: seqkit config show my.yaml")
def show(config: Config, overrides: Overrides = None) -> None:
    """Print the whole configuration, inherited values and defaults filled in."""
    from seqkit import run

    print(dump(run.read_config(config, overrides or [])[0]), end="")


@configs.command(epilog="Example: seqkit config schema configs/sentiment/quickstart.yaml > schema.json")
def schema(config: Config) -> None:
    """Print the JSON Schema of this kind of configuration, for editors."""
    from seqkit import run

    checked, _ = run.read_config(config)
    print(json.dumps(type(checked).model_json_schema(), indent=2))


def _show(title: str, scores: dict[str, float]) -> None:
    if scores:
        print(f"{title}: " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; exits with 0, 1 (failed), 2 (your mistake), 130 (Ctrl-C) or 143 (SIGTERM)."""
    sys.exit(_guarded(lambda: app(args=arguments, standalone_mode=False)))


def _guarded(call: Callable[[], Any]) -> int:
    try:
        code = call()
    except UserError as error:
        print(f"seqkit: {error}", file=sys.stderr)
        return 2
    except _UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("seqkit: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that may not be read
        print(f"seqkit: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if "alloc" in str(error) and isinstance(error, (MemoryError, RuntimeError)):
            print(f"seqkit: not enough memory: {str(error).splitlines()[0]}", file=sys.stderr)
            return 1
        stopped = getattr(error, "exit_code", None)
        if stopped is None:
            raise
        print(f"seqkit: {error}", file=sys.stderr)
        return int(stopped)
    return int(code or 0)
