"""seqkit.nn on a device against float64 on the CPU, step by step under autograd."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from device.report import Report
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import seqkit.nn as snn
from seqkit.nn.custom_op import AVAILABLE

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "lstm": [
        {},
        {"bias": False},
        {"proj_size": 3},
        {"peephole": True},
        {"coupled": True},
        {"layer_norm": True},
        {"cell_clip": 0.3},
        {"zoneout": 0.3, "zoneout_cell": 0.4},
        {"cell_activation": "relu", "output_activation": "sigmoid"},
        {"peephole": True, "coupled": True, "layer_norm": True, "proj_size": 3, "zoneout": 0.2, "cell_clip": 0.5},
    ],
    "gru": [{}, {"bias": False}, {"layer_norm": True}, {"zoneout": 0.3}],
    "rnn": [{}, {"nonlinearity": "relu"}, {"bias": False}, {"layer_norm": True, "zoneout": 0.3}],
    "jordan": [{}, {"output_size": 3, "output_activation": "tanh"}],
}
RANDOM: dict[str, list[dict[str, Any]]] = {
    "lstm": [
        {"recurrent_dropout": 0.3},
        {"recurrent_dropout": 0.3, "recurrent_dropout_kind": "semeniuta"},
        {"weight_drop": 0.3},
        {"zoneout": 0.3, "zoneout_cell": 0.3},
    ],
    "gru": [{"recurrent_dropout": 0.3}, {"weight_drop": 0.3}, {"zoneout": 0.3}],
    "rnn": [{"recurrent_dropout": 0.3}, {"weight_drop": 0.3}, {"zoneout": 0.3}],
}
BACKENDS = ("auto", "fused", "reference", "vendor", "triton")
STEPS, BATCH, SIZE, HIDDEN = 6, 5, 4, 7
RAGGED = [6, 2, 0, 5, 2]
HAS_CASTS = ("cuda", "cpu", "mps", "xpu")


def check(report: Report) -> None:
    """All of it, the widest first."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    warnings.simplefilter("error")
    _against_double(report)
    _shapes(report)
    _random(report)
    _second_derivatives(report)
    _casts(report)
    _default_device(report)
    _compiled(report)
    _around(report)


def backends(kind: str, options: dict[str, Any], device: str, dtype: torch.dtype = torch.float32) -> list[str]:
    """Those that serve a cell with these options on the device."""
    found = []
    x = torch.zeros(1, 1, 2, device=device, dtype=dtype)
    for backend in BACKENDS:
        try:
            options_here = {"backend": backend, "device": device, "dtype": dtype, **options}
            snn.Recurrent(kind, 2, 128, **options_here).backend_for(x)
        except (ValueError, RuntimeError) as error:
            if not str(error).startswith("backend"):  # so begins what a backend says that it refuses
                raise
            continue
        found.append(backend)
    return found


def close(got: Tensor | None, want: Tensor | None, tolerance: float, name: str) -> float:
    """The largest difference, as a share of the largest value (at least 1); AssertionError beyond the tolerance."""
    got = torch.zeros(()) if got is None else got.detach().cpu().double()
    want = torch.zeros(()) if want is None else want.detach().double()
    assert got.isfinite().all(), f"{name} is not finite"
    error = float((got - want).abs().max() / max(1.0, float(want.abs().max()))) if got.numel() else 0.0
    assert error <= tolerance, f"{name} is off by {error:.2e}, more than {tolerance:.0e}"
    return error


def share(got: Tensor | None, want: Tensor | None) -> float:
    """The length of the difference as a share of the length of what is wanted: for precisions that round roughly,
    where single values beside a kink (a clip, a relu) may be far off."""
    got = torch.zeros(()) if got is None else got.detach().cpu().double()
    want = torch.zeros(()) if want is None else want.detach().double()
    assert got.isfinite().all(), "a value is not finite"
    return float((got - want).norm() / want.norm().clamp_min(1e-3))


class Pair:
    """A module on the device, and its like in float64 on the CPU, with the same weights and input."""

    def __init__(self, device: str, kind: str, dtype: torch.dtype, shape: Sequence[int] | None = None, **options: Any):
        torch.manual_seed(0)
        steps, batch, size, hidden = shape or (STEPS, BATCH, SIZE, HIDDEN)
        backend = options.pop("backend", "auto")
        self.module = snn.Recurrent(kind, size, hidden, backend=backend, dtype=dtype, **options)
        self.double = snn.Recurrent(kind, size, hidden, backend="reference", dtype=torch.float64, **options)
        self.double.load_state_dict(self.module.state_dict())
        self.module.to(device)
        slots = self.module.num_layers * self.module.num_directions
        self.x = torch.randn(steps, batch, size, dtype=torch.float64).to(dtype)
        self.hx = tuple(torch.randn(slots, batch, part).to(dtype) for part in self.module.state_sizes)
        self.device = device

    def run(self, lengths: Any, where: str = "device", **call: Any) -> tuple[list[Tensor | None], list[str]]:
        """Outputs, final states and all gradients of one side."""
        module = self.module if where == "device" else self.double
        like = next(module.parameters())
        x, *hx = (value.to(like.device, like.dtype).requires_grad_() for value in (self.x, *self.hx))
        output, state = module(x, tuple(hx), lengths=lengths, **call)
        names = ["output", *(f"{name}_n" for name in module.cell_at(0).state_names)]
        torch.manual_seed(1)
        results = [output, *state]
        loss = sum((part * torch.randn(part.shape, dtype=torch.float64).to(part)).sum() for part in results)
        leaves = [x, *hx, *module.parameters()]
        names += ["x", *(f"{name}_0" for name in module.cell_at(0).state_names)]
        names += [name for name, _ in module.named_parameters()]
        return [*results, *torch.autograd.grad(loss, leaves, allow_unused=True)], names

    def compare(self, lengths: Any, tolerance: float) -> float:
        """The largest error of anything."""
        on_cpu = lengths.cpu() if isinstance(lengths, Tensor) else lengths
        got, names = self.run(lengths)
        want, _ = self.run(on_cpu, "double")
        return max(close(one, other, tolerance, name) for one, other, name in zip(got, want, names, strict=True))


def _against_double(report: Report) -> None:
    device = report.device
    dtypes = [torch.float32] if device == "mps" or report.quick else [torch.float32, torch.float64]
    layouts = [(1, False), (2, True)]
    given = {"full": None, "list": RAGGED, "device": torch.tensor(RAGGED, device=device)}
    given["no steps"] = [0] * BATCH
    for kind, variants in VARIANTS.items():
        for options in variants[:: 4 if report.quick else 1]:
            for backend, dtype in itertools.product(BACKENDS, dtypes):
                if backend not in backends(kind, options, device, dtype):
                    continue
                for (layers, both), (shown, lengths) in itertools.product(layouts, given.items()):
                    if shown == "no steps" and layers == 2:
                        continue
                    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
                    name = f"{kind} {options} {backend} {dtype} layers={layers} both={both} lengths={shown}"
                    if not report.wants(name):
                        continue
                    with report.case(name) as values:
                        pair = Pair(
                            device, kind, dtype, num_layers=layers, bidirectional=both, backend=backend, **options
                        )
                        pair.module.train(shown == "full" and "zoneout" not in options)
                        pair.double.train(pair.module.training)
                        values["error"] = pair.compare(lengths, tolerance)


def _shapes(report: Report) -> None:
    """Sizes at which kernels change: the fast roads with more than one block of anything."""
    shapes = [(33, 70, 30, 130), (20, 33, 256, 256), (5, 3, 17, 33), (1, 64, 64, 64), (12, 1, 8, 512)]
    for kind, shape in itertools.product(("lstm", "gru", "rnn"), shapes[: 2 if report.quick else None]):
        for backend in backends(kind, {}, report.device):
            for ragged in (False, True):
                name = f"{kind} {shape} {backend} {'ragged' if ragged else 'full'}"
                if not report.wants(name):
                    continue
                with report.case(name) as values:
                    pair = Pair(report.device, kind, torch.float32, shape, backend=backend)
                    lengths = torch.randint(0, shape[0] + 1, (shape[1],)) if ragged else None
                    values["error"] = pair.compare(lengths, 2e-4)


def _random(report: Report) -> None:
    """With masks drawn: every backend draws the same ones as the step loop, on the device."""
    for kind, variants in RANDOM.items():
        for options, lengths in itertools.product(variants, (None, RAGGED)):
            for backend in backends(kind, options, report.device):
                if backend in ("reference", "vendor"):
                    continue
                name = f"masks: {kind} {options} {backend} {'ragged' if lengths else 'full'}"
                if not report.wants(name):
                    continue
                with report.case(name) as values:
                    found = []
                    for one in (backend, "reference"):
                        pair = Pair(
                            report.device, kind, torch.float32, num_layers=2, bidirectional=True, backend=one, **options
                        )
                        pair.module.train()
                        torch.manual_seed(5)
                        found.append(pair.run(lengths))
                    (got, names), (want, _) = found
                    on_cpu = [None if value is None else value.cpu() for value in want]
                    values["error"] = max(
                        close(*parts) for parts in zip(got, on_cpu, [1e-4] * len(names), names, strict=True)
                    )


def _second_derivatives(report: Report) -> None:
    """As a gradient penalty takes them, in training and in evaluation."""
    for kind, training, lengths in itertools.product(VARIANTS, (True, False), (None, RAGGED)):
        for backend in backends(kind, {}, report.device):
            name = f"second derivative: {kind} {backend} training={training} {'ragged' if lengths else 'full'}"
            if not report.wants(name):
                continue
            with report.case(name) as values:
                pair = Pair(report.device, kind, torch.float32, num_layers=2, bidirectional=True, backend=backend)
                found = []
                for module in (pair.module, pair.double):
                    module.train(training)
                    like = next(module.parameters())
                    x = pair.x.to(like.device, like.dtype).requires_grad_()
                    output, _ = module(x, lengths=lengths)
                    (grad,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
                    found.append(torch.autograd.grad(grad.square().sum(), [x, *module.parameters()]))
                values["error"] = max(close(*parts, 1e-3, "second derivative") for parts in zip(*found, strict=True))


def _casts(report: Report) -> None:
    """Under autocast: torch.nn's dtypes, and no further from the exact result than the step loop is, or nearly so."""
    device = report.device
    if device not in HAS_CASTS:
        return
    dtypes = (torch.bfloat16, torch.float16)
    for kind, dtype, lengths in itertools.product(("lstm", "gru", "rnn"), dtypes, (None, RAGGED)):
        for options in VARIANTS[kind][: 1 if report.quick else None]:
            group = f"autocast {dtype}: {kind} {options} {'ragged' if lengths else 'full'}"
            if not report.wants(group):
                continue
            bound = None
            for backend in ("reference", *(one for one in backends(kind, options, device) if one != "reference")):
                with report.case(f"{group} {backend}") as values:
                    error = values["error"] = _cast_error(device, kind, dtype, lengths, {**options, "backend": backend})
                    bound = error if bound is None else bound
                    # All together: a value that falls on the other side of a kink weighs much in a small gradient.
                    assert error <= 3 * bound + 0.02, f"off by {error:.2e}; the step loop by {bound:.2e}"


def _cast_error(device: str, kind: str, dtype: torch.dtype, lengths: Any, options: dict[str, Any]) -> float:
    pair = Pair(device, kind, torch.float32, num_layers=2, bidirectional=True, **options)
    for module in (pair.module, pair.double):
        module.eval()
    with torch.autocast(device, dtype):
        got, _ = pair.run(lengths)
    assert got[0] is not None
    assert got[0].dtype == dtype, f"output has {got[0].dtype}"
    want, _ = pair.run(lengths, "double")
    return max(share(*parts) for parts in zip(got, want, strict=True))


def _compiled(report: Report) -> None:
    """Under torch.compile, each layer and direction one operator; graphs are traced, no code is generated."""
    if report.quick or not AVAILABLE:
        return
    for kind, lengths in itertools.product(("lstm", "gru", "rnn"), (None, RAGGED)):
        name = f"compiled: {kind} {'ragged' if lengths else 'full'}"
        if not report.wants(name):
            continue
        with report.case(name) as values, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, in what its compiler imports
            pair = Pair(report.device, kind, torch.float32, num_layers=2, bidirectional=True)
            torch._dynamo.reset()
            pair.module.compile(backend="aot_eager", fullgraph=True)
            given = None if lengths is None else torch.tensor(lengths, device=report.device)
            values["error"] = pair.compare(given, 1e-4)


def _default_device(report: Report) -> None:
    """Made and called while the device is torch's default for new tensors."""
    for kind, lengths in itertools.product(VARIANTS, (None, RAGGED)):
        name = f"default device: {kind} {'ragged' if lengths else 'full'}"
        if report.wants(name):
            with report.case(name), torch.device(report.device):
                module = snn.Recurrent(kind, SIZE, HIDDEN, 2, bidirectional=True)
                output, _ = module(torch.randn(STEPS, BATCH, SIZE), lengths=lengths)
                output.sum().backward()
                assert output.device.type == report.device


def _refused(module: torch.nn.Module, kind: type[Exception], given: dict[str, Any]) -> str:
    """What the error of this kind says that the call must raise."""
    try:
        module(**given)
    except kind as error:
        return str(error)
    raise AssertionError("no error")


def _around(report: Report) -> None:
    """Empty batches, packed sequences, single steps, CRF, what is refused."""
    device = report.device
    cases: dict[str, Callable[[], None]] = {"CRF": partial(_crf, device)}
    for kind in ("lstm", "gru", "rnn"):
        cases[f"one step: {kind}"] = partial(_one_step, device, kind)
        for backend in backends(kind, {}, device):
            cases[f"empty batch: {kind} {backend}"] = partial(_empty, device, kind, backend)
            cases[f"packed: {kind} {backend}"] = partial(_packed, device, kind, backend)
    cases["lengths that are refused"] = partial(_refused, device, ValueError, f"between 0 and {STEPS}", device)
    if device != "cpu":
        cases["input elsewhere is refused"] = partial(_refused, device, RuntimeError, "is on device", "cpu")
    for name, check_it in cases.items():
        if report.wants(name):
            with report.case(name):
                check_it()


def _empty(device: str, kind: str, backend: str) -> None:
    module = snn.Recurrent(kind, SIZE, HIDDEN, backend=backend, device=device)  # type: ignore[arg-type]
    output, _ = module(torch.zeros(STEPS, 0, SIZE, device=device, requires_grad=True))
    output.sum().backward()
    assert output.shape == (STEPS, 0, HIDDEN)


def _packed(device: str, kind: str, backend: str) -> None:
    pair = Pair(device, kind, torch.float32, backend=backend)
    lengths = [max(1, one) for one in RAGGED]
    got, _ = pair.module(pack_padded_sequence(pair.x.to(device), lengths, enforce_sorted=False))
    want, _ = pair.double(pack_padded_sequence(pair.x.double(), lengths, enforce_sorted=False))
    close(got.data, want.data, 1e-4, "packed output")


def _one_step(device: str, kind: str) -> None:
    pair = Pair(device, kind, torch.float32)
    got, _ = pair.module(pair.x[:1].to(device))
    want, _ = pair.double(pair.x[:1].double())
    close(got, want, 1e-4, "output")


def _refused(device: str, kind: type[Exception], message: str, where: str) -> None:
    """An input on the device `where`, with a length that is too great if that is the module's."""
    module = snn.LSTM(SIZE, HIDDEN, device=device)
    lengths = torch.tensor([3, STEPS + (where == device)], device=device)
    try:
        module(torch.zeros(STEPS, 2, SIZE, device=where), lengths=lengths)
    except kind as error:
        if message in str(error):
            return
        raise
    raise AssertionError("no error")


def _crf(device: str) -> None:
    torch.manual_seed(0)
    scores, tags = torch.randn(4, 6, 5, dtype=torch.float64), torch.randint(0, 5, (4, 6))
    lengths = torch.tensor([6, 1, 3, 6])
    crf, exact = snn.CRF(5), snn.CRF(5, dtype=torch.float64)
    torch.nn.init.normal_(crf.transitions)
    exact.load_state_dict(crf.state_dict())
    want, (best, _) = exact(scores, tags, lengths), exact.decode(scores, lengths)
    crf.to(device)
    near, places = scores.float().to(device), lengths.to(device)
    close(crf(near, tags.to(device), places), want, 1e-4, "CRF loss")
    assert torch.equal(crf.decode(near, places)[0].cpu(), best), "CRF finds another path"
