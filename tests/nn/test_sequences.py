"""A batch equals its sequences one by one, for every cell, variant and backend; and bad input is named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

import seqkit.nn as snn

# Without randomness, or in evaluation, where zoneout is its expectation: a drawn mask has no like in another batch.
VARIANTS = {
    "lstm": [
        {},
        {"bias": False, "proj_size": 2},
        {"peephole": True, "zoneout": 0.3},
        {"coupled": True, "zoneout_cell": 0.4},
        {"layer_norm": True},
        {"cell_clip": 0.3, "cell_activation": "relu"},
        {"peephole": True, "coupled": True, "layer_norm": True, "proj_size": 3, "zoneout": 0.2, "cell_clip": 0.5},
    ],
    "gru": [{}, {"bias": False}, {"layer_norm": True, "zoneout": 0.3}],
    "rnn": [{}, {"nonlinearity": "relu"}, {"layer_norm": True, "zoneout": 0.3}],
    "jordan": [{}, {"output_size": 3, "output_activation": "tanh"}],
}
CASES = [
    (kind, options, backend)
    for kind, variants in VARIANTS.items()
    for options in variants
    for backend in ("reference", "auto", "fused", "vendor")
    if (backend != "vendor" or not options or options == {"bias": False})
    and (kind != "jordan" or backend in ("reference", "auto"))
]


@pytest.mark.parametrize(("kind", "options", "backend"), CASES)
@settings(max_examples=4, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    both=st.booleans(),
    layers=st.integers(1, 2),
    extra=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@example(lengths=[1], both=False, layers=1, extra=0, dtype=torch.float32)  # of one row, every part is contiguous
def test_a_batch_equals_its_sequences_one_by_one(kind, options, backend, lengths, both, layers, extra, dtype):
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 4, layers, bidirectional=both, backend=backend, dtype=dtype, **options).eval()
    alone = snn.Recurrent(kind, 3, 4, layers, bidirectional=both, backend="reference", dtype=dtype, **options).eval()
    alone.load_state_dict(module.state_dict())
    batch, slots = len(lengths), layers * (2 if both else 1)
    x = torch.randn(max(1, *lengths, 0) + extra, batch, 3, dtype=dtype, requires_grad=True)
    hx = tuple(torch.randn(slots, batch, size, dtype=dtype, requires_grad=True) for size in module.state_sizes)
    output, state = module(x, hx, lengths=lengths)
    probes = [torch.randn_like(part) for part in (output, *state)]
    want_output, want_state, loss = torch.zeros_like(output), [[] for _ in state], torch.zeros((), dtype=dtype)
    for b, length in enumerate(lengths):
        own = tuple(part[:, b : b + 1] for part in hx)
        last = own
        if length:
            one, last = alone(x[:length, b : b + 1], own)
            want_output[:length, b] = one[:, 0].detach()
            loss = loss + (one[:, 0] * probes[0][:length, b]).sum()
        for found, part, probe in zip(want_state, last, probes[1:], strict=True):
            found.append(part)
            loss = loss + (part * probe[:, b : b + 1]).sum()
    got = [output, *state]
    want = [want_output, *(torch.cat(parts, 1) for parts in want_state)]
    leaves = [x, *hx]
    total = sum((part * probe).sum() for part, probe in zip(got, probes, strict=True))
    got += torch.autograd.grad(total, [*leaves, *module.parameters()], allow_unused=True)
    want += torch.autograd.grad(loss, [*leaves, *alone.parameters()], allow_unused=True)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12  # layer normalisation enlarges float32's rounding
    for one, other in zip(got, want, strict=True):
        one, other = (torch.zeros(()) if value is None else value for value in (one, other))
        assert (one - other).abs().max() <= tolerance * max(1.0, other.abs().max().item())
    assert all(output[length:, b].eq(0).all() for b, length in enumerate(lengths))


X, H = torch.randn(4, 2, 3), torch.zeros(1, 2, 5)
NAN = float("nan")
# What is given, the error's type (torch's own, where torch has one), and what it must say: argument, came, expected.
BAD = {
    "rank": ({"input": X[None]}, ValueError, "[Ii]nput .*2D or 3D, got 4D"),
    "no tensor": ({"input": X.tolist()}, TypeError, "^input must be a Tensor.*got list"),
    "features": ({"input": torch.randn(4, 2, 7)}, RuntimeError, r"^input\.size.* Expected 3, got 7"),
    "packed features": (
        {"input": pack_padded_sequence(torch.randn(4, 2, 7), torch.tensor([4, 2]))},
        RuntimeError,
        r"^input\.size.* Expected 3, got 7",
    ),
    "dtype": ({"input": X.double()}, ValueError, "^input must have the type torch.float32, got type torch.float64"),
    "integers": ({"input": X.long()}, ValueError, "^input must have the type torch.float32, got type torch.int64"),
    "device": ({"input": X.to("meta")}, RuntimeError, "^input is on device meta but the parameters are on cpu"),
    "no steps": ({"input": X[:0]}, RuntimeError, "^input must have at least one step, got .* 0"),
    "state size": ({"hx": torch.zeros(1, 2, 6)}, RuntimeError, r"^hx\[0\] .*\(1, 2, 5\).* got \(1, 2, 6\)"),
    "state batch": ({"hx": torch.zeros(1, 3, 5)}, RuntimeError, r"^hx\[0\] .*\(1, 2, 5\).* got \(1, 3, 5\)"),
    "state layers": ({"hx": torch.zeros(2, 2, 5)}, RuntimeError, r"^hx\[0\] .*\(1, 2, 5\).* got \(2, 2, 5\)"),
    "state rank": ({"hx": H[0]}, RuntimeError, r"^hx\[0\] .*\(1, 2, 5\).* got \(2, 5\)"),
    "state rank, unbatched": ({"input": X[:, 0], "hx": H}, RuntimeError, r"^hx\[0\] .*\(1, 5\).* got \(1, 2, 5\)"),
    "state dtype": ({"hx": H.double()}, RuntimeError, r"^hx\[0\] .* type torch.float32, got torch.float64"),
    "state device": ({"hx": H.to("meta")}, RuntimeError, r"^hx\[0\] .* device meta but the input is on cpu"),
    "too many lengths": ({"lengths": [1, 2, 3]}, ValueError, r"^lengths .*\(2,\).* got \(3,\)"),
    "one length": ({"lengths": 4}, ValueError, r"^lengths .*\(2,\).* got \(\)"),
    "lengths of rank 2": ({"lengths": torch.tensor([[4], [2]])}, ValueError, r"^lengths .*\(2,\).* got \(2, 1\)"),
    "length beyond T": ({"lengths": [1, 5]}, ValueError, "^lengths .*between 0 and 4 .* got 5"),
    "negative length": ({"lengths": [-1, 2]}, ValueError, "^lengths .*between 0 and 4 .* got -1"),
    "NaN length": ({"lengths": [1.0, NAN]}, TypeError, "^lengths must be integers, got torch.float32"),
    "boolean lengths": ({"lengths": torch.tensor([True, False])}, TypeError, "^lengths must be integers, got"),
    "no length": ({"lengths": [4, None]}, TypeError, r"^lengths must be integers, got \[4, None\]"),
    "texts as lengths": ({"lengths": ["4", "2"]}, TypeError, "^lengths must be integers, got"),
}


@pytest.mark.parametrize("call", ["forward", "trace", "backend_for"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input(kind, case, call):
    given_, error, match = BAD[case]
    module = getattr(snn, kind)(3, 5)
    arguments = {"input": X, **given_}
    if "hx" in arguments and (kind == "LSTM" or call != "forward"):
        arguments["hx"] = (arguments["hx"], *([H] if kind == "LSTM" else []))
    with pytest.raises(error, match=match):
        getattr(module, call)(**arguments)


@pytest.mark.parametrize(
    ("hx", "match"),
    [
        (H, r"^hx must be a tuple of 2 tensors \(h, c\), got a Tensor"),
        ((H,), r"^hx must be a tuple of 2 tensors \(h, c\), got 1 of them"),
        ((H, None), r"^hx\[1\] \(c\) must be a Tensor, got NoneType"),
        ((H, H[:, :1]), r"^hx\[1\] \(c\) must have the shape \(1, 2, 5\).* got \(1, 1, 5\)"),
    ],
)
def test_bad_state_of_an_lstm(hx, match):
    with pytest.raises(RuntimeError, match=match):
        snn.LSTM(3, 5)(X, hx)
    with pytest.raises(RuntimeError, match=r"^hx must be a tensor, got a tuple"):
        snn.GRU(3, 5)(X, (H, H))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((X[None, 0],), ValueError, "[Ii]nput .*1D or 2D, got 3D"),
        ((X[0].tolist(),), TypeError, "^input must be a Tensor, got list"),
        ((torch.randn(2, 7),), RuntimeError, "^input .* got 7 expected 3"),
        ((X[0].double(),), RuntimeError, "^input must have the type torch.float32, got type torch.float64"),
        ((X[0].to("meta"),), RuntimeError, "^input is on device meta"),
        ((X[0], H), RuntimeError, "hx .*1D or 2D, got 3D"),
        ((X[0], torch.zeros(2, 6)), RuntimeError, r"^hx \(h\) must have shape \(2, 5\), got \(2, 6\)"),
        ((X[0], torch.zeros(3, 5)), RuntimeError, r"^hx \(h\) must have shape \(2, 5\), got \(3, 5\)"),
        ((X[0], torch.zeros(2, 5).double()), RuntimeError, r"^hx \(h\) must have the type torch.float32"),
    ],
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_bad_input_of_a_cell(kind, arguments, error, match):
    """Torch's cells raise these types too, but for what is no tensor at all."""
    x, *hx = arguments
    ours, theirs = (getattr(room, f"{kind}Cell")(3, 5) for room in (snn, torch.nn))
    hx = [(one, H[0]) for one in hx] if kind == "LSTM" else hx
    if error is not TypeError:
        with pytest.raises((ValueError, RuntimeError)) as expected:
            theirs(x, *hx)
        error = expected.type
    with pytest.raises(error, match=match):
        ours(x, *hx)


@pytest.mark.parametrize("backend", ["reference", "auto", "fused"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_the_default_device_is_of_no_concern(kind: str, backend: str) -> None:
    """Whatever is computed on the way names its device: with torch's default elsewhere the results are the same."""
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 40, 2, bidirectional=True, backend=backend, device="cpu")
    x, lengths = torch.randn(6, 33, 3, requires_grad=True), [n % 7 for n in range(33)]
    want, _ = module(x, lengths=lengths)
    (want_grad,) = torch.autograd.grad(want.sum(), x)
    with torch.device("meta"):
        got, _ = module(x, lengths=lengths)
        (got_grad,) = torch.autograd.grad(got.sum(), x)
    assert torch.equal(got, want)
    assert torch.equal(got_grad, want_grad)
