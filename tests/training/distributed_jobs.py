"""What `test_distributed.py` runs in several processes, and once more in one; not a test itself.

torchrun --nproc-per-node 2 distributed_jobs.py main DATA OUT
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqkit import distributed as processes
from seqkit.config import from_mapping
from seqkit.data.batching import Batches
from seqkit.errors import Stopped, UserError
from seqkit.run import counted, evaluate, resume, train
from seqkit.training import Loss, Task, Trainer, TrainingConfig
from seqkit.training.update import Done, Updater

STEPS = 50
TASKS = ("sentiment", "slots", "translation", "language_model")


def tree(data: Path, task: str, **training: Any) -> dict[str, Any]:
    """A small run of 79 examples in batches of 13: the last one of an epoch holds a single example."""
    folder, form = {
        "sentiment": ("sst3", "{}.tsv"),
        "slots": ("snips", "{}.jsonl"),
        "translation": ("multi30k", "{}.de"),
        "language_model": ("multi30k", "{}.en"),
    }[task]
    paths = {part: str(data / folder / form.format(part)) for part in ("train", "dev", "test")}
    sources: dict[str, Any] = {part: {"path": path, "limit": 79} for part, path in paths.items()}
    if task == "translation":
        sources = {
            part: {"source": path, "target": path[:-2] + "en", "limit": 79 if part == "train" else 20}
            for part, path in paths.items()
        }
    encoder = {"cell": "lstm", "hidden_size": 10}
    models: dict[str, Any] = {
        "sentiment": {"embedding": {"size": 8}, "encoder": encoder},
        "slots": {"embedding": {"size": 8}, "encoder": encoder, "output": "crf"},
        "translation": {"source": {"size": 8}, "target": {"size": 8}, "encoder": encoder, "decoder": encoder},
        "language_model": {"embedding": {"size": 8}, "encoder": encoder},
    }
    sizes: dict[str, Any] = {"batch_size": 13}
    if task == "language_model":
        sizes = {"batch_size": 5, "bptt": 6, "format": "text"}
    own: dict[str, Any] = {"steps": STEPS, "log_every": 1, "evaluate_every": 20, "optimizer": {"lr": 0.01}}
    return {
        "task": task,
        "device": "cpu",
        "data": {**sources, **sizes},
        "model": models[task],
        "training": {**own, **training},
    }


def variants(data: Path) -> dict[str, dict[str, Any]]:
    """Runs whose losses and scores do not depend on the number of processes."""
    found = {task: tree(data, task) for task in TASKS}
    plateau = {"name": "plateau", "patience": 0}
    found["kept"] = tree(data, "slots", accumulate=2, ema=0.9, schedule=plateau, keep_best=2, average_best=True)
    found["kept"]["training"].update(evaluate_every=5, steps=20, early_stopping={"patience": 3})
    found["stream"] = tree(data, "language_model", steps=10)
    found["stream"]["data"]["batch_size"] = 1
    found["windows"] = tree(data, "translation", steps=10)
    found["windows"]["data"].update(window=30, bucket=2)
    found["adversarial"] = tree(data, "sentiment", steps=10, adversarial=0.1, class_weights="balanced")
    found["unfrozen"] = tree(data, "sentiment", steps=20, unfreeze={"every": 4, "unit": "steps"})
    return found


def dropout(data: Path, task: str) -> dict[str, Any]:
    """A run with random masks, and checkpoints within an epoch."""
    made = tree(data, task, steps=20, evaluate_every=9)
    made["model"]["output_dropout" if task == "language_model" else "dropout"] = 0.3
    return made


def at_step(number: int, rank: int, call: Callable[[Updater], None]) -> Callable[[], None]:
    """Let one process do something before an update; returns what undoes this."""
    original = Updater.__call__

    def changed(self: Updater, window: list[Any], step: int, *rest: Any) -> Done:
        if step == number and processes.rank() == rank:
            call(self)
        return original(self, window, step, *rest)

    def undo() -> None:
        Updater.__call__ = original  # type: ignore[method-assign]

    Updater.__call__ = changed  # type: ignore[method-assign]
    return undo


def stopped(config: dict[str, Any], root: Path, rank: int, sign: int = signal.SIGTERM) -> int:
    """Train until a signal comes to one process in the tenth update; the exit code."""
    undo = at_step(10, rank, lambda updater: os.kill(os.getpid(), sign))
    try:
        train(config, root=root)
    except Stopped as error:
        return error.exit_code
    finally:
        undo()
    return 0


def main(data: Path, out: Path) -> None:
    """All that needs two processes; ends with one that dies."""
    codes = {}
    for name, config in variants(data).items():
        train({**config, "name": name}, root=out / "two")
        if name in TASKS:
            scores, _ = evaluate(out / "one" / name)
            processes.on_first(lambda name=name, scores=scores: write(out / f"scores-{name}.json", counted(scores)))
    for task in ("sentiment", "language_model"):
        for name in ("whole", "again"):
            train({**dropout(data, task), "name": f"{task}-{name}"}, root=out / "two")
        codes[task] = stopped({**dropout(data, task), "name": f"{task}-cut"}, out / "two", rank=1)
        processes.on_first(lambda task=task: shutil.copytree(out / f"two/{task}-cut", out / f"two/{task}-early"))
        resume(out / f"two/{task}-cut")
    for seed in (1, 2):
        train({**tree(data, "sentiment"), "name": "replaced", "seed": seed}, root=out / "two", overwrite=True)
    codes["plain"] = stopped({**tree(data, "language_model"), "name": "to-one"}, out / "two", 0, signal.SIGINT)
    resume(out / "one/to-two")
    all_codes = processes.gather(codes)
    told = [failure({**tree(data, "sentiment"), "name": "sentiment"}, out / "two")]
    undo = at_step(2, 1, poison)
    told.append(failure({**tree(data, "sentiment"), "name": "poisoned"}, out / "two"))
    undo()
    processes.on_first(lambda: write(out / "told.json", told))
    processes.on_first(lambda: write(out / "codes.json", all_codes))
    at_step(3, 1, fail)
    train({**tree(data, "sentiment"), "name": "dead"}, root=out / "two")


def failure(config: dict[str, Any], root: Path) -> list[tuple[str, str]]:
    """Train in vain; the kind of error and the message of each process."""
    try:
        train(config, root=root)
    except (UserError, Stopped) as error:
        return processes.gather((type(error).__name__, str(error)))
    return []


@torch.no_grad()
def poison(updater: Updater) -> None:
    updater.parameters[0].fill_(float("nan"))


def fail(updater: Updater) -> None:
    raise UserError("this process has had enough")


class Uneven(Task):
    """A regression on 9 rows in batches of 4, with two losses, and a parameter that only some rows reach."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x, self.y = torch.randn(9, 4, generator=generator), torch.randn(9, generator=generator)
        torch.manual_seed(5)
        self.model = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(4, 1)])

    def batches(self, epoch: int, start: int = 0) -> Batches[Tensor]:
        rows = np.random.default_rng(epoch).permutation(9)
        return Batches([rows[:4], rows[4:8], rows[8:]], torch.from_numpy, start)

    def loss(self, batch: Tensor, carry: Any) -> tuple[dict[str, Loss], None]:
        first, second, third = self.model
        found = second(first(self.x[batch]).tanh()).squeeze(1)
        found = torch.where(batch < 7, found, 0.0)
        if (batch >= 7).any():  # else the third module is not in the graph
            found = found + torch.where(batch >= 7, third(self.x[batch]).squeeze(1), 0.0)
        error = found - self.y[batch]
        weights = self.weights(batch)
        largest = Loss((error * (batch % 2)).abs().sum(), weights["odd"], 0.3)
        return {"square": Loss(error.pow(2).sum(), weights["square"]), "odd": largest}, None

    def weights(self, batch: Tensor) -> dict[str, float]:
        return {"square": float(len(batch)), "odd": float((batch % 2).sum())}

    def evaluate(self) -> dict[str, float]:
        with torch.no_grad():
            rows = torch.arange(9).split(2)
            squares = processes.spread(rows, lambda part: self.loss(part, None)[0]["square"].sum.item())
        return {"loss": sum(squares) / 9}


def uneven(data: Path, out: Path) -> None:
    """Fewer examples than processes."""
    for accumulate in (1, 2):
        config = {"steps": 12, "log_every": 1, "evaluate_every": 3, "accumulate": accumulate, "optimizer": {"lr": 0.05}}
        checked = from_mapping(config).check(TrainingConfig)
        Trainer(Uneven(), checked, out / f"{processes.world()}-{accumulate}", device="cpu").fit()


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes.start()
    {"main": main, "uneven": uneven}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
