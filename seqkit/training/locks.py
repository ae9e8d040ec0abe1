"""Locks of the operating system on a file: they go when their process ends, however it ends."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from seqkit.console import say

_lockless: set[int] = set()  # devices whose lack of locks has been said


class Held(Exception):
    """Another process, or another open file of this one, has the lock; the message is who: `PID` or `PID on HOST`."""


class Gone(Exception):
    """The file was deleted or replaced while it was being locked."""


def take_lock(path: Path) -> IO[str]:
    """Lock a file, which is made where absent and gets the name of this process; closing it gives the lock back.

    Raises:
        Held: another process has it. Nothing waits.
        Gone: see there; try again.
        OSError: the file cannot be made or written.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (the lock lives as long as it is open)
    try:
        _claim(file, path)
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def is_held(path: Path) -> bool:
    """Return whether a process has the lock of a file, which is neither made nor changed."""
    try:
        import fcntl
    except ImportError:
        return False
    with suppress(OSError), open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _claim(file: IO[str], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows, which has no such lock
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Held(_owner(file)) from None
    except OSError as error:
        device = os.fstat(file.fileno()).st_dev
        if device not in _lockless:
            why = f"this file system has no locks ({error.strerror})"
            say(f"{path.parent}: {why}: make sure that no second process trains here")
        _lockless.add(device)
        return
    with suppress(OSError):
        if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            return
    raise Gone


def _owner(file: IO[str]) -> str:
    """Return the process that holds the lock, with its computer where that is not this one."""
    for _ in range(20):  # it may have the lock and not have written its name yet
        file.seek(0)
        owner, _, host = file.read().strip().partition(" ")
        if owner:
            return f"{owner} on {host}" if host not in ("", socket.gethostname()) else owner
        time.sleep(0.01)
    return "unknown"
