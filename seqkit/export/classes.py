"""A class for a text: one graph, from token ids to logits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqkit.errors import UserError
from seqkit.export.base import Exporter, Graph
from seqkit.tasks import RunTask
from seqkit.tasks.sentiment.task import LONGEST

_MODEL = "model.onnx"


def check_splitting(task: Any, side: str = "") -> None:
    """Refuse a tokenizer that is Python; `side`: the one of two tokenizers that reads.

    Raises:
        UserError: another library splits the texts.
    """
    config = getattr(task, side or "tokenizer").config
    if config.is_foreign:
        raise UserError(
            f"{config.tokenizer} is Python code, which cannot be exported; use word, bpe, unigram or char",
            key=".".join(["text", *[side] * bool(side), "tokenizer"]),
        )


def example_ids() -> tuple[Tensor, Tensor]:
    """Return ids (2, 7) and lengths (2,) to trace a graph with."""
    return torch.full((2, 7), 1), torch.tensor([7, 3])


class ClassesExporter(Exporter):
    """See `Exporter`."""

    script = "seqkit.export.scripts.classes"

    def graphs(self, task: Any) -> Mapping[str, Graph]:
        check_splitting(task)
        ids, lengths = example_ids()
        inputs = {"ids": ids, "lengths": lengths}
        return {
            _MODEL: Graph(task.model, inputs, {"ids": {0: "batch", 1: "time"}, "lengths": {0: "batch"}}, ["logits"])
        }

    def settings(self, task: Any) -> dict[str, Any]:
        return {"longest": LONGEST}

    def attach(self, task: RunTask, folder: Path, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        def forward(ids: Tensor, lengths: Tensor, shift: None = None) -> Tensor:
            logits: Tensor = run[_MODEL](ids=ids, lengths=lengths)[0]
            return logits

        task.model.forward = forward
