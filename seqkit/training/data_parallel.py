"""Training in several processes: each computes its part of a batch, and the gradients are added up over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seqkit import distributed
from seqkit.errors import UserError
from seqkit.training.task import Loss, Task

# Before torch 2.4 the engine forgets, of batches whose gradients do not travel, which parameters they reached
# (pytorch/pytorch#124193). So there they all travel.
_REDUCES_EACH = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4)


def own_part(batches: Iterable[Any]) -> Iterable[Any]:
    """Return this process's part of each batch.

    Args:
        batches: what `Task.batches` returned.

    Raises:
        UserError: they cannot be shared.
    """
    if distributed.world() == 1:
        return batches
    share = getattr(batches, "share", None)
    if share is None:
        raise UserError(
            f"several processes: the {type(batches).__name__} that this task's batches() returns cannot be shared; "
            "return a seqkit.data.batching.Batches, or anything else with share(rank, world)"
        )
    parts: Iterable[Any] = share(distributed.rank(), distributed.world())
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
        """Return a context for forward and backward of one batch: gradients travel with the last one of an update."""
        if distributed.world() == 1:
            return nullcontext()
        engine = self._ready()
        return nullcontext() if last or _REDUCES_EACH else engine.no_sync()

    def __call__(self, batch: Any, carry: Any) -> tuple[Mapping[str, Loss], Any]:
        """Compute what `Task.loss` does. Multiply what is differentiated by `world`: the engine takes means."""
        if distributed.world() == 1:
            return self._task.loss(batch, carry)
        engine = self._ready()
        sums = engine(batch, carry)
        losses, after = engine.module.found
        named = zip(losses.items(), sums, strict=True)
        return {name: replace(loss, sum=total) for (name, loss), total in named}, after

    def _ready(self) -> DistributedDataParallel:
        """Return the engine for the parameters that are trained now: it does not follow what is frozen or unfrozen."""
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
