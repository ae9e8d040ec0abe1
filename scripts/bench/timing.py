"""What all benchmarks share: clocks, things compared in turn, medians, fresh processes, options and results."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

SCRIPTS = Path(__file__).resolve().parents[1]
CONFIGS = SCRIPTS.parent / "configs"
SHAPES = [  # (T, B, I, H)
    (50, 32, 128, 128),
    (50, 32, 256, 256),
    (100, 64, 256, 256),
    (200, 32, 300, 512),
    (30, 64, 512, 1024),
    (64, 16, 64, 64),
]


def synchronise(device: str) -> None:
    """Wait for everything that the device has been given."""
    if device != "cpu":
        torch.zeros((), device=device).item()


def seconds(run: Callable[[], object], device: str = "cpu", clock: str = "wall") -> float:
    """Return how long a call takes: by events on CUDA, elsewhere by the wall clock or this process's CPU time.

    Args:
        run: the call.
        device: where it computes.
        clock: `wall`, or `cpu` for one thread on a busy machine.
    """
    if device == "cuda" and clock == "wall":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    now = time.process_time if clock == "cpu" else time.perf_counter
    synchronise(device)
    begin = now()
    run()
    synchronise(device)
    return now() - begin


def take_turns(
    measures: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    warmup: int = 1,
    budget: float = math.inf,
    least: int = 3,
) -> dict[str, list[Any]]:
    """Return what each measure gives in each round, all in turn, so that a busy machine slows them alike.

    Every other round runs backwards, since a measure pays for the caches that the one before it has filled.

    Args:
        measures: calls by their names.
        rounds: how many count.
        warmup: how many come before and do not count.
        budget: seconds after which no round begins, once `least` rounds have counted.
        least: see `budget`.
    """
    values: dict[str, list[Any]] = {name: [] for name in measures}
    begin = time.perf_counter()
    for turn in range(rounds + warmup):
        for name, measure in list(measures.items())[:: 1 if turn % 2 else -1]:
            value = measure()
            if turn >= warmup:
                values[name].append(value)
        if turn + 1 >= warmup + least and time.perf_counter() - begin > budget:
            break
    return values


def in_turn(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", clock: str = "wall", **options: Any
) -> dict[str, float]:
    """Return the median seconds of each call; see `take_turns`, which takes the options."""
    measures = {name: partial(seconds, run, device, clock) for name, run in runs.items()}
    return medians(take_turns(measures, rounds, **options))


def medians(values: Mapping[str, Sequence[float]], scale: float = 1.0) -> dict[str, float]:
    """Return the median of each, times `scale`."""
    return {name: scale * statistics.median(numbers) for name, numbers in values.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the quotients of each round."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def geometric(values: Sequence[float]) -> float:
    """Return the geometric mean, NaN of nothing."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def goal(text: str, value: float, target: float, *, most: bool = False) -> str:
    """Return a line that says whether a goal is met: at least `target`, or with `most` at most."""
    met = value <= target if most else value >= target
    return f"{'met   ' if met else 'MISSED'} {text}: {value:.2f} (goal {'<=' if most else '>='} {target:.2f})"


def resident(field: str = "VmHWM", process: int | str = "self") -> float:
    """Return a field of a process's /proc/PID/status in MiB: VmHWM for the peak, VmRSS for now (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field))) / 1024


def command(module: str, call: str) -> list[str]:
    """Return the command line of a fresh process that makes a call of a module, such as `bench.nn`."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import {module} as b; b.{call}"]


def fresh(module: str, call: str) -> float:
    """Return the number that a call of a module prints in a fresh process."""
    return float(subprocess.run(command(module, call), check=True, stdout=subprocess.PIPE, text=True).stdout)


def parser_for(
    about: str | None, *, rounds: int | None = None, device: bool = False, clock: bool = False
) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks, and those of some: rounds, a device, a clock."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="how often each thing is timed (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the results, as JSON")
    if device:
        parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    if clock:
        how = "cpu: for one thread, on a machine that others use"
        parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help=how)
    return parser


def setting(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Return what a measurement depends on, and print it."""
    names = [name for name in ("device", "clock") if hasattr(args, name)]
    about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    about |= {name: getattr(args, name) for name in names} | more
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    return about


def write(args: argparse.Namespace, about: Mapping[str, Any], rows: Sequence[Any], goals: Sequence[str] = ()) -> None:
    """Print the goals, and write everything into the file of `--out`, if there is one."""
    if goals:
        print("\n" + "\n".join(goals))
    if args.out:
        tree = {**about, "rows": rows, **({"goals": goals} if goals else {})}
        args.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
