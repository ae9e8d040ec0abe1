"""What the predict.py of every task shares: files, the command line, batches, tokens. It lies beside predict.py.

Needs numpy, onnxruntime and tokenizers.
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

Array = NDArray[Any]
PAD, UNK, BOS, EOS = range(4)
LONGEST_LINE = 1 << 25  # bytes
TOKENS = 8192  # in a batch, padding included
SMALL = 1 << 24  # bytes of a graph whose products are too small for several threads, which would wait for each other
UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # JSON allows them, readers of lines do not
OWN = {"￮": "￮0", "￭": "￮1", " ": "￮2"}  # how a marked vocabulary writes characters that mean something in it
# Words without marks that stand close to the one before, to the one after, or to both; Chinese characters.
LEFT = re.compile(r"[.,:;!?)\]}%…»“”’']+|n['’]t|['’](?:s|re|ve|ll|d|m)", re.I)
RIGHT, BOTH = re.compile(r"[(\[{$€£#«„]+"), re.compile(r"[-/]")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

# --- files ------------------------------------------------------------------------------------------------------------


class Exported:
    """An exported folder: its settings, graphs and tokenizers.

    Raises:
        ValueError: a file is missing or damaged.
    """

    def __init__(self, folder: str | Path = "") -> None:
        self.folder = Path(folder or Path(__file__).parent)
        try:
            about = json.loads((self.folder / "settings.json").read_text("utf-8"))
            for name, file in about["files"].items():
                if (self.folder / name).stat().st_size != file["bytes"]:
                    raise ValueError(f"{name} is damaged")
            self.settings: dict[str, Any] = about["predict"]
            self.graphs = {name: session(self.folder / name) for name in about["graphs"]}
        except Exception as error:  # those of onnxruntime have no common base
            raise ValueError(f"{self.folder}: {error}; export the run again") from None

    def json(self, name: str) -> Any:
        """Return what a file of JSON holds."""
        return json.loads((self.folder / name).read_text("utf-8"))

    def tokenizer(self, name: str = "tokenizer.json") -> Tokenizer:
        """Return the tokenizer in a file."""
        return Tokenizer.from_file(str(self.folder / name))


def session(path: Path) -> onnxruntime.InferenceSession:
    """Return a graph as ONNX Runtime runs it."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # steps are short, and threads would wait
    if path.stat().st_size <= SMALL:
        options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# --- the command line -------------------------------------------------------------------------------------------------


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of what all tasks take."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("file", nargs="?", help="one text a line; without it standard input")
    found.add_argument("--format", choices=["text", "jsonl"], default="text")
    return found


def answer(
    options: argparse.Namespace,
    make: Callable[[], Any],
    text: Callable[[dict[str, Any]], str],
    row: Callable[[dict[str, Any]], dict[str, Any]],
    read: Callable[[str], Any] = str,
) -> None:
    """Print what a predictor finds in each line of a file or of standard input; a mistake ends it with status 2.

    Args:
        options: of the command line.
        make: it returns the predictor.
        text: it returns what was found in a line as text.
        row: it returns what was found in a line as a line of JSON will hold it.
        read: it returns what the predictor takes of a line.
    """
    shown = text if options.format == "text" else lambda found: to_json(row(found))
    try:
        with open(options.file, "rb") if options.file else sys.stdin.buffer as source:
            predict = make()
            for lines in line_groups(source, read):
                sys.stdout.buffer.write("".join(shown(found) + "\n" for found in predict(lines)).encode())
                sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"{error.filename}: {error.strerror}" if error.filename else error, file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        where = f"{options.file or 'standard input'}: " if str(error).startswith("line ") else ""
        print(f"{where}{error}", file=sys.stderr)
        sys.exit(2)


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


def to_json(found: dict[str, Any]) -> str:
    """Return what was found as a line of JSON."""
    out = json.dumps(found, ensure_ascii=False)
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", out)


def rounded(value: Any) -> Any:
    """Return a number, or each of several, with six digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def one_line(text: str) -> str:
    """Return a text as one line."""
    return " ".join(text.splitlines())


# --- batches ----------------------------------------------------------------------------------------------------------


def cut(row: Sequence[Any], longest: int, text: str, what: str = "text") -> Any:
    """Return the first `longest` tokens of a text, and print a line if it has more."""
    if len(row) > longest:
        print(f"a {what} of {len(row):,} tokens is cut: {text[:40]!r}...", file=sys.stderr)
    return row[:longest]


def padded(rows: list[list[int]], pad: int) -> NDArray[np.int64]:
    """Return rows as one rectangle of at least one column."""
    ids = np.full((len(rows), max(1, *map(len, rows))), pad, np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids


def batches(rows: Sequence[Any], most: int = sys.maxsize, tokens: int = TOKENS) -> Iterator[list[int]]:
    """Yield the numbers of rows that go through a model together, the longest first."""
    batch: list[int] = []
    longest = 0
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        if batch and (len(batch) == most or longest * (len(batch) + 1) > tokens):
            yield batch
            batch = []
        longest = longest if batch else max(1, len(rows[number]))
        batch.append(number)
    if batch:
        yield batch


# --- tokens -----------------------------------------------------------------------------------------------------------
# Functions and patterns that seqkit.text has too: this file runs without seqkit. A test holds them equal.

Place = tuple[int, int]


def places_of(tokens: list[str]) -> list[Place]:
    """Return where tokens stand in the text that they make with a space between each two."""
    ends = np.cumsum([len(token) + 1 for token in tokens]).tolist()
    return [(end - 1 - len(token), end - 1) for token, end in zip(tokens, ends)]


def places_in(text: str, tokenizer: Tokenizer) -> list[Place]:
    """Return where the tokens of a text stand: from the first character to behind the last one."""
    found = tokenizer.encode(text, add_special_tokens=False).offsets
    limits = [start for start, _ in found[1:]] + [len(text)]
    return [(start, whole_end(text, start, end, limit)) for (start, end), limit in zip(found, limits)]


def whole_end(text: str, start: int, end: int, limit: int) -> int:
    """Return the end of a token with the marks behind it: of characters that normalising joins, or drops, the library
    counts the first."""
    while start < end < limit:
        before = text[max(start, end - 2) : end]
        joined = len(unicodedata.normalize("NFC", before + text[end])) == len(unicodedata.normalize("NFC", before))
        if not joined and not unicodedata.combining(text[end]):
            break
        end += 1
    return end


class Words:
    """The ids of words that are tokens already, normalised and then looked up as they stand."""

    def __init__(self, tokenizer: Tokenizer, marked: bool) -> None:
        self.normal, self.marked = tokenizer.normalizer, marked
        words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[EOS + 1 :]
        self.numbers = dict(words)
        if marked:
            joined = {word[1:]: number for word, number in words if word.startswith("￭") and word != "￭"}
            self.numbers = joined | self.numbers

    def __call__(self, words: list[str]) -> list[int]:
        written = words if self.normal is None else [self.normal.normalize_str(word) for word in words]
        if self.marked:
            written = [word.removeprefix("\t") for word in written]
        return [self.numbers.get(word, UNK) for word in written]


def join_tokens(tokens: list[str], tokenizer: Tokenizer, words: dict[str, Any] | None) -> str:
    """Return tokens as a text; words: the rules for words without marks, None: the tokenizer knows how."""
    return str(tokenizer.decoder.decode(tokens)) if words is None else join_words(tokens, **words)


def join_words(tokens: list[str], rules: bool, chinese: bool) -> str:
    """Return words without marks as a text, by rules for European languages."""
    text, close, quoted, han = "", True, False, False
    for token in tokens:
        quote, was_han = rules and set(token) == {'"'}, han
        han = chinese and bool(HAN.fullmatch(token))
        left = rules and (LEFT.fullmatch(token) or BOTH.fullmatch(token) or (quote and quoted))
        text += token if close or left or (han and was_han) else f" {token}"
        close = rules and bool(RIGHT.fullmatch(token) or BOTH.fullmatch(token) or (quote and not quoted))
        quoted ^= bool(quote)
    return text
