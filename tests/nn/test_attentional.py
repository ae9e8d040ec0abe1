"""`AttentionalRecurrent` against the papers' equations in plain float64 loops: one sentence, one step, one layer at a
time; teacher forcing, single steps and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqkit.nn as snn
from seqkit.nn import attentional

INPUT, MEMORY = 3, 4  # "dot" needs a query of the memory's size


def make(cell="lstm", kind="bahdanau", layers=2, **options):
    torch.manual_seed(0)
    options |= {"heads": 2} if kind == "multi_head" else {}
    options |= {"output_size": 4} if cell == "jordan" else {}
    module = snn.AttentionalRecurrent(INPUT, MEMORY, cell, 4, layers, attention=kind, **options).double()
    for value in module.parameters():  # biases, too, which start at zero
        torch.nn.init.uniform_(value, -0.6, 0.6)
    return module


def read(attention, query, memory):
    """One query (A,) and one source (S, M) to its context (C,) and weights (S,)."""
    w = dict(attention.named_parameters())
    if not len(memory):
        return torch.zeros(attention.context_size).double(), torch.zeros(0).double()
    if "score" in w:
        keys = memory @ w["key.weight"].T + w["key.bias"]
        scores = torch.stack([w["score"] @ torch.tanh(w["query.weight"] @ query + key) for key in keys])
    elif "value.weight" in w:
        size = attention.context_size // attention.heads
        contexts, all_weights = [], []
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            q, keys = w["query.weight"][part] @ query, memory @ w["key.weight"][part].T
            all_weights.append(torch.softmax(keys @ q / math.sqrt(size), 0))
            contexts.append(all_weights[-1] @ (memory @ w["value.weight"][part].T))
        return w["output.weight"] @ torch.cat(contexts), torch.stack(all_weights).mean(0)
    elif "query.weight" in w:
        q = w["query.weight"] @ query
        scores = memory @ w["key.weight"].T @ q / math.sqrt(len(q))
    else:
        scores = (memory @ w["key.weight"].T if "key.weight" in w else memory) @ query
    weights = torch.softmax(scores, 0)
    return weights @ memory, weights


def plain(oracle, module, cell, inputs, states, memory, vector, masks, memory_mask):
    """One sentence: inputs (T, E), states per layer, memory (S, M), v (M,), masks (H,) on each layer's input."""
    source = memory * memory_mask
    fed = torch.zeros(module.feature_size).double()
    features, all_weights = [], []
    for x in inputs:
        context = vector * memory_mask if module.feed_context else None
        below = torch.cat([x, fed]) if module.input_feeding else x if context is None else torch.cat([x, context])
        for number in range(module.num_layers):
            holder, index = module.layer(number)
            weights = {name: getattr(holder, f"{name}_l{index}") for name in holder.cell_at(index).weight_names}
            inside = below * masks[number]
            if number >= module.attention_layer:
                inside = torch.cat([inside, context])
            states[number] = oracle.STEPS[cell]({}, weights, inside, *states[number], {})
            below = states[number][0] + (below if number and module.residual else 0)
            if module.attention is not None and number + 1 == module.attention_layer:
                context, weights = read(module.attention, below, source)
                all_weights.append(weights)
        entering = [below, *([] if context is None else [context]), *([x] if module.output_kind == "deep" else [])]
        if module.output_kind == "deep" or module.attention is not None:
            fed = torch.tanh(module.vector.weight @ torch.cat(entering) + module.vector.bias)
        else:
            fed = below if module.vector is None else module.vector.weight @ below + module.vector.bias
        features.append(fed)
    return features, all_weights


class Fixed(torch.nn.Module):
    """Dropout that always draws the same mask."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return x * self.mask


@st.composite
def cases(draw):
    kind = draw(st.sampled_from(["none", *snn.ATTENTIONS]))
    layers = draw(st.integers(1, 3))
    options = {"output": draw(st.sampled_from(["linear", "deep"])), "feature_size": draw(st.sampled_from([0, 5]))}
    if kind == "none":
        options["feed_context"] = draw(st.booleans())
    else:
        options |= {"attention_layer": draw(st.integers(0, layers)), "input_feeding": draw(st.booleans())}
    if layers > 1:
        options |= {"residual": draw(st.booleans()), "dropout": draw(st.sampled_from([0.0, 0.5]))}
    lengths = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5))
    # Without input feeding `auto` may take one of ATen's networks, which draw the dropout between layers themselves.
    drawn_inside = options.get("dropout") and not options.get("input_feeding")
    backend = "reference" if drawn_inside else draw(st.sampled_from(["auto", "reference"]))
    return draw(st.sampled_from(sorted(snn.CELLS))), kind, layers, {**options, "backend": backend}, lengths


@settings(deadline=None, max_examples=60)
@given(case=cases(), seed=st.integers(0, 100))
def test_forward_steps_and_gradients_are_those_of_the_equations(oracle, case, seed):
    cell, kind, layers, options, pairs = case
    module = make(cell, kind, layers, **options)
    torch.manual_seed(seed)
    target, source = ([pair[place] for pair in pairs] for place in (0, 1))
    batch, steps, width = len(pairs), max(1, *target), max(1, *source)
    inputs, memory = torch.randn(batch, steps, INPUT).double(), torch.randn(batch, width, MEMORY).double()
    vector = torch.randn(batch, MEMORY).double()
    state = tuple(torch.randn(layers, batch, size).double().requires_grad_() for size in module.state_sizes)
    masks = [torch.ones(1).double(), *(torch.randn(layers - 1, 4).double() if options.get("dropout") else [1] * layers)]
    memory_mask = torch.randn(MEMORY).double()
    module.memory_dropout = Fixed(memory_mask)

    with pytest.MonkeyPatch.context() as patch:
        drawn = iter(masks[1:])  # layer by layer, one for all steps and sentences

        def fixed(x, rate, locked_rate, *rest):
            return x * next(drawn) if rate else x

        for room in ("attentional", "layers"):
            patch.setattr(f"seqkit.nn.{room}.between_layers", fixed)
        patch.setattr(attentional, "drop_mask", lambda rows, *shape_and_rate: next(drawn).expand(*shape_and_rate[:2]))
        kept = module.remember(memory, source, vector if module.feed_context else None)
        features, weights = module(inputs, target, state, kept)
    loss, expected_loss = (features * 0).sum(), 0.0
    wanted, all_weights = [], []
    for row, (length, filled) in enumerate(pairs):
        first = [tuple(part[number, row] for part in state) for number in range(layers)]
        one = plain(
            oracle, module, cell, inputs[row, :length], first, memory[row, :filled], vector[row], masks, memory_mask
        )
        wanted.append(one[0])
        all_weights.append(one[1])
        for t in range(length):
            torch.testing.assert_close(features[row, t], one[0][t], rtol=1e-10, atol=1e-12)
            loss, expected_loss = loss + features[row, t].sin().sum(), expected_loss + one[0][t].sin().sum()
            if weights is not None:
                torch.testing.assert_close(weights[row, t, :filled], one[1][t], rtol=1e-10, atol=1e-12)
                assert not weights[row, t, filled:].any()
    if sum(target):
        asked = [*module.parameters(), *state]
        found, exact = (torch.autograd.grad(one, asked, allow_unused=True) for one in (loss, expected_loss))
        for mine, other in zip(found, exact, strict=True):
            mine, other = (torch.zeros(()) if one is None else one for one in (mine, other))
            torch.testing.assert_close(mine + 0 * other, other + 0 * mine, rtol=1e-8, atol=1e-10)
    if options.get("dropout"):
        return  # a single step is evaluation
    module.eval()
    now = module.start(tuple(part.detach() for part in state))
    for t in range(max(target)):
        got, now, at = module.step(inputs[:, t : t + 1], now, kept)
        for row, length in enumerate(target):
            if t < length:
                torch.testing.assert_close(got[row, 0], wanted[row][t], rtol=1e-10, atol=1e-12)
                if at is not None:
                    torch.testing.assert_close(at[row, 0, : source[row]], all_weights[row][t], rtol=1e-10, atol=1e-12)


def test_a_first_state_of_zeros_and_no_lengths():
    for feeding in (False, True):
        module = make("lstm", "general", input_feeding=feeding)
        inputs, memory = torch.randn(3, 4, INPUT).double(), torch.randn(3, 5, MEMORY).double()
        state = module.initial_state(3)
        assert [tuple(part.shape) for part in state] == [(2, 3, 4), (2, 3, 4)]
        assert not any(part.any() for part in state)
        kept = module.remember(memory, torch.tensor([5, 2, 0]))
        same = zip(module(inputs, None, state, kept), module(inputs, [4] * 3, state, kept), strict=True)
        assert all(torch.equal(*pair) for pair in same)


class Halves(snn.Attention):
    """An attention of one's own: the mean of all that is there."""

    def scores(self, query, keys):
        return torch.zeros(*query.shape[:2], keys.size(1), dtype=query.dtype)


@pytest.mark.parametrize("feeding", [False, True])
def test_an_attention_class_of_ones_own(feeding):
    module = make("gru", Halves, input_feeding=feeding)
    memory = torch.randn(1, 4, MEMORY).double()
    _, weights = module(torch.randn(1, 2, INPUT).double(), None, module.initial_state(1), module.remember(memory, [2]))
    assert torch.allclose(weights, torch.tensor([0.5, 0.5, 0, 0]).double())
    if feeding:
        assert "Halves" in module.step_backend(memory).reason
    with pytest.raises(ValueError, match=r"^size has no meaning for attention .*Halves'"):
        make("gru", Halves, attention_size=3)


def test_calls_that_do_not_fit_are_refused():
    module = make("lstm", "bahdanau")
    inputs, memory = torch.randn(3, 4, INPUT).double(), torch.randn(3, 5, MEMORY).double()
    state, kept = module.initial_state(3), module.remember(memory, [5, 2, 0])
    fed = make("lstm", "none", feed_context=True)
    for call, message in (
        (lambda: module(inputs[0], None, state, kept), r"^input must have the shape \(B, T, 3\), got \(4, 3\)"),
        (lambda: module(memory, None, state, kept), r"^input must have the shape \(B, T, 3\)"),
        (lambda: module(inputs, [4, 4, 5], state, kept), "^lengths must lie between 0 and 4"),
        (
            lambda: module(inputs, None, state[:1], kept),
            r"^state must hold h, c with the shapes .* got",
        ),
        (lambda: module(inputs, None, state, ()), "^memory must be what `remember` returned, got 0"),
        (lambda: module(inputs[:2], None, module.initial_state(2), kept), "^memory must hold 2 sources.* got 3"),
        (lambda: module.remember(inputs, [4] * 3), r"^memory must have the shape \(B, S, 4\), got \(3, 4, 3\)"),
        (lambda: module.remember(memory, [4] * 2), r"^lengths must have the shape \(3,\), got \(2,\)"),
        (lambda: fed.remember(memory, [4] * 3), r"^vector must have the shape \(3, 4\) with feed_context, got None"),
        (lambda: make(feature_size=-1), "^feature_size"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"^lengths must be integers"):
        module.remember(memory, [1.5] * 3)
    with pytest.raises(RuntimeError, match="eval"):
        module.step(inputs[:, :1], module.start(state), kept)


@pytest.mark.parametrize("layer", [1.5, True, 3, -1, "1"])
def test_the_layer_of_the_attention_is_a_whole_number(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"^attention_layer must be an int from 0 to num_layers 2, got"):
        snn.AttentionalRecurrent(3, 4, "gru", 4, 2, attention="dot", attention_layer=layer)
