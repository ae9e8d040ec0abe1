"""What `fuzz.py` runs: one class a target, each a call that takes its decisions from `Choices`, and some hard cases."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from fuzz import Broken, Choices

from seqkit import config, run
from seqkit.cli.app import _groups
from seqkit.config import UserError
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.readers import FORMATS, BadRow, Column, read
from seqkit.data.sources import SourceConfig, open_source
from seqkit.data.tagged import open_tagged
from seqkit.run.configs import open_run
from seqkit.run.doctor import _checks
from seqkit.tasks.language_model_output import Sampler
from seqkit.text import TextConfig, Tokenizer
from seqkit.text.vectors import load_vectors, vector_words
from seqkit.training import RunFolder, Trainer
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.folder import check_name
from seqkit.training.foreign import read_state_dict

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = """0 1 -1 2 3 7 0.5 1.5 -0.0 1e-9 1e-400 1e400 1e9 2147483648 9223372036854775808 1208925819614629174706176
    nan inf -inf .nan .inf 1e999999999 0x10 0o7 010 1_000 +1 ١ 1e 1.""".split()  # noqa: SIM905
_SOUND = [
    *NUMBERS,
    *r"""null true ~ " ' , : {} [] "" . .. ../../x /etc/passwd \ / %s <pad> <bos> <unk> 👩‍👩‍👧 ﷺ İ ß 漢字 ▁""".split(),  # noqa: SIM905
    *("", " ", "  ", "\0", "\t", "\n", "\r", "\r\n", "\x0b", "\x0c", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u202e"),
    *("\ufeff", "e\u0301", "\u0301" * 50, "\U0010ffff", "9" * 5000, "a" * 3000),
]
_TORN = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff\xfe", b"\x1f\x8b"]
WORDS = [*(text.encode() for text in _SOUND), *_TORN]
YAML = [
    *"""!!int !!float !!bool !!timestamp !!binary !!null !!omap !!merge !x !<tag:x> !!python/object/apply:os.getcwd
    *a [*a] <<: ? - --- ... | > # ! @ ` & * %YAML ${HOME} ${X} ${ $ ${SEQKIT_DATA}/x 2024-99-99 2024-01-01 12:30:45
    no yes off os:kill :x .x:y a..b:c seqkit.nn:LSTM seqkit.config:UserError json:loads os:""".split(),  # noqa: SIM905
    *(
        "!!int x",
        "!!set {a, b}",
        "!!str 3",
        "!!seq {}",
        "!!map []",
        "&a ",
        "&a [*a]",
        "&a {b: *a}",
        "<<: *a",
        "<<: {a: 1}",
    ),
    *("? [a]", "- ", "|\n  a", ">\n  a", "  ", "    ", "[" * 300, "{a: " * 300, "- " * 300),
    *("base: other.yaml\n", "base: x.yaml\n", "base: /dev/zero\n", "base: .\n", "base: ../x.yaml\n", 'base: "\\0"\n'),
]

_DATA = {"train": {"limit": 60}, "dev": {"limit": 12}, "batch_size": 8}


def _data(name: str, **more: Any) -> dict[str, Any]:
    parts = {part: {"path": f"builtin:{name}", **_DATA[part]} for part in ("train", "dev")}
    return {**parts, "batch_size": 8, **more}


_SMALL = {"hidden_size": 4, "cell": "gru"}
RUNS: dict[str, dict[str, Any]] = {
    "sentiment": {
        "data": _data("reviews"),
        "text": {"tokenizer": "bpe", "vocab_size": 90},
        "model": {"embedding": {"size": 4}, "encoder": _SMALL, "pooling": ["mean", "attention"]},
    },
    "slots": {
        "data": _data("travel"),
        "model": {"embedding": {"size": 4}, "characters": {"encoder": _SMALL}, "encoder": _SMALL, "output": "crf"},
    },
    "translation": {
        "data": _data("phrases"),
        "model": {
            "source": {"size": 4},
            "target": {"size": 4},
            "encoder": _SMALL,
            "decoder": {"hidden_size": 4, "attention": "general"},
        },
        "training": {"metric": "loss", "dev_limit": 0},
    },
    "language_model": {
        "data": _data("reviews", bptt=10),
        "text": {"tokenizer": "char"},
        "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}},
        "training": {"ema": 0.9},
    },
}


def make_run(home: Path, task: str) -> Path:
    """A tiny finished run of a task."""
    folder = home / "runs" / task
    if not (folder / "scores.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        training = {"epochs": 1, **RUNS[task].get("training", {})}
        run.train({**RUNS[task], "task": task, "training": training}, f"name={task}", root=home / "runs")
    return folder


class Target:
    """Base of the targets.

    Args:
        home: a folder to work in.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    def cases(self) -> Iterator[Callable[[], object]]:
        """Inputs that are run once, first: bombs that no short input describes."""
        return iter(())

    def __call__(self, choices: Choices) -> None:
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> Path:
        """A file of the working folder."""
        path = self.home / name
        path.write_bytes(data)
        return path


def _bomb(byte: bytes, megabytes: int) -> bytes:
    """gzip that expands to so much; members may follow each other."""
    return gzip.compress(byte * 2**20, 9) * megabytes


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
            data = _bomb(text.encode("latin-1") if text == "\xff" else text.encode(), size)
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
        form = choices.one(FORMATS)
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
            *(_bomb(text, 2048) for text in (b"a", b" ", b"1 ", b"\n", b"\0")),
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


class Tree:
    """A JSON value that can be changed anywhere."""

    values = (
        *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**400, 0.5, 1e308, float("nan"), float("inf")),
        *("", "x", "../../x", "/etc/passwd", "\0", "\ud800", "9" * 4000, "os:kill", "sentiment", "translation"),
        *([], [[]], [1] * 50, {}, {"a": []}, {"a": 1, "b": 2}),
        *({"tensor": "x"}, {"tensor": []}, {"items": [[[], 1]]}, {"items": 3}, {"tuple": {}}, {"list": 3}),
    )

    @classmethod
    def changed(cls, choices: Choices, tree: Any, names: Any = ()) -> Any:
        """The tree with one to four places changed; `names` are more keys and values that may be put in."""
        holder = [json.loads(json.dumps(tree))]
        for _ in range(1 + choices.number(3)):
            node: Any = holder
            key: Any = 0
            for _ in range(choices.number(12)):
                below = node[key]
                if not isinstance(below, (dict, list)) or not below:
                    break
                node = below
                key = choices.one(list(node) if isinstance(node, dict) else range(len(node)))
            kind = choices.number(5)
            if kind <= 2:
                node[key] = copy.deepcopy(choices.one((*cls.values, *names)))
            elif kind == 3 and node is not holder:
                del node[key]
            elif isinstance(node, dict):
                node[choices.one(("", "a", "../x", "tensor", "format", *list(node)[:9], *names))] = copy.deepcopy(
                    node[key]
                )
            else:
                node.insert(0, copy.deepcopy(node[key]))
            if not holder:
                break
        return holder[0]


class CheckpointTarget(Target):
    """Run folders: weights, checkpoints, run.json, config.yaml, tokenizers, labels; loaded, or training restored."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.folders = []
        for task in RUNS:
            make_run(home, task)
            copy = home / "copies" / task
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(home / "runs" / task, copy)
            self.folders.append(copy)
        self.names = {folder: self._names(folder) for folder in self.folders}
        self.whole = {path: path.read_bytes() for folder in self.folders for path in self.names[folder]}
        torch.save({"state_dict": {"a.weight": torch.zeros(2, 3), "step": 3}, "n": [1, None, "x"]}, home / "t.pt")
        self.foreign = (home / "t.pt").read_bytes()

    @staticmethod
    def _names(folder: Path) -> list[Path]:
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".yaml", ".safetensors")
        )
        return [path for path in files if path.name != "scores.json"]

    def cases(self) -> Iterator[Callable[[], object]]:
        folder = self.folders[0]
        deep = b"[" * 200_000
        for path in self.names[folder]:
            for data in (
                b"",
                b"\0",
                deep,
                b'{"a":' * 100_000,
                b"\xff" * 64,
                (2**62).to_bytes(8, "little") + b"{}",
                b"9" * 6000,
            ):
                yield partial(self._with, folder, {path: data}, restore="checkpoints" in path.parts)
        step = next(path for path in self.names[folder] if path.name == "manifest.json").parent
        for name in ("/dev/zero", "../../../x", "\0", "a" * 5000):
            data = json.dumps({name: "0"}).encode()
            yield partial(self._with, folder, {step / "manifest.json": data}, restore=True, sign=False)
        for key, value in (
            ("num_layers", 10**9),
            ("hidden_size", 10**7),
            ("hidden_size", 10**12),
            ("hidden_size", 10**30),
        ):
            text = (folder / "config.yaml").read_text("utf-8")
            changed = re.sub(rf"\b{key}: \d+", f"{key}: {value}", text).encode()
            yield partial(self._with, folder, {folder / "config.yaml": changed}, restore=False)
        size = re.sub(r"\bsize: \d+", f"size: {10**9}", (folder / "config.yaml").read_text("utf-8")).encode()
        yield partial(self._with, folder, {folder / "config.yaml": size}, restore=False)

    def __call__(self, choices: Choices) -> None:
        if choices.chance(8):  # what another program saved, which `init.torch` reads
            read_state_dict(self.write("x.pt", choices.mutated(self.foreign, WORDS)))
            return
        folder = choices.one(self.folders)
        path = choices.one(self.names[folder])
        data = self.whole[path]
        if path.suffix == ".json" and choices.number(3):
            data = json.dumps(Tree.changed(choices, json.loads(data))).encode()
        elif path.suffix == ".safetensors" and choices.number(3):
            size = int.from_bytes(data[:8], "little")
            head = json.dumps(Tree.changed(choices, json.loads(data[8 : 8 + size]))).encode()
            told = choices.one((len(head), len(head), len(head), 0, len(head) - 1, 2**40, 2**64 - 1))
            data = told.to_bytes(8, "little") + head + data[8 + size :][: choices.one((None, None, -1, 0))]
        else:
            data = choices.mutated(data, WORDS)
        self._with(folder, {path: data}, restore="checkpoints" in path.parts, sign=bool(choices.number(7)))

    def _with(self, folder: Path, files: dict[Path, bytes], *, restore: bool, sign: bool = True) -> None:
        """Load the run, or restore its training, with these files in the place of its own."""
        try:
            for path, data in files.items():
                path.write_bytes(data)
                manifest = path.parent / "manifest.json"
                if sign and manifest != path and manifest in self.whole:
                    told = {**json.loads(self.whole[manifest]), path.name: hashlib.sha256(data).hexdigest()}
                    manifest.write_text(json.dumps(told), "utf-8")
                    files = {**files, manifest: b""}
            self._restore(folder) if restore else self._load(folder)
        finally:
            for path in files:
                path.write_bytes(self.whole[path])

    def _load(self, folder: Path) -> None:
        task = run.load(folder)
        for prediction in task.predict(["one two", ""]):
            task.format(prediction, "jsonl")

    def _restore(self, folder: Path) -> None:
        if not list(_checks(folder)):
            raise Broken("the doctor had nothing to say")
        if Checkpoints(folder / "checkpoints").latest() is None:
            raise UserError("no whole checkpoint")
        opened, checked, kind = open_run(folder)
        Trainer(kind.create(checked, folder, fresh=False), checked.training, opened.path).restore()


class PredictTarget(Target):
    """Any bytes as lines of text through `predict` of all four tasks, with all kinds of decoding options."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.tasks = {task: run.load(make_run(home, task)) for task in RUNS}
        known = [word.encode() for word in self.tasks["slots"].tokenizer.vocabulary]
        self.tokens = [*WORDS, *known, *[b"a ", b"the ", b"flight to Boston ", b"not bad ", b"\n"] * 8]
        self.settings: dict[str, tuple[Any, ...]] = {
            "beam_size": (1, 2, 5, 0, -1, 10**4, 10**9, 2**63, 10**30),
            "n_best": (1, 2, 5, 0, 10**4, 10**9, 2**63),
            "length_penalty": (0.0, 1.0, 40.0, -1.0, 1e308, math.nan, math.inf),
            "length_penalty_kind": ("gnmt", "average", "x"),
            "coverage_penalty": (0.0, 0.2, 1e6, 1e308, math.nan),
            "min_length": (0, 1, 9, -1, 2**63),
            "max_length": (1, 5, 20, 0, -1, 2**63, 10**30),
            "min_ratio": (0.0, 0.5, 2.0, -1.0, math.nan),
            "max_ratio": (0.5, 1.0, 2.0, 0.0, math.inf),
            "no_repeat_ngram": (0, 1, 2, 3, 10**9, 2**63),
            "sample": (False, True),
            "temperature": (1.0, 0.5, 1e-300, 1e-30, 1e300, 0.0, -1.0, math.nan, math.inf),
            "top_k": (0, 1, 3, -1, 10**9, 2**63, 10**30),
            "top_p": (1.0, 0.5, 1e-300, 0.0, 2.0, math.nan),
            "allow_unknown": (True, False),
        }

    def cases(self) -> Iterator[Callable[[], object]]:
        long = (
            b"a" * 10**6,
            b"a " * 500_000,
            "\u0301".encode() * 300_000,
            b"\0" * 10**6,
            "漢".encode() * 300_000,
            b"." * 10**6,
        )
        for task in ("sentiment", "slots", "language_model"):
            for data in long:
                yield partial(self.predict, task, data)
        for data in long:
            yield partial(self.translate, {"max_length": 5}, {}, data)
        yield lambda: list(_groups(io.BytesIO(b"a" * 2**28), "x"))

    def __call__(self, choices: Choices) -> None:
        task = choices.one(tuple(RUNS))
        names = [choices.one(tuple(self.settings)) for _ in range(choices.number(4))]
        chosen = {name: choices.one(self.settings[name]) for name in names}
        attention = bool(choices.number(1))
        more = {"attention": attention, "copy_unknown": choices.chance(4), "seed": choices.one((1, 0, 2**62))}
        if choices.chance(8):
            more["prefix"] = choices.one(("a", "der Mann", "", "\0", "<eos>", "a " * 500))
        data = choices.mutated(
            choices.one((b"not bad at all\n\nfine", b"to Boston", b"the old man sleeps .\n")), self.tokens, 20
        )
        if task == "translation":
            self.translate({"max_length": 12, **chosen} if "max_ratio" not in chosen else chosen, more, data)
            return
        if task == "language_model":
            own = {name: chosen[name] for name in ("temperature", "top_k", "top_p", "max_length") if name in chosen}
            sampled: dict[str, Any] = {"sample": True, "max_length": 12, "seed": more["seed"], **own}
            if sampled["max_length"] > 10**5:
                Sampler(
                    self.tasks[task].model,
                    self.tasks[task].tokenizer,
                    **{k: v for k, v in sampled.items() if k != "sample"},
                )
                return
            self.tasks[task].adjust(**(sampled if attention else {}))
        self.predict(task, data)

    def translate(self, decoding: dict[str, Any], more: dict[str, Any], data: bytes) -> None:
        self.tasks["translation"].configure(
            decoding, **{"prefix": "", "attention": False, "copy_unknown": False, **more}
        )
        self.predict("translation", data, alignments=bool(more.get("attention")))

    def predict(self, task: str, data: bytes, **options: Any) -> None:
        model = self.tasks[task]
        for lines in _groups(io.BytesIO(data), "x"):
            found = model.predict(lines)
            if len(found) != len(lines):
                raise Broken(f"{len(lines)} lines in, {len(found)} out")
            for prediction in found:
                for form in ("text", "jsonl"):
                    text = model.format(prediction, form, **options)
                    text.encode("utf-8")
                    several = form == "text" and getattr(prediction, "n_best", ())
                    if "\n" in text and not several:
                        raise Broken(f"more than one line for {lines!r:.200}: {text!r:.200}")
                json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise Broken(f"{name} is no JSON")


class NamesTarget(Target):
    """Names and paths of runs."""

    parts = (
        *(
            "a",
            "..",
            ".",
            "/",
            "\\",
            "\0",
            "\n",
            "-",
            "--",
            " ",
            "~",
            "$HOME",
            "${HOME}",
            "*",
            "é",
            "漢",
            "\ud800",
            "_",
            "1",
        ),
        *(
            "x" * 99,
            "é" * 99,
            "漢" * 99,
            "con",
            "a:b",
            "%00",
            "\u202e",
            "run",
            "../",
            "/etc",
            "name",
            ".hidden",
            "x.old",
        ),
    )

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.root = home / "names"
        self.folder = make_run(home, "sentiment")

    def cases(self) -> Iterator[Callable[[], object]]:
        for name in ("..", "a/../../b", "/tmp/x", "", "\0", "a" * 10**6, "漢" * 100, "\ud800"):
            yield partial(self.make, name)
            yield partial(RunFolder.open, name)
            yield partial(run.average, self.folder, None, name)

    def __call__(self, choices: Choices) -> None:
        name = "".join(choices.one(self.parts) for _ in range(1 + choices.number(4)))
        kind = choices.number(3)
        if kind == 0:
            RunFolder.open(name)
        elif kind == 1:
            open_source(SourceConfig(path=name), {"text": str}, "train")
        elif kind == 2:
            run.read_config({**RUNS["sentiment"], "task": "sentiment", "name": name})
        else:
            self.make(name)

    def make(self, name: str) -> None:
        check_name(name)
        folder = RunFolder.choose(name, "x", root=self.root)
        shutil.rmtree(self.root, ignore_errors=True)
        folder.path.mkdir(parents=True)
        made = [path.name for path in self.root.iterdir()]
        if made != [name]:
            raise Broken(f"{name!r} made {made}")


def make(name: str, home: Path) -> Target:
    """The target of a name."""
    kinds: dict[str, type[Target]] = {
        "config": ConfigTarget,
        "readers": ReadersTarget,
        "vectors": VectorsTarget,
        "checkpoint": CheckpointTarget,
        "predict": PredictTarget,
        "names": NamesTarget,
    }
    return kinds[name](home)
