"""Does a language model help a classifier? configs/finetune/sst2-*.yaml against the same classifier from scratch.

    SEQKIT_DATA=/folder/of/the/data python scripts/experiments/pretraining.py              # about an hour on one core
    ... python scripts/experiments/pretraining.py --adapted runs/sst2-adapted --without-shipped     # 12 minutes

The language model learns from the training texts of sst3 and the English side of Multi30k, without the sentences that
are also in dev or test of sst2 or sst3 (compared by their letters and digits alone). It is trained, and adapted to the
training texts of sst2, once, and becomes a classifier with each seed. Beside it, for each seed, from scratch: the same
classifier with all its layers trained from the start, and the best model without vectors of
configs/sentiment/sst2.yaml. Dev chooses the epoch of each.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
from pathlib import Path

from seqkit.run import train

CONFIGS = Path(__file__).parents[2] / "configs"
HELD_OUT = ("sst2/dev", "sst2/test", "sst3/dev", "sst3/test")
FINE_TUNED, SAME, SHIPPED = "fine-tuned", "from scratch", "from scratch, sst2.yaml"

# Tuned on dev like the fine-tuned one.
SCRATCH = [
    "init=null",
    "text={lowercase: true}",
    "training.unfreeze=null",
    "training.optimizer.layer_decay=1.0",
    "training.optimizer.lr=2.0e-3",
    "training.epochs=8",
    "model.embedding.embedding_dropout=0.2",
    "model.dropout=0.5",
]
# As in the header of sst2.yaml.
SHIPPED_SCRATCH = [
    "model.embedding.vectors=null",
    "model.embedding.vectors_norm=null",
    "model.embedding.vectors_vocabulary=false",
    "model.embedding.word_dropout=0.1",
    "model.embedding.embedding_dropout=0.2",
    "model.embedding.dropout=0.5",
    "model.embedding.init_std=0.1",
    "model.encoder.hidden_size=64",
    "training.adversarial=0.07",
    "training.ema=0.998",
    "training.epochs=6",
]


def texts(path: Path) -> list[str]:
    """The column `text` of a file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def letters(text: str) -> str:
    """What two spellings of a sentence have in common."""
    return "".join(char for char in text.lower() if char.isalnum())


def allowed(data: Path, folder: Path) -> Path:
    """Write the training texts of sst3 that are in no held-out part; returns the file."""
    held = {letters(text) for part in HELD_OUT for text in texts(data / f"{part}.tsv")}
    every = texts(data / "sst3/train.tsv")
    kept = [text for text in every if letters(text) not in held]
    print(f"sst3 train: {len(every) - len(kept)} of {len(every)} sentences are also held out, and left out")
    path = folder / "sst3.txt"
    path.write_text("".join(text + "\n" for text in kept), "utf-8")
    return path


def adapt(data: Path, folder: Path) -> Path:
    """The first two steps; returns the run."""
    source = f"data.train={{path: {allowed(data, folder)}, format: text}}"
    earlier = train(CONFIGS / "finetune/sst2-pretrain.yaml", source, root=folder, overwrite=True).folder
    return train(CONFIGS / "finetune/sst2-adapt.yaml", f"init.run={earlier}", root=folder, overwrite=True).folder


def one_seed(folder: Path, adapted: Path, seed: int, shipped: bool) -> dict[str, tuple[float, float]]:
    """Accuracy on dev and test of each."""
    classify = CONFIGS / "finetune/sst2-classify.yaml"
    wanted = {
        FINE_TUNED: (classify, [f"name=tuned-{seed}", f"init.run={adapted}"]),
        SAME: (classify, [f"name=scratch-{seed}", *SCRATCH]),
    }
    if shipped:
        wanted[SHIPPED] = (CONFIGS / "sentiment/sst2.yaml", [f"name=shipped-{seed}", *SHIPPED_SCRATCH])
    found = {
        name: train(config, f"seed={seed}", *overrides, root=folder, overwrite=True)
        for name, (config, overrides) in wanted.items()
    }
    return {name: (run.dev["accuracy"], run.test["accuracy"]) for name, run in found.items()}


def table(found: list[dict[str, tuple[float, float]]]) -> str:
    """Mean (deviation) of each, and the mean gain of the fine-tuned one with its standard error, seed by seed."""
    lines = ["| sst2, accuracy | dev | test | gain on test | standard error |", "|---|---|---|---|---|"]
    for name in found[0]:
        parts = [[seed[name][place] for seed in found] for place in (0, 1)]
        gains = [seed[FINE_TUNED][1] - seed[name][1] for seed in found]
        cells = [f"{statistics.mean(part):.3f} ({deviation(part):.3f})" for part in parts]
        gain = [f"{statistics.mean(gains):+.3f}", f"{deviation(gains) / len(gains) ** 0.5:.3f}"]
        lines.append(f"| {' | '.join([name, *cells, *(gain if name != FINE_TUNED else ['', ''])])} |")
    return "\n".join(lines)


def deviation(some: list[float]) -> float:
    """The sample's standard deviation; of a single number 0."""
    return statistics.stdev(some) if len(some) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder")
    parser.add_argument("--adapted", type=Path, help="take this run as the language model")
    parser.add_argument("--without-shipped", action="store_true", help="leave out the model of sst2.yaml")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.runs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        adapted = given.adapted or adapt(Path(os.environ["SEQKIT_DATA"]), folder)
        found = []
        for seed in range(1, given.seeds + 1):
            found.append(one_seed(folder, adapted, seed, not given.without_shipped))
            print(f"seed {seed}: {found[-1]}", flush=True)
            print(table(found), flush=True)


if __name__ == "__main__":
    main()
