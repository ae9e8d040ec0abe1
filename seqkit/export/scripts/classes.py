"""Predict a class for each line: python predict.py [FILE] [--format text|jsonl]

Needs numpy, onnxruntime and tokenizers; reads what lies beside it.
"""

from __future__ import annotations

import argparse
import json
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
TOKENS = 8192  # in a batch, padding included
UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # JSON allows them, readers of lines do not


class Predictor:
    """The model in a folder: a list of texts -> [{"label": ..., "probabilities": {...}}, ...]."""

    def __init__(self, folder: str | Path = "") -> None:
        folder = Path(folder or Path(__file__).parent)
        self.settings, self.model = load(folder)
        self.classes = json.loads((folder / "classes.json").read_text("utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"label": None, "probabilities": {}} for _ in texts]
        kept = [number for number, text in enumerate(texts) if text.strip()]  # a blank text has no class
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch_fast([texts[number] for number in kept])]
        for number, row in zip(kept, rows):
            if len(row) > self.settings["longest"]:
                print(f"a text of {len(row):,} tokens is cut: {texts[number][:40]!r}...", file=sys.stderr)
        rows = [row[: self.settings["longest"]] for row in rows]
        for batch in batches([len(row) for row in rows]):
            for number, shares in zip(batch, self.probabilities([rows[number] for number in batch]).tolist()):
                shown = dict(zip(self.classes, shares))
                found[kept[number]] = {"label": max(shown, key=shown.__getitem__), "probabilities": shown}
        return found

    def probabilities(self, rows: list[list[int]]) -> NDArray[np.float32]:
        """Compute the probabilities of the classes: rows of token ids -> (rows, classes)."""
        lengths = np.array([len(row) for row in rows])
        (logits,) = self.model.run(None, {"ids": padded(rows, self.settings["pad_id"]), "lengths": lengths})
        powers = np.exp(logits - logits.max(1, keepdims=True))
        shares: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
        return shares


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


def line(found: dict[str, Any], form: str) -> str:
    """Return a prediction as one line."""
    if form == "text":
        return " ".join((found["label"] or "").splitlines())
    rounded = {name: round(share, 6) for name, share in found["probabilities"].items()}
    out = json.dumps({**found, "probabilities": rounded}, ensure_ascii=False)
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", out)


def main() -> None:
    """Read the command line, and answer each line."""
    parser = argparse.ArgumentParser(description="Predict a class for each line.")
    parser.add_argument("file", nargs="?", help="one text a line; without it standard input")
    parser.add_argument("--format", choices=["text", "jsonl"], default="text")
    options = parser.parse_args()
    answer(options.file, Predictor, lambda found: line(found, options.format), str)


if __name__ == "__main__":
    main()
