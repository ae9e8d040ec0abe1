"""Reading a configuration: from a YAML file, a dict, or a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from seqkit import config
from seqkit.config import Document, Names
from seqkit.errors import UserError
from seqkit.tasks import TASKS, RunConfig, RunTask
from seqkit.tasks.common import PARTS, Parts
from seqkit.training import RunFolder
from seqkit.training.run_folder import check_name

WEIGHTS = ("model", "text", "task", "init", "lora")
"""Keys that decide what the weights of a trained run are."""
Trust = bool | Mapping[str, Any]
"""Whether code may be imported that a run folder names; or the names that may, each with its class."""


def read_config(
    source: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    trust: Trust = False,
    folder: RunFolder | None = None,
) -> tuple[RunConfig, type[RunTask]]:
    """Validate a configuration: a YAML file or a dict.

    Args:
        source: path of a YAML file, or the same as a dict.
        overrides: `KEY.PATH=VALUE` texts, laid over it.
        trust: import what it names (`task: package.module:Class`) even where a run folder names it.
        folder: the run that it is of; a file in a run folder is of that run anyway.

    Returns:
        the configuration, and the class of its task.

    Raises:
        UserError: with file, line and dotted path of every mistake.
    """
    overrides = list(overrides)
    document = config.read(source, overrides) if isinstance(source, (str, Path)) else _from_dict(source, overrides)
    names = _names(document, trust, folder)
    with names.rule():
        schema, task = _schema(document)
        data = schema.model_fields.get("data")
        if data is not None and isinstance(data.annotation, type) and issubclass(data.annotation, Parts):
            document.spread("data", Parts.shared, PARTS, "path")
        checked = document.check(schema)
    if checked.name is not None:
        check_name(checked.name)
    checked._names = names
    return checked, task


def config_schema(source: str | Path, overrides: Iterable[str] = (), *, trust: Trust = False) -> type[RunConfig]:
    """Return the schema of a configuration, which need not be valid or complete; its keys depend on the cells it names.

    Args:
        source: path of a YAML file, or the name of a task.
        overrides: `KEY.PATH=VALUE` texts, such as `model.encoder.cell=gru`.
        trust: as in `read_config`.

    Raises:
        UserError: no such file or task, or a cell that cannot be found.
    """
    is_file = os.path.exists(source) or Path(source).suffix in (".yaml", ".yml")
    document = config.read(source, overrides) if is_file else _from_dict({"task": str(source)}, list(overrides))
    with _names(document, trust, None).rule():
        return _schema(document)[0]


def _schema(document: Document) -> tuple[type[RunConfig], type[RunTask]]:
    name = document.tree.get("task")
    if not isinstance(name, str):
        raise document.error(("task",), f"this key is required: one of {', '.join(TASKS)}")
    try:
        task: type[RunTask] = config.resolve("task", name, RunTask, TASKS)  # type: ignore[type-abstract]
        return task.schema(document.tree), task
    except UserError as error:
        raise error.at(document.place(tuple(error.key.split(".")))) from error.__cause__


def _from_dict(tree: Mapping[str, Any], overrides: list[str]) -> Document:
    document = config.from_mapping(tree)
    config.override(document, overrides)
    return document


def _names(document: Document, trust: Trust, folder: RunFolder | None) -> Names:
    """Whose the names in a configuration are, and where their modules are looked for."""
    runs = [] if folder is None else [folder.path]
    folders = []
    for file in document.files:
        for place in (Path(os.path.abspath(file)).parent, Path(os.path.realpath(file)).parent):
            runs += [each for each in (place, *place.parents) if _is_run(each)]
            folders.append(place)
    recorded: dict[str, Any] = {}
    for run in runs:
        with suppress(OSError, ValueError):
            modules = RunFolder(run).about().get("modules")
            recorded.update(modules if isinstance(modules, dict) else {})
    known = dict(trust) if isinstance(trust, Mapping) else {}
    return Names(tuple(folders), tuple(dict.fromkeys(runs)), trust is True, recorded, known)


def _is_run(folder: Path) -> bool:
    """Return whether a folder is one of a run, however damaged."""
    with suppress(OSError):
        return (folder / "run.json").exists() or all(
            (folder / name).exists() for name in ("config.yaml", "model.safetensors")
        )
    return False


def open_run(
    path: str | Path, overrides: Iterable[str] = (), *, trust: Trust = False
) -> tuple[RunFolder, RunConfig, type[RunTask]]:
    """Return a run folder, its configuration and the class of its task.

    Raises:
        UserError: no such run; an override of what the weights depend on; without `trust`, code that the run names.
    """
    folder = RunFolder.open(path)
    overrides = list(overrides)
    refuse_weights(overrides)
    checked, kind = read_config(folder.config, overrides, trust=trust, folder=folder)
    return folder, checked, kind


def refuse_weights(overrides: Iterable[str]) -> None:
    """Refuse `KEY.PATH=VALUE` texts that would change what weights are for.

    Raises:
        UserError: it names the first.
    """
    for text in overrides:
        if text.partition("=")[0].partition(".")[0] in WEIGHTS:
            raise UserError(f"command line: {text!r}: a trained run keeps its model and vocabulary")
