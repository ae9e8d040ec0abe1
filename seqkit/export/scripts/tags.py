"""Find slots and the intent of each line: python predict.py [FILE] [--format text|jsonl] [--tokens]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from exported import (
    Exported,
    Place,
    Words,
    answer,
    batches,
    cut,
    one_line,
    padded,
    parser,
    places_in,
    places_of,
    read_tokens,
)
from numpy.typing import NDArray


class Predictor:
    """The model in a folder: a list of texts -> [{"text", "intent", "slots", "tokens", "tags"}, ...].

    A list of tokens instead of a text is tagged as it is.
    """

    def __init__(self, folder: str | Path = "") -> None:
        exported = Exported(folder)
        self.settings, self.model = exported.settings, exported.graphs["model.onnx"]
        self.tokenizer, self.labels = exported.tokenizer(), exported.json("labels.json")
        self.numbers = Words(self.tokenizer, self.settings["mark_joined"])
        letters = "tokenizer.characters.json"
        self.letters = exported.tokenizer(letters) if (exported.folder / letters).exists() else None
        with np.load(exported.folder / "crf.npz", allow_pickle=False) as crf:
            names = ("transitions", "start", "end")
            self.transitions, self.start, self.end = (crf[name].astype(float) for name in names)
            self.transitions[crf["forbidden_transitions"]] = -np.inf
            self.start[crf["forbidden_start"]] = -np.inf

    def __call__(self, texts: Sequence[str | list[str]]) -> list[dict[str, Any]]:
        whole = [text if isinstance(text, str) else " ".join(text) for text in texts]
        places = [self.places(text) if isinstance(text, str) else places_of(text) for text in texts]
        rows = [[text[start:end] for start, end in where] for text, where in zip(whole, places)]
        found: list[dict[str, Any]] = [
            {"text": text, "intent": None, "slots": [], "tokens": [], "tags": []} for text in whole
        ]
        kept = [number for number, row in enumerate(rows) if row]
        for batch in batches([rows[number] for number in kept]):
            numbers = [kept[place] for place in batch]
            for number, tags, intent in zip(numbers, *self.tag([rows[number] for number in numbers])):
                slots = slots_of(tags, places[number], whole[number])
                found[number] |= {"intent": intent, "slots": slots, "tokens": rows[number], "tags": tags}
        return found

    def places(self, text: str) -> list[Place]:
        """Return where the tokens of a text stand."""
        found: list[Place] = cut(places_in(text, self.tokenizer), self.settings["longest"], text)
        return found

    def tag(self, rows: list[list[str]]) -> tuple[list[list[str]], list[str | None]]:
        """Tag sentences, each a list of tokens: the tags of each and its intent."""
        distinct = list(dict.fromkeys(word for row in rows for word in row))
        place = {word: number for number, word in enumerate(distinct)}
        words = padded([[place[word] for word in row] for row in rows], 0)
        lengths = np.array([len(row) for row in rows])
        valid = np.arange(words.shape[1]) < lengths[:, None]
        ids = np.array(self.numbers(distinct))[words]
        inputs = {"ids": np.where(valid, ids, self.settings["pad_id"]), "lengths": lengths}
        if self.letters is not None:
            short = [word[: self.settings["longest_word"]] for word in distinct]
            spelled = [encoding.ids for encoding in self.letters.encode_batch_fast(short)]
            inputs["letters"] = padded(spelled, self.settings["pad_id"])
            inputs |= {"letter_counts": np.array([len(row) for row in spelled]), "words": words}
        scores, *classes = self.model.run(None, inputs)
        paths = self.best_paths(scores.astype(float), lengths)
        tags = [[self.labels["tags"][tag] for tag in path[:length]] for path, length in zip(paths.tolist(), lengths)]
        best: list[int] = classes[0].argmax(1).tolist() if classes else []
        return tags, [self.labels["intents"][number] for number in best] or [None] * len(rows)

    def best_paths(self, scores: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
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
