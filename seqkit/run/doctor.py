"""Whether a run folder is whole: every file read, every checksum made, the weights fitted to the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqkit.config import Untrusted
from seqkit.console import table
from seqkit.errors import UserError, listed
from seqkit.files import LONGEST_LINE, read_json, read_lines, to_json
from seqkit.run import environment as here
from seqkit.run.config_files import read_config
from seqkit.tasks import RunTask
from seqkit.training import RunFolder
from seqkit.training.checkpoint import Checkpoints, digest, load_weights, not_finite
from seqkit.training.trainer_state import log_positions


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: a file of the run folder, whether it is as it should be, and what was seen.

    `seen` is False where it was not looked into, so that nothing is known against it.
    """

    file: str
    good: bool
    says: str
    seen: bool = True


@dataclass(frozen=True)
class Report:
    """What `doctor` found.

    Attributes:
        machine: see `seqkit.run.environment`.
        run: the folder, where one was asked for.
        checks: of the folder.
        kind: what the folder is.
    """

    machine: dict[str, Any]
    run: str | None
    checks: list[Check]
    kind: str = "run"

    @property
    def good(self) -> bool:
        """Nothing is wrong."""
        return all(one.good for one in self.checks) and all(one["good"] for one in self.machine["packages"])

    def as_json(self) -> str:
        """Return all of it."""
        tree = {"good": self.good, "machine": self.machine, "run": self.run, "checks": [asdict(c) for c in self.checks]}
        return to_json(tree, indent=2)

    def lines(self) -> list[str]:
        """Return the same for a reader."""
        shown = here.lines(self.machine)
        if self.run is not None:
            shown += ["", f"{self.kind} {self.run}"]
            verdicts = ["PROBLEM" if not one.good else "good" if one.seen else "unknown" for one in self.checks]
            shown += table([(verdict, one.file, one.says) for verdict, one in zip(verdicts, self.checks, strict=True)])
            bad = sum(not one.good for one in self.checks)
            whole = f"the {self.kind} folder is whole"
            whole += "" if all(one.seen for one in self.checks) else " in everything that was checked"
            shown.append(f"{bad} problem{'s' * (bad != 1)}" if bad else whole)
        return shown


def doctor(path: str | Path | None = None) -> Report:
    """Look at this machine, and at a run folder. Nothing is changed.

    Args:
        path: a run folder; None: the machine alone.

    Raises:
        UserError: there is no such folder.
    """
    if path is not None and not Path(path).is_dir():
        RunFolder.open(path)  # which says so, with the nearest name
    checks = [] if path is None else list(_checks(Path(path)))
    return Report(here.machine(), None if path is None else str(path), checks)


def _checks(path: Path) -> Iterator[Check]:
    folder = RunFolder(path)
    yield looked_at("run.json", lambda: _about(folder))
    task: list[RunTask] = []
    yield looked_at("config.yaml", lambda: _config(folder))
    yield looked_at("(what the model needs)", lambda: _model(folder, task))
    weights: list[dict[str, Tensor]] = []
    yield looked_at("model.safetensors", lambda: _weights(folder, task, weights))
    checkpoints = Checkpoints(folder.checkpoints)
    for step in checkpoints.steps():
        name = f"checkpoints/{checkpoints.path(step).name}"
        if checkpoints.is_whole(step):
            yield Check(name, True, "every file has the checksum of its manifest")
        else:
            culprit, why = _culprit(checkpoints.path(step))
            yield Check(f"{name}/{culprit}", False, why)
    if weights:
        yield from _chosen(folder, checkpoints, weights[0])
    logs: dict[str, Any] = {"jsonl": {}}
    yield looked_at("checkpoints", lambda: _last(checkpoints, logs))
    files = (("metrics", folder.metrics), ("timing", folder.timing)) if "jsonl" in logs else ()
    for name, file in files:
        least = logs.get("jsonl", {}).get(name, 0)
        yield looked_at(file.name, lambda file=file, least=least: _log(file, least))  # type: ignore[misc]
    yield looked_at("scores.json", lambda: _scores(path / "scores.json"))


def looked_at(name: str, look: Callable[[], str]) -> Check:
    """Return the result of a look; what it raises is what is wrong."""
    try:
        return Check(name, True, look())
    except FileNotFoundError:
        return Check(name, False, "missing")
    except Untrusted as error:
        why = f"{error.key}: {error.message[0]}"  # without the advice to trust it, which doctor has no option for
        return Check(name, True, f"not checked, because doctor imports nothing: {why}", seen=False)
    except (UserError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        return Check(name, False, " ".join(str(error).split()))


def _about(folder: RunFolder) -> str:
    about = folder.about()
    if not isinstance(about.get("format"), int):
        raise ValueError("damaged: it does not say the format of the run")
    writer = f"written by seqkit {about.get('seqkit')} with torch {about.get('torch')}"
    averaged = f"; the mean of steps {', '.join(map(str, about['averaged']))}" if "averaged" in about else ""
    return writer + averaged


def _config(folder: RunFolder) -> str:
    _, kind = read_config(folder.config, folder=folder)
    return f"valid, of the task {kind.kind}"


def _model(folder: RunFolder, task: list[RunTask]) -> str:
    """Read what lies beside config.yaml: tokenizers, classes."""
    checked, kind = read_config(folder.config, folder=folder)
    with torch.random.fork_rng(devices=[]):
        task.append(kind.restore(checked, folder.path))
    total = sum(value.numel() for value in task[0].model.parameters())
    return f"tokenizer and names are there; a model of {total:,} parameters can be built"


def _weights(folder: RunFolder, task: list[RunTask], weights: list[dict[str, Tensor]]) -> str:
    found = load_weights(folder.weights)
    weights.append(found)
    wrong = not_finite(found, task[0].model.state_dict() if task else None)
    if wrong:
        raise ValueError(f"numbers that are not finite in {listed(wrong)}")
    if not task:
        return f"{len(found)} tensors; whether they fit is not known, as no model could be built"
    task[0].adopt(found)
    return f"{len(found)} tensors, which fit the model"


def _last(checkpoints: Checkpoints, logs: dict[str, Any]) -> str:
    """Read all of the newest whole checkpoint; `logs` gets the positions of the loggers at that moment."""
    step = checkpoints.latest()
    if step is None:
        return "none is whole; `seqkit resume` would start over"
    positions = log_positions(checkpoints.load(step)[1]["state"])
    logs.clear()
    logs.update(positions)
    return f"`seqkit resume` goes on after step {step:,}"


def _chosen(folder: RunFolder, checkpoints: Checkpoints, weights: dict[str, Tensor]) -> Iterator[Check]:
    """Compare the weights, which have no checksum, with the checkpoint they came from, unless they are a mean."""
    try:
        scores = read_json(folder.path / "scores.json")
        step = None if scores["averaged"] else int(scores["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if step is None or not checkpoints.path(step).exists() or not checkpoints.is_whole(step):
        return
    there = load_weights(checkpoints.weights(step))
    other = [name for name in {**weights, **there} if name not in weights or name not in there]
    other += [name for name in weights if name in there and not torch.equal(weights[name], there[name])]
    if other:
        says = f"these weights differ from step {step}, which they were saved from: {listed(other)}"
        yield Check("model.safetensors", False, f"{says}; {checkpoints.weights(step)} has them")


def _culprit(path: Path) -> tuple[str, str]:
    """Return the file because of which a checkpoint is damaged, and what is wrong with it."""
    try:
        manifest = read_json(path / "manifest.json")
        names = sorted(manifest.keys())
    except FileNotFoundError:
        return "manifest.json", "missing"
    except (OSError, ValueError, AttributeError) as error:
        return "manifest.json", f"cannot be read ({error})"
    for name in names:
        file = path / Path(name).name
        try:
            found = digest(file)
        except FileNotFoundError:
            return file.name, "missing"
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            return file.name, f"cannot be read ({error})"
        if found != manifest[name]:
            return file.name, f"damaged: {file.stat().st_size:,} bytes, whose checksum differs from manifest.json"
    return "manifest.json", "does not list every file"


def _log(path: Path, least: int) -> str:
    size, count = path.stat().st_size, 0
    with path.open("rb") as file:
        for count, line in enumerate(read_lines(file), 1):
            try:
                whole = line.endswith(b"\n") and len(line) <= LONGEST_LINE and isinstance(json.loads(line), dict)
            except ValueError:
                whole = False
            if not whole:
                last = size == file.tell() and size > least
                hint = " (past the last checkpoint: `seqkit resume` cuts it off)" if last else ""
                raise ValueError(f"line {count} is torn or not a JSON object{hint}")
    if size < least:
        raise ValueError(f"{size:,} bytes; there were {least:,} at the last checkpoint")
    return f"{count:,} lines"


def _scores(path: Path) -> str:
    if not path.exists():
        return "not there: the run has not finished; `seqkit resume` continues it"
    found = read_json(path)
    scores = {f"{part} {name}": value for part in ("dev", "test") for name, value in (found.get(part) or {}).items()}
    return ", ".join(f"{name} {_shown(value)}" for name, value in scores.items()) or "no scores"


def _shown(value: float | None) -> str:
    """Return a score, which is null where it was not finite, or a number of examples."""
    return f"{value:.4f}" if isinstance(value, float) else "not finite" if value is None else f"{value:,}"
