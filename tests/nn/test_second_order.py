"""Second derivatives, and gradients of many outputs at once, of every autograd function: right, or one clear error."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

import seqkit.nn as snn
from seqkit.nn.kernels.additive import additive_scores
from seqkit.nn.linear import Linear

# What this file covers; a new one needs a line here, and a test.
FUNCTIONS = {"FeedScan", "AdditiveScores", "FusedScan", "LogPartition", "_Product", "LinearCrossEntropy"}
LENGTHS = [4, 2, 0]


class LogPartitionOf(torch.nn.Module):
    def __init__(self, crf: snn.CRF) -> None:
        super().__init__()
        self.crf = crf

    def forward(self, emissions):
        return self.crf.log_partition(emissions, torch.tensor(LENGTHS))


def make_crf(constrained: bool) -> snn.CRF:
    torch.manual_seed(0)
    masks = {}
    if constrained:
        masks = {
            "allowed": ~torch.eye(3, dtype=torch.bool).roll(1, 1),
            "allowed_start": torch.tensor([True, True, False]),
        }
    crf = snn.CRF(3, dtype=torch.float64, **masks)
    for value in crf.parameters():
        torch.nn.init.normal_(value)
    return crf


def enumerated(crf, emissions, transitions, start, end):
    """The log partition from the score of each sequence of tags."""
    found = []
    for row, length in zip(emissions, LENGTHS, strict=True):
        scores = [row.new_zeros(())] if length == 0 else []
        for tags in itertools.product(range(3), repeat=length) if length else ():
            moves = list(itertools.pairwise(tags))
            legal = crf.forbidden_start is None or not (
                crf.forbidden_start[tags[0]] or any(crf.forbidden_transitions[pair] for pair in moves)
            )
            if legal:
                inner = sum(row[t, tag] for t, tag in enumerate(tags))
                scores.append(inner + sum(transitions[pair] for pair in moves) + start[tags[0]] + end[tags[-1]])
        found.append(torch.logsumexp(torch.stack(scores), 0))
    return torch.stack(found)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("constrained", [False, True])
def test_crf_hessian_equals_that_of_the_enumerated_sequences(constrained, vectorize):
    crf = make_crf(constrained)
    whole = LogPartitionOf(crf)
    given = (torch.randn(3, 4, 3, dtype=torch.float64), *(value.detach() for value in crf.parameters()))

    def ours(emissions, *values):
        names = ("crf.transitions", "crf.start", "crf.end")
        return functional_call(whole, dict(zip(names, values, strict=True)), (emissions,)).pow(2).sum()

    got = hessian(ours, given, vectorize=vectorize)
    want = hessian(lambda *values: enumerated(crf, *values).pow(2).sum(), given)
    for row, other in zip(got, want, strict=True):
        for one, two in zip(row, other, strict=True):
            assert torch.allclose(one, two, atol=1e-10)
    assert max(part.abs().max() for row in want for part in row) > 1


def test_crf_second_derivative_where_probabilities_underflow():
    crf = make_crf(False)
    emissions = (1000 * torch.randn(2, 3, 3, dtype=torch.float64)).requires_grad_()
    lengths = torch.tensor([3, 2])
    assert torch.autograd.gradgradcheck(lambda one: crf.log_partition(one / 1000, lengths), (emissions,))
    (first,) = torch.autograd.grad(crf.log_partition(emissions, lengths).sum(), [emissions], create_graph=True)
    (plain,) = torch.autograd.grad(crf.log_partition(emissions, lengths).sum(), [emissions])
    assert torch.allclose(first, plain, atol=1e-12)


def test_crf_gradients_of_each_example():
    crf = make_crf(True)
    emissions, lengths = torch.randn(3, 4, 3, dtype=torch.float64), torch.tensor(LENGTHS)
    tags = torch.tensor([[0, 0, 2, 1]] * 3)
    values = {name: value.detach() for name, value in crf.named_parameters()}

    def loss(values, one, own, length):
        return functional_call(crf, values, (one[None], own[None], length[None])).sum()

    got = torch.func.vmap(torch.func.grad(loss), (None, 0, 0, 0))(values, emissions, tags, lengths)
    for row in range(3):
        crf.zero_grad()
        crf(emissions[row : row + 1], tags[row : row + 1], lengths[row : row + 1]).sum().backward()
        for name, value in crf.named_parameters():
            assert torch.allclose(got[name][row], value.grad, atol=1e-12)


@pytest.mark.parametrize("lengths", [None, [5, 3]])
@pytest.mark.parametrize("backend", ["auto", "fused", "vendor"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_vectorized_jacobian_of_a_scan(kind, backend, lengths):
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64 if backend == "fused" else torch.float32}
    module = snn.Recurrent(kind, 3, 4, backend=backend, **options)
    reference = snn.Recurrent(kind, 3, 4, backend="reference", **options)
    reference.load_state_dict(module.state_dict())
    x = torch.randn(5, 2, 3, dtype=options["dtype"])
    got = jacobian(lambda x: module(x, lengths=lengths)[0], x, vectorize=True)
    want = jacobian(lambda x: reference(x, lengths=lengths)[0], x)
    assert torch.allclose(got, want, atol=1e-6)
    leaf = x.clone().requires_grad_()
    output, _ = module(leaf, lengths=lengths)
    basis = torch.eye(output.numel(), dtype=x.dtype).view(-1, *output.shape)
    (batch,) = torch.autograd.grad(output, [leaf], basis, is_grads_batched=True)
    assert torch.allclose(batch.view(got.shape), want, atol=1e-6)


def test_vectorized_jacobian_of_additive_scores_and_of_a_product():
    torch.manual_seed(0)
    query, keys, vector = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(4)
    got = jacobian(additive_scores, (query, keys, vector), vectorize=True)
    want = jacobian(lambda q, k, v: torch.tanh(q.unsqueeze(2) + k.unsqueeze(1)) @ v, (query, keys, vector))
    for one, two in zip(got, want, strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    layer = Linear(256, 512)
    x = torch.randn(300, 256)
    leaf = x.clone().requires_grad_()
    grads = torch.randn(2, 300, 512)
    output = layer(leaf)
    assert type(output.grad_fn).__name__ != "AddmmBackward0"
    found = torch.autograd.grad(output, [leaf, layer.weight], grads, is_grads_batched=True)
    for row in range(2):
        assert torch.allclose(found[0][row], grads[row] @ layer.weight, atol=1e-3)
        assert torch.allclose(found[1][row], grads[row].t() @ x, atol=1e-3)


def test_loss_takes_many_gradients_and_refuses_the_second_derivative():
    torch.manual_seed(0)
    features, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    targets = torch.randint(9, (6,))
    loss, _ = snn.linear_cross_entropy(features, weight, None, targets)
    scales = torch.tensor([1.0, -2.0])
    (got,) = torch.autograd.grad(loss, [features], scales, is_grads_batched=True, retain_graph=True)
    (want,) = torch.autograd.grad(F.cross_entropy(features @ weight.t(), targets, reduction="sum"), [features])
    assert torch.allclose(got, scales.view(2, 1, 1) * want, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"no second derivative.*F\.cross_entropy"):
        torch.autograd.grad(loss, [features], create_graph=True)


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="torch 2.4 or later")
def test_compiled_scan_refuses_the_second_derivative():
    torch.manual_seed(0)
    module = torch.compile(snn.LSTM(3, 4), backend="eager")
    x = torch.randn(5, 2, 3, requires_grad=True)
    (first,) = torch.autograd.grad(module(x)[0].sin().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match=r"without torch\.compile"):
        first.pow(2).sum().backward()


def test_every_autograd_function_is_covered():
    found = set()
    for path in Path(snn.__file__).parents[1].rglob("*.py"):
        found |= set(re.findall(r"class (\w+)\(torch\.autograd\.Function\)", path.read_text()))
    assert found == FUNCTIONS
