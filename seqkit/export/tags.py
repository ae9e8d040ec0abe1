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

from seqkit.export.base import Exporter, Graph
from seqkit.export.classes import example_ids
from seqkit.models import Spelling, Tagger
from seqkit.tasks.slots.data import LONGEST, LONGEST_WORD

_MODEL = "model.onnx"
_CRF = "crf.npz"


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
        forbidden = {name: getattr(crf, name) for name in ("forbidden_transitions", "forbidden_start")}
        np.savez(
            folder / _CRF, **{name: value.detach().numpy() for name, value in (crf.state_dict() | forbidden).items()}
        )

    def settings(self, task: Any) -> dict[str, Any]:
        return {
            "pad_id": task.tokenizer.pad_id,
            "unk_id": task.tokenizer.unk_id,
            "mark_joined": task.tokenizer.config.marked,
            "longest": LONGEST,
            "longest_word": LONGEST_WORD,
        }

    def attach(self, task: Any, folder: Path, run: Mapping[str, Any]) -> None:
        with np.load(folder / _CRF, allow_pickle=False) as values:
            task.model.crf.load_state_dict(
                {name: torch.from_numpy(values[name]) for name in task.model.crf.state_dict()}
            )

        def forward(
            ids: Tensor, lengths: Tensor, spelling: Spelling | None = None, shift: None = None
        ) -> tuple[Tensor, Tensor | None]:
            letters = (
                {} if spelling is None else dict(zip(("letters", "letter_counts", "words"), spelling, strict=True))
            )
            tags, *intents = run[_MODEL](ids=ids, lengths=lengths, **letters)
            return tags, intents[0] if intents else None

        task.model.forward = forward
