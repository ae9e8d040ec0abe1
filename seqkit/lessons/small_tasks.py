"""Tasks on sequences of symbols, made without end, and a short training on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqkit.training import Loss, Task, TrainingConfig
from seqkit.training.update import Updater

BATCH = 64
IGNORED = -1
"""The target of a step at which nothing is asked."""

Draw = Callable[[torch.Generator, int], tuple[Tensor, Tensor]]
"""(generator, batch size B) -> symbols (T, B) and targets (T, B), `IGNORED` where nothing is asked; int64."""


class Symbols(Task):
    """A task whose batches are drawn anew for each update.

    Args:
        model: takes symbols as one-hot vectors (T, B, `symbols`) and returns logits (T, B, K).
        draw: makes a batch.
        symbols: how many there are.
    """

    def __init__(self, model: nn.Module, draw: Draw, symbols: int) -> None:
        self.model, self.draw, self.symbols = model, draw, symbols

    def batches(self, epoch: int, start: int = 0) -> Iterable[tuple[Tensor, Tensor]]:
        return [self.draw(torch.Generator().manual_seed(epoch), BATCH)][start:]

    def logits(self, symbols: Tensor) -> Tensor:
        """Run the model: symbols (T, B) -> (T, B, K)."""
        result: Tensor = self.model(F.one_hot(symbols, self.symbols).float())
        return result

    def loss(self, batch: tuple[Tensor, Tensor], carry: Any) -> tuple[Mapping[str, Loss], Any]:
        symbols, targets = batch
        asked = targets != IGNORED
        total = F.cross_entropy(self.logits(symbols)[asked], targets[asked], reduction="sum")
        return {"loss": Loss(total, int(asked.sum()))}, None


def learn(
    build: Callable[[], nn.Module], draw: Draw, symbols: int, *, updates: int, rate: float, seed: int = 1
) -> Symbols:
    """Train a model with the library's own updates, at a learning rate that falls to zero.

    Args:
        build: makes the model; its weights are drawn from `seed`.
        draw: makes a batch.
        symbols: how many symbols there are.
        updates: how many.
        rate: the learning rate at the start.
        seed: of the weights and of the batches.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        task = Symbols(build(), draw, symbols)
    settings = {"steps": updates, "optimizer": {"name": "adamw", "lr": rate, "weight_decay": 0.0}}
    updater = Updater(task, TrainingConfig.model_validate(settings), torch.device("cpu"))
    for step in range(updates):
        updater(list(task.batches(seed * 1_000_000 + step)), step, updates, 1 - step / updates)
    task.model.eval()
    return task


@torch.no_grad()
def accuracy(task: Symbols, draw: Draw, examples: int = 512) -> float:
    """Return the share of the steps at which something is asked that are answered rightly, on fresh examples."""
    symbols, targets = draw(torch.Generator().manual_seed(0), examples)
    asked = targets != IGNORED
    return float((task.logits(symbols).argmax(-1)[asked] == targets[asked]).float().mean())


def count_draw(longest: int, shortest: int = 1) -> Draw:
    """Ask at the end whether more 1s or more 0s were read; 2 is a blank that counts for neither.

    Which one is ahead is even odds, and it is ahead by one or two, so that only a count tells.
    """

    def draw(generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor]:
        steps = int(torch.randint(shortest, longest + 1, (), generator=generator))
        winner = torch.randint(2, (batch,), generator=generator)
        ahead = torch.randint(1, 3, (batch,), generator=generator).clamp(max=steps)
        pairs = (torch.rand(batch, generator=generator) * ((steps - ahead) // 2 + 1)).long()
        place = torch.arange(steps).unsqueeze(1)  # (T, 1)
        ordered = torch.where(place < pairs + ahead, winner, torch.where(place < 2 * pairs + ahead, 1 - winner, 2))
        order = torch.rand(steps, batch, generator=generator).argsort(0)
        symbols = ordered.gather(0, order)
        targets = torch.full_like(symbols, IGNORED)
        targets[-1] = winner
        return symbols, targets

    return draw


def shifted_draw(steps: int, symbols: int, by: int) -> Draw:
    """Ask at each step for the symbol read `by` steps before; for a negative `by`, for one that is read later."""

    def draw(generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor]:
        read = torch.randint(symbols, (steps, batch), generator=generator)
        targets = torch.full_like(read, IGNORED)
        if by > 0:
            targets[by:] = read[:-by]
        else:
            targets[:by] = read[-by:]
        return read, targets

    return draw


def gap_draw(symbols: int, longest: int, shortest: int | None = None) -> Draw:
    """Ask at the end for the first symbol, after a gap of random other ones.

    The gap is as long as `longest`, or of any length from `shortest` on. The last symbol of all, `2 * symbols`, asks;
    symbols from `symbols` on fill the gap.
    """

    def draw(generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor]:
        gap = longest
        if shortest is not None:
            gap = int(torch.randint(shortest, longest + 1, (), generator=generator))
        first = torch.randint(symbols, (1, batch), generator=generator)
        filler = torch.randint(symbols, 2 * symbols, (gap, batch), generator=generator)
        read = torch.cat([first, filler, torch.full((1, batch), 2 * symbols)])
        targets = torch.full_like(read, IGNORED)
        targets[-1] = first[0]
        return read, targets

    return draw
