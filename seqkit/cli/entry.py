"""`main`: runs a command and turns what went wrong into one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import typer

from seqkit.cli import docs, doctor, explain, explain_run, export, lessons, report, runs, serve, translation
from seqkit.cli.app import app
from seqkit.console import OutputFailed, finish, give_up, prepare, show_error
from seqkit.errors import UserError, visible

# Commands register themselves when their module is imported; this is the order of the help page.
COMMANDS = (runs, explain, explain_run, translation, report, serve, export, doctor, lessons, docs)
app.registered_commands.sort(key=lambda command: COMMANDS.index(sys.modules[command.callback.__module__]))

# Click's base class of usage errors: newer versions of typer carry a click of their own, older ones import it.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; exits with 0, 1 (failed), 2 (your mistake), 129 (SIGHUP), 130 (Ctrl-C) or 143 (SIGTERM)."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torch would advise every process on settings that are meant
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    prepare()
    code = _guarded(lambda: app(args=arguments, standalone_mode=False))
    sys.exit(_guarded(finish) or code)


def _guarded(call: Callable[[], Any]) -> int:
    try:
        code = call()
        if code == 130:  # what newer versions of typer make of Ctrl-C
            raise KeyboardInterrupt
    except UserError as error:
        show_error(error)
        return 2
    except _UsageError as error:
        text = io.StringIO()
        error.show(text)
        with suppress(OSError):
            print(visible(text.getvalue(), lines=True), end="", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        show_error("stopped")
        return 130
    except BrokenPipeError:
        give_up()
        return 0
    except SystemExit as error:  # what typer makes of a broken pipe
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        give_up()
        return 0
    except OutputFailed as error:
        show_error(error)
        give_up()
        return 1
    except OSError as error:  # a full disk, a folder that may not be read
        show_error(error)
        return 1
    except Exception as error:
        return _other(error)
    return int(code or 0)


def _other(error: Exception) -> int:
    """Return what to exit with for an error that has a reason to be told; others are raised."""
    from seqkit import distributed
    from seqkit.training.devices import device_trouble

    if (why := device_trouble(error)) is not None:
        show_error(why)
        return 1
    if distributed.is_lost(error):
        show_error(f"{distributed.GONE}; where the run folder has a checkpoint, `seqkit resume RUN` goes on from it")
        return 1
    stopped = getattr(error, "exit_code", None)
    if stopped is None:
        raise error
    if str(error):
        show_error(error)
    else:  # another process says why, and torchrun ends them all as soon as one has left
        time.sleep(1)
    return int(stopped)
