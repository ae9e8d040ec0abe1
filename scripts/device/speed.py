"""How fast: seqkit.nn beside torch.nn on the device, variants beside plain cells, the tasks, decoding.

Times are medians by device events of a forward and a backward pass (or of a forward pass without gradients), all
candidates of a row in turn. Lengths are uniform in T/2..T with one sequence of T steps, and torch packs as any training
loop must.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import timing
from device.nn import backends
from device.report import Report
from device.tasks import TASKS, _inside, _train
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import seqkit.nn as snn
from seqkit.training.update import Updater

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"peephole": True}),
    ("LSTM", {"coupled": True}),
    ("LSTM", {"zoneout": 0.1}),
    ("LSTM", {"recurrent_dropout": 0.2}),
    ("LSTM", {"weight_drop": 0.2}),
    ("LSTM", {"cell_clip": 3.0}),
    ("LSTM", {"proj_size": 64}),
    ("GRU", {"zoneout": 0.1}),
    ("GRU", {"recurrent_dropout": 0.2}),
    ("RNN", {"zoneout": 0.1}),
    ("RNN", {"recurrent_dropout": 0.2}),
    ("LSTM", {"layer_norm": True}),
    ("GRU", {"layer_norm": True}),
    ("RNN", {"layer_norm": True}),
]


def check(report: Report) -> None:
    """Measures; nothing here fails for being slow."""
    warnings.simplefilter("ignore")
    _against_torch(report, torch.float32, timing.SHAPES)
    _variants(report)
    if not report.warming:
        _tasks(report)
    if not report.quick:
        _against_torch(report, torch.bfloat16, timing.SHAPES[1:4])
        # What torch does where nothing is set: cuDNN's float32 in TF32. And with nothing but float32:
        torch.backends.cudnn.allow_tf32 = False
        _against_torch(report, torch.float32, timing.SHAPES[1:3])


def in_turn(candidates: dict[str, Callable[[], Any]], report: Report, budget: float) -> dict[str, float]:
    """Median milliseconds of each candidate; all run in turn, at least 4 times, until the budget (s) is spent."""
    if report.warming:
        for run_it in candidates.values():
            run_it()
        return dict.fromkeys(candidates, 1.0)
    times = timing.in_turn(candidates, 50, report.device, warmup=2, budget=budget, least=4)
    return {name: 1e3 * seconds for name, seconds in times.items()}


class Case:
    """One shape of one kind: the same weights, input, lengths and output gradient for every candidate."""

    def __init__(self, kind: str, shape: tuple[int, int, int, int], device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.kind, self.device, self.dtype = kind, device, dtype
        self.steps, batch, self.features, self.hidden_size = shape
        self.x = torch.randn(self.steps, batch, self.features, device=device, dtype=dtype, requires_grad=True)
        self.lengths = torch.randint(self.steps // 2, self.steps + 1, (batch,))
        self.lengths[0] = self.steps
        self.grad = torch.randn(self.steps, batch, self.hidden_size, device=device, dtype=dtype)
        self.torch = getattr(nn, kind)(self.features, self.hidden_size, device=device, dtype=dtype)

    def ours(self, backend: str, **options: Any) -> nn.Module:
        """Our module with the weights of torch's, if it is plain."""
        module: nn.Module = getattr(snn, self.kind)(
            self.features, self.hidden_size, backend=backend, device=self.device, dtype=self.dtype, **options
        )
        if not options:
            module.load_state_dict(self.torch.state_dict())
        return module

    def forward(self, module: nn.Module, ragged: bool) -> Tensor:
        """The padded output."""
        if not ragged:
            return module(self.x)[0]  # type: ignore[no-any-return]
        if module is self.torch:
            packed, _ = module(pack_padded_sequence(self.x, self.lengths, enforce_sorted=False))
            return pad_packed_sequence(packed, total_length=self.steps)[0]
        return module(self.x, lengths=self.lengths)[0]  # type: ignore[no-any-return]

    def train(self, module: nn.Module, ragged: bool) -> None:
        """A forward and a backward pass."""
        self.x.grad = None
        for value in module.parameters():
            value.grad = None
        output = self.forward(module, ragged)
        output.backward(self.grad[..., : output.size(-1)])

    def infer(self, module: nn.Module, ragged: bool) -> None:
        """A forward pass without gradients."""
        with torch.no_grad():
            self.forward(module, ragged)


def _against_torch(report: Report, dtype: torch.dtype, shapes: list[tuple[int, int, int, int]]) -> None:
    name_of = str(dtype).removeprefix("torch.") + ("" if torch.backends.cudnn.allow_tf32 else " without TF32")
    print(f"training and inference, {name_of}: ms, and torch / auto")
    for kind in ("LSTM", "GRU", "RNN"):
        for shape in shapes[: 1 if report.quick else None]:
            case = Case(kind, shape, report.device, dtype)
            for what, ragged in itertools.product(("train", "infer"), (False, True)):
                name = f"{kind} {shape} {name_of} {what} {'ragged' if ragged else 'full'}"
                if report.wants(name):
                    with report.case(name) as values:
                        values |= _row(report, case, what, ragged)
                        shown = "  ".join(f"{key} {value:.3f}" for key, value in values["ms"].items())
                        print(f"{name:52} {shown}  ({values['auto is']}) x{values['ratio']:.2f}", flush=True)


def _row(report: Report, case: Case, what: str, ragged: bool) -> dict[str, Any]:
    modules = {"torch": case.torch}
    for backend in backends(case.kind.lower(), {}, report.device, case.dtype):
        if backend != "reference":
            modules[backend] = case.ours(backend)
    step = case.train if what == "train" else case.infer
    found = in_turn({key: partial(step, module, ragged) for key, module in modules.items()}, report, 0.1)
    with torch.set_grad_enabled(what == "train"):
        choice = modules["auto"].backend_for(case.x, lengths=case.lengths if ragged else None)  # type: ignore[operator]
    return {"ms": found, "auto is": choice.name, "ratio": found["torch"] / found["auto"]}


def _variants(report: Report) -> None:
    print("variants, training, full and ragged: ms, beside plain torch; and ours / torch")
    cases = {kind: Case(kind, (50, 32, 256, 256), report.device, torch.float32) for kind in ("LSTM", "GRU", "RNN")}
    for (kind, options), ragged in itertools.product(VARIANTS[: 1 if report.quick else None], (False, True)):
        name, case = f"{kind} {options} {'ragged' if ragged else 'full'}", cases[kind]
        if not report.wants(name):
            continue
        with report.case(name) as values:
            runs = {"torch": partial(case.train, case.torch, ragged)}
            for backend in backends(kind.lower(), options, report.device):
                if backend != "reference":
                    runs[backend] = partial(case.train, case.ours(backend, **options), ragged)
            values |= in_turn(runs, report, 0.1)
            shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
            print(f"{name:52} {shown}  x{values['auto'] / values['torch']:.2f}", flush=True)


def _tasks(report: Report) -> None:
    """Tokens a second of the quickstarts on the device and on the CPU, and what waiting for the device costs."""
    print("tasks: tokens/s, synchronisations an update")
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        for name in list(TASKS)[: 1 if report.quick else None]:
            for where in dict.fromkeys((report.device, "cpu")):
                with report.case(f"{name}: speed on {where}") as values:
                    updates = 20 if report.quick or where == "cpu" else 100
                    _train(
                        name, f"{name}-{where}", where, updates, "training.evaluate_every=1000", "training.log_every=10"
                    )
                    values["tokens_per_second"] = _rate(f"{name}-{where}")
                    print(f"{name:20} {where:6} {values['tokens_per_second']:,.0f} tokens/s", flush=True)
        if report.device == "cuda":
            for name in TASKS:
                with report.case(f"{name}: synchronisations") as values:
                    values |= _synchronisations(name)
                    print(f"{name:20} {values}", flush=True)


def _rate(name: str) -> float:
    """Tokens a second of the last half of a run."""
    lines = (Path("runs") / name / "timing.jsonl").read_text("utf-8").splitlines()
    rates = [record["tokens_per_second"] for record in map(json.loads, lines) if "tokens_per_second" in record]
    return statistics.median(rates[len(rates) // 2 :])


def _synchronisations(name: str) -> dict[str, Any]:
    """How often an update waits for the device, and where, as torch itself notices it."""
    original, places, updates = Updater.__call__, dict[str, int](), 0

    def watched(self: Updater, *args: Any, **options: Any) -> Any:
        nonlocal updates
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                done = original(self, *args, **options)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        updates += 1
        for one in seen:
            if "synchroniz" in str(one.message):
                place = f"{Path(one.filename).name}:{one.lineno}"
                places[place] = places.get(place, 0) + 1
        return done

    Updater.__call__ = watched  # type: ignore[method-assign]
    try:
        _train(name, f"{name}-waits", "cuda", 10)
    finally:
        Updater.__call__ = original  # type: ignore[method-assign]
    return {"an update": sum(places.values()) / updates, "places": places}
