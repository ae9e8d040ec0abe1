"""From the CPU to another device without waiting for what that device still computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; itself where it lies there already.

    What comes from the CPU goes from pinned memory where the device is CUDA, so that the copy queues up behind the
    kernels before it and the host goes on. The other way round it waits: a value is there when this returns.
    """
    if tensor.device == device:
        return tensor
    if tensor.device.type != "cpu":
        return tensor.to(device)
    if device.type == "cuda" and not torch.compiler.is_compiling():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def send_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Vectors of one dtype on a device, sent as one; themselves on the CPU."""
    if device.type == "cpu":
        return list(tensors)
    return list(send(torch.cat(list(tensors)), device).split_with_sizes([len(tensor) for tensor in tensors]))
