"""Language models: one graph, from tokens and a state to log-probabilities of the next tokens and the next state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqkit.export.base import Exporter, Graph
from seqkit.export.classes import check_splitting
from seqkit.export.translation import NEXT, joining
from seqkit.models import LanguageModel
from seqkit.models.language_model import Reading
from seqkit.tasks.language_model.predictions import LONGEST

_MODEL = "model.onnx"
# Log-probabilities that are held at a time when a folder is scored; a text has as many as tokens times vocabulary.
_HELD = 1 << 24


class _Model(nn.Module):
    """Tokens (B, T), the parts of the state (layers, B, size) -> log-probabilities (B, T, V), the next state."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        tokens, *state = inputs
        found = self.model(tokens, tuple(state))
        scores = self.model.scores(found.features)
        return [scores if self.model.adaptive is not None else torch.log_softmax(scores, -1), *found.state]


class LanguageModelExporter(Exporter):
    """See `Exporter`."""

    script = "seqkit.export.scripts.language_model"

    def graphs(self, task: Any) -> Mapping[str, Graph]:
        check_splitting(task)
        names, start = _start(task.model)
        inputs = {"tokens": torch.full((2, 7), 1)}
        inputs |= {name: part.repeat(1, 2, 1) for name, part in zip(names, start, strict=True)}
        sizes = {"tokens": {0: "lines", 1: "time"}, **{name: {1: "lines"} for name in names}}
        return {
            _MODEL: Graph(_Model(task.model).eval(), inputs, sizes, ["log_probs", *(NEXT + name for name in names)])
        }

    def settings(self, task: Any) -> dict[str, Any]:
        learned = {name: part[:, 0].tolist() for name, part in zip(*_start(task.model), strict=True) if part.any()}
        spaces = task.tokenizer.config.kind in ("bpe", "unigram")
        written = {**joining(task.tokenizer.config), "spaces": spaces}
        return {"longest": LONGEST, "start": learned, "seed": task.config.seed, "text": written}

    def attach(self, task: Any, folder: Path, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        model: Any = task.model
        names, start = _start(model)
        for name, values in settings["start"].items():
            start[names.index(name)] = torch.tensor(values).unsqueeze(1)

        def forward(ids: Tensor, state: Any = None, lengths: Tensor | None = None) -> Reading:
            before = [part.repeat(1, len(ids), 1) for part in start] if state is None else state
            log_probs, *after = run[_MODEL](tokens=ids, **dict(zip(names, before, strict=True)))
            return Reading(log_probs, log_probs, log_probs, tuple(after))

        def loss(log_probs: Tensor, targets: Tensor) -> Tensor:
            return -log_probs.gather(2, targets.unsqueeze(2)).double().sum()

        model.forward, model.loss = forward, loss
        task.evaluated = max(1, _HELD // (task.config.data.eval_batch_size * len(task.tokenizer)))


def _start(model: LanguageModel) -> tuple[list[str], list[Tensor]]:
    """Return the names of the parts of the state, and the state in which a text begins, each (layers, 1, size)."""
    recurrent = model.encoder.recurrent
    with torch.no_grad():
        _, state = recurrent(torch.zeros(1, 1, recurrent.input_size), lengths=torch.tensor([0]))
    return list(recurrent.cell_at(0).state_names), list(state)
