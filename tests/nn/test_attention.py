"""Attention against loops over sentences, queries and source positions, and against torch's own heads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqkit.nn import ATTENTIONS, Attention, make_attention
from seqkit.nn.kernels import additive


def build(kind: str, query_size: int = 6, memory_size: int = 5) -> Attention:
    torch.manual_seed(0)
    options: dict[str, Any] = {"size": 4} if kind not in ("dot", "general") else {}
    options |= {"heads": 2} if kind == "multi_head" else {}
    return make_attention(kind, query_size, query_size if kind == "dot" else memory_size, **options).double()


def plain_score(module: Attention, query: Tensor, memory: Tensor) -> Tensor:
    """One query (A,) and one vector of the memory (M,)."""
    named = dict(module.named_parameters())
    if not named:
        return query @ memory
    key = named["key.weight"] @ memory
    if "score" in named:
        inner = named["query.weight"] @ query + key + named["key.bias"]
        return sum(v * math.tanh(x) for v, x in zip(named["score"], inner.tolist(), strict=True))  # type: ignore[return-value]
    if "query.weight" in named:
        return (named["query.weight"] @ query) @ key / math.sqrt(len(key))
    return query @ key


@pytest.mark.parametrize("kind", [kind for kind in ATTENTIONS if kind != "multi_head"])
def test_scores_and_contexts_are_those_of_the_formula(kind: str) -> None:
    module = build(kind)
    memory, query = torch.randn(3, 4, module.memory_size).double(), torch.randn(3, 2, 6).double()
    lengths = [4, 1, 3]
    padding = torch.arange(4) >= torch.tensor(lengths).unsqueeze(1)
    context, weights = module(query, *module.project(memory), padding)
    for row, length in enumerate(lengths):
        for q in range(2):
            scores = torch.stack([plain_score(module, query[row, q], memory[row, s]) for s in range(length)])
            expected = torch.softmax(scores, 0)
            torch.testing.assert_close(weights[row, q, :length], expected, rtol=1e-12, atol=1e-14)
            assert weights[row, q, length:].eq(0).all()
            read = sum(expected[s] * memory[row, s] for s in range(length))
            torch.testing.assert_close(context[row, q], read, rtol=1e-12, atol=1e-14)


def test_multi_head_is_torchs() -> None:
    module = build("multi_head", 4, 5)
    other = torch.nn.MultiheadAttention(4, 2, bias=False, kdim=5, vdim=5, batch_first=True).double()
    with torch.no_grad():
        for name in ("query", "key", "value"):
            getattr(other, f"{name[0]}_proj_weight").copy_(getattr(module, name).weight)  # type: ignore[operator]
        other.out_proj.weight.copy_(module.output.weight)  # type: ignore[union-attr, arg-type]
    memory, query = torch.randn(3, 4, 5).double(), torch.randn(3, 2, 4).double()
    padding = torch.arange(4) >= torch.tensor([4, 1, 3]).unsqueeze(1)
    expected, expected_weights = other(query, memory, memory, key_padding_mask=padding)
    context, weights = module(query, *module.project(memory), padding)
    torch.testing.assert_close(context, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_an_empty_source_gives_zeros_and_finite_gradients(kind: str) -> None:
    module = build(kind)
    memory = torch.randn(2, 3, module.memory_size).double().requires_grad_()
    query = torch.randn(2, 4, 6).double().requires_grad_()
    padding = torch.tensor([[False, False, True], [True, True, True]])
    context, weights = module(query, *module.project(memory), padding)
    assert context[1].eq(0).all()
    assert weights[1].eq(0).all()
    context.sum().backward()
    assert query.grad is not None
    assert memory.grad is not None
    assert query.grad.isfinite().all()
    assert memory.grad.isfinite().all()
    assert memory.grad[0, 2].eq(0).all()


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(list(ATTENTIONS)),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    queries=st.integers(1, 4),
    extra=st.integers(0, 3),
)
def test_padding_and_neighbours_never_matter(kind: str, lengths: list[int], queries: int, extra: int) -> None:
    module, steps = build(kind), max(lengths) + extra
    memory = torch.randn(len(lengths), steps, module.memory_size).double()
    query = torch.randn(len(lengths), queries, 6).double()
    padding = torch.arange(steps) >= torch.tensor(lengths).unsqueeze(1)
    context, weights = module(query, *module.project(memory), padding)
    torch.testing.assert_close(weights.sum(2), torch.ones_like(weights.sum(2)))
    for row, length in enumerate(lengths):
        alone = memory[row : row + 1, :length]
        for q in range(queries):
            here = query[row : row + 1, q : q + 1]
            one, at = module(here, *module.project(alone), torch.zeros(1, length, dtype=torch.bool))
            torch.testing.assert_close(context[row, q], one[0, 0], rtol=1e-11, atol=1e-13)
            torch.testing.assert_close(weights[row, q, :length], at[0, 0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("block", [1, 30, 10**6])
def test_additive_scores_have_the_gradient_of_autograd(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive, "ADDITIVE_TERMS", block)
    monkeypatch.setattr(additive, "ADDITIVE_FEW", 0 if block < 10**6 else block)
    torch.manual_seed(0)
    shapes = ((2, 5, 4), (2, 3, 4), (4,))
    given_ = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(additive.additive_scores, given_)
    assert torch.autograd.gradgradcheck(additive.additive_scores, given_)
    query, keys, vector = given_
    expected = torch.tanh(query.unsqueeze(2) + keys.unsqueeze(1)) @ vector
    torch.testing.assert_close(additive.additive_scores(query, keys, vector), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("low", [0, 1])
@pytest.mark.parametrize("few", [0, 10**6])
def test_additive_scores_under_autocast_where_query_and_keys_differ(
    few: int, low: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additive, "ADDITIVE_FEW", few)
    torch.manual_seed(0)
    sources = [torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(4)]
    sources[low] = sources[low].bfloat16()
    leaves = [part.requires_grad_() for part in sources]
    query, keys, vector = leaves
    with torch.autocast("cpu", torch.bfloat16):
        scores = additive.additive_scores(query, keys, vector)
    assert scores.dtype == torch.bfloat16
    exact = torch.tanh(query.unsqueeze(2) + keys.unsqueeze(1)) @ vector
    grads = (torch.autograd.grad(total.float().square().sum(), leaves) for total in (scores, exact))
    for found, expected in ((scores, exact), *zip(*grads, strict=True)):
        assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp brings it on
def test_additive_scores_of_weights_that_learn_have_forward_derivatives() -> None:
    torch.manual_seed(0)
    query, keys, tangent = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(3))
    vector = torch.randn(4, dtype=torch.float64, requires_grad=True)
    _, found = torch.func.jvp(lambda q: additive.additive_scores(q, keys, vector), (query,), (tangent,))
    slopes = 1 - torch.tanh(query.unsqueeze(2) + keys.unsqueeze(1)).square()
    torch.testing.assert_close(found, (slopes * tangent.unsqueeze(2)) @ vector, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-8])
@pytest.mark.parametrize("few", [0, 10**6])
def test_additive_scores_in_float32_are_as_good_as_autograds(
    few: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additive, "ADDITIVE_FEW", few)
    monkeypatch.setattr(additive, "ADDITIVE_TERMS", 4 * 11 * 64 * 2)  # two queries a block, and one is left
    torch.manual_seed(0)
    exact = [torch.randn(shape, dtype=torch.float64) for shape in ((4, 9, 64), (4, 11, 64), (64,), (4, 9, 11))]
    exact = [part * scale if place < 2 else part for place, part in enumerate(exact)]
    results = {}
    for name, dtype in (("exact", torch.float64), ("plain", torch.float32), ("ours", torch.float32)):
        query, keys, vector = (part.to(dtype).requires_grad_() for part in exact[:3])
        if name == "ours":
            scores = additive.additive_scores(query, keys, vector)
        else:
            scores = torch.tanh(query.unsqueeze(2) + keys.unsqueeze(1)) @ vector
        results[name] = (scores, *torch.autograd.grad(scores, (query, keys, vector), exact[3].to(dtype)))
    for true, plain, ours in zip(*results.values(), strict=True):
        assert (ours - true).abs().max() <= 4 * (plain - true).abs().max() + 1e-6 * true.abs().max()


@pytest.mark.parametrize(
    ("arguments", "options", "word"),
    [
        (("bahdanu", 4, 4), {}, "kind"),
        (("dot", 4, 5), {}, "query_size 4 and memory_size 5"),
        (("general", 4, 5), {"size": 3}, "size"),
        (("bahdanau", 4, 5), {"heads": 2}, "heads"),
        (("multi_head", 4, 5), {"heads": 3}, "heads"),
        (("multi_head", 4, 5), {"heads": 0}, "heads"),
        (("concat", 4, 5), {"size": -1}, "size"),
        (("scaled_dot", 0, 5), {}, "query_size"),
    ],
)
def test_senseless_arguments_are_named(arguments: Any, options: Any, word: str) -> None:
    with pytest.raises(ValueError, match=f"^{word}"):
        make_attention(*arguments, **options)
