"""An exported folder: written whole or not at all, with the size and the digest of every file.

FOLDER/
  settings.json       task, graphs, what predict.py needs to know, the run's configuration, digests of other files
  model.onnx ...      the graphs
  tokenizer.json ...  what the tokenizers library and predict.py read
  predict.py          predicts with numpy, onnxruntime and tokenizers alone
  exported.py         what the predict.py of every task shares
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqkit.errors import Option, UserError, shown
from seqkit.files import exchange, flush, read_json, to_json, write_text
from seqkit.training.checkpoint import digest
from seqkit.training.locks import Held
from seqkit.training.reservation import Reservation
from seqkit.training.run_folder import hidden

FORMAT = 2
SETTINGS = "settings.json"
_MOST_FILES = 1000
_MOST_BYTES, _MOST_WEIGHTS = 1 << 31, 1 << 36  # of a file, and of one that holds nothing but weights


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
    if not os.path.lexists(path) or _is_empty(path):
        return
    replaceable = is_exported(path) and not path.is_symlink()
    if not overwrite:
        replace = ("replace it with ", Option("overwrite", "True"), ", or ") if replaceable else ()
        raise UserError(f"{path}: this exists already; ", *replace, "choose another folder with ", Option("to"))
    if not replaceable:
        raise UserError(f"{path}: this is not an exported folder; ", Option("overwrite"), " does not touch it")


def _is_empty(path: Path) -> bool:
    """Return whether it is an empty folder, which a user may have made for the export."""
    return not path.is_symlink() and path.is_dir() and not any(path.iterdir())


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


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what settings.json says.

    Raises:
        UserError: it is missing or damaged, or a newer seqkit wrote it.
    """
    path = folder / SETTINGS
    try:
        about = read_json(path)
        version, graphs, files = about["format"], about["graphs"], about["files"]
        if not isinstance(version, int) or not isinstance(about["config"], dict) or len(files) > _MOST_FILES:
            raise ValueError
        names = [*files, *graphs]
        whole = all({"bytes", "sha256"} <= file.keys() for file in files.values()) and graphs.keys() <= files.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise UserError(f"{path}: missing or damaged{why}: not a folder of `seqkit export`") from None
    if version > FORMAT:
        raise UserError(f"{path}: written by a newer seqkit (format {version}, this one reads up to {FORMAT}): upgrade")
    if version < FORMAT:
        older = f"written by an earlier seqkit (format {version}, this one reads {FORMAT})"
        raise UserError(f"{path}: {older}: its predict.py still works; for anything else export the run again")
    if outside := [name for name in names if not _is_plain(name)]:
        raise UserError(f"{path}: {shown(outside[0])} is not the plain name of a file")
    if not whole:
        raise UserError(f"{path}: damaged: a file lacks its size or digest")
    if not isinstance(about.get("predict"), dict) or not all(_is_graph(faces) for faces in graphs.values()):
        raise UserError(f"{path}: damaged: it lacks what predict.py needs to know, or names of inputs and outputs")
    return dict(about)


def _is_plain(name: str) -> bool:
    """Return whether a name is that of a file in a folder, and can be printed as it is."""
    return name not in ("", "..") and name == Path(name).name and name.isprintable()


def _is_graph(faces: Any) -> bool:
    """Return whether settings say of a graph how it is called and run."""
    return (
        isinstance(faces, dict)
        and isinstance(faces.get("threads"), int)
        and all(
            isinstance(faces.get(side), list) and all(isinstance(name, str) for name in faces[side])
            for side in ("inputs", "outputs")
        )
    )


def damage(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Compare the files of a folder with the sizes and digests in its settings: name -> what is wrong with it."""
    return {name: why for name, about in settings["files"].items() if (why := _damage(folder / name, about))}


def _damage(path: Path, about: dict[str, Any]) -> str:
    try:
        if path.is_symlink() or not path.is_file():
            path.stat()
            return "not a regular file"
        size = path.stat().st_size
        if size != about["bytes"]:
            return f"{size:,} bytes, where {shown(about['bytes'])} were written"
        if size > (most := _MOST_WEIGHTS if path.suffix == ".data" else _MOST_BYTES):
            return f"{size:,} bytes; at most {most:,} are read"
        return "" if digest(path) == about["sha256"] else "the digest differs from settings.json"
    except OSError as error:
        return "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def write_settings(path: Path, about: dict[str, Any]) -> None:
    """Write settings.json, the last file of an exported folder."""
    write_text(path, to_json(about, indent=1) + "\n")
