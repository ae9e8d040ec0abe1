"""Find slots and the intent of each line: python predict.py [FILE] [--format text|jsonl] [--tokens]"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from exported import EOS, PAD, UNK, Array, Exported, answer, batches, cut, one_line, pad, parser

Place = tuple[int, int]  # of a token in its text: its first character, and the one behind it


class Predictor:
    """The model in a folder: a list of texts -> [{"text", "intent", "slots", "tokens", "tags"}, ...].

    A list of tokens instead of a text is tagged as it is.
    """

    def __init__(self, folder: str | Path = "") -> None:
        exported = Exported(folder)
        self.settings, (self.model,) = exported.settings, exported.graphs
        self.tokenizer, self.labels = exported.tokenizer(), exported.json("labels.json")
        spelled = self.settings["characters"]
        self.letters = exported.tokenizer("tokenizer.characters.json") if spelled else None
        # Of tags: the scores of a first and of a last one, then (from, to) of one after another; -inf: never.
        _, crf = exported.array("crf.npy").astype(float)
        self.start, self.end, self.transitions = crf[0], crf[1], crf[2:]

    def __call__(self, texts: Sequence[str | list[str]]) -> list[dict[str, Any]]:
        whole = [text if isinstance(text, str) else " ".join(text) for text in texts]
        places = [self.places(text) if isinstance(text, str) else places_of(text) for text in texts]
        rows = [[text[start:end] for start, end in where] for text, where in zip(whole, places)]
        none: dict[str, Any] = {"intent": None, "slots": [], "tokens": [], "tags": []}
        found = [{"text": text, **none} for text in whole]
        kept = [number for number, row in enumerate(rows) if row]
        for batch in batches([rows[number] for number in kept]):
            numbers = [kept[place] for place in batch]
            for number, tags, intent in zip(numbers, *self.tag([rows[number] for number in numbers])):
                slots = slots_of(tags, places[number], whole[number])
                found[number] |= {"intent": intent, "slots": slots, "tokens": rows[number], "tags": tags}
        return found

    def tag(self, rows: list[list[str]]) -> tuple[list[list[str]], list[str | None]]:
        """Tag sentences, each a list of tokens: the tags of each and its intent."""
        distinct = list(dict.fromkeys(word for row in rows for word in row))
        place = {word: number for number, word in enumerate(distinct)}
        words, lengths = pad([[place[word] for word in row] for row in rows], len(distinct)), lengths_of(rows)
        ids = np.array([*map(self.word_id, distinct), PAD])[words]
        inputs = {"ids": ids, "lengths": lengths}
        if self.letters is not None:
            short = [word[: self.settings["longest_word"]] for word in distinct]
            spelled = [encoding.ids for encoding in self.letters.encode_batch_fast(short)]
            inputs |= {"letters": pad(spelled), "letter_counts": lengths_of(spelled)}
            inputs["words"] = words % len(distinct)  # padding: any word
        scores, *classes = self.model.run(None, inputs)
        paths = self.best_paths(scores.astype(float), lengths)
        tags = [[self.labels["tags"][tag] for tag in path[:length]] for path, length in zip(paths.tolist(), lengths)]
        best: list[int] = classes[0].argmax(1).tolist() if classes else []
        return tags, [self.labels["intents"][number] for number in best] or [None] * len(rows)

    def best_paths(self, scores: Array, lengths: Array) -> Array:
        """Find the most probable sequences of tags (Viterbi 1967): scores (B, T, K) -> (B, T), anything on padding."""
        steps = [self.start + scores[:, 0]]
        for time in range(1, scores.shape[1]):
            moved = (steps[-1][:, :, None] + self.transitions).max(1) + scores[:, time]
            steps.append(np.where((time < lengths)[:, None], moved, steps[-1]))
        path = [(steps[-1] + self.end).argmax(1)]
        for time in range(len(steps) - 1, 0, -1):
            before = (steps[time - 1] + self.transitions.T[path[-1]]).argmax(1)
            path.append(np.where(time < lengths, before, path[-1]))
        return np.stack(path[::-1], 1)

    def word_id(self, word: str) -> int:
        """Return the id of a word that is a token already: normalised, and then looked up as it stands.

        A marked vocabulary has a word without mark, or else the mark before it.
        """
        if self.tokenizer.normalizer is not None:
            word = self.tokenizer.normalizer.normalize_str(word)
        forms = [word]
        if self.settings["mark_joined"]:
            word = word.removeprefix("\t")
            forms = [word, f"￭{word}"] if word else []
        numbers = (self.tokenizer.token_to_id(form) for form in forms)
        return next((number for number in numbers if number is not None and number > EOS), UNK)

    def places(self, text: str) -> list[Place]:
        """Return where the tokens of a text stand."""
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        limits = [start for start, _ in offsets[1:]] + [len(text)]
        found = [(start, whole_end(text, start, end, limit)) for (start, end), limit in zip(offsets, limits)]
        kept: list[Place] = cut(found, self.settings["longest"], text)
        return kept


def lengths_of(rows: Sequence[Sequence[Any]]) -> Array:
    """Return the lengths of rows."""
    return np.array([len(row) for row in rows])


def places_of(tokens: list[str]) -> list[Place]:
    """Return where tokens stand in the text that they make with a space between each two."""
    ends = np.cumsum([len(token) + 1 for token in tokens]).tolist()
    return [(end - 1 - len(token), end - 1) for token, end in zip(tokens, ends)]


def whole_end(text: str, start: int, end: int, limit: int) -> int:
    """Return the end of a token with the marks behind it: of characters that normalising joins, or drops, the library
    counts the first."""
    # As in seqkit.text.tokenizer, which is not there where this file runs; a test holds both equal.
    while start < end < limit:
        before = text[max(start, end - 2) : end]
        joined = len(unicodedata.normalize("NFC", before + text[end])) == len(unicodedata.normalize("NFC", before))
        if not joined and not unicodedata.combining(text[end]):
            break
        end += 1
    return end


def slots_of(tags: list[str], places: list[Place], text: str) -> list[dict[str, Any]]:
    """Return the slots of a sentence: an I-x that follows neither B-x nor I-x begins one."""
    slots: list[dict[str, Any]] = []
    last = "O"
    for tag, (start, end) in zip(tags, places):
        if tag.startswith("I-") and last != "O" and last[2:] == tag[2:]:
            slots[-1] |= {"text": text[slots[-1]["start"] : end], "end": end}
        elif tag != "O":
            slots.append({"type": tag[2:], "text": text[start:end], "start": start, "end": end})
        last = tag
    return slots


def bracketed(found: dict[str, Any]) -> str:
    """Return a text with its slots in brackets, and the intent before it."""
    text, slots = found["text"], found["slots"]
    starts = [0, *(slot["end"] for slot in slots)]
    parts = [f"{text[start : slot['start']]}[{slot['type']} {slot['text']}]" for start, slot in zip(starts, slots)]
    intent = "" if found["intent"] is None else f"{found['intent']}: "
    return one_line("".join([intent, *parts, text[starts[-1] :]]))


def read_tokens(line: str) -> list[str]:
    """Return the tokens in a line like `{"tokens": ["to", "Rome"]}`."""
    if not line.strip():
        return []
    row = json.loads(line)
    tokens = row.get("tokens") if isinstance(row, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, str) and token.strip() for token in tokens):
        raise ValueError('expected a line like {"tokens": ["to", "Rome"]}, without blank tokens')
    "".join(tokens).encode()  # half of a surrogate pair is an error
    return tokens


def main() -> None:
    """Read the command line, and answer each line."""
    arguments = parser("Find slots and the intent of each line.")
    arguments.add_argument("--tokens", action="store_true", help='lines are like {"tokens": ["to", "Rome"]}')
    options = arguments.parse_args()

    def row(found: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in found.items() if name != "text"}

    answer(options, Predictor, bracketed, row, read_tokens if options.tokens else str)


if __name__ == "__main__":
    main()
