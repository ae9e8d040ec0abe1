"""A run folder: where it lies, what it holds, and writing that either happens whole or not at all.

runs/NAME/
  run.json            format and version of seqkit that wrote it
  config.yaml         the resolved configuration
  tokenizer.json ...  what the task needs to predict
  model.safetensors   the chosen weights: the best on dev so far
  metrics.jsonl       results, cut back to the checkpoint on resume
  timing.jsonl        speed; no result depends on it
  checkpoints/        what a resume needs, a folder a step
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from itertools import count
from pathlib import Path
from typing import IO, Any

from seqkit.config import UserError, nearest
from seqkit.files import write_text

FORMAT = 1


class JsonLines:
    """An append-only log of one JSON object a line that can be cut back to a remembered length.

    Args:
        path: the file; made where absent.
        keep: bytes to keep of what is there: the length at the checkpoint that is resumed, 0 for a new run.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115 (lives as long as the run)
        if self.size > keep:
            self._file.truncate(keep)

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, record: dict[str, Any]) -> None:
        """Add one line; floats are written so that they read back bit for bit."""
        # JSON has no NaN and no infinity.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(finite, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Flush to the disk; returns the length."""
        os.fsync(self._file.fileno())
        return self.size

    def close(self) -> None:
        self._file.close()


class RunFolder:
    """The paths of one run. `choose` and `make` begin a new one, `open` checks one that exists.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.weights = self.path / "model.safetensors"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.timing = self.path / "timing.jsonl"
        self._lock: IO[str] | None = None

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def choose(cls, name: str | None, kind: str, *, root: str | Path = "runs", overwrite: bool = False) -> RunFolder:
        """Where a new run would go: `root/name`, without a name the first free of `root/kind-1`, `root/kind-2`, ...

        Nothing is made yet, so that a mistake found later leaves nothing behind.

        Raises:
            UserError: the name is no plain file name, or is taken and may not be replaced.
        """
        root = Path(root)
        if name is None:
            number = next(number for number in count(1) if not (root / f"{kind}-{number}").exists())
            return cls(root / f"{kind}-{number}")
        check_name(name)
        path = root / name
        if path.exists() and not overwrite:
            raise UserError(
                f"{path}: this run exists already; continue it with `seqkit resume {path}`, replace it with "
                "--overwrite, or choose another name=..."
            )
        if path.exists() and (path.is_symlink() or not (path / "run.json").exists()):
            raise UserError(f"{path}: this is not a run folder of seqkit; --overwrite does not touch it")
        return cls(path)

    def make(self) -> None:
        """Make the folder, empty; a run that `choose` allowed to be replaced is deleted.

        Raises:
            UserError: the file system refuses, or another process trains there or has just made it.
        """
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.old")
        try:
            if (self.path / "run.json").exists():
                self.lock()
                self.unlock()
                os.replace(self.path, aside)
            self.path.mkdir(parents=True)
            self.checkpoints.mkdir()
            shutil.rmtree(aside, ignore_errors=True)
        except FileExistsError:
            raise UserError(f"{self}: another process has just made this run; start again") from None
        except OSError as error:
            raise UserError(f"{self}: cannot make the run folder ({error.strerror})") from None

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run.

        Raises:
            UserError: there is none, it is half-written, or a newer seqkit wrote it.
        """
        path = Path(path)
        if not path.is_dir():
            siblings = [str(other) for other in path.parent.glob("*")] if path.parent.is_dir() else []
            hint = nearest(str(path), siblings)
            if not hint and (Path("runs") / path).is_dir():
                hint = f"; did you mean 'runs/{path}'?"
            raise UserError(f"{path}: no such run folder{hint}")
        try:
            version = cls(path).about()["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path}: not a run folder, or half-written: run.json is missing or damaged") from None
        if not isinstance(version, int) or version > FORMAT:
            raise UserError(
                f"{path}: written by a newer seqkit (run format {version}, this one reads up to {FORMAT}): upgrade"
            )
        if not (path / "config.yaml").exists():
            raise UserError(f"{path}: half-written: config.yaml is missing")
        return cls(path)

    def about(self) -> dict[str, Any]:
        """What run.json says."""
        found = json.loads((self.path / "run.json").read_text("utf-8"))
        return found if isinstance(found, dict) else {}

    def describe(self, about: dict[str, Any]) -> None:
        """Write run.json, which makes the folder a run; the last file to be written when a run is set up."""
        write_text(self.path / "run.json", json.dumps({"format": FORMAT, **about}, indent=2) + "\n")

    def lock(self) -> None:
        """Refuse a second process that wants to write here; the lock goes when this process ends, however it ends.

        Raises:
            UserError: another process holds it; the message names that process.
        """
        try:
            import fcntl
        except ImportError:  # not on Windows, which has no such lock
            return
        self._lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (held until unlock)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self.unlock()
            raise UserError(f"{self}: process {owner} is training in this folder") from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def unlock(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def check_name(name: str) -> None:
    """Refuse a run name that could lead outside the folder of runs.

    Raises:
        UserError: it holds anything but letters, digits and `._-`, or starts with a dot.
    """
    if not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
        raise UserError(f"name: {name!r} is not a plain name; use up to 100 letters, digits, '.', '_' and '-'")
