"""The folder in which what was read and what was tokenised is kept, and how a file of it is written."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from seqkit.errors import UserError


def cache_folder() -> Path:
    """`seqkit` in the cache folder of the `datasets` library (HF_DATASETS_CACHE)."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "seqkit"


_PREFIX = "writing."
_ABANDONED = 86_400.0  # seconds without a write, after which the process that wrote a file must have been killed


def _sweep(folder: Path) -> None:
    """Delete what killed processes left half-written."""
    oldest = time.time() - _ABANDONED
    for path in [*folder.glob(f"{_PREFIX}*"), *folder.glob(".*.tmp")]:
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()


class Unwritable(Exception):
    """No file can be made in the cache folder; the message says why."""


@contextmanager
def cached_file(target: Path, name: str) -> Iterator[IO[bytes]]:
    """Yield a file to write, which replaces `target`, whole, when the block ends without an error.

    Args:
        target: a file of the cache folder, which is made where absent.
        name: of what is cached, for messages.

    Raises:
        Unwritable: before the block runs.
        UserError: the disk is full, or refuses otherwise.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=_PREFIX)
    except OSError as error:
        raise Unwritable(error.strerror or str(error)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise UserError(
            f"{name}: cannot be cached in {target.parent} ({reason}); set HF_DATASETS_CACHE to another folder"
        ) from None
    finally:
        Path(temporary).unlink(missing_ok=True)
