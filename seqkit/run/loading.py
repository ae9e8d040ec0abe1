"""Load a run to predict, score or translate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seqkit.distributed import on_all, start
from seqkit.errors import UserError
from seqkit.run.config_files import open_run
from seqkit.run.options import lay_options, open_with_options
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import RunFolder, pick_device
from seqkit.training.checkpoint import load_finite


def load(path: str | Path, device: str = "auto", overrides: Iterable[str] = (), *, trust: bool = False) -> RunTask:
    """Return a trained model, ready to predict; needs the run folder alone.

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


def load_predictor(
    path: str | Path, device: str = "auto", options: Iterable[str] = (), *, trust: bool = False, **values: Any
) -> RunTask:
    """`load`, with settings of `predict`.

    Args:
        path: a run folder.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        options: `KEY=VALUE` texts, such as `temperature=0.7`; see `describe_options`.
        trust: see `load`.
        values: options as Python values, such as `sample=True`.

    Raises:
        UserError: see `load`; an option that this kind of run lacks; a bad value.
    """
    opened = open_with_options(path, "predict", options, values, trust=trust)
    task = load_task(*opened[:3], device)
    task.adjust(**opened.options)
    return task


def load_task(folder: RunFolder, checked: RunConfig, kind: type[RunTask], device: str) -> RunTask:
    """Return the model of a run with its weights, in evaluation mode, from what `open_run` returned.

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
    **values: Any,
) -> tuple[dict[str, float], list[str]]:
    """Score a run on its test data (or else dev), or on a file.

    Args:
        path: a run folder.
        data: a file; the run's own data without it.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        overrides: `KEY=VALUE` texts: options such as `ter=true`, or keys of the configuration, such as `beam_size=10`.
        trust: see `load`.
        values: options as Python values, such as `ter=True`.

    Returns:
        the scores by name, and a report as lines of text.

    Raises:
        UserError: see `load`; an option that this kind of run lacks; a bad value.
    """
    start()
    opened = on_all(lambda: open_with_options(path, "evaluate", overrides, values, trust=trust))
    return on_all(lambda: load_task(*opened[:3], device)).score(data, **opened.options)


def compare(
    first: str | Path,
    second: str | Path,
    data: str | None = None,
    device: str = "auto",
    options: Iterable[str] = (),
    *,
    trust: bool = False,
    **values: Any,
) -> list[str]:
    """Return whether one translation run is better than another, by paired bootstrap; see `compare_outputs`.

    Args:
        first, second: run folders; the first is the baseline.
        data: as in `evaluate`; without it the test data of both, which must be the same.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        options: `reference=FILE`: the references, where the data are a text file of the sources.
        trust: see `load`; of both runs.
        values: options as Python values, such as `reference="news.en"`.

    Raises:
        UserError: see `load`; one is not a translation run; another option than `reference`; the data differ.
    """
    from seqkit.tasks.translation.compare import compare as compare_tasks

    tasks = [(str(path), load_translator(path, device=device, trust=trust)) for path in (first, second)]
    chosen = open_with_options(first, "evaluate", options, values, trust=trust).options
    for name in chosen.keys() - {"reference"}:
        raise UserError(f"{name}: compare takes the option reference alone")
    return compare_tasks(tasks, data, chosen.get("reference"))


def load_translator(
    path: str | Path,
    ensemble: Iterable[str | Path] = (),
    device: str = "auto",
    options: Iterable[str] = (),
    *,
    trust: bool = False,
    **values: Any,
) -> Any:
    """Return a translation run, or several that decode together.

    Args:
        path: a run folder.
        ensemble: more of them, with the same target vocabulary.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        options: `KEY=VALUE` texts, such as `beam_size=5`, for keys of the run's `decoding` section among others.
        trust: see `load`; of all these runs.
        values: options as Python values, such as `beam_size=5`.

    Raises:
        UserError: see `load_predictor`; one is not a translation run; the vocabularies differ.
    """
    from seqkit.tasks.translation.task import TranslationTask

    tasks = []
    for one in (path, *ensemble):
        opened = open_run(one, trust=trust)
        if not issubclass(opened[2], TranslationTask):
            kind = opened[2].kind
            raise UserError(f"{one}: this is a {kind} run, not a translation run; `seqkit predict {one}` uses it")
        tasks.append((str(one), opened))
    chosen = lay_options(tasks[0][1], "predict", options, values, trust=trust)
    tasks[0] = (str(path), chosen[:3])
    loaded = [(name, load_task(*opened, device)) for name, opened in tasks]
    first: Any = loaded[0][1]
    first.join(loaded[0][0], loaded[1:])
    first.adjust(**chosen.options)
    return first
