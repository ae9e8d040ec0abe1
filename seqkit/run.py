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
from seqkit.training.averaging import average_weights
from seqkit.training.checkpoint import Checkpoints, load_weights, save_weights, seed_all
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
        example: a command line that uses the run.
    """

    folder: Path
    dev: dict[str, float]
    test: dict[str, float]
    example: str = ""


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


def _open(path: str | Path, overrides: Iterable[str] = ()) -> tuple[RunFolder, RunConfig, type[RunTask]]:
    folder = RunFolder.open(path)
    overrides = list(overrides)
    for text in overrides:
        if text.partition("=")[0].partition(".")[0] in ("model", "text", "task", "init"):
            raise UserError(f"command line: {text!r}: a trained run keeps its model and vocabulary")
    checked, kind = read_config(folder.config, overrides)
    return folder, checked, kind


def load(path: str | Path, device: str = "auto", overrides: Iterable[str] = ()) -> RunTask:
    """A trained model, ready to predict; needs the run folder alone.

    Args:
        path: a run folder, such as `runs/first`.
        device: `auto`, `cpu` or `cuda`.
        overrides: `KEY.PATH=VALUE` texts, laid over the run's configuration, such as `decoding.beam_size=10`.

    Raises:
        UserError: no such run, or it is damaged; an override of what the weights depend on.

    Example:
        >>> seqkit.load("runs/first").predict(["not bad at all"])[0].label
    """
    return _load(*_open(path, overrides), device)


def load_predictor(path: str | Path, device: str = "auto", **options: Any) -> RunTask:
    """`load`, with settings of `predict`.

    Args:
        path: a run folder.
        device: `auto`, `cpu` or `cuda`.
        options: for tasks that have some, such as `sample` and `temperature` of language models.

    Raises:
        UserError: see `load`; an option that this kind of run has not.
    """
    folder, checked, kind = _open(path)
    check_options(path, kind, options, kind.predict_options)
    task = _load(folder, checked, kind, device)
    task.adjust(**options)
    return task


def check_options(path: str | Path, kind: type[RunTask], given: Iterable[str], known: frozenset[str]) -> None:
    """Refuse options that this kind of run has not.

    Raises:
        UserError: with the first of them.
    """
    for name in given:
        if name not in known:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: this is a {kind.kind} run ({path}), which has no such option")


def _load(folder: RunFolder, checked: RunConfig, kind: type[RunTask], device: str) -> RunTask:
    task = kind.restore(checked, folder.path)
    weights = load_weights(folder.weights)
    try:
        task.adopt(weights)
    except RuntimeError as error:
        raise UserError(f"{folder.weights}: does not fit config.yaml beside it ({error})") from None
    task.model.to(pick_device(device)).eval()
    return task


def evaluate(
    path: str | Path,
    data: str | None = None,
    device: str = "auto",
    overrides: Iterable[str] = (),
    **options: Any,
) -> tuple[dict[str, float], list[str]]:
    """Score a run on its test data (or else dev), or on a file.

    Args:
        path: a run folder.
        data: a file; the run's own data without it.
        device: `auto`, `cpu` or `cuda`.
        overrides: see `load`.
        options: for tasks that have some, such as `reference` and `ter` of translation.

    Returns:
        the scores by name, and a report as lines of text.

    Raises:
        UserError: see `load`; an option that this kind of run has not.
    """
    folder, checked, kind = _open(path, overrides)
    check_options(path, kind, options, kind.score_options)
    return _load(folder, checked, kind, device).score(data, **options)


@dataclass(frozen=True)
class Average:
    """What `average` made: the run folder, the steps that went into it, dev scores of the old and the new weights."""

    folder: Path
    steps: list[int]
    before: dict[str, float]
    after: dict[str, float]


def average(path: str | Path, best: int | None = None, name: str | None = None, device: str = "auto") -> Average:
    """A new run beside another, whose weights are the mean of its best checkpoints'.

    Args:
        path: a run folder that has its checkpoints, and data that is still there.
        best: how many of them; None: all that were kept.
        name: of the new run; None: that of the old one with `-average`.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: fewer checkpoints than two, or than wanted; the name is taken.
    """
    folder, checked, kind = _open(path)
    checkpoints = Checkpoints(folder.checkpoints)
    latest = checkpoints.latest()
    kept = [] if latest is None else [int(step) for _, step in checkpoints.load(latest)[1]["state"]["best"]]
    steps = kept[:best]
    if len(steps) < max(best or 0, 2):
        raise UserError(
            f"{path}: {len(kept)} of its best checkpoints are there, {best or 'at least 2'} are needed; more are kept "
            "with training.keep_best=5 (and dev data)"
        )
    name = name or f"{folder.path.resolve().name}-average"
    new = RunFolder.choose(name, kind.kind, root=folder.path.parent)
    task = kind.create(checked, folder.path, fresh=False)
    task.model.to(pick_device(device)).eval()
    weights = average_weights([checkpoints.weights(step) for step in steps])
    scores = []
    for state in (load_weights(folder.weights), weights):
        task.adopt(state)
        with torch.no_grad():
            scores.append(task.evaluate())
    new.make()
    write_text(new.config, config.dump(checked.model_copy(update={"name": name})))
    task.save(new.path)
    save_weights(new.weights, weights)
    write_text(new.path / "scores.json", json.dumps({"averaged": steps, "dev": scores[1]}, indent=2) + "\n")
    new.describe({**folder.about(), "averaged": steps})
    return Average(new.path, steps, *scores)


def compare(
    first: str | Path,
    second: str | Path,
    data: str | None = None,
    reference: str | None = None,
    device: str = "auto",
) -> list[str]:
    """Whether one translation run is better than another, by paired bootstrap; see `compare_outputs`.

    Args:
        first, second: run folders; the first is the baseline.
        data, reference: as in `evaluate`; without them the test data of both, which must be the same.
        device: `auto`, `cpu` or `cuda`.
    """
    from seqkit.tasks.translation import compare as compare_tasks

    tasks = [(str(path), load_translator(path, device=device)) for path in (first, second)]
    return compare_tasks(tasks, data, reference)


def load_translator(
    path: str | Path,
    ensemble: Iterable[str | Path] = (),
    device: str = "auto",
    decoding: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A translation run, or several that decode together.

    Args:
        path: a run folder.
        ensemble: more of them, with the same target vocabulary.
        device: `auto`, `cpu` or `cuda`.
        decoding: settings that take the place of those in the run's `decoding` section.
        options: see `TranslationTask.configure`.

    Raises:
        UserError: see `load`; one is no translation run; the vocabularies differ; a bad setting.
    """
    from seqkit.tasks.translation import TranslationTask

    tasks = []
    for one in (path, *ensemble):
        opened = _open(one)
        if not issubclass(opened[2], TranslationTask):
            kind = opened[2].kind
            raise UserError(f"{one}: this is a {kind} run, not a translation run; `seqkit predict {one}` uses it")
        tasks.append((str(one), _load(*opened, device)))
    first: Any = tasks[0][1]
    first.join(tasks[0][0], tasks[1:])
    first.configure(decoding or {}, **options)
    return first
