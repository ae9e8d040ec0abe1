"""What a kind of task says about its export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from seqkit.tasks import RunTask


class Graph(NamedTuple):
    """A module that becomes a file of ONNX.

    Attributes:
        module: in evaluation mode.
        inputs: name -> an example, in the order of the arguments of `forward`; every size of an open dimension is at
            least 2 and differs from that of the others.
        open: name of an input -> its dimensions of any size, each with a name; the same name is the same size.
        outputs: names of what `forward` returns, in order.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    open: Mapping[str, Mapping[int, str]]
    outputs: Sequence[str]


class Exporter(ABC):
    """How the runs of one kind of task leave Python. A subclass is a row of `seqkit.export.EXPORTERS`.

    Attributes:
        script: a module of Python, copied as predict.py; it imports numpy, onnxruntime, tokenizers, and `exported`
            (`seqkit.export.scripts.exported`), which is copied beside it.
    """

    script: ClassVar[str]

    @abstractmethod
    def graphs(self, task: RunTask) -> Mapping[str, Graph]:
        """Return the graphs of a task by the names of their files, such as `model.onnx`.

        Raises:
            UserError: the model has a part that no graph can hold; the message names the key of the configuration.
        """

    def save(self, task: RunTask, folder: Path) -> None:
        """Write what the script reads beside the graphs: what `restore` reads, and more where the script needs it."""
        task.save(folder)

    def settings(self, task: RunTask) -> dict[str, Any]:
        """Return what the script needs to know, as JSON; it stands under `predict` in settings.json."""
        return {}

    @abstractmethod
    def attach(self, task: RunTask, folder: Path, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """Let a task whose model has no weights compute by the graphs, so that its `score` scores the folder.

        Args:
            task: from `RunTask.restore` on the exported folder.
            folder: the exported folder.
            settings: what `settings` returned when it was exported.
            run: name of a graph's file -> a function from inputs to outputs, see `seqkit.export.graphs.Runner`.
        """
