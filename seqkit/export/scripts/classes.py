"""Predict a class for each line: python predict.py [FILE] [--format text|jsonl]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from exported import Exported, answer, batches, cut, one_line, pad, parser, rounded


class Predictor:
    """The model in a folder: a list of texts -> [{"label": ..., "probabilities": {...}}, ...]."""

    def __init__(self, folder: str | Path = "") -> None:
        exported = Exported(folder)
        self.settings, (self.model,) = exported.settings, exported.graphs
        self.tokenizer, self.classes = exported.tokenizer(), exported.json("classes.json")

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"label": None, "probabilities": {}} for _ in texts]
        kept = [number for number, text in enumerate(texts) if text.strip()]  # a blank text has no class
        encodings = self.tokenizer.encode_batch_fast([texts[number] for number in kept])
        rows = [cut(one.ids, self.settings["longest"], texts[number]) for number, one in zip(kept, encodings)]
        for batch in batches(rows):
            ids, lengths = pad([rows[place] for place in batch]), np.array([len(rows[place]) for place in batch])
            (logits,) = self.model.run(None, {"ids": ids, "lengths": lengths})
            powers = np.exp(logits - logits.max(1, keepdims=True))
            for place, shares in zip(batch, (powers / powers.sum(1, keepdims=True)).tolist()):
                best = self.classes[shares.index(max(shares))]
                found[kept[place]] = {"label": best, "probabilities": dict(zip(self.classes, shares))}
        return found


def main() -> None:
    """Read the command line, and answer each line."""
    options = parser("Predict a class for each line.").parse_args()
    answer(options, Predictor, lambda found: one_line(found["label"] or ""), rounded)


if __name__ == "__main__":
    main()
