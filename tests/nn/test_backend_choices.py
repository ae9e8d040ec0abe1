"""Which backend runs a call, over cells, options, sizes, layouts, devices and roads, beside a recorded table.

`backend_choices.txt` was written by the chain of conditions that the table of backends replaced. `python
tests/nn/test_backend_choices.py` writes it again, for a choice that is meant to change.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import seqkit.nn as snn
from seqkit.nn import agreement
from seqkit.nn.aten import onednn_lstm
from seqkit.nn.backends import choose
from seqkit.nn.custom_op import AVAILABLE
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton import counterparts, support

RECORDED = Path(__file__).with_name("backend_choices.txt")
CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("lstm", {}),
    "lstm layer_norm": ("lstm", {"layer_norm": True}),
    "lstm proj_size": ("lstm", {"proj_size": 2}),
    "gru": ("gru", {}),
    "gru zoneout": ("gru", {"zoneout": 0.1}),
    "rnn": ("rnn", {}),
    "rnn identity": ("rnn", {"nonlinearity": "identity"}),
    "jordan": ("jordan", {}),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.5},
    "locked": {"locked_dropout": 0.5},
    "residual": {"residual": True},
    "checkpoint": {"checkpoint_chunks": 2},
}
ROADS = ("eager", "func", "trace", "compile", "dynamo", "onnx")
DEVICES = ("cpu", "cuda", "cuda without Triton", "mps")
SIZES = (4, 128, 256, 1024)
LAYOUTS = {
    "one": Packing.full(1, 1),
    "few": Packing.full(4, 64),
    "short": Packing.full(12, 64),
    "full": Packing.full(64, 8),
    "ragged": Packing.from_lengths(torch.arange(1, 9), 8, torch.device("cpu")),
    "large": Packing.from_lengths(torch.arange(1, 65), 64, torch.device("cpu")),
    "gaps": Packing.from_lengths(torch.tensor([3, 0, 2]), 3, torch.device("cpu")),
    "empty": Packing.from_lengths(torch.tensor([0, 0]), 3, torch.device("cpu")),
}
BACKENDS = ("auto", "reference", "fused", "vendor", "triton")


def pretend(monkeypatch: pytest.MonkeyPatch, device: str, road: str) -> None:
    """Make this machine one with oneDNN, cuDNN and, on "cuda", Triton, and a call one inside `road`."""
    monkeypatch.setattr(agreement, "_agrees", lambda *_: True)
    monkeypatch.setattr(torch, "cudnn_is_acceptable", lambda _: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(support, "available", lambda: device == "cuda")
    counterparts.triton_kernel.cache_clear()
    monkeypatch.setattr(torch._C, "_get_tracing_state", lambda: road == "trace" or None)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: road in ("compile", "dynamo", "onnx"))
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: road == "dynamo")
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: road == "onnx")
    monkeypatch.setattr(torch.autograd.forward_ad, "_current_level", 0 if road == "func" else -1)


def outcomes(network: Any, device: str, sizes: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> Iterator[str]:
    """What `choose` says, or the error it raises, for every call in the order of the loops."""
    kind = torch.device(device.split()[0])
    for size, dtype, layout, graded in itertools.product(sizes, dtypes, LAYOUTS, (True, False)):
        x: Any = SimpleNamespace(
            device=kind, dtype=dtype, is_cuda=kind.type == "cuda", requires_grad=False,
            is_complex=lambda dtype=dtype: dtype.is_complex,
        )  # fmt: skip
        for backend in BACKENDS:
            asked = network._replace(backend=backend, hidden_size=size, training=graded)
            with torch.set_grad_enabled(graded):
                try:
                    route = choose(asked, x, LAYOUTS[layout])
                    assert not route.loop  # torch.export alone
                    yield "; ".join(map(str, route[:5]))
                except RuntimeError as error:
                    yield f"{type(error).__name__}: {error}"


def cases() -> Iterator[tuple[str, str, str, str]]:
    for cell, network, device in itertools.product(CELLS, NETWORKS, DEVICES):
        yield cell, network, device, "eager"
    for cell, road in itertools.product(CELLS, ROADS[1:]):
        yield cell, "plain", "cpu", road
    for cell in ("lstm", "gru"):
        yield cell, "residual", "cpu", "trace"


def swept(monkeypatch: pytest.MonkeyPatch, cell: str, network: str, device: str, road: str) -> list[str]:
    name, options = CELLS[cell]
    module = snn.Recurrent(name, 3, 4, 2, **options, **NETWORKS[network])
    eager = road == "eager"
    sizes, dtypes = (SIZES if eager else SIZES[:1]), (torch.float32, torch.float64, torch.complex64)
    with monkeypatch.context() as patch:
        plain = module.network()
        pretend(patch, device, road)
        said = list(outcomes(plain, device, sizes, dtypes[:1]))
        said += outcomes(plain, device, sizes[:1], dtypes[1:])
    counterparts.triton_kernel.cache_clear()
    return said


SIGNS = string.ascii_letters + string.digits


def read() -> tuple[dict[str, str], dict[str, str]]:
    """The legend, and the signs of each case; cases of equal signs stand together."""
    head, *groups = RECORDED.read_text("utf-8").rstrip().split("\n\n")
    recorded = {case: signs for signs, *names in map(str.splitlines, groups) for case in names}
    return {line[0]: line[2:] for line in head.splitlines()}, recorded


@pytest.mark.skipif(onednn_lstm() is None, reason="the table was recorded with oneDNN")
@pytest.mark.skipif(not AVAILABLE, reason="the table was recorded with custom operators, which need torch 2.4")
@pytest.mark.skipif(support.interpreted(), reason="the table was recorded without Triton's interpreter")
def test_every_call_takes_the_backend_of_the_recorded_table(monkeypatch: pytest.MonkeyPatch) -> None:
    legend, recorded = read()
    assert set(recorded) == {" | ".join(case) for case in cases()}
    for case in cases():
        assert swept(monkeypatch, *case) == [legend[sign] for sign in recorded[" | ".join(case)]], case


def main() -> None:
    legend: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for case in cases():
        said = swept(pytest.MonkeyPatch(), *case)
        signs = "".join(legend.setdefault(text, SIGNS[len(legend)]) for text in said)
        groups.setdefault(signs, []).append(" | ".join(case))
    head = "\n".join(f"{sign} {text}" for text, sign in legend.items())
    RECORDED.write_text("\n\n".join([head, *("\n".join([signs, *names]) for signs, names in groups.items())]) + "\n")


if __name__ == "__main__":
    main()
