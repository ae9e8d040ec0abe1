"""What a command ends with: its exit code, its last lines, and what it allows without being asked."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import seqkit
from seqkit import distributed, run, serve
from seqkit.cli import entry
from seqkit.cli import serve as serve_command
from seqkit.cli.app import _groups, app, split_arguments
from seqkit.cli.runs import _rows, _show
from seqkit.console import OutputFailed
from seqkit.errors import Stopped, UserError

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


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows when the rest of the output is let go."""
    found: list[bool] = []
    monkeypatch.setattr(entry, "give_up", lambda: found.append(True))
    return found


def left_by(error: BaseException) -> BaseException:
    """What typer makes of a broken pipe: it leaves, which is raised while the other error is handled."""
    try:
        try:
            raise error
        except type(error):
            raise SystemExit(1)  # noqa: B904
    except SystemExit as left:
        return left


@pytest.mark.parametrize(
    ("error", "code", "says", "lets_go"),
    [
        (UserError("no such run"), 2, "seqkit: no such run\n", False),
        (typer.BadParameter("not 1\x1b"), 2, "not 1\\x1b", False),
        (KeyboardInterrupt(), 130, "seqkit: stopped\n", False),
        (typer.Abort(), 130, "seqkit: stopped\n", False),
        (BrokenPipeError(), 0, "", True),
        (left_by(BrokenPipeError()), 0, "", True),
        (OutputFailed("standard output cannot be written"), 1, "seqkit: standard output cannot", True),
        (PermissionError(13, "Permission denied", "a.txt"), 1, "Permission denied: 'a.txt'", False),
        (Stopped("stopped after step 3", 143), 143, "stopped after step 3", False),
    ],
)
def test_every_end_has_its_exit_code_and_its_line(
    error: BaseException, code: int, says: str, lets_go: bool, given_up: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    def call() -> None:
        raise error

    assert entry._guarded(call) == code
    said = capsys.readouterr().err
    assert says in said
    assert bool(said) == bool(says)
    assert given_up == [True] * lets_go


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (130, 130)])
def test_what_a_command_returns_is_its_exit_code(
    returned: int | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry._guarded(lambda: returned) == code
    assert ("stopped" in capsys.readouterr().err) == (code == 130)


def test_another_reason_to_leave_is_not_kept() -> None:
    with pytest.raises(SystemExit) as left:
        entry._guarded(lambda: (_ for _ in ()).throw(left_by(ValueError())))
    assert left.value.code == 1


@pytest.mark.parametrize(("app_code", "end_code", "code"), [(0, 0, 0), (3, 0, 3), (0, 1, 1), (3, 1, 1)])
def test_output_that_fails_at_the_end_is_an_error(
    app_code: int, end_code: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def called(**given: Any) -> int:
        asked.append(given)
        return app_code

    def finish() -> None:
        if end_code:
            raise OutputFailed("full")

    for name, value in {"app": called, "finish": finish, "prepare": lambda: None, "give_up": lambda: None}.items():
        monkeypatch.setattr(entry, name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(SystemExit) as left:
        entry.main(["docs"])
    assert left.value.code == code
    assert asked == [{"args": ["docs"], "standalone_mode": False}]


def defaults(function: Callable[..., object]) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def test_a_command_and_the_function_behind_it_have_the_same_defaults() -> None:
    import dataclasses

    from seqkit import report
    from seqkit.export import export

    same = {name: getattr(run, name) for name in ("resume", "evaluate", "average", "compare")}
    same |= {"train": report.train, "export": export, "report": report.report, "serve": serve.serve}
    commands = {command.callback.__name__: command.callback for command in app.registered_commands}  # type: ignore[union-attr]
    for name, function in same.items():
        here, there = defaults(commands[name]), defaults(function)
        shared = (here.keys() & there.keys()) - {"options"}  # None on the one side, nothing on the other
        assert "trust" in shared
        assert {key: here[key] for key in shared} == {key: there[key] for key in shared}, name
    limits = {f"max_{field.name}": field.default for field in dataclasses.fields(serve.Limits)}
    served = defaults(serve_command.serve)
    assert {name: value for name, value in served.items() if name.startswith("max_")}.items() <= limits.items()
    assert served["port"] == 8000


def test_a_line_that_a_task_cannot_read_is_counted_from_1_over_all_groups() -> None:
    def read(line: str) -> str:
        if line == "bad":
            raise UserError("no JSON")
        return line.upper()

    rows: Iterator[list[str]] = _rows([["a"], ["b", "c"], ["d", "bad", "e"]], read, "in.jsonl")
    assert [next(rows) for _ in range(3)] == [["A"], ["B", "C"], ["D"]]
    with pytest.raises(UserError, match=r"^in\.jsonl:5: no JSON$"):
        next(rows)


def test_lines_are_those_of_the_file_but_for_their_ends_and_one_mark_of_order() -> None:
    lines = ["\ufeff a \t\n", "\ufeffb\x0b\r\n", "\n", "c"]
    groups = list(_groups(io.BytesIO("".join(lines).encode()), "in.txt"))
    assert [line for group in groups for line in group] == [" a \t", "\ufeffb\x0b", "", "c"]
    assert [len(group) for group in groups] == [1, 2, 1]
    with pytest.raises(UserError, match=r"^in\.txt:3: not UTF-8 text \(byte 1 of the line\)"):
        list(_groups(io.BytesIO(b"a\nb\nc\xff\n"), "in.txt"))


def test_a_file_may_have_a_name_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=b", "-x"):
        Path(name).touch()
        assert split_arguments(Path("run"), "predict", [name, "c=d"], False) == (Path(name), ["c=d"])
    assert split_arguments(Path("run"), "predict", ["-"], False) == (Path("-"), [])
    with pytest.raises(UserError, match="expected one FILE"):
        split_arguments(Path("run"), "predict", ["a=b", "-x"], False)
