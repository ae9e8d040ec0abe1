"""All that seqkit prints: lines, bars and tables for a person, and data for a program.

Data (predictions, translations, JSON, YAML) are UTF-8 and unchanged in a file or a pipe. Lines for a person are in the
encoding of the stream. What the stream cannot encode, and at a terminal what would steer it, is written as an escape
such as `\\x1b`, in both kinds. Of several processes only the first one prints; the others have called `mute`.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from tqdm import tqdm

from seqkit.errors import visible


class OutputFailed(Exception):
    """Standard output cannot be written, although its reader is still there."""


_muted = False


def mute() -> None:
    """Print nothing from now on but errors: another process of the same job prints."""
    global _muted
    _muted = True


def prepare() -> None:
    """Let both outputs take any text; called once, before a command runs."""
    if sys.stdout is None:  # the shell has closed it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# --- lines for a person -----------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line about the work in progress on standard error, above a bar where there is one.

    A notebook, which shows standard error as if something had failed, gets it on standard output. Control characters,
    which may come from data, are escaped.
    """
    if not _muted:
        with suppress(OSError):  # a training goes on where nobody listens any more
            tqdm.write(visible(text), file=sys.stdout if in_notebook() else sys.stderr)


def in_notebook() -> bool:
    """Return whether the program runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and getattr(shell, "kernel", None) is not None


if in_notebook():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm's, that ipywidgets is missing; it comes whoever imports this first
        from tqdm import auto  # noqa: F401


def tell(text: str) -> None:
    """Print a line of results on standard output, control characters escaped.

    Raises:
        BrokenPipeError, OutputFailed: see `put`.
    """
    _write(visible(text), flush=False)


def tell_scores(title: str, scores: Mapping[str, float]) -> None:
    """Print named numbers in a line, with the number of examples they are of; nothing where there are no numbers."""
    if scores:
        tell(scores_line(title, scores))


def scores_line(title: str, scores: Mapping[str, float]) -> str:
    """Return named numbers as a line, with the number of examples they are of."""
    note = getattr(scores, "note", str)()
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    return f"{title}: {numbers}" + (f"  of {note}" if note else "")


def show_error(message: object) -> None:
    """Print an error on standard error, in every process."""
    with suppress(OSError):  # then nobody can be told
        print(f"seqkit: {visible(str(message), lines=True)}", file=sys.stderr)


def bar(total: int | None, done: int = 0, unit: str = "step") -> tqdm[NoReturn]:
    """Show a progress bar on standard error; only a terminal gets one, and a notebook one of its own."""
    if in_notebook() and not _muted:
        from tqdm.auto import tqdm as notebook_bar  # without ipywidgets a bar of text

        return notebook_bar(total=total, initial=done, unit=unit, file=sys.stdout)
    hidden = _muted or not sys.stderr.isatty()
    return tqdm(total=total, initial=done, unit=unit, disable=hidden, dynamic_ncols=True, file=sys.stderr)


def duration(seconds: float) -> str:
    """Return a time as `MM:SS` or `H:MM:SS`."""
    return tqdm.format_interval(seconds)


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Return the lines of a table whose columns are aligned on the left, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return [(indent + "  ".join(row)).rstrip() for row in cells]


# --- data for a program -----------------------------------------------------------------------------------------------


def begin_data() -> None:
    """Make standard output UTF-8 from now on, unless it is a terminal, which knows what it can show."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def put(text: str, *, flush: bool = True) -> None:
    """Print data, with a line end.

    Args:
        text: one line or several.
        flush: let the reader have it now.

    Raises:
        BrokenPipeError: the reader has left.
        OutputFailed: the disk is full, or the like.
    """
    begin_data()
    _write(visible(text, lines=True) if sys.stdout.isatty() else text, flush)


def _write(text: str, flush: bool) -> None:
    if not _muted:
        with _failures():
            sys.stdout.write(text + "\n")
            if flush:
                sys.stdout.flush()


def finish() -> None:
    """Write what is still to be written.

    Raises:
        BrokenPipeError, OutputFailed: see `put`.
    """
    with _failures():
        sys.stdout.flush()


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"standard output cannot be written ({error.strerror})") from None


def give_up() -> None:
    """Let the rest of the output go nowhere, so that Python does not try to write it at its end."""
    with suppress(OSError, ValueError):  # it has no descriptor: it is in memory
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
