"""A name belongs to one process while a run of it is made, and to nobody when that process has ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit import run
from seqkit.errors import Stopped, UserError
from seqkit.files import exchange
from seqkit.run.doctor import doctor
from seqkit.tasks.slots.task import SlotsTask
from seqkit.training.reservation import Reservation, clear, reserve
from seqkit.training.run_folder import RunFolder
from seqkit.training.update import NotFinite, Updater


def test_a_folder_of_runs_that_vanishes_while_it_is_swept_has_nothing_to_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanished(path: Path, pattern: str) -> Iterator[Path]:
        raise FileNotFoundError(path)
        yield path

    monkeypatch.setattr(Path, "glob", vanished)
    with reserve("r", "slots", root=tmp_path) as reservation:
        assert reservation.path == tmp_path / "r"


def test_run_folders(tmp_path: Path) -> None:
    def create(name: str | None, overwrite: bool = False) -> RunFolder:
        with reserve(name, "sentiment", root=tmp_path, overwrite=overwrite) as reserved:
            with reserved.made() as folder:
                pass
            if folder.take_place():
                folder.move(reserved.path)
        return folder

    assert create(None).path.name == "sentiment-1"
    assert create(None).path.name == "sentiment-2"
    for bad in ("../up", "a/b", "", ".hidden", "a b"):
        with pytest.raises(UserError, match="not a plain name"):
            create(bad)
    named = create("x")
    with pytest.raises(UserError, match=r"exists already.*seqkit resume.*overwrite=True"):
        create("x")
    with pytest.raises(UserError, match="not a run folder of seqkit"):
        create("x", overwrite=True)
    with pytest.raises(UserError, match=r"half-written: run\.json"):
        RunFolder.open(named.path)
    named.describe({})
    with pytest.raises(UserError, match=r"config\.yaml is missing"):
        RunFolder.open(named.path)
    named.config.write_text("task: a\n")
    assert RunFolder.open(named.path).path == named.path
    assert not create("x", overwrite=True).config.exists()
    (tmp_path / "x/run.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="newer seqkit"):
        RunFolder.open(tmp_path / "x")
    with pytest.raises(UserError, match=r"no such run folder; did you mean '.*/x'"):
        RunFolder.open(tmp_path / "X")
    with pytest.raises(
        UserError, match="no such run folder"
    ):  # its folder is there, but no name in it can be long enough
        RunFolder.open("../" * 1360 + "abcdefghijklmn")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the run folder"):
        reserve("deep", "", root=tmp_path / "file")


def make(path: Path, content: str, failure: BaseException | None = None) -> None:
    with reserve(path.name, "", root=path.parent, overwrite=True) as reserved:
        with reserved.made() as new:
            new.config.write_text(content)
            new.describe({})
            if failure:
                raise failure
        new.take_place()


def test_a_run_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for name in (".x.99999.new", ".x~new"):  # of processes that were killed
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / ".x~lock").write_text("99999 here")
    with pytest.raises(KeyboardInterrupt):
        make(path, "half", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
    make(path, "first")
    with pytest.raises(OSError, match="full"):
        make(path, "half", OSError(28, "full"))
    folder = RunFolder.open(path)
    with folder.locked(), pytest.raises(UserError, match=f"process {os.getpid()} is training in this folder"):
        make(path, "second")
    assert folder.config.read_text() == "first"
    make(path, "second")
    assert folder.config.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_what_gets_the_name_by_another_way_is_not_replaced(tmp_path: Path) -> None:
    """Reserved as free, with and without --overwrite: what lies there in the end was put there by somebody else."""
    for overwrite in (False, True):
        path = tmp_path / f"y{overwrite}"
        with reserve(path.name, "", root=tmp_path, overwrite=overwrite) as reserved:
            path.mkdir()
            (path / "run.json").write_text("{}")
            made = reserved.made()
            made.__enter__()
            with pytest.raises(UserError, match="another process has just taken this name"):
                made.__exit__(None, None, None)
        assert (path / "run.json").read_text() == "{}"
        assert not list(tmp_path.glob(".*"))


def test_a_link_to_a_run_is_not_replaced(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere/x", "kept")
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere/x")
    with pytest.raises(UserError, match="x: this is not a run folder of seqkit; overwrite does not touch it"):
        make(tmp_path / "x", "new")
    assert (tmp_path / "x/config.yaml").read_text() == "kept"


def test_what_is_no_run_any_more_is_not_replaced(tmp_path: Path) -> None:
    """Looked at again at the moment of the exchange."""
    make(tmp_path / "x", "old")
    with reserve("x", "", root=tmp_path, overwrite=True) as reserved:
        with reserved.made() as new:
            new.describe({})
        (tmp_path / "x/run.json").unlink()
        with pytest.raises(UserError, match="not a run folder of seqkit"):
            new.take_place()
    assert (tmp_path / "x/config.yaml").read_text() == "old"


def test_a_mistake_after_the_reservation_leaves_nothing_behind(tmp_path: Path) -> None:
    with reserve("x", "", root=tmp_path / "a/b") as reserved:
        assert [path.name for path in reserved.path.parent.iterdir()] == [".x~lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_reserved_name_is_refused_or_passed_over(tmp_path: Path) -> None:
    """Another open file stands for another process: that is how flock counts."""
    with reserve("x", "", root=tmp_path), reserve(None, "kind", root=tmp_path) as unnamed:
        for overwrite in (False, True):
            with pytest.raises(UserError, match=f"x: process {os.getpid()} is making this run"):
                reserve("x", "", root=tmp_path, overwrite=overwrite)
        assert unnamed.path.name == "kind-1"
        with reserve(None, "kind", root=tmp_path) as other, reserve("kind-3", "", root=tmp_path):
            assert other.path.name == "kind-2"
            with reserve(None, "kind", root=tmp_path) as fourth:
                assert fourth.path.name == "kind-4"
        clear(tmp_path / "x")  # a resume of an earlier run of this name does not take the lock away
        assert (tmp_path / ".x~lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_that_name_is_meant_before_a_folder_of_a_like_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "firsts").mkdir()
    (tmp_path / "runs/first").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^first: no such run folder; did you mean 'runs/first'"):
        RunFolder.open("first")


def test_hidden_names_are_no_suggestions(tmp_path: Path) -> None:
    (tmp_path / ".first~new").mkdir()
    with pytest.raises(UserError) as error:
        RunFolder.open(tmp_path / "first~new")
    assert "did you mean" not in str(error.value)


@settings(max_examples=20)
@given(st.lists(st.sampled_from([None, "a", "a.5", "kind-1"]), min_size=2, max_size=8))
def test_threads_that_start_together_get_different_names(
    tmp_path_factory: pytest.TempPathFactory, names: list[str | None]
) -> None:
    root = tmp_path_factory.mktemp("runs") / "runs"
    barrier = threading.Barrier(len(names))
    held: list[Reservation] = []
    refused: list[str] = []

    def start(name: str | None) -> None:
        barrier.wait()
        try:
            held.append(reserve(name, "kind", root=root))
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ExitStack() as stack:
        for reserved in held:
            stack.enter_context(reserved)
        paths = [reserved.path.name for reserved in held]
        assert len(set(paths)) == len(paths)
        assert len(held) + len(refused) == len(names)
        assert {name for name in names if name} <= set(paths)
        for reserved in held:
            with reserved.made() as new:
                new.config.write_text(reserved.path.name)
    assert sorted(path.name for path in root.iterdir()) == sorted(paths)
    assert all((root / name / "config.yaml").read_text() == name for name in paths)


def test_threads_that_come_and_go_never_share_a_name(tmp_path: Path) -> None:
    """Locks and the folder of runs are made and deleted all the time."""
    inside: set[Path] = set()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(60):
                with reserve(None, "kind", root=tmp_path / "runs") as reserved:
                    assert reserved.path not in inside
                    inside.add(reserved.path)
                    time.sleep(0.0003)
                    inside.remove(reserved.path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_every_file_of_a_run_has_the_mode_that_the_umask_gives(
    generated_data: Path, small: Trees, tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        for number, name in enumerate(("made", "replaced")):
            tree = small(keep_best=2, evaluate_every=2)
            tree["data"]["dev"] = str(generated_data / "snips/dev.jsonl")
            folder = run.train({**tree, "seed": number + 1}, root=tmp_path, overwrite=name == "replaced").folder
            run.resume(folder)
            mean = run.average(folder, name=name).folder
            for path in (*folder.rglob("*"), *mean.rglob("*")):
                assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path
    finally:
        os.umask(before)


# --- replacing a run ------------------------------------------------------------------------------------------------


Trees = Callable[..., dict[str, Any]]


@pytest.fixture
def small(small_run: Trees) -> Trees:
    """Of four updates, with a checkpoint after the second."""
    return partial(small_run, steps=4, checkpoint_every=2)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def seed_of(folder: Path) -> int:
    return int(RunFolder.open(folder).about()["config"]["seed"])


@contextmanager
def at_update(number: int, call: Callable[[], object]) -> Iterator[None]:
    """Call before an update, numbered from 0."""
    update = Updater.__call__

    def changed(self: Updater, window: Any, step: int, *rest: Any) -> Any:
        if step == number:
            call()
        return update(self, window, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updater, "__call__", changed)
        yield


@pytest.fixture
def old(small: Trees, tmp_path: Path) -> Path:
    """A finished run of seed 1."""
    return run.train({**small(), "seed": 1}, root=tmp_path).folder


@pytest.mark.parametrize("error", [RuntimeError("broke"), KeyboardInterrupt()])
@pytest.mark.parametrize("early", ["data", "update"])
def test_a_new_run_that_dies_early_leaves_the_old_one(
    old: Path, small: Trees, monkeypatch: pytest.MonkeyPatch, early: str, error: BaseException
) -> None:
    before = content(old)

    def die(*arguments: Any) -> None:
        raise error

    with at_update(1, die):
        if early == "data":
            monkeypatch.setattr(SlotsTask, "report", die)
        with pytest.raises(type(error)):
            run.train({**small(), "seed": 2}, root=old.parent, overwrite=True)
    assert content(old) == before
    assert list(old.parent.iterdir()) == [old]


def test_a_name_means_the_old_run_until_the_new_one_has_weights(
    old: Path, small: Trees, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, int]] = []

    def look(step: int) -> None:
        assert run.load(old) is not None
        resumed = run.resume(old) if step == 1 else None
        assert resumed is None or resumed.folder == old
        seen.append((step, seed_of(old)))

    with ExitStack() as stack:
        for step in range(4):
            stack.enter_context(at_update(step, lambda step=step: look(step)))  # type: ignore[misc]
        found = run.train({**small(), "seed": 2}, root=old.parent, overwrite=True)
    assert seen == [(0, 1), (1, 1), (2, 2), (3, 2)]
    assert found.folder == old
    assert f"run folder: {old} (still the earlier run" in capsys.readouterr().err
    assert json.loads((old / "scores.json").read_text())["step"] == 4
    assert list(old.parent.iterdir()) == [old]
    with RunFolder(old).locked():  # given back
        pass


def test_a_name_is_said_in_messages_and_not_the_hidden_one(old: Path, small: Trees) -> None:
    for step, kept in ((1, "is still the earlier run"), (3, f"`seqkit resume {old}` goes on")):

        def spoil() -> None:
            raise OSError(28, "full")

        with at_update(step, spoil), pytest.raises(Stopped) as stopped:
            run.train({**small(), "seed": 2}, root=old.parent, overwrite=True)
        assert kept in str(stopped.value)
        assert "~" not in str(stopped.value)


def test_a_loss_that_is_not_finite_early_says_what_is_kept(old: Path, small: Trees) -> None:
    def spoil(self: Any, *arguments: Any, **named: Any) -> Any:
        raise NotFinite("loss", float("nan"), None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updater, "__call__", spoil)
        with pytest.raises(Stopped, match=r"still the earlier run\. In a new run, a lower"):
            run.train({**small(), "seed": 2}, root=old.parent, overwrite=True)
    assert seed_of(old) == 1


def test_a_run_that_somebody_resumes_is_replaced_when_that_has_ended(
    old: Path, small: Trees, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = RunFolder(old)
    monkeypatch.setattr(time, "sleep", lambda seconds: other.unlock() if seconds == 1 else None)
    with at_update(1, other.lock), at_update(3, lambda: seeds.append(seed_of(old))):
        seeds: list[int] = []
        run.train({**small(), "seed": 2}, root=old.parent, overwrite=True)
    assert seeds == [1]
    assert seed_of(old) == 2
    assert (
        capsys.readouterr().err.count(
            "is training in this folder; the new run takes its place when that process has ended"
        )
        == 1
    )
    assert list(old.parent.iterdir()) == [old]


def test_a_stop_while_somebody_resumes_the_old_run_says_what_is_kept(old: Path, small: Trees) -> None:
    other = RunFolder(old)
    before = content(old)
    stop = at_update(1, lambda: (other.lock(), os.kill(os.getpid(), signal.SIGTERM)))
    with stop, pytest.raises(Stopped, match=r"nothing of it was saved, and .*r is still the earlier run") as stopped:
        run.train({**small(), "seed": 2}, root=old.parent, overwrite=True)
    other.unlock()
    assert stopped.value.exit_code == 143
    assert content(old) == before
    assert list(old.parent.iterdir()) == [old]


def test_tensorboard_follows_a_run_to_its_name(old: Path, small: Trees) -> None:
    pytest.importorskip("tensorboard")
    tree = {**small(tensorboard=True, log_every=1), "seed": 2}
    run.train(tree, root=old.parent, overwrite=True)
    assert list((old / "tensorboard").iterdir())
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("look", [RunFolder.open, run.load, run.evaluate, run.resume, doctor])
def test_a_kill_between_two_renames_is_mended_by_whoever_looks(
    old: Path, generated_data: Path, look: Callable[[Path], object]
) -> None:
    """Where a file system cannot change two names in one step."""
    shutil.copytree(old, old.with_name(".r~new"))
    os.rename(old, old.with_name(".r~old"))
    if look is run.evaluate:
        look = lambda path: run.evaluate(path, str(generated_data / "snips/test.jsonl"))  # noqa: E731
    look(old)
    assert seed_of(old) == 1


def test_what_killed_trainings_left_goes_at_the_next_start(old: Path) -> None:
    for name in (".other~new", ".r~old", ".third~lock"):
        (old.parent / name).mkdir() if name.endswith(("new", "old")) else (old.parent / name).touch()
    os.rename(old, old.with_name(".fourth~old"))
    with reserve(None, "kind", root=old.parent):
        names = sorted(path.name for path in old.parent.iterdir())
    assert names == [".kind-1~lock", ".third~lock", "fourth", "r"]


def test_names_are_exchanged_or_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    done = exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/x").read_text() == ("b" if done else "a")
    if done:
        with pytest.raises(FileNotFoundError):
            exchange(tmp_path / "a", tmp_path / "c")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not exchange(tmp_path / "a", tmp_path / "b")


# --- real processes -------------------------------------------------------------------------------------------------

WAITING = """
import pathlib, sys, time
from seqkit.tasks.slots.task import SlotsTask
from seqkit.cli import main

create = SlotsTask.create.__func__

def slow(cls, *arguments, **named):
    pathlib.Path(sys.argv[1] + ".reads").touch()
    while pathlib.Path("gate").exists():
        time.sleep(0.02)
    return create(cls, *arguments, **named)

SlotsTask.create = classmethod(slow)
main(sys.argv[2:])
"""


class Processes:
    """Trainings in one folder that read until the gate is opened."""

    def __init__(self, home: Path, tree: dict[str, Any]) -> None:
        self.home, self.started = home, []  # type: Path, list[subprocess.Popen[str]]
        (home / "gate").touch()
        (home / "c.yaml").write_text(json.dumps(tree))

    def start(self, tag: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WAITING, tag, "train", "c.yaml", *arguments]
        pipe = subprocess.PIPE
        self.started.append(subprocess.Popen(command, cwd=self.home, stdout=pipe, stderr=pipe, text=True))
        return self.started[-1]

    def reading(self, tag: str, process: subprocess.Popen[str]) -> None:
        """Wait until it reads."""
        while not (self.home / f"{tag}.reads").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    def runs(self) -> list[str]:
        return sorted(path.name for path in (self.home / "runs").iterdir())


@pytest.fixture
def processes(tmp_path: Path, small_run: Trees) -> Iterator[Processes]:
    found = Processes(tmp_path, {**small_run(), "name": None})
    yield found
    for process in found.started:
        process.kill()
        process.communicate()


def test_unnamed_trainings_started_together_get_numbers_of_their_own(processes: Processes) -> None:
    started = {tag: processes.start(tag) for tag in ("a", "b")}
    for tag, process in started.items():
        processes.reading(tag, process)
    (processes.home / "gate").unlink()
    said = [process.communicate(timeout=100) for process in started.values()]
    assert [process.returncode for process in started.values()] == [0, 0], said
    assert processes.runs() == ["slots-1", "slots-2"]
    assert sorted(out.split("run folder: ")[1].split()[0] for out, _ in said) == ["runs/slots-1", "runs/slots-2"]
    for name in processes.runs():
        assert run.load(processes.home / "runs" / name) is not None


def test_a_second_training_of_a_name_is_refused_before_it_reads(processes: Processes) -> None:
    first = processes.start("first", "name=r")
    processes.reading("first", first)
    for number, options in enumerate(([], ["--overwrite"])):
        second = processes.start(f"second{number}", "name=r", *options)
        _, error = second.communicate(timeout=100)
        assert second.returncode == 2
        assert f"runs/r: process {first.pid} is making this run" in error
        assert not (processes.home / f"second{number}.reads").exists()
    (processes.home / "gate").unlink()
    assert first.wait(100) == 0
    assert processes.runs() == ["r"]


def test_a_killed_reader_does_not_block_its_name_or_number(processes: Processes) -> None:
    for tag, options in (("named", ["name=r"]), ("unnamed", [])):
        process = processes.start(tag, *options)
        processes.reading(tag, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(UserError, match="no such run folder"):
        RunFolder.open(processes.home / "runs/r")
    assert all(name.startswith(".") for name in processes.runs())
    (processes.home / "gate").unlink()
    for tag, options in (("again", ["name=r"]), ("more", [])):
        process = processes.start(tag, *options)
        assert process.wait(100) == 0
    assert processes.runs() == ["r", "slots-1"]


def test_all_names_of_several_seeds_are_reserved_at_the_start(processes: Processes) -> None:
    first = processes.start("first", "name=r", "--seeds", "2")
    processes.reading("first", first)
    second = processes.start("second", "name=r-seed2")
    assert second.wait(100) == 2
    (processes.home / "gate").unlink()
    assert first.wait(100) == 0
    assert processes.runs()[:2] == ["r-seed1", "r-seed2"]
