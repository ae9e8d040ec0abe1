"""On a CUDA card: look for races in the Triton kernels, and find the best tile for each size.

    python scripts/device/tune.py --out tiles.json --minutes 2

It takes the minutes it is given, most of them for the sweep over tiles; races alone take about half a minute on an
H100 with 16 CPU cores. Whether the results are right is for `check.py --parts nn`, and how fast the whole modules are
for `check.py --parts speed`. A launch that hangs ends the process with a line that says which one it was.

Races: each case runs 20 times, in one launch for all steps and (fewer times) in one launch a step; all bits of each way
must agree, for the programs of a launch wait for each other without any help from CUDA. Sweep: us of a step of the
LSTM's kernels by events on the card, behind a wait that lets the host run ahead, for the tiles that the model in
`tiles.py` finds best and some that it knows nothing about. With TRITON_INTERPRET=1 and --dry, tiny sizes on the CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from seqkit.nn.cells import GRUCell, LSTMCell, RNNCell
from seqkit.nn.kernels.autograd import kernel_scan
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton import launch, tiles
from seqkit.nn.kernels.triton.counterparts import triton_kernel

CELLS = {"lstm": LSTMCell, "gru": GRUCell, "rnn": RNNCell}
Shape = tuple[int, int, int]
SHAPES: list[Shape] = [(50, 32, 128), (50, 32, 256), (100, 64, 256), (200, 32, 512), (30, 64, 1024), (64, 16, 64)]
# Float32 by the way its products are taken, or another dtype.
NAMES = ("tf32x3", "bfloat16", "tf32")
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


class Watchdog:
    """Ends the process when one piece of work takes too long; a hung kernel leaves nothing else."""

    def __init__(self) -> None:
        self.name, self.deadline = "", float("inf")
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self, name: str, seconds: float = 30.0) -> None:
        self.name, self.deadline = name, time.monotonic() + seconds

    def _watch(self) -> None:
        while True:
            time.sleep(0.25)
            if time.monotonic() > self.deadline:
                print(f"HANG: {self.name}", flush=True)
                os._exit(3)


class Layer:
    """Forward and backward of one cell over all steps, with I = H."""

    def __init__(self, kind: str, shape: Shape, ragged: bool, name: str, **options: Any) -> None:
        T, B, H = shape
        torch.manual_seed(0)
        self.name, dtype = name, torch.bfloat16 if name == "bfloat16" else torch.float32
        self.cell = CELLS[kind](H, H, device=DEVICE, dtype=dtype, **options)
        self.kernel = triton_kernel(self.cell.kernel())
        assert self.kernel is not None, "no Triton kernel"
        lengths = torch.randint(0, T + 1, (B,))
        lengths[0] = T
        self.packing = Packing.from_lengths(lengths, T, DEVICE) if ragged else Packing.full(T, B)
        N = sum(self.packing.batch_sizes)
        self.rows = torch.randn(N, H, device=DEVICE, dtype=dtype, requires_grad=True)
        self.state = tuple(torch.randn_like(part) for part in self.cell.initial_state(B, self.rows))
        self.prepared = self.cell.prepare(self.cell.weights(), self.packing.batch_sizes)
        self.grad = torch.randn(N, H, device=DEVICE, dtype=dtype)

    def run(self) -> list[torch.Tensor]:
        """Outputs, final states and gradients."""
        tiles.FORCED.precision = None if self.name == "bfloat16" else self.name  # type: ignore[assignment]
        kernel: Any = self.kernel
        output, final = kernel_scan(self.cell, kernel, self.rows, self.packing, self.state, self.prepared)
        grads = torch.autograd.grad(output, [self.rows, *self.prepared.weights.values()], self.grad)
        return [output.detach(), *(part.detach() for part in final), *grads]


def races(watchdog: Watchdog, until: float, dry: bool) -> list[dict[str, Any]]:
    """Repeat runs: all bits must agree."""
    found: list[dict[str, Any]] = []
    shapes = [(3, 3, 4)] if dry else SHAPES
    plan = itertools.product(("tf32x3", "bfloat16"), shapes, CELLS, (False, True), ({}, {"layer_norm": True}))
    for name, shape, kind, ragged, options in plan:
        title = f"{kind} {shape} {'ragged' if ragged else 'full'} {name} {options or ''}"
        if time.time() > until:
            found.append({"case": title, "skipped": True})
            continue
        try:
            layer = Layer(kind, shape, ragged, name, **options)
        except AssertionError:
            continue
        for mode, repeats in (("persistent", 20), ("stepwise", 3)):
            if dry and mode == "persistent":
                continue
            watchdog.start(f"races {title} {mode}")
            tiles.FORCED.mode = mode  # type: ignore[assignment]
            first = layer.run()
            differ = sum(not all(map(torch.equal, first, layer.run())) for _ in range(2 if dry else repeats))
            found.append({"case": title, "mode": mode, "differ": differ})
            if differ:
                print(f"RACE {title} {mode}: {differ} of {repeats}", flush=True)
    watchdog.deadline = float("inf")
    bad, skipped = sum(bool(one.get("differ")) for one in found), sum(bool(one.get("skipped")) for one in found)
    print(f"races: {len(found) - skipped} runs, {bad} differ, {skipped} skipped for lack of time", flush=True)
    tiles.FORCED.mode = None
    return found


class Timed:
    """Durations of kernels in us, by direction."""

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[Any, Any]]] = {}
        self.run = launch.run

    def __enter__(self) -> Timed:
        def timed(kernel: Any, *rest: Any) -> None:
            new: Any = torch.cuda.Event
            pair = new(enable_timing=True), new(enable_timing=True)
            pair[0].record()
            self.run(kernel, *rest)
            pair[1].record()
            name = "backward" if "backward" in kernel.fn.__name__ else "forward"
            self.events.setdefault(name, []).append(pair)

        launch.run = timed  # type: ignore[assignment]
        return self

    def __exit__(self, *_: Any) -> None:
        launch.run = self.run

    def median(self, direction: str) -> Any:
        torch.cuda.synchronize()
        return statistics.median(1000 * start.elapsed_time(end) for start, end in self.events[direction])


def candidates(shape: Shape, slots: int, name: str, most: int = 12) -> list[tiles.Tile]:
    """Tiles of the LSTM worth trying; the first is the model's own choice."""
    _, B, H = shape
    itemsize, terms = 2 if name == "bfloat16" else 4, H if slots == 4 else 4 * H
    precision: Any = "ieee" if name == "bfloat16" else name
    processors, shared = tiles.limits(DEVICE)
    sizes = (terms, slots, itemsize, precision)
    own = tiles.tuning(B, H, *sizes, processors, shared)
    costs: dict[tiles.Tile, float] = {}
    for rows, columns, warps, hold in itertools.product(tiles.ROWS, tiles.COLUMNS, tiles.WARPS, (True, False)):
        if columns // slots < 4:
            continue
        tile = tiles.make_tile(rows, columns, *sizes, shared, warps, hold)
        more = [tile]
        if not tile.hold and tile.depth < terms:
            more.append(tile._replace(depth=2 * tile.depth))
        if rows * columns >= 1024 and H >= 512 and warps == 8:
            # Whole products, which Triton pipelines.
            more += [tile._replace(depth=64, split=1, stages=stages) for stages in (3, 4)]
        for one in more:
            blocks, units = one.programs(B, H)
            if units <= processors:
                launches = -(-blocks // (processors // units))
                costs[one] = launches * tiles.step_time(one, *sizes)
    unknown = [tile for tile in costs if tile.stages > 2]
    known = sorted((tile for tile in costs if tile.stages <= 2 and tile != own), key=lambda tile: costs[tile])
    return [own, *known[:most], *sorted(unknown, key=lambda tile: costs[tile])[:4]]


def plan() -> list[tuple[Shape, str, str, tiles.Tile]]:
    """(shape, name, direction, tile), in order of interest."""
    return [
        (shape, name, direction, tile)
        for name, shape in itertools.product(NAMES, (SHAPES[k] for k in (1, 0, 3, 4, 2, 5)))
        for direction, slots in (("forward", 4), ("backward", 1))
        for tile in candidates(shape, slots, name)
    ]


def sweep(watchdog: Watchdog, until: float, share: slice, timed: bool) -> list[dict[str, Any]]:
    """Each tile of the plan: us a step of its kernel. Untimed, it only fills Triton's cache of compiled kernels."""
    found: list[dict[str, Any]] = []
    layers: dict[Any, Layer] = {}
    tiles.FORCED.mode = "persistent"
    for shape, name, direction, tile in plan()[share]:
        if time.time() > until:
            print("sweep: out of time", flush=True)
            break
        one = {"shape": shape, "name": name, "direction": direction, **tile._asdict()}
        watchdog.start(f"sweep {one}")
        if (shape, name) not in layers:
            layers = {(shape, name): Layer("lstm", shape, False, name)}
        setattr(tiles.FORCED, direction, tile)
        try:
            layers[shape, name].run()
            if timed:
                with Timed() as clock:
                    busy: Any = torch.cuda._sleep
                    for _ in range(5):
                        busy(4_000_000)  # about 2 ms, in which the host launches the rest
                        layers[shape, name].run()
                    one["us"] = clock.median(direction) / shape[0]
        except Exception as problem:
            one["failed"] = repr(problem)[:300]
        finally:
            tiles.FORCED.forward = tiles.FORCED.backward = None
        found.append(one)
    watchdog.deadline = float("inf")
    if timed:
        show(found)
    return found


def show(found: list[dict[str, Any]]) -> None:
    """The model's choice of each group, and the best three."""
    for key, group in itertools.groupby(found, key=lambda one: (one["shape"], one["name"], one["direction"])):
        members = list(group)
        ran = sorted((one for one in members if "us" in one), key=lambda one: one["us"])
        own = members[0].get("us", float("nan"))
        print(f"{key}: {len(ran)} of {len(members)} ran; the model's choice {own:.2f} us/step", flush=True)
        for one in ran[:3]:
            print(f"    {one['us']:7.2f} " + " ".join(f"{name}={one[name]}" for name in tiles.Tile._fields), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="tiles.json", help="where to write the results")
    parser.add_argument("--minutes", type=float, default=2.0, help="when to stop")
    parser.add_argument("--workers", type=int, default=max(1, min(10, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--all-ask", action="store_true", help="all threads wait for the others, for a comparison")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on the CPU with TRITON_INTERPRET=1")
    parser.add_argument("--compile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    watchdog = Watchdog()
    if arguments.all_ask:
        from seqkit.nn.kernels.triton import blocks

        blocks.ONE_ASKS = type(blocks.ONE_ASKS)(False)
    if arguments.compile is not None:
        sweep(watchdog, arguments.until, slice(arguments.compile, None, arguments.workers), timed=False)
        return
    began = time.time()
    end = began + 60 * arguments.minutes
    workers: list[subprocess.Popen[bytes]] = []
    if DEVICE.type == "cuda":
        print(torch.cuda.get_device_name(0), "torch", torch.__version__, flush=True)
        own = [sys.executable, __file__, *(["--all-ask"] if arguments.all_ask else [])]
        own += ["--workers", str(arguments.workers), "--until", str(began + 0.3 * (end - began))]
        workers = [subprocess.Popen([*own, "--compile", str(k)]) for k in range(arguments.workers)]
    results: dict[str, Any] = {"races": races(watchdog, began + 0.4 * (end - began), arguments.dry)}
    for process in workers:
        process.wait()
    if DEVICE.type == "cuda":
        results["sweep"] = sweep(watchdog, end, slice(None), timed=True)
    Path(arguments.out).write_text(json.dumps(results, indent=1))
    print(f"took {time.time() - began:.0f} s")
    sys.exit(1 if any(one.get("differ") for one in results["races"]) else 0)


if __name__ == "__main__":
    main()
