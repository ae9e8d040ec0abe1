"""Weights with NaN or infinity are one error wherever they are read, and what is printed as JSON is JSON."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import seqkit
from seqkit import run
from seqkit.errors import UserError
from seqkit.tasks.sentiment.task import SentimentTask
from seqkit.training.checkpoint import digest, load_weights, not_finite, pack, save_weights, unpack

RUNS = Path(__file__).parent / "fixtures" / "2026-11"
KINDS = ("sentiment", "translation", "slots", "language_model")
CPU = ("--device", "cpu")


def spoil(file: Path, number: float) -> str:
    """Put a number in the middle of the first float tensor; returns its name."""
    weights = load_weights(file)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name].flatten()[weights[name].numel() // 2] = number
    save_weights(file, weights)
    return name


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_finite_are_named(
    tmp_path: Path, cli: Callable[..., Any], kind: str, number: float
) -> None:
    own = tmp_path / "own"
    shutil.copytree(RUNS / f"{kind}-finished", own)
    name = spoil(own / "model.safetensors", number)
    says = (
        f"own/model.safetensors: 1 of the {load_weights(own / 'model.safetensors')[name].numel():,} numbers of {name}"
    )
    with pytest.raises(UserError, match=says):
        run.load(own, device="cpu")
    with pytest.raises(UserError, match=says):
        run.evaluate(own, device="cpu")
    commands = [["predict", "own"], ["evaluate", "own", "--format", "json"]]
    if kind == "translation":
        good = str(RUNS / "translation-finished")
        commands += [["translate", "own"], ["translate", good, "--ensemble", "own"], ["compare", good, "own"]]
    for command in commands:
        done = cli(tmp_path, *command, *CPU, text="a\n")
        assert done.returncode == 2, command
        assert says in done.stderr.decode()
        assert not done.stdout
    if kind in ("sentiment", "slots"):
        small = {"embedding": {"size": 6}, "encoder": {"hidden_size": 6}}
        tree = {"task": "sentiment", "data": {"train": "builtin:reviews"}, "model": small, "init": {"run": str(own)}}
        with pytest.raises(UserError, match=f"^init.run: .*{says}"):
            seqkit.train(tree, root=tmp_path / "runs")


def signed_anew(step: Path) -> None:
    """Let a checkpoint's manifest be that of the files as they are."""
    manifest = json.loads((step / "manifest.json").read_text("utf-8"))
    (step / "manifest.json").write_text(json.dumps({part: digest(step / part) for part in manifest}), "utf-8")


@pytest.mark.parametrize("where", ["model", "step"])
def test_average_names_the_file_that_is_not_finite(tmp_path: Path, where: str) -> None:
    parts = {part: {"path": "builtin:reviews", "limit": 40} for part in ("train", "dev")}
    tree = {
        "task": "sentiment",
        "name": "own",
        "device": "cpu",
        "data": parts,
        "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}},
        "training": {"steps": 6, "evaluate_every": 2, "keep_best": 3},
    }
    folder = seqkit.train(tree, root=tmp_path).folder
    step = min((folder / "checkpoints").glob("step-*"))
    file = folder / "model.safetensors" if where == "model" else step / "model.safetensors"
    name = spoil(file, float("nan"))
    if where == "step":  # written so, not damaged afterwards
        signed_anew(step)
    with pytest.raises(UserError, match=f"{file}: 1 of the .* numbers of {name}"):
        run.average(folder, device="cpu")
    assert not (tmp_path / "own-average").exists()


class Masked(SentimentTask):
    """A task whose model has a mask of -inf among its buffers."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))


def test_what_a_model_is_made_with_may_be_infinite(tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(RUNS / "sentiment-finished", own)
    config = (own / "config.yaml").read_text("utf-8")
    (own / "config.yaml").write_text(config.replace("task: sentiment", f"task: {__name__}:Masked"), "utf-8")
    weights = load_weights(own / "model.safetensors")
    save_weights(own / "model.safetensors", {**weights, "mask": torch.tensor([0.0, -float("inf")])})
    assert isinstance(run.load(own, device="cpu", trust=True), Masked)
    assert not_finite({"mask": torch.tensor(float("nan")), "ids": torch.tensor([1])}) == ["mask"]


@pytest.mark.parametrize("kind", KINDS)
def test_json_is_json_where_finite_weights_overflow(tmp_path: Path, cli: Callable[..., Any], kind: str) -> None:
    own = tmp_path / "own"
    shutil.copytree(RUNS / f"{kind}-finished", own)
    file = own / "model.safetensors"
    save_weights(file, {name: value.sign() * 1e38 for name, value in load_weights(file).items()})
    commands = [["predict", "own", "--format", "jsonl"], ["evaluate", "own", "--format", "json"]]
    if kind == "language_model":
        commands.append(["predict", "own", "sample=true"])
    for command in commands:
        done = cli(tmp_path, *command, *CPU, text="the plot is dull\n")
        if kind == "translation" or "sample=true" in command:  # a search finds nothing
            assert done.returncode == 2
            assert b"this model gives a text no finite score" in done.stderr
            continue
        assert done.returncode == 0, done.stderr
        for line in done.stdout.decode().splitlines():
            json.loads(line, parse_constant=pytest.fail)


def test_the_state_of_a_trainer_is_json_too() -> None:
    state = {"best": [float("inf"), -float("inf")], "mean": (float("nan"), 1.5)}
    packed = pack(state, {})
    found = unpack(json.loads(json.dumps(packed, allow_nan=False)), {})
    assert found["best"] == state["best"]
    assert found["mean"][0] != found["mean"][0]
    assert unpack({"list": [float("inf")]}, {}) == [float("inf")]  # as earlier versions wrote it


def test_a_training_that_ends_with_such_weights_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leap(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.SGD, "step", leap)
    tree = {
        "task": "sentiment",
        "name": "own",
        "device": "cpu",
        "data": {"train": {"path": "builtin:reviews", "limit": 20}},
        "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}},
        "training": {"steps": 1, "optimizer": {"name": "sgd"}},
    }
    with pytest.raises(UserError, match=r"own/checkpoints/step-00000001/model.safetensors: .* are NaN or infinite"):
        seqkit.train(tree, root=tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("file", ["model", "trainer"])
def test_resume_names_what_is_not_finite_in_a_checkpoint(tmp_path: Path, file: str, number: float) -> None:
    own = tmp_path / "own"
    shutil.copytree(RUNS / "sentiment-killed", own)
    step = max((own / "checkpoints").glob("step-*"))
    name = spoil(step / f"{file}.safetensors", number)
    signed_anew(step)
    name = re.escape(name.lstrip("/"))
    says = f"{step}/{file}.safetensors: 1 of the .* numbers of {name} are NaN or infinite: .*a new run"
    with pytest.raises(UserError, match=says):
        run.resume(own)


def test_weights_of_another_model_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    weights = load_weights(RUNS / "sentiment-finished" / "model.safetensors")
    checked, _ = run.read_config(RUNS / "sentiment-finished" / "config.yaml")
    init = {"torch": str(tmp_path / "w.pt"), "leave": ["encoder.embedding*"]}
    tree = checked.model_dump(mode="json") | {"name": "own", "init": init}
    name = next(name for name in weights if "embedding" not in name and weights[name].is_floating_point())
    weights[name].flatten()[0] = float("nan")
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(
        UserError, match=rf"init: .*w.pt: {re.escape(name)} holds numbers there that are NaN or infinite"
    ):
        seqkit.train(tree, root=tmp_path)
    torch.save(
        {**weights, "elsewhere": torch.tensor([-float("inf")]), name: weights[name].nan_to_num()}, tmp_path / "w.pt"
    )
    assert seqkit.train(tree, "training.steps=1", root=tmp_path).folder.exists()  # what is not taken may be so


@pytest.mark.parametrize(
    "key", ["training.optimizer.lr", "training.clip_norm", "model.encoder.dropout", "model.encoder.zoneout"]
)
@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
def test_numbers_of_a_configuration_are_finite(key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^command line: .*{key}: .*finite"):
        run.read_config(RUNS / "sentiment-finished" / "config.yaml", [f"{key}={value}"])
