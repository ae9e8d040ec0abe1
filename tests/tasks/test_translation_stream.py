"""Training pairs in windows: the whole road, resumed in the middle, reported, and with several processes' shares."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkit.data import token_cache
from seqkit.errors import Stopped, UserError
from seqkit.run import read_config, resume, train
from seqkit.tasks.translation.data import PairBatch
from seqkit.tasks.translation.task import TranslationTask
from seqkit.training.checkpoint import load_weights

WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four"}


def tree(folder: Path, **data: Any) -> dict[str, Any]:
    generator = random.Random(1)
    rows = [generator.choices(list(WORDS), k=generator.randint(1, 6)) for _ in range(150)]
    rows[70] = ["eins"] * 9
    sides = {"source": "de", "target": "en"}
    for side, ending in sides.items():
        lines = [" ".join(word if side == "source" else WORDS[word] for word in row) for row in rows]
        (folder / f"train.{ending}").write_text("".join(line + "\n" for line in lines), "utf-8")
    return {
        "task": "translation",
        "data": {
            "train": {side: str(folder / f"train.{ending}") for side, ending in sides.items()},
            "window": 40,
            "batch_size": 8,
            "max_source_length": 8,
            **data,
        },
        "model": {
            "source": {"size": 8},
            "target": {"size": 8},
            "encoder": {"cell": "gru", "hidden_size": 8},
            "decoder": {"cell": "gru", "hidden_size": 8, "output_dropout": 0.2},
        },
        "training": {"epochs": 2, "checkpoint_every": 5},
    }


def task_for(config: dict[str, Any]) -> TranslationTask:
    return TranslationTask.create(read_config(config)[0])  # type: ignore[arg-type]


def texts(task: TranslationTask, batch: PairBatch) -> list[tuple[str, str]]:
    rows = zip(batch.source.tolist(), batch.targets.tolist(), strict=True)
    return [(task.source.decode(source), task.target.decode(target)) for source, target in rows]


@pytest.mark.parametrize("by", ["sentences", "tokens"])
def test_the_batches_hold_what_is_in_the_file(tmp_path: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = tree(tmp_path, batch_by=by, batch_size=30)
    streamed = task_for(config)
    indexed = task_for({**config, "data": {**config["data"], "window": None}})
    epochs = [[row for batch in streamed.batches(epoch) for row in texts(streamed, batch)] for epoch in (0, 1)]
    expected = sorted(row for batch in indexed.batches(0) for row in texts(indexed, batch))
    assert len(expected) == 149
    assert sorted(epochs[0]) == sorted(epochs[1]) == expected
    assert epochs[0] != epochs[1]
    said = capsys.readouterr().err
    assert said.count("train: 149 pairs in windows of 40") == 1
    assert f"data.max_source_length 8: 1 (the first is {tmp_path}/train.de + {tmp_path}/train.en:71)" in said
    (batch,) = [batch for number, batch in enumerate(streamed.batches(0)) if number == 3]
    assert streamed.describe(batch)[0].endswith(": " + " ||| ".join(texts(streamed, batch)[0]))


def test_resumed_in_the_middle_it_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tree(tmp_path)
    whole = train({**config, "name": "whole"}, root=tmp_path)
    assert "read in windows of 40 pairs" in capsys.readouterr().err

    stop = 27  # in the second window of the second epoch
    loss = TranslationTask.loss
    calls = iter(range(10_000))

    def failing(self: TranslationTask, batch: Any, carry: Any) -> Any:
        if next(calls) == stop:
            raise OSError("pulled the plug")
        return loss(self, batch, carry)

    monkeypatch.setattr(TranslationTask, "loss", failing)
    with pytest.raises(Stopped, match="pulled the plug"):
        train({**config, "name": "cut"}, root=tmp_path)
    monkeypatch.setattr(TranslationTask, "loss", loss)

    tokenised = []
    encode = token_cache.Encoder.__call__
    monkeypatch.setattr(
        token_cache.Encoder, "__call__", lambda self, part: (tokenised.append(len(part)), encode(self, part))[1]
    )
    resume(tmp_path / "cut")
    assert tokenised == [40] * 4 + [30] * 2  # the first of the four windows was not tokenised again
    one, other = (load_weights(folder / "model.safetensors") for folder in (whole.folder, tmp_path / "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(folder / "metrics.jsonl").read_text() for folder in (whole.folder, tmp_path / "cut")]
    assert logs[0] == logs[1]


def test_what_needs_the_number_of_steps_says_so_and_changed_data_is_refused(tmp_path: Path) -> None:
    config = tree(tmp_path)
    config["training"]["schedule"] = {"name": "one_cycle"}
    with pytest.raises(UserError, match=r"training\.steps"):
        train(config, root=tmp_path)
    run = train({**tree(tmp_path), "name": "a"}, "training.epochs=1", root=tmp_path)
    with (tmp_path / "train.de").open("a") as one, (tmp_path / "train.en").open("a") as other:
        one.write("eins\n")
        other.write("one\n")
    with pytest.raises(UserError, match="the training data is not the one that this run was started with"):
        resume(run.folder)
    assert json.loads((run.folder / "scores.json").read_text())["step"] > 0


def test_a_schedule_over_an_unknown_length_is_refused_before_the_data_is_read(tmp_path: Path) -> None:
    config = {**tree(tmp_path), "training": {"epochs": 2, "schedule": "cosine"}}
    with pytest.raises(UserError, match=r"training\.schedule: cosine needs .* give training\.steps.*data\.window"):
        read_config(config)
    read_config({**config, "training": {"steps": 9, "schedule": "cosine"}})
    read_config(tree(tmp_path))


def test_a_window_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.window"):
        read_config(tree(tmp_path, window=0))
