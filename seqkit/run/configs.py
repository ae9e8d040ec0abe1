"""Reading a configuration: a YAML file, a dict, or that of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seqkit import config
from seqkit.config import Document, UserError
from seqkit.tasks import TASKS, RunConfig, RunTask, resolve
from seqkit.training import RunFolder
from seqkit.training.folder import check_name


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


def open_run(path: str | Path, overrides: Iterable[str] = ()) -> tuple[RunFolder, RunConfig, type[RunTask]]:
    """A run folder, its configuration and the class of its task.

    Raises:
        UserError: no such run; an override of what the weights depend on.
    """
    folder = RunFolder.open(path)
    overrides = list(overrides)
    for text in overrides:
        if text.partition("=")[0].partition(".")[0] in ("model", "text", "task", "init", "lora"):
            raise UserError(f"command line: {text!r}: a trained run keeps its model and vocabulary")
    checked, kind = read_config(folder.config, overrides)
    return folder, checked, kind
