"""Whether Triton kernels can run here."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from importlib import metadata

import torch

# The first version whose products may have eight columns, and which takes None in tuples.
MIN_VERSION = (3, 5)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def interpreted() -> bool:
    """Return whether Triton runs its kernels in Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


def recent() -> bool:
    """Return whether a Triton is installed that the kernels are written for."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        version = tuple(int(part) for part in metadata.version("triton").split("+")[0].split(".")[:2])
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return version >= MIN_VERSION


@lru_cache(maxsize=1)
def available() -> bool:
    """Return whether Triton kernels can run: a recent Triton, and a CUDA card from Ampere on (or the interpreter)."""
    if not recent():
        return False
    if interpreted():
        return True
    return torch.cuda.is_available() and torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)
