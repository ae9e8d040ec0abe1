"""Roads that a module takes for some inputs alone: dropout between layers, compiled layers, chains that underflow."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import seqkit.nn as snn
from seqkit.nn import CRF
from seqkit.nn.custom_op import AVAILABLE
from seqkit.nn.kernels import crf as crf_kernel

# --- dropout between layers, on every backend -----------------------------------------------------------------------


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("backend", ["auto", "vendor", "fused", "reference"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_locked_dropout_acts_in_training_on_every_backend(kind: str, backend: str, full: bool) -> None:
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 16, 2, locked_dropout=0.5, backend=backend)
    plain = snn.Recurrent(kind, 3, 16, 2, locked_dropout=0.5, backend="reference")
    plain.load_state_dict(module.state_dict())
    x, lengths = torch.randn(6, 4, 3), None if full else torch.tensor([2, 6, 0, 5])

    def run(one: Any, seed: int) -> Tensor:
        torch.manual_seed(seed)
        found: Tensor = one(x, lengths=lengths)[0]
        return found

    assert not torch.allclose(run(module, 1), run(module, 2))
    torch.testing.assert_close(run(module, 1), run(plain, 1), rtol=1e-4, atol=1e-5)  # the same mask, at the same place
    torch.testing.assert_close(run(module.eval(), 1), run(module, 2), rtol=0, atol=0)
    torch.testing.assert_close(run(module, 1), run(plain.eval(), 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("full", [True, False])
def test_both_kinds_of_dropout_act_together(full: bool) -> None:
    """Of what enters the second layer, the locked mask takes whole columns, the other one single numbers."""
    torch.manual_seed(0)
    module = snn.Recurrent("gru", 3, 32, 2, dropout=0.5, locked_dropout=0.5, backend="reference").double()
    x, lengths = torch.randn(20, 3, 3, dtype=torch.float64), None if full else torch.full((3,), 20)
    seen: list[Tensor] = []
    cell: Any = module.cell_at(1)
    project = cell.project
    cell.project = lambda rows, prepared: seen.append(rows.detach().clone()) or project(rows, prepared)  # type: ignore[func-returns-value]
    module(x, lengths=lengths)
    module.eval()(x, lengths=lengths)
    dropped, whole = (part.reshape(20, 3, 32) for part in seen)
    check_both_masks(dropped / whole)


def check_both_masks(share: Tensor) -> None:
    """(T, B, H): 0, or 4 = 1 / (0.5 * 0.5); half of the columns are gone, and of the others half the numbers."""
    assert torch.allclose(share[share != 0], torch.tensor(4.0, dtype=share.dtype), rtol=1e-4)
    gone = (share == 0).all(0)
    assert 0.25 < gone.double().mean() < 0.75
    left = (share != 0).double().mean(0)[~gone]
    assert 0.4 < left.mean() < 0.6
    assert left.max() < 1


# --- compiled layers --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not AVAILABLE, reason="torch.library.custom_op needs torch 2.4")
@pytest.mark.parametrize(("kind", "options"), [("lstm", {"proj_size": 3}), ("gru", {})])
def test_unsorted_lengths_with_initial_states(kind: str, options: dict[str, Any]) -> None:
    """Compiled, eager, and each sequence alone: every sequence has its own state, whatever the order of lengths."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 4, 6, 2, bidirectional=True, batch_first=True, **options).double()
    x = torch.randn(5, 7, 4, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([2, 7, 0, 3, 5])
    states = [torch.randn(4, 5, size, dtype=torch.float64, requires_grad=True) for size in module.state_sizes]
    weights = torch.randn(5, 7, module.output_size, dtype=torch.float64)

    def results(run: Any) -> list[Tensor]:
        output, final = run(x, tuple(states), lengths=lengths)
        loss = (output * weights).sum() + sum((part * part).sum() for part in final)
        return [output, *final, *torch.autograd.grad(loss, [x, *states, *module.parameters()])]

    eager = results(module)
    for one, other in zip(results(torch.compile(module, fullgraph=True, backend="aot_eager")), eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for row, length in enumerate(lengths.tolist()):
        own = [part[:, row : row + 1] for part in states]
        if length == 0:
            finals = own
        else:
            output, finals = module(x[row : row + 1, :length], tuple(own))
            torch.testing.assert_close(eager[0][row, :length], output[0], rtol=1e-9, atol=1e-9)
        for one, other in zip(eager[1 : 1 + len(states)], finals, strict=True):
            torch.testing.assert_close(one[:, row], other[:, 0], rtol=1e-9, atol=1e-9)


# --- chains -----------------------------------------------------------------------------------------------------------

START, END = torch.tensor([True, False, False]), torch.tensor([False, True, False])


def enumerated(crf: CRF, emissions: Tensor, lengths: Tensor) -> Tensor:
    """Log partition of each sequence over the paths that begin and end where they may."""
    found = []
    for row, length in enumerate(lengths.tolist()):
        scores = []
        for path in itertools.product(range(3), repeat=length):
            if length and START[path[0]] and END[path[-1]]:
                steps = emissions[row, torch.arange(length), list(path)].sum()
                moves = sum(crf.transitions[one, other] for one, other in itertools.pairwise(path))
                scores.append(steps + moves + crf.start[path[0]] + crf.end[path[-1]])
        none = torch.tensor(0.0 if length == 0 else -torch.inf, dtype=torch.float64)
        found.append(torch.logsumexp(torch.stack(scores), 0) if scores else none)
    return torch.stack(found)


@pytest.mark.parametrize("scale", [1.0, 4000.0], ids=["probabilities", "logarithms"])
def test_empty_sequences_where_no_tag_may_both_begin_and_end(scale: float) -> None:
    torch.manual_seed(0)
    crf = CRF(3, allowed_start=START, allowed_end=END, dtype=torch.float64)
    for value in crf.parameters():
        torch.nn.init.normal_(value, std=scale)
    lengths = torch.tensor([0, 3, 0, 2, 4])
    emissions = (torch.randn(5, 4, 3, dtype=torch.float64) * scale).requires_grad_()
    road = crf_kernel.sum_paths(crf_kernel.time_first(emissions, lengths, *crf._scores(True)))
    assert type(road).__name__ == ("_Scaled" if scale == 1 else "_Logarithms")
    total, plain = crf.log_partition(emissions, lengths), enumerated(crf, emissions, lengths)
    torch.testing.assert_close(total, plain, rtol=1e-11, atol=1e-10)
    leaves = [emissions, *crf.parameters()]
    for one, other in zip(
        torch.autograd.grad(total.sum(), leaves), torch.autograd.grad(plain.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert not crf.marginals(emissions, lengths)[lengths == 0].any()
    tags, scores = crf.decode(emissions, lengths)
    assert not tags[lengths == 0].any()
    assert not scores[lengths == 0].any()
    assert crf(emissions, torch.zeros(5, 4, dtype=torch.int64), lengths)[lengths == 0].tolist() == [0, 0]
    assert crf.log_partition(emissions[:1, :1], torch.tensor([1])).item() == -torch.inf  # no way to be of length 1


def test_both_roads_of_a_chain_agree() -> None:
    """On scores at which neither loses anything, empty and short sequences and tags that cannot be reached included."""
    torch.manual_seed(0)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[:, 3] = False  # nothing leads there, and it may not begin
    crf = CRF(4, allowed=allowed, allowed_start=torch.arange(4) < 3, dtype=torch.float64)
    for value in crf.parameters():
        torch.nn.init.normal_(value)
    lengths, emissions = torch.tensor([5, 0, 1, 3]), torch.randn(4, 5, 4, dtype=torch.float64) * 5
    given = crf_kernel.time_first(emissions, lengths, *crf._scores(True))
    fast, slow = crf_kernel._Scaled.run(given), crf_kernel._Logarithms.run(given)
    assert fast.exact()
    assert isinstance(crf_kernel.sum_paths(given), crf_kernel._Scaled)
    torch.testing.assert_close(fast.log_partition, slow.log_partition, rtol=1e-12, atol=1e-12)
    weights = torch.randn(4, 1, dtype=torch.float64) * (lengths > 0).unsqueeze(1)
    for one, other in zip(fast.posterior(weights), slow.posterior(weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("place", ["first", "middle", "last", "padding"])
def test_a_chain_leaves_the_fast_road_where_a_reachable_tag_underflows(place: str) -> None:
    """What has underflowed may win in the end; what lies behind a sequence's end is not looked at."""
    crf = CRF(2, dtype=torch.float64)
    lengths, emissions = torch.tensor([3, 2]), torch.zeros(2, 3, 2, dtype=torch.float64)
    row, step = {"first": (0, 0), "middle": (1, 1), "last": (0, 2), "padding": (1, 2)}[place]
    emissions[row, step, 1] = -800.0
    with torch.no_grad():
        crf.end[1] = 1600.0
    found = crf_kernel.sum_paths(crf_kernel.time_first(emissions, lengths, *crf._scores(True)))
    assert isinstance(found, crf_kernel._Scaled if place == "padding" else crf_kernel._Logarithms)
    for one, length in enumerate(lengths.tolist()):
        scores = [
            sum(emissions[one, at, tag].item() for at, tag in enumerate(path)) + 1600.0 * path[-1]
            for path in itertools.product(range(2), repeat=length)
        ]
        expected = torch.logsumexp(torch.tensor(scores, dtype=torch.float64), 0)
        assert found.log_partition[one].item() == pytest.approx(expected.item(), rel=1e-12)
