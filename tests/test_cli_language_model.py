"""`seqkit predict` on a language model, as a user types it: lines scored, lines continued."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
CONFIG = """
task: language_model
data: {train: %s/multi30k/train.en, dev: %s/multi30k/dev.en, format: text, batch_size: 8, bptt: 12}
model: {embedding: {size: 12}, encoder: {hidden_size: 12}}
training: {epochs: 2, optimizer: {lr: 0.02}}
"""


@pytest.fixture(scope="module")
def home(cli: Cli, generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "c.yaml").write_text(CONFIG % ((generated_data,) * 2))
    done = cli(folder, "train", "c.yaml", "name=first")
    assert done.returncode == 0, done.stderr.decode()
    assert b"| seqkit predict runs/first sample=true" in done.stdout
    (folder / "in.txt").write_bytes(b"\xef\xbb\xbfeht mlif.\r\n\n  \neht")
    return folder


def test_lines_are_scored(cli: Cli, home: Path) -> None:
    done = cli(home, "predict", "runs/first", "in.txt")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().split("\n")
    assert [len(line.split("\t")) for line in lines] == [2, 1, 1, 2, 1]
    assert lines[1:3] == ["", ""]
    assert float(lines[0].split("\t")[0]) < 0 < float(lines[0].split("\t")[1])
    found = [
        json.loads(line)
        for line in cli(home, "predict", "runs/first", "in.txt", "--format", "jsonl").stdout.splitlines()
    ]
    assert [one["tokens"] for one in found] == [4, 0, 0, 2]
    assert found[1]["log_prob"] is None


def test_lines_are_continued(cli: Cli, home: Path) -> None:
    arguments = (
        "predict",
        "runs/first",
        "in.txt",
        "sample=true",
        "top_p=0.9",
        "temperature=0.8",
        "max_length=7",
    )
    done = cli(home, *arguments, "seed=3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("eht mlif.")
    assert cli(home, *arguments, "seed=3").stdout == done.stdout
    assert cli(home, *arguments, "seed=4").stdout != done.stdout
    found = [json.loads(line) for line in cli(home, *arguments, "--format", "jsonl").stdout.splitlines()]
    assert all(len(one["tokens"]) <= 7 for one in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["temperature=2"], "temperature: only sampling has it (sample=true)"),
        (["sample=true", "top_k=-1"], "top_k: must be at least 0, got -1"),
        (["sample=true", "max_length=0"], "max_length: must be at least 1, got 0"),
    ],
)
def test_mistakes(cli: Cli, home: Path, arguments: list[str], message: str) -> None:
    done = cli(home, "predict", "runs/first", "in.txt", *arguments)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert not done.stdout
