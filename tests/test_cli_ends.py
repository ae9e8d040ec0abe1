"""What a command ends with: its exit code, its last lines, and what it allows without being asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

import seqkit
from seqkit import distributed, run
from seqkit.cli import entry
from seqkit.cli.runs import _show
from seqkit.errors import Stopped

PUBLIC: list[Callable[..., object]] = [
    *(value for name in run.__all__ if inspect.isfunction(value := getattr(run, name))),
    seqkit.train,
    seqkit.load,
]


@pytest.mark.parametrize("name", ["trust", "overwrite"])
def test_nothing_dangerous_is_allowed_by_default(name: str) -> None:
    """Importing a stranger's code, and replacing a run."""
    signatures = [inspect.signature(function).parameters for function in PUBLIC]
    defaults = [parameters[name].default for parameters in signatures if name in parameters]
    assert len(defaults) >= 3
    assert all(default is False for default in defaults)


def test_what_a_training_has_come_to_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _show(run.Run(Path("runs/a"), {"loss": 0.5}, {}, "echo x | seqkit predict runs/a", "stopped early: why"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stopped early: why"
    assert lines[-2:] == ["run folder: runs/a", "try it: echo x | seqkit predict runs/a"]
    _show(run.Run(Path("runs/a"), {"loss": 0.5}, {}, "x"))
    assert len(capsys.readouterr().out.splitlines()) == len(lines) - 1


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RuntimeError("Connection closed by peer [127.0.0.1]:1234"), 1, distributed.GONE),
        (Stopped("stopped after step 3; everything is saved", 143), 143, "everything is saved"),
        (Stopped("", 130), 130, ""),  # another process says why
    ],
)
def test_other_errors_have_an_exit_code_of_their_own(
    error: Exception, code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(entry.time, "sleep", waited.append)
    monkeypatch.setattr(distributed, "is_lost", lambda error: "Connection closed" in str(error))
    assert entry._other(error) == code
    assert says in capsys.readouterr().err
    assert bool(waited) == (not str(error))


def test_an_error_of_the_program_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        entry._other(ZeroDivisionError())
