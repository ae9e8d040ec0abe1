"""The short ways of one example give what the long ways give, bit for bit, and follow the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqkit.decoding.selection import best_continuations
from seqkit.nn import LSTM, RNN, AttentionalRecurrent
from seqkit.nn.aten_step import ONE_BIAS, OneBiasStep
from seqkit.nn.cells import CELLS
from seqkit.nn.direct import is_full


@pytest.mark.parametrize(("name", "options"), [("lstm", {}), ("rnn", {}), ("lstm", {"bias": False})])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_step_with_one_bias_is_the_cells_own(name: str, options: dict[str, Any], rows: int) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](19, 32, **options).eval()
    x, state = torch.randn(rows, 19), tuple(torch.randn(rows, 32) for _ in cell.state_names)
    with torch.no_grad():
        prepared = cell.prepare(cell.weights(), [rows])
        wanted, _ = cell.step(cell.project(x, prepared), state, prepared)
        mode = cell.single_mode()
        assert mode in ONE_BIAS
        output, found = OneBiasStep(mode, cell.weights())(x, state)
    assert output is found[0]
    assert all(map(torch.equal, wanted, found))


@torch.no_grad()
def test_a_search_that_starts_anew_takes_the_weights_of_then() -> None:
    torch.manual_seed(0)
    decoder = AttentionalRecurrent(6, 5, "lstm", 8, num_layers=2, attention="general").eval()
    memory = decoder.remember(torch.randn(1, 4, 5), torch.tensor([4]))
    inputs = torch.randn(1, 3, 6)
    for _ in range(2):
        wanted, _ = decoder(inputs, None, decoder.initial_state(1), memory)
        state, found = decoder.start(decoder.initial_state(1)), []
        for time in range(3):
            features, state, _ = decoder.step(inputs[:, time : time + 1], state, memory)
            found.append(features)
        torch.testing.assert_close(torch.cat(found, 1), wanted)
        for value in decoder.parameters():
            value.mul_(1.5)


@pytest.mark.parametrize("kind", [LSTM, RNN])
def test_full_lengths_change_nothing(kind: Any) -> None:
    torch.manual_seed(0)
    network = kind(5, 7, bidirectional=True, batch_first=True)
    x = torch.randn(2, 6, 5)
    output, state = network(x)
    again, same = network(x, lengths=torch.tensor([6, 6]))
    assert torch.equal(output, again)
    assert all(map(torch.equal, torch.utils._pytree.tree_leaves(state), torch.utils._pytree.tree_leaves(same)))
    assert is_full(torch.tensor([6, 6]), x, True)
    for lengths in (torch.tensor([6, 5]), torch.tensor([2, 2]), torch.tensor([6]), [6, 6], torch.tensor([6.0, 6.0])):
        assert not is_full(lengths, x, True)
    with pytest.raises(ValueError, match="lengths must lie between"):
        network(x, lengths=torch.tensor([6, 7]))


def test_the_best_of_one_hypothesis_is_the_first_of_a_sorted_list() -> None:
    torch.manual_seed(0)
    log_probs, sums = torch.randn(3, 1, 900).log_softmax(2), torch.randn(3, 1)
    log_probs[2] = -torch.inf
    scores, parents, tokens = best_continuations(log_probs, sums, 1)
    totals = (log_probs + sums.unsqueeze(2)).flatten(1)
    assert torch.equal(scores[:, 0], totals.max(1).values)
    assert tokens[:, 0].tolist() == [*totals[:2].argmax(1).tolist(), 0]
    assert not parents.any()
