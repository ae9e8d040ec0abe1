"""A run folder: where it lies, what it holds, and writing that either happens whole or not at all.

runs/NAME/
  run.json            who wrote it in which format, the configuration and digests of the data it began with
  config.yaml         the resolved configuration
  tokenizer.json ...  what the task needs to predict
  model.safetensors   the chosen weights: the best on dev so far
  metrics.jsonl       results, cut back to the checkpoint on resume
  timing.jsonl        speed; no result depends on it
  dev.jsonl           what the chosen weights make of dev data, an example a line; written at the end
  report.html         the same to look at, with curves and scores; no result depends on it
  checkpoints/        what a resume needs, a folder a step
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from seqkit.console import say
from seqkit.errors import UserError, nearest
from seqkit.files import read_json, to_json, write_text
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.locks import Gone, Held, take_lock

FORMAT = 1


class JsonLines:
    """An append-only log of one JSON object a line that can be cut back to a remembered length.

    Args:
        path: the file; made where absent.
        keep: bytes to keep of what is there: the length at the checkpoint that is resumed, 0 for a new run.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self._file: IO[bytes] = open(path, "a+b")  # noqa: SIM115 (lives as long as the run)
        if self.size < keep:
            say(f"{path}: shorter than at the checkpoint; {keep - self.size} bytes are lost")
            self._file.seek(0)
            keep = self._file.read().rfind(b"\n") + 1  # the next record must not go on with a torn line
        if self.size > keep:
            self._file.truncate(keep)

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, record: dict[str, Any]) -> None:
        """Add one line; floats are written so that they read back bit for bit."""
        self._file.write(to_json(record).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Flush to the disk; returns the length."""
        os.fsync(self._file.fileno())
        return self.size

    def close(self) -> None:
        self._file.close()


def write_outputs(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write dev.jsonl, if there are records to write; see `Task.dev_outputs`."""
    if records:
        write_text(path, "".join(to_json(record) + "\n" for record in records))


class Busy(UserError):
    """Another process trains in a run folder."""


class RunFolder:
    """The paths of one run. A `Reservation` makes a new one, `open` checks one that exists.

    Args:
        path: the folder.
        becomes: the name that the folder will take; it is hidden until then.
    """

    def __init__(self, path: str | Path, becomes: Path | None = None) -> None:
        self.move(Path(path))
        self.becomes = becomes
        self.swap: Callable[[], object] | None = None  # replaces an earlier run by it
        self._told = False
        self._lock: IO[str] | None = None

    def move(self, path: Path) -> None:
        """Take note that the folder is called `path` now; a lock that is held stays with it."""
        self.path, self.becomes = path, None
        self.config = path / "config.yaml"
        self.weights = path / "model.safetensors"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.timing = path / "timing.jsonl"
        self.outputs = path / "dev.jsonl"
        self.report = path / "report.html"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "swap": None}  # another process gets the paths; the lock stays here

    def __str__(self) -> str:
        return str(self.becomes or self.path)

    def take_place(self) -> bool:
        """Replace the earlier run of this name; return False while another process trains in that.

        The caller has to `move` it, in every process.
        """
        if self.swap is None:
            return False
        try:
            self.swap()
        except Busy as busy:
            if not self._told:
                say(f"{busy}; the new run takes its place when that process has ended")
            self._told = True
            return False
        self.swap = None
        return True

    @property
    def flag(self) -> str:
        """What every command line that opens this run ends with: --trust where it names code of the user's own."""
        try:
            return " --trust" if self.about().get("modules") else ""
        except (OSError, ValueError):
            return ""

    @property
    def resume_command(self) -> str:
        """The command line that goes on with this run."""
        return f"seqkit resume {self}{self.flag}"

    def kept(self) -> str:
        """Say what there is to go on from, for a message."""
        if self.becomes is not None:
            return f"nothing of it was saved, and {self} is still the earlier run"
        last = Checkpoints(self.checkpoints).latest()
        if last is None:
            return f"there is no checkpoint yet: `{self.resume_command}` starts over"
        return f"the checkpoint of step {last} is whole: `{self.resume_command}` goes on from there"

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run.

        Args:
            path: of its folder.

        Returns:
            the run folder, checked.

        Raises:
            UserError: there is none, it is half-written, or a newer seqkit wrote it.
        """
        path = Path(path)
        try:
            put_back(path)
            problem = _missing(path)
        except (OSError, ValueError) as error:  # too long; a NUL or half of a surrogate pair in it
            raise UserError(f"{str(path)[:100]!r}: no such run folder ({error})") from None
        if problem:
            raise UserError(f"{path}: {problem}")
        try:
            version = cls(path).about()["format"]
        except (OSError, ValueError, KeyError, TypeError):
            what = "not a run folder, or half-written: run.json is missing or damaged"
            if (path / "settings.json").exists() and (path / "predict.py").exists():
                what = "an exported folder; it is used with its predict.py, `seqkit evaluate` and `seqkit doctor`"
            raise UserError(f"{path}: {what}") from None
        if not isinstance(version, int) or version > FORMAT:
            raise UserError(
                f"{path}: written by a newer seqkit (run format {version}, this one reads up to {FORMAT}): upgrade"
            )
        if not (path / "config.yaml").exists():
            raise UserError(f"{path}: half-written: config.yaml is missing")
        return cls(path)

    def about(self) -> dict[str, Any]:
        """Return what run.json says."""
        found = read_json(self.path / "run.json")
        return found if isinstance(found, dict) else {}

    def settings(self) -> dict[str, Any]:
        """Return the whole configuration, as run.json has it; {} where it has none."""
        with suppress(OSError, ValueError):
            return dict(self.about().get("config") or {})
        return {}

    def describe(self, about: dict[str, Any]) -> None:
        """Write `about` to run.json, which makes the folder a run; it is the last file of a run's start."""
        write_text(self.path / "run.json", to_json({"format": FORMAT, **about}, indent=2) + "\n")

    @property
    def lock_is_held(self) -> bool:
        """Whether this object has the lock."""
        return self._lock is not None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for as long as the block runs; blocks of the same object may be nested."""
        outer = self.lock_is_held
        if not outer:
            self.lock()
        try:
            yield
        finally:
            if not outer:
                self.unlock()

    def lock(self) -> None:
        """Take the lock, which refuses any other process that wants to write here, and ends with this process.

        What a killed process left half-written is cleared away.

        Raises:
            Busy: another process holds it; the message names that process.
            UserError: the folder cannot be written.
        """
        try:
            self._lock = take_lock(self.path / ".lock")
            for path in self.path.glob(".*.tmp"):
                path.unlink(missing_ok=True)
            Checkpoints(self.checkpoints).recover()
        except OSError as error:
            self.unlock()
            raise UserError(
                f"{self}: cannot be written ({error.strerror}); nothing was changed. Make it writable, or go on with "
                "a copy of it elsewhere"
            ) from None
        except Held as held:
            raise Busy(f"{self}: process {held} is training in this folder") from None
        except Gone:
            raise UserError(f"{self}: another process has just replaced this run; start again") from None

    def unlock(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def hidden(path: Path, kind: str) -> Path:
    """Return what lies beside a run while it is made, under a name that no run can have; see `Reservation`."""
    return path.with_name(f".{path.name}~{kind}")


def put_back(path: Path) -> None:
    """Give an old run its name again, if a process was killed between the two renames that replace it."""
    old = hidden(path, "old") if path.name else path
    for _ in range(20):
        if os.path.lexists(path) or not old.exists():
            return
        with suppress(Held, Gone, OSError), take_lock(hidden(path, "lock")):
            if not os.path.lexists(path):
                os.rename(old, path)
        time.sleep(0.01)  # held: a process that is about to put the new one there


def _missing(path: Path) -> str:
    """Return why this is not a folder; empty where it is one."""
    if path.is_dir():
        return ""
    if path.exists():
        return "this is a file; expected a run folder, such as runs/NAME"
    if (Path("runs") / path).is_dir():
        return f"no such run folder; did you mean 'runs/{path}'?"
    siblings = [str(other) for other in path.parent.glob("[!.]*")] if path.parent.is_dir() else []
    return f"no such run folder{nearest(str(path), siblings)}"


def check_name(name: str) -> None:
    """Refuse a run name that could lead outside the folder of runs.

    Raises:
        UserError: it holds anything but letters, digits and `._-`, or starts with a dot.
    """
    # The file system's 255 bytes also have to hold what is put before and after a name.
    if not re.fullmatch(r"[\w-][\w.-]{0,99}", name) or len(name.encode()) > 200:
        raise UserError(f"{name!r} is not a plain name; use up to 100 letters, digits, '.', '_' and '-'", key="name")
