"""Targets of `run.py` that read files of text: configurations, data, vectors."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from fuzz.choices import Broken, Choices
from fuzz.parts import ROOT, WORDS, YAML, Target, Tree, bomb

from seqkit import config, run
from seqkit.data.formats import READERS, read
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.readers import BadRow, Column
from seqkit.data.sources import SourceConfig, open_source
from seqkit.data.tagged import open_tagged
from seqkit.errors import UserError
from seqkit.text import TextConfig, Tokenizer
from seqkit.text.vectors import load_vectors, vector_words


class ConfigTarget(Target):
    """The YAML loader, `base:`, overrides, and the schema of every task."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.files = sorted(path.read_bytes() for path in (ROOT / "configs").rglob("*.yaml"))
        self.short = [b"task: sentiment\ndata: {train: a.tsv}\nmodel: {encoder: {hidden_size: 3}}\n"]
        words = sorted({word for text in self.files for word in re.findall(rb"[a-z_]{3,}", text)})
        self.names = [word.decode() for word in words]
        lines = [b"\n%s: " % word for word in words]
        self.tokens = [*lines, *words, *WORDS, *(text.encode() for text in YAML)]

    def cases(self) -> Iterator[Callable[[], object]]:
        laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
        maps = "a0: &a0 {x: x}\n" + "".join(f"a{i}: &a{i} {{b: *a{i - 1}, c: *a{i - 1}}}\n" for i in range(1, 40))
        yield partial(self.check, laughs.encode(), [])
        yield partial(self.check, maps.encode(), [])
        nested = ", ".join(f"&b{i} [*b{i - 1}, *b{i - 1}]" for i in range(1, 40))
        yield partial(self.check, self.short[0], [f"name=[&b0 [x], {nested}]"])
        yield partial(self.check, b"a: " * 50_000, [])
        yield partial(self.check, b"[" * 100_000, [])
        yield partial(self.check, b"a:\n" + b" " * 200_000, [])
        yield partial(self.check, b"".join(b"k%d: 1\n" % i for i in range(20_000)), [])
        yield partial(self.check, self.short[0], [".".join(["a"] * 20_000) + "=1"])
        yield partial(self.check, self.short[0] + b"name: " + b"x" * 10**6, [])
        for number in range(2000):
            self.write(f"chain{number}.yaml", b"base: chain%d.yaml\n" % (number + 1))
        yield partial(_check_file, self.home / "chain0.yaml", [])
        yield partial(_check_file, Path("/dev/zero"), [])
        yield partial(_check_file, Path("a\0b"), [])
        yield partial(_check_file, Path("a" * 5000), [])
        (self.home / "loop.yaml").unlink(missing_ok=True)
        (self.home / "loop.yaml").symlink_to(self.home / "loop.yaml")
        yield partial(_check_file, self.home / "loop.yaml", [])
        yield partial(self.check, b"base: loop.yaml\n", [])
        deep: dict[str, Any] = {}
        for _ in range(5000):
            deep = {"a": deep}
        yield partial(_check_tree, {"task": "sentiment", "data": deep})
        yield partial(_check_tree, {"task": "sentiment", "model": {"encoder": {"hidden_size": 10**5000}}})

    def check(self, data: bytes, overrides: list[str]) -> None:
        _check_file(self.write("x.yaml", data), overrides)

    def __call__(self, choices: Choices) -> None:
        valid = choices.one(self.short + self.files)
        if choices.number(2):  # sound YAML with other values and keys, which gets to the schemas
            tree = Tree.changed(choices, yaml.safe_load(valid.replace(b"${SEQKIT_DATA}", b"/data")), self.names)
            self.check(json.dumps(tree).encode(), [])
            return
        self.write("other.yaml", choices.mutated(choices.one(self.short + self.files), self.tokens, 2))
        overrides = [
            choices.mutated(choices.one([b"training.epochs=3", b"name=a", b"model={}", b"data.train=x"]), self.tokens)
            for _ in range(choices.number(2))
        ]
        self.check(choices.mutated(valid, self.tokens), [text.decode("utf-8", "surrogateescape") for text in overrides])


def _check_file(path: Path, overrides: list[str]) -> None:
    checked, _ = run.read_config(path, overrides)
    again, _ = run.read_config(config.from_mapping(_yaml(config.dump(checked), path)).tree)
    if again.model_dump() != checked.model_dump():  # not compared as they are: each reading makes classes of its own
        raise Broken(f"reads back as another configuration: {checked!r} / {again!r}")


def _yaml(text: str, path: Path) -> dict[str, Any]:
    again = path.parent / "again.yaml"
    again.write_text(text, "utf-8")
    # A `$` in a value came out of a variable's value, or stands for itself: both would be looked up again.
    if "${" in text:
        raise UserError("not read back")
    return config.read(again).tree


def _check_tree(tree: dict[str, Any]) -> None:
    run.read_config(tree)


class ReadersTarget(Target):
    """Every format of data, plain and gzip, through the readers, and now and then through the cached sources."""

    rows = {
        "tsv": b"label\ttext\tn\ngood\tone two\t3\nbad\t\t4\n",
        "csv": b'label,text,n\ngood,"one, ""two""\nthree",3\nbad,,4\n',
        "jsonl": b'{"label": "good", "text": "one", "n": 3, "tokens": ["a"], "tags": ["O"]}\n{"label": "b\\u00e9"}\n',
        "text": b"one two\n\nthree\n",
        "conll": b"-DOCSTART- O\n\nIn O\nParis B-city\n\nto O\n",
    }  # fmt: skip

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"label": ["good", "bad"] * 9, "text": ["one", "two"] * 9, "n": [1, 2] * 9})
        for number, options in enumerate(({}, {"compression": "gzip"}, {"use_dictionary": False}, {"version": "1.0"})):
            pq.write_table(table, home / f"t{number}.parquet", **options)
        self.parquet = [(home / f"t{number}.parquet").read_bytes() for number in range(4)]
        plain = rb"""label text tokens -DOCSTART- B-x I-x O "a","b" \u0000 \ud800 \udc00 "text":9e999, "text":[[1]],
            PAR1 "text":{"a":[]}, "text":true, "tokens":["a",null],"""
        many = [b"[" * 500, b"-" * 500, b'{"a":' * 500, b'"' * 99, b"," * 300, b"\t" * 300, b"\n" * 300, b"\xff" * 8]
        self.tokens = [*WORDS, *plain.split(), b"}\n{", *many]

    def cases(self) -> Iterator[Callable[[], object]]:
        bombs = {"a": 2048, "\n": 1, '"': 1024, "[": 1024, "\0": 1024, "\xff": 1024, "a b\n": 4, "é": 700}
        for text, size in bombs.items():
            data = bomb(text.encode("latin-1") if text == "\xff" else text.encode(), size)
            for form in ("text", "csv", "jsonl", "conll"):
                head = {"csv": b"label,text\n", "text": b"", "jsonl": b'{"text":', "conll": b""}[form]
                yield partial(self._drain, "bomb", gzip.compress(head) + data, form, most=10**6)
        for text in (
            '{"text": ' + "[" * 10**6,
            "{" * 10**6,
            '{"text": ' + "[" * 900 + "]" * 900 + "}",
            "[" * 990 + "]" * 990,
        ):
            yield partial(self._drain, "deep", text.encode(), "jsonl")
        many = {"-" * 10**6: 1, "a" * 10**6: 2}
        yield partial(self._drain, "keys", json.dumps(many).encode(), "jsonl")
        yield partial(self._drain, "keys", json.dumps({f"k{n}": n for n in range(10**5)}).encode(), "jsonl")
        yield partial(self._drain, "wide", b"\t".join(b"c%d" % n for n in range(10**5)), "tsv")
        yield partial(self._drain, "wide", b"-" * 10**6 + b"\n", "tsv")
        yield partial(self._stop_words, b"a" * 5000 + b"\n" + b"a" * 4999 + b"b\n")
        yield partial(self._drain, "col", self.rows["conll"], "conll", [Column("9" * 5000, list)])

    def _stop_words(self, data: bytes) -> None:
        path = self.write("stop.txt", data)
        Tokenizer.train(["one two aaa"], TextConfig(stop_words=str(path)))

    def _drain(self, name: str, data: bytes, form: str, columns: list[Column] | None = None, most: int = 10**9) -> None:
        path = self.write(f"x.{name}", data)
        kind = list if form == "conll" else str
        columns = columns or [Column("tokens" if form == "conll" else "text", kind)]
        with closing(read(path, form, columns)) as rows:
            for number, (line, row) in enumerate(rows):
                _check_row(line, row, columns)
                if isinstance(row, BadRow) or number > most:
                    break

    def __call__(self, choices: Choices) -> None:
        form = choices.one(list(READERS))
        valid = choices.one(self.parquet) if form == "parquet" else self.rows[form]
        data = choices.mutated(valid, self.tokens)
        if choices.chance(6):
            data = gzip.compress(data)
            data = choices.mutated(data, self.tokens, 2)
        elif choices.chance(40) and form == "text":
            self._stop_words(data)
            return
        path = self.write(f"x.{form}", data)
        names = choices.one(
            (("text",), ("label", "text"), ("n",), ("tokens",), ("tokens", "tags"), ("2",), ("te\0xt",))
        )
        columns = [Column(name, list if choices.number(1) or name in ("tokens", "tags") else str) for name in names]
        if choices.chance(12):
            self._source(choices, path, form)
            return
        with closing(read(path, form, columns)) as rows:
            for line, row in rows:
                _check_row(line, row, columns)

    def _source(self, choices: Choices, path: Path, form: str) -> None:
        skip = choices.one(("error", "skip"))
        kind = choices.number(2)
        if kind == 0:
            source = open_source(SourceConfig(path=str(path), format=form, on_bad_line=skip), {"text": str}, "train")
        elif kind == 1:
            source = open_tagged(SourceConfig(path=str(path), format=form, on_bad_line=skip), "train", intent=False)
        else:
            other = self.write("y.text", choices.mutated(self.rows["text"], self.tokens))
            source = open_pairs(PairConfig(source=str(path), target=str(other), on_bad_line=skip), "train")
        for index in range(min(len(source.dataset), 20)):
            source.place(index)
            json.dumps(source.dataset[index], ensure_ascii=False).encode("utf-8")


def _check_row(line: int, row: Any, columns: list[Column]) -> None:
    if line < 1:
        raise Broken(f"line {line}")
    if isinstance(row, BadRow):
        if len(row.message) > 2000:
            raise Broken(f"a message of {len(row.message)} characters: {row.message[:200]}")
        return
    for value, column in zip(row, columns, strict=True):
        parts = value if column.kind is list else [value]
        if not isinstance(value, column.kind) or not all(isinstance(part, str) for part in parts):
            raise Broken(f"{value!r:.100} is no {column.kind.__name__}")
        "".join(parts).encode("utf-8")


class VectorsTarget(Target):
    """GloVe, word2vec and fastText text files, plain and gzip."""

    vocabulary = ["<pad>", "<unk>", "<bos>", "<eos>", "the", "The", "of", "é", "1", "new york", "."]

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.valid = [
            b"the 0.1 -0.2 3e-1\nof 1 2 3\n\xc3\xa9 0 0 1\n1 1 1 1\n. . . 1 2 3\n",
            b"3 2\nthe 0.5 1\nof .5 1. \n. 1 2\n",
            b"the\t1 2\r\nof 3 4\r\n",
        ]
        self.tokens = WORDS + [
            b"the ",
            b"of 1 2 3\n",
            b" 1 2 3",
            b"3.4028235e38",
            b"3.4028236e38",
            b"1e-46",
            b"\x0c1",
            b"1\x0b",
        ]

    def cases(self) -> Iterator[Callable[[], object]]:
        for data in (
            b"999999999999 999999999999\nthe 1 2\n",
            b"9" * 5000 + b" 5\nthe 1 2 3 4 5\n",
            b"1 " + b"9" * 5000 + b"\nthe 1\n",
            b"the " + b"1 " * 6_000_000 + b"\n",
            b"the" + b" 1" * 100_000 + b"\n",
            b"the" * 10_000_000,
            b"the 3e38 -3e38\nof 1 1\n",
            *(bomb(text, 2048) for text in (b"a", b" ", b"1 ", b"\n", b"\0")),
        ):
            yield partial(self.check, data, None)

    def check(self, data: bytes, size: int | None, norm: float | None = None) -> None:
        path = self.write("x.vec", data)
        found = load_vectors(path, self.vocabulary, size=size, norm=norm)
        if found.matrix.shape[0] != len(self.vocabulary) or not torch.isfinite(found.matrix).all():
            raise Broken("a row is missing, or is not finite")

    def __call__(self, choices: Choices) -> None:
        data = choices.mutated(choices.one(self.valid), self.tokens)
        if choices.chance(6):
            data = choices.mutated(gzip.compress(data), self.tokens, 2)
        if choices.chance(8):
            for word in vector_words(self.write("x.vec", data)):
                word.encode("utf-8")
            return
        self.check(data, choices.one((None, None, 3, 2)), choices.one((None, None, 1.0)))
