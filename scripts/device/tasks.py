"""The four tasks on a device: the CPU's losses, exact resume, predictions, and the same bits twice."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from device.report import Report

import seqkit
from seqkit import run
from seqkit.errors import Stopped

ROOT = Path(__file__).resolve().parent.parent.parent
UPDATES = 30
COMMON = [
    "data.train.limit=1200", "data.dev.limit=60", "data.test.limit=40", "training.epochs=null",
    "training.log_every=1", "training.evaluate_every=15", "training.schedule=constant",
]  # fmt: skip
TASKS: dict[str, tuple[str, list[str]]] = {
    "sentiment": ("sentiment/quickstart.yaml", []),
    "translation": ("translation/quickstart.yaml", ["decoding.max_length=20"]),
    "slots": ("slots/travel.yaml", []),
    "language_model": ("language_model/quickstart.yaml", []),
}
# More of each task, in a few updates: what the quickstarts leave out.
MORE: dict[str, tuple[str, list[str]]] = {
    "sentiment: GRU, ema, bf16": (
        "sentiment",
        ["model.encoder.cell=gru", "training.ema=0.9", "training.precision=bf16"],
    ),
    "sentiment: bag of variants": (
        "sentiment",
        ["model.encoder.peephole=true", "model.encoder.zoneout=0.1", "model.encoder.recurrent_dropout=0.2"],
    ),
    "translation: input feeding": ("translation", ["model.decoder.input_feeding=true"]),
    "translation: bf16, two layers": (
        "translation",
        ["model.encoder.num_layers=2", "model.encoder.dropout=0.1", "training.precision=bf16"],
    ),
    "slots: characters": ("slots", ["model.characters={encoder: {hidden_size: 8}}"]),
    "language_model: accumulate": ("language_model", ["training.accumulate=2"]),
    "sentiment: layer norm, fp16": ("sentiment", ["model.encoder.layer_norm=true", "training.precision=fp16"]),
}
TEXTS = {
    "sentiment": ["nobody would say that the acting was dull", "the plot is dull", ""],
    "translation": ["the old man sleeps .", "the dog sees a cat ."],
    "slots": ["i want to fly from berlin to rome", "cheap flights"],
    "language_model": ["the plot is dull", "the acting"],
}


def check(report: Report) -> None:
    """All of it, in folders that are thrown away."""
    warnings.simplefilter("default")
    names = list(TASKS)[:1] if report.quick else list(TASKS)
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        for name in names:
            with report.case(f"{name}: trains as on the CPU") as values:
                _beside_the_cpu(name, report.device, values)
            with report.case(f"{name}: resumes to the same bits"):
                _resumed(name, report.device)
            with report.case(f"{name}: predicts as on the CPU"):
                _predicts(name, report.device)
            with report.case(f"{name}: the same bits twice, deterministic") as values:
                _twice(name, report.device, values)
            with report.case(f"{name}: resumes on the CPU"):
                _elsewhere(name, report.device)
        if report.device == "cuda":
            with report.case("out of memory: one line, and resume goes on"):
                _out_of_memory()
        for name, (task, overrides) in ({} if report.quick else MORE).items():
            with report.case(name) as values:
                _train(task, f"more-{len(report.rows)}", report.device, 6, *overrides)
                losses = _losses(f"more-{len(report.rows)}")
                values["losses"] = losses
                assert all(loss == loss and abs(loss) < 1e4 for loss in losses), losses


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _train(task: str, name: str, device: str, updates: int, *overrides: str) -> Any:
    config, own = TASKS[task]
    given = [*COMMON, *own, f"training.steps={updates}", f"name={name}", f"device={device}", *overrides]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return seqkit.train(ROOT / "configs" / config, *given, overwrite=True)


def _losses(name: str) -> list[float]:
    lines = (Path("runs") / name / "metrics.jsonl").read_text("utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "grad_norm" in record]


def _beside_the_cpu(task: str, device: str, values: dict[str, Any]) -> None:
    """Without dropout both see the same updates; rounding may drift apart over 30 of them."""
    plain = ["model.dropout=0"] if task in ("sentiment", "slots") else []
    plain += ["model.output_dropout=0"] if task == "language_model" else []
    found = []
    for where in (device, "cpu"):
        _train(task, f"{task}-{where}", where, UPDATES, *plain)
        found.append(_losses(f"{task}-{where}"))
    assert len(found[0]) == UPDATES, found[0]
    first = max(abs(one - other) / other for one, other in zip(*(part[:3] for part in found), strict=True))
    later = max(abs(one - other) / other for one, other in zip(*found, strict=True))
    values |= {"first 3": first, "all": later, "last loss": found[0][-1]}
    assert first < 1e-3, f"the first losses are {found[0][:3]}, on the CPU {found[1][:3]}"
    assert later < 0.05, f"losses drift apart by {later:.1%}: {found[0][-3:]}, on the CPU {found[1][-3:]}"


def _resumed(task: str, device: str) -> None:
    """30 updates at once, and 15, then 15 more from the checkpoint; dropout included."""
    _train(task, f"{task}-whole", device, UPDATES, "training.deterministic=true")
    _train(task, f"{task}-half", device, UPDATES // 2, "training.deterministic=true")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        run.resume(f"runs/{task}-half", f"training.steps={UPDATES}")
    _same(f"{task}-whole", f"{task}-half")


def _twice(task: str, device: str, values: dict[str, Any]) -> None:
    _train(task, f"{task}-again", device, UPDATES, "training.deterministic=true")
    _same(f"{task}-whole", f"{task}-again")
    _train(task, f"{task}-loose", device, UPDATES)
    values["without deterministic, the same losses"] = _losses(f"{task}-loose") == _losses(f"{task}-whole")


def _elsewhere(task: str, device: str) -> None:
    """What was learned on the device goes on learning on the CPU, and back: the loss falls no less."""
    _train(task, f"{task}-moved", device, UPDATES // 2)
    for where, updates in (("cpu", UPDATES), (device, UPDATES + 5)):
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            run.resume(f"runs/{task}-moved", f"device={where}", f"training.steps={updates}")
    moved, stayed = _losses(f"{task}-moved"), _losses(f"{task}-whole")
    assert len(moved) == UPDATES + 5
    last = sum(moved[UPDATES - 5 : UPDATES]) / sum(stayed[UPDATES - 5 :])
    assert 0.8 < last < 1.25, f"the last losses are {last:.2f} times those of the run that stayed"


def _out_of_memory() -> None:
    """With memory for weights and gradients but not for the optimiser's moments."""
    torch.cuda.empty_cache()
    wanted = ["model.encoder.hidden_size=1536", "training.checkpoint_every=1"]
    _train("sentiment", "large", "cuda", 1, *wanted)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(150 * 2**20 / torch.cuda.get_device_properties(0).total_memory)
    said = "there was enough memory"
    try:
        _train("sentiment", "large", "cuda", 3, *wanted, "training.evaluate_every=100")
    except Stopped as stopped:
        said = str(stopped)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        run.resume("runs/large")
    for part in ("cuda is out of memory", "the batch: ids ", "smaller data.batch_size", "seqkit resume runs/large"):
        assert part in said, said
    assert "\n" not in said, said
    assert len(_losses("large")) == 3


def _same(one: str, other: str) -> None:
    assert _losses(one) == _losses(other), f"{_losses(one)[-2:]} and {_losses(other)[-2:]}"
    left, right = (Path("runs") / name / "model.safetensors" for name in (one, other))
    assert left.read_bytes() == right.read_bytes(), "the weights differ"


def _predicts(task: str, device: str) -> None:
    """One run folder, loaded on both devices: the same answers."""
    answers = []
    for where in (device, "cpu"):
        loaded = run.load(f"runs/{task}-whole", device=where)
        found = loaded.predict(TEXTS[task])
        answers.append([_plain(one) for one in found])
    for one, other in zip(*answers, strict=True):
        assert _near(one, other), f"{one} and on the CPU {other}"
    torch.manual_seed(0)


def _plain(value: Any) -> Any:
    if hasattr(value, "__dict__"):
        return {name: _plain(part) for name, part in vars(value).items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, float):
        return abs(one - other) <= 1e-3 * max(1.0, abs(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_near(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_near, one, other))
    return bool(one == other)
