"""dev.jsonl: what the kept weights make of dev data, against the scores and against `predict`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import seqkit
from seqkit import run
from seqkit.report import stored_outputs
from seqkit.tasks.dev_outputs import mean_probability, spread_rows
from seqkit.tasks.slots.metrics import SpanCounts
from seqkit.tasks.translation.metrics import CorpusScores
from seqkit.training import Loss, Task, Trainer, TrainingConfig


def dev_scores(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "scores.json").read_text("utf-8"))["dev"])


def test_outputs_of_a_classifier(finished: Path, generated_data: Path) -> None:
    folder = finished / "sentiment"
    records, model = stored_outputs(folder), seqkit.load(folder)
    lines = (generated_data / "sst3/dev.tsv").read_text("utf-8").splitlines()
    assert len(records) == len(lines) - 1
    predicted = model.predict([one["text"] for one in records])
    for record, found in zip(records, predicted, strict=True):
        label, text = lines[int(record["place"].rpartition(":")[2]) - 1].split("\t")
        assert (record["gold"], record["text"]) == (label, text)
        assert record["prediction"] == found.label
        assert record["confidence"] == pytest.approx(max(found.probabilities.values()), abs=2e-6)
        assert record["gold_probability"] == pytest.approx(found.probabilities[label], abs=2e-6)
        assert record["probabilities"] == pytest.approx(found.probabilities, abs=2e-6)
        assert list(record["probabilities"].values()) == sorted(record["probabilities"].values(), reverse=True)
        assert record["tokens"] == len(text.split())
    right = np.mean([one["gold"] == one["prediction"] for one in records])
    assert right == pytest.approx(dev_scores(folder)["accuracy"])


@pytest.mark.parametrize("output", ["crf", "softmax"])
def test_outputs_of_a_tagger(finished: Path, make_run: Callable[..., Path], tmp_path: Path, output: str) -> None:
    folder = finished / "slots" if output == "crf" else make_run(tmp_path, "slots", "model.output=softmax")
    records, model = stored_outputs(folder), seqkit.load(folder)
    counts = SpanCounts()
    for record in records:
        counts.add(record["gold"], record["prediction"])
    assert counts.scores()[2] == pytest.approx(dev_scores(folder)["span_f1"])
    tagged = model.predict([one["tokens"] for one in records], is_split_into_words=True)
    assert [one["prediction"] for one in records] == [one.tags for one in tagged]
    assert [one["intent"] for one in records] == [one.intent for one in tagged]
    hits = np.mean([one["intent"] == one["gold_intent"] for one in records])
    assert hits == pytest.approx(dev_scores(folder)["intent_accuracy"])
    for record in records[:3]:
        ids = torch.tensor([model.tokenizer.lookup(record["tokens"])])
        with torch.no_grad():
            scores, _ = model.model(ids, torch.tensor([ids.size(1)]))
            tags = torch.tensor([[model.tags.index(tag) for tag in record["prediction"]]])
            log_prob = -float(model.model.tag_loss(scores, tags, torch.tensor([ids.size(1)])))
        assert record["confidence"] == pytest.approx(math.exp(log_prob), rel=1e-4, abs=1e-6)


def test_outputs_of_a_translator(finished: Path) -> None:
    folder = finished / "translation"
    records, model = stored_outputs(folder), seqkit.load(folder)
    corpus = CorpusScores(lowercase=model.lowercase, tokenize=model.config.scoring.tokenize)
    found = corpus([one["prediction"] for one in records], [one["gold"] for one in records])
    assert found == pytest.approx({name: dev_scores(folder)[name] for name in ("bleu", "chrf")})
    model.adjust(beam_size=1)
    for record, translation in zip(records, model.predict([one["text"] for one in records]), strict=True):
        assert record["prediction"] == translation.text
        mean = math.exp(sum(translation.log_probs) / len(translation.log_probs))
        assert record["confidence"] == pytest.approx(mean, abs=1e-5)


def test_outputs_of_a_language_model(finished: Path, generated_data: Path) -> None:
    folder = finished / "language_model"
    records, model = stored_outputs(folder), seqkit.load(folder)
    train = (generated_data / "multi30k/train.en").read_text("utf-8").splitlines()
    words = [token for line in train for token in model.tokenizer.tokens(line)]
    for record, score in zip(records, model.predict([one["text"] for one in records]), strict=True):
        assert math.fsum(record["log_probs"]) == pytest.approx(score.log_prob, abs=1e-3)
        assert len(record["log_probs"]) == len(record["tokens"]) + 1 == score.tokens
        assert record["counts"][:-1] == [words.count(token) for token in model.tokenizer.tokens(record["text"])]
        assert record["counts"][-1] == len(train)


def test_the_number_of_outputs_is_limited(make_run: Callable[..., Path], tmp_path: Path) -> None:
    few = make_run(tmp_path, "sentiment", "training.keep_outputs=7", name="few")
    places = [int(one["place"].rpartition(":")[2]) for one in stored_outputs(few)]
    assert len(places) == 7
    assert (places[0], places[-1]) == (2, 121)
    assert {end - start for start, end in pairwise(places)} <= {19, 20}
    run.resume(few, "training.keep_outputs=0")
    assert not (few / "dev.jsonl").exists()
    assert stored_outputs(few) == []


def test_rows_are_spread_evenly() -> None:
    rows = np.array([3, 5, 8, 9])
    assert spread_rows(rows, 4).tolist() == spread_rows(rows, 9).tolist() == [3, 5, 8, 9]
    assert spread_rows(rows, 2).tolist() == [3, 9]
    assert spread_rows(rows, 1).tolist() == [3]
    assert mean_probability([math.log(0.5), math.log(0.125)]) == 0.25
    assert mean_probability([]) is None


class Rising(Task):
    """Its one weight is what `dev_outputs` tells; the mean of the last weights is worse than the best."""

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1, bias=False)

    def batches(self, epoch: int, start: int = 0) -> list[int]:
        return list(range(start, 4))

    def loss(self, batch: int, carry: Any) -> tuple[dict[str, Loss], None]:
        return {"loss": Loss(self.model.weight.sum(), 1.0)}, None

    def evaluate(self) -> dict[str, float]:
        return {"quality": -abs(float(self.model.weight) - self.wanted)}

    def dev_outputs(self, limit: int) -> list[dict[str, Any]]:
        assert not torch.is_grad_enabled()
        assert not self.model.training
        return [{"weight": float(self.model.weight)}]


@pytest.mark.parametrize("mean", [False, True])
def test_outputs_are_those_of_the_kept_weights(tmp_path: Path, mean: bool) -> None:
    task = Rising()
    with torch.no_grad():
        task.model.weight.fill_(4.0)
    task.wanted = 2.75 if mean else 3.0  # weights after each update: 3.5, 3.0, 2.5, 2.0
    settings = {"optimizer": {"name": "sgd", "lr": 0.5, "weight_decay": 0}, "evaluate_every": 1, "metric": "quality"}
    more = {"keep_best": 2, "average_best": True, "epochs": 1, "clip_norm": None, "schedule": {"name": "constant"}}
    config = TrainingConfig.model_validate({**settings, **more})
    result = Trainer(task, config, tmp_path / "r", device="cpu").fit()
    assert result.averaged is mean
    kept = task.model.weight.item()
    assert kept == pytest.approx(task.wanted)
    assert stored_outputs(tmp_path / "r") == [{"weight": pytest.approx(kept)}]


def test_clipped_updates_are_counted(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for limit, share in (("1e-9", 3), ("1e9", 0), ("null", None)):
        folder = make_run(tmp_path, "sentiment", f"training.clip_norm={limit}", name=f"clip-{share}")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        assert {line.get("clipped") for line in lines if line["split"] == "train"} == {share}


def test_an_average_of_checkpoints_has_its_own_outputs(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run(tmp_path, "sentiment", "training.keep_best=2")
    made = run.average(folder)
    found = seqkit.load(made.folder).predict([one["text"] for one in stored_outputs(made.folder)])
    assert [one["prediction"] for one in stored_outputs(made.folder)] == [one.label for one in found]
    assert np.mean([one["gold"] == one["prediction"] for one in stored_outputs(made.folder)]) == made.after["accuracy"]
