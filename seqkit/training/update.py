"""One update: the gradient of a few batches, weighed, clipped and applied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from seqkit.training.optim import clip, make_optimizer, schedule_factor, set_rate
from seqkit.training.settings import TrainingConfig
from seqkit.training.task import Loss, Task


class NotFinite(Exception):
    """A loss or a gradient is infinite or not a number.

    Attributes:
        batch: the batch that gave it.
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
        rate: the learning rate of the first parameter group.
    """

    losses: dict[str, float]
    norm: float
    rate: float

    @property
    def skipped(self) -> bool:
        """Whether fp16 overflowed: nothing was changed but the scale."""
        return not math.isfinite(self.norm)


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
        self.optimizer = make_optimizer(task.model, config.optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.carry: Any = None

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "carry": self.carry}

    def restore(self, optimizer: dict[str, Any], scaler: dict[str, Any], carry: Any) -> None:
        """Put back what `state` returned."""
        self.optimizer.load_state_dict(optimizer)
        self.scaler.load_state_dict(scaler)
        self.carry = carry

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass in the precision of the configuration."""
        if self.config.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype)

    def __call__(self, window: list[Any], step: int, total: int | None, factor: float) -> Done:
        """One update from the batches of a window.

        Args:
            window: batches whose gradients are added up.
            step: number of the update, from 0.
            total: how many there will be, None where that is not known.
            factor: what the scheduled learning rate is multiplied by.

        Raises:
            NotFinite: the loss or the gradient; weights and optimiser are as before.
        """
        losses = self._gradient(window)
        self.scaler.unscale_(self.optimizer)
        norm = clip(self.parameters, self.config.clip_norm, self.config.clip_value).item()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise NotFinite("gradient", norm, window[-1])
        rate = set_rate(self.optimizer, schedule_factor(self.config.schedule, step, total) * factor)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Done(losses, norm, rate)

    def _gradient(self, window: list[Any]) -> dict[str, float]:
        """Backpropagate the losses of a window; returns each of them, weighed."""
        totals: dict[str, float] = {}
        if len(window) > 1:
            for batch in window:
                for name, weight in self.task.weights(batch).items():
                    totals[name] = totals.get(name, 0.0) + weight
        seen: dict[str, float] = {}
        for batch in window:
            with self.autocast():
                losses, self.carry = self.task.loss(batch, self.carry)
            total = self._weighed(losses, totals or {name: loss.weight for name, loss in losses.items()}, seen)
            if not math.isfinite(total.item()):
                raise NotFinite("loss", total.item(), batch)
            torch.autograd.backward(self.scaler.scale(total))
        return seen

    @staticmethod
    def _weighed(losses: Mapping[str, Loss], totals: Mapping[str, float], seen: dict[str, float]) -> torch.Tensor:
        """The sum to differentiate; adds it, and where there are several losses each of them, to `seen`."""
        parts = []
        for name, loss in losses.items():
            part = loss.sum * (loss.coefficient / totals[name]) if totals[name] else loss.sum * 0.0
            if len(losses) > 1 and name != "loss":
                seen[name] = seen.get(name, 0.0) + part.item()
            parts.append(part)
        total = torch.stack(parts).sum()
        seen["loss"] = seen.get("loss", 0.0) + total.item()
        return total
