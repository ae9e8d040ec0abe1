"""What a run folder tells of its training, read without opening the data or the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from seqkit.files import read_bytes, read_json
from seqkit.training import RunFolder
from seqkit.training.checkpoint import Checkpoints

_COUNTS = ("examples", "left_out", "skipped_lines")
_NO_SCORES = ("split", "step", "epoch", *_COUNTS)


@dataclass(frozen=True)
class StoredRun:
    """A run folder's own records.

    Attributes:
        folder: where it lies.
        about: run.json.
        records: metrics.jsonl, a dict a line.
        timing: timing.jsonl.
        outputs: dev.jsonl.
        final: scores.json; {} of a run that has not ended.
        extra: notes for the page.
    """

    folder: RunFolder
    about: dict[str, Any]
    records: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    final: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.path.resolve().name

    @property
    def task(self) -> str:
        """What kind of run it is."""
        return str(self.about.get("task", ""))

    @property
    def training(self) -> dict[str, Any]:
        """The section `training` of its configuration."""
        return part(part(self.about, "config"), "training")

    def split(self, name: str) -> list[dict[str, Any]]:
        """Return the records of one kind: train, dev, sample ..."""
        return [record for record in self.records if record.get("split") == name]

    def curve(self, split: str, key: str) -> tuple[list[float], list[float]]:
        """Return steps and values of a number that was logged; what is not finite is left out."""
        pairs = [(record.get("step"), record.get(key)) for record in self.split(split)]
        good = [(float(step), float(value)) for step, value in pairs if is_number(step) and is_number(value)]
        return [step for step, _ in good], [value for _, value in good]

    def logged(self, split: str) -> list[str]:
        """Return the names of the numbers that were logged, in their order."""
        names: dict[str, None] = {}
        for record in self.split(split):
            names.update((name, None) for name, value in record.items() if name not in _NO_SCORES and is_number(value))
        return list(names)

    def scores(self, split: str) -> dict[str, float]:
        """Return the scores of the kept weights on dev or test; of a run that has not ended the last ones on dev."""
        found = part(self.final, split)
        if not self.final and split == "dev" and (evaluated := self.split("dev")):
            found = evaluated[-1]
        return {name: value for name, value in found.items() if name not in _NO_SCORES and is_number(value)}

    def examples(self, split: str) -> int | None:
        """Return how many examples these scores are of, if that is known."""
        count = part(self.final, split).get("examples")
        return count if isinstance(count, int) else None

    @property
    def steps(self) -> int:
        """Updates made, as far as the log knows."""
        return max((int(record["step"]) for record in self.records if is_number(record.get("step"))), default=0)

    @property
    def seconds(self) -> float:
        """The time of all updates; evaluations are not in it."""
        return math.fsum(record["seconds"] for record in self.timing if is_number(record.get("seconds")))

    @property
    def speed(self) -> float | None:
        """Tokens in a second of training, if they were counted."""
        known = [
            one for one in self.timing if is_number(one.get("seconds")) and is_number(one.get("tokens_per_second"))
        ]
        seconds = math.fsum(one["seconds"] for one in known)
        return math.fsum(one["seconds"] * one["tokens_per_second"] for one in known) / seconds if seconds else None

    @property
    def state(self) -> str:
        """Finished, averaged, or where it has stopped."""
        if "averaged" in self.about:
            return "average of checkpoints"
        if self.final:
            return "stopped early, finished" if self.final.get("stopped") else "finished"
        step = Checkpoints(self.folder.checkpoints).latest()
        return f"stopped; its last checkpoint is of step {step:,}" if step else "stopped before its first checkpoint"


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value of a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def part(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a dict inside another one; {} where there is something else."""
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def read_run(path: str | Path) -> StoredRun:
    """Read a run folder.

    Raises:
        UserError: there is no such run.
    """
    folder = RunFolder.open(path)
    final: Any = {}
    with suppress(OSError, ValueError):
        final = read_json(folder.path / "scores.json")
    return StoredRun(
        folder,
        folder.about(),
        _lines(folder.metrics),
        _lines(folder.timing),
        stored_outputs(folder.path),
        final if isinstance(final, dict) else {},
    )


def stored_outputs(run: str | Path) -> list[dict[str, Any]]:
    """Return what the kept weights of a run made of its dev data: the records of dev.jsonl.

    Args:
        run: its folder; one without the file (killed, without dev data, or with training.keep_outputs 0) gives [].
    """
    return _lines(Path(run) / "dev.jsonl")


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; a line that a killed process has torn is passed over."""
    try:
        text = read_bytes(path).decode("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in text.split("\n"):
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found


def texts(records: Sequence[Mapping[str, Any]], *keys: str) -> bool:
    """Return whether there are records, and all of them have texts under these keys."""
    return bool(records) and all(isinstance(one.get(key), str) for one in records for key in keys)
