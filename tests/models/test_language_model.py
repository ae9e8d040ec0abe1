"""The language model against torch.nn and plain loops: scores, losses, steps, tying, the adaptive softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from seqkit.decoding import Search
from seqkit.models import Embedding, Encoder, LanguageModel
from seqkit.nn import CELLS, Recurrent

V = 11


def make(cell: str = "lstm", size: int = 6, hidden_size: int = 6, layers: int = 1, **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    encoder = Encoder(Embedding(V, size), Recurrent(cell, size, hidden_size, layers, batch_first=True))
    return LanguageModel(encoder, **options).double()


def test_it_is_torchs_lstm_under_a_softmax() -> None:
    model = make(layers=2, tie=False, hidden_size=8)
    ids, targets = torch.randint(V, (2, 3, 7))
    lstm = nn.LSTM(6, 8, 2, batch_first=True).double()
    lstm.load_state_dict(model.encoder.recurrent.state_dict())
    output, _ = lstm(model.encoder.embedding.table(ids))
    logits = output @ model.token_scores.weight.T + model.token_scores.bias
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(model.loss(model(ids).features, targets), expected)
    found = model.token_log_probs(model(ids).features, targets)
    torch.testing.assert_close(found.double(), logits.log_softmax(2).gather(2, targets.unsqueeze(2)).squeeze(2))


@pytest.mark.parametrize("hidden_size", [6, 9])
def test_tied_weights_are_one_tensor(hidden_size: int) -> None:
    model = make(hidden_size=hidden_size)
    assert model.token_scores.weight is model.encoder.embedding.table.weight
    assert (model.vector is None) == (hidden_size == 6)
    ids = torch.randint(V, (2, 4))
    read = model(ids)
    before = read.output if model.vector is None else read.output @ model.vector.weight.T + model.vector.bias
    expected = before @ model.encoder.embedding.table.weight.T + model.token_scores.bias
    torch.testing.assert_close(model.scores(read.features), expected)


def test_output_dropout_is_one_mask_for_all_steps() -> None:
    model = make(tie=False, output_dropout=0.5)
    read = model(torch.randint(V, (4, 5)))
    kept = read.dropped != 0
    assert not kept.all()
    assert (kept == kept[:, :1]).all()
    torch.testing.assert_close(read.dropped, read.output * kept * 2)
    assert read.features is read.dropped


@pytest.mark.parametrize("cell", CELLS)
def test_reading_on_and_single_steps_equal_one_pass(cell: str) -> None:
    model = make(cell, layers=2, tie=False, hidden_size=5).eval()
    ids = torch.randint(V, (3, 8))
    whole = model(ids)
    first = model(ids[:, :3])
    second = model(ids[:, 3:], first.state)
    torch.testing.assert_close(torch.cat([first.features, second.features], 1), whole.features)
    state, rows = None, []
    for step in range(8):
        scores, state, _ = model.step(ids[:, step : step + 1].expand(3, 2), state, None)
        rows.append(scores)
    for hypothesis in range(2):
        found = torch.stack([scores[:, hypothesis] for scores in rows], 1)
        torch.testing.assert_close(found, model.scores(whole.features))


def test_lengths_make_no_difference_to_what_is_read() -> None:
    model = make().eval()
    ids = torch.randint(V, (2, 6))
    found = model(ids, lengths=torch.tensor([6, 4])).features
    torch.testing.assert_close(found[1, :4], model(ids).features[1, :4])


def test_samples_have_the_models_frequencies() -> None:
    model = make(tie=False).eval()
    found = Search(sample=True, max_length=1)(
        model.step, None, None, source_lengths=torch.ones(20_000, dtype=torch.int64), forbidden=(), seeds=range(20_000)
    )
    counts = torch.zeros(V)
    for (hypothesis,) in found:
        counts[hypothesis.tokens[0] if hypothesis.tokens else 3] += 1
    expected = model.scores(model(torch.tensor([[2]])).features)[0, 0].softmax(0)
    torch.testing.assert_close(counts.double() / 20_000, expected, atol=0.012, rtol=0)


def test_adaptive_softmax_is_a_distribution_and_its_own_loss() -> None:
    model = make(tie=False, adaptive_cutoffs=[3, 7], adaptive_div=2.0, output_bias=False)
    assert model.adaptive is not None
    assert model.adaptive.head.bias is None
    ids, targets = torch.randint(V, (2, 3, 5))
    features = model(ids).features
    scores = model.scores(features)
    torch.testing.assert_close(scores.exp().sum(2), torch.ones(3, 5).double())
    picked = scores.gather(2, targets.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(model.loss(features, targets), -picked.sum())
    torch.testing.assert_close(model.token_log_probs(features, targets).double(), picked)
    # Grave et al. 2017, eq. 1-2, for one rare token: its cluster's probability times its own within the cluster.
    row = features[0, 0]
    head = torch.log_softmax(model.adaptive.head.weight @ row, 0)
    down, up = (layer.weight for layer in model.adaptive.tail[1])
    within = torch.log_softmax(up @ (down @ row), 0)
    torch.testing.assert_close(scores[0, 0, 8], head[3 + 1] + within[8 - 7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptive_cutoffs": [3]}, "adaptive_cutoffs: .* set tie to false"),
        ({"adaptive_cutoffs": [3, 3], "tie": False}, "adaptive_cutoffs must rise"),
        ({"adaptive_cutoffs": [V], "tie": False}, "between 1 and 10"),
        ({"adaptive_cutoffs": [3], "tie": False, "adaptive_div": 0.0}, "adaptive_div must be positive"),
        ({"adaptive_cutoffs": [3, 5], "tie": False}, r"adaptive_div: the last of 2 clusters would have 6 / 4\^2"),
        ({"output_dropout": 1.5}, "p must"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_two_directions_and_steps_in_training_are_refused() -> None:
    both = Recurrent("gru", 4, 4, bidirectional=True, batch_first=True)
    with pytest.raises(ValueError, match="must not be bidirectional"):
        LanguageModel(Encoder(Embedding(V, 4), both))
    with pytest.raises(RuntimeError, match="evaluation only"):
        make().step(torch.zeros(1, 1, dtype=torch.int64), None, None)
