"""Rounding against float64, at every scale of the input: at most twice torch's error and one rounding step more."""

from __future__ import annotations

import pytest
import torch

import seqkit.nn as snn
from seqkit.nn.kernels.decode_step import SingleStep
from seqkit.nn.kernels.kernel import tanh_

SCALES = [1e-8, 1e-6, 1e-4, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0, 1e2]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SEEDS = range(4)
SIZE = 64


def error(found, exact):
    """The largest difference as a share of the largest value."""
    return float((found.double() - exact).abs().max() / exact.abs().max())


def cases(dtype):
    return [(scale, seed) for scale in SCALES for seed in SEEDS if dtype != torch.float16 or scale >= 1e-4]


def networks(kind, dtype):
    """torch's in a dtype, and the same in float64."""
    theirs = getattr(torch.nn, kind)(SIZE, SIZE, bias=False, dtype=dtype)
    exact = getattr(torch.nn, kind)(SIZE, SIZE, bias=False, dtype=torch.float64)
    exact.load_state_dict(theirs.state_dict())
    return theirs, exact


@pytest.mark.parametrize("backend", ["reference", "fused", "vendor", "auto"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_scan(kind, dtype, backend):
    for scale, seed in cases(dtype):
        torch.manual_seed(seed)
        theirs, exact = networks(kind, dtype)
        ours = getattr(snn, kind)(SIZE, SIZE, bias=False, dtype=dtype, backend=backend)
        ours.load_state_dict(theirs.state_dict())
        x = (torch.randn(8, 32, SIZE) * scale).to(dtype)
        with torch.no_grad():
            want = exact(x.double())[0]
            bound = 2 * error(theirs(x)[0], want) + torch.finfo(dtype).eps
            inferred = ours(x)[0]
        trained = ours(x)[0].detach()
        for found in (inferred, trained):
            assert error(found, want) <= bound, (scale, seed)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_scan_in_float64(kind):
    for scale, seed in cases(torch.float64):
        torch.manual_seed(seed)
        theirs, _ = networks(kind, torch.float64)
        ours = getattr(snn, kind)(SIZE, SIZE, bias=False, dtype=torch.float64, backend="fused")
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(8, 32, SIZE, dtype=torch.float64) * scale
        assert error(ours(x)[0].detach(), theirs(x)[0].detach()) <= 4e-14, (scale, seed)


@pytest.mark.parametrize("options", [{"peephole": True}, {"coupled": True}, {"proj_size": 32}, {"zoneout": 0.1}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_variants(dtype, options):
    for scale, seed in cases(dtype):
        torch.manual_seed(seed)
        ours = snn.LSTM(SIZE, SIZE, bias=False, dtype=dtype, backend="fused", **options).eval()
        loop, exact = (
            snn.LSTM(SIZE, SIZE, bias=False, dtype=one, backend="reference", **options).eval()
            for one in (dtype, torch.float64)
        )
        loop.load_state_dict(ours.state_dict())
        exact.load_state_dict(ours.state_dict())
        x = (torch.randn(8, 32, SIZE) * scale).to(dtype)
        with torch.no_grad():
            want = exact(x.double())[0]
            bound = 2 * error(loop(x)[0], want) + torch.finfo(dtype).eps
            assert error(ours(x)[0], want) <= bound, (scale, seed)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_layer_norm(kind):
    """Float32 against our own loop, as torch has no such cells. Errors grow at random: their mean counts too."""
    for scale in (1e-8, 1e-4, 1e-2):
        ratios = []
        for seed in range(20):
            torch.manual_seed(seed)
            ours = getattr(snn, kind)(SIZE, SIZE, bias=False, layer_norm=True, backend="fused")
            loop, exact = (
                getattr(snn, kind)(SIZE, SIZE, bias=False, layer_norm=True, dtype=dtype, backend="reference")
                for dtype in (torch.float32, torch.float64)
            )
            loop.load_state_dict(ours.state_dict())
            exact.load_state_dict(ours.state_dict())
            x = torch.randn(8, 32, SIZE) * scale
            with torch.no_grad():
                want = exact(x.double())[0]
                found, other = error(ours(x)[0], want), error(loop(x)[0], want)
            assert found <= 2 * other + torch.finfo(torch.float32).eps, (scale, seed)
            ratios.append(found / other)
        assert torch.tensor(ratios).log().mean().exp() < 1.12, scale


@pytest.mark.parametrize("size", [2048, 16384])
def test_tanh_of_normed_values(size):
    """Every value keeps its digits, not only the largest."""
    x = torch.logspace(-8, 2, size) * torch.randn(size, generator=torch.manual_seed(0)).sign()
    want = torch.tanh(x.double())
    found = tanh_(x, torch.empty_like(x), exact=True).double()
    assert float(((found - want) / want).abs().max()) <= 3 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_single_step(kind, dtype):
    for scale, seed in cases(dtype):
        torch.manual_seed(seed)
        theirs, exact = networks(kind, dtype)
        cell = snn.Recurrent(kind.lower(), SIZE, SIZE, bias=False, dtype=dtype).eval().cell_at(0)
        weights = {name.removesuffix("_l0"): value for name, value in theirs.state_dict().items()}
        x = (torch.randn(1, 32, SIZE) * scale).to(dtype)
        state = tuple(torch.zeros(32, SIZE, dtype=dtype) for _ in cell.state_sizes)
        with torch.no_grad():
            want = exact(x.double())[0]
            bound = 2 * error(theirs(x)[0], want) + torch.finfo(dtype).eps
            assert error(SingleStep(cell, weights)(x[0], state)[0], want[0]) <= bound, (scale, seed)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_autocast(kind):
    for scale, seed in cases(torch.bfloat16):
        torch.manual_seed(seed)
        theirs, exact = networks(kind, torch.float32)
        ours = getattr(snn, kind)(SIZE, SIZE, bias=False)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(8, 32, SIZE) * scale
        with torch.no_grad():
            want = exact(x.double())[0]
            with torch.autocast("cpu", torch.bfloat16):
                got, other = ours(x)[0], theirs(x)[0]
            assert got.dtype == torch.bfloat16
            bound = 2 * error(other, want) + torch.finfo(torch.bfloat16).eps
            assert error(got, want) <= bound, (scale, seed)


@pytest.mark.parametrize("backend", ["fused", "vendor", "auto"])
def test_ragged_training_in_bfloat16(backend):
    """Outputs, memory and gradients beside float64; torch's packed kernel sets the bound."""
    lengths = torch.tensor([8, 3, 5, 1] * 10)  # more than MIN_STRETCH_ROWS
    for scale, seed in cases(torch.bfloat16):
        torch.manual_seed(seed)
        theirs, exact = networks("LSTM", torch.float32)
        ours = snn.LSTM(SIZE, SIZE, bias=False, backend=backend)
        ours.load_state_dict(theirs.state_dict())
        x, found = torch.randn(8, 40, SIZE) * scale, []
        for module, dtype in ((ours, torch.float32), (theirs, torch.float32), (exact, torch.float64)):
            leaf = x.to(dtype, copy=True).requires_grad_()
            packed = torch.nn.utils.rnn.pack_padded_sequence(leaf, lengths, enforce_sorted=False)
            with torch.autocast("cpu", torch.bfloat16, enabled=module is not exact):
                output, (_, memory) = module(packed)
            (output.data.double().square().sum() + memory.double().square().sum()).backward()
            weights = [weight.grad for weight in module.parameters()]
            found.append([output.data.detach(), memory.detach(), leaf.grad, *weights])
        for got, other, want in zip(*found, strict=True):
            assert error(got, want) <= 2 * error(other, want) + torch.finfo(torch.bfloat16).eps, (scale, seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_comes_through_the_padding_of_onednn(dtype):
    """Bit for bit the same results and gradients of the short sequence, however long the other one is."""
    torch.manual_seed(0)
    module = snn.LSTM(SIZE, SIZE, backend="vendor", dtype=dtype)
    x, state = torch.randn(30, 2, SIZE, dtype=dtype), tuple(torch.randn(2, 1, 2, SIZE, dtype=dtype) * 3)
    found = []
    for steps in (6, 30):
        leaf = x[:steps].clone().requires_grad_()
        output, (h, c) = module(leaf, state, lengths=[steps, 5])
        (output[:, 1].sum() + 2 * h[:, 1].sum() + 3 * c[:, 1].sum()).backward()
        found.append([output[:5, 1], h[:, 1], c[:, 1], leaf.grad[:5, 1]])
    for short, long in zip(*found, strict=True):
        assert torch.equal(short, long)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("size", [8, 4096])
def test_tanh(size, dtype):
    for scale, seed in cases(dtype):
        torch.manual_seed(seed)
        x = (torch.randn(size) * scale).to(dtype)
        want = torch.tanh(x.double())
        # Around its switch float32's tanh_ is off by 2e-7 beside 0.46; networks stay within one step, see above.
        steps = 3 if dtype == torch.float32 else 1
        bound = 2 * error(torch.tanh(x), want) + steps * torch.finfo(dtype).eps
        assert error(tanh_(x, torch.empty_like(x)), want) <= bound


def test_tanh_of_nothing_and_of_nan():
    empty = torch.empty(0, 4096)
    assert tanh_(empty, empty).shape == (0, 4096)
    x = torch.randn(4096)
    x[7] = torch.nan
    assert torch.isnan(tanh_(x, torch.empty_like(x))).sum() == 1
