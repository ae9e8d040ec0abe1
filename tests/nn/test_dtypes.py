"""Complex numbers, and autocast around dtypes that it does not touch."""

from __future__ import annotations

import pytest
import torch

import seqkit.nn as snn
from seqkit.nn.kernels.additive import additive_scores
from seqkit.nn.kernels.gemm import onednn_bfloat16

COMPLEX = [
    ("lstm", {}),
    ("lstm", {"peephole": True, "proj_size": 2, "zoneout": 0.2, "recurrent_dropout": 0.2, "weight_drop": 0.2}),
    ("lstm", {"coupled": True, "recurrent_dropout": 0.2, "recurrent_dropout_kind": "semeniuta"}),
    ("gru", {}),
    ("gru", {"zoneout": 0.2, "recurrent_dropout": 0.3, "recurrent_dropout_kind": "semeniuta"}),
    ("rnn", {}),
    ("rnn", {"nonlinearity": "identity", "zoneout": 0.2}),
    ("jordan", {}),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("kind", "options"), COMPLEX)
def test_complex_gradients(kind, options, backend):
    """Against differences, which know nothing of autograd."""
    torch.manual_seed(0)
    dropout = {"dropout": 0.2, "locked_dropout": 0.2} if options else {}
    module = snn.Recurrent(kind, 2, 3, 2, dtype=torch.complex128, backend=backend, **dropout, **options)
    x = torch.randn(3, 2, 2, dtype=torch.complex128, requires_grad=True)

    def run(x, *_):
        torch.manual_seed(1)
        output, state = module(x, lengths=[3, 2])
        return output, *state

    assert module.backend_for(x).name == "reference"
    assert torch.autograd.gradcheck(run, (x, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_complex_equals_torch(kind):
    """torch's modules have no complex kernel of their own, either, but their loops do."""
    torch.manual_seed(0)
    ours, theirs = (getattr(place, kind)(3, 4, dtype=torch.complex128) for place in (snn, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.complex128)
    found = []
    for module in (ours, theirs):
        leaf = x.clone().requires_grad_()
        output, _ = module(leaf)
        output.abs().sum().backward()
        found.append([output, leaf.grad, *(value.grad for value in module.parameters())])
    for got, want in zip(*found, strict=True):
        assert torch.allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("backend", ["fused", "vendor", "triton"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_complex_is_refused_where_a_backend_is_asked_for(kind, backend):
    module = getattr(snn, kind)(3, 4, backend=backend, dtype=torch.complex64)
    for lengths in (None, [5, 3]):
        with pytest.raises(RuntimeError, match=f"backend '{backend}' computes with real numbers"):
            module(torch.randn(5, 2, 3, dtype=torch.complex64), lengths=lengths)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.13
def test_complex_compiled_takes_the_step_loop():
    torch.manual_seed(0)
    module = snn.GRU(3, 4, dtype=torch.complex64)
    x = torch.randn(5, 2, 3, dtype=torch.complex64)
    found = []
    for run in (module, torch.compile(module, backend="eager")):
        module.zero_grad()
        output, _ = run(x)
        output.abs().sum().backward()
        found.append([output, *(value.grad for value in module.parameters())])
    for got, want in zip(*found, strict=True):
        assert torch.allclose(got, want, atol=1e-6)


def test_complex_additive_scores():
    torch.manual_seed(0)
    given = [torch.randn(*shape, dtype=torch.complex128, requires_grad=True) for shape in ((2, 3, 4), (2, 5, 4), (4,))]
    assert torch.autograd.gradcheck(additive_scores, given)


def test_complex_scores_are_refused():
    crf, lengths = snn.CRF(3), torch.tensor([4])
    with pytest.raises(TypeError, match="emissions must be real"):
        crf.log_partition(torch.randn(1, 4, 3, dtype=torch.complex64), lengths)
    with pytest.raises(TypeError, match="transitions must be real"):
        snn.CRF(3, dtype=torch.complex64).decode(torch.randn(1, 4, 3), lengths)
    features = torch.randn(2, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match="must be real"):
        snn.linear_cross_entropy(features, torch.randn(4, 3), None, torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("backend", ["auto", "reference", "fused", "vendor"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "jordan"])
def test_autocast_leaves_float64_and_complex_alone(kind, backend, dtype):
    if backend not in ("auto", "reference") and (kind == "jordan" or dtype.is_complex):
        pytest.skip("no such kernel")
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 4, backend=backend, dtype=dtype, learn_initial_state=True)
    cell = module.cell_at(0)
    x = torch.randn(5, 2, 3, dtype=dtype)
    for lengths in (None, [5, 3]):
        want, _ = module(x, lengths=lengths)
        wanted = torch.autograd.grad(want.abs().sum(), list(module.parameters()), allow_unused=True)
        with torch.autocast("cpu", torch.bfloat16):
            got, state = module(x, lengths=lengths)
            assert module.backend_for(x, lengths=lengths) is not None
        found = torch.autograd.grad(got.abs().sum(), list(module.parameters()), allow_unused=True)
        assert {part.dtype for part in (got, *state)} == {dtype}
        assert torch.allclose(got, want, rtol=1e-12, atol=1e-14)
        for one, two in zip(found, wanted, strict=True):
            assert one is two is None or torch.allclose(one, two, rtol=1e-10, atol=1e-12)
    alone = type(cell)(3, 4, dtype=dtype)
    want = alone(x[0])
    with torch.autocast("cpu", torch.bfloat16):
        got = alone(x[0])
    for one, two in zip(got, want, strict=True):
        assert one.dtype == dtype
        assert torch.equal(one, two)


def test_autocast_joins_no_float64_with_float32():
    """torch refuses it, too: its products see float64 beside bfloat16."""
    module, double = snn.LSTM(3, 4), snn.LSTM(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3)
    state = (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        for call in (lambda: module(x.double()), lambda: double(x)):
            with pytest.raises(ValueError, match="input must have the type"):
                call()
        with pytest.raises(RuntimeError, match="must have the type"):
            module(x, state)
        assert module(x.bfloat16())[0].dtype == torch.bfloat16


def test_autocast_leaves_the_loss_in_float64():
    features, weight = torch.randn(6, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    targets = torch.randint(9, (6,))
    want, _ = snn.linear_cross_entropy(features, weight, None, targets)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = snn.linear_cross_entropy(features, weight, None, targets)
    assert torch.equal(got, want)


def test_backend_for_names_what_runs_under_autocast():
    """oneDNN's LSTM serves float32, and bfloat16 where the CPU does; many units train on the fused kernel there."""
    module, wide = snn.LSTM(16, 24), snn.LSTM(16, 512)
    x, rows = torch.randn(7, 5, 16), torch.randn(7, 32, 16)
    assert module.backend_for(x).reason == wide.backend_for(rows).reason == "oneDNN's LSTM"
    with torch.autocast("cpu", torch.bfloat16):
        lowered, large = module.backend_for(x), wide.backend_for(rows)
        assert (lowered.reason == "oneDNN's LSTM") == onednn_bfloat16()
        assert large.name == "fused"
        with torch.no_grad():
            assert wide.backend_for(rows).reason == lowered.reason or not onednn_bfloat16()
    with torch.autocast("cpu", torch.float16):
        assert module.backend_for(x).reason != "oneDNN's LSTM"
    assert lowered == module.bfloat16().backend_for(x.bfloat16())
    assert large == wide.bfloat16().backend_for(rows.bfloat16())
