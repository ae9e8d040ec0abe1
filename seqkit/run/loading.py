"""Load a run to predict, score or translate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seqkit.errors import UserError, option
from seqkit.run.config_files import open_run
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import RunFolder, pick_device
from seqkit.training.checkpoint import load_finite
from seqkit.training.distributed import on_all, start


def load(path: str | Path, device: str = "auto", overrides: Iterable[str] = (), *, trust: bool = False) -> RunTask:
    """A trained model, ready to predict; needs the run folder alone.

    Args:
        path: a run folder, such as `runs/first`.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        overrides: `KEY.PATH=VALUE` texts, laid over the run's configuration, such as `decoding.beam_size=10`.
        trust: import code that the run folder names, such as a cell of the user's own.

    Raises:
        UserError: no such run, or it is damaged; an override of what the weights depend on; without `trust`, code that
            the run names.

    Example:
        >>> seqkit.load("runs/first").predict(["the film is anything but dull ."])[0].label
    """
    return load_task(*open_run(path, overrides, trust=trust), device)


def load_predictor(path: str | Path, device: str = "auto", *, trust: bool = False, **options: Any) -> RunTask:
    """`load`, with settings of `predict`.

    Args:
        path: a run folder.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        trust: see `load`.
        options: for tasks that have some, such as `sample` and `temperature` of language models.

    Raises:
        UserError: see `load`; an option that this kind of run lacks.
    """
    folder, checked, kind = open_run(path, trust=trust)
    check_options(path, kind, options, kind.predict_options)
    task = load_task(folder, checked, kind, device)
    task.adjust(**options)
    return task


def check_options(path: str | Path, kind: type[RunTask], given: Iterable[str], known: frozenset[str]) -> None:
    """Refuse options that this kind of run lacks.

    Raises:
        UserError: with the first of them.
    """
    for name in given:
        if name not in known:
            raise UserError(f"{option(name)}: this is a {kind.kind} run ({path}), which has no such option")


def load_task(folder: RunFolder, checked: RunConfig, kind: type[RunTask], device: str) -> RunTask:
    """The model of a run with its weights, in evaluation mode, from what `open_run` returned.

    Raises:
        UserError: its files are damaged, or do not fit each other; a weight is NaN or infinite.
    """
    try:
        task = kind.restore(checked, folder.path)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{folder}: the model that config.yaml describes cannot be built ({error})") from error
    weights = load_finite(folder.weights, task.model.state_dict())
    try:
        task.adopt(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())  # torch's is several lines
        raise UserError(f"{folder.weights}: does not fit config.yaml beside it ({reason})") from None
    task.model.to(pick_device(device)).eval()
    return task


def evaluate(
    path: str | Path,
    data: str | None = None,
    device: str = "auto",
    overrides: Iterable[str] = (),
    *,
    trust: bool = False,
    **options: Any,
) -> tuple[dict[str, float], list[str]]:
    """Score a run on its test data (or else dev), or on a file.

    Args:
        path: a run folder.
        data: a file; the run's own data without it.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        overrides, trust: see `load`.
        options: for tasks that have some, such as `reference` and `ter` of translation.

    Returns:
        the scores by name, and a report as lines of text.

    Raises:
        UserError: see `load`; an option that this kind of run lacks.
    """

    def opened() -> RunTask:
        folder, checked, kind = open_run(path, overrides, trust=trust)
        check_options(path, kind, options, kind.score_options)
        return load_task(folder, checked, kind, device)

    start()
    return on_all(opened).score(data, **options)


def compare(
    first: str | Path,
    second: str | Path,
    data: str | None = None,
    reference: str | None = None,
    device: str = "auto",
    *,
    trust: bool = False,
) -> list[str]:
    """Whether one translation run is better than another, by paired bootstrap; see `compare_outputs`.

    Args:
        first, second: run folders; the first is the baseline.
        data, reference: as in `evaluate`; without them the test data of both, which must be the same.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        trust: see `load`; of both runs.
    """
    from seqkit.tasks.translation.compare import compare as compare_tasks

    tasks = [(str(path), load_translator(path, device=device, trust=trust)) for path in (first, second)]
    return compare_tasks(tasks, data, reference)


def load_translator(
    path: str | Path,
    ensemble: Iterable[str | Path] = (),
    device: str = "auto",
    decoding: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
    **options: Any,
) -> Any:
    """A translation run, or several that decode together.

    Args:
        path: a run folder.
        ensemble: more of them, with the same target vocabulary.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        decoding: settings that take the place of those in the run's `decoding` section.
        trust: see `load`; of all these runs.
        options: see `TranslationTask.configure`.

    Raises:
        UserError: see `load`; one is not a translation run; the vocabularies differ; a bad setting.
    """
    from seqkit.tasks.translation.task import TranslationTask

    tasks = []
    for one in (path, *ensemble):
        opened = open_run(one, trust=trust)
        if not issubclass(opened[2], TranslationTask):
            kind = opened[2].kind
            raise UserError(f"{one}: this is a {kind} run, not a translation run; `seqkit predict {one}` uses it")
        tasks.append((str(one), load_task(*opened, device)))
    first: Any = tasks[0][1]
    first.join(tasks[0][0], tasks[1:])
    first.configure(decoding or {}, **options)
    return first
