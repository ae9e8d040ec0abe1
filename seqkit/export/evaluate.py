"""Scores of an exported folder: the task's own `score`, whose model computes by the graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from seqkit.errors import Option, UserError, listed
from seqkit.export.files import SETTINGS, damage, read_settings
from seqkit.export.graphs import Runner
from seqkit.export.table import find_exporter
from seqkit.run.config_files import Trust, read_config, refuse_weights
from seqkit.run.options import open_with_options
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import RunFolder


def open_exported(
    path: str | Path, overrides: Iterable[str] = (), *, trust: Trust = False
) -> tuple[RunFolder, RunConfig, type[RunTask]]:
    """Return an exported folder, the configuration of its run and the class of its task; see `seqkit.run.open_run`.

    Raises:
        UserError: settings.json is missing or damaged; see `open_run`.
    """
    return open_settings(read_settings(Path(path)), path, overrides, trust=trust)


def open_settings(
    settings: Mapping[str, Any], path: str | Path, overrides: Iterable[str] = (), *, trust: Trust = False
) -> tuple[RunFolder, RunConfig, type[RunTask]]:
    """Do the work of `open_exported` with settings that were read before."""
    overrides = list(overrides)
    refuse_weights(overrides)
    folder = RunFolder(path)
    checked, kind = read_config(settings["config"], overrides, trust=trust, folder=folder)
    return folder, checked, kind


def restore(folder: Path, settings: Mapping[str, Any], checked: RunConfig, kind: type[RunTask]) -> RunTask:
    """Return the task of an exported folder, whose model computes by the graphs.

    Args:
        folder: the exported folder.
        settings: what `read_settings` returns.
        checked: the configuration of its run.
        kind: the class of its task.

    Raises:
        UserError: a file is missing or damaged, or ONNX Runtime cannot read a graph.
    """
    try:
        task = kind.restore(checked, folder)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{folder / SETTINGS}: its configuration cannot be used ({error})") from error
    task.model.eval()
    run = {name: Runner(folder / name) for name in settings["graphs"]}
    find_exporter(kind).attach(task, folder, settings["predict"], run)
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
    """Score an exported folder through ONNX Runtime, as `seqkit.run.evaluate` scores its run.

    Args:
        path: an exported folder.
        data: a file; the run's own data without it.
        device: `auto` or `cpu`.
        overrides, trust, values: see `seqkit.run.evaluate`.

    Returns:
        the scores by name, and a report as lines of text.

    Raises:
        UserError: a file of the folder is damaged; see `seqkit.run.evaluate`.
    """
    if device not in ("auto", "cpu"):
        raise UserError("an exported folder is scored on the CPU", key=Option("device"))
    settings = read_settings(Path(path))
    if bad := damage(Path(path), settings):
        raise UserError(f"{path}: damaged: {listed(f'{name} ({why})' for name, why in bad.items())}; export it again")
    opener = partial(open_settings, settings)
    opened = open_with_options(path, "evaluate", overrides, values, trust=trust, opener=opener)
    return restore(opened.folder.path, settings, opened.checked, opened.kind).score(data, **opened.options)


def on_dev(config: RunConfig) -> RunConfig | None:
    """Return the same configuration without test data, so that `score` reads dev; None where there is no dev data."""
    data: Any = getattr(config, "data", None)
    if getattr(data, "dev", None) is None or not hasattr(data, "test"):
        return None
    return config.model_copy(update={"data": data.model_copy(update={"test": None})})
