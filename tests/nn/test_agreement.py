"""A Triton kernel that does not agree with the hand-derived one is named and not used. Here, without Triton, the
hand-derived kernel stands in for its counterpart, as it is or with a fault in it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import seqkit.nn as snn
from seqkit.nn import agreement
from seqkit.nn.backends.triton import triton_refuses
from seqkit.nn.kernels.kernel import Kernel, Tensors
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton import counterparts, support

CPU = torch.device("cpu")


class Faulty(Kernel):
    """A kernel with one row of its output out of place, or one gradient a tenth too small."""

    def __init__(self, kernel: Kernel, where: str) -> None:
        self.kernel, self.where, self.projection_weights = kernel, where, kernel.projection_weights

    @property
    def takes_projected(self) -> bool:
        return self.kernel.takes_projected

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        if self.where == "raises":
            raise OSError("no such instruction\nmore")
        results, saved = self.kernel.forward(tensors, packing, save)
        if self.where == "output":
            results[0] = results[0].clone()
            results[0][1] = results[0][0]
        return results, saved

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        found = dict(self.kernel.backward(tensors, saved, packing, grads, needed))
        if self.where in found:
            found[self.where] = found[self.where] * 0.9
        return found


def pretend(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(counterparts, "triton_kernel", lambda kernel: Faulty(kernel, where))
    monkeypatch.setattr(support, "available", lambda: True)
    monkeypatch.setattr(support, "interpreted", lambda: True)
    agreement._agrees.cache_clear()


CELLS: list[tuple[str, dict[str, Any]]] = [
    ("lstm", {}),
    ("lstm", {"peephole": True, "coupled": True, "cell_clip": 1.0}),
    ("lstm", {"layer_norm": True, "zoneout": 0.2}),
    ("gru", {}),
    ("gru", {"layer_norm": True}),
    ("rnn", {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("kind", "options"), CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_agrees_is_used(
    monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    pretend(monkeypatch, "nothing")
    module = snn.Recurrent(kind, 3, 4, backend="triton", dtype=dtype, **options)
    before = torch.get_rng_state()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        assert module.backend_for(torch.randn(5, 2, 3, dtype=dtype, generator=torch.Generator())).name == "triton"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("where", ["output", "h0", "weight_hh", "bias_ih", "raises"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_what_does_not_agree_is_named_once_and_not_used(monkeypatch: pytest.MonkeyPatch, kind: str, where: str) -> None:
    pretend(monkeypatch, where)
    module = snn.Recurrent(kind, 3, 4, backend="triton")
    x = torch.randn(5, 2, 3)
    said = r"(is off by|fails with OSError: .*no such instruction).* on cpu in torch.float32: it is not used"
    with pytest.warns(RuntimeWarning, match=rf"{kind.upper()}Cell\(.*\) {said}"):
        assert not agreement.agrees(module.cell_at(0).kernel(), CPU, torch.float32)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"^backend 'triton' cannot .*: no Triton kernel serves this"):
        module(x)
    auto = snn.Recurrent(kind, 3, 4)
    assert triton_refuses(auto.cells, x) is not None
    auto(x)
