"""All four tasks on the pretended accelerator: training, evaluation, exact resuming, use, and how often a step waits.

Run by test_devices.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import seqkit
from seqkit.errors import Stopped
from seqkit.models import Spelling
from seqkit.run import average, evaluate, resume, train
from seqkit.tasks.sending import sent
from seqkit.tasks.slots.data import TagBatch
from seqkit.training.update import Done, Updater

ENCODER = {"cell": "lstm", "hidden_size": 6}
STEPS = 6
TEXTS = ["a warm film", "", "a dull story of the actor and the scene"]


@pytest.fixture
def device(fake: ModuleType) -> str:
    """What `device:` must say to mean the accelerator."""
    fake.install()
    return fake.NAME


def tree(files: Path, task: str, **sections: Any) -> dict[str, Any]:
    """A small run of a task; sections are laid over it, two levels deep."""
    folder, form = {
        "sentiment": ("sst3", "{}.tsv"),
        "slots": ("snips", "{}.jsonl"),
        "translation": ("multi30k", "{}.de"),
        "language_model": ("multi30k", "{}.en"),
    }[task]
    paths = {part: str(files / folder / form.format(part)) for part in ("train", "dev")}
    sources: dict[str, Any] = {part: {"path": path, "limit": 40} for part, path in paths.items()}
    if task == "translation":
        sources = {
            part: {"source": path, "target": path[:-2] + "en", "limit": 40 if part == "train" else 10}
            for part, path in paths.items()
        }
    words = {"embedding": {"size": 5, "dropout": 0.2}, "encoder": ENCODER}
    sides = {"source": {"size": 5, "dropout": 0.2}, "target": {"size": 5}, "encoder": ENCODER, "decoder": ENCODER}
    sizes = {"batch_size": 4, "bptt": 6, "format": "text"} if task == "language_model" else {"batch_size": 8}
    found: dict[str, Any] = {
        "task": task,
        "data": {**sources, **sizes},
        "model": sides if task == "translation" else words,
        "training": {"steps": STEPS, "log_every": 1, "evaluate_every": 3, "keep_best": 2, "optimizer": {"lr": 0.01}},
    }
    if task == "translation":
        found["decoding"] = {"max_length": 6}
        found["training"]["samples"] = 1
    for name, section in sections.items():
        found[name] = {**found.get(name, {}), **section} if isinstance(section, dict) else section
    return found


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sentiment": ("sentiment", {"model": {"dropout": 0.2}}),
    "sentiment, everything pooled": (
        "sentiment",
        {
            "model": {"pooling": ["last", "mean", "max", "attention"], "encoder": {**ENCODER, "bidirectional": True}},
            "training": {"adversarial": 0.1, "class_weights": "balanced", "accumulate": 2, "ema": 0.9},
        },
    ),
    "slots": ("slots", {}),
    "slots, softmax and characters": (
        "slots",
        {
            "model": {"output": "softmax", "characters": {"encoder": {"cell": "gru", "hidden_size": 3}}},
            "training": {"clip_value": 0.5, "optimizer": {"name": "sgd", "lr": 0.1}},
        },
    ),
    "translation": ("translation", {}),
    "translation, input feeding": (
        "translation",
        {"model": {"decoder": {**ENCODER, "input_feeding": True}, "bridge": "copy"}, "training": {"accumulate": 2}},
    ),
    "translation, its own inputs": (
        "translation",
        {
            # Without dropout: what is drawn on the CPU and what is drawn there come from two generators.
            "model": {
                "source": {"size": 5},
                "decoder": {**ENCODER, "attention": "none", "feed_context": True},
                "bridge": "mean",
            },
            "training": {"scheduled_sampling": 0.5, "scheduled_sampling_warmup": 0, "label_smoothing": 0.1},
        },
    ),
    "translation, in windows": ("translation", {"data": {"window": 16}}),
    "language model": (
        "language_model",
        {"training": {"ar": 1.0, "tar": 1.0, "unfreeze": {"every": 2, "unit": "steps"}}},
    ),
    "language model, adaptive": (
        "language_model",
        {"model": {"tie": False, "adaptive_cutoffs": [8, 15], "adaptive_div": 1.5}},
    ),
}


def losses(folder: Path) -> list[list[float]]:
    """All numbers in the log of a run."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [[value for value in record.values() if isinstance(value, float)] for record in records]


def count_steps(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What goes between host and device in every update from now on."""
    seen: list[Any] = []
    call = Updater.__call__

    def counted(self: Updater, *arguments: Any) -> Done:
        with fake.watched() as traffic:
            done = call(self, *arguments)
        seen.append(traffic)
        return done

    monkeypatch.setattr(Updater, "__call__", counted)
    return seen


@pytest.mark.parametrize("kind", VARIANTS)
def test_it_learns_as_on_the_cpu_and_a_step_waits_once(
    kind: str, fake: ModuleType, device: str, generated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, sections = VARIANTS[kind]
    config = tree(generated_data, task, **sections)
    here = train({**config, "name": "here", "device": "cpu"}, root=tmp_path).folder
    seen = count_steps(fake, monkeypatch)
    there = train({**config, "name": "there", "device": device}, root=tmp_path).folder
    assert len(seen) == STEPS
    assert [(len(traffic.reads), traffic.blocking) for traffic in seen] == [(1, [])] * STEPS
    for one, other in zip(losses(there), losses(here), strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("kind", ["sentiment", "slots", "translation, input feeding", "language model"])
def test_resuming_is_exact_and_a_run_can_be_used(
    kind: str, device: str, generated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, sections = VARIANTS[kind]
    config = tree(generated_data, task, **sections, device=device)
    whole = train({**config, "name": "whole"}, root=tmp_path).folder
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    shutil.rmtree(cut / f"checkpoints/step-{STEPS:08d}")
    resume(cut)
    last = f"checkpoints/step-{STEPS:08d}"
    for name in ("model.safetensors", "metrics.jsonl", f"{last}/model.safetensors", f"{last}/trainer.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    scores = json.loads((whole / "scores.json").read_text("utf-8"))["dev"]
    assert evaluate(whole, device=device)[0]["loss"] == pytest.approx(scores["loss"], rel=1e-5)
    made = average(whole, name="mean", device=device)
    assert made.steps
    found, wanted = (seqkit.load(whole, device=one) for one in (device, "cpu"))
    assert next(found.model.parameters()).device.type == "fake"
    assert [found.format(one, "text") for one in found.predict(TEXTS)] == [
        wanted.format(one, "text") for one in wanted.predict(TEXTS)
    ]


def test_lengths_of_a_batch_stay_on_the_cpu(fake: ModuleType) -> None:
    spelling = Spelling(torch.zeros(2, 3), torch.tensor([3, 1]), torch.zeros(1, 2))
    batch = TagBatch(torch.zeros(1, 2), torch.tensor([2]), spelling, torch.zeros(1, 2), None, np.zeros(1, np.int64))
    assert sent(batch, torch.device("cpu")) is batch
    with fake.watched() as traffic:
        there = sent(batch, fake.install())
    assert (len(traffic.sent), traffic.waits) == (4, [])
    assert there.lengths is batch.lengths
    assert there.spelling.lengths is spelling.lengths
    assert {one.device for one in (there.ids, there.tags, *there.spelling[::2])} == {fake.install()}
    assert (there.intents, there.rows) == (None, batch.rows)


def test_translations_of_every_kind(device: str, generated_data: Path, tmp_path: Path) -> None:
    runs = [
        train(tree(generated_data, "translation", device=device, name=f"{seed}", seed=seed), root=tmp_path).folder
        for seed in (1, 2)
    ]
    for options in (
        {"beam_size": 3, "n_best": 2, "attention": True},
        {"sample": True, "n_best": 2},
        {"beam_size": 2, "ensemble": runs[1:], "replace_unknown": True},
        {"prefix": "mlif", "no_repeat_ngram": 2},
    ):
        lines = []
        for where in (device, "cpu"):
            task = seqkit.run.loading.load_translator(runs[0], device=where, **options)
            lines.append(
                [task.format(one, "text", alignments="attention" in options) for one in task.predict(TEXTS[:1])]
            )
        assert lines[0] == lines[1]


def test_a_language_model_samples_and_scores_lines(device: str, generated_data: Path, tmp_path: Path) -> None:
    for number, kind in enumerate(("language model", "language model, adaptive")):
        task, sections = VARIANTS[kind]
        folder = train(tree(generated_data, task, **sections, name=f"{number}", device=device), root=tmp_path).folder
        found = []
        for where in (device, "cpu"):
            predictor = seqkit.run.load_predictor(folder, device=where, sample=True, max_length=70, seed=3)
            scores = seqkit.load(folder, device=where).predict(TEXTS)
            found.append(([one.text for one in predictor.predict(TEXTS)], [one.log_prob or 0.0 for one in scores]))
        assert found[0][0] == found[1][0]
        assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


def test_fine_tuning(
    fake: ModuleType, device: str, generated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = train(tree(generated_data, "language_model", name="begun", device=device), root=tmp_path).folder
    init: dict[str, Any] = {"init": {"run": str(begun)}, "device": device, "training": {"ema": 0.9}}
    seen = count_steps(fake, monkeypatch)
    lora = {"rank": 2, "dropout": 0.2, "on": ["encoder.recurrent*"], "train": ["output*"]}
    for name, more in {
        "adapted": {"lora": lora},
        "frozen": {"training": {"freeze": ["encoder*"]}},
        "thawed": {"training": {"unfreeze": {"every": 2, "unit": "steps"}, "average_best": True}},
    }.items():
        config = tree(generated_data, "sentiment", **init, name=name)
        for section, value in more.items():
            config[section] = {**config.get(section, {}), **value}
        folder = train(config, root=tmp_path).folder
        assert seqkit.load(folder, device=device).predict(TEXTS)[0].probabilities  # type: ignore[attr-defined]
    assert len(seen) == 3 * STEPS
    assert all((len(traffic.reads), traffic.blocking) == (1, []) for traffic in seen)


def test_a_loss_that_is_not_finite_leaves_the_weights(
    device: str, generated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tree(generated_data, "sentiment", name="bad", device=device)
    config["training"].update(evaluate_every=None, checkpoint_every=2)
    call: Callable[..., Done] = Updater.__call__
    kept: list[Any] = []

    def broken(self: Updater, window: list[Any], step: int, *rest: Any) -> Done:
        model = self.task.model
        if step == 3:
            with torch.no_grad():
                model.output.bias.fill_(torch.inf)  # type: ignore[union-attr, operator]
            kept.extend([model, {name: value.clone() for name, value in model.state_dict().items()}])
        return call(self, window, step, *rest)

    monkeypatch.setattr(Updater, "__call__", broken)
    with pytest.raises(Stopped, match="step 4: the loss is nan"):
        train(config, root=tmp_path)
    model, before = kept
    assert all(torch.equal(value.cpu(), before[name].cpu()) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
