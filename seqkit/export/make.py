"""`seqkit export`: a run to a folder that needs neither torch nor seqkit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from seqkit._version import __version__
from seqkit.console import say, scores_line
from seqkit.errors import UserError, listed, shown
from seqkit.export.base import Exporter
from seqkit.export.evaluate import on_dev, restore
from seqkit.export.files import FORMAT, SETTINGS, describe_files, new_folder, write_settings
from seqkit.export.graphs import check_exporter, write_graph
from seqkit.export.int8 import quantise
from seqkit.export.table import find_exporter
from seqkit.run.config_files import open_run
from seqkit.run.loading import load_task
from seqkit.tasks import RunConfig, RunTask

_OWN = re.compile(r"[\w.]+:[A-Za-z_]\w*")  # package.module:Name
_SMALL = 1 << 24  # bytes of a graph whose products are too small for several threads, which would wait for each other
_NONE = {"bytes": 0}


def export(
    run: str | Path, to: str | Path | None = None, int8: bool = False, trust: bool = False, overwrite: bool = False
) -> Path:
    """Write a run as graphs of ONNX, with its tokenizer and a script that predicts.

    Args:
        run: a run folder.
        to: the folder to make; None: the run's name with `-onnx` behind it, beside the run.
        int8: hold the weights as 8-bit integers.
        trust: import code that the run folder names, such as a cell of the user's own.
        overwrite: replace an exported folder of this name.

    Returns:
        the folder.

    Raises:
        UserError: no such run; a part of its model that no graph can hold; a torch without the exporter; the folder
            exists.
    """
    check_exporter()
    opened = open_run(run, trust=trust)
    exporter = find_exporter(opened[2])
    source = Path(run).resolve()
    place = Path(run) if Path(run).name not in ("", "..") else source  # such as `.`, which has no name to add to
    target = Path(to) if to is not None else place.with_name(f"{source.name}-onnx")
    with new_folder(target, overwrite=overwrite) as folder:
        task = load_task(*opened, "cpu")
        graphs = exporter.graphs(task)
        for name, graph in graphs.items():
            with _named(run, opened[1]):
                write_graph(graph, folder / name)
        exporter.save(task, folder)
        for name, text in scripts_of(exporter).items():
            (folder / name).write_bytes(text)
        about = {
            "format": FORMAT,
            "seqkit": __version__,
            "task": task.kind,
            "run": source.name,
            "graphs": {
                name: {"inputs": list(one.inputs), "outputs": list(one.outputs)} for name, one in graphs.items()
            },
            "predict": exporter.settings(task),
            "config": opened[1].model_dump(mode="json"),
        }
        _finish(folder, about)
        if int8:
            for name in graphs:
                say(f"{name}: {quantise(folder / name, folder / name)}")
                (folder / f"{name}.data").unlink(missing_ok=True)
            _tell_loss(task, folder, _finish(folder, about))
    return target


def _finish(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write settings.json, with the threads of each graph and the digests of all other files, and return it."""
    (folder / SETTINGS).unlink(missing_ok=True)
    files = describe_files(folder)
    graphs = {
        name: {**faces, "threads": int(files[name]["bytes"] + files.get(f"{name}.data", _NONE)["bytes"] <= _SMALL)}
        for name, faces in about["graphs"].items()
    }
    settings = {**about, "graphs": graphs, "files": files}
    write_settings(folder / SETTINGS, settings)
    return settings


@contextmanager
def _named(run: str | Path, config: RunConfig) -> Iterator[None]:
    """Say of a model that no graph can hold which option may be the reason: code of the user's own."""
    try:
        yield
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = " ".join(str(_innermost(error)).split())
        own = [
            f"{key}: {value}"
            for key, value in _leaves(config.model_dump(mode="json", include={"task", "model"}))
            if _OWN.fullmatch(str(value))
        ]
        hint = f"; code of your own: {listed(own)}" if own else ""
        raise UserError(f"{run}: no graph of ONNX can hold this model{hint} ({shown(reason, 300)})") from error


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _leaves(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of all values, and the values; those of a list have its key."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{above}.{key}" if above else key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, above)
    else:
        yield above, tree


def _tell_loss(task: RunTask, folder: Path, settings: dict[str, Any]) -> None:
    """Print the scores on dev of a run and of its quantised graphs."""
    config = on_dev(task.config)
    if config is None:
        say("no dev data in the run's configuration: what int8 costs is not known")
        return
    task.config = config
    try:
        before, _ = task.score()
        after, _ = restore(folder, settings, config, type(task)).score()
    except UserError as error:
        say(f"dev cannot be scored ({error}): what int8 costs is not known")
        return
    say(scores_line("dev, run", before))
    say(scores_line("dev, int8", after))


def scripts_of(exporter: Exporter) -> dict[str, bytes]:
    """Return what stands in predict.py, and in the file that it shares with those of other tasks."""
    modules = {"predict.py": exporter.script, "exported.py": "seqkit.export.scripts.exported"}
    return {name: _source(*module.rsplit(".", 1)) for name, module in modules.items()}


def _source(package: str, name: str) -> bytes:
    return resources.files(package).joinpath(f"{name}.py").read_bytes()
