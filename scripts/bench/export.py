"""Times an exported run: predict.py and ONNX Runtime beside seqkit and, for translation, a plain torch script.

    python scripts/bench/export.py RUN FILE [--clock cpu]        # FILE holds texts, one a line

one       p50 of one line at a time, each side by itself: predict.py's class, the run's `predict`, and for translation
          the greedy loop of `scripts/peers/translation.py`, a model of the run's sizes that takes as many steps
lines     a process for --lines lines, from its start to its end: predict.py, and `seqkit translate` or `predict`
start     from the start of a process to the first answer of predict.py, less the same for the imports alone

Everything is timed in turn. --clock cpu counts CPU time, on a machine that others use.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import goal, medians, parser_for, seconds, setting, take_turns, write
from peers import translation as peer

import seqkit
from seqkit.export import export

IMPORTS = "import argparse, json, re, sys, pathlib, typing, numpy, onnxruntime; from tokenizers import Tokenizer"


def predictor(folder: Path) -> Callable[[Sequence[str]], Any]:
    """The class of predict.py in an exported folder."""
    sys.path.insert(0, str(folder))  # where its exported.py lies
    spec = importlib.util.spec_from_file_location("predict", folder / "predict.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["predict"] = module
    spec.loader.exec_module(module)
    found: Callable[[Sequence[str]], Any] = module.Predictor(folder)
    return found


def peer_of(task: Any) -> Callable[[str, int], object]:
    """A torch script's greedy translation of a line in so many steps, by a model of the sizes of a run."""
    decoder = task.model.decoder
    model = peer.Translator(len(task.source), len(task.target), decoder.query_size, 0.0, decoder.input_feeding).eval()
    model.output.bias.data[peer.EOS] = -1e9  # it never ends by itself

    def run(text: str, steps: int) -> object:
        ids = torch.tensor(task.source.encode([text]))
        return peer.greedy(model, ids, torch.tensor([ids.size(1)]), steps)

    return run


def one_line(run: Path, folder: Path, texts: Sequence[str], clock: str) -> dict[str, list[float]]:
    """Seconds of each line on each side."""
    task, exported = seqkit.load(run, "cpu"), predictor(folder)
    sides = {"predict.py": lambda text: exported([text]), "seqkit": lambda text: task.predict([text])}
    if task.kind == "translation":
        script, steps = (
            peer_of(task),
            {text: len(one.log_probs) for text, one in zip(texts, task.predict(texts), strict=True)},
        )
        sides["torch script"] = lambda text: script(text, max(1, steps[text]))
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(4):  # each side by itself, as it would be used; the first turn does not count
        for name, side in list(sides.items())[:: 1 if turn % 2 else -1]:
            values = [seconds(partial(side, text), clock=clock) for text in texts]
            found[name] += values if turn else []
    return found


def process(arguments: Sequence[str], clock: str) -> float:
    """Seconds of a process: of the wall, or of the CPU."""
    wall, before = time.perf_counter(), os.times()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu if clock == "cpu" else time.perf_counter() - wall


def main() -> None:
    parser = parser_for(__doc__, rounds=3, clock=True)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--single", type=int, default=300, help="lines that are timed one at a time (%(default)s)")
    args = parser.parse_args()
    about = setting(args, run=args.run.name)
    texts = [text for text in args.file.read_text("utf-8").splitlines() if text.strip()]
    with tempfile.TemporaryDirectory() as name:
        folder = export(args.run, Path(name, "exported"))
        many, single = Path(name, "many"), Path(name, "single")
        many.write_text("\n".join(itertools.islice(itertools.cycle(texts), args.lines)) + "\n", "utf-8")
        single.write_text(texts[0] + "\n", "utf-8")
        latency = one_line(args.run, folder, texts[: args.single], args.clock)
        kind = "translate" if seqkit.load(args.run, "cpu").kind == "translation" else "predict"
        script = [sys.executable, str(folder / "predict.py")]
        whole = [sys.executable, "-m", "seqkit", kind, str(args.run), str(many)]
        measures = {
            "predict.py": partial(process, [*script, str(many)], args.clock),
            "seqkit": partial(process, whole, args.clock),
        }
        lines = medians(take_turns(measures, args.rounds))
        measures = {
            "first answer": partial(process, [*script, str(single)], args.clock),
            "imports": partial(process, [sys.executable, "-c", IMPORTS], args.clock),
        }
        start = take_turns(measures, 3 * args.rounds)
    p50 = {side: 1e3 * statistics.median(values) for side, values in latency.items()}
    print("one line, p50 ms:", ", ".join(f"{side} {value:.2f}" for side, value in p50.items()))
    print(f"{args.lines:,} lines, s:", ", ".join(f"{side} {value:.2f}" for side, value in lines.items()))
    print("start, s:", ", ".join(f"{side} {value:.2f}" for side, value in medians(start).items()))
    extra = statistics.median(one - other for one, other in zip(start["first answer"], start["imports"], strict=True))
    goals = [
        goal("10,000 lines, seqkit / predict.py", lines["seqkit"] / lines["predict.py"], 1.0),
        goal("start, s over the imports", extra, 0.15, most=True),
    ]
    if "torch script" in p50:
        goals.insert(0, goal("one line, torch script / predict.py", p50["torch script"] / p50["predict.py"], 2.0))
    write(args, about, [{"p50_ms": p50, "lines_s": lines, "start_s": medians(start)}], goals)


if __name__ == "__main__":
    main()
