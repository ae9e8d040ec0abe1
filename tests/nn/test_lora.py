"""Low-rank adapters against the formula written out, on every road that a weight is read by."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_padded_sequence

import seqkit.nn as snn
from seqkit.models import Decoder, Embedding
from seqkit.nn import Cell, Recurrent
from seqkit.nn.custom_op import AVAILABLE
from seqkit.nn.linear import Linear
from seqkit.nn.lora import add_lora, merge_lora, merged

KINDS = ["RNN", "GRU", "LSTM"]


class Mixing(Cell):
    """A cell of a user: a matrix of its own beside a whole layer."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.declare("weight", hidden_size, hidden_size)
        nn.init.normal_(self.weight, std=0.3)
        self.enter = nn.Linear(input_size, hidden_size)

    def project(self, x, prepared):
        return self.enter(x)

    def step(self, projected, state, prepared):
        return (torch.tanh(projected + state[0] @ prepared.weights["weight"].t()),), {}


def stir(model):
    """Give every adapter a B that is not zero, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("lora_b"):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype) / 3)
    return model


def outputs(model, x, **more):
    """Everything that a recurrent module returns, as a flat list of tensors."""
    found = model(x, **more)
    output, state = found
    output = output.data if hasattr(output, "batch_sizes") else output
    return [output, *(state if isinstance(state, tuple) else (state,))]


ROADS = {
    "full": lambda x: (x, {}),
    "lengths": lambda x: (x, {"lengths": [5, 2, 0, 4]}),
    "packed": lambda x: (pack_padded_sequence(x, [5, 2, 1, 4], enforce_sorted=False), {}),
}
MODELS = {
    "lstm": lambda: snn.LSTM(4, 5, 2, bidirectional=True),
    "gru": lambda: snn.GRU(4, 5, 2),
    "rnn": lambda: snn.RNN(4, 5, residual=False),
    "reference": lambda: snn.LSTM(4, 5, backend="reference"),
    "fused": lambda: snn.LSTM(4, 5, 2, backend="fused", bidirectional=True),
    "projected": lambda: snn.LSTM(4, 6, proj_size=3),
    "variant": lambda: snn.LSTM(4, 5, peephole=True, layer_norm=True, coupled=True),
    "weight drop": lambda: snn.GRU(4, 5, weight_drop=0.4, recurrent_dropout=0.2),
    "chunks": lambda: snn.LSTM(4, 5, 2, checkpoint_chunks=2),
    "jordan": lambda: Recurrent("jordan", 4, 5, output_size=3),
    "own": lambda: Recurrent(Mixing, 4, 5, 2, bidirectional=True),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_changes_at_first_and_merging_changes_nothing(name, road):
    torch.manual_seed(0)
    plain = MODELS[name]().double()
    x, more = ROADS[road](torch.randn(5, 4, 4, dtype=torch.float64))
    adapted = copy.deepcopy(plain)
    done = add_lora(adapted, rank=2, alpha=3.0)
    assert len(done.names) >= 2
    for training in (True, False):
        torch.manual_seed(1)
        before = outputs(plain.train(training), x, **more)
        torch.manual_seed(1)
        assert all(torch.equal(*pair) for pair in zip(outputs(adapted.train(training), x, **more), before, strict=True))
    stir(adapted)
    for training in (True, False):  # the masks of weight drop are those of the same seed
        adapted.train(training)
        torch.manual_seed(2)
        expected = outputs(adapted, x, **more)
        assert not torch.allclose(expected[0], before[0], atol=1e-3)
        one = MODELS[name]().double().train(training)
        one.load_state_dict(merged(adapted.state_dict()))
        two = merge_lora(copy.deepcopy(adapted))
        assert type(two) is type(plain)
        assert set(dict(two.named_parameters())) == set(dict(plain.named_parameters()))
        for model in (one, two):
            torch.manual_seed(2)
            found = outputs(model, x, **more)
            assert all(torch.allclose(*pair, atol=1e-12) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["auto", "fused", "reference"])
def test_gradients_are_those_of_the_formula_through_torch(kind, backend):
    torch.manual_seed(0)
    ours = getattr(snn, kind)(4, 6, 2, bidirectional=True, backend=backend).double()
    theirs = getattr(nn, kind)(4, 6, 2, bidirectional=True).double()
    theirs.load_state_dict(ours.state_dict())
    base = {name: value.clone() for name, value in theirs.state_dict().items()}
    add_lora(ours, rank=3, alpha=5.0)
    stir(ours)
    named = dict(ours.named_parameters())
    x, weights = torch.randn(7, 3, 4, dtype=torch.float64), {}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in named.items() if "lora" in name}
    for name, value in base.items():
        place = f"parametrizations.{name}.0.lora"
        found = value + 5.0 / 3 * leaves[f"{place}_b"] @ leaves[f"{place}_a"] if value.dim() == 2 else value
        weights[name] = found
    output, _ = torch.func.functional_call(theirs, weights, (x,))
    output.sin().sum().backward()
    ours(x)[0].sin().sum().backward()
    for name, value in named.items():
        if name in leaves:
            assert torch.allclose(value.grad, leaves[name].grad, atol=1e-10), name
        else:
            assert value.grad is None
            assert not value.requires_grad


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    data=st.data(),
    alpha=st.floats(0.01, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_linear_layer_of_any_size(rows, columns, data, alpha, dtype):
    rank = data.draw(st.integers(1, min(rows, columns) - 1))
    model = nn.Sequential(Linear(columns, rows, dtype=dtype))
    weight = model[0].weight.detach().double()
    add_lora(model, rank=rank, alpha=alpha)
    stir(model)
    adapter = model[0].parametrizations.weight[0]
    x = torch.randn(3, columns, dtype=dtype)
    change = adapter.lora_b.double() @ adapter.lora_a.double() * alpha / rank
    assert torch.linalg.matrix_rank(change) <= rank
    expected = x.double() @ (weight + change).t() + model[0].bias.double()
    assert torch.allclose(model(x).double(), expected, rtol=1e-5, atol=1e-5 * (1 + alpha))
    whole = merged(model.state_dict())
    assert list(whole) == ["0.bias", "0.weight"] or list(whole) == ["0.weight", "0.bias"]
    assert torch.allclose(whole["0.weight"].double(), weight + change, rtol=1e-5, atol=1e-5 * (1 + alpha))


def test_the_state_dict_round_trips_with_its_alpha():
    torch.manual_seed(0)
    one = snn.LSTM(4, 5)
    two = copy.deepcopy(one)
    x = torch.randn(6, 2, 4)
    add_lora(one, rank=2, alpha=7.0)
    stir(one)
    add_lora(two, rank=2, alpha=1.0)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x)[0], two(x)[0])
    assert merged(two.state_dict()).keys() == snn.LSTM(4, 5).state_dict().keys()


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_vendor_and_large_products_in_single_precision(kind):
    torch.manual_seed(0)
    plain = nn.ModuleList([getattr(snn, kind)(48, 64), Linear(64, 600)])
    model = copy.deepcopy(plain)
    add_lora(model, rank=4, alpha=8.0)
    x = torch.randn(20, 48, 48)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            assert torch.equal(plain[1](plain[0](x)[0]), model[1](model[0](x)[0]))
    stir(model)
    result = model[1](model[0](x)[0])
    assert torch.allclose(result, merge_lora(model)[1](model[0](x)[0]), atol=1e-5)


@pytest.mark.parametrize("attention", ["bahdanau", "general", "multi_head"])
def test_input_feeding_keeps_its_backend(attention):
    torch.manual_seed(0)
    options = {"attention_size": 6} if attention != "general" else {}
    decoder = Decoder(Embedding(11, 6), 5, "lstm", 6, 2, attention=attention, input_feeding=True, **options).double()
    inputs, lengths = torch.randint(11, (3, 4)), torch.tensor([4, 2, 3])
    state = tuple(torch.randn(2, 3, 6, dtype=torch.float64) for _ in range(2))
    memory = torch.randn(3, 5, 5, dtype=torch.float64)

    def run(model):
        read = model.remember(memory, [5] * 3)
        return model.output(model(inputs, lengths, state, read)[0])

    plain = copy.deepcopy(decoder)
    done = add_lora(decoder, rank=2)
    assert {"vector.weight", "lower.weight_hh_l1"} <= set(done.names)
    assert torch.equal(run(plain), run(decoder))
    stir(decoder)
    assert decoder.step_backend(memory).name == "fused"
    found = run(decoder)
    found.sin().sum().backward()
    grads = {name: value.grad for name, value in decoder.named_parameters() if value.requires_grad}
    assert all(value.abs().sum() > 0 for value in grads.values())
    decoder.lower.backend = "reference"
    decoder.zero_grad()
    assert decoder.step_backend(memory).name == "reference"
    calls = []
    decoder.vector.parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))
    with parametrize.cached():
        run(decoder).sin().sum().backward()
    assert len(calls) == 1  # and not once a step
    for name, value in decoder.named_parameters():
        assert name not in grads or torch.allclose(value.grad, grads[name], atol=1e-10), name
    assert torch.allclose(run(merge_lora(decoder)), found, atol=1e-10)


def test_dropout_leaves_out_features_of_the_input():
    model = nn.Sequential(nn.Linear(200, 3))
    weight = model[0].weight.detach().clone()
    add_lora(model, rank=2, dropout=0.25)
    stir(model)
    adapter = model[0].parametrizations.weight[0]
    whole = adapter.lora_b @ adapter.lora_a * 16 / 2
    ratio = ((model[0].weight - weight) / whole).detach()
    assert torch.allclose(ratio, ratio[:1].round(decimals=4), atol=1e-2)  # a column is kept or left out as one
    kept = ratio.mean(0) > 0.5
    assert torch.allclose(ratio[:, kept], torch.tensor(4 / 3), atol=1e-2)
    assert 0.6 < kept.float().mean() < 0.9
    assert not torch.equal(model[0].weight, model[0].weight)
    model.eval()
    assert torch.allclose(model[0].weight, weight + whole, atol=1e-6)
    assert torch.allclose(merge_lora(model.train())[0].weight, weight + whole, atol=1e-6)  # nothing is left out of that


def test_autocast_does_not_round_the_weight():
    model = stir_linear()
    with torch.autocast("cpu", torch.bfloat16):
        inside = model[0].weight
        assert model(torch.randn(2, 8)).dtype == torch.bfloat16
    assert torch.equal(inside, model[0].weight)


def stir_linear():
    model = nn.Sequential(nn.Linear(8, 8))
    add_lora(model, rank=2)
    return stir(model)


def test_what_trains_and_what_is_said():
    model = nn.ModuleDict({"words": nn.Embedding(30, 8), "run": snn.LSTM(8, 9), "output": Linear(9, 3)})
    done = add_lora(model, rank=3, on=("*",), train=["output*"])
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    lora = [f"run.parametrizations.weight_{part}_l0.0.lora_{side}" for part in ("ih", "hh") for side in "ab"]
    assert sorted(trained) == sorted([*lora, "output.weight", "output.bias"])
    numbers = 3 * (36 + 8) + 3 * (36 + 9) + 3 * 9 + 3
    total = 30 * 8 + 36 * (8 + 9 + 2) + 3 * 9 + 3
    assert (done.trained, done.total) == (numbers, total)
    assert done.lines() == [
        f"rank 3 on 2 weights; {numbers:,} of {total:,} parameters train ({numbers / total:.1%})",
        "left out words.weight: an embedding table, of which a batch reads a few rows; an adapter would compute all of "
        "them",
    ]


def model_of_parts():
    model = nn.ModuleDict(
        {"words": nn.Embedding(7, 8), "scores": Linear(8, 7), "run": snn.GRU(8, 9), "crf": snn.CRF(6)}
    )
    model["scores"].weight = model["words"].weight
    return model


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on": ["run.weigt_ih_l0"]}, r"on: 'run.weigt_ih_l0' matches no matrix; did you mean 'run.weight_ih_l0'\?"),
        ({"on": ["zz"]}, r"on: 'zz' matches no matrix; there are: run.weight_ih_l0, run.weight_hh_l0"),
        ({"on": ["words*"]}, "words.weight: tied to scores.weight, which an adapter would untie"),
        ({"on": ["scores*"]}, "scores.weight: tied to words.weight"),
        ({"on": ["crf*"]}, "crf.transitions: scores of a CRF"),
        ({"on": ["run.weight_ih*"], "rank": 8}, "run.weight_ih_l0: rank 8 is not below the sides of its 27 x 8"),
        ({"on": ["run.*"], "train": ["run*"]}, "on: 'run.*' matches weights that `train` names only"),
        ({"train": ["runn*"]}, "train: 'runn[*]' matches no parameter; there are: words.weight"),
        ({"rank": 0}, "rank must be positive"),
        ({"alpha": 0.0}, "alpha must be positive and finite, got 0.0"),
        ({"alpha": float("inf")}, "alpha must be positive"),
        ({"on": []}, "on: names no pattern"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1"),
    ],
)
def test_refusals_leave_the_model_as_it_was(given, message):
    model = model_of_parts()
    before = {name: value.requires_grad for name, value in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        add_lora(model, **{"rank": 2, **given})
    assert {name: value.requires_grad for name, value in model.named_parameters()} == before


def test_a_tied_weight_may_be_trained_whole():
    model = model_of_parts()
    add_lora(model, rank=2, train=["scores.weight"])
    assert model["words"].weight is model["scores"].weight
    assert model["words"].weight.requires_grad


def test_neither_adapters_nor_other_parametrizations_are_stacked():
    model = nn.Sequential(Linear(8, 8), Linear(8, 8))
    torch.nn.utils.parametrizations.weight_norm(model[0])
    done = add_lora(model, rank=2)
    assert done.names == ["1.weight"]
    assert "parametrized already" in done.left_out["0.parametrizations.weight.original1"]
    with pytest.raises(ValueError, match="adapters already"):
        add_lora(model, rank=2)
    assert set(merged(model.state_dict())) == set(merge_lora(model).state_dict())


@pytest.mark.skipif(not AVAILABLE, reason="torch.library.custom_op needs torch 2.4")
@pytest.mark.parametrize("fullgraph", [True])
def test_under_the_compiler(fullgraph):
    torch.manual_seed(0)
    model = nn.Sequential(Linear(4, 4), Linear(4, 3))
    recurrent = snn.LSTM(4, 4, backend="fused")
    both = nn.ModuleList([model, recurrent])
    add_lora(both, rank=2)
    stir(both)

    def run(x):
        return both[0](both[1](x)[0])

    x = torch.randn(5, 2, 4)
    expected = run(x)
    expected.sin().sum().backward()
    grads = {name: value.grad.clone() for name, value in both.named_parameters() if value.grad is not None}
    both.zero_grad()
    found = torch.compile(run, backend="aot_eager", fullgraph=fullgraph)(x)
    found.sin().sum().backward()
    assert torch.allclose(found, expected, atol=1e-6)
    for name, value in grads.items():
        assert torch.allclose(dict(both.named_parameters())[name].grad, value, atol=1e-5), name
