"""Score each line, or continue it: python predict.py [FILE] [--sample] [--format text|jsonl]"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from exported import BOS, EOS, OWN, PAD, UNK, Array, Exported, answer, batches, cut, join_tokens, pad, parser, rounded

LINES, VALUES = 64, 1 << 22  # that go through the model together, and log-probabilities that come out


class Predictor:
    """The model in a folder: a list of texts -> [{"log_prob": ..., "perplexity": ..., ...}, ...]."""

    def __init__(self, folder: str | Path = "") -> None:
        exported = Exported(folder)
        self.settings, (self.model,) = exported.settings, exported.graphs
        self.tokenizer = exported.tokenizer()
        self.size = self.tokenizer.get_vocab_size()
        # A graph lacks the parts of the state that it does not read.
        self.sizes = {one.name: one.shape for one in self.model.get_inputs() if one.name != "tokens"}
        self.after = [one.name.removeprefix("next_") for one in self.model.get_outputs()[1:]]

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Return the encodings of texts."""
        found = self.tokenizer.encode_batch(list(texts))
        for text, one in zip(texts, found):
            one.truncate(len(cut(one.ids, self.settings["longest"], text, "line")))
        return list(found)

    def start(self, lines: int) -> dict[str, Array]:
        """Return the state in which a number of lines begin."""
        state = {name: np.zeros((shape[0], lines, shape[2]), np.float32) for name, shape in self.sizes.items()}
        for name in state.keys() & self.settings["start"].keys():
            state[name] += np.array(self.settings["start"][name], np.float32)[:, None]
        return state

    def step(self, tokens: Array, state: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Read tokens (B, T); return log-probabilities (B, T, V) of what follows each, and the next state."""
        log_probs, *after = self.model.run(None, {"tokens": tokens, **state})
        return log_probs, {name: part for name, part in zip(self.after, after) if name in self.sizes}

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        none = {"log_prob": None, "perplexity": None, "bits_per_character": None, "tokens": 0}
        found: list[dict[str, Any]] = [none for _ in texts]
        rows = [encoding.ids for encoding in self.encode(texts)]
        kept = [number for number, row in enumerate(rows) if row]
        for batch in batches([rows[number] for number in kept], LINES, sys.maxsize):
            numbers = [kept[place] for place in batch]
            for number, total in zip(numbers, self.totals([rows[number] for number in numbers]).tolist()):
                size, bits = len(rows[number]) + 1, -total / math.log(2) / (len(texts[number]) + 1)
                shown = {"log_prob": total, "perplexity": math.exp(min(-total / size, 700.0))}
                found[number] = {**shown, "bits_per_character": bits, "tokens": size}
        return found

    def totals(self, rows: list[list[int]]) -> Array:
        """Return the log-probability of each row of ids and its end, the longest first."""
        lengths, tokens = np.array([len(row) + 1 for row in rows]), pad([[EOS, *row, EOS] for row in rows])
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

    def continued(self, texts: Sequence[str], random: Any, max_length: int, **how: Any) -> list[dict[str, Any]]:
        """Continue each text up to its line end, by numbers of a generator; see `draw` for how."""
        found = []
        for first in range(0, len(texts), LINES):
            some = texts[first : first + LINES]
            encodings = self.encode(some)
            prompts = [encoding.ids for encoding in encodings]
            for text, one, drawn in zip(some, encodings, self.draws(prompts, random, max_length, **how)):
                found.append(self.written(text, one, *drawn))
        return found

    def draws(
        self, prompts: list[list[int]], random: Any, max_length: int, **how: Any
    ) -> list[tuple[list[int], list[float]]]:
        """Draw what follows each prompt: ids, and their log-probabilities, one more where the line ends."""
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
        live, last, state, time = np.arange(len(prompts)), np.full(len(prompts), EOS), self.start(len(prompts)), 0
        while live.size:
            scores, state = self.step(last[:, None], state)
            allowed = scores[:, 0].copy()
            allowed[:, [PAD, UNK, BOS]] = -np.inf
            last, going = draw(allowed, random.random(len(live)), **how), np.ones(len(live), bool)
            for place, row in enumerate(live.tolist()):
                if time < len(prompts[row]):
                    last[place] = prompts[row][time]
                    continue
                ids, log_probs = found[row]
                going[place] = last[place] != EOS and len(ids) < max_length
                if last[place] == EOS or going[place]:
                    log_probs.append(float(scores[place, 0, last[place]]))
                    ids += [int(last[place])] * bool(going[place])
            live, last, time = live[going], last[going], time + 1
            state = {name: part[:, going] for name, part in state.items()}
        return found

    def written(self, text: str, encoding: Any, ids: list[int], log_probs: list[float]) -> dict[str, Any]:
        """Return a continuation as it is shown."""
        how, tokens = self.settings["text"], [str(self.tokenizer.id_to_token(number)) for number in ids]
        pieces = []
        for token, (start, end) in zip(encoding.tokens, encoding.offsets):
            piece = text[start:end].replace(" ", "▁") if how["spaces"] else text[start:end]
            if how["marked"]:
                joined = start > 0 and not (text[start - 1].isspace() and text[start - 1] not in "\x1c\x1d\x1e\x1f")
                piece = "￭" * joined + "".join(OWN.get(character, character) for character in piece)
            alone = token == "▁" if how["spaces"] else token == "￭" and how["marked"]
            pieces.append(token if alone else piece)
        shown = {"text": join_tokens([*pieces, *tokens], self.tokenizer, how["words"]), "tokens": tokens}
        return {**shown, "log_probs": log_probs, "finished": len(log_probs) > len(ids)}


def draw(log_probs: Array, uniform: Array, temperature: float, top_k: int, top_p: float) -> Array:
    """Draw a token of each row of log-probabilities (B, V) by numbers (B,) in [0, 1): among the `top_k` most probable
    (0: all), and of these among the fewest that hold the share `top_p`."""
    ids = np.broadcast_to(np.arange(log_probs.shape[1]), log_probs.shape)
    if top_k or top_p < 1:
        ids = np.argsort(-log_probs, 1)[:, : top_k or None]
    scores = np.take_along_axis(log_probs, ids, 1).astype(np.float64) / temperature
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    weights *= weights.cumsum(1) - weights < top_p
    sums = weights.cumsum(1)
    place = (sums <= (uniform * sums[:, -1])[:, None]).sum(1)
    return np.take_along_axis(ids, np.minimum(place, ids.shape[1] - 1)[:, None], 1)[:, 0]


def text(found: dict[str, Any]) -> str:
    """Return what was found in a line as text."""
    if "text" in found:
        return str(found["text"])
    return "" if found["log_prob"] is None else f"{found['log_prob']:.4f}\t{found['perplexity']:.4f}"


def main() -> None:
    """Read the command line, and answer each line."""
    arguments = parser("Score each line (log-probability and perplexity), or continue it.")
    arguments.add_argument("--sample", action="store_true", help="continue each line; a blank one starts from nothing")
    arguments.add_argument("--temperature", type=float, default=1.0, help="below 1 is safer, above 1 wilder")
    arguments.add_argument("--top-k", type=int, default=0, help="among the K most probable tokens; 0: all, 1: greedy")
    arguments.add_argument("--top-p", type=float, default=1.0, help="among the fewest that hold this share")
    arguments.add_argument("--max-length", type=int, default=100, help="most tokens that follow")
    arguments.add_argument("--seed", type=int, help="of sampling; by default the run's own")
    options = arguments.parse_args()
    how = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "max_length")}
    changed = options.seed is not None or any(how[name] != arguments.get_default(name) for name in how)
    if changed and not options.sample:
        arguments.error("temperature, top-k, top-p, max-length and seed are for sampling: give --sample too")
    if not (0 < options.temperature < math.inf and 0 < options.top_p <= 1 and options.top_k >= 0 < options.max_length):
        arguments.error("expected temperature > 0, 0 < top-p <= 1, top-k >= 0 and max-length >= 1")
    if options.seed is not None and options.seed < 0:
        arguments.error(f"seed: must be at least 0, got {options.seed}")

    def make() -> Callable[[Sequence[str]], list[dict[str, Any]]]:
        predict = Predictor()
        random = np.random.default_rng(predict.settings["seed"] if options.seed is None else options.seed)
        return (lambda texts: predict.continued(texts, random, **how)) if options.sample else predict

    answer(options, make, text, rounded)


if __name__ == "__main__":
    main()
