"""The loss cliff, and what clipping does to the step that is taken there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqkit.drawing import Line, number
from seqkit.lessons.base import Block, Chart, Heading, Table, Text
from seqkit.lessons.weights import set_weights
from seqkit.nn import RNN
from seqkit.training import Loss, Task, TrainingConfig
from seqkit.training.update import NotFinite, Updater

LENGTH = 100
START = 1.03
RATE = 5e-5
CLIP = 10.0
UPDATES = 70
_DOUBLE = torch.float64


class Remember(Task):
    """Read one number and 99 zeros, and give the number back at the end, with one recurrent weight.

    Args:
        weight: where training starts; 1 is the solution.
    """

    def __init__(self, weight: float) -> None:
        self.model: nn.Module = linear_units([weight])

    def batches(self, epoch: int, start: int = 0) -> Iterable[Tensor]:
        return [sequences()][start:]

    def loss(self, batch: Tensor, carry: Any) -> tuple[Mapping[str, Loss], Any]:
        output, _ = self.model(batch)
        return {"loss": Loss((output[-1] - batch[0]).square().sum(), batch.size(1))}, None


class Update(NamedTuple):
    """One update: the weight and the loss before it, and the gradient's norm before clipping."""

    weight: float
    loss: float
    norm: float


def linear_units(weights: Sequence[float]) -> RNN:
    """Make a linear RNN whose units know nothing of each other, each with one recurrent weight."""
    rnn = RNN(1, len(weights), nonlinearity="identity", bias=False, dtype=_DOUBLE)
    set_weights(rnn, weight_ih_l0=1, weight_hh_l0=torch.diag(torch.tensor(weights, dtype=_DOUBLE)))
    rnn.get_parameter("weight_ih_l0").requires_grad_(False)
    return rnn


def sequences() -> Tensor:
    """Make the two sequences of the task, which begin with 1 and with -1: (T, 2, 1)."""
    x = torch.zeros(LENGTH, 2, 1, dtype=_DOUBLE)
    x[0, :, 0] = torch.tensor([1.0, -1.0])
    return x


def losses(weights: Sequence[float]) -> tuple[list[float], list[float]]:
    """Compute the loss of the task for each weight, and its slope."""
    rnn, x = linear_units(weights), sequences()
    output, _ = rnn(x)
    values = (output[-1] - x[0]).square().mean(0)
    (slopes,) = torch.autograd.grad(values.sum(), rnn.get_parameter("weight_hh_l0"))
    return values.tolist(), slopes.diagonal().tolist()


def train(clip_norm: float | None, updates: int = UPDATES) -> tuple[list[Update], str]:
    """Train with the library's own updates, from above the cliff.

    Args:
        clip_norm: as in `training.clip_norm`; None: the gradient is left as it is.
        updates: how many.

    Returns:
        the updates, and why training stopped before the last ("" where it did not).
    """
    task = Remember(START)
    settings = {"steps": updates, "clip_norm": clip_norm, "optimizer": {"name": "sgd", "lr": RATE}}
    updater = Updater(task, TrainingConfig.model_validate(settings), torch.device("cpu"))
    done: list[Update] = []
    for step in range(updates):
        weight = task.model.get_parameter("weight_hh_l0").item()
        try:
            update = updater(list(task.batches(0)), step, updates, 1.0)
        except NotFinite as error:
            return done, f"update {step + 1}, at w = {number(weight)}: {error}"
        done.append(Update(weight, update.losses["loss"], update.norm))
    return done, ""


def cliff_blocks() -> list[Block]:
    """Compute this part of the lesson."""
    grid = [0.9 + 0.001 * place for place in range(132)]
    (plain, failure), (clipped, _) = train(None), train(CLIP)
    values, _ = losses(grid)
    return [
        Heading("The loss cliff"),
        Text(
            f"Now w is learned. The task: read a number, then {LENGTH - 1} zeros, and give the number back at the "
            "end. The solution is w = 1. The loss, the squared difference, is almost flat where w is below 1, and a "
            "wall where it is above:"
        ),
        _slopes(),
        Chart(
            [
                Line("loss", grid, values),
                Line("updates with clipping", [one.weight for one in clipped], [one.loss for one in clipped], True),
            ],
            "recurrent weight w",
            "loss",
            f"The loss for each w, and the path of {len(clipped)} updates that start at w = {number(START)} and clip "
            "the gradient.",
        ),
        *_two_runs(plain, failure, clipped),
    ]


def _slopes() -> Block:
    weights = [0.9, 0.97, 1.0, 1.01, START]
    rows = [tuple(map(number, row)) for row in zip(weights, *losses(weights), strict=True)]
    return Table(("w", "loss", "slope"), rows, "The loss and its slope (the gradient) on both sides of the solution.")


def _two_runs(plain: Sequence[Update], failure: str, clipped: Sequence[Update]) -> list[Block]:
    first = plain[0]
    rows = [("no clipping", str(place), *_numbers(one)) for place, one in enumerate(plain, 1)]
    shown = [place for place in (1, 2, 30, 60, len(clipped)) if place <= len(clipped)]
    rows += [("clipping", str(place), *_numbers(clipped[place - 1])) for place in shown]
    return [
        Heading("What clipping does to the step"),
        Text(
            f"Training starts at w = {number(START)}, with learning rate {number(RATE)}. The gradient there is "
            f"{number(first.norm)}, so plain gradient descent changes w by {number(first.norm * RATE)}, far beyond the "
            f"solution. From there the next gradient is {number(plain[-1].norm)}, and the run is over: {failure}."
        ),
        Text(
            f"Clipping scales the gradient down to length {number(CLIP)} where it is longer, so that no step is longer "
            f"than {number(CLIP * RATE)}. The direction stays. The run walks down the wall, and near the solution, "
            f"where the gradient is short, nothing is clipped: at the end w is {clipped[-1].weight:.6f}."
        ),
        Table(
            ("run", "update", "w", "loss", "gradient"),
            rows,
            f"Updates by the same optimiser, with and without clipping to length {number(CLIP)}; the gradient before "
            "it is clipped.",
        ),
        Chart(
            [
                Line("clipping", range(1, len(clipped) + 1), [one.loss for one in clipped]),
                Line("no clipping", range(1, len(plain) + 1), [one.loss for one in plain], True),
            ],
            "update",
            "loss",
            f"The loss at each update, on a logarithmic axis: without clipping the run ends after {len(plain)}.",
            log=True,
            y_range=(1e-12, 1e72),
        ),
    ]


def _numbers(update: Update) -> tuple[str, str, str]:
    return f"{update.weight:.4f}", number(update.loss), number(update.norm)
