"""A run whose weights are a mean, from files that may be gone by then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqkit import run
from seqkit.errors import UserError


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


def test_damaged_checkpoints_are_left_out_of_a_mean_which_takes_two(
    small_run: Callable[..., dict[str, Any]], generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = small_run(steps=3, evaluate_every=1, keep_best=3)
    tree["data"]["dev"] = str(generated_data / "snips/dev.jsonl")
    folder = run.train(tree, root=tmp_path).folder
    assert len(run.average(folder, best=2, name="two").steps) == 2
    (folder / "checkpoints/step-00000001/model.safetensors").write_bytes(b"")
    made = run.average(folder)
    assert sorted(made.steps) == [2, 3]
    assert "step-00000001: damaged checkpoint; passed over" in capsys.readouterr().err
    with pytest.raises(UserError, match="its weights are an average of checkpoints; there is no training to resume"):
        run.resume(made.folder)
    (folder / "checkpoints/step-00000002/model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="has 1 of its best checkpoints, at least 2 are needed"):
        run.average(folder, name="one")
