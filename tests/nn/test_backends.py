"""`backend_for` says what runs on every road: padded, packed, a single step, compiled and traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import seqkit.nn as snn
from seqkit.nn import layers, recurrent
from seqkit.nn.backends import fused, reference, vendor
from seqkit.nn.custom_op import AVAILABLE
from seqkit.nn.kernels import tuning

# Where each backend's work is done.
WORKERS = [
    (recurrent, "run_plain", "vendor"),
    (vendor, "whole_network", "vendor"),
    (layers, "compiled_direction", "fused"),
    (vendor, "vendor_scan", "vendor"),
    (fused, "kernel_scan", "fused"),
    (reference, "reference_scan", "reference"),
]
LENGTHS = [6, 2, 4, 5]


@pytest.fixture(name="ran")
def _ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that have worked."""
    ran: list[str] = []

    def watched(run: Any, backend: str) -> Any:
        def work(*args: Any, **options: Any) -> Any:
            result = run(*args, **options)
            ran.extend([] if result is None else [backend])  # None: the short way leaves the call to the long one
            return result

        return work

    for place, worker, backend in WORKERS:
        monkeypatch.setattr(place, worker, watched(getattr(place, worker), backend))
    return ran


def packed(x: torch.Tensor) -> Any:
    return nn.utils.rnn.pack_padded_sequence(x, LENGTHS, enforce_sorted=False)


def equal(x: torch.Tensor) -> Any:
    return nn.utils.rnn.pack_padded_sequence(x, [6] * 4)


CALLS: dict[str, Callable[[torch.Tensor], tuple[Any, dict[str, Any]]]] = {
    "padded": lambda x: (x, {}),
    "lengths": lambda x: (x, {"lengths": LENGTHS}),
    "none has a step": lambda x: (x, {"lengths": [0] * 4}),
    "packed": lambda x: (packed(x), {}),
    "packed, equal": lambda x: (equal(x), {}),
    "one step": lambda x: (x[:1], {}),
    "unbatched": lambda x: (x[:, 0], {}),
    "no batch": lambda x: (x[:, :0], {}),
}

OPTIONS: list[dict[str, Any]] = [{}, {"dropout": 0.5, "residual": True}, {"checkpoint_chunks": 2}, {"zoneout": 0.1}]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "jordan"])
def test_eager(kind: str, options: dict[str, Any], call: str, training: bool, ran: list[str]) -> None:
    if kind == "jordan" and "zoneout" in options:
        pytest.skip("no such option")
    for backend in ("auto", "reference", "fused", "vendor"):
        if backend in ("fused", "vendor") and (kind == "jordan" or (backend == "vendor" and "zoneout" in options)):
            continue
        module = snn.Recurrent(kind, 3, 4, 2, bidirectional=True, backend=backend, **options)
        input, more = CALLS[call](torch.randn(6, 4, 3))
        ran.clear()
        with torch.set_grad_enabled(training):
            said = module.backend_for(input, **more)
            assert not ran
            module(input, **more)
        assert set(ran) <= {said.name}, (backend, said)
        assert ran or call in ("none has a step", "no batch")


@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
@pytest.mark.skipif(not AVAILABLE, reason="torch.library.custom_op needs torch 2.4")
@pytest.mark.parametrize("call", ["padded", "lengths", "packed"])
@pytest.mark.parametrize("kind", ["lstm", "jordan"])
def test_compiled(kind: str, call: str, ran: list[str]) -> None:
    torch._dynamo.reset()
    module = snn.Recurrent(kind, 3, 4)
    input, more = CALLS[call](torch.randn(6, 4, 3))
    if call == "lengths":
        more = {"lengths": torch.tensor(LENGTHS)}

    def run(input: Any, **more: Any) -> tuple[Any, str, str]:
        return module(input, **more), *module.backend_for(input, **more)

    _, name, reason = torch.compile(run, backend="eager")(input, **more)
    assert set(ran) == {name}
    assert reason.startswith("one operator") == (kind == "lstm" and call != "packed")


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("backend", ["auto", "vendor", "fused", "reference"])
@pytest.mark.parametrize("options", [{}, {"residual": True}], ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru", "jordan"])
def test_traced(kind: str, options: dict[str, Any], backend: str, ran: list[str]) -> None:
    if kind == "jordan" and backend in ("vendor", "fused"):
        pytest.skip("no such kernel")
    module = Watched(snn.Recurrent(kind, 4, 4, 2, backend=backend, **options).eval())
    torch.jit.trace(module, torch.randn(6, 4, 4), check_trace=False)
    assert set(ran) == {module.said}


class Watched(nn.Module):
    """Asks at every call what runs."""

    def __init__(self, module: snn.Recurrent) -> None:
        super().__init__()
        self.module, self.said = module, ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.said = self.module.backend_for(x).name
        output: torch.Tensor = self.module(x)[0]
        return output


@pytest.mark.parametrize("batch", [2, 64])
@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_training_on_few_steps_is_atens(kind: str, batch: int, ran: list[str]) -> None:
    few = tuning.FEW_STEPS_GRU if kind == "GRU" else tuning.FEW_STEPS_RNN
    few = few if batch * 256 < tuning.LARGE_STEP else few // 2
    module = getattr(snn, kind)(3, 256)
    ragged = [*[few] * (batch - 1), few - 1]
    for steps, lengths, backend in ((few, None, "vendor"), (few + 1, None, "fused"), (few, ragged, "fused")):
        if lengths is not None and steps <= tuning.FEW_STEPS_TRAINING:
            continue
        x = torch.randn(steps, batch, 3)
        assert module.backend_for(x, lengths=lengths).name == backend
        module(x, lengths=lengths)
        assert ran[-1] == backend
