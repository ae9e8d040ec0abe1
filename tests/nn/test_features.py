"""Tracing, conversion, checkpointing over time, state helpers, learned states, custom cells, and worked examples."""

from __future__ import annotations

import inspect
import typing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

import seqkit.nn as snn


class MinLSTM(snn.Cell):
    """Feng et al. 2024: gates that see the input only."""

    def __init__(self, input_size: int, hidden_size: int, scale: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        self.scale = scale
        self.gates = torch.nn.Linear(input_size, 3 * hidden_size)

    def project(self, x, prepared):
        return self.gates(x)

    def step(self, projected, state, prepared):
        f, i, new = projected.chunk(3, -1)
        f, i = torch.sigmoid(f), torch.sigmoid(i)
        h = (f * state[0] + i * new * self.scale) / (f + i)
        return (h,), {"forget": f, "input": i}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("lstm", {"input", "forget", "cell", "output", "h", "c"}),
        ("gru", {"reset", "update", "new", "h"}),
        ("rnn", {"h"}),
        ("jordan", {"y", "h"}),
        (MinLSTM, {"forget", "input", "h"}),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_trace(kind, names, first):
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 4, 2, bidirectional=True, batch_first=first)
    x, lengths = torch.randn(2, 5, 3) if first else torch.randn(5, 2, 3), [2, 5]
    output, state = module(x, lengths=lengths)
    trace = module.trace(x, lengths=lengths)
    assert torch.allclose(trace.output, output, atol=1e-6)
    for one, other in zip(trace.state, state, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert len(trace.records) == 4
    assert all(set(record) == names for record in trace.records)
    top = "y" if kind == "jordan" else "h"
    assert torch.allclose(torch.cat([trace.records[2][top], trace.records[3][top]], -1), output, atol=1e-6)
    if kind == "lstm":
        # The gates explain the states: c_t = f c_(t-1) + i g, h_t = o tanh(c_t), on the sequence of 5 steps.
        row = [{k: (v if not first else v.transpose(0, 1))[:, 1] for k, v in one.items()} for one in trace.records]
        for record, step in ((row[0], 1), (row[1], -1)):
            before = record["c"].roll(step, 0).clone()
            before[0 if step == 1 else -1] = 0
            assert torch.allclose(record["c"], record["forget"] * before + record["input"] * record["cell"], atol=1e-6)
            assert torch.allclose(record["h"], record["output"] * record["c"].tanh(), atol=1e-6)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_conversion(kind):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(getattr(torch.nn, kind)(3, 4, 2, dropout=0.1, batch_first=True))
            self.twice = self.inner[0]
            self.cell = getattr(torch.nn, kind + "Cell")(3, 4, bias=False)

    model = Model().eval()
    x = torch.randn(2, 5, 3)
    want, cell = model.twice(x)[0], model.cell(x[0])
    parameters = list(model.parameters())
    swapped = snn.from_torch(model)
    assert swapped is model
    assert type(model.twice) is getattr(snn, kind)
    assert model.inner[0] is model.twice
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    assert torch.allclose(model.twice(x)[0], want, atol=1e-6)
    got = model.cell(x[0])
    assert torch.allclose(got[0] if kind == "LSTM" else got, cell[0] if kind == "LSTM" else cell, atol=1e-6)
    back = snn.to_torch(model.twice)
    assert type(back) is getattr(torch.nn, kind)
    assert torch.equal(back(x)[0], want)
    assert not back.training
    assert type(snn.to_torch(model.cell)) is getattr(torch.nn, kind + "Cell")


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("lstm", {"peephole": True}, "LSTMCell"),
        ("gru", {"weight_drop": 0.1}, "weight_drop"),
        ("rnn", {"recurrent_dropout": 0.1}, "recurrent_dropout"),
        ("rnn", {"learn_initial_state": True}, "learn_initial_state"),
        ("jordan", {}, "JordanCell"),
    ],
)
def test_no_way_back_for_variants(kind, options, match):
    with pytest.raises(ValueError, match=match):
        snn.to_torch(snn.Recurrent(kind, 3, 4, **options))


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
@pytest.mark.parametrize(("kind", "lengths"), [("lstm", [7, 2, 0, 5]), ("gru", None), ("rnn", [4, 7, 1, 1])])
def test_checkpointing_changes_nothing(kind, lengths, backend):
    options = {"zoneout": 0.3, "recurrent_dropout": 0.3, "backend": backend, "bidirectional": True}
    torch.manual_seed(0)
    plain = snn.Recurrent(kind, 3, 4, 2, **options)
    chunked = snn.Recurrent(kind, 3, 4, 2, checkpoint_chunks=3, **options)
    chunked.load_state_dict(plain.state_dict())
    x = torch.randn(7, 4, 3, requires_grad=True)
    found = []
    for module in (plain, chunked):
        torch.manual_seed(1)
        output, state = module(x, lengths=lengths)
        loss = output.sin().sum() + sum(part.cos().sum() for part in state)
        found.append([output, *state, *torch.autograd.grad(loss, [x, *module.parameters()])])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_checkpointing_saves_memory():
    """What autograd keeps between forward and backward, in bytes of saved tensors."""
    kept = {}
    for chunks in (1, 16):
        module, total = snn.LSTM(8, 8, backend="fused", checkpoint_chunks=chunks), set()

        def pack(tensor, total=total):
            total.add((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(torch.randn(512, 4, 8))[0].sum()
        kept[chunks] = sum(size for _, size in total)
    assert kept[16] < 0.5 * kept[1]


def test_detach_state():
    lstm, x = snn.LSTM(3, 4), torch.randn(6, 2, 3)
    whole, _ = lstm(x)
    first, state = lstm(x[:3])
    second, _ = lstm(x[3:], snn.detach_state(state))
    assert torch.allclose(torch.cat([first, second]), whole, atol=1e-6)
    assert all(not part.requires_grad for part in snn.detach_state(state))
    assert snn.detach_state({"a": [state, None]})["a"][1] is None
    with pytest.raises(TypeError, match=r"^state"):
        snn.detach_state("h")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_learned_initial_state(kind):
    module = snn.Recurrent(kind, 3, 4, 2, bidirectional=True, learn_initial_state=True)
    x = torch.randn(5, 2, 3)
    zero = snn.Recurrent(kind, 3, 4, 2, bidirectional=True)
    zero.load_state_dict({name: value for name, value in module.state_dict().items() if "initial" not in name})
    assert torch.allclose(module(x)[0], zero(x)[0], atol=1e-6)
    begin = []
    for name in module.cell_at(0).state_names:
        rows = [torch.randn(4) for _ in range(4)]
        for row, suffix in zip(rows, ("_l0", "_l0_reverse", "_l1", "_l1_reverse"), strict=True):
            with torch.no_grad():
                getattr(module, f"initial_{name}{suffix}").copy_(row)
        begin.append(torch.stack([row.expand(2, 4) for row in rows]))
    assert torch.allclose(module(x)[0], zero(x, tuple(begin))[0], atol=1e-6)
    module(x)[0].sum().backward()
    assert module.initial_h_l0.grad.abs().max() > 0


def test_custom_cell_trains_with_lengths_and_layers():
    """A 15-line cell learns to remember the first step of sequences of different lengths."""
    torch.manual_seed(0)
    module = snn.Recurrent(MinLSTM, 2, 16, 2, bidirectional=True, scale=2.0)
    assert module.backend_for(torch.randn(3, 1, 2)) == ("reference", "MinLSTM has no fused kernel")
    head = torch.nn.Linear(module.output_size, 2)
    optimiser = torch.optim.Adam([*module.parameters(), *head.parameters()], 0.02)
    for _ in range(60):
        x, lengths = torch.randn(8, 32, 2), torch.randint(1, 9, (32,))
        output, _ = module(x, lengths=lengths)
        last = output[lengths - 1, torch.arange(32)]
        loss = (head(last) - x[0]).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.25
    assert "cells.0.gates.weight" in module.state_dict()


def test_cells_by_name():
    for cell, match in (("lstn", "did you mean 'lstm'"), ("somebody:MinLSTM", "import the class and give it itself")):
        with pytest.raises(ValueError, match=f"^cell .*{match}"):
            snn.Recurrent(cell, 2, 3)
    with pytest.raises(TypeError, match=r"^cell"):
        snn.Recurrent(3, 2, 3)
    with pytest.raises(TypeError, match=r"^zonout is not an option.*did you mean 'zoneout'"):
        snn.Recurrent("lstm", 2, 3, zonout=0.1)


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("lstm", {"zoneout": 1.2}, "zoneout"),
        ("lstm", {"forget_bias": 1.0, "bias": False}, "forget_bias"),
        ("lstm", {"cell_clip": 0.0}, "cell_clip"),
        ("lstm", {"peephole": "yes"}, "peephole"),
        ("lstm", {"recurrent_dropout_kind": "moon"}, "recurrent_dropout_kind"),
        ("rnn", {"init": "irnn"}, "init"),
        ("gru", {"init": "irnn"}, "init"),
        ("jordan", {"output_size": -1}, "output_size"),
        ("lstm", {"residual": True}, "residual"),
        ("lstm", {"locked_dropout": 0.1}, "locked_dropout"),
        ("lstm", {"backend": "fast"}, "backend"),
        ("lstm", {"backend": "vendor", "peephole": True}, "backend"),
        ("jordan", {"backend": "fused"}, "backend"),
        ("lstm", {"checkpoint_chunks": 0}, "checkpoint_chunks"),
    ],
)
def test_senseless_options(kind, options, match):
    with pytest.raises((ValueError, TypeError), match=f"^{match} "):
        snn.Recurrent(kind, 3, 4, **options)


def test_initialisation():
    module = snn.LSTM(3, 4, forget_bias=1.5, init="orthogonal")
    for block in module.weight_hh_l0.chunk(4):
        assert torch.allclose(block @ block.t(), torch.eye(4), atol=1e-5)
    assert torch.equal(module.bias_ih_l0 + module.bias_hh_l0, torch.tensor([0.0] * 4 + [1.5] * 4 + [0.0] * 8))
    plain = snn.LSTM(3, 4, forget_bias=1.5)
    assert torch.equal((plain.bias_ih_l0 + plain.bias_hh_l0)[4:8], torch.full((4,), 1.5))
    assert plain.bias_ih_l0[:4].abs().min() > 0
    coupled = snn.LSTM(3, 4, coupled=True, forget_bias=-1.0)
    assert torch.equal((coupled.bias_ih_l0 + coupled.bias_hh_l0)[:4], torch.full((4,), -1.0))
    irnn = snn.RNN(3, 4, nonlinearity="relu", init="irnn")
    assert torch.equal(irnn.weight_hh_l0, torch.eye(4))
    assert 0 < irnn.weight_ih_l0.std() < 0.005


def test_defaults_live_once():
    """Modules and cells name the same options with the same defaults and types, all of them resolvable."""
    for module, cell in ((snn.LSTM, snn.LSTMCell), (snn.GRU, snn.GRUCell), (snn.RNN, snn.RNNCell)):
        outer = inspect.signature(module).parameters
        known = {**inspect.signature(snn.Recurrent).parameters, **inspect.signature(cell).parameters}
        hints = {**typing.get_type_hints(snn.Recurrent.__init__), **typing.get_type_hints(cell.__init__)}
        known.pop("cell")
        known.pop("cell_options")
        assert set(outer) == set(known)
        for name, one in outer.items():
            assert one.default == known[name].default
            assert typing.get_type_hints(module.__init__)[name] == hints[name]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.sampled_from(["lstm", "gru", "rnn"]), st.booleans())
def test_a_batch_equals_its_sequences(lengths, kind, both):
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 4, 2, bidirectional=both)
    x = torch.randn(6, len(lengths), 3)
    hx = tuple(torch.randn(4 if both else 2, len(lengths), 4) for _ in module.state_sizes)
    output, state = module(x, hx, lengths=lengths)
    for b, length in enumerate(lengths):
        assert output[length:, b].eq(0).all()
        own = tuple(part[:, b : b + 1].contiguous() for part in hx)
        if length == 0:
            alone_state = own
        else:
            alone, alone_state = module(x[:length, b : b + 1], own)
            assert torch.allclose(output[:length, b : b + 1], alone, atol=1e-6)
        for one, other in zip(state, alone_state, strict=True):
            assert torch.allclose(one[:, b : b + 1], other, atol=1e-6)


def test_packed_sequence_equals_lengths_for_a_variant():
    module = snn.LSTM(3, 4, 2, bidirectional=True, peephole=True)
    x, lengths = torch.randn(5, 3, 3), torch.tensor([2, 5, 3])
    packed, state = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
    padded, other = module(x, lengths=lengths)
    assert torch.allclose(torch.nn.utils.rnn.pad_packed_sequence(packed)[0], padded, atol=1e-6)
    assert torch.allclose(state[1], other[1], atol=1e-6)


def test_worked_example_rnn():
    """Two units, all weights 1, no bias, no activation: hidden (2,2), (6,6), (16,16); outputs their sum."""
    rnn = snn.RNN(2, 2, nonlinearity="identity", bias=False)
    torch.nn.init.ones_(rnn.weight_ih_l0)
    torch.nn.init.ones_(rnn.weight_hh_l0)
    hidden, _ = rnn(torch.tensor([[1.0, 1], [1, 1], [2, 2]]))
    assert torch.equal(hidden @ torch.ones(2, 2), torch.tensor([[4.0, 4], [12, 12], [32, 32]]))


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_worked_example_gated_memory(backend):
    """x2 = 1 adds x1 to the memory, x2 = -1 empties it, x3 = 1 lets it out; weights of +-100 saturate the gates."""
    lstm = snn.LSTM(3, 1, cell_activation="identity", output_activation="identity", backend=backend)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.zero_()
        # Rows i, f, g, o over x1, x2, x3; open input if x2 > 0.5, forget only if x2 < -0.5, output if x3 > 0.5.
        lstm.weight_ih_l0.copy_(torch.tensor([[0.0, 100, 0], [0, 100, 0], [1, 0, 0], [0, 0, 100]]))
        lstm.bias_ih_l0.copy_(torch.tensor([-50.0, 50, 0, -50]))
    x1 = [1.0, 3, 2, 4, 2, 1, 3, 6, 1]
    x2 = [0.0, 1, 0, 1, 0, 0, -1, 1, 0]
    x3 = [0.0, 0, 0, 0, 0, 1, 0, 0, 1]
    x = torch.tensor([x1, x2, x3]).t()
    output, _ = lstm(x)
    assert torch.allclose(output.flatten(), torch.tensor([0.0, 0, 0, 0, 0, 7, 0, 0, 6]), atol=1e-5)
    before = torch.cat([torch.zeros(1), lstm.trace(x).records[0]["c"].flatten()[:-1]])
    assert torch.allclose(before, torch.tensor([0.0, 0, 3, 3, 7, 7, 7, 0, 6]), atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "auto", "fused"])
def test_states_can_be_detached_in_place(backend: str) -> None:
    """As loops over long texts do between two stretches; torch refuses it on views."""
    module = snn.LSTM(3, 4, backend=backend)
    _, state = module(torch.randn(5, 2, 3))
    for part in state:
        part.detach_()
    module(torch.randn(5, 2, 3), state)[0].sum().backward()
    assert not any(part.requires_grad for part in state)
