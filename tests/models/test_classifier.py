"""The classifier against a plain computation, one text at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seqkit.models import Embedding, Encoder, Poolings, SequenceClassifier
from seqkit.nn import CELLS, Recurrent


def build(cell: str = "lstm", backend: str = "auto", **options: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    recurrent = Recurrent(cell, 5, 6, 2, batch_first=True, bidirectional=True, backend=backend)  # type: ignore[arg-type]
    pooling = options.pop("pooling", ["last", "mean", "max", "attention"])
    return SequenceClassifier(Encoder(Embedding(9, 5), recurrent), 3, pooling=pooling, **options).double().eval()


def plain_pool(model: Any, output: Tensor, last: Tensor) -> Tensor:
    """One sequence (T, H), step by step."""
    parts = []
    for name in model.names:
        if name == "last":
            parts.append(last)
        elif name == "mean":
            parts.append(sum(output) / len(output))  # type: ignore[arg-type]
        elif name == "max":
            parts.append(torch.stack([max(column) for column in output.T]))
        else:
            scores = [model.score(torch.tanh(model.project(step))) for step in output]
            total = sum(score.exp() for score in scores)
            parts.append(sum(score.exp() / total * step for score, step in zip(scores, output, strict=True)))
    return torch.cat(parts)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_batch_equals_its_texts_one_by_one(cell: str, backend: str) -> None:
    model = build(cell, backend, hidden_size=4)
    lengths = [4, 1, 7, 3]
    ids = torch.zeros(4, 7, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(2, 9, (length,))
    logits = model(ids, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        output, state = model.encoder(ids[row : row + 1, :length], torch.tensor([length]))
        # The top layer's two directions end at the last and at the first step.
        last = torch.cat([output[0, -1, :6], output[0, 0, 6:]])
        torch.testing.assert_close(last, torch.cat(list(state[0][-2:, 0])))
        vector = plain_pool(model.pooling, output[0], last)
        expected = model.output(torch.tanh(model.hidden(vector)))
        torch.testing.assert_close(logits[row], expected, rtol=1e-10, atol=1e-12)


def test_an_empty_text_gives_finite_logits_and_gradients() -> None:
    model = build()
    logits = model(torch.tensor([[2, 3], [0, 0]]), torch.tensor([2, 0]))
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_every_cell_serves_and_learns(cell: str) -> None:
    model = build(cell).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    ids = torch.randint(2, 9, (16, 5))
    labels = ids[:, 0] % 3
    losses = []
    for _ in range(80):
        loss = torch.nn.functional.cross_entropy(model(ids, torch.full((16,), 5)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_embedding_padding_is_zero_and_frozen_has_no_gradient() -> None:
    table = Embedding(6, 3, frozen=True)
    assert not table.table.weight.requires_grad
    assert table(torch.tensor([[0, 2]]))[0, 0].eq(0).all()


def test_vectors_start_with_the_deviation_asked_for() -> None:
    torch.manual_seed(0)
    weight = Embedding(3000, 20, init_std=0.1).table.weight.detach()
    assert weight[1:].std().item() == pytest.approx(0.1, rel=0.02)
    assert weight[0].eq(0).all()


def test_word_dropout_gives_the_unknown_word_a_gradient() -> None:
    torch.manual_seed(0)
    table = Embedding(6, 3, word_dropout=0.5)
    table(torch.full((4, 50), 5)).sum().backward()
    grad = table.table.weight.grad
    assert grad is not None
    share = grad[1, 0] / (grad[1, 0] + grad[5, 0])
    assert 0.35 < share < 0.65
    table.eval()
    assert torch.equal(table(torch.tensor([[5]]))[0, 0], table.table.weight[5])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Poolings(3, []), "pooling"),
        (lambda: Poolings(3, ["median"]), "pooling"),
        (lambda: Embedding(3, 0), "size"),
        (lambda: Embedding(3, 2, init_std=0.0), "init_std"),
        (lambda: Embedding(3, 2, scale=0.0), "scale"),
        (lambda: build(hidden_size=-1), "hidden_size"),
    ],
)
def test_senseless_arguments_are_named(make: Any, word: str) -> None:
    with pytest.raises(ValueError, match=f"^{word}"):
        make()
