"""The name of a new run: taken before any work begins, and no one else's until the run stands under it.

Beside runs/NAME lie, while a run of this name is made, hidden files whose names no run can have:

  .NAME~lock    the reservation, a lock that dies with its process
  .NAME~new     the run that is being made; where it replaces another one, until its first checkpoint
  .NAME~old     that other one, for a moment, where a file system cannot change two names in one step

They belong to whoever holds the lock, so that what a killed process has left of them goes when the name is taken again.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from seqkit.errors import Option, Part, UserError
from seqkit.files import exchange, flush
from seqkit.training.locks import Gone, Held, take_lock
from seqkit.training.run_folder import RunFolder, check_name, hidden

_OTHER = "choose another name=..."


class Reservation:
    """A name that this process alone may give to a new run. A context: at its end it gives the name back.

    Args:
        path: of the run to be.

    Attributes:
        replaces: there is a run of this name, and the user has allowed to replace it.

    Raises:
        Held: another process has reserved the name.
        UserError: the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.replaces = path, False
        self.folder: RunFolder | None = None
        self._lock: IO[str] | None = None
        self._parents = [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
        try:
            self._lock = self._take()
            self._sweep()
        except BaseException as error:
            if self._lock is not None:
                self._lock.close()
            if isinstance(error, OSError):
                raise UserError(f"{path}: cannot make the run folder ({error.strerror})") from None
            raise

    def _take(self) -> IO[str]:
        for _ in range(1000):
            # One that gives up at this moment deletes the lock, and the folder of runs if that is empty.
            with suppress(Gone, FileNotFoundError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                return take_lock(hidden(self.path, "lock"))
        raise OSError(errno.ENOENT, "the lock of its name disappears again and again")

    def __getstate__(self) -> dict[str, Any]:
        # Of several processes the first one has the lock, and does what is done here.
        return {**self.__dict__, "folder": None, "_lock": None}

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        finally:
            if self.folder is not None:
                self.folder.unlock()

    def release(self) -> None:
        """Give the name back; what was made of a run that does not bear it yet is deleted."""
        if self._lock is not None:
            try:
                self._sweep()
                with suppress(OSError):  # Windows keeps a file that is open
                    hidden(self.path, "lock").unlink(missing_ok=True)
            finally:
                self._lock.close()
                self._lock = None
        for parent in self._parents:  # a mistake leaves nothing behind, no empty folder either
            with suppress(OSError):
                parent.rmdir()

    def _sweep(self) -> None:
        """Delete what is hidden of a run of this name."""
        old = hidden(self.path, "old")
        if old.exists() and not _taken(self.path):
            os.rename(old, self.path)
        for path in (hidden(self.path, "new"), old):
            shutil.rmtree(path, ignore_errors=True)
        earlier = re.compile(rf"\.{re.escape(self.path.name)}\.\d+\.(new|old)")  # what earlier versions left
        for path in _entries(self.path.parent, ".*.*.*"):
            if earlier.fullmatch(path.name):
                with suppress(UserError), RunFolder(path).locked():  # held: a process that makes it at this moment
                    shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def made(self) -> Iterator[RunFolder]:
        """Yield a new folder under a hidden name; with what is in it when the block ends it becomes the run, whole.

        Where there is a run to be replaced, the new one stays hidden until its `take_place`. It is locked, and stays so
        until the reservation's own block ends.

        Raises:
            UserError: the file system refuses; something has got this name meanwhile.
            OSError: at the end of the block.
        """
        new = RunFolder(hidden(self.path, "new"), self.path)
        try:
            new.checkpoints.mkdir(parents=True)
            new.lock()
        except OSError as error:
            raise UserError(f"{self.path}: cannot make the run folder ({error.strerror})") from None
        self.folder = new
        try:
            yield new
            if self.replaces:
                new.swap = self._swap
            else:
                self._place()
                new.move(self.path)
        except BaseException:
            new.unlock()
            shutil.rmtree(new.path, ignore_errors=True)
            raise
        if not self.replaces:
            self.release()

    def _place(self) -> None:
        try:
            os.rename(hidden(self.path, "new"), self.path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise UserError(f"{self.path}: another process has just taken this name; start again") from None
            raise
        flush(self.path.parent)

    def _swap(self) -> None:
        """The new run takes the name, and the old one is deleted; at every moment one of the two can be opened.

        Raises:
            Busy: a process trains in the old one.
            UserError: what has the name is not a run.
        """
        new, old = hidden(self.path, "new"), hidden(self.path, "old")
        if not _taken(self.path):  # it has been deleted
            self._place()
        else:
            check_run(self.path)
            with RunFolder(self.path).locked():
                if exchange(new, self.path):
                    flush(self.path.parent)
                else:
                    os.rename(self.path, old)  # a process killed here leaves this to `put_back`
                    self._place()
        self.release()


def reserve(
    name: str | None, kind: str, *, root: str | Path = "runs", overwrite: bool = False, other: Sequence[Part] = ()
) -> Reservation:
    """Take the name of a new run: `name`, or without one the first free of `kind-1`, `kind-2`, ...

    Args:
        name: of the run, or None.
        kind: the start of the names of runs without one.
        root: the folder of runs.
        overwrite: a run that has this name may be replaced.
        other: how to choose another name with a command that can only do that, as parts of a message.

    Raises:
        UserError: the name is not a plain file name, another process makes a run of this name, or there is one that may
            not be replaced.
    """
    root = Path(root)
    if name is not None:
        check_name(name)
    _sweep(root)
    if name is None:
        return next(found for number in count(1) if (found := _free(root / f"{kind}-{number}")) is not None)
    path = root / name
    again = f"continue it with `{RunFolder(path).resume_command}`"
    ways = other or (f"{again}, replace it with ", Option("overwrite", "True"), f", or {_OTHER}")
    taken = UserError(f"{path}: this run exists already; ", *ways)
    if not overwrite and _taken(path):  # said even where nothing can be locked
        raise taken
    try:
        reserved = Reservation(path)
    except Held as held:
        raise UserError(f"{path}: process {held} is making this run; wait for it, or ", *(other or [_OTHER])) from None
    try:
        if _taken(path):
            if not overwrite:
                raise taken
            check_run(path)
            with RunFolder(path).locked():
                reserved.replaces = True
    except BaseException:
        reserved.release()
        raise
    return reserved


def _free(path: Path) -> Reservation | None:
    """Return a reservation of a path at which there is nothing, and which nobody else has reserved."""
    if _taken(path):
        return None
    try:
        reserved = Reservation(path)
    except Held:
        return None
    if _taken(path):  # made between the look and the lock
        reserved.release()
        return None
    return reserved


def _taken(path: Path) -> bool:
    return os.path.lexists(path)


def check_run(path: Path) -> None:
    """Refuse to replace what is not a run.

    Raises:
        UserError: there is no run.json, or the folder itself lies elsewhere.
    """
    if path.is_symlink() or not (path / "run.json").exists():
        raise UserError(f"{path}: this is not a run folder of seqkit; ", Option("overwrite"), " does not touch it")


def clear(path: Path) -> None:
    """Delete what a killed process left beside a run, unless another process is making a run of this name."""
    if any(hidden(path, kind).exists() for kind in ("lock", "new", "old")):
        with suppress(Held, UserError):
            Reservation(path).release()


def _entries(folder: Path, pattern: str) -> list[Path]:
    """Return what a folder holds; nothing if another process deletes it meanwhile, which `glob` raises an error for."""
    with suppress(FileNotFoundError):
        return list(folder.glob(pattern))
    return []


def _sweep(root: Path) -> None:
    """Delete the half-made runs of killed processes, of whatever name."""
    for path in _entries(root, ".*~*"):
        if path.name.endswith(("~new", "~old")):
            clear(path.with_name(path.name[1:-4]))
