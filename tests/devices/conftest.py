"""For the files that `test_devices.py` runs in processes of their own: the device, and how results are compared."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


def place(value: Any, device: torch.device) -> Any:
    """Tensors there, wherever they are in a tree, with a memory of their own."""
    if isinstance(value, Tensor):
        return value.detach().clone().to(device).requires_grad_(value.requires_grad)
    if isinstance(value, (tuple, list)):
        return type(value)(place(one, device) for one in value)
    return copy.deepcopy(value).to(device) if isinstance(value, nn.Module) else value


def tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return tensors(list(tree.values()))
    return [one for part in tree for one in tensors(part)] if isinstance(tree, (tuple, list)) else []


def outcome(compute: Callable[..., Any], given: list[Any], device: torch.device) -> list[Tensor]:
    """What `compute(*given)` gives there, and the gradients of all that wants one, brought to the CPU."""
    given = [place(one, device) for one in given]
    torch.manual_seed(3)  # the CPU's generator and the device's give the same numbers from here on
    found = tensors(compute(*given))
    assert all(one.device.type == device.type for one in found)
    asked = [one for one in given if isinstance(one, Tensor) and one.requires_grad]
    asked += [p for module in given if isinstance(module, nn.Module) for p in module.parameters() if p.requires_grad]
    graphs = [one for one in found if one.grad_fn is not None]
    if graphs and asked:
        weighed = [(one * torch.linspace(-1, 1, one.numel(), dtype=one.dtype, device=device).view_as(one)).sum()
                   for one in graphs]  # fmt: skip
        torch.stack([one.double() for one in weighed]).sum().backward()
        found += [torch.zeros_like(one) if one.grad is None else one.grad for one in asked]
    return [one.detach().cpu() for one in found]


def check_same(device: torch.device, compute: Callable[..., Any], *given: Any, tolerance: float = 2e-5) -> None:
    """Assert that `compute(*given)` and its gradients are on the device what they are on the CPU.

    Args:
        device: the other one.
        compute: gives tensors, in tuples, lists and dicts.
        given: tensors, modules and trees of them, which are copied to where it computes; all else goes as it is.
        tolerance: absolute and relative.
    """
    there = outcome(compute, list(given), device)
    for one, other in zip(there, outcome(compute, list(given), CPU), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module fake_accelerator.py, installed for the rest of the process."""
    path = Path(__file__).with_name("fake_accelerator.py")
    spec = importlib.util.spec_from_file_location("fake_accelerator", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["fake_accelerator"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install()
    return module


@pytest.fixture
def same(fake: ModuleType) -> Callable[..., None]:
    """`same(compute, *given, tolerance=...)`: see `check_same`."""
    return partial(check_same, fake.install())
