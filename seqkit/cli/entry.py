"""`main`: runs a command and turns what went wrong into one line and an exit code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from seqkit.cli import doctor, runs, translation
from seqkit.cli.app import app
from seqkit.config import UserError, visible

# Commands register themselves when their module is imported; this is the order of the help page.
COMMANDS = (runs, translation, doctor)

# Click's base class of usage errors: newer versions of typer carry a click of their own, older ones import it.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; exits with 0, 1 (failed), 2 (your mistake), 129 (SIGHUP), 130 (Ctrl-C) or 143 (SIGTERM)."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torch would advise every process on settings that are meant
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    sys.exit(_guarded(lambda: _run(arguments)))


def _run(arguments: list[str] | None) -> Any:
    code = app(args=arguments, standalone_mode=False)
    sys.stdout.flush()  # here, where a reader that left is no mistake
    return code


def _guarded(call: Callable[[], Any]) -> int:
    try:
        code = call()
    except UserError as error:
        _show(error)
        return 2
    except _UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("seqkit: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as error:  # what typer makes of a broken pipe
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return _reader_left()
    except OSError as error:  # a full disk, a folder that may not be read
        _show(error)
        return 1
    except Exception as error:
        from seqkit import run

        if (why := run.device_trouble(error)) is not None:
            _show(why)
            return 1
        stopped = getattr(error, "exit_code", None)
        if stopped is None:
            raise
        if str(error):
            _show(error)
        else:  # another process says why, and torchrun ends them all as soon as one has left
            time.sleep(1)
        return int(stopped)
    return int(code or 0)


def _reader_left() -> int:
    """The reader of our output left, as `head` does: no mistake."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _show(message: object) -> None:
    """A message on standard error."""
    print(f"seqkit: {visible(str(message), lines=True)}", file=sys.stderr)
