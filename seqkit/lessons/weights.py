"""Weights set by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def set_weights(module: nn.Module, **values: Any) -> None:
    """Fill parameters, by name: with a number for all entries, or with rows of numbers."""
    with torch.no_grad():
        for name, value in values.items():
            parameter = module.get_parameter(name)
            parameter.copy_(torch.as_tensor(value, dtype=parameter.dtype))
