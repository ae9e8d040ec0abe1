"""A tag for each token: one graph, from token ids (and characters) to the scores of tags and intents.

The best sequence of tags is found outside the graph, by predict.py: a graph would fix the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqkit.errors import UserError
from seqkit.export.base import Exporter, Graph
from seqkit.export.classes import example_ids
from seqkit.models import Spelling, Tagger
from seqkit.tasks.slots.data import LONGEST, LONGEST_WORD

_MODEL = "model.onnx"
_CRF = "crf.npy"


class _Scores(nn.Module):
    """A tagger with flat arguments, whose outputs are never None."""

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.tagger = tagger

    def forward(
        self,
        ids: Tensor,
        lengths: Tensor,
        letters: Tensor | None = None,
        letter_counts: Tensor | None = None,
        words: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        spelling = None
        if letters is not None and letter_counts is not None and words is not None:
            spelling = Spelling(letters, letter_counts, words)
        tags, intents = self.tagger(ids, lengths, spelling)
        return (tags,) if intents is None else (tags, intents)


class TagsExporter(Exporter):
    """See `Exporter`."""

    script = "seqkit.export.scripts.tags"

    def graphs(self, task: Any) -> Mapping[str, Graph]:
        ids, lengths = example_ids()
        inputs = {"ids": ids, "lengths": lengths}
        sizes = {"ids": {0: "batch", 1: "time"}, "lengths": {0: "batch"}}
        if task.letters is not None:
            numbers = torch.arange(14).view(2, 7) % 5
            inputs |= {
                "letters": torch.full((5, 3), 1),
                "letter_counts": torch.tensor([3, 1, 2, 3, 3]),
                "words": numbers,
            }
            sizes |= {"letters": {0: "words", 1: "letters"}, "letter_counts": {0: "words"}, "words": sizes["ids"]}
        outputs = ["tags", "intents"] if task.intents else ["tags"]
        return {_MODEL: Graph(_Scores(task.model), inputs, sizes, outputs)}

    def save(self, task: Any, folder: Path) -> None:
        super().save(task, folder)
        crf = task.model.crf
        with torch.no_grad():
            learned = torch.cat([crf.start[None], crf.end[None], crf.transitions])
            free = torch.zeros_like(crf.forbidden_start)[None]
            forbidden = torch.cat([crf.forbidden_start[None], free, crf.forbidden_transitions])
            # predict.py decodes by the second; the loss, which `evaluate` tells, may count what is forbidden.
            np.save(folder / _CRF, torch.stack([learned, learned.masked_fill(forbidden, -torch.inf)]).numpy())

    def settings(self, task: Any) -> dict[str, Any]:
        return {
            "characters": task.letters is not None,
            "mark_joined": task.tokenizer.config.marked,
            "longest": LONGEST,
            "longest_word": LONGEST_WORD,
        }

    def attach(self, task: Any, folder: Path, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        crf = task.model.crf
        values = _array(folder / _CRF, (2, len(crf.start) + 2, len(crf.start)))[0]
        crf.load_state_dict({"start": values[0], "end": values[1], "transitions": values[2:]})

        def forward(
            ids: Tensor, lengths: Tensor, spelling: Spelling | None = None, shift: None = None
        ) -> tuple[Tensor, Tensor | None]:
            letters = (
                {} if spelling is None else dict(zip(("letters", "letter_counts", "words"), spelling, strict=True))
            )
            tags, *intents = run[_MODEL](ids=ids, lengths=lengths, **letters)
            return tags, intents[0] if intents else None

        task.model.forward = forward


def _array(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Return the array in a file, whose size is not trusted.

    Raises:
        UserError: it is not a file of numpy with an array of float32 of this shape.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # takes no memory for what the file only claims
        if values.dtype != np.float32 or values.shape != shape:
            raise ValueError(f"{values.dtype} {values.shape}")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: expected an array of float32 {shape} ({error})") from None
    return torch.from_numpy(np.array(values))
