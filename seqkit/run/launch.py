"""Train and resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkit import config, drawing
from seqkit._version import __version__
from seqkit.console import say
from seqkit.distributed import held, on_all, on_first, start
from seqkit.errors import Stopped, UserError, at_key
from seqkit.files import to_json, write_text
from seqkit.run.config_files import Trust, open_run, read_config
from seqkit.run.curves import plot_run, run_parts
from seqkit.run.resume_rules import read_change
from seqkit.tasks import RunConfig, RunTask
from seqkit.tasks.init_weights import given_by_run, given_by_torch, initialise
from seqkit.tasks.lora import adapt
from seqkit.training import RunFolder, Trainer, pick_device
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.random_state import seed_all
from seqkit.training.reservation import Reservation, clear, reserve
from seqkit.training.scores import counted
from seqkit.training.trainer_state import check_settings
from seqkit.training.transfer import Given


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: the run folder.
        dev: scores of the kept weights on dev, empty without dev data.
        test: scores on test, empty without test data.
        example: a command line that uses the run.
        stopped: why training ended before its full length (early stopping); empty where it did not.
    """

    folder: Path
    dev: dict[str, float]
    test: dict[str, float]
    example: str = ""
    stopped: str = ""

    def _repr_html_(self) -> str | None:
        scores = {"dev": self.dev, "test": self.test}
        notes = [f"Run folder: {self.folder}", *([self.stopped] if self.stopped else [])]
        return drawing.notebook(lambda: run_parts(self.folder, scores, notes))

    def plot(self) -> Any:
        """Return matplotlib axes with the losses over the updates.

        Raises:
            UserError: matplotlib is not installed.
        """
        return plot_run(self.folder)


def train(
    source: str | Path | Mapping[str, Any],
    *overrides: str,
    overwrite: bool = False,
    root: str | Path = "runs",
    trust: bool = False,
) -> Run:
    """Train what a configuration describes, into `root/NAME`.

    Args:
        source: path of a YAML file, or the same as a dict.
        overrides: `KEY.PATH=VALUE` texts, such as `training.epochs=3`.
        overwrite: replace a run of the same name, at the first checkpoint of the new one.
        root: the folder of runs.
        trust: import code that a run folder names: `init.run`, or one in which the YAML file or its base lies.

    Raises:
        UserError: a mistake in the configuration or the data.
        Stopped: the run ended early (signal, loss not finite, disk full); what was computed is kept.

    Example:
        >>> run = seqkit.train("configs/sentiment/quickstart.yaml", "name=first")
        >>> run.test["accuracy"]
    """
    start()
    checked, kind = on_all(lambda: read_config(source, overrides, trust=trust))
    with on_first(lambda: reserve(checked.name, kind.kind, root=root, overwrite=overwrite)) as reserved:
        return train_reserved(reserved, checked, kind, trust)


def train_reserved(reserved: Reservation, checked: RunConfig, kind: type[RunTask], trust: bool) -> Run:
    """Train into a folder whose name is reserved; see `train`."""
    on_all(lambda: pick_device(checked.device))
    on_all(lambda: kind.check_needs(checked))
    task, lines = on_all(lambda: _build(checked, kind, trust), in_turn=True)
    folder = on_first(lambda: _begin(reserved, checked, task, lines))
    later = "" if folder.becomes is None else " (still the earlier run, which is replaced at the first checkpoint)"
    say(f"run folder: {folder}{later}")
    return _fit(task, checked, folder)


def _build(checked: RunConfig, kind: type[RunTask], trust: bool) -> tuple[RunTask, list[str]]:
    """Return the task of a new run, and the lines that report its data and its model."""
    given = _given(checked, trust)
    seed_all(checked.seed)
    task = kind.create(checked)
    lines = task.report()
    for line in lines:
        say(line)
    _initialise(task, checked, given)
    check_settings(task, checked.training)
    return task, lines


def _begin(reserved: Reservation, checked: RunConfig, task: RunTask, lines: list[str]) -> RunFolder:
    """Make the run folder; it appears whole or not at all."""
    try:
        with reserved.made() as new:
            write_text(new.config, config.dump(task.config))
            task.save(new.path)
            about = {"seqkit": __version__, "torch": str(torch.__version__), "task": checked.task}
            own = {"report": lines, "asked": asked(checked), "config": task.config.model_dump(mode="json")}
            if checked._names.found:
                own["modules"] = checked._names.found
            new.describe({**about, **_fingerprints(task), **own})
    except OSError as error:
        raise Stopped(f"{reserved.path}: cannot be written ({error}); it was removed again") from error
    return new


def asked(checked: RunConfig) -> str:
    """Return a digest of a configuration as the user gave it, before a task filled in what it finds in the data."""
    text = json.dumps(checked.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def resume(path: str | Path, *overrides: str, trust: Trust = False) -> Run:
    """Go on with a run from its last whole checkpoint; what a finished run is stays as it is.

    Args:
        path: a run folder.
        overrides: `KEY.PATH=VALUE` texts, such as `training.epochs=20`; see `read_change` for what may change.
        trust: import code that the run folder names, such as a cell of the user's own.

    Raises:
        UserError: no such run, or its data is gone; another process trains there; a change that is not allowed.
        Stopped: see `train`.
    """
    start()
    folder = on_all(lambda: _trained(path))
    with held(folder.locked()):
        on_first(lambda: clear(folder.path))
        checked, kind, changes = on_all(lambda: read_change(folder, list(overrides), trust))
        on_all(lambda: kind.check_needs(checked))
        task = on_all(lambda: _rebuild(folder, checked, kind, trust), in_turn=True)
        on_first(lambda: _record(folder, checked, changes))
        return _fit(task, checked, folder, restore=True)


def _trained(path: str | Path) -> RunFolder:
    folder = RunFolder.open(path)
    if "averaged" in folder.about():
        raise UserError(f"{folder}: its weights are an average of checkpoints; there is no training to resume")
    return folder


def _rebuild(folder: RunFolder, checked: RunConfig, kind: type[RunTask], trust: Trust) -> RunTask:
    fresh = Checkpoints(folder.checkpoints).latest() is None
    given = _given(checked, trust) if fresh else None
    seed_all(checked.seed)
    task = kind.create(checked, folder.path, fresh=fresh)
    about = folder.about()
    for part, digest in _fingerprints(task).items():
        if about.get(part, digest) != digest:
            what = "training data" if part == "data" else f"data of {part}"
            raise UserError(f"{folder}: the {what} is not the one that this run was started with; start a new run")
    _initialise(task, checked, given)
    check_settings(task, checked.training)
    return task


def _record(folder: RunFolder, checked: RunConfig, changes: list[str]) -> None:
    """Say what has changed, and keep it."""
    for line in changes:
        say(f"{folder}: changed {line}")
    if changes:
        write_text(folder.config, config.dump(checked))
        own = {"asked": asked(checked), "config": checked.model_dump(mode="json")}
        folder.describe({**folder.about(), **own})


def _fingerprints(task: RunTask) -> dict[str, str]:
    """Return digests of the data that decide a run, under their names in run.json."""
    return {"data": task.fingerprint("train"), "dev": task.fingerprint("dev")}


def _fit(task: RunTask, checked: RunConfig, folder: RunFolder, *, restore: bool = False) -> Run:
    with held(folder.locked()):
        trainer = Trainer(task, checked.training, folder, device=checked.device, seed=checked.seed)
        if restore:
            say(f"{folder}: continuing after step {trainer.restore()}")
        result = trainer.fit()
        test: dict[str, float] = {}
        if getattr(getattr(checked, "data", None), "test", None) is not None:
            with torch.no_grad():
                test, lines = task.score()
            for line in lines:
                say(line)
        parts = {"dev": counted(result.scores), "test": counted(test)}
        scores = {"step": result.step, "averaged": result.averaged, **parts}
        scores |= {"stopped": result.stopped} if result.stopped else {}
        on_first(lambda: write_text(folder.path / "scores.json", to_json(scores, indent=2) + "\n"))
    example = task.example(folder.path) + folder.flag
    return Run(folder.path, result.scores, test, example, result.stopped)


def _given(checked: RunConfig, trust: Trust) -> Given | None:
    """Weights to start from, read before any data: a mistake in their path should not wait for a large corpus."""
    init = checked.init
    if init is None:
        return None
    if init.run is None:
        return given_by_torch(init)
    with at_key("init.run"):
        return given_by_run(*open_run(init.run, trust=trust))


def _initialise(task: RunTask, checked: RunConfig, given: Given | None) -> None:
    """Load the weights to start from, if no checkpoint gives them, and put on them what hangs on them."""
    report = None
    if checked.init is not None and given is not None:
        report = initialise(task, checked.init, given)
    if checked.lora is not None:
        adapt(task, checked.lora, report)
