"""What is ours around cuDNN's calls, with cuDNN replaced by ATen's networks of the CPU: which weights lie where in the
joined block, sequences without a step, gradients in evaluation, second derivatives. The real one: device/check.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import seqkit.nn as snn
from seqkit.nn import aten, cudnn
from seqkit.nn.backends import vendor

NAMES = {number: name for name, number in cudnn.MODES.items()}
calls: list[str] = []


def flatten_weight(weights: list[Tensor], stride: int, *sizes: Any) -> Tensor:
    """As cuDNN lays them: all matrices, then all biases; the given tensors become views of the block."""
    order = sorted(range(len(weights)), key=lambda index: weights[index].dim() == 1)
    block = torch.cat([weights[index].detach().reshape(-1) for index in order])
    end = 0
    for index in order:
        begin, end = end, end + weights[index].numel()
        weights[index].set_(block.untyped_storage(), begin, weights[index].shape, weights[index].stride())
    return block


def network(
    x: Tensor,
    weights: list[Tensor],
    hx: Tensor,
    cx: Tensor | None,
    mode: int,
    layers: int,
    both: bool,
    sizes: list[int],
) -> tuple[Tensor, ...]:
    bias = any(value.dim() == 1 for value in weights)
    state: Any = hx if cx is None else [hx, cx]
    run = getattr(torch._VF, NAMES[mode].lower())
    if sizes:
        return tuple(run(x, torch.tensor(sizes), state, weights, bias, layers, 0.0, True, both))
    return tuple(run(x, state, weights, bias, layers, 0.0, True, both, False))


def out_of(block: Tensor, like: list[Tensor]) -> list[Tensor]:
    """The weights as they lie in the block."""
    views = [torch.empty_like(value) for value in like]
    flatten_weight(views, 0)
    result, end = [torch.empty(0)] * len(like), 0
    for index in sorted(range(len(like)), key=lambda index: like[index].dim() == 1):
        result[index] = block[end : end + like[index].numel()].view(like[index].shape)
        end += like[index].numel()
    return result


def rnn(
    x: Tensor, weights: list[Tensor], stride: int, block: Tensor, hx: Tensor, cx: Tensor | None,
    mode: int, hidden: int, proj: int, layers: int, first: bool, dropout: float, train: bool, both: bool,
    sizes: list[int], state: None,
) -> tuple[Tensor, ...]:  # fmt: skip
    calls.append("train" if train else "infer")
    with torch.no_grad():
        output, *finals = network(x, out_of(block, weights), hx, cx, mode, layers, both, sizes)
    return output, finals[0], finals[1] if len(finals) > 1 else torch.empty(0), torch.empty(0), block


def rnn_backward(
    x: Tensor, weights: list[Tensor], stride: int, block: Tensor, hx: Tensor, cx: Tensor | None,
    output: Tensor, d_out: Tensor | None, d_h: Tensor | None, d_c: Tensor | None,
    mode: int, hidden: int, proj: int, layers: int, first: bool, dropout: float, train: bool, both: bool,
    sizes: list[int], state: None, reserve: Tensor, wanted: list[bool],
) -> tuple[Any, ...]:  # fmt: skip
    assert train
    leaves = [x, hx, *([] if cx is None else [cx]), *out_of(block, weights)]
    leaves = [value.detach().clone().requires_grad_() for value in leaves]
    with torch.enable_grad():
        own_cx, rest = (None, leaves[2:]) if cx is None else (leaves[2], leaves[3:])
        results = network(leaves[0], rest, leaves[1], own_cx, mode, layers, both, sizes)
    grads = (d_out, d_h, d_c)[: len(results)]
    pairs = [(result, grad) for result, grad in zip(results, grads, strict=True) if grad is not None]
    found = torch.autograd.grad([one for one, _ in pairs], leaves, [grad for _, grad in pairs])
    return found[0], found[1], None if cx is None else found[2], list(found[-len(weights) :])


@pytest.fixture(autouse=True)
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SimpleNamespace(_cudnn_rnn=rnn, _cudnn_rnn_backward=rnn_backward, _cudnn_rnn_flatten_weight=flatten_weight)
    monkeypatch.setattr(cudnn, "_ops", own)
    for room in (aten, vendor):
        monkeypatch.setattr(room, "cudnn_serves", lambda mode, data: mode in cudnn.MODES)
        monkeypatch.setattr(room, "uses_onednn", lambda mode, data: False)
    monkeypatch.setattr(snn.LSTMCell, "vendor_mode", snn.LSTMCell.cudnn_mode)  # as on CUDA
    monkeypatch.setattr("seqkit.nn.recurrent.run_plain", lambda *_: None)  # it serves the CPU
    cudnn._order.cache_clear()
    calls.clear()


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("lstm", {}),
    ("lstm", {"bias": False}),
    ("lstm", {"proj_size": 2}),
    ("gru", {}),
    ("rnn", {"nonlinearity": "relu"}),
    ("rnn", {"bias": False}),
]
LENGTHS = {"full": None, "ragged": [5, 2, 0, 3], "living": [5, 2, 1, 3], "equal": [4, 4, 0, 4]}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)])
@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_values_and_gradients_of_both_orders(
    kind: str, options: dict[str, Any], layers: int, both: bool, lengths: str, training: bool
) -> None:
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 4, layers, bidirectional=both, backend="vendor", dtype=torch.float64, **options)
    exact = snn.Recurrent(kind, 3, 4, layers, bidirectional=both, backend="reference", dtype=torch.float64, **options)
    exact.load_state_dict(module.state_dict())
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    hx = [torch.randn(layers * (1 + both), 4, size, dtype=torch.float64) for size in module.state_sizes]
    found = []
    for one in (module, exact):
        one.train(training)
        leaves = [value.clone().requires_grad_() for value in (x, *hx)]
        output, state = one(leaves[0], tuple(leaves[1:]), lengths=LENGTHS[lengths])
        loss = output.square().sum() + sum(part.sin().sum() for part in state)
        asked = [*leaves, *one.parameters()]
        first = torch.autograd.grad(loss, asked, create_graph=True)
        output, state = one(leaves[0], tuple(leaves[1:]), lengths=LENGTHS[lengths])
        plain = torch.autograd.grad(output.square().sum() + sum(part.sin().sum() for part in state), asked)
        second = torch.autograd.grad(sum(grad.square().sum() for grad in first), asked)
        found.append([output, *state, *first, *plain, *second])
    assert calls, "cuDNN was not asked"
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_only_a_gradient_keeps_what_the_backward_pass_needs() -> None:
    module = snn.LSTM(3, 4, backend="vendor").eval()
    with torch.no_grad():
        module(torch.randn(5, 2, 3))
    module(torch.randn(5, 2, 3))
    assert calls == ["infer", "train"]


def test_one_call_for_all_layers_unless_something_stands_between_them() -> None:
    for options, count in (({}, 1), ({"dropout": 0.5}, 4), ({"locked_dropout": 0.5}, 4), ({"residual": True}, 4)):
        module = snn.Recurrent("gru", 8, 4, 2, bidirectional=True, backend="vendor", **options)
        for lengths in (None, [5, 3]):
            calls.clear()
            module(torch.randn(5, 2, 8), lengths=lengths)
            assert len(calls) == count, options


def test_weights_with_gaps_between_them_are_laid_out_by_cudnn_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "_order", lambda *args: None)
    torch.manual_seed(0)
    module, exact = (snn.GRU(3, 4, 2, backend=backend) for backend in ("vendor", "reference"))
    exact.load_state_dict(module.state_dict())
    x = torch.randn(5, 2, 3)
    want, _ = exact(x)
    before = [value.clone() for value in module.parameters()]
    places = [value.data_ptr() for value in module.parameters()]
    got, _ = module(x)
    assert calls, "cuDNN was not asked"
    torch.testing.assert_close(got, want)
    assert all(torch.equal(*pair) for pair in zip(before, module.parameters(), strict=True))
    assert [value.data_ptr() for value in module.parameters()] == places, "parameters became views of the block"
