"""RNN, LSTM and GRU against torch.nn: values, gradients, names, shapes, checkpoints and errors."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
import warnings

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import seqkit.nn as snn

KINDS = ["RNN", "LSTM", "GRU"]
BACKENDS = ["reference", "fused", "vendor", "auto"]


def flatten(result):
    output, state = result
    output = output.data if isinstance(output, torch.nn.utils.rnn.PackedSequence) else output
    return [output, *(state if isinstance(state, tuple) else [state])]


def pair(kind, *args, backend="auto", **kwargs):
    theirs = getattr(torch.nn, kind)(*args, **kwargs)
    ours = getattr(snn, kind)(*args, backend=backend, **kwargs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def check_close(got, want, tolerance):
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        scale = max(other.abs().max().item(), 1e-3) if other.numel() else 1.0
        assert (one - other).abs().max().item() <= tolerance * scale if other.numel() else True


def states_for(kind, slots, batch, sizes):
    parts = tuple(torch.randn(slots, batch, size, requires_grad=True) for size in sizes)
    return parts if kind == "LSTM" else parts[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "both", "bias"), [(1, False, True), (2, True, True), (2, False, False)])
@pytest.mark.parametrize("packed", [False, True])
def test_values_and_gradients(kind, backend, layers, both, bias, packed):
    torch.manual_seed(3)
    # Wide enough that the oneDNN products and the cheap tanh of the fused kernels are taken.
    theirs, ours = pair(kind, 40, 72, layers, bidirectional=both, bias=bias, backend=backend)
    x = torch.randn(6, 32, 40, requires_grad=True)
    slots = layers * (2 if both else 1)
    hx = states_for(kind, slots, 32, [72, 72])
    given = pack_padded_sequence(x, torch.randint(1, 7, (32,)), enforce_sorted=False) if packed else x
    wanted, got = flatten(theirs(given, hx)), flatten(ours(given, hx))
    check_close(got, wanted, 2e-6)
    probes = [torch.randn_like(one) for one in wanted]
    leaves = [x, *(hx if isinstance(hx, tuple) else [hx])]
    want = torch.autograd.grad(wanted, [*leaves, *theirs.parameters()], probes, retain_graph=True)
    check_close(torch.autograd.grad(got, [*leaves, *ours.parameters()], probes), want, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("both", [False, True])
def test_lengths_with_empty_sequences(kind, backend, both):
    """Zero lengths against torch on the sequences that have steps; states pass through the others."""
    torch.manual_seed(4)
    theirs, ours = pair(kind, 5, 8, bidirectional=both, backend=backend)
    lengths = torch.tensor([3, 0, 5, 1, 0])
    some = lengths > 0
    x = torch.randn(6, 5, 5)
    x[5] = float("nan")  # padding must not be touched
    x.requires_grad_()
    hx = states_for(kind, 2 if both else 1, 5, [8, 8])
    parts = hx if isinstance(hx, tuple) else (hx,)
    chosen = tuple(part[:, some] for part in parts)
    packed = pack_padded_sequence(x[:, some], lengths[some], enforce_sorted=False)
    out, state = theirs(packed, chosen if kind == "LSTM" else chosen[0])
    out = pad_packed_sequence(out, total_length=6)[0]
    got_out, *got_state = flatten(ours(x, hx, lengths=lengths))
    assert got_out[:, ~some].eq(0).all()
    wanted = [out, *(state if kind == "LSTM" else [state])]
    got = [got_out[:, some], *(part[:, some] for part in got_state)]
    check_close(got, wanted, 2e-6)
    for part, begin in zip(got_state, parts, strict=True):
        assert torch.equal(part[:, ~some], begin[:, ~some])
    probes = [torch.randn_like(one) for one in wanted]
    want = torch.autograd.grad(wanted, [*parts, *theirs.parameters()], probes)
    check_close(torch.autograd.grad(got, [*parts, *ours.parameters()], probes, retain_graph=True), want, 1e-5)
    (dx,) = torch.autograd.grad(got_out.sum(), [x])
    assert dx[5].eq(0).all()
    assert dx[:, ~some].eq(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_inference(kind, backend):
    """Without gradients other roads are taken: one call for the whole network, buffers used in place."""
    torch.manual_seed(5)
    theirs, ours = pair(kind, 5, 8, 2, bidirectional=True, dropout=0.4, backend=backend)
    theirs.eval()
    ours.eval()
    x, lengths = torch.randn(6, 40, 5), torch.randint(1, 7, (40,))
    hx = states_for(kind, 4, 40, [8, 8])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    with torch.no_grad():
        check_close(flatten(ours(x, hx)), flatten(theirs(x, hx)), 2e-6)
        check_close(flatten(ours(packed, hx)), flatten(theirs(packed, hx)), 2e-6)
        ours.train()
        assert not torch.allclose(ours(x, hx)[0], theirs(x, hx)[0], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_names_and_seed(kind):
    for layers, both, bias in itertools.product([1, 3], [False, True], [False, True]):
        extra = [{}, {"proj_size": 2}] if kind == "LSTM" else [{}]
        for more in extra:
            torch.manual_seed(0)
            theirs = getattr(torch.nn, kind)(3, 5, layers, bias=bias, bidirectional=both, **more)
            torch.manual_seed(0)
            ours = getattr(snn, kind)(3, 5, layers, bias=bias, bidirectional=both, **more)
            one, other = theirs.state_dict(), ours.state_dict()
            assert list(one) == list(other)
            assert all(torch.equal(one[name], other[name]) for name in one)
            assert [name for name, _ in theirs.named_parameters()] == [name for name, _ in ours.named_parameters()]
            theirs.load_state_dict(other, strict=True)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
def test_projection(backend):
    theirs, ours = pair("LSTM", 3, 6, 2, proj_size=4, bidirectional=True, backend=backend)
    x = torch.randn(5, 4, 3)
    check_close(flatten(ours(x)), flatten(theirs(x)), 2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts(kind):
    for first in (False, True):
        theirs, ours = pair(kind, 3, 5, 2, batch_first=first, bidirectional=True)
        x = torch.randn(4, 6, 3)
        check_close(flatten(ours(x)), flatten(theirs(x)), 2e-6)
        check_close(flatten(ours(x[0])), flatten(theirs(x[0])), 2e-6)
        for is_sorted, lengths in ((True, [4, 3, 3, 1]), (False, [2, 4, 1, 3])):
            batch = torch.randn(4, 4, 3)
            packed = pack_padded_sequence(batch, torch.tensor(lengths), batch_first=first, enforce_sorted=is_sorted)
            wanted, got = theirs(packed), ours(packed)
            for name in ("data", "batch_sizes", "sorted_indices", "unsorted_indices"):
                one, other = getattr(wanted[0], name), getattr(got[0], name)
                assert (one is None) == (other is None)
                assert one is None or torch.allclose(one, other, atol=1e-6)
            check_close(flatten(got)[1:], flatten(wanted)[1:], 2e-6)
            padded, _ = ours(batch, lengths=lengths)
            assert torch.allclose(padded, pad_packed_sequence(got[0], batch_first=first)[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(kind):
    theirs, ours = getattr(torch.nn, kind)(3, 5), getattr(snn, kind)(3, 5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for shape in ((4,), ()):
        x, h, c = torch.randn(*shape, 3), torch.randn(*shape, 5), torch.randn(*shape, 5)
        for hx in (None, (h, c) if kind == "LSTMCell" else h):
            want, got = theirs(x, hx), ours(x, hx)
            want, got = (want, got) if isinstance(want, tuple) else ((want,), (got,))
            check_close(got, want, 2e-6)
    with pytest.raises(RuntimeError, match="input_size"):
        ours(torch.randn(4, 2))
    with pytest.raises(ValueError, match="3D"):
        ours(torch.randn(1, 4, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind, tmp_path):
    _, ours = pair(kind, 3, 5, 2, bidirectional=True)
    x = torch.randn(4, 2, 3)
    want = ours(x)[0]
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(copied(x)[0], want)
    torch.save(ours, tmp_path / "whole.pt")
    assert torch.equal(torch.load(tmp_path / "whole.pt", weights_only=False)(x)[0], want)
    assert ours.double()(x.double())[0].dtype == torch.float64
    meta = getattr(snn, kind)(3, 5, device="meta")
    assert meta(torch.randn(4, 2, 3, device="meta"))[0].shape == (4, 2, 5)
    bfloat = getattr(snn, kind)(3, 5, dtype=torch.bfloat16)
    assert bfloat(x.bfloat16())[0].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_partly_frozen_and_parametrized(kind):
    theirs, ours = pair(kind, 3, 5)
    x = torch.randn(4, 2, 3)
    for module in (theirs, ours):
        module.weight_hh_l0.requires_grad_(False)
        module(x)[0].sum().backward()
        assert module.weight_hh_l0.grad is None
    assert torch.allclose(ours.weight_ih_l0.grad, theirs.weight_ih_l0.grad, atol=1e-5)
    ours.weight_hh_l0.requires_grad_(True)
    torch.nn.utils.parametrizations.weight_norm(ours, "weight_hh_l0")
    ours(x)[0].sum().backward()
    names = dict(ours.named_parameters())
    assert names["parametrizations.weight_hh_l0.original1"].grad.abs().sum() > 0
    with torch.no_grad():
        names["parametrizations.weight_hh_l0.original0"].mul_(2)
    assert not torch.allclose(ours(x)[0], theirs(x)[0], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_constructor_signature_and_errors(kind):
    import inspect

    # torch takes *args; what it documents is what its own __init__ forwards to RNNBase.
    positional = {
        "RNN": "input_size hidden_size num_layers nonlinearity bias batch_first dropout bidirectional device dtype",
        "GRU": "input_size hidden_size num_layers bias batch_first dropout bidirectional device dtype",
        "LSTM": "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size device dtype",
    }[kind].split()
    parameters = inspect.signature(getattr(snn, kind)).parameters
    found = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert found == positional
    bad = [
        {"hidden_size": -5},
        {"hidden_size": 2.5},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"dropout": True},
    ]
    bad += [{"proj_size": 9}, {"proj_size": -1}] if kind == "LSTM" else []
    bad += [{"nonlinearity": "sine"}] if kind == "RNN" else []
    for options in bad:
        arguments = {"input_size": 3, "hidden_size": 5, **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises((TypeError, ValueError)) as theirs:
                getattr(torch.nn, kind)(**arguments)
        with pytest.raises(theirs.type, match=f"^{next(iter(options))} "):
            getattr(snn, kind)(**arguments)
    with pytest.warns(UserWarning, match="dropout"):
        getattr(snn, kind)(3, 5, dropout=0.5)


CHANGED = {
    "input_size": 5, "hidden_size": 6, "num_layers": 3, "proj_size": 2, "checkpoint_chunks": 2, "cell_clip": 1.0,
    "forget_bias": 2.0, "nonlinearity": "relu", "recurrent_dropout_kind": "semeniuta", "init": "orthogonal",
    "cell_activation": "relu", "output_activation": "sigmoid", "backend": "reference", "device": "meta",
    "dtype": torch.float64,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_argument_reaches_the_network_or_its_cells(kind):
    """The constructors name each of theirs twice."""
    for name, parameter in inspect.signature(getattr(snn, kind)).parameters.items():
        value = CHANGED.get(name, 0.5 if isinstance(parameter.default, float) else parameter.default is False)
        module = getattr(snn, kind)(**{"input_size": 3, "hidden_size": 4, "num_layers": 2, name: value})
        assert value != parameter.default
        if name in ("device", "dtype"):
            assert all(str(getattr(weight, name)) == str(value) for weight in module.parameters())
        else:
            assert getattr(module.cells[0] if hasattr(module.cells[0], name) else module, name) == value, name


@pytest.mark.parametrize("kind", KINDS)
def test_call_errors_have_torchs_types(kind):
    theirs, ours = pair(kind, 3, 5)
    x, h = torch.randn(4, 2, 3), torch.zeros(1, 2, 5)
    wrap = (lambda one: (one, one)) if kind == "LSTM" else (lambda one: one)
    cases = {
        "rank": (torch.randn(1, 4, 2, 3), None),
        "feature": (torch.randn(4, 2, 7), None),
        "dtype": (x.double(), None),
        "state size": (x, wrap(torch.zeros(1, 2, 6))),
        "state batch": (x, wrap(torch.zeros(1, 3, 5))),
        "state layers": (x, wrap(torch.zeros(2, 2, 5))),
        "state rank": (x, wrap(h[0])),
    }
    for name, arguments in cases.items():
        with pytest.raises((RuntimeError, ValueError)) as expected:
            theirs(*arguments)
        with pytest.raises(expected.type) as caught:
            ours(*arguments)
        assert any(word in str(caught.value) for word in ("nput", "hx", "hidden")), name


def test_wrong_device_and_state_count():
    lstm = snn.LSTM(3, 5)
    with pytest.raises(RuntimeError, match="input is on device meta"):
        lstm(torch.randn(4, 2, 3, device="meta"))
    with pytest.raises(RuntimeError, match=r"hx must be a tuple of 2 tensors \(h, c\), got a Tensor"):
        lstm(torch.randn(4, 2, 3), torch.zeros(1, 2, 5))
    with pytest.raises(RuntimeError, match=r"hx\[1\] \(c\) must have the type torch.float32"):
        lstm(torch.randn(4, 2, 3), (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5).double()))
    with pytest.raises(ValueError, match="lengths cannot be given together with a PackedSequence"):
        lstm(pack_padded_sequence(torch.randn(4, 2, 3), torch.tensor([4, 2])), lengths=[4, 2])


@pytest.mark.parametrize(
    ("lengths", "error", "match"),
    [
        ([1, 2, 3], ValueError, r"shape \(2,\)"),
        ([1, 5], ValueError, "between 0 and 4.*got 5"),
        ([-1, 2], ValueError, "got -1"),
        (torch.tensor([1.0, float("nan")]), TypeError, "integers"),
        (torch.tensor([True, False]), TypeError, "integers"),
    ],
)
def test_bad_lengths(lengths, error, match):
    with pytest.raises(error, match=f"^lengths .*{match}"):
        snn.LSTM(3, 5)(torch.randn(4, 2, 3), lengths=lengths)
