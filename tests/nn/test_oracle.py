"""Every cell, variant, layout and backend against the plain-loop oracle: outputs, states and all gradients."""

from __future__ import annotations

import pytest
import torch

from seqkit.nn import Recurrent

LSTM_VARIANTS = [
    {},
    {"bias": False},
    {"proj_size": 3},
    {"peephole": True},
    {"coupled": True},
    {"coupled": True, "peephole": True},
    {"layer_norm": True},
    {"layer_norm": True, "bias": False},
    {"zoneout": 0.3, "zoneout_cell": 0.4},
    {"zoneout": 0.3, "proj_size": 2},
    {"recurrent_dropout": 0.4},
    {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "semeniuta"},
    {"weight_drop": 0.4},
    {"cell_clip": 0.1},
    {"cell_activation": "relu", "output_activation": "identity"},
    {"cell_activation": "identity", "output_activation": "sigmoid"},
    {"peephole": True, "coupled": True, "layer_norm": True, "zoneout": 0.2, "zoneout_cell": 0.3, "proj_size": 3},
    {"peephole": True, "layer_norm": True, "recurrent_dropout": 0.3, "cell_clip": 0.2, "zoneout": 0.2},
    {"coupled": True, "recurrent_dropout": 0.3, "recurrent_dropout_kind": "semeniuta", "weight_drop": 0.2},
]
GRU_VARIANTS = [
    {},
    {"bias": False},
    {"layer_norm": True},
    {"layer_norm": True, "bias": False},
    {"zoneout": 0.3},
    {"recurrent_dropout": 0.4},
    {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "semeniuta"},
    {"weight_drop": 0.4},
    {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.3, "weight_drop": 0.2},
    {"zoneout": 0.2, "recurrent_dropout": 0.3, "recurrent_dropout_kind": "semeniuta"},
]
RNN_VARIANTS = [
    {},
    {"bias": False, "nonlinearity": "relu"},
    {"nonlinearity": "identity"},
    {"layer_norm": True},
    {"zoneout": 0.3},
    {"recurrent_dropout": 0.4},
    {"weight_drop": 0.4},
    {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.3, "weight_drop": 0.2, "nonlinearity": "relu"},
]
JORDAN_VARIANTS = [{}, {"bias": False, "output_size": 3, "output_activation": "tanh"}, {"recurrent_dropout": 0.4}]
CASES = [
    (kind, options)
    for kind, variants in (
        ("lstm", LSTM_VARIANTS),
        ("gru", GRU_VARIANTS),
        ("rnn", RNN_VARIANTS),
        ("jordan", JORDAN_VARIANTS),
    )
    for options in variants
]
LAYOUTS = {
    "one": {"layers": 1, "directions": 1, "lengths": None},
    "ragged": {"layers": 1, "directions": 1, "lengths": [2, 5, 0, 3]},
    "deep": {"layers": 2, "directions": 2, "lengths": [3, 1, 4, 4]},
    "full": {"layers": 2, "directions": 2, "lengths": None},
}


def build(kind, options, layers, directions, backend, residual=False):
    module = Recurrent(
        kind,
        3,
        4,
        layers,
        bidirectional=directions == 2,
        residual=residual,
        backend=backend,
        dtype=torch.float64,
        **options,
    )
    for name, value in module.named_parameters():
        # Large enough that no gate is in its linear range, and gains away from one.
        torch.nn.init.normal_(value, 1.0 if "norm" in name else 0.0, 0.6)
    recorded = []
    for cell in module.cells:
        prepare = cell.prepare

        def spy(*args, prepare=prepare):
            recorded.append(prepare(*args))
            return recorded[-1]

        cell.prepare = spy
    return module, recorded


def check_against_oracle(oracle, kind, options, backend, layers, directions, lengths, training=True, residual=False):
    torch.manual_seed(0)
    module, recorded = build(kind, options, layers, directions, backend, residual)
    module.train(training)
    steps, batch = (max(lengths), len(lengths)) if lengths else (3, 2)
    x = torch.randn(steps + 1 if lengths else steps, batch, 3, dtype=torch.float64, requires_grad=True)
    hx = tuple(
        torch.randn(layers * directions, batch, size, dtype=torch.float64, requires_grad=True)
        for size in module.state_sizes
    )
    output, state = module(x, hx, lengths=lengths)
    states = [tuple(part[k] for part in hx) for k in range(layers * directions)]
    weights = [module._weights(k) for k in range(layers * directions)]
    sizes = lengths or [steps] * batch
    expected, finals = oracle.run(
        kind, options, weights, recorded, x, states, sizes, layers=layers, directions=directions, residual=residual
    )
    results = [output, *state]
    wanted = [expected, *(torch.stack(parts) for parts in zip(*finals, strict=True))]
    for got, want in zip(results, wanted, strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() <= 1e-12
    probes = [torch.randn_like(one) for one in wanted]
    leaves = [x, *hx, *module.parameters()]
    grads = torch.autograd.grad(results, leaves, probes, retain_graph=True, allow_unused=True)
    truth = torch.autograd.grad(wanted, leaves, probes, allow_unused=True)
    for got, want in zip(grads, truth, strict=True):
        got = torch.zeros(()) if got is None else got
        want = torch.zeros(()) if want is None else want
        assert (got - want).abs().max() <= 1e-12 * max(1.0, want.abs().max().item())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "plain")
def test_equals_oracle(oracle, kind, options, backend, layout):
    if kind == "jordan":
        backend = "auto" if backend == "fused" else backend  # no fused kernel: auto must fall to the step loop
    check_against_oracle(oracle, kind, options, backend, **LAYOUTS[layout])


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_evaluation_equals_oracle(oracle, kind, backend):
    """Zoneout is its expectation and all dropout is off."""
    options = {"zoneout": 0.3, "recurrent_dropout": 0.4, "weight_drop": 0.4}
    if kind == "lstm":
        options |= {"zoneout_cell": 0.2}
    check_against_oracle(oracle, kind, options, backend, 1, 1, [3, 1, 4], training=False)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_residual_equals_oracle(oracle, backend):
    check_against_oracle(oracle, "gru", {}, backend, 3, 2, [3, 1, 4], residual=True)
