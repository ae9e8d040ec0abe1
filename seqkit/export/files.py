"""An exported folder: written whole or not at all, with the size and the digest of every file.

FOLDER/
  settings.json       task, graphs, what predict.py is to know, the run's configuration, digests of the other files
  model.onnx ...      the graphs
  tokenizer.json ...  what the tokenizers library and predict.py read
  predict.py          predicts with numpy, onnxruntime and tokenizers alone
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqkit.errors import Option, UserError
from seqkit.files import exchange, flush, to_json, write_text
from seqkit.training.checkpoint import digest
from seqkit.training.locks import Held
from seqkit.training.reservation import Reservation
from seqkit.training.run_folder import hidden

FORMAT = 1
SETTINGS = "settings.json"


def is_exported(path: str | Path) -> bool:
    """Return whether a folder is one that `seqkit export` has written, however damaged."""
    try:
        return (Path(path) / SETTINGS).is_file() and not (Path(path) / "run.json").exists()
    except (OSError, ValueError):
        return False


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder under a hidden name, which takes the name `path` when the block ends.

    Raises:
        UserError: there is something of this name that may not be replaced; the file system refuses.
    """
    if not path.name:
        raise UserError(f"{path}: expected the path of a folder that does not exist", key=Option("to"))
    _refuse_taken(path, overwrite)
    try:
        reserved = Reservation(path)
    except Held as held:
        raise UserError(f"{path}: process {held} is writing this folder; wait for it") from None
    with reserved:
        _refuse_taken(path, overwrite)  # made between the look and the lock
        new = hidden(path, "new")
        try:
            new.mkdir()
            yield new
            flush(new)
            _place(new, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _refuse_taken(path: Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        ways = ("replace it with ", Option("overwrite", "True"), ", or choose another folder with ", Option("to"))
        raise UserError(f"{path}: this exists already; ", *ways)
    if path.is_symlink() or not is_exported(path):
        raise UserError(f"{path}: this is not an exported folder; ", Option("overwrite"), " does not touch it")


def _place(new: Path, path: Path) -> None:
    """Give the new folder its name; an earlier one goes."""
    if os.path.lexists(path):
        if not exchange(new, path):
            old = hidden(path, "old")
            os.rename(path, old)  # a process killed here leaves this to the next that takes the name
            os.rename(new, path)
            shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(new, path)
    flush(path.parent)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and digest of each file of a folder."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": digest(path)} for path in sorted(folder.iterdir())}


def write_settings(path: Path, about: dict[str, Any]) -> None:
    """Write settings.json, the last file of an exported folder."""
    write_text(path, to_json(about, indent=1) + "\n")
