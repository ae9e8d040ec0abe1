"""Runs of each task that are small and whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seqkit

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="session")
def make_run(generated_data: Path) -> Callable[..., Path]:
    """`make_run(root, task, *overrides)`: train a run of a task."""
    recurrent = {"cell": "lstm", "hidden_size": 6}
    sides = {"source": {"size": 6}, "target": {"size": 6}, "encoder": recurrent, "decoder": recurrent}
    kinds: dict[str, dict[str, Any]] = {
        "sentiment": {"files": "sst3/{}.tsv", "model": {"embedding": {"size": 6}, "encoder": recurrent}},
        "slots": {"files": "snips/{}.jsonl", "model": {"embedding": {"size": 6}, "encoder": recurrent}},
        "translation": {"files": "multi30k/{}", "model": sides},
        "language_model": {"files": "multi30k/{}.en", "model": {"embedding": {"size": 6}, "encoder": recurrent}},
    }

    def make(root: Path, task: str, *overrides: str, name: str = "r") -> Path:
        files = {part: str(generated_data / kinds[task]["files"].format(part)) for part in ("train", "dev")}
        data: dict[str, Any] = dict(files)
        if task == "language_model":
            data["format"] = "text"
        if task == "translation":
            data = {part: {"source": f"{path}.de", "target": f"{path}.en"} for part, path in files.items()}
        metric = {"sentiment": "accuracy", "slots": "span_f1", "translation": "bleu", "language_model": "perplexity"}
        tree = {
            "task": task,
            "name": name,
            "device": "cpu",
            "data": {**data, "batch_size": 4 if task == "language_model" else 16},
            "model": kinds[task]["model"],
            "training": {
                "steps": 12,
                "log_every": 3,
                "evaluate_every": 6,
                "metric": metric[task],
                "optimizer": {"lr": 0.05},
            },
        }
        return seqkit.train(tree, *overrides, root=root).folder

    return make


@pytest.fixture(scope="session")
def finished(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of each task, under the task's name."""
    root = tmp_path_factory.mktemp("finished")
    for task in ("sentiment", "slots", "translation", "language_model"):
        make_run(root, task, name=task)
    return root
