"""An option changed after construction is heeded by the next call on every road, or refused when it is set."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import seqkit.nn as snn
from seqkit.nn.backends import triton
from seqkit.nn.custom_op import AVAILABLE

ROADS = ["reference", "fused", "auto", *(["compiled"] if AVAILABLE else [])]
CHANGES = [
    ("lstm", {"zoneout": 0.4, "zoneout_cell": 0.4}, {"zoneout": 0.0, "zoneout_cell": 0.1}),
    ("lstm", {"zoneout": 0.4, "zoneout_cell": 0.4}, {"zoneout": 0.0, "zoneout_cell": 0.0}),
    ("lstm", {}, {"zoneout": 0.3}),
    ("lstm", {"cell_clip": 0.05}, {"cell_clip": None}),
    ("lstm", {}, {"cell_clip": 0.05}),
    ("lstm", {}, {"cell_activation": "relu", "output_activation": "identity"}),
    ("lstm", {"layer_norm": True, "zoneout": 0.3}, {"zoneout": 0.0}),
    ("gru", {"zoneout": 0.4}, {"zoneout": 0.0}),
    ("gru", {}, {"zoneout": 0.4}),
    ("rnn", {"zoneout": 0.4}, {"zoneout": 0.1}),
    ("rnn", {}, {"nonlinearity": "relu"}),
    ("jordan", {}, {"nonlinearity": "relu", "output_activation": "tanh"}),
]


def outcome(module, x, seed):
    torch.manual_seed(seed)
    module.zero_grad()
    output, _ = module(x, lengths=torch.tensor([5, 3]))
    output.sin().sum().backward()
    grads = [value.grad for value in module.parameters() if value.grad is not None]
    return [output, *grads]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.13's dynamo
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(("kind", "before", "after"), CHANGES)
def test_change_is_heeded(kind, before, after, road, training):
    if kind == "jordan" and road == "fused":
        pytest.skip("no such kernel")
    torch._dynamo.reset()
    torch.manual_seed(0)
    backend = "auto" if road == "compiled" else road
    module = snn.Recurrent(kind, 3, 4, 2, backend=backend, **before).train(training)
    fresh = snn.Recurrent(kind, 3, 4, 2, backend=backend, **{**before, **after}).train(training)
    fresh.load_state_dict(module.state_dict())
    runs = [torch.compile(one, backend="eager") if road == "compiled" else one for one in (module, fresh)]
    x = torch.randn(5, 2, 3)
    old = outcome(runs[0], x, 1)
    for cell in module.cells:
        for name, value in after.items():
            setattr(cell, name, value)
    got, want = outcome(runs[0], x, 1), outcome(runs[1], x, 1)
    for one, two in zip(got, want, strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(old[0], want[0])


def test_triton_is_asked_again(monkeypatch):
    monkeypatch.setattr(triton, "agrees", lambda kernel, *_: not kernel.zoneout)
    module = snn.GRU(3, 4, zoneout=0.2)
    where = torch.device("cpu"), torch.float32
    assert not triton.triton_serves(module.cells, *where)
    for cell in module.cells:
        cell.zoneout = 0.0
    assert triton.triton_serves(module.cells, *where)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("lstm", "peephole", True),
        ("lstm", "coupled", True),
        ("lstm", "layer_norm", True),
        ("lstm", "proj_size", 2),
        ("lstm", "bias", False),
        ("gru", "layer_norm", True),
        ("gru", "bias", False),
        ("rnn", "layer_norm", True),
        ("rnn", "hidden_size", 5),
        ("jordan", "bias", False),
    ],
)
def test_what_decides_the_parameters_is_refused(kind, name, value):
    module = snn.Recurrent(kind, 3, 4)
    with pytest.raises(AttributeError, match=f"{name} of a .* cannot be changed"):
        setattr(module.cells[0], name, value)
    setattr(module.cells[0], name, getattr(module.cells[0], name))
    assert module(torch.randn(5, 2, 3))[0].shape == (5, 2, 4)


def test_cell_options_on_the_network_are_refused():
    module = snn.LSTM(3, 4, 2, zoneout=0.2)
    for name, value in (("zoneout", 0.0), ("cell_clip", 1.0), ("peephole", True), ("weight_drop", 0.5)):
        with pytest.raises(AttributeError, match=rf"for cell in module\.cells: cell\.{name} = "):
            setattr(module, name, value)
    for name, value in (("num_layers", 3), ("bidirectional", True), ("hidden_size", 8)):
        with pytest.raises(AttributeError, match="make a new module"):
            setattr(module, name, value)
    with pytest.raises(AttributeError, match="nonlinearity"):
        snn.RNN(3, 4).nonlinearity = "relu"
    module.dropout, module.batch_first, module.backend = 0.3, True, "reference"
    module.layer_norm = torch.nn.LayerNorm(4)  # a subclass may have one


def test_copies_follow_their_own_options():
    module = snn.GRU(3, 4, zoneout=0.3).eval()
    x = torch.randn(5, 2, 3)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        text = module.cells[0].operator
        other.cells[0].zoneout = 0.0
        assert module.cells[0].operator is text
        plain = snn.GRU(3, 4).eval()
        plain.load_state_dict(module.state_dict())
        assert torch.equal(other(x)[0], plain(x)[0])


def test_print_shows_the_options():
    text = str(snn.LSTM(3, 4, 2, layer_norm=True, zoneout=0.1, bidirectional=True))
    assert "LSTMCell(3, 4, layer_norm=True, zoneout=0.1)" in text
    assert "LSTMCell(8, 4, layer_norm=True, zoneout=0.1)" in text
    assert str(snn.LSTMCell(3, 4, bias=False, peephole=True)) == "LSTMCell(3, 4, bias=False, peephole=True)"
    assert str(snn.GRUCell(3, 4)) == "GRUCell(3, 4)"
    assert str(snn.JordanCell(3, 4, output_activation="tanh")) == "JordanCell(3, 4, output_activation='tanh')"
    cell = snn.RNNCell(3, 4)
    cell.zoneout = 0.5
    assert str(cell) == "RNNCell(3, 4, zoneout=0.5)"
