"""What the targets of `run.py` share: hard words, tiny runs, the base class, a JSON value that can be changed."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz.choices import Choices

from seqkit import run

ROOT = Path(__file__).resolve().parents[2]
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


def bomb(byte: bytes, megabytes: int) -> bytes:
    """gzip that expands to so much; members may follow each other."""
    return gzip.compress(byte * 2**20, 9) * megabytes


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
