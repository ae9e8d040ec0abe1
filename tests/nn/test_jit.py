"""`torch.jit.trace`: a trace is right for other steps, batches and lengths than its own, or says that it is not."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import seqkit.nn as snn
from seqkit.nn.custom_op import AVAILABLE

OTHERS = [(5, 2), (7, 2), (3, 2), (5, 4), (1, 1)]
needs_operators = pytest.mark.skipif(not AVAILABLE, reason="torch before 2.4 has no custom operators")


class Ragged(torch.nn.Module):
    """`torch.jit.trace` gives no keyword-only arguments."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, lengths):
        return self.inner(x, lengths=lengths)


def traced(module, *given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about sizes that our checks look at; jit itself is deprecated
        return torch.jit.trace(module, given, check_trace=False)


def called(trace, *given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trace(*given)


def flat(value):
    return [value] if isinstance(value, torch.Tensor) else [tensor for part in value for tensor in flat(part)]


def assert_same(found, wanted):
    for one, other in zip(flat(found), flat(wanted), strict=True):
        torch.testing.assert_close(one, other)


def batch(steps, rows, features=4):
    lengths = torch.randint(0, steps + 1, (rows,))
    lengths[0] = steps
    return torch.randn(steps, rows, features), lengths.flip(0)


@needs_operators
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("lstm", {"bidirectional": True, "num_layers": 2}),
        ("gru", {"bidirectional": True}),
        ("rnn", {"backend": "fused"}),
        ("lstm", {"peephole": True, "learn_initial_state": True, "checkpoint_chunks": 2}),
        ("lstm", {"proj_size": 3}),
        ("gru", {"layer_norm": True, "num_layers": 2, "residual": True}),
    ],
)
def test_recurrent(kind, options, grad):
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 4, 4, **options).eval()
    with torch.set_grad_enabled(grad):
        x, lengths = batch(4, 3)
        plain, ragged = traced(module, x), traced(Ragged(module), x, lengths)
        for steps, rows in OTHERS:
            x, lengths = batch(steps, rows)
            assert_same(called(plain, x), module(x))
            found, wanted = called(ragged, x, lengths), module(x, lengths=lengths)
            assert_same(found, wanted)
            if grad:
                weights = list(module.parameters())
                pair = [
                    torch.autograd.grad(sum(part.sin().sum() for part in flat(one)), weights) for one in (found, wanted)
                ]
                assert_same(*pair)
    with pytest.raises(RuntimeError, match="lengths must lie between 0 and 5"):
        called(ragged, torch.randn(5, 1, 4), torch.tensor([6]))


class Own(snn.Cell):
    def step(self, projected, state, prepared):
        h = torch.tanh(projected + state[0])
        return (h,), {}


@pytest.mark.parametrize(
    "module",
    [snn.Recurrent("jordan", 4, 4), snn.Recurrent(Own, 4, 4, bidirectional=True), snn.LSTM(4, 4, backend="reference")],
    ids=["jordan", "own", "reference"],
)
def test_step_loops_refuse_what_they_would_get_wrong(module):
    x, lengths = batch(4, 3)
    with pytest.raises(RuntimeError, match=r"jit\.trace cannot record lengths .*torch\.export"):
        traced(Ragged(module), x, lengths)
    trace = traced(module, x)
    for rows in (3, 5):
        other = torch.randn(4, rows, 4)
        assert_same(called(trace, other), module(other))
    if AVAILABLE:
        with pytest.raises(RuntimeError, match=r"holds a loop of 4 steps, and the input has 6"):
            called(trace, torch.randn(6, 3, 4))


@pytest.mark.parametrize("kind", ["lstm", "jordan"])
def test_packed_sequences_are_refused(kind):
    class Packs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = snn.Recurrent(kind, 4, 4)

        def forward(self, x, lengths):
            return self.inner(pack_padded_sequence(x, lengths, enforce_sorted=False))[0].data

    with pytest.raises(RuntimeError, match=r"cannot record a PackedSequence"):
        traced(Packs(), torch.randn(4, 3, 4), torch.tensor([4, 2, 3]))


@needs_operators
@pytest.mark.parametrize("method", ["nll", "log_partition", "decode", "marginals"])
def test_crf(method):
    class Calls(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.crf = snn.CRF(3, allowed_start=torch.tensor([True, True, False]), constrain_loss=False)
            torch.nn.init.normal_(self.crf.transitions)

        def forward(self, emissions, lengths):
            if method == "nll":
                return self.crf(emissions, torch.zeros(emissions.shape[:2], dtype=torch.long), lengths)
            return getattr(self.crf, method)(emissions, lengths)

    def emissions(steps, rows):
        x, lengths = batch(steps, rows, 3)
        return x.transpose(0, 1).contiguous() * 100, lengths

    torch.manual_seed(0)
    module = Calls()
    trace = traced(module, *emissions(4, 3))
    for rows in (3, 1, 6):
        given = emissions(4, rows)
        assert_same(called(trace, *given), module(*given))
    with pytest.raises(RuntimeError, match="CRF holds a loop of 4 steps, and the input has 5"):
        called(trace, *emissions(5, 3))


@pytest.mark.parametrize("kind", snn.ATTENTIONS)
def test_attention(kind):
    class Reads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = snn.make_attention(kind, 4, 4)

        def forward(self, query, memory, lengths):
            padding = torch.arange(memory.size(1)) >= lengths.unsqueeze(1)
            return self.attention(query, *self.attention.project(memory, padding), padding)

    module = Reads()

    def given(steps, rows):
        x, lengths = batch(steps, rows)
        return torch.randn(rows, 2, 4), x.transpose(0, 1).contiguous(), lengths

    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            trace = traced(module, *given(4, 3))
            for steps, rows in OTHERS:
                one = given(steps, rows)
                assert_same(called(trace, *one), module(*one))
