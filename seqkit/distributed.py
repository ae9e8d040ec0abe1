"""Several processes of one job: which one this is, and what all of them agree on.

`torchrun` starts them; in a single process every function here does the obvious thing at no cost. Small agreements go
over gloo on the CPU, also where gradients go over NCCL. Every process must make these calls, in the same order.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from seqkit import console
from seqkit.errors import Stopped, UserError

T = TypeVar("T")
R = TypeVar("R")
# How long the others wait for one that reads data or scores alone. A process that dies ends the job at once.
_PATIENCE = timedelta(hours=4)
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def start() -> None:
    """Join the other processes, if `torchrun` has started several; a second call does nothing.

    Only the first process prints from now on (see `seqkit.console`).
    """
    if not distributed.is_available() or distributed.is_initialized() or not all(map(os.environ.get, _TORCHRUN)):
        return
    if int(os.environ["WORLD_SIZE"]) > 1:
        cuda = torch.cuda.is_available()
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
        atexit.register(_leave)
        if not first():
            console.mute()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if world() > 1 else 0


def first() -> bool:
    """Return whether this is the process that writes and speaks."""
    return rank() == 0


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", rank())) if world() > 1 else 0


# --- agreeing ---------------------------------------------------------------------------------------------------------


def gather(value: T) -> list[T]:
    """Return the value of every process, in their order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def gathered(values: Sequence[T]) -> list[T]:
    """Return the items of all processes' lists, in their order."""
    return [value for part in gather(values) for value in part]


def add(values: Sequence[float]) -> list[float]:
    """Add up each number over all processes, in double precision."""
    if world() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device="cpu")
    distributed.all_reduce(total)
    return total.tolist()


def largest(value: int) -> int:
    """Return the largest of a number over all processes."""
    if world() == 1:
        return value
    found = torch.tensor(value, device="cpu")
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def _code(error: Exception) -> int:
    """Return what a program that fails for this reason exits with."""
    return 2 if isinstance(error, UserError) else int(getattr(error, "exit_code", 1))


def on_first(call: Callable[[], T]) -> T:
    """Return what `call` returns on the first process, given to all.

    Raises:
        Stopped: on the others, without a message, where the first fails: it is the one that speaks.
    """
    if world() == 1:
        return call()
    error: Exception | None = None
    box: list[Any] = [None, None]
    if first():
        try:
            box[0] = call()
        except Exception as raised:
            error, box[1] = raised, _code(raised)
        found = box[0]
    distributed.broadcast_object_list(box, src=0)
    if error is not None:
        raise error
    if box[1] is not None:
        raise Stopped("", box[1])
    return found if first() else box[0]  # type: ignore[no-any-return]


def on_all(call: Callable[[], T], *, in_turn: bool = False) -> T:
    """Return what `call` returns here, once it has returned everywhere.

    Args:
        call: it may not call functions of this module.
        in_turn: one process of each machine goes first, so that the others find what it has put into caches.

    Raises:
        Stopped: without a message, where another process fails: the first of those that do is the one that speaks.
    """
    if world() == 1:
        return call()
    found: list[T] = []
    for mine in (local_rank() == 0, local_rank() != 0) if in_turn else (True,):
        error: Exception | None = None
        if mine:
            try:
                found.append(call())
            except Exception as raised:
                error = raised
        codes = gather(None if error is None else _code(error))
        failed = [number for number, code in enumerate(codes) if code is not None]
        if failed and error is not None and rank() == failed[0]:
            raise error
        if failed:
            raise Stopped("", codes[failed[0]] or 1)
    return found[0]


@contextmanager
def held(context: AbstractContextManager[Any]) -> Iterator[None]:
    """Hold a context, such as a lock, that the first process enters for all."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        on_first(enter)
        yield


def spread(items: Sequence[T], compute: Callable[[T], R]) -> list[R]:
    """Call `compute` on every item, each in one process; all processes get the whole list, in order.

    The results travel between processes: they should be small, and on the CPU.
    """
    own = [compute(item) for item in items[rank() :: world()]]
    if world() == 1:
        return own
    parts = gather(own)
    return [parts[number % world()][number // world()] for number in range(len(items))]


GONE = "another process has ended (it was killed, or its own message says why)"


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process has ended, and nothing about this one."""
    known = isinstance(error, distributed.DistError) or "gloo" in str(error)
    return world() > 1 and isinstance(error, RuntimeError) and known


def quiet(error: Stopped) -> Stopped:
    """Return the error on the first process, and on the others one without its message, as all have the reason."""
    return error if first() else Stopped("", error.exit_code)
