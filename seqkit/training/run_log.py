"""What a run shows and writes while it learns: a bar or plain lines, metrics.jsonl, timing.jsonl, TensorBoard."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from tqdm import tqdm

from seqkit.errors import require, visible
from seqkit.training.distributed import first
from seqkit.training.run_folder import JsonLines, RunFolder
from seqkit.training.scores import counted


def say(text: str) -> None:
    """One line for the person who watches, on standard error, above a bar where there is one.

    Of several processes only the first one speaks. Control characters, which may come from data, are escaped.
    """
    if first():
        with suppress(OSError):  # a training goes on where nobody listens any more
            tqdm.write(visible(text), file=sys.stderr)


def require_tensorboard() -> ModuleType:
    """torch's module that writes event files.

    Raises:
        UserError: TensorBoard is not installed.
    """
    return require("torch.utils.tensorboard", "tensorboard", "tensorboard")


class Progress:
    """Shows and logs a run.

    A terminal gets a bar; a file gets a line for every record instead, so that a log stays readable.

    Args:
        folder: where the logs go.
        step: updates made so far (of a run that is resumed).
        total: updates to make, None where unknown.
        sizes: lengths of metrics.jsonl and timing.jsonl to cut back to, {} for a new run.
        tensorboard: write event files too.
    """

    def __init__(
        self, folder: RunFolder, step: int, total: int | None, sizes: Mapping[str, int], tensorboard: bool = False
    ) -> None:
        self._metrics = JsonLines(folder.metrics, sizes.get("metrics", 0))
        self._timing = JsonLines(folder.timing, sizes.get("timing", 0))
        self._live = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=step, unit="step", disable=not self._live, dynamic_ncols=True, file=sys.stderr
        )
        self._total = total
        self._shown: dict[str, str] = {}
        self._writer: Any = None
        if tensorboard:
            self._writer = require_tensorboard().SummaryWriter(str(folder.path / "tensorboard"), purge_step=step)
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
        self._metrics.append({"split": "train", **record})
        timing = {"step": record["step"], "seconds": round(seconds, 4), "waiting_for_data": round(self._waited, 4)}
        self._timing.append(timing if speed is None else {**timing, "tokens_per_second": round(speed, 1)})
        self._mark, self._tokens, self._waited = now, 0, 0.0
        self._write("train", record)
        self._shown["loss"] = f"{record['loss']:.4f}"
        if speed is not None:
            self._shown["tok/s"] = f"{speed:,.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
        if not self._live:
            left = ""
            if self._total and record["step"] < self._total:
                rate = (now - self._start) / max(record["step"] - self._first_step, 1)
                left = f"  left {tqdm.format_interval((self._total - record['step']) * rate)}"
            of = f"/{self._total}" if self._total else ""
            say(
                f"step {record['step']}{of}  epoch {record['epoch']}  loss {record['loss']:.4f}  "
                f"norm {record['grad_norm']:.3g}  lr {record['lr']:.3g}"
                f"{'' if speed is None else f'  {speed:,.0f} tok/s'}{left}"
            )

    def scores(self, step: int, epoch: int, scores: Mapping[str, float], note: str, split: str = "dev") -> None:
        """Log an evaluation."""
        self._metrics.append({"split": split, "step": step, "epoch": epoch, **counted(scores)})
        self._write(split, {"step": step, **scores})
        self._shown.update({name: f"{value:.4f}" for name, value in list(scores.items())[:2] if name != "loss"})
        self._bar.set_postfix(self._shown, refresh=False)
        say(f"step {step}  epoch {epoch}  {split}: " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()) + note)
        self._mark, self._tokens, self._waited = time.perf_counter(), 0, 0.0

    def samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Show and log examples of an evaluation."""
        for sample in samples:
            self._metrics.append({"split": "sample", "step": step, **sample})
            width = max(map(len, sample))
            for name, text in sample.items():
                say(f"    {name:<{width}}  {text}")

    def event(self, split: str, line: str, record: Mapping[str, Any]) -> None:
        """Say and log what has happened: layers that begin to train, the end by early stopping."""
        self._metrics.append({"split": split, **record})
        say(line)

    def moved(self, folder: RunFolder) -> None:
        """The run folder has another name; open files go with it, TensorBoard opens its own again and again."""
        if self._writer is not None:
            self._writer.close()
            self._writer = require_tensorboard().SummaryWriter(str(folder.path / "tensorboard"))

    def _write(self, prefix: str, record: Mapping[str, Any]) -> None:
        if self._writer is not None:
            for name, value in record.items():
                if name not in ("step", "epoch", "split"):
                    self._writer.add_scalar(f"{prefix}/{name}", value, record["step"])

    def sizes(self) -> dict[str, int]:
        """Flush the logs; their lengths, which a checkpoint remembers."""
        return {"metrics": self._metrics.sync(), "timing": self._timing.sync()}

    def close(self) -> None:
        self._bar.close()
        with suppress(OSError):  # a full disk has been reported already
            self._metrics.close()
        with suppress(OSError):
            self._timing.close()
        if self._writer is not None:
            self._writer.close()


class Silence(Progress):
    """That of the other ones of several processes: it shows and writes nothing."""

    def __init__(self) -> None:
        pass

    def step(self, tokens: int, waited: float) -> None:
        pass

    def train(self, record: dict[str, Any]) -> None:
        pass

    def scores(self, step: int, epoch: int, scores: Mapping[str, float], note: str, split: str = "dev") -> None:
        pass

    def samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        pass

    def event(self, split: str, line: str, record: Mapping[str, Any]) -> None:
        pass

    def moved(self, folder: RunFolder) -> None:
        pass

    def sizes(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass
