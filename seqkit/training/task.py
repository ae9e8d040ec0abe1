"""The Task contract: what is learned. The trainer only knows how to learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """One named part of the training loss, as a sum and the weight to divide it by.

    Sums and weights, not means, so that accumulated batches and several processes weigh every token alike: over all
    batches of a step the trainer minimises `coefficient * (total of sums) / (total of weights)`.

    Attributes:
        sum: scalar tensor with a graph, the loss added up over the batch's examples or tokens.
        weight: the number (or total class weight) of what was added up.
        coefficient: the share of this part beside the others.
    """

    sum: Tensor
    weight: float
    coefficient: float = 1.0


class Task(ABC):
    """What the trainer asks of a task. The two abstract methods are enough to train; the rest has defaults.

    Attributes:
        model: the module that is trained; the trainer moves, compiles, averages, saves and restores it.
        scores: the names that `evaluate` returns, where they are known beforehand (a misspelt `training.metric` is
            then refused before training); empty where they are not.
    """

    model: nn.Module
    scores: tuple[str, ...] = ()

    @abstractmethod
    def batches(self, epoch: int, start: int = 0) -> Iterable[Any]:
        """Return the batches of one epoch from number `start` on: the same ones at every call with the same arguments.

        The result may have a `__len__`, the number of batches from `start` on: schedules and progress bars use it.
        Several processes need its `share(rank, world)`, the same batches with one process's part of each (see
        `seqkit.data.batching.Batches`).
        """

    @abstractmethod
    def loss(self, batch: Any, carry: Any) -> tuple[Mapping[str, Loss], Any]:
        """Compute the losses of a batch, and what the next batch needs from this one.

        Args:
            batch: one item of `batches`.
            carry: None at the start of an epoch; afterwards what the previous call returned (a language model's
                detached state). It must be None, a tensor, or tuples, lists and dicts of these: it is saved.

        Returns:
            name -> loss, and the next carry.
        """

    def send(self, batch: Any, device: torch.device) -> Any:
        """Return a batch on its way to a device that is not the CPU, as `loss` takes it there, without waiting.

        The trainer calls this while the device still computes on the batch before. By default nothing is moved: either
        `batches` or `loss` does it.
        """
        return batch

    def weights(self, batch: Any) -> Mapping[str, float]:
        """Return the weight of each loss of this batch, known without a forward pass; needed to accumulate batches."""
        raise NotImplementedError(f"{type(self).__name__}.weights(batch) is needed for training.accumulate > 1")

    def split_carry(self, carry: Any, rank: int, world: int) -> Any:
        """Return what process `rank` of `world` needs of a carry, for its part of each batch (see `Batches.share`)."""
        raise NotImplementedError(f"{type(self).__name__}.split_carry is needed to go on in several processes")

    def join_carries(self, carries: Sequence[Any]) -> Any:
        """Return the carry of the whole batch from the `carries` of all processes in their order."""
        raise NotImplementedError(f"{type(self).__name__}.join_carries is needed to save a run of several processes")

    def layer_groups(self) -> Sequence[Sequence[str]]:
        """Return the model's layers, those nearest the input first, each as patterns of parameter names.

        For gradual unfreezing and `layer_decay`. A name belongs to the first group that has a pattern for it, so that
        the last may say `*`; each must belong to one.
        """
        return [["*"]]

    def export(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's weights as they are for use: what a run folder keeps.

        Where the model learns them in another form (adapters on frozen weights), a checkpoint keeps that form too.

        Args:
            weights: the model's state dict.
        """
        return dict(weights)

    def settle(self) -> None:  # noqa: B027 (most tasks have nothing to do)
        """Turn the model, at the end of training, into one that takes what `export` returns."""

    def evaluate(self) -> dict[str, float]:
        """Return scores on the development data, in evaluation mode and without gradients; empty: no such data."""
        return {}

    def dev_outputs(self, limit: int) -> list[dict[str, Any]]:
        """Return what the model as it is makes of the development data, a record for each example.

        Called right after `evaluate`, in every process, in evaluation mode and without gradients. The records become
        the lines of dev.jsonl, so that they must be JSON. A report shows `place`, `text`, `gold`, `prediction` and
        `confidence` (from 0 to 1) where they are there.

        Args:
            limit: most examples, evenly spread over the data.
        """
        return []

    def samples(self) -> list[dict[str, str]]:
        """Return a few examples of what the last `evaluate` read and answered, as named texts, shown and logged."""
        return []

    def artifacts(self) -> Mapping[str, Any]:
        """Return figures (of matplotlib) and paths of files that the last `evaluate` made, by name, for the loggers."""
        return {}

    def tokens(self, batch: Any) -> int:
        """Return how many tokens a batch holds, without padding, for the speed that is shown; 0: none is shown."""
        return 0

    def why_zero(self, scores: Sequence[str]) -> str:
        """Return the likely reason why these scores of `evaluate` have always been 0, for a line to the user."""
        return (
            "either the model has not learned enough yet for these scores to rise (too few updates, too low a "
            "training.optimizer.lr), or the development data are unlike the training data"
        )

    def describe(self, batch: Any) -> list[str]:
        """Return the examples of a batch as text, shown when their loss is not finite."""
        return []
