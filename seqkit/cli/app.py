"""The application object, and what its commands share: arguments, and reading lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand

from seqkit._version import __version__
from seqkit.console import show_error, tell
from seqkit.errors import UserError, spelled
from seqkit.files import LONGEST_LINE, read_lines

Use = Literal["predict", "evaluate"]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Command(TyperCommand):
    """A command whose errors name options as the shell has them, and whose line in a list of commands is not cut."""

    def get_short_help_str(self, limit: int = 1000) -> str:
        return super().get_short_help_str(max(limit, 1000))

    def invoke(self, ctx: Any) -> Any:
        flags = {str(parameter.name): parameter.opts[0] for parameter in self.params}
        with spelled(flags):
            try:
                return super().invoke(ctx)
            except UserError as error:
                raise UserError(str(error)) from error  # it is shown outside


class Application(typer.Typer):
    """Typer's application, whose commands are ours."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[_Function], _Function]:
        """See `typer.Typer.command`."""
        return super().command(*arguments, cls=_Command, **options)


app = Application(
    help="Recurrent sequence models: train, resume, evaluate and use them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[Path, typer.Argument(help="A YAML file, such as configs/sentiment/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as name=first training.epochs=3.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/first.")]
Given = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE | KEY=VALUE", help="A file with one text a line; without it standard input. Options of the run."
    ),
]
HelpOptions = Annotated[bool, typer.Option("--help-options", help="List the options of this run, and exit.")]
# Flags that a command does not know are told how to be written as options of the run.
OPTIONS_OF_RUN = {"ignore_unknown_options": True}
Trust = Annotated[
    bool, typer.Option("--trust", help="Import code that a run folder names: cells and tasks that are your own.")
]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, mps, xpu, or cuda:1.")]


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        tell(__version__)
        raise typer.Exit


@contextmanager
def line_groups(file: Path | None) -> Iterator[Iterator[list[str]]]:
    """Yield the lines of a file or of standard input, in groups.

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
            show_error(f"reading from the terminal, one text a line; {end} it")
        yield _groups(source, str(file or "standard input"))


def _groups(source: IO[bytes], name: str, largest: int = 512) -> Iterator[list[str]]:
    """Yield lines in growing groups, so that the first answer comes soon and a long file goes fast.

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


def split_arguments(
    run_path: Path, use: Use, arguments: list[str] | None, trust: bool, help_options: bool = False, **how: Any
) -> tuple[Path | None, list[str]]:
    """Tell the input file from options: what has a `=` and names no file is an option of the run.

    Args:
        run_path: of the run.
        use: whose options they are.
        arguments: of the command line.
        trust: see `seqkit.load`.
        help_options: print the options, a line each, and end the command.
        how: see `seqkit.run.spelling`.

    Returns:
        the file, None for standard input, and the `KEY=VALUE` texts.

    Raises:
        UserError: two files; a flag that no command has, with how to write it.
    """
    from seqkit import run

    if help_options:
        for line in run.describe_options(run_path, use, trust=trust, **how):
            tell(line)
        raise typer.Exit
    files, options = list[Path](), list[str]()
    for text in arguments or []:
        if text.startswith("-") and text != "-" and not Path(text).exists():
            raise UserError(_as_option(run_path, use, text, trust, **how))
        if "=" in text and not Path(text).exists():
            options.append(text)
        else:
            files.append(Path(text))
    if len(files) > 1:
        raise UserError(f"{files[1]}: expected one FILE, and options as KEY=VALUE; got {files[0]} before it")
    return (files[0] if files else None), options


def split_runs(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Tell run folders from options of theirs, `KEY=VALUE`.

    Raises:
        UserError: a flag that no command has.
    """
    for text in arguments:
        if text.startswith("-") and not Path(text).exists():
            raise UserError(f"{text}: no such flag; --help lists them, and options of a run are written KEY=VALUE")
    options = [text for text in arguments if "=" in text and not Path(text).exists()]
    return [Path(text) for text in arguments if text not in options], options


def _as_option(run_path: Path, use: Use, flag: str, trust: bool, **how: Any) -> str:
    """Return what to say of a flag that the command lacks."""
    from seqkit import run

    name = flag.lstrip("-").partition("=")[0].replace("-", "_")
    if name == "no_unknown":
        return f"{flag}: write allow_unknown=false"
    if written := run.spelling(run_path, use, name, trust=trust, **how):
        return f"{flag}: no such flag; options of a run are written like {written}"
    return f"{flag}: neither a flag of this command nor an option of this run; --help and --help-options list them"
