"""What a run shows while it learns, a bar or plain lines, and what its loggers are told."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqkit.console import bar, duration, say
from seqkit.training.loggers import Logger
from seqkit.training.scores import Result, counted


class Progress:
    """Shows and logs a run.

    A terminal gets a bar; a file gets a line for every record instead, so that a log stays readable.

    Args:
        step: updates made so far (of a run that is resumed).
        total: updates to make, None where unknown.
        loggers: by their names in the configuration; none in processes that log nothing.
    """

    def __init__(self, step: int, total: int | None, loggers: Mapping[str, Logger]) -> None:
        self._bar = bar(total, step)
        self._total = total
        self._shown: dict[str, str] = {}
        self._loggers = loggers
        self._first_step = step
        self._start = self._mark = time.perf_counter()
        self._tokens = 0
        self._waited = 0.0

    def step(self, tokens: int, waited: float) -> None:
        """Count one update of N tokens, whose batches took `waited` seconds to come."""
        self._tokens += tokens
        self._waited += waited
        self._bar.update()

    def train(self, record: dict[str, Any]) -> None:
        """Log a window of updates: loss, gradient norm, learning rate."""
        now = time.perf_counter()
        seconds = max(now - self._mark, 1e-9)
        speed = self._tokens / seconds if self._tokens else None  # of a task that does not count them
        self._log("train", record)
        timing = {"step": record["step"], "seconds": round(seconds, 4), "waiting_for_data": round(self._waited, 4)}
        self._log("timing", timing if speed is None else {**timing, "tokens_per_second": round(speed, 1)})
        self._mark, self._tokens, self._waited = now, 0, 0.0
        self._shown["loss"] = f"{record['loss']:.4f}"
        if speed is not None:
            self._shown["tok/s"] = f"{speed:,.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
        if self._bar.disable:
            left = ""
            if self._total and record["step"] < self._total:
                rate = (now - self._start) / max(record["step"] - self._first_step, 1)
                left = f"  left {duration((self._total - record['step']) * rate)}"
            of = f"/{self._total}" if self._total else ""
            say(
                f"step {record['step']}{of}  epoch {record['epoch']}  loss {record['loss']:.4f}  "
                f"norm {record['grad_norm']:.3g}  lr {record['lr']:.3g}"
                f"{'' if speed is None else f'  {speed:,.0f} tok/s'}{left}"
            )

    def scores(self, step: int, epoch: int, scores: Mapping[str, float], note: str, split: str = "dev") -> None:
        """Log an evaluation."""
        self._log(split, {"step": step, "epoch": epoch, **counted(scores)})
        self._shown.update({name: f"{value:.4f}" for name, value in list(scores.items())[:2] if name != "loss"})
        self._bar.set_postfix(self._shown, refresh=False)
        say(f"step {step}  epoch {epoch}  {split}: " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()) + note)
        self._mark, self._tokens, self._waited = time.perf_counter(), 0, 0.0

    def samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Show and log examples of an evaluation."""
        for sample in samples:
            self._log("sample", {"step": step, **sample})
            width = max(map(len, sample))
            for name, text in sample.items():
                say(f"    {name:<{width}}  {text}")

    def event(self, split: str, line: str, record: Mapping[str, Any]) -> None:
        """Say and log what has happened: layers that begin to train, the end by early stopping."""
        self._log(split, record)
        say(line)

    def artifact(self, item: Any, name: str) -> None:
        """Log a file or a figure."""
        for logger in self._loggers.values():
            logger.artifact(item, name)

    def moved(self, folder: Path) -> None:
        """Tell the loggers that the run folder has another name."""
        for logger in self._loggers.values():
            logger.moved(folder)

    def positions(self) -> dict[str, Any]:
        """Return what a checkpoint remembers of each logger."""
        return {name: logger.position() for name, logger in self._loggers.items()}

    def close(self, result: Result | None = None) -> None:
        """End the bar and the loggers; `result` is None where training did not come to its end."""
        self._bar.close()
        for logger in self._loggers.values():
            logger.end(result)

    def _log(self, split: str, record: Mapping[str, Any]) -> None:
        for logger in self._loggers.values():
            logger.log({"split": split, **record})
