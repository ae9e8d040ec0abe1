"""Train and resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from seqkit import __version__, config
from seqkit.config import UserError
from seqkit.files import write_text
from seqkit.run.configs import open_run, read_config
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import RunFolder, Stopped, Trainer, pick_device
from seqkit.training.checkpoint import Checkpoints, load_weights, seed_all
from seqkit.training.progress import say
from seqkit.training.state import check_settings
from seqkit.training.transfer import transfer_weights


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: the run folder.
        dev: scores of the kept weights on dev, empty without dev data.
        test: scores on test, empty without test data.
        example: a command line that uses the run.
    """

    folder: Path
    dev: dict[str, float]
    test: dict[str, float]
    example: str = ""


def train(
    source: str | Path | Mapping[str, Any], *overrides: str, overwrite: bool = False, root: str | Path = "runs"
) -> Run:
    """Train what a configuration describes, into `root/NAME`.

    Args:
        source: path of a YAML file, or the same as a dict.
        overrides: `KEY.PATH=VALUE` texts, such as `training.epochs=3`.
        overwrite: replace a run of the same name.
        root: the folder of runs.

    Raises:
        UserError: a mistake in the configuration or the data.
        Stopped: the run ended early (signal, loss not finite, disk full); what was computed is kept.

    Example:
        >>> run = seqkit.train("configs/sentiment/quickstart.yaml", "name=first")
        >>> run.test["accuracy"]
    """
    checked, kind = read_config(source, overrides)
    pick_device(checked.device)
    folder = RunFolder.choose(checked.name, kind.kind, root=root, overwrite=overwrite)
    seed_all(checked.seed)
    task = kind.create(checked)
    for line in task.report():
        say(line)
    if checked.init is not None:
        _initialise(task, checked.init.run)
    check_settings(task, checked.training)
    folder.make()
    try:
        write_text(folder.config, config.dump(task.config))
        task.save(folder.path)
        about = {"seqkit": __version__, "torch": str(torch.__version__), "task": checked.task}
        folder.describe({**about, "data": task.fingerprint()})
    except OSError as error:
        rmtree(folder.path, ignore_errors=True)
        raise Stopped(f"{folder}: cannot be written ({error})") from error
    say(f"run folder: {folder}")
    return _fit(task, checked, folder)


def seed_configs(
    source: str | Path, overrides: list[str], seeds: int, *, overwrite: bool, root: str | Path = "runs"
) -> list[list[str]]:
    """The overrides of each of several runs that differ in their seed: NAME-seedN, NAME being the file's by default.

    Raises:
        UserError: a name is taken; found before the first of them trains.
    """
    checked, kind = read_config(source, overrides)
    base = checked.name or Path(source).stem
    own = [
        [*overrides, f"seed={seed}", f"name={base}-seed{seed}"] for seed in range(checked.seed, checked.seed + seeds)
    ]
    for texts in own:
        RunFolder.choose(texts[-1].removeprefix("name="), kind.kind, root=root, overwrite=overwrite)
    return own


def resume(path: str | Path) -> Run:
    """Go on with a run from its last whole checkpoint.

    Raises:
        UserError: no such run, or its data is gone.
    """
    folder, checked, kind = open_run(path)
    if "averaged" in folder.about():
        raise UserError(f"{folder}: these weights are a mean of others; there is no training to go on with")
    seed_all(checked.seed)
    fresh = Checkpoints(folder.checkpoints).latest() is None
    task = kind.create(checked, folder.path, fresh=fresh)
    if folder.about().get("data", "") != task.fingerprint():
        raise UserError(f"{folder}: the training data is not what this run was started with; start a new run")
    if checked.init is not None and fresh:
        _initialise(task, checked.init.run)
    return _fit(task, checked, folder, restore=True)


def _fit(task: RunTask, checked: RunConfig, folder: RunFolder, *, restore: bool = False) -> Run:
    trainer = Trainer(task, checked.training, folder.path, device=checked.device, seed=checked.seed)
    if restore:
        say(f"{folder}: continuing after step {trainer.restore()}")
    result = trainer.fit()
    test: dict[str, float] = {}
    if getattr(getattr(checked, "data", None), "test", None) is not None:
        with torch.no_grad():
            test, lines = task.score()
        for line in lines:
            say(line)
    scores = {"step": result.step, "averaged": result.averaged, "dev": result.scores, "test": test}
    write_text(folder.path / "scores.json", json.dumps(scores, indent=2) + "\n")
    return Run(folder.path, result.scores, test, task.example(folder.path))


def _initialise(task: RunTask, path: str) -> None:
    earlier = RunFolder.open(path)
    report = transfer_weights(task.model, load_weights(earlier.weights), task.rows(earlier.path))
    for line in report.lines():
        say(line)
    if not report.loaded and not report.resized:
        raise UserError(f"init.run: {path} has no weight that this model has; nothing would be taken from it")
