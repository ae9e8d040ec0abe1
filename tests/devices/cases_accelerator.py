"""The pretended accelerator itself: what it refuses and what it counts.

Run by test_devices.py.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

MASK, INDEX = torch.tensor([True, False, True]), torch.tensor([0, 2])
REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "a sum": lambda x: x + torch.rand(3),
    "a list": lambda x: torch.cat([x, torch.rand(3)]),
    "an index_select": lambda x: x.index_select(0, INDEX),
    "a gather": lambda x: x.gather(0, INDEX),
    "a mask": lambda x: x.masked_fill(MASK, 0.0),
    "an embedding": lambda x: nn.functional.embedding(INDEX, x.unsqueeze(1)),
    "values": lambda x: x.__setitem__(slice(0, 2), torch.rand(2) + x[:2]),
    "a generator": lambda x: torch.rand(3, device=x.device, generator=torch.Generator()),
    "a generator in place": lambda x: x.bernoulli_(0.5, generator=torch.Generator()),
}
READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "copy from there": lambda x: torch.empty(3).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "chosen by a mask": lambda x: x[x > 0.5],
    "set by a mask": lambda x: x.__setitem__(x > -1, x.clone()),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: torch.unique(x),
    "multinomial": lambda x: torch.multinomial(x, 1),
}
BLOCKING: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: torch.tensor([1.0], device=x.device),
    "as_tensor": lambda x: torch.as_tensor([1.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor(-1.0),
    "to": lambda x: INDEX.to(x.device),
    "an index on the CPU": lambda x: x[INDEX],
    "an index that is a list": lambda x: x[[0, 1]],
    "copy to there": lambda x: x.copy_(torch.rand(3)),
}
FREE: dict[str, Callable[[Tensor], Any]] = {
    "made there": lambda x: torch.arange(3, device=x.device) + x.new_full((), -1.0) + torch.zeros_like(x),
    "drawn there": lambda x: nn.functional.dropout(torch.rand(3, device=x.device), 0.5),
    "numbers": lambda x: torch.where(x > 0, x * 2.0, 0.0),
    "a number of the CPU": lambda x: x * torch.tensor(2.0),
    "filled by a mask": lambda x: x.clone().__setitem__(x > 0.5, 1.0),
    "an index": lambda x: x[torch.arange(2, device=x.device)],
}


@pytest.fixture
def x(fake: ModuleType) -> Tensor:
    return torch.rand(3).to(fake.install())


@pytest.mark.parametrize("what", REFUSED)
def test_what_cuda_refuses_is_refused(x: Tensor, what: str) -> None:
    with pytest.raises(RuntimeError, match="Expected a"):
        REFUSED[what](x)


def test_numpy_is_refused(x: Tensor) -> None:
    with pytest.raises(TypeError, match="can't convert fake:0 device type tensor to numpy"):
        x.numpy()


@pytest.mark.parametrize("what", [*READS, *BLOCKING, *FREE])
def test_what_waits_is_counted(fake: ModuleType, x: Tensor, what: str) -> None:
    with fake.watched() as traffic:
        {**READS, **BLOCKING, **FREE}[what](x)
    assert len(traffic.reads) == (what in READS), traffic
    assert len(traffic.blocking) == (what in BLOCKING), traffic
    with fake.watched() as traffic:
        INDEX.to(x.device, non_blocking=True)
    assert (len(traffic.sent), traffic.waits) == (1, [])


def test_it_works_in_the_threads_of_autograd(fake: ModuleType, x: Tensor) -> None:
    found = []

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            made = torch.arange(3, device=grad.device), torch.tensor([2.0], device=grad.device)
            found.extend([threading.get_ident(), made[0].tolist(), bool(grad.sum() > 0)])
            return grad * made[1]

    with fake.watched() as traffic:
        Double.apply(x.requires_grad_()).sum().backward()
    assert found[0] != threading.get_ident()
    assert found[1:] == [[0, 1, 2], True]
    assert x.grad is not None
    assert x.grad.cpu().tolist() == [2.0] * 3
    assert (len(traffic.reads), len(traffic.blocking)) == (2, 1)


def test_random_numbers_are_its_own(fake: ModuleType) -> None:
    torch.manual_seed(5)
    torch.rand(7)
    first = torch.rand(3, device=fake.NAME).cpu()
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3, device=fake.NAME).cpu(), first)
    with torch.random.fork_rng([0], device_type=fake.NAME):
        second = torch.rand(3, device=fake.NAME).cpu()
    assert torch.equal(torch.rand(3, device=fake.NAME).cpu(), second)


def test_modules_move_as_on_cuda(fake: ModuleType) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.to(fake.NAME)
    assert model[0].weight is model[1].weight
    assert isinstance(model[0].weight, nn.Parameter)
    copied = copy.deepcopy(model)
    assert copied[0].weight is copied[1].weight
    assert copied[0].weight is not model[0].weight
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.rand(2, 3, device=fake.NAME)).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with fake.watched() as traffic:
        optimizer.step()
    assert not traffic.waits
    assert not torch.equal(model[0].weight.cpu(), copied[0].weight.cpu())
