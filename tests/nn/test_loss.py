"""Cross-entropy in chunks and the linear layer against torch's own, in float64 and beyond."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import seqkit.nn.linear
import seqkit.nn.loss
from seqkit.nn import linear_cross_entropy
from seqkit.nn.linear import Linear


def tensors(rows: int, size: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    torch.manual_seed(rows)
    features, weight = torch.randn(rows, size, dtype=dtype), torch.randn(classes, size, dtype=dtype)
    bias = torch.randn(classes, dtype=dtype)
    return (*(part.requires_grad_() for part in (features, weight, bias)), torch.randint(classes, (rows,)))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(0, 9),
    size=st.integers(1, 5),
    classes=st.integers(1, 7),
    smoothing=st.sampled_from([0.0, 0.1, 0.6]),
    with_bias=st.booleans(),
    chunk=st.integers(1, 10),
)
def test_loss_and_gradients_are_torchs(
    rows: int, size: int, classes: int, smoothing: float, with_bias: bool, chunk: int
) -> None:
    features, weight, bias, targets = tensors(rows, size, classes)
    used = bias if with_bias else None
    logits = F.linear(features, weight, used)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    wanted = torch.autograd.grad(0.3 * expected, (features, weight, bias), allow_unused=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seqkit.nn.loss, "LOGIT_ROWS", chunk)
        loss, nll = linear_cross_entropy(features, weight, used, targets, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="sum"), rtol=1e-12, atol=1e-12)
    assert not nll.requires_grad
    found = torch.autograd.grad(0.3 * loss, (features, weight, bias), allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_gradients_of_some_of_the_inputs(wanted: tuple[int, ...]) -> None:
    *parts, targets = tensors(5, 3, 4)
    inputs = [part.requires_grad_(place in wanted) for place, part in enumerate(part.detach() for part in parts)]
    assert torch.autograd.gradcheck(
        lambda *given: linear_cross_entropy(*given, targets, label_smoothing=0.2)[0], inputs
    )


def test_float32_is_near_float64_and_large_logits_stay_finite() -> None:
    for scale in (1.0, 300.0):
        features, weight, bias, targets = tensors(700, 64, 900)
        expected = F.cross_entropy(F.linear(features * scale, weight, bias), targets, reduction="sum")
        wanted = torch.autograd.grad(expected, (features, weight))
        low = [part.detach().float().requires_grad_() for part in (features, weight, bias)]
        loss, _ = linear_cross_entropy(low[0] * scale, low[1], low[2], targets)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
        for one, other in zip(torch.autograd.grad(loss, low[:2]), wanted, strict=True):
            assert one.isfinite().all()
            assert (one - other).norm() <= 1e-4 * other.norm()


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            self.size = max(self.size, one.numel() if isinstance(one, Tensor) else 0)
        return result


@pytest.mark.parametrize("learning", [True, False])
def test_the_logits_of_the_batch_are_never_in_memory(learning: bool) -> None:
    rows, size, classes = 4 * seqkit.nn.LOGIT_ROWS, 2, 50
    features, weight, bias, targets = tensors(rows, size, classes, torch.float32)
    with Largest() as mode, torch.set_grad_enabled(learning):
        loss, _ = linear_cross_entropy(features, weight, bias, targets, label_smoothing=0.1)
        if learning:
            loss.backward()
    assert mode.size == seqkit.nn.LOGIT_ROWS * classes


def test_evaluation_computes_no_gradient() -> None:
    features, weight, bias, targets = tensors(8, 3, 4)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(seqkit.nn.loss, "outer", None)
        loss, _ = linear_cross_entropy(features.detach(), weight, bias, targets)
    assert not loss.requires_grad


def test_autocast_runs_the_products_low_and_the_softmax_in_float32() -> None:
    features, weight, bias, targets = tensors(300, 16, 40, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, nll = linear_cross_entropy(features, weight, bias, targets, label_smoothing=0.1)
    assert loss.dtype == nll.dtype == torch.float32
    low = [part.detach().bfloat16().double().requires_grad_() for part in (features, weight, bias)]
    expected = F.cross_entropy(F.linear(*low), targets, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(loss.double(), expected, rtol=3e-3, atol=0)
    loss.backward()
    expected.backward()
    for one, other in zip((features, weight, bias), low, strict=True):
        assert one.grad is not None
        assert one.grad.dtype == torch.float32
        assert (one.grad - other.grad).norm() <= 2e-2 * other.grad.norm()


def test_senseless_arguments_are_named() -> None:
    features, weight, bias, targets = tensors(5, 3, 4)
    for given_, word in (
        ((features[0], weight, bias, targets), "features"),
        ((features, weight[:, :2], bias, targets), "features"),
        ((features, weight, bias[:1], targets), "bias"),
        ((features, weight, bias, targets[1:]), "targets"),
    ):
        with pytest.raises(ValueError, match=f"^{word}"):
            linear_cross_entropy(*given_)
    for value in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"^label_smoothing"):
            linear_cross_entropy(features, weight, bias, targets, label_smoothing=value)


def test_a_second_derivative_is_refused_and_not_dropped() -> None:
    features, weight, bias, targets = tensors(5, 3, 4)
    loss, _ = linear_cross_entropy(features, weight, bias, targets)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(loss, features, create_graph=True)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("work", [0, 10**12])
def test_linear_is_torchs(work: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqkit.nn.linear, "MIN_WORK", work)
    monkeypatch.setattr(seqkit.nn.linear, "MIN_TRAINING", work)
    torch.manual_seed(0)
    module = Linear(96, 80, bias=with_bias)
    x = torch.randn(5, 40, 96, requires_grad=True)
    gradient = torch.randn(5, 40, 80)
    result = module(x)
    with torch.no_grad():
        torch.testing.assert_close(module(x), result)
    inputs = (x, *module.parameters())
    found = torch.autograd.grad(result, inputs, gradient)
    exact = [part.detach().double().requires_grad_() for part in inputs]
    expected = F.linear(*exact)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, torch.autograd.grad(expected, exact, gradient.double()), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    batched = torch.func.vmap(module)(x)
    torch.testing.assert_close(batched, result)


def test_a_frozen_linear_gives_its_input_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqkit.nn.linear, "MIN_TRAINING", 0)
    module = Linear(8, 6).requires_grad_(False)
    x = torch.randn(5, 8, requires_grad=True)
    module(x).sum().backward()
    torch.testing.assert_close(x.grad, module.weight.sum(0).expand(5, 8))
    assert module.weight.grad is None


def test_a_bias_learns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqkit.nn.linear, "MIN_TRAINING", 0)
    module = Linear(256, 100)
    module.weight.requires_grad_(False)
    module(torch.randn(64, 256)).sum().backward()
    torch.testing.assert_close(module.bias.grad, torch.full((100,), 64.0))


def test_linear_has_torchs_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqkit.nn.linear, "MIN_TRAINING", 0)
    torch.manual_seed(0)
    module = Linear(96, 80)
    x = torch.randn(128, 96, requires_grad=True)

    def penalised(result: Tensor) -> tuple[Tensor, ...]:
        (slope,) = torch.autograd.grad(result.square().sum() + result.sum(), x, create_graph=True)
        return torch.autograd.grad(result.sum() + slope.square().sum(), (x, *module.parameters()))

    expected = penalised(F.linear(x, module.weight, module.bias))
    for one, other in zip(penalised(module(x)), expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_linear_refuses_what_torchs_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="zero-element"):
        empty = Linear(0, 5)
    torch.testing.assert_close(empty(torch.randn(3, 0)), empty.bias.expand(3, 5))
    monkeypatch.setattr(seqkit.nn.linear, "MIN_TRAINING", 0)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Linear(256, 100)(torch.randn(64, 200))
