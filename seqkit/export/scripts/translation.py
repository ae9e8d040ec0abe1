"""Translate each line: python predict.py [FILE] [--format text|jsonl]

Needs numpy, onnxruntime and tokenizers; reads what lies beside it. How it searches stands in settings.json under
predict, decoding: beam_size, length_penalty and so on may be changed there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

LONGEST_LINE = 1 << 25  # bytes
UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # JSON allows them, readers of lines do not
UNK, BOS, EOS = 1, 2, 3
NEVER = np.float32(-np.inf)
BLANK: dict[str, Any] = {"translation": "", "score": None, "finished": True, "tokens": [], "log_probs": []}
Array = NDArray[Any]
Tree = dict[str, NDArray[Any]]
OWN = {"￮": "￮0", "￭": "￮1", " ": "￮2"}  # how a marked vocabulary writes characters that mean something in it
# Words without marks that stand close to the one before, to the one after, or to both; Chinese characters.
LEFT = re.compile(r"[.,:;!?)\]}%…»“”’']+|n['’]t|['’](?:s|re|ve|ll|d|m)", re.I)
RIGHT, BOTH = re.compile(r"[(\[{$€£#«„]+"), re.compile(r"[-/]")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class Predictor:
    """The model in a folder: a list of texts -> [{"translation": ..., "score": ..., ...}, ...]."""

    def __init__(self, folder: str | Path = "") -> None:
        folder = Path(folder or Path(__file__).parent)
        self.settings, self.encoder, self.decoder = load(folder)
        self.source, self.target = (
            Tokenizer.from_file(str(folder / f"tokenizer.{side}.json")) for side in ("source", "target")
        )
        self.reads, self.gives = ([one.name for one in run.get_outputs()] for run in (self.encoder, self.decoder))
        self.takes = [one.name for one in self.decoder.get_inputs()]

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        found = [{**BLANK} for _ in texts]
        kept = [number for number, text in enumerate(texts) if text.strip()]  # a blank text has a blank translation
        encodings, longest = self.source.encode_batch([texts[number] for number in kept]), self.settings["longest"]
        for number, one in zip(kept, encodings):
            if len(one) > longest:
                print(f"a text of {len(one):,} tokens is cut: {texts[number][:40]!r}...", file=sys.stderr)
        order = sorted(range(len(kept)), key=lambda place: -len(encodings[place]))
        while order:
            size = min(64, max(1, 6400 // max(1, len(encodings[order[0]]))))
            batch, order = order[:size], order[size:]
            for place, best in zip(batch, Beam(self, [encodings[place].ids[:longest] for place in batch]).run()):
                found[kept[place]] = self.written(texts[kept[place]], encodings[place], best)
        return found

    def read(self, rows: list[list[int]], lengths: Array) -> tuple[Tree, Tree]:
        """Rows of token ids -> what the decoder starts from and what it reads, by name, a row for each sentence."""
        tokens = np.zeros((len(rows), max(1, lengths.max())), np.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = row
        parts = dict(zip(self.reads, self.encoder.run(None, {"tokens": tokens, "lengths": lengths})))
        return {name: parts.pop(name) for name in self.reads if f"next_{name}" in self.gives}, parts

    def step(self, last: Array, state: Tree, memory: Tree) -> tuple[Array, Tree, Any]:
        """The last tokens (b, J) -> log-probabilities (b, J, V) of the next ones, the new state, attention."""
        inputs = {"tokens": last, **state, **memory}
        parts = dict(zip(self.gives, self.decoder.run(None, {name: inputs[name] for name in self.takes})))
        return parts["log_probs"], {name: parts[f"next_{name}"] for name in state}, parts.get("attention")

    def written(self, text: str, encoding: Any, best: Best) -> dict[str, Any]:
        """A translation as it is shown."""
        tokens, words = [str(self.target.id_to_token(number)) for number in best.ids], self.settings["target"]["words"]
        for place, at in enumerate(best.looked):
            if best.ids[place] == UNK and at >= 0:
                tokens[place] = self.copied(text, encoding, at)
        joined = self.target.decoder.decode(tokens) if words is None else join_words(tokens, **words)
        shown = {"translation": " ".join(joined.splitlines()), "score": best.score, "finished": best.finished}
        return {**shown, "tokens": tokens, "log_probs": best.log_probs}

    def copied(self, text: str, encoding: Any, at: int) -> str:
        """A stretch of the source as a token of the target."""
        source, marked, token = self.settings["source"], self.settings["target"]["marked"], encoding.tokens[at]
        piece = "" if source["marked"] and token == "￭" else text[slice(*encoding.offsets[at])]
        if source["spaces"]:
            piece = " " if token == "▁" else piece
            piece = piece.replace("▁", " ").strip() if marked else piece.replace(" ", "▁")
        return "".join(OWN.get(character, character) for character in piece) if marked else piece


class Best(NamedTuple):
    """The best translation of a sentence: ids, and of each its log-probability (last that of <eos>, where it is
    finished) and the place of the source with the most attention, -1: none."""

    finished: bool = False
    score: float = -np.inf
    ids: list[int] = []
    log_probs: list[float] = []
    looked: list[int] = []


class Beam:
    """The search for the translations of a batch; a beam of 1 is greedy decoding."""

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
        banned = [0, BOS, EOS] + [UNK] * (not self.rules["allow_unknown"])
        last = np.full((len(self.live), 1), BOS, np.int64)
        while self.live.size:
            log_probs, self.state, attention = self.model.step(last, self.state, self.memory)
            end = log_probs[:, :, EOS].copy()
            log_probs[:, :, banned] = NEVER
            short = (self.past.shape[2] < self.shortest[self.live])[:, None]
            for size in self.rules["no_repeat_ngram"]:
                ban_repeats(log_probs, self.past[..., 0], size)
                short = short & (log_probs.max(2) > NEVER)  # where nothing else is allowed, it may end
            scores, parents, last = continuations(log_probs, self.sums, self.rules["beam_size"])
            covered = self.covered + attention if self.rules["coverage_penalty"] else self.covered
            done = self.collect(np.where(short, NEVER, self.sums + end), end, scores, covered)
            slots = np.arange(len(done))[:, None]
            looked = self.looks(attention)[slots, parents] if self.rules["replace_unknown"] else np.full(last.shape, -1)
            new = np.stack([last, log_probs[slots, parents, last], looked], 2)[:, :, None]
            if self.rules["beam_size"] > 1:
                self.past, covered = self.past[slots, parents], covered[slots, parents]
                self.state = {name: part[slots, parents] for name, part in self.state.items()}
            self.past = np.concatenate([self.past, new], 2)
            self.covered, self.sums = covered, np.where(done[:, None], NEVER, scores)
            if done.sum() >= len(done) / 8:  # a copy of the memory is not free
                keep = ~done
                self.live, self.sums, self.covered = self.live[keep], self.sums[keep], self.covered[keep]
                self.past, last = self.past[keep], last[keep]
                self.state = {name: part[keep] for name, part in self.state.items()}
                self.memory = {name: part[keep] for name, part in self.memory.items()}
        if any(best.score == NEVER for best in self.found):
            raise ValueError("this model gives a text no finite score")
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
        hopeless = ~(scores[:, 0] / self.penalty(self.longest[live] + 1) > self.best[live])
        done: Array = hopeless | full | (self.ended[live] >= width)
        return done

    def offer(self, chosen: Array, sums: Array, length: int, covered: Array, end: Array | None) -> None:
        """Keep the best of the hypotheses chosen (b, J); end: log-probabilities of <eos>, None where they are cut."""
        values = sums / self.penalty(length)
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

    def penalty(self, length: Any) -> Any:
        """What the log-probability of so many tokens is divided by."""
        base = (5 + length) / 6 if self.rules["length_penalty_kind"] == "gnmt" else np.maximum(length, 1)
        return np.float32(base ** self.rules["length_penalty"])

    def looks(self, attention: Array) -> Array:
        """The word of the source with the most attention (b, J), -1: there is none."""
        source, place = self.model.settings["source"], np.arange(attention.shape[2])
        words = (place >= source["before"]) & (place < (self.lengths[self.live] - source["after"])[:, None])
        most = np.where(words[:, None], attention, -1).argmax(2)
        return np.where(words.any(1)[:, None], most, -1)


def continuations(log_probs: Array, sums: Array, width: int) -> tuple[Array, Array, Array]:
    """The best of all next tokens (b, J, V): scores (b, K) in falling order, parents and tokens."""
    if width == 1:
        tokens = log_probs.argmax(2)
        return sums + log_probs.max(2), np.zeros_like(tokens), tokens
    totals = (log_probs + sums[:, :, None]).reshape(len(sums), -1)
    best = np.argpartition(totals, -min(width, totals.shape[1]), 1)[:, -width:]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(totals, best, 1), axis=1), 1)
    return np.take_along_axis(totals, best, 1), best // log_probs.shape[2], best % log_probs.shape[2]


def ban_repeats(log_probs: Array, past: Array, size: int) -> None:
    """Set to -inf each token that would complete an n-gram which its hypothesis holds: (b, J, V) by (b, J, steps)."""
    for row, slot in np.ndindex(past.shape[:2]):
        ids = past[row, slot].astype(int).tolist()
        for start in range(len(ids) - size + 1):
            if ids[start : start + size - 1] == ids[len(ids) - size + 1 :]:
                log_probs[row, slot, ids[start + size - 1]] = NEVER


def limits(lengths: Array, rules: dict[str, Any]) -> tuple[Array, Array]:
    """Fewest and most tokens of a translation, by the lengths of the sources."""
    least = np.maximum(rules["min_length"], np.ceil(lengths * rules["min_ratio"] - 1e-9))
    most = np.full(len(lengths), rules["max_length"] or np.inf)
    if rules["max_ratio"] is not None:
        most = np.minimum(most, np.floor(lengths * rules["max_ratio"] + 1e-9))
    most = np.where(most == np.inf, np.maximum(2 * lengths + 20, least), np.maximum(most, 1))
    return np.minimum(least, most), most


def join_words(tokens: list[str], rules: bool, chinese: bool) -> str:
    """Words without marks as a text, by rules for European languages."""
    text, close, quoted, han = "", True, False, False
    for token in tokens:
        quote, was_han = rules and set(token) == {'"'}, han
        han = chinese and bool(HAN.fullmatch(token))
        left = rules and (LEFT.fullmatch(token) or BOTH.fullmatch(token) or (quote and quoted))
        text += token if close or left or (han and was_han) else f" {token}"
        close = rules and bool(RIGHT.fullmatch(token) or BOTH.fullmatch(token) or (quote and not quoted))
        quoted ^= bool(quote)
    return text


def load(folder: Path) -> tuple[dict[str, Any], onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """Return the settings and the two graphs in a folder.

    Raises:
        ValueError: a file is missing or damaged.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # steps are short, and threads would wait
    try:
        settings = json.loads((folder / "settings.json").read_text("utf-8"))
        for name, about in settings["files"].items():
            if (folder / name).stat().st_size != about["bytes"]:
                raise ValueError(f"{name} is damaged")
        paths = [str(folder / name) for name in ("encoder.onnx", "decoder_step.onnx")]
        return settings["predict"], *(onnxruntime.InferenceSession(path, options) for path in paths)
    except Exception as error:  # those of onnxruntime have no common base
        raise ValueError(f"{folder}: {error}; export the run again") from None


def line_groups(source: IO[bytes], read: Callable[[str], Any]) -> Iterator[list[Any]]:
    """Yield the lines of a file, in groups that grow: the first answer comes soon, and a long file goes fast."""
    size, lines = 1, list[Any]()
    for number, raw in enumerate(iter(lambda: source.readline(LONGEST_LINE + 1), b""), 1):
        try:
            if len(raw) > LONGEST_LINE:
                raise ValueError(f"more than {LONGEST_LINE:,} bytes")
            lines.append(read(raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")))
        except (ValueError, RecursionError) as error:
            yield lines
            raise ValueError(f"line {number}: {error}") from None
        if len(lines) >= size:
            yield lines
            size, lines = 1 if source.isatty() else min(2 * size, 2048), []
    yield lines


def answer(file: str | None, make: Callable[[], Any], shown: Callable[[Any], str], read: Callable[[str], Any]) -> None:
    """Print what a predictor finds in each line of a file or of standard input; a mistake ends it with status 2."""
    try:
        with open(file, "rb") if file else sys.stdin.buffer as source:
            predict = make()
            for lines in line_groups(source, read):
                sys.stdout.buffer.write("".join(shown(found) + "\n" for found in predict(lines)).encode())
                sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError) as error:
        print(f"{file or 'standard input'}: {error}" if str(error).startswith("line ") else error, file=sys.stderr)
        sys.exit(2)


def line(found: dict[str, Any], form: str) -> str:
    """Return a prediction as one line."""
    if form == "text":
        return str(found["translation"])
    rounded = [round(value, 6) for value in found["log_probs"]]
    out = json.dumps({**found, "log_probs": rounded}, ensure_ascii=False)
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", out)


def main() -> None:
    """Read the command line, and answer each line."""
    parser = argparse.ArgumentParser(description="Translate each line.")
    parser.add_argument("file", nargs="?", help="one text a line; without it standard input")
    parser.add_argument("--format", choices=["text", "jsonl"], default="text")
    options = parser.parse_args()
    answer(options.file, Predictor, lambda found: line(found, options.format), str)


if __name__ == "__main__":
    main()
