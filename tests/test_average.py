"""A run whose weights are a mean, from files that may be gone by then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqkit import run


def test_the_vectors_that_a_run_started_from_are_not_read_again(
    small_run: Callable[..., dict[str, Any]], generated_data: Path, tmp_path: Path
) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("film 1 2 3 4\nthe 0 1 0 1\n", "utf-8")
    tree = small_run(steps=2, evaluate_every=1, keep_best=2)
    tree["data"]["dev"] = str(generated_data / "snips/dev.jsonl")
    tree["model"]["embedding"]["vectors"] = str(vectors)
    folder = run.train(tree, root=tmp_path).folder
    vectors.unlink()
    assert sorted(run.average(folder).steps) == [1, 2]
    assert run.resume(folder).folder == folder
