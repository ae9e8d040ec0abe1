"""Low-rank adapters beside full fine-tuning, from the same earlier run: scores, trained parameters, memory, time.

    SEQKIT_DATA=/folder/of/the/data python scripts/experiments/lora.py --seeds 5      # about 12 minutes of one core

For each seed the training part of sst3 is cut into two halves that share no sentence. A BiLSTM of two classes, from
GloVe vectors, learns from the first half, its neutral sentences left out. Two models of three classes start from it and
learn from the second half: one whole, one by adapters on its recurrent weights and pooling, with a new output layer.
Dev chooses the epoch of each, and for each way one of three learning rates, the same for all seeds; the table is of
test. Memory is that of the tensors at the highest point of 6 updates on the same batches, as torch's allocator counts
them: weights, gradients, the optimiser's moments, what the backward pass needs. Time is that of the processor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from seqkit.nn import add_lora
from seqkit.run import load, read_config, train
from seqkit.training import Trainer

FIRST: dict[str, Any] = {"epochs": 5, "optimizer": {"lr": 2e-3}, "schedule": {"name": "cosine", "warmup": 0.05}}
LORA = {"rank": 4, "alpha": 8.0, "on": ["encoder.recurrent*", "pooling*"], "train": ["output*"]}
RATES = {"full": [5e-4, 1e-3, 2e-3], "lora": [2e-3, 4e-3, 8e-3]}


def halves(data: Path, folder: Path, seed: int) -> dict[str, Path]:
    """The two halves of sst3's training part as files, the first without its neutral sentences, and dev likewise."""
    header, *rows = (data / "sst3/train.tsv").read_text("utf-8").splitlines()
    rows = list(dict.fromkeys(rows))
    random.Random(seed).shuffle(rows)
    label = header.split("\t").index("label")
    dev = (data / "sst3/dev.tsv").read_text("utf-8").splitlines()[1:]
    parts = {"first": rows[: len(rows) // 2], "second": rows[len(rows) // 2 :], "dev2": dev}
    found = {}
    for name, part in parts.items():
        kept = [row for row in part if name == "second" or row.split("\t")[label] != "neutral"]
        found[name] = folder / f"{name}.tsv"
        found[name].write_text("\n".join([header, *kept]) + "\n", "utf-8")
    return found


def settings(data: Path, files: dict[str, Path], seed: int, hidden: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configurations of the first run, and of a second without what makes it full or adapted."""
    vectors = {"vectors": str(data / "glove.6b.100d.subset.txt.gz"), "vectors_norm": 10.0, "vectors_vocabulary": True}
    model = {
        "embedding": {"size": 100, "dropout": 0.3, "word_dropout": 0.1},
        "encoder": {"hidden_size": hidden, "bidirectional": True, "init": "orthogonal", "forget_bias": 1.0},
        "pooling": "attention",
        "dropout": 0.5,
    }
    common = {"task": "sentiment", "seed": seed, "device": "cpu"}
    first = {
        **common,
        "name": f"first-{seed}",
        "data": {"train": str(files["first"]), "dev": str(files["dev2"]), "batch_size": 50},
        "text": {"lowercase": True},
        "model": {**model, "embedding": {**model["embedding"], **vectors}},  # type: ignore[dict-item]
        "training": FIRST,
    }
    parts = {"train": str(files["second"]), "dev": str(data / "sst3/dev.tsv"), "test": str(data / "sst3/test.tsv")}
    return first, {**common, "data": {**parts, "batch_size": 50}, "model": model}


def second(base: dict[str, Any], way: str, run: Path, rate: float, epochs: int) -> dict[str, Any]:
    """The configuration of a fine-tuning."""
    found = {**base, "name": f"{way}-{base['seed']}-{rate:g}", "init": {"run": str(run)}}
    if way == "lora":
        found["lora"] = LORA
    found["training"] = {
        "epochs": epochs,
        "metric": "macro_f1",
        "class_weights": "balanced",
        "optimizer": {"lr": rate},
        "schedule": {"name": "cosine", "warmup": 0.05},
    }
    return found


def memory(tree: dict[str, Any]) -> dict[str, float]:
    """Of an update: the MB of tensors at the peak, and the milliseconds of the processor (median)."""
    checked, kind = read_config({**tree, "lora": None})
    task = kind.create(checked)
    batches = list(task.batches(0))[:20]
    if "lora" in tree:
        add_lora(task.model, **tree["lora"])
    times = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, checked.training, folder, device="cpu")
        for step, batch in enumerate(batches[:14]):
            started = time.process_time()
            trainer.updater([batch], step, 1000, 1.0)
            times.append(time.process_time() - started)
        moments = [value for state in trainer.updater.optimizer.state.values() for value in state.values()]
        held = sum(value.nbytes for value in [*task.model.parameters(), *moments])
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            for step, batch in enumerate(batches[14:], 14):
                trainer.updater([batch], step, 1000, 1.0)
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    changes = [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]
    peak = held + max(itertools.accumulate(changes))
    return {"mb": peak / 2**20, "ms": statistics.median(times) * 1000}


def measured(tree: dict[str, Any]) -> dict[str, float]:
    """`memory` in a process of its own."""
    command = [sys.executable, __file__, "--memory", json.dumps(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def trained(tree: dict[str, Any], run: Path) -> tuple[int, int]:
    """How many parameters train, of how many."""
    model = load(run, device="cpu").model
    total = sum(value.numel() for value in model.parameters())
    return (add_lora(model, **tree["lora"]).trained, total) if "lora" in tree else (total, total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        print(json.dumps(memory(json.loads(given.memory))))
        return
    data = Path(os.environ["SEQKIT_DATA"])
    dev: dict[tuple[str, float], list[dict[str, float]]] = {}
    test: dict[tuple[str, float], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for seed in range(1, given.seeds + 1):
            first, base = settings(data, halves(data, root, seed), seed, given.hidden)
            run = train(first, root=root).folder
            for way, rate in [(way, rate) for way, rates in RATES.items() for rate in rates]:
                done = train(second(base, way, run, rate, given.epochs), root=root)
                dev.setdefault((way, rate), []).append(done.dev)
                test.setdefault((way, rate), []).append(done.test)
                print(f"seed {seed} {way} {rate:g} dev {done.dev['macro_f1']:.4f} test {done.test}", flush=True)
        best = {way: max((mean(dev[way, rate]), rate) for rate in rates)[1] for way, rates in RATES.items()}
        for way, rate in best.items():
            print(f"{way}: dev macro_f1", ", ".join(f"{mean(dev[way, rate]):.4f} at {rate:g}" for rate in RATES[way]))
            report(way, test[way, rate], second(base, way, run, rate, given.epochs), run)
        compare(test["full", best["full"]], test["lora", best["lora"]])


def mean(scores: list[dict[str, float]]) -> float:
    """Of the score that dev chooses by."""
    return statistics.mean(one["macro_f1"] for one in scores)


def report(way: str, scores: list[dict[str, float]], tree: dict[str, Any], run: Path) -> None:
    """What a way costs, and its scores over the seeds."""
    some, total = trained(tree, run)
    used = measured(tree)
    print(f"{way:10} {some:,} of {total:,} train ({some / total:.2%})  {used['mb']:.0f} MB  {used['ms']:.0f} ms")
    for score in ("accuracy", "macro_f1"):
        values = [one[score] for one in scores]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        shown = " ".join(f"{value:.4f}" for value in values)
        print(f"  {score:9} {statistics.mean(values):.4f} (deviation {spread:.4f})  {shown}")


def compare(full: list[dict[str, float]], lora: list[dict[str, float]]) -> None:
    """The difference, seed by seed."""
    for score in ("accuracy", "macro_f1"):
        gains = [one[score] - other[score] for one, other in zip(lora, full, strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        print(f"lora - full, {score}: {statistics.mean(gains) * 100:+.2f} points (standard error {error * 100:.2f})")


if __name__ == "__main__":
    main()
