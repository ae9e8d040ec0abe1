"""The conditional random field against all tag sequences, written out one by one."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqkit.nn import CRF, iob2_allowed
from seqkit.nn.kernels import crf as crf_kernel

TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]


def legal(tags: tuple[str, ...]) -> bool:
    """IOB2, said differently than by the program."""
    text = " ".join(["O", *tags])
    return all(
        f"{other} I-{kind}" not in text
        for kind, mates in (("a", "b"), ("b", "a"))
        for other in ("O", f"B-{mates}", f"I-{mates}")
    )


def make(scale: float = 1.0, seed: int = 0, **options: Any) -> CRF:
    allowed, start = iob2_allowed(TAGS)
    torch.manual_seed(seed)
    crf = CRF(5, allowed=allowed, allowed_start=start, **options).double()
    for value in crf.parameters():
        torch.nn.init.normal_(value, std=scale)
    return crf


def paths(crf: CRF, emissions: Tensor, length: int, constrained: bool) -> dict[tuple[int, ...], Tensor]:
    """Every tag sequence of one sentence (T, K) with its score."""
    if length == 0:
        return {(): emissions.sum() * 0 + crf.start.sum() * 0}
    found = {}
    for path in itertools.product(range(5), repeat=length):
        if constrained and not legal(tuple(TAGS[tag] for tag in path)):
            continue
        score = crf.start[path[0]] + crf.end[path[-1]]
        for step, tag in enumerate(path):
            score = score + emissions[step, tag]
            if step:
                score = score + crf.transitions[path[step - 1], tag]
        found[path] = score
    return found


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    scale=st.sampled_from([0.1, 1.0, 10.0, 400.0, 4000.0]),
    constrained=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_everything_equals_enumeration(lengths: list[int], scale: float, constrained: bool, seed: int) -> None:
    crf = make(scale, seed, constrain_loss=constrained)
    steps = max([1, *lengths])
    emissions = (torch.randn(len(lengths), steps, 5, dtype=torch.float64) * scale).requires_grad_()
    counts = torch.tensor(lengths)
    weights = torch.randn(len(lengths), dtype=torch.float64)
    leaves = [emissions, *crf.parameters()]
    total = crf.log_partition(emissions, counts)
    tables = [paths(crf, emissions[row], length, constrained) for row, length in enumerate(lengths)]
    plain = torch.stack([torch.logsumexp(torch.stack(list(table.values())), 0) for table in tables])
    torch.testing.assert_close(total, plain, rtol=1e-11, atol=1e-10)
    ours = torch.autograd.grad((total * weights).sum(), leaves)
    theirs = torch.autograd.grad((plain * weights).sum(), leaves, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-7, atol=1e-9)

    tags, best = crf.decode(emissions, counts)
    marginals = crf.marginals(emissions, counts)
    for row, length in enumerate(lengths):
        table = paths(crf, emissions[row].detach(), length, True)
        found = tuple(tags[row, :length].tolist())
        assert not tags[row, length:].any()
        assert found in table  # that is, legal
        assert table[found].item() == pytest.approx(max(value.item() for value in table.values()), rel=1e-12)
        assert best[row].item() == pytest.approx(table[found].item(), rel=1e-9, abs=1e-9)
        shares = torch.softmax(torch.stack(list(table.values())).detach(), 0)
        for step in range(length):
            for tag in range(5):
                share = sum(s.item() for s, path in zip(shares, table, strict=True) if path[step] == tag)
                assert marginals[row, step, tag].item() == pytest.approx(share, abs=1e-9)
        assert not marginals[row, length:].any()


@pytest.mark.parametrize("constrained", [True, False])
def test_the_loss_is_minus_the_log_of_a_probability(constrained: bool) -> None:
    crf = make(constrain_loss=constrained)
    emissions = torch.randn(3, 4, 5, dtype=torch.float64)
    lengths = torch.tensor([4, 0, 2])
    tags = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [3, 4, 0, 0]])
    losses = crf(emissions, tags, lengths)
    for row, length in enumerate(lengths.tolist()):
        table = paths(crf, emissions[row], length, constrained)
        share = table[tuple(tags[row, :length].tolist())] - torch.logsumexp(torch.stack(list(table.values())), 0)
        assert losses[row].item() == pytest.approx(-share.item(), abs=1e-10)
    illegal = torch.tensor([[0, 2, 0, 0]])
    loss = crf(emissions[:1], illegal, lengths[:1])
    assert loss.isinf().all() if constrained else loss.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 2000.0])
def test_gradcheck(scale: float) -> None:
    """With both ways to sum: on probabilities and, where they underflow, on logarithms."""
    crf = make(scale)
    emissions = (torch.randn(3, 4, 5, dtype=torch.float64) * scale).requires_grad_()
    lengths = torch.tensor([4, 0, 2])
    tags = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [3, 4, 0, 0]])
    values = [value.detach().clone().requires_grad_() for value in (crf.transitions, crf.start, crf.end)]

    def loss(emissions: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(("transitions", "start", "end"), values, strict=True))
        return torch.func.functional_call(crf, given, (emissions, tags, lengths))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(loss, (emissions, *values), eps=1e-6 * scale)


def test_probabilities_that_underflow_are_noticed() -> None:
    crf = make(0.0)
    lengths = torch.tensor([3])
    emissions = torch.zeros(1, 3, 5, dtype=torch.float64)
    plain = crf_kernel.sum_paths(crf_kernel.time_first(emissions, lengths, *crf._scores(True)))
    emissions[0, 0, 1], emissions[0, 2, 2] = -900.0, 2000.0  # what is hopeless at first wins in the end
    emissions[0, 1, 1] = -2000.0
    steep = crf_kernel.sum_paths(crf_kernel.time_first(emissions, lengths, *crf._scores(True)))
    assert type(plain) is not type(steep)
    assert steep.log_partition.item() == pytest.approx(-900 + 2000)


def test_padding_is_not_looked_at_and_a_batch_equals_its_sentences() -> None:
    crf = make()
    emissions = torch.randn(4, 6, 5, dtype=torch.float64)
    lengths = torch.tensor([6, 1, 0, 4])
    tags = torch.tensor([[0, 1, 2, 0, 3, 4]] * 4)
    whole = emissions.clone()
    for row, length in enumerate(lengths.tolist()):
        emissions[row, length:] = torch.nan
    emissions.requires_grad_()
    losses = crf(emissions, tags, lengths)
    losses.sum().backward()
    assert emissions.grad is not None
    assert emissions.grad.isfinite().all()
    for row, length in enumerate(lengths.tolist()):
        cut = max(length, 1)
        alone = crf(whole[row : row + 1, :cut], tags[row : row + 1, :cut], lengths[row : row + 1])
        torch.testing.assert_close(losses[row : row + 1], alone)
        found = crf.decode(emissions, lengths)[0][row, :length]
        assert torch.equal(found, crf.decode(whole[row : row + 1, :cut], lengths[row : row + 1])[0][0, :length])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_keeps_its_dtype_in_the_gradient(dtype: torch.dtype) -> None:
    crf = CRF(5)
    emissions = torch.randn(2, 3, 5, dtype=dtype, requires_grad=True)
    loss = crf(emissions, torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 2]))
    assert loss.dtype == torch.float64
    loss.sum().backward()
    assert emissions.grad is not None
    assert emissions.grad.dtype == dtype
    assert crf.transitions.grad is not None


def test_nothing_of_a_loss_is_left_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the help of the garbage collector, which comes late."""
    made: list[weakref.ref[Any]] = []
    plain = crf_kernel.sum_paths

    def watched(scores: crf_kernel.Chain) -> Any:
        paths = plain(scores)
        made.append(weakref.ref(paths))
        return paths

    monkeypatch.setattr(crf_kernel, "sum_paths", watched)
    gc.disable()
    try:
        crf, emissions = make(), torch.randn(1, 3, 5, dtype=torch.float64, requires_grad=True)
        loss = crf(emissions, torch.zeros(1, 3, dtype=torch.int64), torch.tensor([3])).sum()
        loss.backward()
        assert made[0]() is not None
        del loss
        assert made[0]() is None
    finally:
        gc.enable()


def test_it_learns_what_follows_what() -> None:
    """Emissions say nothing, so that only the transitions can tell that tags alternate."""
    crf = CRF(2)
    optimizer = torch.optim.Adam(crf.parameters(), 0.1)
    tags = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]])
    emissions, lengths = torch.zeros(2, 5, 2), torch.tensor([5, 5])
    for _ in range(60):
        loss = crf(emissions, tags, lengths).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.75  # log 2: which comes first
    emissions[0, 0, 1] = 1.0
    assert crf.decode(emissions[:1], lengths[:1])[0].tolist() == [[1, 0, 1, 0, 1]]


def test_iob2_allowed() -> None:
    allowed, start = iob2_allowed(TAGS)
    for length in (1, 2, 3):
        for path in itertools.product(range(5), repeat=length):
            ours = bool(start[path[0]]) and all(bool(allowed[a, b]) for a, b in itertools.pairwise(path))
            assert ours == legal(tuple(TAGS[tag] for tag in path))
    with pytest.raises(ValueError, match="tags: expected O, B-type or I-type, got 'S-a'"):
        iob2_allowed(["O", "S-a"])


def test_masks_are_not_saved() -> None:
    assert sorted(make().state_dict()) == ["end", "start", "transitions"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CRF(0), "num_tags must be positive"),
        (lambda: CRF(2, allowed=torch.ones(2, 3, dtype=torch.bool)), "allowed must be a bool mask of shape"),
        (lambda: CRF(2, allowed_start=torch.zeros(2, dtype=torch.bool)), "allowed_start must be .* allows something"),
        (lambda: CRF(2).log_partition(torch.zeros(1, 2, 3), torch.tensor([2])), "emissions must be"),
        (lambda: CRF(2).decode(torch.zeros(1, 2, 2), torch.tensor([2, 1])), "lengths must be"),
    ],
)
def test_senseless_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
