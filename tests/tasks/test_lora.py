"""`lora:` for every task: what trains, what a run folder keeps, resuming, averages, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import seqkit
from seqkit.errors import UserError
from seqkit.run import average, evaluate, read_config, resume, train
from seqkit.training.checkpoint import load_weights

STEPS = {"epochs": 2, "optimizer": {"lr": 0.02}}


def trees(folder: Path) -> dict[str, dict[str, Any]]:
    """A small configuration of each task."""
    encoder = {"cell": "gru", "hidden_size": 8}
    words = {"embedding": {"size": 6}, "encoder": encoder}
    parts = {part: str(folder / "sst2" / f"{part}.tsv") for part in ("train", "dev")}
    slots = {part: str(folder / "snips" / f"{part}.jsonl") for part in ("train", "dev")}
    lines = {part: str(folder / "multi30k" / f"{part}.en") for part in ("train", "dev")}
    pairs = {
        part: {side: str(folder / "multi30k" / f"{part}.{end}") for side, end in (("source", "de"), ("target", "en"))}
        for part in ("train", "dev")
    }
    decoder = {"hidden_size": 8, "input_feeding": True}
    return {
        "sentiment": {"data": {**parts, "batch_size": 8}, "model": {**words, "dropout": 0.2}, "training": STEPS},
        "slots": {"data": {**slots, "batch_size": 8}, "model": words, "training": STEPS},
        "language_model": {
            "data": {**lines, "format": "text", "batch_size": 4, "bptt": 9},
            "model": words,
            "training": STEPS,
        },
        "translation": {
            "data": {**pairs, "batch_size": 8},
            "model": {"source": {"size": 6}, "target": {"size": 6}, "encoder": encoder, "decoder": decoder},
            "training": STEPS,
            "decoding": {"max_length": 8},
        },
    }


def tree(folder: Path, task: str = "sentiment", **sections: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"task": task, **trees(folder)[task]}
    for name, section in sections.items():
        found[name] = {**found.get(name, {}), **section} if isinstance(section, dict) else section
    return found


@pytest.fixture(scope="module")
def runs(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each task to start from."""
    root = tmp_path_factory.mktemp("runs")
    for task in trees(generated_data):
        train(tree(generated_data, task, name=task, training={"epochs": 1}), root=root)
    return root


def rank(change: torch.Tensor) -> int:
    return int(torch.linalg.matrix_rank(change.double(), atol=1e-6))


@pytest.mark.parametrize(
    ("task", "on", "whole"),
    [
        ("sentiment", ["encoder.recurrent*"], ["output*"]),
        ("slots", ["encoder.recurrent.weight_hh*"], ["tag_scores*"]),
        ("language_model", ["encoder*"], []),
        ("translation", ["*"], ["decoder.output.bias"]),
    ],
)
def test_the_run_folder_has_plain_weights(
    task: str, on: list[str], whole: list[str], runs: Path, generated_data: Path, tmp_path: Path, capfd: Any
) -> None:
    lora = {"rank": 2, "alpha": 4.0, "on": on, "train": whole}
    config = tree(generated_data, task, name="lora", init={"run": str(runs / task)}, lora=lora)
    folder = train(config, root=tmp_path).folder
    assert "lora: rank 2 on " in capfd.readouterr().err
    before, after = (load_weights(one / "model.safetensors") for one in (runs / task, folder))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {name for name in changed if before[name].dim() == 2 and "output" not in name and "scores" not in name}
    assert adapted
    assert all(rank(after[name] - before[name]) == 2 for name in adapted)
    assert not any("embedding" in name or "bias_" in name for name in changed)
    assert any(name.startswith(part.rstrip("*")) for name in changed for part in whole) == bool(whole)
    # A run folder needs nothing else, and its scores are those of the model that was trained.
    shutil.move(runs / task, tmp_path / "away")
    try:
        loaded = seqkit.load(folder)
        assert {name for name, _ in loaded.model.named_parameters()} <= before.keys()
        kept = json.loads((folder / "scores.json").read_text())["dev"]
        found, _ = evaluate(folder)
        shared = found.keys() & kept.keys()
        assert shared
        assert all(found[name] == pytest.approx(kept[name], rel=1e-5) for name in shared)
    finally:
        shutil.move(tmp_path / "away", runs / task)


def lora_tree(data: Path, runs: Path, **training: Any) -> dict[str, Any]:
    return tree(
        data,
        init={"run": str(runs / "sentiment")},
        lora={"rank": 2, "dropout": 0.1, "on": ["encoder.recurrent*"], "train": ["output*"]},
        training={"epochs": 3, "keep_best": 3, **training},
    )


def test_a_killed_run_resumes_to_the_same_weights(runs: Path, generated_data: Path, tmp_path: Path) -> None:
    config = lora_tree(generated_data, runs, ema=0.9)
    whole = train({**config, "name": "whole"}, root=tmp_path).folder
    cut = train({**config, "name": "cut"}, root=tmp_path).folder
    # What is left of a run that was killed in its third epoch: the checkpoints of the first two.
    shorter = train({**config, "training": {**config["training"], "epochs": 2}, "name": "short"}, root=tmp_path).folder
    shutil.rmtree(cut / "checkpoints")
    shutil.copytree(shorter / "checkpoints", cut / "checkpoints")
    resume(cut)
    names = ["model.safetensors", "metrics.jsonl"]
    last = max((whole / "checkpoints").glob("step-*")).name
    names += [f"checkpoints/{last}/{name}" for name in ("model.safetensors", "trainer.safetensors")]
    for name in names:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert any("lora_a" in name for name in load_weights(whole / f"checkpoints/{last}/trainer.safetensors"))
    # A run that was stopped before its first checkpoint starts over, from the same weights and adapters.
    shutil.rmtree(cut / "checkpoints")
    (cut / "checkpoints").mkdir()
    resume(cut)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_averages_of_what_was_adapted(runs: Path, generated_data: Path, tmp_path: Path) -> None:
    config = lora_tree(generated_data, runs, average_best=True)
    folder = train({**config, "name": "many"}, root=tmp_path).folder
    made = average(folder)
    states = [load_weights(folder / f"checkpoints/step-{step:08d}/model.safetensors") for step in made.steps]
    mean = load_weights(made.folder / "model.safetensors")
    assert mean.keys() == load_weights(runs / "sentiment/model.safetensors").keys()
    for name, value in mean.items():
        assert torch.allclose(value, torch.stack([state[name] for state in states]).mean(0), atol=1e-6)
    assert seqkit.load(made.folder).predict(["a superb film"])[0].label
    # And it is a run to start from as any other.
    again = train({**config, "name": "again", "init": {"run": str(made.folder)}, "lora": None}, root=tmp_path)
    assert again.dev


def test_unfreezing_never_reaches_what_is_under_an_adapter(runs: Path, generated_data: Path, tmp_path: Path) -> None:
    config = lora_tree(generated_data, runs, unfreeze={"every": 1})
    folder = train({**config, "name": "slow"}, root=tmp_path).folder
    before, after = (load_weights(one / "model.safetensors") for one in (runs / "sentiment", folder))
    assert rank(after["encoder.recurrent.weight_hh_l0"] - before["encoder.recurrent.weight_hh_l0"]) == 2
    table = "encoder.embedding.table.weight"
    assert torch.equal(before[table], after[table])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    stages = [line["unfrozen"] for line in lines if line["split"] == "unfreeze"]
    assert stages[0] == ["output.weight", "output.bias"]
    assert all("lora" in name for name in stages[1])


def test_new_classes_must_be_trained(runs: Path, generated_data: Path, tmp_path: Path) -> None:
    config = lora_tree(generated_data, runs)
    config["data"] = {part: str(generated_data / "sst3" / f"{part}.tsv") for part in ("train", "dev")}
    frozen = {**config, "lora": {**config["lora"], "train": []}, "name": "three"}
    with pytest.raises(
        UserError, match=r"lora.train: must name the weights that init does not fill.*: output.weight, output.b"
    ):
        train(frozen, root=tmp_path)
    assert not (tmp_path / "three").exists()
    wider = {**frozen, "model": {**config["model"], "hidden_size": 5}}
    with pytest.raises(UserError, match=r"lora.train: .*hidden.weight, hidden.bias"):
        train(wider, root=tmp_path)
    assert train({**config, "name": "three"}, root=tmp_path).dev["accuracy"] > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "lora: rank must be positive, got 0"),
        ({"rank": 1.5}, "lora.rank: "),
        ({"alpha": 0}, "lora: alpha must be positive"),
        ({"dropout": 2}, "lora: dropout must be between 0 and 1"),
        ({"rnk": 3}, "lora.rnk: unknown key; did you mean 'rank'"),
    ],
)
def test_bad_settings_stop_it_before_the_data_is_read(change: dict[str, Any], message: str) -> None:
    nowhere = tree(Path("nowhere"), init={"run": "nowhere"}, lora=change)
    with pytest.raises(UserError, match=message):
        read_config(nowhere)


def test_without_a_start_there_is_nothing_to_adapt(generated_data: Path) -> None:
    with pytest.raises(UserError, match="lora needs weights that have learned something: give an init section"):
        read_config(tree(generated_data, lora={"rank": 2}))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"on": "encoder.recurent*"}, "lora.on: 'encoder.recurent[*]' matches no matrix; did you mean 'encoder.recurr"),
        ({"on": "encoder.embedding*"}, "lora.on: .* an embedding table"),
        ({"train": "outptu.bias"}, "lora.train: 'outptu.bias' matches no parameter; did you mean 'output.bias'"),
        ({"rank": 8, "on": "encoder*"}, "rank 8 is not below the sides of its 24 x 6"),
    ],
)
def test_patterns_that_match_nothing(
    lora: dict[str, Any], message: str, runs: Path, generated_data: Path, tmp_path: Path
) -> None:
    config = tree(generated_data, name="bad", init={"run": str(runs / "sentiment")}, lora={"rank": 2, **lora})
    with pytest.raises(UserError, match=message) as mistake:
        train(config, root=tmp_path)
    assert mistake.value.key.removeprefix("lora.") in lora
    assert not (tmp_path / "bad").exists()
