"""Predict a class for each line: python predict.py [FILE] [--format text|jsonl]

Needs numpy, onnxruntime and tokenizers; reads what lies beside it.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

LONGEST_LINE = 1 << 25  # bytes
TOKENS = 8192  # in a batch, padding included
UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # JSON allows them, readers of lines do not


class Predictor:
    """The model in a folder: a list of texts -> [{"label": ..., "probabilities": {...}}, ...]."""

    def __init__(self, folder=Path(__file__).resolve().parent):
        folder = Path(folder)
        self.settings = json.loads((folder / "settings.json").read_text("utf-8"))["predict"]
        self.classes = json.loads((folder / "classes.json").read_text("utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.model = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def __call__(self, texts):
        found = [{"label": None, "probabilities": {}} for _ in texts]
        kept = [number for number, text in enumerate(texts) if text.strip()]  # a blank text has no class
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast([texts[number] for number in kept])]
        for number, row in zip(kept, ids):
            if len(row) > self.settings["longest"]:
                print(f"a text of {len(row):,} tokens is cut: {texts[number][:40]!r}...", file=sys.stderr)
        ids = [row[: self.settings["longest"]] for row in ids]
        for batch in batches([len(row) for row in ids]):
            for number, shares in zip(batch, self.probabilities([ids[number] for number in batch])):
                best = self.classes[int(np.argmax(shares))]
                found[kept[number]] = {"label": best, "probabilities": dict(zip(self.classes, shares.tolist()))}
        return found

    def probabilities(self, rows):
        """Rows of token ids -> (rows, classes)."""
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.full((len(rows), max(1, lengths.max())), self.settings["pad_id"], np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
        (logits,) = self.model.run(None, {"ids": ids, "lengths": lengths})
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def batches(lengths):
    """Yield the numbers of sequences that go through the model together, the longest first."""
    batch, longest = [], 0
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and longest * (len(batch) + 1) > TOKENS:
            yield batch
            batch = []
        longest = longest if batch else max(1, lengths[number])
        batch.append(number)
    if batch:
        yield batch


def line_groups(file, name):
    """Yield the lines of a file, in groups that grow: the first answer comes soon, and a long file goes fast."""
    size, lines = 1, []
    for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
        try:
            if len(raw) > LONGEST_LINE:
                raise ValueError(f"a line of more than {LONGEST_LINE:,} bytes")
            lines.append(raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
        except ValueError as error:
            yield lines
            print(f"{name}:{number}: {error}", file=sys.stderr)
            sys.exit(2)
        if len(lines) >= size:
            yield lines
            size, lines = 1 if file.isatty() else min(2 * size, 2048), []
    yield lines


def line(prediction, form):
    """Return a prediction as one line."""
    if form == "text":
        return " ".join((prediction["label"] or "").splitlines())
    rounded = {name: round(share, 6) for name, share in prediction["probabilities"].items()}
    text = json.dumps({**prediction, "probabilities": rounded}, ensure_ascii=False)
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def main():
    parser = argparse.ArgumentParser(description="Predict a class for each line.")
    parser.add_argument("file", nargs="?", help="one text a line; without it standard input")
    parser.add_argument("--format", choices=["text", "jsonl"], default="text")
    options = parser.parse_args()
    predict = Predictor()
    with open(options.file, "rb") if options.file else sys.stdin.buffer as file:
        for lines in line_groups(file, options.file or "standard input"):
            out = "".join(line(prediction, options.format) + "\n" for prediction in predict(lines))
            sys.stdout.buffer.write(out.encode())
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
