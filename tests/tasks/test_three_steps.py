"""Pretrain, adapt, classify: the shipped configurations one after the other, each from the run before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import seqkit
from seqkit.errors import UserError
from seqkit.run import resume
from seqkit.training.checkpoint import load_weights

CONFIGS = Path(__file__).parent.parent.parent / "configs/finetune"
SHORT = ["training.epochs=null", "training.log_every=1"]
SMALL = ["data.train.limit=60", "data.dev.limit=30", "data.test.limit=30"]
UNFREEZE = {"every": 2, "unit": "steps"}


def chain(folder: Path, prefix: str, *overrides: str) -> list[Path]:
    """The run folders of the three steps."""
    small = [] if prefix else SMALL
    steps = {"pretrain": [], "adapt": ["training.steps=4"], "classify": [f"training.unfreeze={UNFREEZE}"]}
    return [
        seqkit.train(
            CONFIGS / f"{prefix}{name}.yaml", *SHORT, "training.steps=8", *small, *own, *overrides, root=folder / "runs"
        ).folder
        for name, own in steps.items()
    ]


@pytest.mark.parametrize("prefix", ["", "sst2-"])
def test_the_three_steps(
    prefix: str,
    tmp_path: Path,
    generated_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # the configurations look for each other's runs where they are started
    monkeypatch.setenv("SEQKIT_DATA", str(generated_data))
    pretrained, adapted, classified = chain(tmp_path, prefix)
    said = capsys.readouterr().err
    assert "left out, not in this model" in said
    log = [json.loads(line) for line in (classified / "metrics.jsonl").read_text().splitlines()]
    stages = [record for record in log if record["split"] == "unfreeze"]
    assert stages[0]["unfrozen"] == ["output.weight", "output.bias"]
    assert stages[-1]["unfrozen"] == ["encoder.embedding.table.weight"]
    assert [record["step"] for record in stages] == list(range(0, 2 * len(stages), 2))
    assert stages[-1]["trained"] == stages[-1]["parameters"]
    assert (pretrained / "tokenizer.json").exists()
    assert (adapted / "tokenizer.json").read_text() == (classified / "tokenizer.json").read_text()
    # The text that was read from a column of a table is the vocabulary's.
    prediction: Any = seqkit.load(classified).predict(["a film"])[0]
    assert prediction.label in ("negative", "neutral", "positive")


def test_while_it_is_frozen_the_encoder_is_that_of_the_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, adapted, classified = chain(tmp_path, "")
    before = load_weights(adapted / "model.safetensors")
    overrides = [*SHORT, *SMALL, "training.steps=2", f"training.unfreeze={UNFREEZE}", "name=frozen"]
    frozen = seqkit.train(CONFIGS / "classify.yaml", *overrides, root=tmp_path / "runs").folder
    after, later = (load_weights(run / "model.safetensors") for run in (frozen, classified))
    shared = [name for name in after if name.startswith("encoder.")]
    assert len(shared) == 9
    for name in shared:
        assert torch.equal(before[name], after[name])
    # The best of the longer run may be of an early stage; its last checkpoint is not.
    last = load_weights(max((classified / "checkpoints").glob("step-*")) / "model.safetensors")
    assert all(not torch.equal(before[name], last[name]) for name in shared), later.keys()


def test_a_classifier_killed_in_any_stage_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ["training.checkpoint_every=1", "training.evaluate_every=1", "training.keep_best=99", "training.ema=0.9"]
    whole = chain(tmp_path, "", *kept)[-1]
    last = "checkpoints/step-00000008"
    for step in (1, 2, 5):
        cut = whole.with_name(f"cut-{step}")
        shutil.copytree(whole, cut)
        for path in cut.glob("checkpoints/step-*"):
            if int(path.name[5:]) > step:
                shutil.rmtree(path)
        resume(cut)
        for name in ("model.safetensors", "metrics.jsonl", f"{last}/model.safetensors", f"{last}/trainer.safetensors"):
            assert (cut / name).read_bytes() == (whole / name).read_bytes(), (step, name)


def test_what_cannot_be_is_refused_before_the_run_folder_is_made(tmp_path: Path) -> None:
    tree = ["init=null", "text={lowercase: true}", *SMALL, "name=bad"]
    for override, message in {
        "training.freeze=[encodr.embedding*]": r"training\.freeze: 'encodr\.embedding\*' .*did you mean 'encoder",
        "training.freeze=['*']": "every parameter is frozen",
        "training.unfreeze={evry: 1}": "did you mean 'every'",
        "training.unfreeze={stages: [{at: 0, train: ['outptu*']}, {at: 1, train: ['*']}]}": "outptu",
    }.items():
        with pytest.raises(UserError, match=message):
            seqkit.train(CONFIGS / "classify.yaml", *tree, override, root=tmp_path)
        assert not (tmp_path / "bad").exists()
