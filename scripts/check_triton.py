"""Check the Triton kernels on a CUDA card: right, free of races, and how fast.

    python scripts/check_triton.py --out triton.json --minutes 2.5

First, worker processes compare both ways to launch with float64 (they also fill Triton's cache of compiled kernels);
then one process repeats runs bit by bit, measures, and sweeps tiles. A hang ends its process with a line that says what
it was doing. With TRITON_INTERPRET=1 and --dry the same code runs tiny sizes on the CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from seqkit.nn.cells import GRUCell, LSTMCell, RNNCell
from seqkit.nn.fused import kernel_scan
from seqkit.nn.fused.triton import launch, triton_kernel
from seqkit.nn.packing import Packing
from seqkit.nn.scan import reference_scan

CELLS = {"lstm": LSTMCell, "gru": GRUCell, "rnn": RNNCell}
SHAPES = [(50, 32, 128), (50, 32, 256), (100, 64, 256), (200, 32, 512), (30, 64, 1024), (64, 16, 64)]
SMALL = [(1, 1, 5), (6, 5, 17), (7, 33, 48), (4, 70, 200), (5, 300, 64)]
OPTIONS = {
    "lstm": [
        {"bias": False},
        {"peephole": True},
        {"coupled": True},
        {"peephole": True, "coupled": True},
        {"cell_clip": 0.3},
        {"cell_activation": "relu", "output_activation": "identity"},
        {"cell_activation": "identity", "output_activation": "sigmoid"},
        {"zoneout": 0.3, "zoneout_cell": 0.4},
        {"recurrent_dropout": 0.4},
        {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "semeniuta"},
        {"weight_drop": 0.3},
    ],
    "gru": [
        {"bias": False},
        {"zoneout": 0.3},
        {"recurrent_dropout": 0.4},
        {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "semeniuta"},
    ],
    "rnn": [{"bias": False}, {"nonlinearity": "relu"}, {"nonlinearity": "identity"}, {"zoneout": 0.3},
            {"recurrent_dropout": 0.4}],
}  # fmt: skip
# Largest relative error (2-norm) that passes.
BOUNDS = {"ieee": 2e-5, "tf32x3": 2e-5, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 6e-2}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")


class Watchdog:
    """Ends the process when one piece of work takes too long; a hung kernel leaves nothing else."""

    def __init__(self, on_end: Any) -> None:
        self.name, self.deadline, self.on_end = "", float("inf"), on_end
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self, name: str, seconds: float = 30.0) -> None:
        self.name, self.deadline = name, time.monotonic() + seconds

    def _watch(self) -> None:
        while True:
            time.sleep(0.25)
            if time.monotonic() > self.deadline:
                print(f"HANG: {self.name}", flush=True)
                self.on_end(self.name)
                os._exit(3)


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


class Problem:
    """One cell and its inputs in float64 on the device, from a seed."""

    def __init__(self, kind: str, shape: tuple[int, int, int], ragged: bool, options: dict[str, Any]) -> None:
        T, B, H = shape
        torch.manual_seed(T * 1000 + B * 10 + H)
        self.cell = CELLS[kind](min(H, 32), H, dtype=torch.float64, device=DEVICE, **options)
        if ragged:
            lengths = torch.randint(0, T + 1, (B,))
            lengths[B // 2] = T
            self.packing = Packing.from_lengths(lengths, T, DEVICE)
        else:
            self.packing = Packing.full(T, B)
        N = sum(self.packing.batch_sizes)
        with torch.no_grad():
            for value in self.cell.parameters():
                value.mul_(1.5)
        self.prepared = self.cell.prepare(self.cell.weights(), self.packing.batch_sizes)
        self.x = torch.randn(N, self.cell.input_size, dtype=torch.float64, device=DEVICE)
        self.state = [torch.randn(B, size, dtype=torch.float64, device=DEVICE) for size in self.cell.state_sizes]
        shapes = [(N, H), *((B, size) for size in self.cell.state_sizes)]
        self.probes = [torch.randn(*one, dtype=torch.float64, device=DEVICE) for one in shapes]

    def run(self, dtype: torch.dtype, through: str, wide: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Results and gradients by name, with inputs rounded to dtype and computed in `wide` (or dtype)."""

        def leaf(value: torch.Tensor) -> torch.Tensor:
            return value.detach().to(dtype).to(wide or dtype).requires_grad_(True)

        def masks(found: Any) -> dict[str, torch.Tensor]:
            return {name: value.to(dtype).to(wide or dtype) for name, value in found.items()}

        x, state = leaf(self.x), tuple(leaf(one) for one in self.state)
        weights = {name: leaf(value) for name, value in self.prepared.weights.items()}
        prepared = replace(
            self.prepared,
            weights=weights,
            sequence_masks=masks(self.prepared.sequence_masks),
            step_masks=masks(self.prepared.step_masks),
        )
        if through == "reference":
            projected = self.cell.project(x, prepared)
            output, final = reference_scan(self.cell, projected, self.packing.batch_sizes, state, prepared)
        else:
            kernel = triton_kernel(self.cell.kernel())
            assert kernel is not None, "no Triton counterpart"
            output, final = kernel_scan(self.cell, kernel, x, self.packing, state, prepared)
        results = [output, *final]
        probes = [probe.to(dtype).to(wide or dtype) for probe in self.probes]
        grads = torch.autograd.grad(results, [x, *state, *weights.values()], probes)
        names = ["output", *(f"{name}_n" for name in self.cell.state_names)]
        names += ["d_x", *(f"d_{name}0" for name in self.cell.state_names), *(f"d_{name}" for name in weights)]
        return dict(zip(names, (one.detach() for one in [*results, *grads]), strict=True))


def error(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest relative error and where it is."""
    worst = (0.0, "")
    for name, want in truth.items():
        got = found[name].double()
        if not bool(torch.isfinite(got).all()):
            return float("inf"), name
        scale = float(want.norm()) or 1.0
        worst = max(worst, (float((got - want).norm()) / scale, name))
    return worst


def cases(dry: bool) -> list[tuple[Any, ...]]:
    """(kind, shape, ragged, options, precision or dtype, modes)."""
    both, one = ("stepwise", "persistent"), ("persistent",)
    if dry:
        tiny = (3, 3, 4)
        found = [("lstm", tiny, ragged, {}, "ieee", ("stepwise",)) for ragged in (False, True)]
        return [*found, ("lstm", tiny, True, {}, "float16", ("stepwise",)), ("gru", tiny, True, {}, "ieee", both)]
    found: list[tuple[Any, ...]] = []
    for kind in CELLS:
        found += [(kind, shape, ragged, {}, "ieee", both) for shape in SMALL for ragged in (False, True)]
    for shape in SHAPES:
        for ragged in (False, True):
            for name in BOUNDS:
                found.append(("lstm", shape, ragged, {}, name, both if name == "ieee" else one))
    for kind, options in OPTIONS.items():
        for each in options:
            found += [(kind, (12, 20, 96), True, each, name, both) for name in ("ieee", "bfloat16")]
    for kind in ("gru", "rnn"):
        for shape in SHAPES:
            for name in BOUNDS:
                found.append((kind, shape, name in ("ieee", "bfloat16"), {}, name, one))
    return found


def check(selected: list[tuple[Any, ...]], watchdog: Watchdog, until: float, found: list[Any]) -> None:
    """Compare each case with float64; appends to `found`."""
    for kind, shape, ragged, options, name, modes in selected:
        title = f"{kind} {shape} {'ragged' if ragged else 'full'} {options or ''} {name}"
        if time.time() > until:
            found.append({"case": title, "skipped": True})
            continue
        try:
            watchdog.start(f"{title} (reference)")
            dtype = DTYPES.get(name, torch.float32)
            launch.FORCED.precision = None if name in DTYPES else name  # type: ignore[assignment]
            problem = Problem(kind, shape, ragged, options)
            truth = problem.run(dtype, "reference", torch.float64)
            bound = BOUNDS[name]
            if dtype != torch.float32:
                bound = max(bound, 2 * error(problem.run(dtype, "reference"), truth)[0])
            for mode in modes:
                watchdog.start(f"{title} {mode}")
                launch.FORCED.mode = mode
                started = time.time()
                results = problem.run(dtype, "triton")
                synchronize()
                worst, where = error(results, truth)
                good = worst <= bound
                found.append(
                    {"case": title, "mode": mode, "error": worst, "where": where, "bound": bound, "good": good}
                )
                mark = "ok  " if good else "BAD "
                print(f"{mark} {worst:.1e} ({where}) {title} {mode} {time.time() - started:.1f}s", flush=True)
        except Exception as problem_found:
            lines = traceback.format_exc().strip().splitlines()
            found.append({"case": title, "failed": repr(problem_found)[:1000], "good": False})
            print(f"FAIL {title}: {' | '.join(lines[-6:])[:1200]}", flush=True)
    watchdog.deadline = float("inf")


def races(watchdog: Watchdog, until: float, dry: bool, found: list[Any]) -> None:
    """Repeat persistent runs: all bits must agree."""
    repeats = 2 if dry else 20
    names, shapes = (("ieee",), [(3, 3, 4)]) if dry else (("ieee", "bfloat16", "tf32x3"), SHAPES)
    plan = itertools.product(names, shapes, CELLS, (False, True))
    for name, shape, kind, ragged in plan:
        title = f"{kind} {shape} {'ragged' if ragged else 'full'} {name} x{repeats}"
        if time.time() > until:
            found.append({"case": title, "skipped": True})
            continue
        try:
            watchdog.start(f"races {title}")
            launch.FORCED.precision = None if name in DTYPES else name  # type: ignore[assignment]
            launch.FORCED.mode = "persistent"
            problem, dtype = Problem(kind, shape, ragged, {}), DTYPES.get(name, torch.float32)
            first = problem.run(dtype, "triton")
            differ: dict[str, int] = {}
            for _ in range(repeats):
                again = problem.run(dtype, "triton")
                for key, value in again.items():
                    if not torch.equal(value, first[key]):
                        differ[key] = differ.get(key, 0) + 1
            found.append({"case": title, "differ": differ, "good": not differ})
            if differ:
                print(f"RACE {title}: {differ}", flush=True)
        except Exception as problem_found:
            found.append({"case": title, "failed": repr(problem_found)[:1000], "good": False})
            print(f"FAIL races {title}: {repr(problem_found)[:600]}", flush=True)
    watchdog.deadline = float("inf")
    bad = [one for one in found if not one.get("good", True)]
    skipped = sum(1 for one in found if one.get("skipped"))
    print(f"races: {len(found) - skipped} cases, {len(bad)} bad, {skipped} skipped for lack of time", flush=True)


class Timed:
    """Durations of the kernels in us, by name, from events around each `launch.run`."""

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[Any, Any]]] = {}
        self.run = launch.run

    def __enter__(self) -> Timed:
        def timed(kernel: Any, *rest: Any) -> None:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            self.run(kernel, *rest)
            pair[1].record()
            name = "backward" if "backward" in kernel.fn.__name__ else "forward"
            self.events.setdefault(name, []).append(pair)

        launch.run = timed  # type: ignore[assignment]
        return self

    def __exit__(self, *_: Any) -> None:
        launch.run = self.run

    def medians(self) -> dict[str, float]:
        synchronize()
        return {
            name: statistics.median(1000 * start.elapsed_time(end) for start, end in pairs)
            for name, pairs in self.events.items()
        }


def milliseconds(work: Any, repeats: int = 20) -> float:
    """Median by CUDA events, after three runs."""
    for _ in range(3):
        work()
    pairs = []
    for _ in range(repeats):
        pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        pair[0].record()
        work()
        pair[1].record()
        pairs.append(pair)
    synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in pairs)


class Bench:
    """Forward and backward of one layer with I = H."""

    def __init__(self, kind: str, shape: tuple[int, int, int], ragged: bool, dtype: torch.dtype) -> None:
        T, B, H = shape
        torch.manual_seed(0)
        self.kind, self.shape = kind, shape
        self.cell = CELLS[kind](H, H, device=DEVICE, dtype=dtype)
        lengths = torch.randint(max(1, T // 4), T + 1, (B,))
        lengths[0] = T
        self.lengths = lengths
        self.packing = Packing.from_lengths(lengths, T, DEVICE) if ragged else Packing.full(T, B)
        N = sum(self.packing.batch_sizes)
        self.rows = torch.randn(N, H, device=DEVICE, dtype=dtype, requires_grad=True)
        self.grad = torch.randn(N, H, device=DEVICE, dtype=dtype)
        self.state = self.cell.initial_state(B, self.rows)
        self.prepared = self.cell.prepare(self.cell.weights(), self.packing.batch_sizes)

    def seqkit(self, kernel: Any) -> Any:
        def work() -> None:
            output, _ = kernel_scan(self.cell, kernel, self.rows, self.packing, self.state, self.prepared)
            torch.autograd.grad(output, [self.rows, *self.prepared.weights.values()], self.grad)

        return work

    def cudnn(self, ragged: bool) -> Any:
        T, B, H = self.shape
        classes = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
        module = classes[self.kind](H, H, device=DEVICE, dtype=self.rows.dtype)
        if ragged:
            x: Any = torch.randn(T, B, H, device=DEVICE, dtype=self.rows.dtype)
            x = torch.nn.utils.rnn.pack_padded_sequence(x, self.lengths, enforce_sorted=False)
            data = x.data.detach().requires_grad_(True)
            x = torch.nn.utils.rnn.PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
        else:
            x = data = torch.randn(T, B, H, device=DEVICE, dtype=self.rows.dtype, requires_grad=True)

        def work() -> None:
            output = module(x)[0]
            output = output.data if ragged else output
            torch.autograd.grad(output, [data, *module.parameters()], self.grad.view_as(output))

        return work


def _ways(bench: Bench, ragged: bool) -> list[tuple[str, Any, str | None, str]]:
    """(name, work, mode, precision) of everything that computes the same."""
    exact = bench.rows.dtype == torch.float32
    ways: list[tuple[str, Any, str | None, str]] = [("cudnn", bench.cudnn(ragged), None, "")]
    if exact:
        ways.append(("cudnn tf32", bench.cudnn(ragged), None, "tf32"))
    ways.append(("fused", bench.seqkit(bench.cell.kernel()), None, ""))
    kernel = triton_kernel(bench.cell.kernel())
    if kernel is not None:
        for precision in ("ieee", "tf32x3", "tf32") if exact else ("",):
            ways.append((f"triton {precision}", bench.seqkit(kernel), "persistent", precision))
        ways.append(("triton stepwise", bench.seqkit(kernel), "stepwise", "ieee" if exact else ""))
    return ways


def speed(watchdog: Watchdog, until: float, found: list[Any]) -> None:
    """One table: ms for forward and backward; and us a step of the two kernels."""
    print(f"{'case':46} {'way':20} {'ms':>8} {'fwd us/step':>12} {'bwd us/step':>12}", flush=True)
    rows: list[tuple[str, tuple[int, int, int], bool]] = [("lstm", shape, False) for shape in SHAPES]
    rows += [("lstm", shape, True) for shape in SHAPES[1:4]]
    rows += [(kind, SHAPES[1], ragged) for kind in ("gru", "rnn") for ragged in (False, True)]
    for kind, shape, ragged in rows:
        for dtype in (torch.float32, torch.bfloat16):
            if time.time() > until:
                print("speed: out of time", flush=True)
                return
            title = f"{kind} {shape} {'ragged' if ragged else 'full'} {str(dtype)[6:]}"
            try:
                watchdog.start(f"speed {title}")
                ways = _ways(Bench(kind, shape, ragged, dtype), ragged)
            except Exception as problem_found:
                print(f"FAIL {title}: {repr(problem_found)[:600]}", flush=True)
                continue
            for name, work, mode, precision in ways:
                try:
                    watchdog.start(f"speed {title} {name}")
                    launch.FORCED.mode = mode  # type: ignore[assignment]
                    launch.FORCED.precision = precision or None  # type: ignore[assignment]
                    torch.backends.cudnn.allow_tf32 = precision == "tf32"
                    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
                    took = milliseconds(work, 10 if name in ("fused", "triton stepwise") else 20)
                    inside = {}
                    if mode is not None:
                        with Timed() as timed:
                            for _ in range(5):
                                work()
                            inside = {key: value / shape[0] for key, value in timed.medians().items()}
                    found.append({"case": title, "way": name, "ms": took, **inside})
                    steps = " ".join(f"{inside.get(key, float('nan')):12.2f}" for key in ("forward", "backward"))
                    print(f"{title:46} {name:20} {took:8.3f} {steps}", flush=True)
                except Exception as problem_found:
                    print(f"FAIL {title} {name}: {repr(problem_found)[:600]}", flush=True)
                finally:
                    torch.backends.cuda.matmul.allow_tf32 = False
    watchdog.deadline = float("inf")


def candidates(shape: tuple[int, int, int], slots: int, name: str, most: int = 12) -> list[launch.Tile]:
    """Tiles of the LSTM worth trying: the best by the model first."""
    _, B, H = shape
    itemsize, terms = 2 if name in DTYPES else 4, H if slots == 4 else 4 * H
    precision: Any = "ieee" if name in DTYPES else name
    tiles: dict[launch.Tile, float] = {}
    count, shared = launch.limits(DEVICE)
    for rows in (16, 32, 64):
        for columns in (16, 32, 64) if slots == 4 else (8, 16, 32):
            for warps in (4, 8):
                for hold in (True, False):
                    tile = launch.make_tile(rows, columns, terms, slots, itemsize, precision, shared, warps, hold)
                    blocks, units = tile.programs(B, H)
                    if blocks * units > count or tile.depth * (rows + columns) * itemsize > 4 * 160 * 32 * warps:
                        continue
                    loaded = (rows + (0 if tile.hold else columns)) * terms * itemsize
                    work = rows * columns * terms / launch.WORK["half" if name in DTYPES else precision]
                    for stages in {1, tile.stages}:
                        tiles[replace(tile, stages=stages)] = loaded / launch.BYTES + work + (stages > 1) * 1e-3
    return sorted(tiles, key=lambda tile: tiles[tile])[:most]


def sweep_plan() -> list[tuple[tuple[int, int, int], str, str, launch.Tile]]:
    """(shape, precision or dtype, direction, tile), in order of interest."""
    plan = []
    for shape in (SHAPES[1], SHAPES[2], SHAPES[3], SHAPES[0], SHAPES[4]):
        for name in ("tf32x3", "bfloat16", "tf32", "ieee"):
            for direction, slots in (("forward", 4), ("backward", 1)):
                plan += [(shape, name, direction, tile) for tile in candidates(shape, slots, name)]
    return plan


def sweep(plan: list[Any], watchdog: Watchdog, until: float, found: list[Any], quiet: bool) -> None:
    """Each tile of the plan: us a step of its kernel."""
    benches: dict[Any, Bench] = {}
    for shape, name, direction, tile in plan:
        if time.time() > until:
            break
        dtype = DTYPES.get(name, torch.float32)
        try:
            watchdog.start(f"sweep {shape} {name} {direction} {tile}")
            if (shape, dtype) not in benches:
                benches.clear()
                benches[shape, dtype] = Bench("lstm", shape, False, dtype)
            bench = benches[shape, dtype]
            launch.FORCED.mode, launch.FORCED.precision = "persistent", None if name in DTYPES else name
            launch.FORCED.forward, launch.FORCED.backward = None, None
            setattr(launch.FORCED, direction, tile)
            work = bench.seqkit(triton_kernel(bench.cell.kernel()))
            work()
            if quiet:
                synchronize()
                continue
            with Timed() as timed:
                for _ in range(6):
                    work()
                took = timed.medians()[direction] / shape[0]
            found.append({"shape": shape, "precision": name, "direction": direction, "us": took, **asdict(tile)})
        except Exception as problem_found:
            found.append(
                {"shape": shape, "precision": name, "direction": direction, "failed": repr(problem_found)[:300]}
                | asdict(tile)
            )
        finally:
            launch.FORCED.forward, launch.FORCED.backward = None, None
    watchdog.deadline = float("inf")
    if quiet:
        return
    groups: dict[Any, list[Any]] = {}
    for one in found:
        groups.setdefault((tuple(one["shape"]), one["precision"], one["direction"]), []).append(one)
    for key, members in groups.items():
        timed_ones = sorted((one for one in members if "us" in one), key=lambda one: one["us"])
        default = members[0].get("us", float("nan"))
        print(f"sweep {key}: {len(timed_ones)} of {len(members)} ran, the model's first {default:.2f} us/step")
        for one in timed_ones[:3]:
            keys = ("rows", "units", "depth", "split", "warps", "stages", "hold")
            print(f"    {one['us']:7.2f} " + " ".join(f"{name}={one[name]}" for name in keys), flush=True)


def worker(arguments: argparse.Namespace) -> None:
    """A share of the checks, or everything that is measured; results go to the file `--out`."""
    found: dict[str, list[Any]] = {"check": [], "races": [], "speed": [], "sweep": []}
    hung: list[str] = []

    def write(name: str | None = None) -> None:
        if name is not None:
            hung.append(name)
        Path(arguments.out).write_text(json.dumps({**found, "hung": hung}, indent=1))

    watchdog = Watchdog(write)
    if arguments.stage == "check":
        selected = cases(arguments.dry)[arguments.share :: arguments.workers]
        check(selected, watchdog, arguments.until, found["check"])
        if CUDA:  # for the compiled kernels alone
            plan = sweep_plan()[arguments.share :: arguments.workers]
            sweep(plan, watchdog, arguments.until, [], quiet=True)
    else:
        left = arguments.until - time.time()
        races(watchdog, time.time() + 0.3 * left, arguments.dry, found["races"])
        write()
        if CUDA:
            left = arguments.until - time.time()
            speed(watchdog, time.time() + 0.5 * left, found["speed"])
            write()
            sweep(sweep_plan(), watchdog, min(arguments.until, time.time() + 60), found["sweep"], quiet=False)
    write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="triton.json", help="where to write the results")
    parser.add_argument("--minutes", type=float, default=2.5, help="when to stop")
    parser.add_argument("--workers", type=int, default=max(1, min(10, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on the CPU with TRITON_INTERPRET=1")
    parser.add_argument("--stage", choices=["check", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        return worker(arguments)
    began = time.time()
    end = began + 60 * arguments.minutes
    if CUDA:
        print(torch.cuda.get_device_name(0), "torch", torch.__version__, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / f"{k}.json" for k in range(arguments.workers)]
        own = [sys.executable, __file__, *(["--dry"] if arguments.dry else []), "--workers", str(arguments.workers)]

        def start(stage: str, share: int, out: Path, until: float) -> subprocess.Popen[bytes]:
            more = ["--stage", stage, "--share", str(share), "--out", str(out), "--until", str(until)]
            return subprocess.Popen([*own, *more])

        running = [start("check", k, part, began + 0.45 * (end - began)) for k, part in enumerate(parts)]
        for process in running:
            try:
                process.wait(max(1.0, end - time.time()))
            except subprocess.TimeoutExpired:
                process.kill()
        print(f"checks took {time.time() - began:.0f} s", flush=True)
        last = Path(folder) / "measure.json"
        measuring = start("measure", 0, last, end - 5)
        try:
            measuring.wait(max(1.0, end - time.time()) + 20)
        except subprocess.TimeoutExpired:
            measuring.kill()
        whole: dict[str, list[Any]] = {}
        for part in [*parts, last]:
            if part.exists():
                for key, value in json.loads(part.read_text()).items():
                    whole.setdefault(key, []).extend(value)
            else:
                whole.setdefault("hung", []).append(f"a process left nothing: {part.name}")
    Path(arguments.out).write_text(json.dumps(whole, indent=1))
    checked = whole.get("check", [])
    bad = [one for one in [*checked, *whole.get("races", [])] if not one.get("good", True)]
    skipped = [one for one in [*checked, *whole.get("races", [])] if one.get("skipped")]
    print(f"{len(checked)} checks, {len(bad)} bad, {len(skipped)} skipped, hung: {whole.get('hung', [])}")
    for one in bad:
        print("  bad:", {key: value for key, value in one.items() if key != "good"})
    print(f"took {time.time() - began:.0f} s")
    sys.exit(1 if bad or whole.get("hung") else 0)


if __name__ == "__main__":
    main()
