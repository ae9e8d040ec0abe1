"""Files that are replaced whole or not at all; reading what others wrote without trusting its size."""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

LONGEST_LINE = 1 << 25
"""Bytes of a line; a file with a longer one is none of lines of text, and would take memory without bound."""

# JSON allows them; terminals, readers of lines and (halves of surrogate pairs, of file names) UTF-8 do not.
_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LARGEST = 1 << 28  # bytes of a file that is read whole


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_with_umask(temporary, write)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_with_umask(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file that has the mode which the umask gives, whatever a library thinks of it."""
    path.touch()
    mode = path.stat().st_mode  # the umask itself can only be read by changing it for the whole process
    write(path)
    if path.stat().st_mode != mode:
        path.chmod(mode & 0o7777)


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders change names in one step; False where the system or the file system cannot.

    Raises:
        OSError: another reason.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(here, os.fsencode(one), here, os.fsencode(other), swap) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text, whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, "utf-8")

    replace_file(path, write)


def flush(path: Path) -> None:
    """Force a file or a folder's entries to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path, largest: int = _LARGEST) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it cannot be read, is a device or a pipe, or holds more than `largest` bytes.
    """
    try:
        if not path.is_file():
            path.stat()
            raise OSError(errno.EINVAL, "not a regular file")
        with path.open("rb") as file:  # of what is asked for Python takes the memory at once, whatever the file has
            data = file.read(min(path.stat().st_size, largest) + 1)
    except ValueError as error:  # a NUL or half of a surrogate pair in the name
        raise OSError(errno.EINVAL, str(error)) from None
    if len(data) > largest:
        raise OSError(errno.EFBIG, f"more than {largest:,} bytes")
    return data


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        OSError: see `read_bytes`.
        ValueError: it is not JSON in UTF-8, or nested too deeply.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def to_json(tree: Any, indent: int | None = None) -> str:
    """Return a value as JSON: a number that is not finite is null. Without `indent` it is one line to any reader."""
    try:
        text = json.dumps(tree, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        text = json.dumps(_finite(tree), ensure_ascii=False, allow_nan=False, indent=indent)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {_finite(name): _finite(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def read_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Return the lines of a file; of one that is longer than `LONGEST_LINE` its first `LONGEST_LINE` + 1 bytes, and so
    on."""
    return iter(partial(file.readline, LONGEST_LINE + 1), b"")
