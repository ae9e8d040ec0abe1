"""Input feeding: the steps with a hand-derived backward against the step loop under autograd and plain code."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from seqkit.nn import ATTENTIONS, AttentionalRecurrent, Cell, padding_mask
from seqkit.nn.attention import AdditiveAttention

PLAIN = ["lstm", "gru", "rnn"]
MEMORY, EMBEDDED = 8, 7


class UserCell(Cell):
    """A cell of a user's own, without a kernel."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.mix = nn.Linear(input_size + hidden_size, hidden_size)

    def step(self, projected: Tensor, state: Any, prepared: Any) -> Any:
        return (torch.tanh(self.mix(torch.cat([projected, state[0]], 1))),), {}


def make(cell: Any = "lstm", attention: str = "bahdanau", **options: Any) -> AttentionalRecurrent:
    torch.manual_seed(0)
    hidden = MEMORY if attention == "dot" else 6
    heads = {"heads": 2} if attention == "multi_head" else {}
    decoder = AttentionalRecurrent(
        EMBEDDED,
        MEMORY,
        cell,
        attention=attention,
        input_feeding=True,
        **{"hidden_size": hidden} | heads | options,
    )
    return decoder.double()


def inputs(
    decoder: AttentionalRecurrent, source: Sequence[int], target: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """Arguments of a call, and what multiplies its results in the loss."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    batch, steps, width = len(target), max(1, *target), max(1, *source)
    state = tuple(draw(decoder.num_layers, batch, size) for size in decoder.state_sizes)
    padding = padding_mask(torch.tensor(source), width)
    return {
        "embedded": draw(batch, steps, EMBEDDED),
        "lengths": torch.tensor(target),
        "state": state,
        "read": draw(batch, width, MEMORY),
        "padding": padding,
        "factors": (draw(batch, steps, decoder.feature_size).detach(), draw(batch, steps, width).detach()),
    }


def run(decoder: AttentionalRecurrent, backend: str, given: dict[str, Any]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """vectors, weights, and the gradients of everything."""
    assert decoder.attention is not None
    for recurrent in (decoder.lower, *decoder.upper):
        recurrent.backend = backend
    torch.manual_seed(5)
    memory = (*decoder.attention.project(given["read"]), given["padding"])
    vectors, weights = decoder(given["embedded"], given["lengths"], given["state"], memory)
    loss = (vectors * given["factors"][0]).sum() + (weights * given["factors"][1]).sum()
    wanted = [given["embedded"], given["read"], *given["state"]]
    wanted += [value for name, value in decoder.named_parameters() if name.split(".")[0] in PARTS]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return vectors, weights, [torch.zeros(()) if one is None else one for one in found]


PARTS = ("lower", "upper", "attention", "vector")


def assert_same(decoder: AttentionalRecurrent, given: dict[str, Any], backend: str = "fused") -> None:
    assert decoder.step_backend(given["embedded"]).name == backend
    mine, reference = run(decoder, "auto", given), run(decoder, "reference", given)
    for a, b in zip((*mine[:2], *mine[2]), (*reference[:2], *reference[2]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("cell", PLAIN)
def test_equals_the_step_loop(cell: str, attention: str) -> None:
    decoder = make(cell, attention)
    assert_same(decoder, inputs(decoder, (4, 6, 1, 0, 3), (5, 3, 3, 1, 0)))


OPTIONS: list[dict[str, Any]] = [
    {"output": "deep"},
    {"feature_size": 5},
    {"bias": False},
    {"num_layers": 3, "residual": True},
    {"num_layers": 3, "residual": True, "attention_layer": 1, "output": "deep"},
    {"num_layers": 3, "attention_layer": 2, "dropout": 0.4, "locked_dropout": 0.3},
    {"num_layers": 2, "recurrent_dropout": 0.4, "weight_drop": 0.3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", PLAIN)
def test_options_equal_the_step_loop(cell: str, options: dict[str, Any]) -> None:
    """In training mode: masks are drawn before the loop, so both roads draw the same ones."""
    for attention in ("concat", "multi_head"):
        decoder = make(cell, attention, **options).train()
        assert_same(decoder, inputs(decoder, (2, 3, 1), (2, 4, 1)))


@pytest.mark.parametrize("nonlinearity", ["relu", "identity"])
def test_other_activations_equal_the_step_loop(nonlinearity: str) -> None:
    decoder = make("rnn", "general", nonlinearity=nonlinearity)
    assert_same(decoder, inputs(decoder, (2, 3), (3, 2)))


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6),
    cell=st.sampled_from(PLAIN),
    attention=st.sampled_from(list(ATTENTIONS)),
    seed=st.integers(0, 1000),
)
def test_any_lengths(pairs: list[tuple[int, int]], cell: str, attention: str, seed: int) -> None:
    assume(any(length for _, length in pairs))
    decoder = make(cell, attention)
    assert_same(decoder, inputs(decoder, [s for s, _ in pairs], [t for _, t in pairs], seed))


def test_no_target_has_a_step() -> None:
    decoder = make()
    given = inputs(decoder, (2, 3), (0, 0))
    memory = (*decoder.attention.project(given["read"]), given["padding"])
    vectors, weights = decoder(given["embedded"], given["lengths"], given["state"], memory)
    assert vectors.shape == (2, 1, 6)
    assert weights.shape == (2, 1, 3)
    assert not vectors.any()
    assert not weights.any()


@pytest.mark.parametrize("cell", ["jordan", UserCell, "lstm"])
def test_the_step_loop_serves_all_others(cell: Any) -> None:
    options = {"zoneout": 0.2} if cell == "lstm" else {}
    decoder = make(cell, **options)
    assert_same(decoder, inputs(decoder, (2, 3, 1), (2, 4, 1)), "reference")


def test_the_choice_gives_its_reason() -> None:
    decoder = make(num_layers=2)
    rows = torch.zeros(1, EMBEDDED)
    assert decoder.step_backend(rows) == ("fused", "hand-derived backward")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decoder.step_backend(rows) == ("fused", "hand-derived backward, products in bfloat16")
        assert "autocast" in decoder.step_backend(rows.double()).reason
    with torch.autocast("cpu", dtype=torch.float16):
        assert "autocast" in decoder.step_backend(rows).reason
    assert "JordanCell" in make("jordan").step_backend(rows).reason
    assert make(backend="reference").step_backend(rows) == ("reference", "asked for")
    semeniuta = make("gru", recurrent_dropout=0.1, recurrent_dropout_kind="semeniuta").train()
    assert semeniuta.step_backend(rows, semeniuta.prepare(rows, [1])).name == "reference"

    class Other(AdditiveAttention):
        pass

    decoder.attention = Other(6, MEMORY, 5)
    assert "Other" in decoder.step_backend(rows).reason
    replaced = make()
    replaced.attention.query = nn.Sequential(replaced.attention.query)  # as a low-rank adapter would
    assert replaced.step_backend(rows).name == "reference"
    replaced = make()
    replaced.vector = nn.Sequential(replaced.vector)
    assert replaced.step_backend(rows).name == "reference"


@pytest.mark.parametrize("size", [8, 96])  # products too small for bfloat16, and large enough
@pytest.mark.parametrize("attention", ["bahdanau", "general", "multi_head"])
@pytest.mark.parametrize("cell", PLAIN)
def test_bfloat16_is_nearer_to_float64_than_the_step_loop(cell: str, attention: str, size: int) -> None:
    """Results and gradients under autocast: the loop rounds states and sums, too."""
    torch.manual_seed(0)
    options = {"num_layers": 2, "output": "deep", "recurrent_dropout": 0.2} | (
        {"heads": 2} if attention == "multi_head" else {}
    )
    decoder = AttentionalRecurrent(size, size, cell, size, attention=attention, input_feeding=True, **options).train()
    lengths, width = torch.tensor([7, 6, 4, 2] * 8), 5
    drawn = [torch.randn(shape) for shape in ((32, 7, size), (32, width, size), (32, 7, decoder.feature_size))]
    state = tuple(torch.randn(2, 32, size) for _ in decoder.state_sizes)
    padding = padding_mask(torch.randint(1, width + 1, (32,)).index_fill(0, torch.tensor(0), width), width)
    found = []
    for backend, dtype in (("auto", torch.float32), ("reference", torch.float32), ("reference", torch.float64)):
        module = deepcopy(decoder).to(dtype)
        for recurrent in (module.lower, *module.upper):
            recurrent.backend = backend
        embedded, read, factors = (part.to(dtype, copy=True).requires_grad_() for part in drawn)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            assert module.attention is not None
            memory = (*module.attention.project(read), padding)
            features, weights = module(embedded, lengths, tuple(part.to(dtype) for part in state), memory)
            assert features.dtype == (torch.bfloat16 if dtype == torch.float32 else dtype)
            loss = (features.to(dtype) * factors.detach()).sum() + weights.to(dtype).square().sum()
            loss.backward()  # inside, where autocast would round the products of the backward pass
        grads = [value.grad for value in (embedded, read, *module.parameters()) if value.grad is not None]
        found.append([features.detach(), weights.detach(), *grads])
    ratios = []
    for got, other, want in zip(*found, strict=True):
        fused, loop = (float((one.double() - want).abs().max() / want.abs().max()) for one in (got, other))
        assert fused <= loop + torch.finfo(torch.bfloat16).eps
        ratios.append(fused / loop)
    assert torch.tensor(ratios).log().mean().exp() < 0.8


@pytest.mark.parametrize("attention", ["bahdanau", "multi_head"])
@pytest.mark.parametrize("cell", PLAIN)
def test_gradcheck(cell: str, attention: str) -> None:
    decoder = make(cell, attention, num_layers=2, attention_layer=1)
    given = inputs(decoder, (2, 1), (1, 3))
    weights = [value for name, value in decoder.named_parameters() if name.split(".")[0] in PARTS]

    def call(embedded: Tensor, read: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        memory = (*decoder.attention.project(read), given["padding"])
        return decoder(embedded, given["lengths"], rest[: len(given["state"])], memory)

    assert torch.autograd.gradcheck(call, (given["embedded"], given["read"], *given["state"], *weights), fast_mode=True)


def test_plain_code_agrees() -> None:
    """torch.nn.LSTMCell and the equations of Bahdanau and Luong, written out for one sentence."""
    decoder = make("lstm", "bahdanau")
    given = inputs(decoder, (4,), (3,))
    cell = nn.LSTMCell(EMBEDDED + 6, 6).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in decoder.lower.state_dict().items()})
    attention, fed, state = decoder.attention, torch.zeros(1, 6), tuple(part[0] for part in given["state"])
    for t in range(3):
        state = cell(torch.cat([given["embedded"][:, t], fed], 1), state)
        terms = torch.tanh(given["read"][0] @ attention.key.weight.T + attention.key.bias + attention.query(state[0]))
        weights = torch.softmax(terms @ attention.score, 0)
        fed = torch.tanh(decoder.vector(torch.cat([state[0], (weights @ given["read"][0]).unsqueeze(0)], 1)))
        found, read, _ = run(decoder, "auto", given)
        torch.testing.assert_close(found[0, t], fed[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(read[0, t], weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", PLAIN)
def test_float32_at_sizes_where_onednn_serves(cell: str) -> None:
    torch.manual_seed(0)
    decoder = AttentionalRecurrent(64, 96, cell, 128, attention="bahdanau", input_feeding=True)
    batch, steps = 48, 5
    lengths, source = torch.randint(1, steps + 1, (batch,)), torch.randint(1, 8, (batch,))
    embedded, read = torch.randn(batch, steps, 64), torch.randn(batch, 8, 96)
    state = tuple(torch.randn(1, batch, size) * 0.1 for size in decoder.state_sizes)
    results = []
    for dtype, backend in ((torch.float32, "auto"), (torch.float64, "reference")):
        decoder.to(dtype).zero_grad()
        decoder.lower.backend = backend
        memory = (*decoder.attention.project(read.to(dtype)), padding_mask(source, 8))
        vectors, _ = decoder(embedded.to(dtype), lengths, tuple(part.to(dtype) for part in state), memory)
        vectors.sum().backward()
        grads = [value.grad for name, value in decoder.named_parameters() if value.grad is not None]
        results.append([vectors, *grads])
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=2e-4)


def test_backward_twice_and_no_second_derivative() -> None:
    decoder = make()
    given = inputs(decoder, (2, 3), (3, 2))
    memory = (*decoder.attention.project(given["read"]), given["padding"])
    vectors, _ = decoder(given["embedded"], given["lengths"], given["state"], memory)
    first, again = (torch.autograd.grad(vectors.sum(), given["embedded"], retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(vectors.sum(), given["embedded"], create_graph=True)
    batch = torch.ones(2, *vectors.shape)
    with pytest.raises(RuntimeError, match="one gradient at a time"):
        torch.autograd.grad(vectors, given["embedded"], batch, is_grads_batched=True)


def test_no_gradient_no_graph() -> None:
    decoder = make()
    given = inputs(decoder, (2, 3), (3, 2))
    with torch.no_grad():
        mine, reference = (
            decoder(
                given["embedded"],
                given["lengths"],
                given["state"],
                (*decoder.attention.project(given["read"]), given["padding"]),
            )
            for _ in range(2)
        )
    assert not mine[0].requires_grad
    torch.testing.assert_close(mine[0], reference[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_of_the_additive_reader(dtype: torch.dtype) -> None:
    """Against float64, at most twice the step loop's error and one rounding step, outputs and gradients."""

    def outcome(decoder: AttentionalRecurrent, memory: Tensor, state: Tensor, weight: Tensor) -> dict[str, Tensor]:
        memory = memory.clone().requires_grad_()
        read = decoder.remember(memory, [8] * 4)
        features, weights = decoder(x.to(memory.dtype), torch.full((4,), 5), (state,), read)
        key = decoder.attention.key.weight  # type: ignore[union-attr]
        found = torch.autograd.grad((features.double() * weight).sum(), [memory, key])  # type: ignore[arg-type]
        return {"features": features, "weights": weights, "memory": found[0], "key": found[1]}

    for scale in (1e-4, 1e-2, 0.1, 1.0, 100.0):
        torch.manual_seed(0)
        decoder = AttentionalRecurrent(64, 64, "gru", 64, attention="bahdanau", input_feeding=True).to(dtype)
        loop, exact = deepcopy(decoder), deepcopy(decoder).double()
        loop.lower.backend = exact.lower.backend = "reference"
        x, weight = torch.randn(4, 5, 64), torch.randn(4, 5, 64, dtype=torch.float64)
        memory, state = (torch.randn(4, 8, 64) * scale).to(dtype), torch.randn(1, 4, 64).mul_(min(scale, 1)).to(dtype)
        want = outcome(exact, memory.double(), state.double(), weight)
        found, plain = (outcome(one, memory, state, weight) for one in (decoder, loop))
        for name, true in want.items():
            ours, theirs = (((one[name] - true).abs().max() / true.abs().max()).item() for one in (found, plain))
            assert ours <= 2 * theirs + torch.finfo(dtype).eps, (name, scale)


def test_the_additive_reader_keeps_small_differences() -> None:
    """Terms of 1e-4 in float32 as 2 s(2x) - 1 would leave three digits of the gradient of `score`."""
    torch.manual_seed(0)
    decoder = AttentionalRecurrent(64, 64, "gru", 64, attention="bahdanau", input_feeding=True)
    with torch.no_grad():
        for value in (decoder.attention.key.weight, decoder.attention.key.bias, decoder.attention.query.weight):  # type: ignore[union-attr]
            value.mul_(1e-4)  # type: ignore[operator]
    exact = deepcopy(decoder).double()
    exact.lower.backend = "reference"
    found = []
    memory, state, x = torch.randn(4, 8, 64), torch.randn(1, 4, 64), torch.randn(4, 5, 64)
    for one, dtype in ((decoder, torch.float32), (exact, torch.float64)):
        read = one.remember(memory.to(dtype), [8] * 4)
        features, _ = one(x.to(dtype), torch.full((4,), 5), (state.to(dtype),), read)
        found += torch.autograd.grad(features.sin().sum(), one.attention.score)  # type: ignore[arg-type]
    assert (found[0] - found[1]).abs().max() <= 1e-4 * found[1].abs().max()
