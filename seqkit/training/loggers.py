"""What follows a training: files of JSON lines, TensorBoard, or something of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from seqkit.errors import require
from seqkit.training.run_folder import JsonLines, RunFolder
from seqkit.training.scores import Result

_NO_CURVES = ("split", "step", "epoch", "examples", "left_out", "skipped_lines")


class Logger:
    """Follow a training. Derive from it and override the calls that matter.

    Of several processes only the first one has loggers. A logger is also made to see whether it can be: work begins in
    `start`.
    """

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Begin: training starts, or goes on.

        Args:
            folder: the run folder.
            config: the whole configuration of the run as plain values; without a task of seqkit's, `training` alone.
        """

    def log(self, record: Mapping[str, Any]) -> None:
        """Take what is known of a step.

        Args:
            record: `split` tells its kind: train (losses, gradient norm, learning rate), dev (scores), timing, sample
                (texts), unfreeze or early_stopping; `step` is the number of updates so far.
        """

    def artifact(self, item: Any, name: str) -> None:
        """Take a file or a figure.

        Args:
            item: the path of a file, or a figure of matplotlib.
            name: what it is: model.safetensors, whose weights are for use, at the end of training, or what
                `Task.artifacts` calls it.
        """

    def end(self, result: Result | None) -> None:
        """End: training is over.

        Args:
            result: what it came to; None: it stopped before its end.
        """

    def position(self) -> Any:
        """Return what a resumed training needs to go on from here.

        What has been logged so far must be safe on the disk then. A checkpoint can hold None, numbers, text, tensors,
        and lists, tuples and dicts of these.
        """

    def resumed(self, step: int, position: Any) -> None:
        """Take up a training that goes on from a checkpoint; called before `start`.

        Args:
            step: the number of updates so far: later records come again.
            position: what `position` returned then; None: this logger was not in use.
        """

    def moved(self, folder: Path) -> None:
        """Take note that the run folder has another name now.

        Args:
            folder: the run folder.
        """


class JsonlLogger(Logger):
    """Writes metrics.jsonl and timing.jsonl, which a resumed training cuts back to its checkpoint."""

    def __init__(self) -> None:
        self._keep: Mapping[str, int] | None = {}
        self._files: dict[str, JsonLines] = {}

    def resumed(self, step: int, position: Any) -> None:
        self._keep = position

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        paths = RunFolder(folder)
        for name, path in (("metrics", paths.metrics), ("timing", paths.timing)):
            there = path.stat().st_size if path.exists() else 0
            self._files[name] = JsonLines(path, there if self._keep is None else self._keep.get(name, 0))

    def log(self, record: Mapping[str, Any]) -> None:
        if record["split"] == "timing":
            self._files["timing"].append({name: value for name, value in record.items() if name != "split"})
        else:
            self._files["metrics"].append(dict(record))

    def position(self) -> dict[str, int]:
        return {name: file.sync() for name, file in self._files.items()}

    def end(self, result: Result | None) -> None:
        for file in self._files.values():
            with suppress(OSError):  # a full disk has been reported already
                file.close()


class TensorBoardLogger(Logger):
    """Writes event files of losses and scores into the folder tensorboard of the run.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        self._module: ModuleType = require("torch.utils.tensorboard", "tensorboard", "tensorboard")
        self._writer: Any = None
        self._step = 0

    def resumed(self, step: int, position: Any) -> None:
        self._step = step

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        # From this step on TensorBoard drops what an earlier writer wrote; the checkpoint's own step stays.
        self._writer = self._module.SummaryWriter(str(folder / "tensorboard"), purge_step=self._step + 1)

    def log(self, record: Mapping[str, Any]) -> None:
        self._step = record["step"]
        if record["split"] in ("train", "dev"):
            for name, value in record.items():
                if name not in _NO_CURVES:
                    self._writer.add_scalar(f"{record['split']}/{name}", value, self._step)

    def artifact(self, item: Any, name: str) -> None:
        if not isinstance(item, Path):
            self._writer.add_figure(name, item, self._step)

    def moved(self, folder: Path) -> None:
        self._writer.close()  # it opens its file again and again, by name
        self._writer = self._module.SummaryWriter(str(folder / "tensorboard"))

    def end(self, result: Result | None) -> None:
        self._writer.close()


LOGGERS: dict[str, type[Logger]] = {"jsonl": JsonlLogger, "tensorboard": TensorBoardLogger}
"""What `training.loggers` may hold."""
