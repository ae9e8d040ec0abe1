"""Devices by name: which there are, which one a process takes, what makes them repeat themselves, how they fail."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from seqkit import distributed
from seqkit.errors import UserError, nearest

KINDS = ("cuda", "mps", "xpu")
"""Kinds of accelerators that `auto` looks for, in this order."""


def known_kinds() -> tuple[str, ...]:
    """All kinds that may be named: the CPU, the accelerators, and one that another package has added to torch."""
    own = torch._C._get_privateuse1_backend_name()
    return ("cpu", *KINDS, *([own] if own != "privateuseone" else []))


def check_name(name: str) -> str:
    """Return a device's name if it is `auto`, a kind, or a kind with a number (`cuda:1`), whether it is here or not.

    Raises:
        ValueError: with the nearest name.
    """
    kind = name.partition(":")[0]
    if name == "auto" or (kind in known_kinds() and re.fullmatch(r"(:\d{1,3})?", name[len(kind) :])):
        return name
    if kind in known_kinds():
        raise ValueError(f"{name!r} is not a device; expected {kind} or {kind} and a number, such as {kind}:0")
    choices = ("auto", *known_kinds())
    raise ValueError(f"{name!r} is not a device; known: {', '.join(choices)}{nearest(name, choices)}")


def module_of(kind: str) -> Any:
    """Return torch's module for a kind of device (`torch.cuda`), or None where this torch has none."""
    return getattr(torch, kind, None)


def is_available(kind: str) -> bool:
    """Return whether this torch can compute on such a device here."""
    if kind == "cpu":
        return True
    if kind == "mps":
        return torch.backends.mps.is_available()
    module = module_of(kind)
    return module is not None and hasattr(module, "is_available") and bool(module.is_available())


def count(kind: str) -> int:
    """Return how many devices of a kind there are."""
    if not is_available(kind):
        return 0
    return int(getattr(module_of(kind), "device_count", lambda: 1)())


def reason_for_absence(kind: str) -> str:
    """Return why a kind of device cannot be used here."""
    if kind == "cuda":
        return "torch finds no CUDA device here" + (
            " (this torch is built without CUDA)" if torch.version.cuda is None else ""
        )
    if kind == "mps":
        built = torch.backends.mps.is_built()
        return "torch finds no Apple GPU here" + ("" if built else " (this torch is built without mps)")
    return f"torch finds no device of the kind {kind} here"


def find_device(name: str) -> str:
    """Return the name of a device that is here; `auto`: CUDA, else mps, else xpu, else the CPU.

    Raises:
        UserError: a name that is none; a device that is not here.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise UserError(str(error), key="device") from None
    if name == "auto":
        return next((kind for kind in KINDS if is_available(kind)), "cpu")
    kind, _, number = name.partition(":")
    if not is_available(kind):
        raise UserError(
            f"{name} was asked for, but {reason_for_absence(kind)}; use device=cpu or device=auto", key="device"
        )
    if number and kind != "cpu" and int(number) >= count(kind):
        raise UserError(f"{name} was asked for, but there are {count(kind)}, counted from {kind}:0", key="device")
    return name


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
    """Return this process's device of a kind.

    Raises:
        UserError: there are more processes on this machine than such devices, or several processes cannot use them.
    """
    kind, _, number = name.partition(":")
    if kind == "cpu" or distributed.world() == 1:
        return torch.device(name)
    if kind not in ("cuda", "xpu"):
        raise UserError(f"several processes train on cpu, cuda or xpu, not on {kind}; use device=cpu", key="device")
    if number:
        raise UserError(f"each process takes a device of its own; give {kind} without a number", key="device")
    local = distributed.local_rank()
    if local >= count(kind):
        raise UserError(
            f"process {local} of this machine has no {kind.upper()} device of its own, there are "
            f"{count(kind)}; start fewer processes, or use device=cpu",
            key="device",
        )
    module_of(kind).set_device(local)
    return torch.device(kind, local)


def device_name(device: torch.device) -> str:
    """Return what the maker calls it, or its kind."""
    module = module_of(device.type)
    if device.type != "cpu" and hasattr(module, "get_device_name"):
        return str(module.get_device_name(device))
    return device.type


def slow_bfloat16(device: torch.device) -> str | None:
    """Return a line where the device is a CPU without instructions for bfloat16, which float32 is faster on.

    None where there are such instructions, and where this torch cannot tell (older ones, and beyond x86).
    """
    asks = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or None in asks:
        return None
    if any(ask() for ask in asks if ask is not None):
        return None
    return "training.precision=bf16: this CPU has no instructions for bfloat16; float32 is faster here (fp32)"


_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Return a context in which a device gives the same bits for the same input, at some cost in speed, if `wanted`.

    torch's deterministic algorithms are taken, an operator that lacks one raises an error that names it, cuDNN does not
    try out kernels, and cuBLAS and cuDNN get workspaces of their own (CUBLAS_WORKSPACE_CONFIG=:4096:8, which acts only
    if it stands in the environment before the first product on the device).
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark
    filling: Any = torch.utils.deterministic
    fill = filling.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        filling.fill_uninitialized_memory = False  # nothing here reads memory that was not written
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = flags


def out_of_memory(error: BaseException) -> bool:
    """Return whether an operator found no memory, on whatever device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(re.search(r"out of memory|alloc", str(error)))


def device_lost(error: BaseException) -> bool:
    """Return whether a device has stopped answering: what it held is gone, and this process cannot use it any more."""
    accelerator = getattr(torch, "AcceleratorError", ())
    if out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, accelerator) or bool(re.match(r"(CUDA|cuDNN|CUBLAS|NCCL|HIP|XPU) error", str(error)))


def device_trouble(error: BaseException) -> str | None:
    """One line for an error that is the device's and not the program's; None for others."""
    if out_of_memory(error):
        return f"not enough memory: {first_line(error)}" if str(error) else "not enough memory"
    return f"the device has failed: {first_line(error)}" if device_lost(error) else None


def failure(error: BaseException, device: torch.device, batch: str, kept: Callable[[], str]) -> str | None:
    """Return what to say in training of an error that is the device's and not the program's; None for others.

    Args:
        batch: the shapes of the batch in work, "" where it does not matter.
        kept: says what there is to go on from.
    """
    if out_of_memory(error):
        seen = f"; the batch: {batch}" if batch else ""
        return (
            f"{device} is out of memory ({first_line(error)}){seen}. {kept()}. In a new run, a smaller data.batch_size "
            "with training.accumulate raised by the same factor makes the same updates in less memory; "
            "training.precision=bf16 and a smaller data.max_length help, too"
        )
    if device_lost(error):
        place = ", here or with device=cpu" if "seqkit resume" in kept() else ""
        return f"{device} has failed ({first_line(error)}). {kept()}{place}"
    return None


def first_line(error: BaseException) -> str:
    """Return what an error of the device says, without torch's advice on how to debug it."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
