"""Translate each line: python predict.py [FILE] [--format text|jsonl]

How it searches stands in settings.json under predict, decoding: beam_size, length_penalty and so on may be changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from exported import BOS, EOS, OWN, PAD, UNK, Array, Exported, answer, batches, cut, join_tokens, pad, parser, rounded

NEVER = np.float32(-np.inf)


class Predictor:
    """The model in a folder: a list of texts -> [{"translation": ..., "score": ..., ...}, ...]."""

    def __init__(self, folder: str | Path = "") -> None:
        exported = Exported(folder)
        self.settings, (self.encoder, self.decoder) = exported.settings, exported.graphs
        self.source, self.target = (exported.tokenizer(f"tokenizer.{side}.json") for side in ("source", "target"))
        # A step reads the last tokens, the state, which it changes, and the memory, which stays.
        self.names = ["tokens", *(one.name for one in self.encoder.get_outputs())]
        self.takes = {one.name for one in self.decoder.get_inputs()}
        self.parts = sum(one.name.startswith("next_") for one in self.decoder.get_outputs())
        self.banned = [PAD, BOS, EOS] + [UNK] * (not self.settings["decoding"]["allow_unknown"])

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        none: dict[str, Any] = {"translation": "", "score": None, "finished": True, "tokens": [], "log_probs": []}
        found = [none for _ in texts]
        kept = [number for number, text in enumerate(texts) if text.strip()]  # a blank text has a blank translation
        encodings = self.source.encode_batch([texts[number] for number in kept])
        rows = [cut(one.ids, self.settings["longest"], texts[number]) for number, one in zip(kept, encodings)]
        rules = self.settings["decoding"]
        for batch in batches(rows, 64, 6400):
            some = [rows[place] for place in batch]
            one = rules["beam_size"] == 1 and not rules["coverage_penalty"]
            for place, best in zip(batch, greedy(self, some) if one else Beam(self, some).run()):
                if best.score == NEVER:
                    raise ValueError("this model gives a text no finite score")
                found[kept[place]] = self.written(texts[kept[place]], encodings[place], best)
        return found

    def read(self, rows: list[list[int]], lengths: Array) -> tuple[list[Array], list[Array]]:
        """Read rows of token ids: return the first state and the memory, each part with a row for each sentence."""
        parts = self.encoder.run(None, {"tokens": pad(rows), "lengths": lengths})
        return parts[: self.parts], parts[self.parts :]

    def step(self, last: Array, state: list[Array], memory: list[Array]) -> tuple[Array, list[Array], Any]:
        """Read the last tokens (b, J): return log-probabilities (b, J, V) of the next, the new state, attention."""
        inputs = zip(self.names, (last, *state, *memory))
        log_probs, *parts = self.decoder.run(None, {name: part for name, part in inputs if name in self.takes})
        return log_probs, parts[: self.parts], parts[-1]  # without attention the last part is of the state

    def written(self, text: str, encoding: Any, best: Best) -> dict[str, Any]:
        """Return a translation as it is shown."""
        tokens = [str(self.target.id_to_token(number)) for number in best.ids]
        for place, at in enumerate(best.looked):
            if best.ids[place] == UNK and at >= 0:
                tokens[place] = self.copied(text, encoding, at)
        joined = join_tokens(tokens, self.target, self.settings["target"]["words"])
        shown = {"translation": joined, "score": best.score, "finished": best.finished}
        return {**shown, "tokens": tokens, "log_probs": best.log_probs}

    def copied(self, text: str, encoding: Any, at: int) -> str:
        """Return the source's token at a place, as it stands in the text, as a token of the target."""
        source, marked, token = self.settings["source"], self.settings["target"]["marked"], encoding.tokens[at]
        piece = "" if source["marked"] and token == "￭" else text[slice(*encoding.offsets[at])]
        if source["spaces"]:
            piece = " " if token == "▁" else piece
            piece = piece.replace("▁", " ").strip() if marked else piece.replace(" ", "▁")
        return "".join(OWN.get(character, character) for character in piece) if marked else piece


class Best(NamedTuple):
    """The best translation of a sentence.

    Attributes:
        ids: of its tokens.
        log_probs: of each token, and of <eos> where it is finished.
        looked: of each token the place of the source with the most attention; -1: none.
    """

    finished: bool = False
    score: float = -np.inf
    ids: list[int] = []
    log_probs: list[float] = []
    looked: list[int] = []


def greedy(model: Predictor, rows: list[list[int]]) -> list[Best]:
    """Take the most probable token at each step: what a beam of 1 finds, faster."""
    rules, lengths = model.settings["decoding"], np.array([len(row) for row in rows], np.int64)
    found, time = [Best(False, NEVER, [], [], []) for _ in rows], 0
    shortest, longest = limits(lengths, rules)
    state, memory = model.read(rows, lengths)
    live, sums = np.arange(len(rows)), np.zeros(len(rows), np.float32)
    last = np.full((len(rows), 1), BOS, np.int64)
    while live.size:
        log_probs, state, attention = model.step(last, state, memory)
        scores, end = log_probs[:, 0], log_probs[:, 0, EOS].copy()
        scores[:, model.banned] = NEVER
        short, full = time < shortest[live], time >= longest[live]
        for size in rules["no_repeat_ngram"]:
            ban_repeats(log_probs, [[found[row].ids] for row in live], size)
            short &= scores.max(1) > NEVER  # where nothing else is allowed, it may end
        best = scores.argmax(1)
        new = scores[np.arange(len(live)), best]
        ends, longer = sums + end, sums + new
        stops = ~short & (ends > NEVER) & (ends >= longer)
        cuts = full & ~stops & (sums > NEVER)
        done = stops | full | ~(longer > NEVER)
        looked = np.full_like(best, -1)
        if rules["replace_unknown"]:
            looked = looks(attention, lengths[live], model.settings["source"])[:, 0]
        for place, row in enumerate(live.tolist()):
            if stops[place] or cuts[place]:
                total, length = (ends, time + 1) if stops[place] else (sums, time)
                score = float(total[place] / penalty(length, rules))
                found[row] = found[row]._replace(finished=bool(stops[place]), score=score)
                found[row].log_probs.extend([float(end[place])] * bool(stops[place]))
            elif not done[place]:
                for values, value in zip(found[row][2:], (best[place], new[place], looked[place])):
                    values.append(value.item())
        last, sums, time = best[:, None], np.where(done, NEVER, longer), time + 1
        if done.sum() >= len(done) / 8:  # a copy of the memory is not free
            keep = ~done
            live, last, sums = live[keep], last[keep], sums[keep]
            state, memory = picked(state, keep), picked(memory, keep)
    return found


class Beam:
    """A search that keeps the `beam_size` best hypotheses of each sentence of a batch at each step."""

    def __init__(self, model: Predictor, rows: list[list[int]]) -> None:
        self.model, self.rules, count = model, model.settings["decoding"], len(rows)
        self.lengths, self.live = np.array([len(row) for row in rows], np.int64), np.arange(count)
        self.shortest, self.longest = limits(self.lengths, self.rules)
        self.state, self.memory = model.read(rows, self.lengths)
        # Of each hypothesis (b, J): its log-probability, its attention so far, and of each step the token, its
        # log-probability and where it looked.
        self.sums, self.covered = np.zeros((count, 1), np.float32), np.zeros((count, 1, 1), np.float32)
        self.past: Array = np.zeros((count, 1, 0, 3))
        self.found, self.ended = [Best()] * count, np.zeros(count, np.int64)
        self.best = np.full(count, NEVER)

    def run(self) -> list[Best]:
        """Return the best translation of each sentence."""
        last = np.full((len(self.live), 1), BOS, np.int64)
        while self.live.size:
            log_probs, self.state, attention = self.model.step(last, self.state, self.memory)
            end = log_probs[:, :, EOS].copy()
            log_probs[:, :, self.model.banned] = NEVER
            short = (self.past.shape[2] < self.shortest[self.live])[:, None]
            for size in self.rules["no_repeat_ngram"]:
                ban_repeats(log_probs, self.past[..., 0].astype(int).tolist(), size)
                short = short & (log_probs.max(2) > NEVER)  # where nothing else is allowed, it may end
            scores, parents, last = continuations(log_probs, self.sums, self.rules["beam_size"])
            covered = self.covered + attention if self.rules["coverage_penalty"] else self.covered
            done = self.collect(np.where(short, NEVER, self.sums + end), end, scores, covered)
            slots = np.arange(len(done))[:, None]
            looked = np.full_like(last, -1)
            if self.rules["replace_unknown"]:
                looked = looks(attention, self.lengths[self.live], self.model.settings["source"])[slots, parents]
            new = np.stack([last, log_probs[slots, parents, last], looked], 2)[:, :, None]
            self.past = np.concatenate([self.past[slots, parents], new], 2)
            self.state, self.covered = picked(self.state, (slots, parents)), covered[slots, parents]
            self.sums = np.where(done[:, None], NEVER, scores)
            if done.sum() >= len(done) / 8:  # a copy of the memory is not free
                keep = ~done
                self.live, self.sums, self.covered = self.live[keep], self.sums[keep], self.covered[keep]
                self.past, last = self.past[keep], last[keep]
                self.state, self.memory = picked(self.state, keep), picked(self.memory, keep)
        return self.found

    def collect(self, ends: Array, end: Array, scores: Array, covered: Array) -> Array:
        """Take in the hypotheses that end here, of log-probabilities `ends` (b, J); tell which sentences are done."""
        live, time, width = self.live, self.past.shape[2], self.rules["beam_size"]
        full = self.longest[live] <= time
        stops = (ends > NEVER) & (ends >= scores[:, -1:])
        if stops.any() or scores.shape[1] < width:  # it is complete if <eos>, too, is among the K best
            both = np.sort(np.concatenate([scores, ends], 1), 1)
            stops = (ends > NEVER) & (ends >= both[:, -min(width, both.shape[1]), None])
            self.ended[live] += stops.sum(1)
            self.offer(stops, ends, time + 1, covered, end)
        if full.any():
            self.offer(full[:, None] & ~stops & (self.sums > NEVER), self.sums, time, self.covered, None)
        # What goes on can score no higher than its sum over the greatest penalty.
        hopeless = ~(scores[:, 0] / penalty(self.longest[live] + 1, self.rules) > self.best[live])
        done: Array = hopeless | full | (self.ended[live] >= width)
        return done

    def offer(self, chosen: Array, sums: Array, length: int, covered: Array, end: Array | None) -> None:
        """Keep the best of the hypotheses chosen (b, J); end: log-probabilities of <eos>, None where they are cut."""
        values = sums / penalty(length, self.rules)
        if self.rules["coverage_penalty"]:
            inside = np.arange(covered.shape[2]) < self.lengths[self.live][:, None, None]
            values += (self.rules["coverage_penalty"] * np.log(covered.clip(1e-10, 1)) * inside).sum(2, np.float32)
        values = np.where(chosen, values, NEVER)
        for row in np.flatnonzero(chosen.any(1)):
            slot, place = values[row].argmax(), self.live[row]
            if (end is not None, values[row, slot]) > self.found[place][:2]:
                ids, log_probs, looked = self.past[row, slot].T.tolist()
                log_probs += [] if end is None else [float(end[row, slot])]
                best = Best(end is not None, float(values[row, slot]), [*map(int, ids)], log_probs, [*map(int, looked)])
                self.found[place], self.best[place] = best, NEVER if end is None else values[row, slot]


def penalty(length: Any, rules: dict[str, Any]) -> Any:
    """Return the number that the log-probability of a translation of this length is divided by."""
    base = (5 + length) / 6 if rules["length_penalty_kind"] == "gnmt" else np.maximum(length, 1)
    return np.float32(base ** rules["length_penalty"])


def looks(attention: Array, lengths: Array, source: dict[str, Any]) -> Array:
    """Return the place of the source's word with the most attention (b, J); -1: the source has no word."""
    place = np.arange(attention.shape[2])
    words = (place >= source["before"]) & (place < (lengths - source["after"])[:, None])
    most = np.where(words[:, None], attention, -1).argmax(2)
    return np.where(words.any(1)[:, None], most, -1)


def picked(parts: list[Array], places: Any) -> list[Array]:
    """Return some places of each array."""
    return [part[places] for part in parts]


def continuations(log_probs: Array, sums: Array, width: int) -> tuple[Array, Array, Array]:
    """Return the best of all next tokens (b, J, V): scores (b, K) in falling order, parents and tokens."""
    totals = (log_probs + sums[:, :, None]).reshape(len(sums), -1)
    best = np.argpartition(totals, -min(width, totals.shape[1]), 1)[:, -width:]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(totals, best, 1), axis=1), 1)
    return np.take_along_axis(totals, best, 1), best // log_probs.shape[2], best % log_probs.shape[2]


def ban_repeats(log_probs: Array, past: list[list[list[int]]], size: int) -> None:
    """Set to -inf each token that would complete an n-gram which its hypothesis holds: (b, J, V) by (b, J, steps)."""
    for row, slot in np.ndindex(log_probs.shape[:2]):
        ids = past[row][slot]
        for start in range(len(ids) - size + 1):
            if ids[start : start + size - 1] == ids[len(ids) - size + 1 :]:
                log_probs[row, slot, ids[start + size - 1]] = NEVER


def limits(lengths: Array, rules: dict[str, Any]) -> tuple[Array, Array]:
    """Return the fewest and the most tokens of a translation, by the lengths of the sources."""
    least = np.maximum(rules["min_length"], np.ceil(lengths * rules["min_ratio"] - 1e-9))
    most = np.full(len(lengths), rules["max_length"] or np.inf)
    if rules["max_ratio"] is not None:
        most = np.minimum(most, np.floor(lengths * rules["max_ratio"] + 1e-9))
    most = np.where(most == np.inf, np.maximum(2 * lengths + 20, least), np.maximum(most, 1))
    return np.minimum(least, most), most


def main() -> None:
    """Read the command line, and answer each line."""
    options = parser("Translate each line.").parse_args()

    def row(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "log_probs": rounded(found["log_probs"])}

    answer(options, Predictor, lambda found: str(found["translation"]), row)


if __name__ == "__main__":
    main()
