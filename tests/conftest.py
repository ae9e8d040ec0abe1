"""Fixtures: files in the formats of the shipped configs, and a cache of their own for data sets."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest

# Before any test imports `datasets`: what tests read must not lie in the user's own cache.
_CACHE = tempfile.TemporaryDirectory(prefix="seqkit-test-cache-")
os.environ["HF_HOME"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"

GOOD = ["superb", "warm", "witty", "lovely", "bright"]
BAD = ["dull", "weak", "bland", "awful", "tired"]
PLAIN = ["the", "a", "film", "story", "scene", "actor", "was", "felt", "and", "quite", "with", "of"]


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


@pytest.fixture(scope="session")
def generated_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like the one that SEQKIT_DATA names, with generated content."""
    import gzip

    folder = tmp_path_factory.mktemp("data")
    for name, labels in (("sst2", ("negative", "positive")), ("sst3", ("negative", "neutral", "positive"))):
        for seed, part in enumerate(("train", "dev", "test")):
            write_tsv(folder / name / f"{part}.tsv", 120, labels, seed)
    generator = random.Random(0)
    with gzip.open(folder / "glove.6b.100d.subset.txt.gz", "wt", encoding="utf-8") as file:
        for word in GOOD + BAD + PLAIN[:8]:
            file.write(word + " " + " ".join(f"{generator.gauss(0, 0.4):.4f}" for _ in range(100)) + "\n")
    return folder
