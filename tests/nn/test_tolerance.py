"""What torch.nn takes, or common sense would: keywords, kinds of lengths, parametrized weights, torch's meta device."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence

import seqkit.nn as snn

KINDS = ["lstm", "gru", "rnn", "jordan"]
PLAIN = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


@pytest.mark.parametrize("kind", PLAIN)
def test_torchs_keywords(kind):
    for name, x in ((PLAIN[kind], torch.randn(2, 3, 4)), (PLAIN[kind] + "Cell", torch.randn(3, 4))):
        module, rows = getattr(snn, name)(4, 5), (1, 3, 5) if x.dim() == 3 else (3, 5)
        theirs = getattr(torch.nn, name)(4, 5)
        theirs.load_state_dict(module.state_dict())
        hx = torch.randn(rows)
        state = (hx, torch.randn(rows)) if kind == "lstm" else hx
        for one, other in zip(module(input=x, hx=state), theirs(input=x, hx=state), strict=True):
            torch.testing.assert_close(one, other)


LENGTHS = {
    "list": [3, 0, 2],
    "tuple": (3, 0, 2),
    "numpy": numpy.array([3, 0, 2]),
    "numpy backwards": numpy.array([2, 0, 3])[::-1],
    "numpy every other": numpy.array([3, 9, 0, 9, 2])[::2],
    "numpy uint8": numpy.array([3, 0, 2], dtype=numpy.uint8),
    "numpy uint16 backwards": numpy.array([2, 0, 3], dtype=numpy.uint16)[::-1],
    "uint8": torch.tensor([3, 0, 2], dtype=torch.uint8),
    "int32": torch.tensor([3, 0, 2], dtype=torch.int32),
}


def crf_calls(lengths):
    torch.manual_seed(0)
    crf, emissions, tags = snn.CRF(4), torch.randn(3, 3, 4), torch.randint(0, 4, (3, 3))
    torch.nn.init.normal_(crf.transitions)
    return [
        lambda: crf(emissions, tags, lengths),
        lambda: crf.log_partition(emissions, lengths),
        lambda: crf.score(emissions, tags, lengths),
        lambda: crf.decode(emissions, lengths)[0],
        lambda: crf.marginals(emissions, lengths),
    ]


@pytest.mark.parametrize("kind", LENGTHS)
def test_lengths_of_any_kind(kind):
    x, module = torch.randn(3, 3, 4), snn.GRU(4, 5)
    wanted = torch.tensor([3, 0, 2])
    assert torch.equal(module(x, lengths=LENGTHS[kind])[0], module(x, lengths=wanted)[0])
    for found, right in zip(crf_calls(LENGTHS[kind]), crf_calls(wanted), strict=True):
        assert torch.equal(found(), right())


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([3.0, 0.0, 2.0], TypeError, "integers, got torch.float32"),
        (torch.tensor([3.0, 0.0, 2.0]), TypeError, "integers, got torch.float32"),
        (["a", "b", "c"], TypeError, "integers"),
        ([True, False, True], TypeError, "integers, got torch.bool"),
        ([3, 4, 2], ValueError, "between 0 and 3 .* got 4"),
        ([3, -1, 2], ValueError, "between 0 and 3 .* got -1"),
        ([3, 2], ValueError, "lengths must"),
        ([[3, 0, 2]], ValueError, "lengths must"),
    ],
)
def test_senseless_lengths_are_named(lengths, error, message):
    for call in (lambda: snn.GRU(4, 5)(torch.randn(3, 3, 4), lengths=lengths), *crf_calls(lengths)):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    ("tags", "error", "message"),
    [
        (torch.zeros(3, 3), TypeError, "tags must be integers"),
        (torch.zeros(3, 3, dtype=torch.bool), TypeError, "tags must be integers"),
        (torch.zeros(3, 2, dtype=torch.long), ValueError, r"tags must be \(3, 3\)"),
    ],
)
def test_senseless_tags_are_named(tags, error, message):
    with pytest.raises(error, match=message):
        snn.CRF(4)(torch.randn(3, 3, 4), tags, [3, 0, 2])


def test_tags_of_any_integer_type():
    crf, emissions, tags = snn.CRF(4), torch.randn(3, 3, 4), torch.randint(0, 4, (3, 3))
    torch.nn.init.normal_(crf.transitions)
    for dtype in (torch.uint8, torch.int8, torch.int32):
        assert torch.equal(crf(emissions, tags.to(dtype), [3, 0, 2]), crf(emissions, tags, [3, 0, 2]))


def test_crf_from_the_meta_device_forbids_what_it_did():
    with torch.device("meta"):
        allowed, start = snn.iob2_allowed(["O", "B-x", "I-x"])
        crf = snn.CRF(3, allowed=allowed, allowed_start=start)
        assert snn.CRF(3, allowed=allowed).transitions.is_meta
    crf = crf.to_empty(device="cpu")
    crf.load_state_dict(snn.CRF(3).state_dict())
    for after in (crf, crf.double(), crf.to("meta").to_empty(device="cpu")):
        after.reset_parameters()
        tags, _ = after.decode(torch.tensor([[[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]]), [2])
        assert tags.tolist() == [[1, 2]]
        assert torch.equal(after.forbidden_transitions, ~allowed)
        assert "forbidden_start" not in after.state_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["weight norm", "adapters"])
def test_parametrized_weights_are_initialised(kind, how):
    plain = snn.Recurrent(kind, 3, 4, 2, bidirectional=True)
    module = snn.Recurrent(kind, 3, 4, 2, bidirectional=True)
    names = [name for name, _ in module.named_parameters()]
    if how == "adapters":
        snn.add_lora(module, rank=2)
    else:
        for name in names:
            if "weight" in name:
                parametrizations.weight_norm(module, name)
    with torch.no_grad():
        for value in module.parameters():
            value.fill_(2.0)
    for one in (plain, module):
        torch.manual_seed(0)
        one.reset_parameters()
    for name in names:
        torch.testing.assert_close(getattr(module, name), getattr(plain, name), atol=1e-4, rtol=0)


class Halved(torch.nn.Module):
    def forward(self, value):
        return value / 2

    def right_inverse(self, value):
        return value * 2


def test_a_parametrized_cell_and_crf_are_initialised():
    cell, plain = parametrizations.weight_norm(snn.LSTMCell(3, 4), "weight_hh"), snn.LSTMCell(3, 4)
    for one in (cell, plain):
        torch.manual_seed(0)
        one.reset_parameters()
    torch.testing.assert_close(cell.weight_hh, plain.weight_hh)
    crf = snn.CRF(3)
    torch.nn.init.normal_(crf.transitions)
    parametrize.register_parametrization(crf, "transitions", Halved())
    crf.reset_parameters()
    assert crf.transitions.abs().max() == 0


def test_weights_that_a_hook_makes_are_refused():
    module = prune.l1_unstructured(snn.GRU(3, 4), "weight_hh_l0", 0.5)
    with pytest.raises(RuntimeError, match="weight_hh_l0 is made anew by a hook"):
        module.reset_parameters()


@pytest.mark.parametrize("kind", PLAIN)
def test_outputs_changed_in_place(kind):
    """Right where the output is a tensor of its own; else an error at that line, as a copy costs time and memory."""
    x = torch.randn(4, 2, 3, requires_grad=True)
    for options in ({}, {"bidirectional": True}, {"backend": "reference"}):
        for lengths in (None, [4, 2]):
            module = getattr(snn, PLAIN[kind])(3, 3, **{"backend": "fused", **options})
            output = module(x, lengths=lengths)[0]
            if lengths is None and not options:
                with pytest.raises(RuntimeError, match="replace the inplace operation by an out-of-place one"):
                    output *= 2
                continue
            output *= 2
            (want,) = torch.autograd.grad((module(x, lengths=lengths)[0] * 2).sum(), x)
            assert torch.allclose(torch.autograd.grad(output.sum(), x)[0], want, atol=1e-6)
    packed = getattr(snn, PLAIN[kind])(3, 3, backend="fused")(pack_padded_sequence(x, [4, 2]))[0]
    with pytest.raises(RuntimeError, match="replace the inplace operation by an out-of-place one"):
        packed.data.mul_(2)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_without_a_step_have_gradients_of_zero(kind, backend):
    for lengths in ([0, 0], None):
        for call in ("forward", "trace"):
            module = snn.Recurrent(kind, 3, 4, 2, bidirectional=True, backend=backend)
            output, state = getattr(module, call)(torch.randn(5, 2 if lengths else 0, 3), lengths=lengths)[:2]
            (output.sum() + state[0].sum()).backward()
            assert all(value.grad is not None and value.grad.eq(0).all() for value in module.parameters())
