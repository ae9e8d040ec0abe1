"""From the CPU to another device without waiting for what that device still computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NO_FLOAT64 = {"mps"}
"""Kinds of device that have no float64: what needs it is computed on the CPU, and comes back in float32."""


def where_exact(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors where float64 exists: on the CPU if their device lacks it, else as they are."""
    return tuple(tensor.cpu() if tensor.device.type in NO_FLOAT64 else tensor for tensor in tensors)


def sent_back(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a result of what `where_exact` gave, on the device it came from."""
    if device.type in NO_FLOAT64 and tensor.dtype == torch.float64:
        tensor = tensor.float()
    return tensor.to(device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to a device.

    From the CPU to CUDA it goes by way of pinned memory, so that the copy queues up behind the kernels before it and
    the host goes on. The other way round it waits: a value is there when this returns.

    Args:
        tensor: of any shape.
        device: where to.

    Returns:
        the tensor there; itself where it lies there already.
    """
    if tensor.device == device:
        return tensor
    if tensor.device.type != "cpu":
        return tensor.to(device)
    if device.type == "cuda" and not torch.compiler.is_compiling():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def send_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Send vectors of one dtype to a device, as one.

    Args:
        tensors: (n,) each, on the CPU.
        device: where to.

    Returns:
        the vectors there; themselves if that is the CPU.
    """
    if device.type == "cpu":
        return list(tensors)
    return list(send(torch.cat(list(tensors)), device).split_with_sizes([len(tensor) for tensor in tensors]))
