"""The label of a text that is still being written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqkit.tasks.sentiment.predictions import Prediction
from seqkit.tasks.stream import Growing, Stream, check_forward


class SentimentStream(Stream[Prediction]):
    """See `Stream`.

    Args:
        task: a run whose encoder reads in one direction.
    """

    def __init__(self, task: Any) -> None:
        super().__init__()
        check_forward(task.model.encoder)
        self._task, self._outputs = task, Growing(self._read)

    def _read(self, ids: Sequence[int], state: Any) -> tuple[Tensor, Any]:
        return self._task.model.encoder(torch.tensor([ids], device=self._task.device), None, hx=state)  # type: ignore[no-any-return]

    def predict(self, *, final: bool) -> Prediction:
        task, text = self._task, self.text
        ids = task.encode(text)
        if not ids:
            return task.predict([text])[0]  # type: ignore[no-any-return]
        task.model.eval()
        output, state = self._outputs(ids, self.settled(ids, task.encode))
        logits = task.model.classify(output, state, torch.tensor([len(ids)]))
        return task.predictions(logits.float().cpu())[0]  # type: ignore[no-any-return]
