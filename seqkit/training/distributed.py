"""Several processes on torch's own engine: which one this is, what all agree on, and gradients over all of them.

Started by `torchrun`; in a process of its own every function here does the obvious thing at no cost. Small agreements
go over gloo on the CPU, also where gradients go over NCCL. What is called here must be called by all processes, in
the same order.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from seqkit.errors import UserError
from seqkit.training.checkpoint import random_state, seed_all, set_random_state
from seqkit.training.devices import count, find_device, module_of
from seqkit.training.signals import Stopped
from seqkit.training.task import Loss, Task

T = TypeVar("T")
R = TypeVar("R")
# How long the others wait for one that reads data or scores alone. A process that dies ends the job at once.
_PATIENCE = timedelta(hours=4)
# Before torch 2.4 the engine forgets, of batches whose gradients do not travel, which parameters they reached
# (pytorch/pytorch#124193). So there they all travel.
_REDUCES_EACH = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4)
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def start() -> None:
    """Join the other processes, if `torchrun` has started several; a second call does nothing."""
    if not distributed.is_available() or distributed.is_initialized() or not all(map(os.environ.get, _TORCHRUN)):
        return
    if int(os.environ["WORLD_SIZE"]) > 1:
        cuda = torch.cuda.is_available()
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
        atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if world() > 1 else 0


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", rank())) if world() > 1 else 0


def pick_device(name: str) -> torch.device:
    """Choose a device; of several processes each gets its own.

    Args:
        name: cpu, cuda, cuda:1, mps, xpu, or auto: CUDA, else mps, else xpu, else the CPU.

    Returns:
        the device.

    Raises:
        UserError: an unknown name; a device that this machine lacks, or lacks for each process.
    """
    return own_device(find_device(name))


def own_device(name: str) -> torch.device:
    """This process's device of a kind.

    Raises:
        UserError: there are more processes on this machine than such devices, or several processes cannot use them.
    """
    kind, _, number = name.partition(":")
    if kind == "cpu" or world() == 1:
        return torch.device(name)
    if kind not in ("cuda", "xpu"):
        raise UserError(f"device: several processes train on cpu, cuda or xpu, not on {kind}; use device=cpu")
    if number:
        raise UserError(f"device: each process takes a device of its own; give {kind} without a number")
    if local_rank() >= count(kind):
        raise UserError(
            f"device: process {local_rank()} of this machine has no {kind.upper()} device of its own, there are "
            f"{count(kind)}; start fewer processes, or use device=cpu"
        )
    module_of(kind).set_device(local_rank())
    return torch.device(kind, local_rank())


def own_seed(seed: int, step: int = 0) -> int:
    """The seed of this process's random generators: masks of dropout differ between processes.

    Args:
        seed: of the run, which the first process has at the start.
        step: where training goes on with another number of processes than it had.
    """
    if rank() == step == 0:
        return seed
    return int(np.random.SeedSequence([seed, rank(), step]).generate_state(1, np.uint64)[0] >> 1)


def random_states() -> dict[str, Any]:
    """The states of the random generators of all processes."""
    return random_state() if world() == 1 else {"processes": gather(random_state())}


def set_random_states(saved: Mapping[str, Any], seed: int, step: int) -> None:
    """Put back what `random_states` returned; with another number of processes the generators get new seeds.

    Args:
        saved: at `step`.
        seed: of the run.
        step: updates made.
    """
    states = saved.get("processes", [saved])
    if len(states) == world():
        set_random_state(states[rank()])
    else:
        seed_all(own_seed(seed, step))


# --- agreeing ---------------------------------------------------------------------------------------------------------


def gather(value: T) -> list[T]:
    """The value of every process, in their order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def gathered(values: Sequence[T]) -> list[T]:
    """The items of all processes' lists, in their order."""
    return [value for part in gather(values) for value in part]


def add(values: Sequence[float]) -> list[float]:
    """Numbers added up over all processes, in double precision."""
    if world() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device="cpu")
    distributed.all_reduce(total)
    return total.tolist()


def largest(value: int) -> int:
    """The largest of a number over all processes."""
    if world() == 1:
        return value
    found = torch.tensor(value, device="cpu")
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def _code(error: Exception) -> int:
    """What a program that fails for this reason exits with."""
    return 2 if isinstance(error, UserError) else int(getattr(error, "exit_code", 1))


def on_first(call: Callable[[], T]) -> T:
    """What `call` returns on the first process, given to all.

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
    """What `call` returns here, once it has returned everywhere.

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


def relayed(thing: T, names: Sequence[str]) -> T:
    """The same object, but these of its methods run on the first process (see `on_first`)."""
    return thing if world() == 1 else cast(T, _Relay(thing, names))


class _Relay:
    def __init__(self, thing: Any, names: Sequence[str]) -> None:
        self._thing, self._names = thing, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if name not in self._names:
            return found
        return lambda *arguments, **named: on_first(lambda: found(*arguments, **named))


@contextmanager
def held(context: AbstractContextManager[Any]) -> Iterator[None]:
    """A context that the first process enters for all, such as a lock."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        on_first(enter)
        yield


def spread(items: Sequence[T], compute: Callable[[T], R]) -> list[R]:
    """`compute` of every item, in their order; each is computed by one process, and all get the whole list.

    The results travel between processes: they should be small, and on the CPU.
    """
    own = [compute(item) for item in items[rank() :: world()]]
    if world() == 1:
        return own
    parts = gather(own)
    return [parts[number % world()][number // world()] for number in range(len(items))]


GONE = "another process has ended (it was killed, or its own message says why)"


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process has ended, and nothing about this one."""
    known = isinstance(error, distributed.DistError) or "gloo" in str(error)
    return world() > 1 and isinstance(error, RuntimeError) and known


def quiet(error: Stopped) -> Stopped:
    """The same for a reason that all processes have: only the first one tells it."""
    return error if first() else Stopped("", error.exit_code)


# --- learning ---------------------------------------------------------------------------------------------------------


def own_part(batches: Iterable[Any]) -> Iterable[Any]:
    """This process's part of each batch.

    Args:
        batches: what `Task.batches` returned.

    Raises:
        UserError: they cannot be shared.
    """
    if world() == 1:
        return batches
    share = getattr(batches, "share", None)
    if share is None:
        raise UserError(
            f"several processes: the {type(batches).__name__} that this task's batches() returns cannot be shared; "
            "return a seqkit.data.batching.Batches, or anything else with share(rank, world)"
        )
    parts: Iterable[Any] = share(rank(), world())
    return parts


class Learner:
    """Computes a task's losses; with several processes their gradients are added up over all of them.

    Args:
        task: whose model has its final device.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._engine: DistributedDataParallel | None = None
        self._trained: list[int] = []

    def part(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of one batch: gradients travel with the last one of an update."""
        if world() == 1:
            return nullcontext()
        engine = self._ready()
        return nullcontext() if last or _REDUCES_EACH else engine.no_sync()

    def __call__(self, batch: Any, carry: Any) -> tuple[Mapping[str, Loss], Any]:
        """As `Task.loss`. What is differentiated must be multiplied by `world`: the engine takes means."""
        if world() == 1:
            return self._task.loss(batch, carry)
        engine = self._ready()
        sums = engine(batch, carry)
        losses, after = engine.module.found
        named = zip(losses.items(), sums, strict=True)
        return {name: replace(loss, sum=total) for (name, loss), total in named}, after

    def _ready(self) -> DistributedDataParallel:
        """The engine for the parameters that are trained now: it does not follow what is frozen or unfrozen."""
        trained = [id(parameter) for parameter in self._task.model.parameters() if parameter.requires_grad]
        if self._engine is None or trained != self._trained:
            if self._engine is not None:
                remove: Callable[[], None] = self._engine._remove_autograd_hooks
                remove()
            # Which parameters take part may differ from batch to batch (the tails of an adaptive softmax).
            self._engine = DistributedDataParallel(_Losses(self._task), find_unused_parameters=True)
            self._trained = trained
        return self._engine


class _Losses(nn.Module):
    """The losses of a batch as a forward pass, which is what the engine watches."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self._task = task.model, task
        self.found: Any = None

    def forward(self, batch: Any, carry: Any) -> list[Tensor]:
        self.found = self._task.loss(batch, carry)
        return [loss.sum for loss in self.found[0].values()]
