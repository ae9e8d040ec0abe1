"""Modules to files of ONNX, and these files to functions."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqkit.errors import UserError, require
from seqkit.export.base import Graph
from seqkit.nn.exported_loops import MIN_TORCH, TORCH

_EXTRA = "export"
_INLINE = 1 << 30  # bytes of weights; a file of ONNX holds at most 2 GiB


def check_exporter() -> None:
    """Refuse, before a run is read, an environment that cannot export.

    Raises:
        UserError: torch is too old, or onnx, onnxscript or onnxruntime are not installed.
    """
    if TORCH < MIN_TORCH:
        raise UserError(f"export needs torch {'.'.join(map(str, MIN_TORCH))} or later, got {torch.__version__}")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, _EXTRA)


def write_graph(graph: Graph, path: Path) -> None:
    """Write a module as a file of ONNX, checked by onnx.

    Raises:
        RuntimeError: a part of it has no place in a graph.
    """
    open_sizes = tuple(
        dict.fromkeys(graph.open.get(name, {}), torch.export.Dim.DYNAMIC) or None for name in graph.inputs
    )
    size = sum(value.numel() * value.element_size() for value in graph.module.state_dict().values())
    with _quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=(open_sizes,) if _takes_any(graph.module) else open_sizes,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    _name_sizes(program, graph)
    program.save(str(path), external_data=size > _INLINE)
    require("onnx", _EXTRA).checker.check_model(str(path))


def _takes_any(module: nn.Module) -> bool:
    """Return whether `forward` has one parameter, `*inputs`, which torch.export counts as one input."""
    kinds = [one.kind for one in inspect.signature(module.forward).parameters.values()]
    return kinds == [inspect.Parameter.VAR_POSITIONAL]


def _name_sizes(program: Any, graph: Graph) -> None:
    """Give the open dimensions of the inputs the names that the exporter's `s12` stands for."""
    names = {
        str(value.shape[place]): name
        for value in program.model.graph.inputs
        for place, name in graph.open.get(value.name, {}).items()
    }
    program.rename_axes(names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter, and the libraries that it calls, say of their own operators."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Runner:
    """A graph as a function of tensors: ONNX Runtime on the CPU.

    Args:
        path: of the file.

    Raises:
        UserError: ONNX Runtime cannot read it.
    """

    def __init__(self, path: Path) -> None:
        runtime = require("onnxruntime", _EXTRA)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes, which have no common base
            raise UserError(f"{path}: ONNX Runtime cannot read it ({' '.join(str(error).split())})") from None
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, **inputs: Tensor | NDArray[Any]) -> list[Tensor]:
        """Return the outputs in order.

        No dimension may be empty: an input without a sequence or a step would abort the process.

        Raises:
            ValueError: an input is empty.
        """
        arrays = {
            name: np.asarray(value.detach() if isinstance(value, Tensor) else value) for name, value in inputs.items()
        }
        for name, value in arrays.items():
            if not value.size:
                raise ValueError(f"{name} is empty, which ONNX Runtime does not take")
        kept = {name: arrays[name] for name in self.inputs}  # a graph lacks the inputs that it does not look at
        return [torch.from_numpy(value) for value in self.session.run(None, kept)]
