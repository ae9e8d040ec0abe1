"""What checkpoints cost: the time to write one, as a share of the time between two at the default interval.

    SEQKIT_DATA=/data python scripts/bench_checkpoint.py configs/sentiment/sst2.yaml configs/slots/snips.yaml

By default a checkpoint follows each evaluation, at the end of each epoch. Updates and checkpoints are timed in turn, in
one process, and the medians are taken; an epoch is so many updates (the evaluation's own time is left out, which makes
the share larger). The parts of one checkpoint are timed apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

from seqkit.run import read_config
from seqkit.training import Trainer, checkpoint, trainer
from seqkit.training.loggers import Logger
from seqkit.training.random_state import seed_all
from seqkit.training.run_log import Progress
from seqkit.training.trainer_state import count_steps


@contextmanager
def timed(parts: dict[str, float]) -> Iterator[None]:
    """Add up the seconds in the parts of a checkpoint."""

    def watch(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                parts[name] = parts.get(name, 0.0) + time.perf_counter() - start

        return watched

    with (
        mock.patch.object(checkpoint, "save_file", watch("write", checkpoint.save_file)),
        mock.patch.object(checkpoint, "_digest", watch("checksum", checkpoint._digest)),
        mock.patch.object(checkpoint, "flush", watch("flush", checkpoint.flush)),
        mock.patch.object(trainer, "replace_file", watch("model.safetensors", trainer.replace_file)),
    ):
        yield


def measure(path: str, updates: int, rounds: int, folder: Path) -> str:
    """A row of the table for one configuration."""
    config, kind = read_config(path, ["device=cpu"])
    seed_all(config.seed)
    task = kind.create(config)
    trainer = Trainer(task, config.training, folder, device="cpu")
    loggers: dict[str, Logger] = {}
    trainer._start(loggers)
    trainer._progress = Progress(0, None, loggers)
    windows = trainer._windows()
    task.model.train()
    per_update, saves = [], []
    parts: dict[str, float] = {}
    total = count_steps(task, config.training) or 1
    for turn in range(rounds):
        for window in islice(windows, updates):
            start = time.perf_counter()
            trainer.updater(window, trainer.state.step, total, 1.0)
            per_update.append(time.perf_counter() - start)
            trainer.state.step += 1
        trainer.state.best = [(float(turn), trainer.state.step)]  # better each time: that is the dearest case
        with timed(parts):
            start = time.perf_counter()
            trainer._save()
            saves.append(time.perf_counter() - start)
    trainer._progress.close()
    size = sum(file.stat().st_size for file in trainer._checkpoints.path(trainer.state.step).iterdir())
    between = total // (config.training.epochs or 1)
    if config.training.evaluate_every:
        between = config.training.evaluate_every
    save, epoch = statistics.median(saves), between * statistics.median(per_update)
    shares = ", ".join(f"{name} {seconds / rounds * 1000:.0f}" for name, seconds in parts.items())
    return (
        f"| {Path(path).name} | {size / 2**20:.1f} | {save * 1000:.0f} ({shares}) | {between} updates, {epoch:.1f} s "
        f"| {save / (save + epoch):.3%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--updates", type=int, default=10, help="between two checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| configuration | MB | a checkpoint, ms (parts, means) | between two at the default interval | share |")
    print("|---|---|---|---|---|")
    for path in options.configs:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(path, options.updates, options.rounds, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
