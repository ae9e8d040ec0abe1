"""The short ways of plain networks and cells compute what the long way and torch do, whatever changes in between."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import seqkit.nn as snn
from seqkit.nn import recurrent

KINDS = ["LSTM", "GRU", "RNN"]


def flat(value):
    """List the tensors of nested tuples."""
    return [value] if isinstance(value, torch.Tensor) else [leaf for part in value for leaf in flat(part)]


def gradients(module, outputs):
    module.zero_grad()
    sum(part.sin().sum() for part in flat(outputs)).backward()
    return [value.grad for value in module.parameters()]


def torch_twin(module, *arguments, **options):
    twin = getattr(nn, type(module).__name__)(*arguments, **options)
    twin.load_state_dict(module.state_dict())
    return twin


def long_way(module, *arguments, monkeypatch):
    """Call the module with its short ways blocked."""
    with monkeypatch.context() as patch:
        patch.setattr(recurrent, "run_plain", lambda *_: None)
        patch.setattr(recurrent, "step_plain", lambda *_: None)
        return module(*arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cell_is_atens_bit_for_bit(kind, bias, dtype):
    torch.manual_seed(0)
    cell = getattr(snn, kind)(5, 7, bias=bias, dtype=dtype)
    twin = torch_twin(cell, 5, 7, bias=bias, dtype=dtype)
    for shape in ((3,), ()):
        x, h = torch.randn(*shape, 5, dtype=dtype), torch.randn(*shape, 7, dtype=dtype)
        for state in (None, (h, h.cos()) if kind == "LSTMCell" else h):
            got, want = cell(x, state), twin(x, state)
            assert all(map(torch.equal, flat(got), flat(want)))
            assert all(map(torch.equal, gradients(cell, got), gradients(twin, want)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3])
def test_short_way_is_the_long_way_bit_for_bit(
    kind, num_layers, bidirectional, batch_first, training, steps, monkeypatch
):
    torch.manual_seed(0)
    module = getattr(snn, kind)(5, 7, num_layers, bidirectional=bidirectional, batch_first=batch_first).train(training)
    x = torch.randn(*((4, steps) if batch_first else (steps, 4)), 5)
    h = torch.randn(num_layers * (1 + bidirectional), 4, 7)
    for state in (None, (h, h.cos()) if kind == "LSTM" else h):
        got, want = module(x, state), long_way(module, x, state, monkeypatch=monkeypatch)
        assert all(map(torch.equal, flat(got), flat(want)))
        assert all(map(torch.equal, gradients(module, got), gradients(module, want)))


@pytest.mark.parametrize("kind", KINDS)
def test_short_way_is_taken(kind, monkeypatch):
    module, taken = getattr(snn, kind)(5, 7), []
    ways = {name: getattr(recurrent, name) for name in ("run_plain", "step_plain")}
    for name, way in ways.items():
        monkeypatch.setattr(recurrent, name, lambda *a, way=way, name=name: taken.append((name, r := way(*a))) or r)
    module(torch.randn(1, 4, 5))
    module.step(torch.randn(4, 5))
    assert [name for name, _ in taken] == ["run_plain", "step_plain"]
    assert all(result is not None for _, result in taken)


@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_single_step_shares_no_memory(kind, num_layers, bidirectional):
    module, x = getattr(snn, kind)(5, 7, num_layers, bidirectional=bidirectional), torch.randn(1, 4, 5)
    output, state = module(x)
    before = [part.clone() for part in flat(state)]
    output.mul_(0)
    assert all(map(torch.equal, flat(state), before))
    for part in (output, *flat(state)):
        part.detach_()  # which refuses views


CHANGES = [
    ("LSTM", "zoneout", 0.5), ("LSTM", "cell_clip", 0.01), ("LSTM", "output_activation", "relu"),
    ("GRU", "zoneout", 0.5), ("RNN", "nonlinearity", "relu"), ("RNN", "zoneout", 0.5),
]  # fmt: skip


@pytest.mark.parametrize("road", ["forward", "step", "cell"])
@pytest.mark.parametrize(("kind", "name", "value"), CHANGES)
def test_change_of_an_option_is_heeded(kind, name, value, road):
    torch.manual_seed(0)
    make = getattr(snn, f"{kind}Cell" if road == "cell" else kind)
    module, fresh, x = make(5, 7).eval(), make(5, 7, **{name: value}).eval(), torch.randn(3, 5)
    fresh.load_state_dict(module.state_dict())
    call = {"forward": lambda one: one(x.unsqueeze(0)), "step": lambda one: one.step(x), "cell": lambda one: one(x)}[
        road
    ]
    before = flat(call(module))
    cell = module if road == "cell" else module.cell_at(0)
    default = getattr(cell, name)
    setattr(cell, name, value)
    assert not torch.equal(flat(call(module))[0], before[0])
    for got, want in zip(flat(call(module)), flat(call(fresh)), strict=True):
        torch.testing.assert_close(got, want)
    setattr(cell, name, default)
    assert all(map(torch.equal, flat(call(module)), before))


@pytest.mark.parametrize("name", ["weight_drop", "recurrent_dropout", "zoneout"])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_drawn_in_training(kind, name):
    x, h = torch.randn(3, 5), torch.ones(1, 3, 7)
    module, cell = getattr(snn, kind)(5, 7, **{name: 0.5}), getattr(snn, f"{kind}Cell")(5, 7, **{name: 0.5})
    calls = {module: lambda: module.step(x, (h, h) if kind == "LSTM" else h)}
    calls[cell] = lambda: cell(x, (h[0], h[0]) if kind == "LSTM" else h[0])
    for drawn, call in calls.items():
        assert not torch.equal(flat(call())[0], flat(call())[0])
        drawn.eval()
        assert torch.equal(flat(call())[0], flat(call())[0])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "residual": True}, {"layer_norm": True}, {"zoneout": 0.2}])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "jordan"])
@pytest.mark.parametrize("batched", [True, False])
def test_step_by_step_is_the_whole_at_once(cell, options, batched):
    if cell == "jordan" and options.keys() & {"layer_norm", "zoneout"}:
        pytest.skip("no such option")
    torch.manual_seed(0)
    module = snn.Recurrent(cell, 7, 7, **options).eval()
    x = torch.randn(6, 3, 7) if batched else torch.randn(6, 7)
    whole, final = module(x)
    state, outputs = None, []
    for row in x:
        output, state = module.step(row, state)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs), whole)
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_step_of_drop_ins_has_their_state(kind, batch_first):
    module = getattr(snn, kind)(5, 7, 2, batch_first=batch_first)
    x = torch.randn(3, 5)
    _, state = module.step(x)
    assert isinstance(state, tuple) == (kind == "LSTM")
    output, state = module.step(x, state)
    want, final = module(torch.stack([x, x], 1 if batch_first else 0))
    torch.testing.assert_close(output, want[:, 1] if batch_first else want[1])
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize(
    ("x", "hx", "message"),
    [
        (torch.zeros(2, 3, 5), None, "expected input of 1 or 2 dimensions, got 3"),
        (torch.zeros(3, 4), None, "Expected 5, got 4"),
        (torch.zeros(3, 5, dtype=torch.float64), None, "must have the type torch.float32"),
        (torch.zeros(3, 5), torch.zeros(1, 2, 7), r"must have the shape \(1, 3, 7\)"),
        (torch.zeros(3, 5), torch.zeros(3, 7), r"must have the shape \(1, 3, 7\)"),
        (torch.zeros(3, 5), torch.zeros(1, 3, 7, dtype=torch.float64), "must have the type torch.float32"),
    ],
)
def test_step_refuses(x, hx, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        snn.GRU(5, 7).step(x, hx)


def test_step_needs_one_direction():
    with pytest.raises(ValueError, match="bidirectional=False"):
        snn.LSTM(5, 7, bidirectional=True).step(torch.zeros(3, 5))


def test_copies_and_pickles_go_the_short_way_on_their_own_weights():
    module, x = snn.LSTM(5, 7), torch.randn(1, 3, 5)
    before = module(x)[0]
    assert "_plan" in module.__dict__
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert "_plan" not in twin.__dict__
        assert torch.equal(twin(x)[0], before)
        with torch.no_grad():
            twin.weight_ih_l0.zero_()
        assert not torch.equal(twin(x)[0], before)
    assert torch.equal(module(x)[0], before)


def test_parametrized_weights_are_read_at_every_call():
    torch.manual_seed(0)
    module, x = snn.GRU(5, 7), torch.randn(1, 3, 5)
    module(x)
    nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    state = torch.randn(1, 3, 7)
    before = module(x, state)[0]
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.mul_(2)
    assert not torch.equal(module(x, state)[0], before)
    nn.utils.parametrize.remove_parametrizations(module, "weight_hh_l0")  # which puts the weight behind the others
    twin = nn.GRU(5, 7)
    twin.load_state_dict(module.state_dict())
    assert torch.equal(module(x, state)[0], twin(x, state)[0])
    assert torch.equal(module.step(x[0], state)[0], twin(x, state)[0][0])


def test_subclass_with_its_own_masks_goes_the_long_way():
    class Halved(snn.GRUCell):
        def prepare(self, weights, batch_sizes):
            return super().prepare({name: value / 2 for name, value in weights.items()}, batch_sizes)

    torch.manual_seed(0)
    cell, x = Halved(5, 7), torch.randn(3, 5)
    twin = snn.GRUCell(5, 7)
    twin.load_state_dict({name: value / 2 for name, value in cell.state_dict().items()})
    torch.testing.assert_close(cell(x), twin(x))
    module = snn.Recurrent(Halved, 5, 7)
    twin = snn.Recurrent("gru", 5, 7)
    twin.load_state_dict({name: value / 2 for name, value in module.state_dict().items()})
    torch.testing.assert_close(module(x.unsqueeze(0)), twin(x.unsqueeze(0)))
    torch.testing.assert_close(module.step(x), twin.step(x))


@pytest.mark.parametrize("units", [24, 520])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "batch_first": True}])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_autocast_is_the_long_way_bit_for_bit(kind, options, units, monkeypatch):
    """An LSTM in small steps goes the short way, where ATen casts; the long way casts by itself."""
    torch.manual_seed(0)
    module, x = getattr(snn, kind)(5, units, **options), torch.randn(4, 32, 5)
    if options:
        x = x.transpose(0, 1)
    found = []
    for run in (lambda: module(x), lambda: long_way(module, x, monkeypatch=monkeypatch)):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = run()
        found.append([*flat(outputs), *gradients(module, outputs)])
    assert {part.dtype for part in found[0][: len(flat(outputs))]} == {torch.bfloat16}
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cell_under_vmap_is_a_loop(kind):
    """vmap of ATen's cells raises or warns."""
    torch.manual_seed(0)
    cell, xs, h = getattr(snn, kind)(5, 7), torch.randn(4, 3, 5), torch.randn(3, 7)
    state = (h, h.cos()) if kind == "LSTMCell" else h
    got = flat(torch.func.vmap(lambda x: cell(x, state))(xs))
    want = zip(*(flat(cell(x, state)) for x in xs), strict=True)
    for mine, others in zip(got, want, strict=True):
        torch.testing.assert_close(mine, torch.stack(others))


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cell_under_autocast_is_the_long_way_bit_for_bit(kind, monkeypatch):
    torch.manual_seed(0)
    cell, x = getattr(snn, kind)(5, 7), torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        got = flat(cell(x))
        monkeypatch.setattr(cell, "single_mode", lambda: None)
        want = flat(cell(x))
    assert {part.dtype for part in got} == {torch.bfloat16}
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("road", ["forward", "step"])
@pytest.mark.parametrize("kind", KINDS)
def test_state_is_no_view_and_shares_nothing_with_the_output(kind, road):
    module, x = getattr(snn, kind)(5, 7), torch.randn(1, 3, 5)
    output, state = module(x) if road == "forward" else module.step(x[0])
    before = [part.detach_().clone() for part in flat(state)]
    with torch.no_grad():
        output.zero_()
    assert all(map(torch.equal, flat(state), before))
