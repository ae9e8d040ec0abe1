"""`seqkit export`: a run to a folder that needs neither torch nor seqkit."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from seqkit._version import __version__
from seqkit.errors import UserError
from seqkit.export.files import FORMAT, SETTINGS, describe_files, new_folder, write_settings
from seqkit.export.graphs import check_exporter, write_graph
from seqkit.export.table import find_exporter
from seqkit.run.config_files import open_run
from seqkit.run.loading import load_task


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
    source = Path(run)
    target = Path(to) if to is not None else source.with_name(f"{source.resolve().name}-onnx")
    with new_folder(target, overwrite=overwrite) as folder:
        task = load_task(*opened, "cpu")
        graphs = exporter.graphs(task)
        for name, graph in graphs.items():
            try:
                write_graph(graph, folder / name)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise UserError(f"{run}: {name} cannot be made of this model ({reason})") from error
        exporter.save(task, folder)
        (folder / "predict.py").write_bytes(script_of(exporter.script))
        about: dict[str, Any] = {
            "format": FORMAT,
            "seqkit": __version__,
            "task": task.kind,
            "run": source.resolve().name,
            "graphs": {name: _faces(graph) for name, graph in graphs.items()},
            "predict": exporter.settings(task),
            "config": opened[1].model_dump(mode="json"),
            "files": describe_files(folder),
        }
        write_settings(folder / SETTINGS, about)
    return target


def _faces(graph: Any) -> dict[str, list[str]]:
    return {"inputs": list(graph.inputs), "outputs": list(graph.outputs)}


def script_of(module: str) -> bytes:
    """Return the source of a module of Python, such as `seqkit.export.scripts.classes`."""
    package, _, name = module.rpartition(".")
    return resources.files(package).joinpath(f"{name}.py").read_bytes()
