"""What the predict.py of every task shares: the folder, the command line, batches, text. It lies beside predict.py.

Needs numpy, onnxruntime and tokenizers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

Array = NDArray[Any]
PAD, UNK, BOS, EOS = range(4)
LONGEST_LINE = 1 << 25  # bytes
UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # JSON allows them, readers of lines do not
OWN = {"￮": "￮0", "￭": "￮1", " ": "￮2"}  # how a marked vocabulary writes characters that mean something in it

# --- the folder -------------------------------------------------------------------------------------------------------


class Exported:
    """An exported folder: its settings, graphs and tokenizers.

    Raises:
        OSError: a file is missing.
        ValueError: a file is damaged.
    """

    def __init__(self, folder: str | Path = "") -> None:
        self.folder = Path(folder or Path(__file__).parent)
        files, graphs, self.settings = self._read("settings.json", settings_in)
        for name, file in files.items():
            if (self.folder / name).stat().st_size != file["bytes"]:
                raise ValueError(f"{self.folder}: {name} is damaged; export the run again")
        self.graphs = [self._read(name, partial(graph_in, graph["threads"])) for name, graph in graphs.items()]

    def json(self, name: str) -> Any:
        """Return what a file of JSON holds."""
        return self._read(name, lambda path: json.loads(path.read_text("utf-8")))

    def array(self, name: str) -> Array:
        """Return the array in a file of numpy."""
        array: Array = self._read(name, np.load)
        return array

    def tokenizer(self, name: str = "tokenizer.json") -> Tokenizer:
        """Return the tokenizer in a file."""
        tokenizer: Tokenizer = self._read(name, lambda path: Tokenizer.from_file(str(path)))
        return tokenizer

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        try:
            return read(self.folder / name)
        except OSError:  # it names the file
            raise
        except Exception as error:  # those of onnxruntime and tokenizers have no other base
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{self.folder}: {name} is damaged ({reason}); export the run again") from None


def settings_in(path: Path) -> list[Any]:
    """Return the parts of settings.json that are read here."""
    about = json.loads(path.read_text("utf-8"))
    return [about[name] for name in ("files", "graphs", "predict")]


def graph_in(threads: int, path: Path) -> onnxruntime.InferenceSession:
    """Return a graph that computes in this many threads; 0: in one for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # steps are short, and threads would wait
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# --- the command line -------------------------------------------------------------------------------------------------


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all tasks take."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("file", nargs="?", help="one text a line; without it standard input")
    arguments.add_argument("--format", choices=["text", "jsonl"], default="text")
    return arguments


def answer(
    options: argparse.Namespace,
    make: Callable[[], Any],
    text: Callable[[dict[str, Any]], str],
    row: Callable[[dict[str, Any]], dict[str, Any]],
    read: Callable[[str], Any] = str,
) -> None:
    """Print the prediction for each line of a file or of standard input; a mistake ends it with status 2.

    Args:
        options: of the command line.
        make: returns the predictor; not called before the file is open.
        text: turns a prediction into a line of text.
        row: turns a prediction into what a line of JSON holds.
        read: turns a line into what the predictor takes.
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
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
        where = f"{options.file or 'standard input'}: " if reason.startswith("line ") else ""
        print(f"{where}{reason}", file=sys.stderr)
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


def to_json(row: dict[str, Any]) -> str:
    """Return a prediction as a line of JSON."""
    out = json.dumps(row, ensure_ascii=False)
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", out)


def rounded(value: Any) -> Any:
    """Return a number, or each number in a list or dict, with six digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


# --- batches ----------------------------------------------------------------------------------------------------------


def cut(row: Sequence[Any], longest: int, text: str, what: str = "text") -> Any:
    """Return the first `longest` tokens of a text, and print a line if it has more."""
    if len(row) > longest:
        print(f"a {what} of {len(row):,} tokens is cut: {text[:40]!r}...", file=sys.stderr)
    return row[:longest]


def pad(rows: list[list[int]], filler: int = PAD) -> NDArray[np.int64]:
    """Return rows as one rectangle of at least one column."""
    ids = np.full((len(rows), max(1, *map(len, rows))), filler, np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids


def batches(rows: Sequence[Any], most: int = sys.maxsize, tokens: int = 8192) -> Iterator[list[int]]:
    """Yield the numbers of rows that go through a model together, the longest first.

    Args:
        rows: with a length.
        most: rows in a batch.
        tokens: in a batch, padding included.
    """
    numbers = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    while numbers:
        size = max(1, min(most, tokens // max(1, len(rows[numbers[0]]))))
        yield numbers[:size]
        del numbers[:size]


# --- text -------------------------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """Return a text as one line."""
    return " ".join(text.splitlines())


def join_tokens(tokens: list[str], tokenizer: Tokenizer, patterns: dict[str, str] | None) -> str:
    """Return tokens as a line of text; patterns: see `join_words`, None: the tokenizer knows where spaces are."""
    return one_line(tokenizer.decoder.decode(tokens) if patterns is None else join_words(tokens, patterns))


def join_words(tokens: list[str], patterns: dict[str, str]) -> str:
    """Join words with spaces between them, as far as patterns allow.

    Args:
        tokens: words.
        patterns: of words: `left`, without a space before them, `right`, without a space behind them, `quote`, which
            are both in turn, and `alike`, without a space between two of them.
    """
    left, right, quote, alike = (re.compile(patterns[name]).fullmatch for name in ("left", "right", "quote", "alike"))
    text, close, quoted, last = "", True, False, None
    for token in tokens:
        quotes, same = quote(token), alike(token)
        text += token if close or left(token) or (quotes and quoted) or (last and same) else f" {token}"
        close = bool(right(token) or (quotes and not quoted))
        quoted, last = quoted ^ bool(quotes), same
    return text
