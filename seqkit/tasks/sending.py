"""Batches on their way to the device of the model."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from seqkit.nn.sending import send

T = TypeVar("T")


def sent(batch: T, device: torch.device) -> T:
    """Return a batch with its tensors on a device, sent without waiting; on the CPU the batch itself.

    Lengths stay on the CPU, where the layout of a batch is computed: all fields whose names end in `lengths`.

    Args:
        batch: a tensor, or a dataclass or NamedTuple. Of its fields, tensors move and NamedTuples of tensors; all else
            stays as it is.
        device: where to.
    """
    if device.type == "cpu":
        return batch
    names = [field.name for field in fields(batch)] if is_dataclass(batch) else []
    found = {name: _sent(name, getattr(batch, name), device) for name in names}
    return replace(batch, **found) if names else _sent("", batch, device)  # type: ignore[type-var]


def _sent(name: str, value: Any, device: torch.device) -> Any:
    if name.endswith("lengths"):
        return value
    if isinstance(value, Tensor):
        return send(value, device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_sent(*pair, device) for pair in zip(value._fields, value, strict=True)))
    return value
