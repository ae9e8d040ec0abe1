"""Times seqkit.nn against torch.nn: training, inference, variants and memory; prints tables.

    python scripts/bench/nn.py                        # everything (about 6 minutes)
    python scripts/bench/nn.py --only train --kinds LSTM --shapes 0,1,2
    python scripts/bench/nn.py --only train --precision bf16 --clock cpu    # both sides under autocast
    python scripts/bench/nn.py --device cuda

All candidates of a row run in turn within one loop, so that a busy machine slows them alike; the medians are printed in
milliseconds. Lengths are uniform in T/2..T with one sequence of T steps. The torch side of the ragged rows gets
its input as the same padded batch and packs it, as any training loop must.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import seqkit.nn as snn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import timing
from bench.timing import fresh, geometric, goal, in_turn, parser_for, resident, setting, write

SHAPES = [*timing.SHAPES[:5], (400, 1, 128, 128), *timing.SHAPES[5:]]
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "LSTM": [
        {"peephole": True},
        {"coupled": True},
        {"layer_norm": True},
        {"zoneout": 0.1, "zoneout_cell": 0.1},
        {"recurrent_dropout": 0.2},
        {"recurrent_dropout": 0.2, "recurrent_dropout_kind": "semeniuta"},
        {"weight_drop": 0.2},
        {"cell_clip": 3.0},
        {"learn_initial_state": True},
        {"proj_size": 64},
    ],
    "GRU": [
        {"layer_norm": True},
        {"zoneout": 0.1},
        {"recurrent_dropout": 0.2},
        {"recurrent_dropout": 0.2, "recurrent_dropout_kind": "semeniuta"},
        {"weight_drop": 0.2},
    ],
    "RNN": [{"layer_norm": True}, {"zoneout": 0.1}, {"recurrent_dropout": 0.2}, {"weight_drop": 0.2}],
}


def timed(runs: dict[str, Callable[[], Any]], args: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of each, until the budget is spent."""
    times = in_turn(runs, args.rounds, args.device, args.clock, budget=args.budget)
    return {name: 1e3 * seconds for name, seconds in times.items()}


class Case:
    """One shape of one kind: the same weights, input, lengths and output gradient for every candidate."""

    def __init__(self, kind: str, shape: tuple[int, int, int, int], device: str, precision: str = "fp32") -> None:
        torch.manual_seed(0)
        self.kind, self.device, self.low = kind, device, precision == "bf16"
        self.leaves: dict[int, list[torch.Tensor]] = {}
        steps, batch, features, self.hidden_size = shape
        self.features, self.steps = features, steps
        self.x = torch.randn(steps, batch, features, device=device, requires_grad=True)
        self.lengths = torch.randint(steps // 2, steps + 1, (batch,))
        self.lengths[0] = steps
        self.grad = torch.randn(steps, batch, self.hidden_size, device=device)
        self.torch = getattr(torch.nn, kind)(features, self.hidden_size).to(device)

    def ours(self, backend: str, **options: Any) -> torch.nn.Module:
        module: torch.nn.Module = getattr(snn, self.kind)(
            self.features, self.hidden_size, backend=backend, device=self.device, **options
        )
        if not options:
            module.load_state_dict(self.torch.state_dict())
        return module

    def forward(self, module: torch.nn.Module, ragged: bool) -> torch.Tensor:
        if not ragged:
            return module(self.x)[0]  # type: ignore[no-any-return]
        if module is self.torch:
            packed, _ = module(pack_padded_sequence(self.x, self.lengths, enforce_sorted=False))
            return pad_packed_sequence(packed, total_length=self.steps)[0]
        return module(self.x, lengths=self.lengths)[0]  # type: ignore[no-any-return]

    def train(self, module: torch.nn.Module, ragged: bool) -> None:
        # Not module.zero_grad(), which walks the submodules; a training loop's optimiser holds a list.
        for value in self.leaves.setdefault(id(module), [self.x, *module.parameters()]):
            value.grad = None
        with self.autocast():
            output = self.forward(module, ragged)
        output.backward(self.grad[..., : output.size(-1)].to(output.dtype))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.low)

    def infer(self, module: torch.nn.Module, ragged: bool) -> None:
        with torch.no_grad(), self.autocast():
            self.forward(module, ragged)


def bench_against_torch(args: argparse.Namespace, what: str) -> list[dict[str, Any]]:
    """Training or inference of every kind and shape, full and ragged, on `auto` and `fused`."""
    rows = []
    print(f"\n{what}: ms (torch | auto | fused), and torch / ours")
    for kind in args.kinds:
        for shape in args.shapes:
            case = Case(kind, shape, args.device, args.precision)
            modules = {"torch": case.torch, "auto": case.ours("auto"), "fused": case.ours("fused")}
            for ragged in (False, True):
                step = case.train if what == "train" else case.infer
                runs = {name: partial(step, m, ragged) for name, m in modules.items()}
                found = timed(runs, args)
                with torch.set_grad_enabled(what == "train"), case.autocast():
                    chosen = modules["auto"].backend_for(case.x, lengths=case.lengths if ragged else None).name
                row = {"what": what, "kind": kind, "shape": shape, "ragged": ragged, "auto_is": chosen, "ms": found}
                row |= {name: found["torch"] / found[name] for name in ("auto", "fused")}
                rows.append(row)
                print(
                    f"{kind:5}{shape!s:24}{'ragged' if ragged else 'full':7}"
                    f"{found['torch']:9.1f}{found['auto']:9.1f}{found['fused']:9.1f}"
                    f"   auto x{row['auto']:.2f} ({chosen})  fused x{row['fused']:.2f}",
                    flush=True,
                )
    return rows


def bench_variants(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Each variant in training against the plain fused module, and against its own reference loop."""
    rows, shape = [], (50, 32, 256, 256)
    print(f"\nvariants at {shape}, ragged, training: ms, time / plain fused, reference time / time")
    for kind in args.kinds:
        case = Case(kind, shape, args.device, args.precision)
        plain = case.ours("fused")
        for options in VARIANTS[kind]:
            modules = {"plain": plain, "variant": case.ours("auto", **options)}
            modules["reference"] = case.ours("reference", **options)
            runs = {name: partial(case.train, module, True) for name, module in modules.items()}
            found = timed(runs, args)
            row = {"what": "variants", "kind": kind, "options": options, "ms": found}
            row |= {"ratio": found["variant"] / found["plain"], "gain": found["reference"] / found["variant"]}
            rows.append(row)
            print(
                f"{kind:5}{json.dumps(options):72}{found['variant']:8.1f}  x{row['ratio']:.2f}  x{row['gain']:.2f}",
                flush=True,
            )
    return rows


def one_step(kind: str, backend: str, shape: tuple[int, int, int, int], ragged: bool) -> float:
    """MiB by which one training step rises above what is resident before it, after a small step to warm up."""
    small, case = Case(kind, (3, 2, 4, 4), "cpu"), Case(kind, shape, "cpu")
    for one in (small, case):
        module = one.torch if backend == "torch" else one.ours(backend)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak, VmHWM
        one.train(module, ragged)
    return resident() - before


def print_one_step(*arguments: Any) -> None:
    """`one_step`, for the process that has asked for it."""
    print(one_step(*arguments))


def peak(kind: str, backend: str, shape: tuple[int, int, int, int], ragged: bool) -> float:
    """`one_step` in a fresh process."""
    return fresh("bench.nn", f"print_one_step({kind!r}, {backend!r}, {shape!r}, {ragged!r})")


def bench_memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory of one training step, each in a process of its own."""
    rows, shape = [], (200, 32, 300, 512)
    print(f"\npeak memory of one training step at {shape}, MiB (torch | auto | fused)")
    for kind in args.kinds:
        for ragged in (False, True):
            found = {name: peak(kind, name, shape, ragged) for name in ("torch", "auto", "fused")}
            rows.append({"what": "memory", "kind": kind, "ragged": ragged, "mib": found})
            text = "".join(f"{value:9.0f}" for value in found.values())
            print(f"{kind:5}{'ragged' if ragged else 'full':7}{text}   auto x{found['auto'] / found['torch']:.2f}")
    return rows


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The goals of the project beside what was measured."""

    def pick(what: str, kinds: tuple[str, ...], ragged: bool, by: str, keep: Callable[[tuple[int, ...]], bool]) -> list:
        return [
            row[by]
            for row in rows
            if row["what"] == what and row["kind"] in kinds and row["ragged"] == ragged and keep(row["shape"])
        ]

    def some(shape: tuple[int, ...]) -> bool:
        return shape[1] >= 16

    lines = []

    def add(text: str, values: list[float], target: float, fold: Callable[[list[float]], float]) -> None:
        if values:
            lines.append(goal(text, fold(values), target))

    lstm, others, all_kinds = ("LSTM",), ("RNN", "GRU"), ("LSTM", "RNN", "GRU")
    big = (30, 64, 512, 1024)
    add("LSTM ragged training, auto, geometric mean", pick("train", lstm, True, "auto", some), 3.3, geometric)
    first = pick("train", lstm, True, "auto", lambda s: s in SHAPES[:4])
    add("the same over the first four shapes", first, 3.8, geometric)
    add("the same, minimum", pick("train", lstm, True, "auto", lambda s: some(s) and s != big), 2.5, min)
    add("the same at (30,64,512,1024)", pick("train", lstm, True, "auto", lambda s: s == big), 1.3, min)
    add("the same at B = 1", pick("train", lstm, True, "auto", lambda s: s[1] == 1), 0.95, min)
    add("LSTM ragged training, fused, geometric mean", pick("train", lstm, True, "fused", some), 2.3, geometric)
    add("LSTM full training, auto, minimum", pick("train", lstm, False, "auto", lambda s: True), 0.95, min)
    add("LSTM full training, fused, H >= 256", pick("train", lstm, False, "fused", lambda s: s[3] >= 256), 1.0, min)
    add("LSTM full training, fused, B >= 16", pick("train", lstm, False, "fused", some), 0.75, min)
    add("RNN and GRU full training, auto", pick("train", others, False, "auto", lambda s: True), 1.8, geometric)
    add("RNN and GRU ragged training, auto", pick("train", others, True, "auto", lambda s: True), 2.5, geometric)
    for ragged in (False, True):
        name = f"inference, {'ragged' if ragged else 'full'}, auto, minimum"
        add(name, pick("infer", all_kinds, ragged, "auto", lambda s: True), 0.95, min)
    variants = [row for row in rows if row["what"] == "variants"]
    normed = [1 / row["ratio"] for row in variants if "layer_norm" in row["options"]]
    add("layer_norm: plain time / its time, minimum", normed, 1 / 1.8, min)
    add(
        "other variants: plain time / their time, minimum",
        [1 / row["ratio"] for row in variants if "layer_norm" not in row["options"]],
        1 / 1.35,
        min,
    )
    add("variants: reference time / their time, minimum", [row["gain"] for row in variants], 3.0, min)
    return lines


def main() -> None:
    parser = parser_for(__doc__, rounds=15, device=True, clock=True)
    parser.add_argument("--only", nargs="*", choices=["train", "infer", "variants", "memory"])
    parser.add_argument("--kinds", nargs="*", default=["LSTM", "GRU", "RNN"], choices=["LSTM", "GRU", "RNN"])
    parser.add_argument("--shapes", default=",".join(map(str, range(len(SHAPES)))), help="indices into SHAPES")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="bf16: both sides under autocast")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds for each row of the tables")
    args = parser.parse_args()
    args.shapes = [SHAPES[int(index)] for index in args.shapes.split(",")]
    wanted = args.only or ["train", "infer", "variants", "memory"]
    about = setting(args, precision=args.precision)
    rows: list[dict[str, Any]] = []
    for what in ("train", "infer"):
        rows += bench_against_torch(args, what) if what in wanted else []
    rows += bench_variants(args) if "variants" in wanted else []
    rows += bench_memory(args) if "memory" in wanted and args.device == "cpu" else []
    write(args, about, rows, summary(rows))


if __name__ == "__main__":
    main()
