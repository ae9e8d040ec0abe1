"""What goes to standard output and comes from standard input, whatever their encoding is and whoever reads.

Two kinds of text leave here. Data (predictions, translations, JSON, YAML) are UTF-8 and unchanged in a file or a pipe.
Lines for a person are in the encoding that the stream has. What it cannot encode, and at a terminal what would steer
it, is written as an escape such as `\\x1b`, in both kinds.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from seqkit.errors import UserError, visible


class OutputFailed(Exception):
    """Standard output cannot be written, for another reason than that its reader has left."""


def prepare() -> None:
    """Make both outputs ones that take any text; called once, before a command runs."""
    if sys.stdout is None:  # the shell has closed it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def begin_data() -> None:
    """From now on standard output is UTF-8, unless it is a terminal, which knows what it can show."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def put(text: str, *, flush: bool = True) -> None:
    """Data, with a line end.

    Args:
        text: one line or several.
        flush: let the reader have it now.

    Raises:
        BrokenPipeError: the reader has left.
        OutputFailed: the disk is full, or such.
    """
    begin_data()
    _write(visible(text, lines=True) if sys.stdout.isatty() else text, flush)


def put_line(text: str) -> None:
    """A line for a person."""
    _write(visible(text), flush=False)


def _write(text: str, flush: bool) -> None:
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
    """Nobody takes what is left of the output: let it go nowhere, so that Python does not try again at its end."""
    with suppress(OSError, ValueError):  # it has no descriptor: it is in memory
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(message: object) -> None:
    """A message on standard error."""
    with suppress(OSError):  # then nobody can be told
        text = message.for_shell() if isinstance(message, UserError) else str(message)
        print(f"seqkit: {visible(text, lines=True)}", file=sys.stderr)
