"""Score each line, or continue it: python predict.py [FILE] [--sample] [--format text|jsonl]

Needs numpy, onnxruntime and tokenizers; reads what lies beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

LONGEST_LINE = 1 << 25  # bytes
LINES, VALUES = 64, 1 << 22  # that go through the model together, and log-probabilities that come out
UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # JSON allows them, readers of lines do not
PAD, UNK, BOS, EOS = range(4)
OWN = {"￮": "￮0", "￭": "￮1", " ": "￮2"}  # how a marked vocabulary writes characters that mean something in it
Array = NDArray[Any]


class Predictor:
    """The model in a folder: a list of texts -> [{"log_prob": ..., "perplexity": ..., ...}, ...]."""

    def __init__(self, folder: str | Path = "") -> None:
        folder = Path(folder or Path(__file__).parent)
        self.settings, self.model = load(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.size = self.tokenizer.get_vocab_size()
        self.sizes = {one.name: one.shape for one in self.model.get_inputs() if one.name != "tokens"}
        self.gives = ["tokens", *self.sizes]
        self.drawn = 0  # lines continued so far

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Return the encodings of texts."""
        found, longest = self.tokenizer.encode_batch(list(texts)), self.settings["longest"]
        for text, one in zip(texts, found):
            if len(one) > longest:
                print(f"a line of {len(one):,} tokens is cut: {text[:40]!r}...", file=sys.stderr)
                one.truncate(longest)
        return list(found)

    def start(self, lines: int) -> dict[str, Array]:
        """Return the state in which so many lines begin."""
        state = {name: np.zeros((shape[0], lines, shape[2]), np.float32) for name, shape in self.sizes.items()}
        for name, values in self.settings["start"].items():
            state[name] += np.array(values, np.float32)[:, None]
        return state

    def step(self, tokens: Array, state: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Read tokens (B, T); return log-probabilities (B, T, V) of what follows each, and the next state."""
        log_probs, *after = self.model.run(None, {"tokens": tokens, **state})
        return log_probs, dict(zip(self.sizes, after))

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        none = {"log_prob": None, "perplexity": None, "bits_per_character": None, "tokens": 0}
        found: list[dict[str, Any]] = [{**none} for _ in texts]
        rows = [encoding.ids for encoding in self.encode(texts)]
        kept = sorted((number for number, row in enumerate(rows) if row), key=lambda number: -len(rows[number]))
        for first in range(0, len(kept), LINES):
            numbers = kept[first : first + LINES]
            for number, total in zip(numbers, self.totals([rows[number] for number in numbers]).tolist()):
                size, bits = len(rows[number]) + 1, -total / math.log(2) / (len(texts[number]) + 1)
                shown = {"log_prob": total, "perplexity": math.exp(min(-total / size, 700.0))}
                found[number] = {**shown, "bits_per_character": bits, "tokens": size}
        return found

    def totals(self, rows: list[list[int]]) -> Array:
        """Return the log-probability of each row of ids and its end, the longest first."""
        lengths = np.array([len(row) + 1 for row in rows])
        tokens = np.full((len(rows), lengths[0] + 1), PAD, np.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row) + 2] = [EOS, *row, EOS]
        total, state, first = np.zeros(len(rows)), self.start(len(rows)), 0
        while first < lengths[0]:
            live = int((lengths > first).sum())
            state = {name: part[:, :live] for name, part in state.items()}
            last = min(first + max(1, VALUES // (live * self.size)), int(lengths[0]))
            log_probs, state = self.step(tokens[:live, first:last], state)
            values = np.take_along_axis(log_probs, tokens[:live, first + 1 : last + 1, None], 2)[:, :, 0]
            inside = np.arange(first, last) < lengths[:live, None]
            total[:live] += np.where(inside, values, 0.0).sum(1, dtype=np.float64)
            first = last
        return total

    def continued(self, texts: Sequence[str], **how: Any) -> list[dict[str, Any]]:
        """Continue each text, up to its line end; see `draw` for how, with `max_length` and `seed`."""
        found = []
        for first in range(0, len(texts), LINES):
            found += self.continue_batch(texts[first : first + LINES], **how)
        return found

    def continue_batch(self, texts: Sequence[str], max_length: int, seed: int, **how: Any) -> list[dict[str, Any]]:
        """See `continued`."""
        encodings = self.encode(texts)
        prompts = [encoding.ids for encoding in encodings]
        ids: list[list[int]] = [[] for _ in texts]
        log_probs: list[list[float]] = [[] for _ in texts]
        random = [np.random.default_rng([seed, self.drawn + number]) for number in range(len(texts))]
        self.drawn += len(texts)
        live, state, last, time = np.arange(len(texts)), self.start(len(texts)), np.full(len(texts), EOS), 0
        ended = set()
        while live.size:
            scores, state = self.step(last[:, None], state)
            allowed = scores[:, 0].copy()
            allowed[:, [PAD, UNK, BOS]] = -np.inf
            uniform = np.array([0.0 if time < len(prompts[row]) else random[row].random() for row in live])
            last, going = draw(allowed, uniform, **how), np.ones(len(live), bool)
            for place, row in enumerate(live.tolist()):
                if time < len(prompts[row]):
                    last[place] = prompts[row][time]
                elif len(ids[row]) >= max_length and last[place] != EOS:
                    going[place] = False
                else:
                    log_probs[row].append(float(scores[place, 0, last[place]]))
                    going[place] = last[place] != EOS
                    ended |= set() if going[place] else {row}
                    ids[row] += [int(last[place])] * bool(going[place])
            live, last, time = live[going], last[going], time + 1
            state = {name: part[:, going] for name, part in state.items()}
        parts = zip(range(len(texts)), texts, encodings, ids, log_probs)
        return [self.written(text, one, row, values, number in ended) for number, text, one, row, values in parts]
