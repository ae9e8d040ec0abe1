"""Export a run of every shipped configuration, cut short, and compare the folder with the run.

    SEQKIT_DATA=/folder/of/the/data python scripts/experiments/exported_configs.py [CONFIG ...] [--updates 30]

predict.py, as a process, beside the run's `predict` in both formats, line by line: real sentences (Multi30k's test
files), lines of words of the run's own vocabulary, blank ones. `evaluate` of both, by the largest relative difference.
A few updates are enough: what is compared is the computation, not the score. The exit status is 1 if a line differs in
more than the rounding of its numbers, or a score by more than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import seqkit
from seqkit import export, run
from seqkit.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def commands(path: Path) -> list[list[str]]:
    """What the header of a configuration says to type before it: for the runs or files that it starts from."""
    lines = re.findall(r"^#   (?:[A-Z_]+=\S+ )*((?:seqkit train|python) .*)$", path.read_text("utf-8"), re.M)
    place = next(number for number, line in enumerate(lines) if f"seqkit train {path.relative_to(ROOT)}" in line)
    return [shlex.split(line) for line in lines[:place]]


def shortened(path: Path, updates: int, *overrides: str) -> list[str]:
    """Overrides for a few updates, and little to score."""
    few = ["training.epochs=null", f"training.steps={updates}", f"training.evaluate_every={updates}"]
    _, kind = run.read_config(path, overrides)
    for part, limit in (("train", 3000), ("dev", 100), ("test", 200)):
        try:
            run.read_config(path, [*overrides, f"data.{part}.limit={limit}"])
        except UserError:  # no such data, or its short form, a path, which has no limit
            continue
        few.append(f"data.{part}.limit={limit}")
    if kind.kind == "translation":  # what has not learned yet ends no sentence by itself
        few += ["decoding.max_length=30", "training.samples=1"]
    return [*overrides, *few]


def trained(path: Path, updates: int) -> Path:
    """Train what a configuration starts from, and then its run, in the working folder."""
    for program, first, *rest in commands(path):
        if program == "python":
            sys.argv = [first, *rest, "--quick"]
            runpy.run_path(str(ROOT / first), run_name="__main__")
            continue
        config = ROOT / rest[0]
        checked, _ = run.read_config(config, rest[1:])
        if not Path("runs", checked.name or "").is_dir() or not checked.name:
            seqkit.train(config, *shortened(config, updates, *rest[1:]))
    return seqkit.train(path, *shortened(path, updates, f"name=checked-{path.parent.name}-{path.stem}")).folder


def lines_for(task: Any) -> list[str]:
    """Real sentences, lines of words of the vocabulary, blank ones."""
    data, generator = Path(os.environ["SEQKIT_DATA"], "multi30k"), random.Random(0)
    real = [text for name in ("test.de", "test.en") for text in (data / name).read_text("utf-8").splitlines()[:60]]
    words = list((task.source if task.kind == "translation" else task.tokenizer).vocabulary)[4:]
    own = [" ".join(generator.choices(words, k=generator.randint(1, 25))) for _ in range(120)]
    return [*real, *own, "", "  ", "\u3000"]


def near(one: Any, other: Any) -> bool:
    """Whether two values are equal but for the rounding of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(near(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=2e-4)
    return bool(one == other)


def parts(line: str, form: str) -> Any:
    """A line as values: JSON, or the numbers of a language model's, or the text."""
    if form == "jsonl":
        return json.loads(line)
    scores = re.fullmatch(r"(-?[\d.]+)\t([\d.]+)", line)
    return [float(value) for value in scores.groups()] if scores else line


def compared(folder: Path, made: Path) -> Iterator[tuple[str, Any]]:
    """What predict.py and `evaluate` differ in."""
    task = seqkit.load(folder, "cpu")
    texts = lines_for(task)
    Path("lines.txt").write_text("\n".join(texts) + "\n", "utf-8")
    predictions = task.predict(texts)
    for form in ("text", "jsonl"):
        command = [sys.executable, str(made / "predict.py"), "lines.txt", "--format", form]
        rows = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode().split("\n")[:-1]
        want = [task.format(one, form) for one in predictions]
        yield f"{form}_equal", sum(map(str.__eq__, rows, want))
        different = [pair for pair in zip(rows, want, strict=True) if not near(*(parts(one, form) for one in pair))]
        yield f"{form}_different", different[:3]
    yield "lines", len(texts)
    yield "distinct", len(set(want))
    scores, mine = run.evaluate(folder, device="cpu")[0], export.evaluate(made)[0]
    yield "scores_off", max(abs(mine[name] - value) / max(abs(value), 1e-9) for name, value in scores.items())


def main() -> int:
    """Compare, and print a line for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, help="all that are shipped by default")
    parser.add_argument("--updates", type=int, default=30)
    given = parser.parse_args()
    os.environ["SEQKIT_DATA"] = str(Path(os.environ["SEQKIT_DATA"]).resolve())
    configs = [path.resolve() for path in given.configs] or sorted((ROOT / "configs").rglob("*.yaml"))
    warnings.simplefilter("ignore")  # the exporter's own
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for path in configs:
            start = time.perf_counter()
            folder = trained(path, given.updates)
            found = dict(compared(folder, export.export(folder)))
            wrong = bool(found["text_different"] or found["jsonl_different"] or found["scores_off"] > 1e-4)
            bad += wrong
            about = {"config": str(path.relative_to(ROOT)), "good": not wrong, **found}
            print(json.dumps({**about, "seconds": round(time.perf_counter() - start)}, ensure_ascii=False), flush=True)
        os.chdir(ROOT)
    print(f"{len(configs)} configurations, {bad} that differ")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
