"""Train, resume, evaluate and load runs: the only file that joins configuration, tasks and trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from seqkit import __version__, config
from seqkit.config import Document, UserError
from seqkit.files import write_text
from seqkit.tasks import TASKS, RunConfig, RunTask, resolve
from seqkit.training import RunFolder, Stopped, Trainer, pick_device
from seqkit.training.checkpoint import Checkpoints, load_weights, seed_all
from seqkit.training.folder import check_name
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
    """

    folder: Path
    dev: dict[str, float]
    test: dict[str, float]


def read_config(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()
) -> tuple[RunConfig, type[RunTask]]:
    """Validate a configuration: a YAML file or a dict.

    Args:
        source: path of a YAML file, or the same as a dict.
        overrides: `KEY.PATH=VALUE` texts, laid over it.

    Returns:
        the configuration, and the class of its task.

    Raises:
        UserError: with file, line and dotted path of every mistake.
    """
    overrides = list(overrides)
    document = config.read(source, overrides) if isinstance(source, (str, Path)) else _from_dict(source, overrides)
    name = document.tree.get("task")
    if not isinstance(name, str):
        raise document.error(("task",), f"this key is required: one of {', '.join(TASKS)}")
    try:
        task = resolve(name, TASKS)
        schema = task.schema(document.tree)
    except UserError as error:
        path = tuple(str(error).partition(":")[0].split("."))
        raise UserError(f"{document.place(path)}: {error}") from None
    checked = document.check(schema)
    if checked.name is not None:
        check_name(checked.name)
    return checked, task


def _from_dict(tree: Mapping[str, Any], overrides: list[str]) -> Document:
    document = config.from_mapping(tree)
    config.override(document, overrides)
    return document


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
    folder, checked, kind = _open(path)
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
    return Run(folder.path, result.scores, test)


def _initialise(task: RunTask, path: str) -> None:
    earlier = RunFolder.open(path)
    report = transfer_weights(task.model, load_weights(earlier.weights), task.rows(earlier.path))
    for line in report.lines():
        say(line)
    if not report.loaded and not report.resized:
        raise UserError(f"init.run: {path} has no weight that this model has; nothing would be taken from it")


def _open(path: str | Path) -> tuple[RunFolder, RunConfig, type[RunTask]]:
    folder = RunFolder.open(path)
    checked, kind = read_config(folder.config)
    return folder, checked, kind


def load(path: str | Path, device: str = "auto") -> RunTask:
    """A trained model, ready to predict; needs the run folder alone.

    Args:
        path: a run folder, such as `runs/first`.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: no such run, or it is damaged.

    Example:
        >>> seqkit.load("runs/first").predict(["not bad at all"])[0].label
    """
    folder, checked, kind = _open(path)
    task = kind.restore(checked, folder.path)
    weights = load_weights(folder.weights)
    try:
        task.adopt(weights)
    except RuntimeError as error:
        raise UserError(f"{folder.weights}: does not fit config.yaml beside it ({error})") from None
    task.model.to(pick_device(device)).eval()
    return task


def evaluate(path: str | Path, data: str | None = None, device: str = "auto") -> tuple[dict[str, float], list[str]]:
    """Score a run on its test data (or else dev), or on a file.

    Returns:
        the scores by name, and a report as lines of text.
    """
    return load(path, device).score(data)
