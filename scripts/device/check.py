"""Check seqkit on a device in a few minutes: correct, trains, how fast; prints a table and writes JSON.

    python scripts/device/check.py                                    # cuda, all parts, at most 4 minutes
    python scripts/device/check.py --device mps --minutes 10
    python scripts/device/check.py --device cpu --quick               # seconds: that the script itself works
    python scripts/device/check.py --parts nn,tasks --out found.json

Parts, in the order of their worth:
    nn         seqkit.nn against float64 on the CPU: cells, variants, lengths, gradients, evaluation mode, second
               derivatives, autocast, empty batches, default device
    tasks      30 updates of each task beside the CPU's, resumed, predicted; two runs with deterministic: true
    speed      LSTM, GRU, RNN against torch.nn, padded and packed; variants; tasks and decoding
    processes  two processes with a device each, where there are two

Needs no network and no data. The clock stops it: what was not reached is listed. Exits with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

from bench.timing import synchronise  # noqa: E402 (found by the lines above)
from device.report import Report  # noqa: E402

PARTS = ("nn", "tasks", "speed", "processes")


def surroundings(device: str) -> dict[str, object]:
    """Versions and the name of the device."""
    found: dict[str, object] = {"torch": torch.__version__, "python": platform.python_version(), "device": device}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "count": torch.cuda.device_count(),
        }
    for name in ("triton", "numpy", "datasets", "sacrebleu"):
        try:
            found[name] = importlib.import_module(name).__version__
        except ImportError:
            found[name] = None
    return found


MARGIN = 10.0  # seconds in which processes start, and write what they have found


def workers(args: argparse.Namespace) -> int:
    """How many processes share the work: on CUDA a few, elsewhere one."""
    if args.workers is not None:
        return int(args.workers)
    return max(1, min(8, (os.cpu_count() or 2) // 2)) if args.device == "cuda" and not args.quick else 1


def in_processes(report: Report, args: argparse.Namespace, part: str, count: int, *more: str) -> None:
    """Run a part in several processes and take what they find; of those that only warm up, failures alone."""
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for number in range(count):
            out = Path(folder) / f"{number}.json"
            command = [
                sys.executable, __file__, "--device", args.device, "--parts", part, "--only", args.only,
                "--minutes", str((report.left() - MARGIN) / 60), "--share", f"{number}/{count}",
                "--out", str(out), *more,
            ]  # fmt: skip
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            log = (Path(folder) / f"{number}.log").open("w")
            running.append((out, subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)))
        for out, process in running:
            try:
                process.wait(max(1.0, report.left()))
            except subprocess.TimeoutExpired:
                process.kill()
            if not out.exists():
                with report.case(f"process {out.stem} of {count}"):
                    raise RuntimeError(out.with_suffix(".log").read_text("utf-8", errors="replace")[-1500:])
            elif not more:
                report.take(json.loads(out.read_text("utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="few and small cases")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, help="processes that share the cases of nn and compile kernels")
    parser.add_argument("--share", default="0/1", help=argparse.SUPPRESS)
    parser.add_argument("--warming", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    parts = args.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--parts: {', '.join(unknown)}; known: {', '.join(PARTS)}")
    options = {"quick": args.quick, "only": args.only, "share": args.share, "warming": args.warming}
    report = Report(args.device, 60 * args.minutes, **options)
    synchronise(args.device)  # a device that is absent ends it here
    about = surroundings(args.device)
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    for part in PARTS:
        if part in parts:
            with report.part(part):
                # Triton compiles a kernel for each size and option, which takes longer than running it.
                shared = workers(args) if args.share == "0/1" and not args.warming else 1
                if part == "speed" and shared > 1:
                    in_processes(report, args, part, shared, "--warming")
                if part == "nn" and shared > 1:
                    in_processes(report, args, part, shared)
                else:
                    importlib.import_module(f"device.{part}").check(report)
            if args.out:  # after each part: what is found stays, whatever comes after it
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps({"about": about, **report.found()}, indent=1) + "\n", "utf-8")
    report.summary()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
