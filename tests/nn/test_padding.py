"""What lies in the padding never matters: NaN and infinity there change no result and no gradient.

A test without an assertion of its own ends in `same`, which makes them.
"""

from __future__ import annotations

import pytest
import torch

import seqkit.nn as snn
from seqkit.models import Poolings
from seqkit.nn.attention import ATTENTIONS
from seqkit.nn.custom_op import AVAILABLE

LENGTHS = [5, 2, 0, 3]
PADDING = torch.arange(5) >= torch.tensor(LENGTHS).unsqueeze(1)  # (B, T)
CELLS = [
    ("lstm", {}),
    ("lstm", {"layer_norm": True, "peephole": True, "zoneout": 0.2, "recurrent_dropout": 0.2, "proj_size": 3}),
    ("gru", {}),
    ("gru", {"layer_norm": True, "zoneout": 0.2}),
    ("rnn", {}),
    ("rnn", {"layer_norm": True}),
    ("jordan", {}),
]


def spoiled(x, value):
    """x (B, T, F) with a value on the padding, a leaf."""
    return x.masked_fill(PADDING.unsqueeze(2), value).requires_grad_()


def same(found):
    first, *others = found
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert torch.isfinite(two).all()
            assert torch.equal(one, two)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.13's dynamo
@pytest.mark.parametrize("road", ["reference", "fused", "vendor", "auto", *(["compiled"] if AVAILABLE else [])])
@pytest.mark.parametrize(("kind", "options"), CELLS)
def test_scan(kind, options, road):
    if road in ("fused", "vendor", "compiled") and (kind == "jordan" or (options and road == "vendor")):
        pytest.skip("no such kernel")
    torch._dynamo.reset()
    torch.manual_seed(0)
    backend = "auto" if road == "compiled" else road
    module = snn.Recurrent(kind, 3, 4, 2, bidirectional=True, batch_first=True, backend=backend, **options)
    run = torch.compile(module, backend="eager") if road == "compiled" else module
    x, found = torch.randn(4, 5, 3), []
    for value in (0.0, torch.nan, torch.inf):
        torch.manual_seed(1)
        leaf = spoiled(x, value)
        output, state = run(leaf, lengths=torch.tensor(LENGTHS))
        loss = output.sin().sum() + sum(part.sin().sum() for part in state)
        grads = torch.autograd.grad(loss, [leaf, *module.parameters()], allow_unused=True)
        found.append([output, *state, *(grad for grad in grads if grad is not None)])
    same(found)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention(kind):
    torch.manual_seed(0)
    module = snn.make_attention(kind, 4, 4)
    memory, found = torch.randn(4, 5, 4), []
    for value in (0.0, torch.nan, torch.inf):
        query, leaf = torch.ones(4, 2, 4, requires_grad=True), spoiled(memory, value)
        context, weights = module(query, *module.project(leaf, PADDING), PADDING)
        grads = torch.autograd.grad(context.sin().sum() + weights.square().sum(), [query, leaf, *module.parameters()])
        found.append([context, weights, *grads])
        bare, again = module(query, *module.project(leaf), PADDING)
        assert torch.equal(bare, context)
        assert torch.equal(again, weights)
    same(found)


@pytest.mark.parametrize("name", ["mean", "max", "attention"])
def test_pooling(name):
    torch.manual_seed(0)
    module, output, found = Poolings(4, [name]), torch.randn(4, 5, 4), []
    for value in (0.0, torch.nan, torch.inf):
        leaf = spoiled(output, value)
        vector = module(leaf, torch.zeros(4, 4), torch.tensor(LENGTHS))
        found.append([vector, *torch.autograd.grad(vector.sin().sum(), [leaf, *module.parameters()])])
    same(found)


def test_crf():
    torch.manual_seed(0)
    crf, emissions, found = snn.CRF(3), torch.randn(4, 5, 3), []
    tags = torch.randint(3, (4, 5))
    for value, tag in ((0.0, 0), (torch.nan, -100), (torch.inf, 7)):
        leaf, lengths = spoiled(emissions, value), torch.tensor(LENGTHS)
        loss = crf(leaf, tags.masked_fill(PADDING, tag), lengths)
        grads = torch.autograd.grad(loss.sum(), [leaf, *crf.parameters()], create_graph=True)
        plain = torch.autograd.grad(crf(leaf, tags.masked_fill(PADDING, tag), lengths).sum(), [leaf, *crf.parameters()])
        found.append([loss, *grads, *plain, *crf.decode(leaf, lengths), crf.marginals(leaf, lengths)])
    same(found)
