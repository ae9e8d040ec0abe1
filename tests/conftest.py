"""Fixtures: files in the formats of the shipped configs, and a cache of their own for data sets."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine is, and what else it does, is no property of the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

# Before any test imports torch: the processes that share the tests, and those that they start, take a core each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before any test imports `datasets`: what tests read must not lie in the user's own cache.
_CACHE = tempfile.TemporaryDirectory(prefix="seqkit-test-cache-")
os.environ["HF_HOME"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"

# The tests of reports turn them on again.
os.environ["SEQKIT_REPORT"] = "false"

GOOD = ["superb", "warm", "witty", "lovely", "bright"]
BAD = ["dull", "weak", "bland", "awful", "tired"]
PLAIN = ["the", "a", "film", "story", "scene", "actor", "was", "felt", "and", "quite", "with", "of"]


# Files of few but long tests, most of them with processes of their own. They come first, so that the two processes that
# share the tests end together.
LONG = (
    "training/test_faults",
    "training/test_distributed",
    "training/test_reservation",
    "devices/",
    "test_readme",
    "test_cli.py",
    "nn/test_onnx",
    "export/",
    "test_trained_lessons",
    "test_notebook",
    "test_extending",
    "serve/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((place for place, part in enumerate(LONG) if f"tests/{part}" in item.nodeid), len(LONG))

    items.sort(key=rank)


def review(generator: random.Random, label: str) -> str:
    words = generator.choices(PLAIN, k=generator.randint(3, 12))
    marks = {"positive": GOOD, "negative": BAD, "neutral": PLAIN}[label]
    for _ in range(2):
        words.insert(generator.randint(0, len(words)), generator.choice(marks))
    return " ".join(words)


def write_tsv(path: Path, rows: int, labels: tuple[str, ...], seed: int) -> None:
    generator = random.Random(seed)
    lines = ["label\ttext"]
    for number in range(rows):
        label = labels[number % len(labels)]
        lines.append(f"{label}\t{review(generator, label)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_pairs(folder: Path, part: str, rows: int, seed: int) -> None:
    """Two parallel files: the translation of a word is the word backwards."""
    generator = random.Random(seed)
    folder.mkdir(exist_ok=True)
    lines = [generator.choices(GOOD + BAD + PLAIN, k=generator.randint(1, 9)) for _ in range(rows)]
    (folder / f"{part}.de").write_text("".join(" ".join(line) + ".\n" for line in lines), "utf-8")
    backwards = [[word[::-1] for word in line] for line in lines]
    (folder / f"{part}.en").write_text("".join(" ".join(line) + ".\n" for line in backwards), "utf-8")


def write_slots(path: Path, rows: int, seed: int) -> None:
    """Sentences in which a word of praise is a slot, and an intent that is that of the first word."""
    generator = random.Random(seed)
    lines = []
    for number in range(rows):
        tokens = [["Find", "Rate"][number % 2], *generator.choices(PLAIN, k=3), generator.choice(GOOD), "film."]
        tags = ["B-praise" if token in GOOD else "O" for token in tokens]
        lines.append(json.dumps({"tokens": tokens, "tags": tags, "intent": tokens[0]}) + "\n")
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines), "utf-8")


@pytest.fixture(scope="session")
def generated_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like the one that SEQKIT_DATA names, with generated content."""
    import gzip

    folder = tmp_path_factory.mktemp("data")
    for name, labels in (("sst2", ("negative", "positive")), ("sst3", ("negative", "neutral", "positive"))):
        for seed, part in enumerate(("train", "dev", "test")):
            write_tsv(folder / name / f"{part}.tsv", 120, labels, seed)
    for seed, part in enumerate(("train", "dev", "test")):
        write_pairs(folder / "multi30k", part, 80, seed)
        write_slots(folder / "snips" / f"{part}.jsonl", 80, seed)
    generator = random.Random(0)
    with gzip.open(folder / "glove.6b.100d.subset.txt.gz", "wt", encoding="utf-8") as file:
        for word in GOOD + BAD + PLAIN[:8]:
            file.write(word + " " + " ".join(f"{generator.gauss(0, 0.4):.4f}" for _ in range(100)) + "\n")
    return folder


@pytest.fixture(scope="session")
def small_run(generated_data: Path) -> Callable[..., dict[str, Any]]:
    """`small_run(**training)`: the configuration of a run that takes a moment, one update unless `training` differs."""

    def make(**training: Any) -> dict[str, Any]:
        return {
            "task": "slots",
            "name": "r",
            "device": "cpu",
            "data": {"train": str(generated_data / "snips/train.jsonl"), "batch_size": 20},
            "model": {"embedding": {"size": 4}, "encoder": {"cell": "rnn", "hidden_size": 4}},
            "training": {"steps": 1, "metric": "loss", **training},
        }

    return make


class _Stream(io.TextIOWrapper):
    """Standard input or output in memory."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", write_through=True)

    def value(self) -> bytes:
        return self.buffer.getvalue()  # type: ignore[attr-defined]


def _run(folder: Path, *arguments: str, text: str | bytes = "") -> subprocess.CompletedProcess[bytes]:
    """The command line in this process, which has paid for the import of torch already."""
    from seqkit.cli import main

    data = text.encode() if isinstance(text, str) else text
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        streams = _Stream(data), _Stream(), _Stream()
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
    return subprocess.CompletedProcess(arguments, int(left.value.code or 0), streams[1].value(), streams[2].value())


@pytest.fixture(scope="session")
def cli() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """`cli(folder, *arguments, text="")`: what the command line does there; see `_run`."""
    return _run


@pytest.fixture(scope="session")
def operators_once() -> None:
    """Have torch's exporter read its table of ONNX operators once, not for each export, where this torch has one."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return
    read = functools.cache(ONNXRegistry.from_torchlib)
    ONNXRegistry.from_torchlib = staticmethod(read)  # type: ignore[assignment,method-assign]
