"""One update: the gradient of a few batches, weighed, clipped and applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import parametrize

from seqkit.data.batching import Spare
from seqkit.distributed import add, gather, rank, world
from seqkit.training.config import TrainingConfig
from seqkit.training.data_parallel import Learner
from seqkit.training.freezing import Freezing
from seqkit.training.optim import clip, make_optimizer, set_rate
from seqkit.training.schedules import schedule_factor
from seqkit.training.task import Loss, Task

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What `training.precision` may be, and the dtype of autocast."""


class NotFinite(Exception):
    """A loss or a gradient is infinite or not a number; all processes stop for it.

    Attributes:
        batch: the batch that gave it, or this process's part of it; None where another process's part did.
    """

    def __init__(self, what: str, value: float, batch: Any) -> None:
        super().__init__(f"the {what} is {value}")
        self.batch = batch


@dataclass(frozen=True)
class Done:
    """What an update was.

    Attributes:
        losses: each named loss, weighed; `loss` is their sum.
        norm: of the gradient, before it was clipped; not finite where the loss scaler has skipped the update.
        rate: the learning rate, as parameters have it whose own factor (`lr_factors`, `layer_decay`) is 1.
        tokens: in its batches, padding left out.
    """

    losses: dict[str, float]
    norm: float
    rate: float
    tokens: int

    @property
    def skipped(self) -> bool:
        """Return whether fp16 overflowed: nothing was changed but the scale."""
        return not math.isfinite(self.norm)


@dataclass(frozen=True)
class _Part:
    """Of one batch: the sums of its losses, still on the device, what each is multiplied by, and its tokens."""

    sums: list[torch.Tensor]
    factors: dict[str, float]
    tokens: int


class Updater:
    """Makes updates.

    Args:
        task: gives model and losses.
        config: how.
        device: where the model lies.

    Attributes:
        carry: what the next batch needs from the last one (see `Task.loss`).
    """

    def __init__(self, task: Task, config: TrainingConfig, device: torch.device) -> None:
        self.task, self.config, self.device = task, config, device
        self.freezing = Freezing(task.model, task.layer_groups(), config)
        # The optimiser has from the start whatever trains at some time, so that a checkpoint of any stage fits it.
        self.optimizer = make_optimizer(task.model, config.optimizer, self.freezing.factors)
        self.freezing.hold()
        self.learner = Learner(task)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type, enabled=PRECISIONS[config.precision] is torch.float16)
        self.carry: Any = None

    def state(self) -> dict[str, Any]:
        """Return what a resume needs, with the carry of all processes together; all of them must call this."""
        carry = self.carry
        if carry is not None and world() > 1:
            carry = self.task.join_carries(gather(_on_cpu(carry)))
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "carry": carry}

    def restore(self, optimizer: dict[str, Any], scaler: dict[str, Any], carry: Any) -> None:
        """Put back what `state` returned."""
        self.optimizer.load_state_dict(optimizer)
        self.scaler.load_state_dict(scaler)
        self.carry = carry if carry is None or world() == 1 else self.task.split_carry(carry, rank(), world())

    def advance(self, epoch: int, step: int) -> int:
        """Unfreeze what trains after these completed epochs and updates; returns the number of that stage."""
        stage = self.freezing.stage(epoch, step)
        # What has looked at requires_grad must look again: compiled graphs here (older ones of torch do not notice by
        # themselves), the engine of several processes before its next batch.
        if self.freezing.enter(stage) and self.config.compile:
            torch.compiler.reset()
        return stage

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context of a forward pass in the precision of the configuration; parametrized weights (adapters) are
        computed once in it, however often they are read."""
        dtype = PRECISIONS[self.config.precision]
        with torch.autocast(self.device.type, dtype) if dtype else nullcontext(), parametrize.cached():
            yield

    def __call__(
        self,
        window: list[Any],
        step: int,
        total: int | None,
        factor: float,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Done:
        """Make one update from the batches of a window.

        The losses and the norm of the gradient are read from the device once, when all has been launched. (With fp16
        the loss scaler of some optimisers asks it once more.)

        Args:
            window: batches whose gradients are added up; with several processes this one's parts of them.
            step: number of the update, from 0.
            total: how many there will be, None where that is not known.
            factor: what the scheduled learning rate is multiplied by.
            meanwhile: called while the device computes.

        Raises:
            NotFinite: the loss or the gradient; weights and optimiser are as before.
        """
        parts = self._gradient(window)
        self.scaler.unscale_(self.optimizer)
        norms = clip(self.parameters, self.config.clip_norm, self.config.clip_value)
        meanwhile()
        try:
            losses, norm = self._read(window, parts, norms)
        except NotFinite:
            self.optimizer.zero_grad(set_to_none=True)
            raise
        rate = set_rate(self.optimizer, schedule_factor(self.config.schedule, step, total) * factor)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Done(losses, norm, rate, sum(part.tokens for part in parts))

    def _gradient(self, window: list[Any]) -> list[_Part]:
        """Backpropagate the losses of a window; returns what is to be known of each batch."""
        totals = self._totals(window) if len(window) > 1 else {}
        parts = []
        for number, item in enumerate(window, 1):
            batch, counts = _plain(item)
            with self.learner.part(last=number == len(window)):
                with self.autocast():
                    losses, self.carry = self.learner(batch, self.carry)
                numbers = [*(loss.weight for loss in losses.values()), float(self.task.tokens(batch))]
                *weights, tokens = add(numbers if counts else [0.0] * len(numbers))
                factors = _factors(losses, totals or dict(zip(losses, weights, strict=True)))
                scale = counts * world()  # several processes take the mean of their gradients
                weighed = torch.stack([loss.sum * (factors[name] * scale) for name, loss in losses.items()]).sum()
                torch.autograd.backward(self.scaler.scale(weighed))
            parts.append(_Part([loss.sum.detach() for loss in losses.values()], factors, int(tokens)))
        return parts

    def _read(self, window: list[Any], parts: Sequence[_Part], norms: torch.Tensor) -> tuple[dict[str, float], float]:
        """Return each loss of a window, weighed and added up, and the norm of the gradient: the one place that waits.

        Raises:
            NotFinite: a loss, or without a loss scaler the gradient.
        """
        sums = [value for part in parts for value in part.sums]
        *own, norm = torch.stack([*sums, norms.to(sums[0].device)]).tolist()
        counts = [_plain(item)[1] for item, part in zip(window, parts, strict=True) for _ in part.sums]
        every = add([value if counted else 0.0 for value, counted in zip(own, counts, strict=True)])
        seen: dict[str, float] = {}
        end = 0
        for item, part in zip(window, parts, strict=True):
            here = slice(end, end := end + len(part.sums))
            values = {name: value * part.factors[name] for name, value in zip(part.factors, every[here], strict=True)}
            total = sum(values.values())
            if not math.isfinite(total):
                guilty = world() == 1 or not all(map(math.isfinite, own[here]))
                raise NotFinite("loss", total, _plain(item)[0] if guilty else None)
            _count(seen, {**(values if len(values) > 1 else {}), "loss": total})
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            batch, counted = _plain(window[-1])
            raise NotFinite("gradient", norm, batch if counted else None)
        return seen, norm

    def _totals(self, window: list[Any]) -> dict[str, float]:
        """Return the weight of each loss in a window, over all processes."""
        totals: dict[str, float] = {}
        for item in window:
            batch, counts = _plain(item)
            _count(totals, {name: weight * counts for name, weight in self.task.weights(batch).items()})
        return dict(zip(totals, add(list(totals.values())), strict=True))


def _on_cpu(carry: Any) -> Any:
    """Return the same tensors where any process can read them."""
    if isinstance(carry, torch.Tensor):
        return carry.cpu()
    if isinstance(carry, Mapping):
        return {name: _on_cpu(value) for name, value in carry.items()}
    if isinstance(carry, tuple) and hasattr(carry, "_fields"):
        return type(carry)(*map(_on_cpu, carry))
    return type(carry)(map(_on_cpu, carry)) if isinstance(carry, (list, tuple)) else carry


def _plain(item: Any) -> tuple[Any, bool]:
    """Return a batch, and whether it counts."""
    return (item.batch, False) if isinstance(item, Spare) else (item, True)


def _factors(losses: Mapping[str, Loss], totals: Mapping[str, float]) -> dict[str, float]:
    """Return what the sum of each loss is multiplied by."""
    return {name: loss.coefficient / totals[name] if totals[name] else 0.0 for name, loss in losses.items()}


def _count(seen: dict[str, float], more: Mapping[str, float]) -> None:
    for name, value in more.items():
        seen[name] = seen.get(name, 0.0) + value
