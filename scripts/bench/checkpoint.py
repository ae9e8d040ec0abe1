"""What checkpoints cost: the time to write one, as a share of the time between two at the default interval.

    SEQKIT_DATA=/data python scripts/bench/checkpoint.py configs/sentiment/sst2.yaml configs/slots/snips.yaml

By default a checkpoint follows each evaluation, at the end of each epoch. Updates and checkpoints are timed in turn, in
one process, and the medians are taken; an epoch is so many updates (the evaluation's own time is left out, which makes
the share larger). The parts of one checkpoint are timed apart.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import parser_for, seconds, setting, write


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
        mock.patch.object(checkpoint, "digest", watch("checksum", checkpoint.digest)),
        mock.patch.object(checkpoint, "flush", watch("flush", checkpoint.flush)),
        mock.patch.object(trainer, "replace_file", watch("model.safetensors", trainer.replace_file)),
    ):
        yield


def measure(path: str, updates: int, rounds: int, folder: Path) -> dict[str, Any]:
    """What checkpoints cost in one configuration."""
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
            update = partial(trainer.updater, window, trainer.state.step, total, 1.0)
            per_update.append(seconds(update))
            trainer.state.step += 1
        trainer.state.best = [(float(turn), trainer.state.step)]  # better each time: that is the dearest case
        with timed(parts):
            saves.append(seconds(trainer._save))
    trainer._progress.close()
    size = sum(file.stat().st_size for file in trainer._checkpoints.path(trainer.state.step).iterdir())
    between = total // (config.training.epochs or 1)
    if config.training.evaluate_every:
        between = config.training.evaluate_every
    save, epoch = statistics.median(saves), between * statistics.median(per_update)
    row = {"config": Path(path).name, "mib": size / 2**20, "checkpoint_s": save, "updates": between, "epoch_s": epoch}
    return {**row, "parts_s": {name: total / rounds for name, total in parts.items()}}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    shares = ", ".join(f"{name} {1000 * value:.0f}" for name, value in row["parts_s"].items())
    save, epoch = row["checkpoint_s"], row["epoch_s"]
    return (
        f"| {row['config']} | {row['mib']:.1f} | {save * 1000:.0f} ({shares}) "
        f"| {row['updates']} updates, {epoch:.1f} s | {save / (save + epoch):.3%} |"
    )


def main() -> None:
    parser = parser_for(__doc__, rounds=5)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--updates", type=int, default=10, help="between two checkpoints")
    options = parser.parse_args()
    about, rows = setting(options), []
    print("| configuration | MB | a checkpoint, ms (parts, means) | between two at the default interval | share |")
    print("|---|---|---|---|---|")
    for path in options.configs:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(path, options.updates, options.rounds, Path(folder)))
        print(line(rows[-1]), flush=True)
    write(options, about, rows)


if __name__ == "__main__":
    main()
