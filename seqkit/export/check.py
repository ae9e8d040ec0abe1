"""Whether an exported folder, perhaps a stranger's, is whole; nothing in it is imported or run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any

import torch

from seqkit.errors import listed, require, shown
from seqkit.export.evaluate import open_settings
from seqkit.export.files import SETTINGS, damage, read_settings
from seqkit.export.make import scripts_of
from seqkit.export.table import find_exporter
from seqkit.export.wire import check_size
from seqkit.files import read_bytes
from seqkit.run import environment
from seqkit.run.doctor import Check, Report, looked_at
from seqkit.tasks import RunConfig, RunTask

_SCRIPTS, _CACHE = ("predict.py", "exported.py"), "__pycache__"
_RECURRENT = ("LSTM", "GRU", "RNN", "Scan", "DynamicQuantizeLSTM")


def doctor(path: str | Path) -> Report:
    """Look at this machine, and at an exported folder. Nothing is changed, and nothing that lies there is imported.

    Args:
        path: an exported folder.
    """
    return Report(environment.machine(), str(path), list(_checks(Path(path))), "exported")


def _checks(folder: Path) -> Iterator[Check]:
    settings: dict[str, Any] = {}
    yield looked_at(SETTINGS, lambda: _settings(folder, settings))
    if not settings:
        return
    bad = damage(folder, settings)
    for name, why in bad.items():
        yield Check(name, False, why)
    if not bad:
        total = sum(about["bytes"] for about in settings["files"].values())
        yield Check("(files)", True, f"{len(settings['files'])} files, {total:,} bytes, each with its digest")
    for name, faces in settings["graphs"].items():
        if name not in bad:
            yield looked_at(name, lambda name=name, faces=faces: _graph(folder, name, faces, settings))  # type: ignore[misc]
    opened: list[tuple[RunConfig, type[RunTask]]] = []
    yield looked_at("(configuration)", lambda: _config(folder, settings, opened))
    if opened:
        yield looked_at("(what scoring needs)", lambda: _task(folder, *opened[0]))
        for name in _SCRIPTS:
            if name not in bad:
                yield looked_at(name, lambda name=name: _script(folder / name, opened[0][1]))  # type: ignore[misc]
    else:
        yield Check("(scripts)", True, "not checked, because the task is not known", seen=False)
    yield from _others(folder, settings)


def _others(folder: Path, settings: dict[str, Any]) -> Iterator[Check]:
    """Look at what an export does not write: Python searches the folder of a script before its own."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        yield Check("(other files)", False, f"cannot be listed ({error.strerror})")
        return
    names = []
    for path in paths:
        if path.name in _SCRIPTS:
            continue
        if _is_package(path) or path.name.endswith(tuple(all_suffixes())):
            yield Check(path.name, False, "not of an export: predict.py may import it in place of a library")
        elif path.name not in settings["files"] and path.name != SETTINGS:
            names.append(path.name)
    if _CACHE in names:
        names.remove(_CACHE)
        says = "Python writes it when predict.py runs; if you did not run it, delete this, which runs for exported.py"
        yield Check(_CACHE, True, says, seen=False)
    if names:
        yield Check("(other files)", True, f"not of the export, and not checked: {listed(names)}", seen=False)


def _is_package(path: Path) -> bool:
    try:
        return path.is_dir() and any(inside.stem == "__init__" for inside in path.iterdir())
    except OSError:  # who knows
        return True


def _settings(folder: Path, settings: dict[str, Any]) -> str:
    settings |= read_settings(folder)
    return f"a run of the task {shown(settings.get('task'))}, exported by seqkit {settings.get('seqkit')}"


def _graph(folder: Path, name: str, faces: Any, settings: dict[str, Any]) -> str:
    onnx = require("onnx", "export")
    path = folder / name
    check_size(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own classes
        raise ValueError(f"not a file of ONNX ({error})") from None
    for tensor in _tensors(model.graph):
        _refuse_outside(tensor, folder, settings["files"])
    for one in (model.functions, model.training_info):
        if len(one):
            raise ValueError("functions and training in a graph are nothing that seqkit writes")
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ValueError(f"not valid ({error})") from None
    for side, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        unknown = {value.name for value in values} - set(faces[side])
        if unknown:
            raise ValueError(f"{side} that settings.json does not name: {listed(sorted(unknown))}")
    kinds = Counter(node.op_type for node in model.graph.node)
    recurrent = ", ".join(f"{kinds[kind]} {kind}" for kind in _RECURRENT if kinds[kind]) or "none recurrent"
    return f"valid; {len(model.graph.node)} nodes, {recurrent}"


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield all tensors of a graph and of the graphs in it."""
    waiting = [graph]
    while waiting:
        one = waiting.pop()
        yield from one.initializer
        for sparse in one.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in one.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _refuse_outside(tensor: Any, folder: Path, files: dict[str, Any]) -> None:
    """Refuse weights that lie outside the folder, or where the file does not reach.

    Raises:
        ValueError: it says which.
    """
    if not tensor.external_data:
        return
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    if location not in files:
        raise ValueError(f"weights {shown(tensor.name)} lie in {shown(location)}, which is no file of this export")
    end = int(about.get("offset", 0)) + int(about.get("length", 0))
    if not 0 <= int(about.get("offset", 0)) <= end <= (folder / location).stat().st_size:
        raise ValueError(f"weights {shown(tensor.name)} lie beyond the end of {location}")


def _config(folder: Path, settings: dict[str, Any], opened: list[tuple[RunConfig, type[RunTask]]]) -> str:
    _, checked, kind = open_settings(settings, folder)
    opened.append((checked, kind))
    return f"valid, of the task {kind.kind}"


def _task(folder: Path, checked: RunConfig, kind: type[RunTask]) -> str:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # whatever sizes a stranger writes take no memory
        kind.restore(checked, folder)
    return "tokenizer and names are there"


def _script(path: Path, kind: type[RunTask]) -> str:
    if read_bytes(path) != scripts_of(find_exporter(kind))[path.name]:
        raise ValueError("not the script that this seqkit ships: read it before you run it")
    return "the script that this seqkit ships"
