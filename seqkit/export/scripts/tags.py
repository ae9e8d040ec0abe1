"""Find slots and the intent of each line: python predict.py [FILE] [--format text|jsonl] [--tokens]

Needs numpy, onnxruntime and tokenizers; reads what lies beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

LONGEST_LINE = 1 << 25  # bytes
TOKENS = 8192  # in a batch, padding included
UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # JSON allows them, readers of lines do not

Place = tuple[int, int]


class Predictor:
    """The model in a folder: a list of texts -> [{"text", "intent", "slots", "tokens", "tags"}, ...].

    A list of tokens instead of a text is tagged as it is.
    """

    def __init__(self, folder: str | Path = "") -> None:
        folder = Path(folder or Path(__file__).parent)
        self.settings, self.model = load(folder)
        self.labels = json.loads((folder / "labels.json").read_text("utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        letters = folder / "tokenizer.characters.json"
        self.letters = Tokenizer.from_file(str(letters)) if letters.exists() else None
        words = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])[4:]  # not <pad>, <unk>, ...
        self.numbers = dict(words)
        if self.settings["mark_joined"]:
            joined = {word[1:]: number for word, number in words if word.startswith("￭") and word != "￭"}
            self.numbers = joined | self.numbers
        with np.load(folder / "crf.npz") as crf:
            self.transitions, self.start, self.end = (
                crf[name].astype(float) for name in ("transitions", "start", "end")
            )
            self.transitions[crf["forbidden_transitions"]] = -np.inf
            self.start[crf["forbidden_start"]] = -np.inf

    def __call__(self, texts: Sequence[str | list[str]]) -> list[dict[str, Any]]:
        whole = [text if isinstance(text, str) else " ".join(text) for text in texts]
        places = [self.places(text) if isinstance(text, str) else places_of(text) for text in texts]
        found: list[dict[str, Any]] = [
            {"text": text, "intent": None, "slots": [], "tokens": [], "tags": []} for text in whole
        ]
        kept = [number for number, where in enumerate(places) if where]
        rows = [[whole[number][start:end] for start, end in places[number]] for number in kept]
        for batch in batches([len(row) for row in rows]):
            tags, intents = self.tag([rows[number] for number in batch])
            for number, best, intent in zip(batch, tags, intents):
                place = kept[number]
                slots = slots_of(best, places[place], whole[place])
                found[place] |= {"intent": intent, "slots": slots, "tokens": rows[number], "tags": best}
        return found

    def places(self, text: str) -> list[Place]:
        """Return where the tokens of a text stand: from the first character to behind the last one."""
        found = self.tokenizer.encode(text, add_special_tokens=False).offsets
        limits = [start for start, _ in found[1:]] + [len(text)]
        whole = [(start, whole_end(text, start, end, limit)) for (start, end), limit in zip(found, limits)]
        if len(whole) > self.settings["longest"]:
            print(f"a text of {len(whole):,} tokens is cut: {text[:40]!r}...", file=sys.stderr)
        return whole[: self.settings["longest"]]

    def tag(self, rows: list[list[str]]) -> tuple[list[list[str]], list[str | None]]:
        """Tag sentences, each a list of tokens: the tags of each and its intent."""
        distinct = list(dict.fromkeys(word for row in rows for word in row))
        place = {word: number for number, word in enumerate(distinct)}
        words = padded([[place[word] for word in row] for row in rows], 0)
        lengths = np.array([len(row) for row in rows])
        valid = np.arange(words.shape[1]) < lengths[:, None]
        ids = np.array(self.lookup(distinct))[words]
        inputs = {"ids": np.where(valid, ids, self.settings["pad_id"]), "lengths": lengths}
        if self.letters is not None:
            cut = [word[: self.settings["longest_word"]] for word in distinct]
            spelled = [encoding.ids for encoding in self.letters.encode_batch_fast(cut)]
            inputs["letters"] = padded(spelled, self.settings["pad_id"])
            inputs |= {"letter_counts": np.array([len(row) for row in spelled]), "words": words}
        scores, *classes = self.model.run(None, inputs)
        paths = self.best_paths(scores.astype(float), lengths)
        tags = [[self.labels["tags"][tag] for tag in path[:length]] for path, length in zip(paths.tolist(), lengths)]
        best: list[int] = classes[0].argmax(1).tolist() if classes else []
        return tags, [self.labels["intents"][number] for number in best] or [None] * len(rows)

    def lookup(self, words: list[str]) -> list[int]:
        """Return the id of each word, normalised and then looked up as it stands."""
        normal = self.tokenizer.normalizer
        written = words if normal is None else [normal.normalize_str(word) for word in words]
        if self.settings["mark_joined"]:
            written = [word.removeprefix("\t") for word in written]
        return [self.numbers.get(word, self.settings["unk_id"]) for word in written]

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


def whole_end(text: str, start: int, end: int, limit: int) -> int:
    """Return the end of a token with the marks behind it: of characters that join the library counts the first."""
    while start < end < limit:
        before = text[max(start, end - 2) : end]
        joined = len(unicodedata.normalize("NFC", before + text[end])) == len(unicodedata.normalize("NFC", before))
        if not joined and not unicodedata.combining(text[end]):
            break
        end += 1
    return end


def places_of(tokens: list[str]) -> list[Place]:
    """Return where tokens stand in the text that they make with a space between each two."""
    ends = np.cumsum([len(token) + 1 for token in tokens]).tolist()
    return [(end - 1 - len(token), end - 1) for token, end in zip(tokens, ends)]


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


def load(folder: Path) -> tuple[dict[str, Any], onnxruntime.InferenceSession]:
    """Return the settings and the model in a folder.

    Raises:
        ValueError: a file is missing or damaged.
    """
    try:
        settings = json.loads((folder / "settings.json").read_text("utf-8"))
        for name, about in settings["files"].items():
            if (folder / name).stat().st_size != about["bytes"]:
                raise ValueError(f"{name} is damaged")
        return settings["predict"], onnxruntime.InferenceSession(str(folder / "model.onnx"))
    except Exception as error:  # those of onnxruntime have no common base
        raise ValueError(f"{folder}: {error}; export the run again") from None


def padded(rows: list[list[int]], pad: int) -> NDArray[np.int64]:
    """Return rows as one rectangle of at least one column."""
    ids = np.full((len(rows), max(1, *map(len, rows))), pad, np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids


def batches(lengths: list[int]) -> Iterator[list[int]]:
    """Yield the numbers of sequences that go through the model together, the longest first."""
    batch: list[int] = []
    longest = 0
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and longest * (len(batch) + 1) > TOKENS:
            yield batch
            batch = []
        longest = longest if batch else max(1, lengths[number])
        batch.append(number)
    if batch:
        yield batch


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


def line(found: dict[str, Any], form: str) -> str:
    """Return what was found in a text as one line."""
    text, slots = found["text"], found["slots"]
    if form == "jsonl":
        out = json.dumps({name: value for name, value in found.items() if name != "text"}, ensure_ascii=False)
        return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", out)
    starts = [0, *(slot["end"] for slot in slots)]
    parts = [f"{text[start : slot['start']]}[{slot['type']} {slot['text']}]" for start, slot in zip(starts, slots)]
    intent = "" if found["intent"] is None else f"{found['intent']}: "
    return " ".join("".join([intent, *parts, text[starts[-1] :]]).splitlines())


def main() -> None:
    """Read the command line, and answer each line."""
    parser = argparse.ArgumentParser(description="Find slots and the intent of each line.")
    parser.add_argument("file", nargs="?", help="one text a line; without it standard input")
    parser.add_argument("--format", choices=["text", "jsonl"], default="text")
    parser.add_argument("--tokens", action="store_true", help='lines are like {"tokens": ["to", "Rome"]}')
    options = parser.parse_args()
    read = read_tokens if options.tokens else str
    answer(options.file, Predictor, lambda found: line(found, options.format), read)


if __name__ == "__main__":
    main()
