"""Trains on a generated corpus of many sentence pairs and says what it takes: memory, waiting, and the time until then.

    python scripts/bench/corpus.py --pairs 10000 1000000 10000000 --folder /tmp/corpus

The pairs are those of builtin:phrases (with --draw fewer are drawn, and repeated: drawing takes a minute for each
half a million). They lie as two text files in --folder with a cache of their own; files that are there are used
again. Each row of the table is one process that trains the model of configs/translation/quickstart.yaml for --steps
updates, once with an empty cache and once with a full one.

rows/s        first reading, text into Arrow
tokens/s      tokenising, both sides; like the rows in processor time (of all threads together), so that what else runs
              on the machine does not show
first step    seconds from the start of `seqkit.train` to the end of the first update: of the clock, of the processor
RssAnon       peak anonymous memory (mapped files do not count), MB, sampled 50 times a second
waiting       share of the training time in which the loop waits for data, as timing.jsonl has it
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import parser_for, setting, write

SIDES = {"source": "en", "target": "de"}


def generate(folder: Path, pairs: int, draw: int) -> None:
    """Two text files with so many pairs, of which the first `draw` are new."""
    from seqkit.data import builtin

    paths = {side: folder / f"phrases-{pairs}.{ending}" for side, ending in SIDES.items()}
    if all(path.exists() for path in paths.values()):
        return
    drawn = min(pairs, draw)
    parts = {side: path.with_name(path.name + ".part") for side, path in paths.items()}
    with parts["source"].open("w") as source, parts["target"].open("w") as target:
        for row in itertools.islice(builtin.rows("phrases", "train"), drawn):
            source.write(row["source"] + "\n")
            target.write(row["target"] + "\n")
    for side, path in paths.items():
        with parts[side].open("rb") as lines, path.open("wb") as file:
            for _ in range(pairs // drawn):
                lines.seek(0)
                shutil.copyfileobj(lines, file, 1 << 20)
            lines.seek(0)
            file.writelines(itertools.islice(lines, pairs % drawn))
        parts[side].unlink()


class Memory(threading.Thread):
    """Watches this process's RssAnon."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.peaks = 0.0, {}  # type: ignore[var-annotated]
        self.start()

    def run(self) -> None:
        while True:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            self.peak = max(self.peak, int(found[1]) / 1024 if found else 0.0)
            time.sleep(0.02)

    def mark(self, name: str) -> None:
        """The peak since the last mark."""
        self.peaks[name], self.peak = round(self.peak), 0.0


def configuration(folder: Path, pairs: int, steps: int, window: int) -> dict[str, Any]:
    train = {side: str(folder / f"phrases-{pairs}.{ending}") for side, ending in SIDES.items()}
    data: dict[str, Any] = {"train": train, "batch_size": 64}
    if window:
        data["window"] = window
    return {
        "task": "translation",
        "data": data,
        "text": {"split": "spaces"},
        "model": {
            "source": {"size": 128},
            "target": {"size": 128},
            "encoder": {"cell": "lstm", "hidden_size": 128, "bidirectional": True},
            "decoder": {"cell": "lstm", "hidden_size": 128, "attention": "general"},
        },
        "training": {"steps": steps, "log_every": 10, "optimizer": {"name": "adamw", "lr": 4e-3}},
    }


def train(args: argparse.Namespace, pairs: int) -> dict[str, Any]:
    """In this process; what was measured."""
    started = time.perf_counter()
    import torch

    import seqkit
    from seqkit.data import pairs as pair_module
    from seqkit.tasks.translation import data as translation_data
    from seqkit.training import update

    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {"import": time.perf_counter() - started}
    memory = Memory()

    def timed(module: Any, name: str, key: str) -> None:
        plain = getattr(module, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return plain(*arguments, **options)
            finally:
                found[key] = found.get(key, 0.0) + time.process_time() - start
                memory.mark(key)

        setattr(module, name, wrapper)

    timed(pair_module, "open_job", "reading")
    timed(translation_data, "encode_column", "tokenising")
    plain = update.Updater.__call__

    def step(*arguments: Any) -> Any:
        done = plain(*arguments)
        if "first_step" not in found:
            found["first_step"] = time.perf_counter() - begun, time.process_time() - used
            memory.mark("before the first step")
        return done

    update.Updater.__call__ = step  # type: ignore[method-assign,assignment]
    begun, used = time.perf_counter(), time.process_time()
    root = args.folder / "runs"
    with contextlib.redirect_stderr(io.StringIO()):
        run = seqkit.train(configuration(args.folder, pairs, args.steps, args.window), root=root)
    memory.mark("training")
    records = [json.loads(line) for line in (run.folder / "timing.jsonl").read_text().splitlines()][1:]
    found["waiting"] = sum(r["waiting_for_data"] for r in records) / sum(r["seconds"] for r in records)
    shutil.rmtree(run.folder)
    cached = sorted((args.folder / "cache" / "seqkit").glob("ids-*.json"))
    found["tokens"] = sum(json.loads(path.read_text())["tokens"] for path in cached)
    return {**found, "peaks": memory.peaks}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/seqkit-corpus"))
    parser.add_argument("--draw", type=int, default=1_000_000, help="different pairs; the rest are these again")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--window", type=int, default=0, help="data.window, to stream in the place of an index")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.one:
        print(json.dumps(train(args, args.pairs[0])))
        return
    cache, about, measured = args.folder / "cache", setting(args), []
    print(f"{'pairs':>10} {'cache':>6} {'rows/s':>9} {'tokens/s':>10} {'first step':>18} {'RssAnon':>8} {'waiting':>8}")
    for pairs in args.pairs:
        generate(args.folder, pairs, args.draw)
        shutil.rmtree(cache, ignore_errors=True)
        for state in ("empty", "full"):
            command = [sys.executable, __file__, *sys.argv[1:], "--one", "--pairs", str(pairs)]
            threads = str(args.threads)
            env = {
                **os.environ,
                "HF_DATASETS_CACHE": str(cache),
                "OMP_NUM_THREADS": threads,
                "RAYON_NUM_THREADS": threads,
            }
            done = subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout)
            measured.append({"pairs": pairs, "cache": state, **found})
            rows = f"{pairs / found['reading']:,.0f}" if state == "empty" and "reading" in found else ""
            speed = (
                f"{found['tokens'] / found['tokenising']:,.0f}" if state == "empty" and "tokenising" in found else ""
            )
            peak = max(found["peaks"].values())
            first, used = found["first_step"]
            print(
                f"{pairs:>10,} {state:>6} {rows:>9} {speed:>10} {first:>9.1f}s {used:>6.1f}s {peak:>8,} "
                f"{found['waiting']:>8.2%}   {json.dumps(found['peaks'])}",
                flush=True,
            )
    shutil.rmtree(cache, ignore_errors=True)
    write(args, about, measured)


if __name__ == "__main__":
    main()
