"""The tagger against a plain computation, one sentence at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seqkit.models import CharacterEncoder, Embedding, Encoder, Spelling, Tagger, WindowEncoder
from seqkit.nn import CELLS, Recurrent, iob2_allowed

TAGS = ["O", "B-a", "I-a"]


def build(cell: str = "lstm", *, characters: bool = True, intents: int = 2, window: int = 0, **options: Any) -> Tagger:
    torch.manual_seed(0)
    allowed, start = iob2_allowed(TAGS)
    letters = None
    if characters:
        reader = Recurrent(cell, 4, 3, 1, batch_first=True, bidirectional=True)
        letters = CharacterEncoder(Encoder(Embedding(12, 4), reader))
    extra = 6 if characters else 0
    encoder: Any
    if window:
        encoder = WindowEncoder(Embedding(9, 5), window, 7, extra_size=extra)
    else:
        encoder = Encoder(Embedding(9, 5), Recurrent(cell, 5 + extra, 6, 1, batch_first=True, bidirectional=True))
    tagger = Tagger(encoder, 3, intents, characters=letters, allowed=allowed, allowed_start=start, **options)
    return tagger.double().eval()


def batch() -> tuple[Tensor, Tensor, Spelling, Tensor]:
    """ids, lengths, spelling of five distinct words, tags."""
    torch.manual_seed(1)
    lengths = torch.tensor([4, 1, 6])
    ids = torch.randint(2, 9, (3, 6)) * (torch.arange(6) < lengths.unsqueeze(1))
    sizes = torch.tensor([3, 1, 5, 2, 4])
    letters = torch.randint(2, 12, (5, 5)) * (torch.arange(5) < sizes.unsqueeze(1))
    tags = torch.tensor([[0, 1, 2, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 2, 2, 1, 0, 0]])
    return ids, lengths, Spelling(letters, sizes, torch.randint(0, 5, (3, 6))), tags


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@torch.no_grad()
def test_a_batch_equals_its_sentences_one_by_one(cell: str) -> None:
    model = build(cell, intent_pooling=["last", "mean", "max"])
    ids, lengths, spelling, tags = batch()
    scores, intents = model(ids, lengths, spelling)
    assert intents is not None
    assert model.characters is not None
    total = 0.0
    for row, length in enumerate(lengths.tolist()):
        vectors = []
        for place in range(length):
            word = int(spelling.words[row, place])
            read = model.characters.encoder.embedding.table(spelling.ids[word : word + 1, : spelling.lengths[word]])
            output, _ = model.characters.encoder.recurrent(read)
            # Forwards the last letter is read last, backwards the first one.
            vectors.append(torch.cat([output[0, -1, :3], output[0, 0, 3:]]))
        inputs = torch.cat([model.encoder.embedding.table(ids[row, :length]), torch.stack(vectors)], 1)
        output, _ = model.encoder.recurrent(inputs[None])  # type: ignore[misc]
        torch.testing.assert_close(scores[row, :length], model.tag_scores(output[0]))
        last = torch.cat([output[0, -1, :6], output[0, 0, 6:]])
        pooled = torch.cat([last, output[0].mean(0), output[0].amax(0)])
        torch.testing.assert_close(intents[row], model.intent_scores(pooled))
        one = torch.tensor([length])
        total += float(model.crf(scores[row : row + 1, :length], tags[row : row + 1, :length], one))
    assert float(model.tag_loss(scores, tags, lengths)) == pytest.approx(total)


def test_a_softmax_scores_each_tag_for_itself_and_obeys_all_the_same() -> None:
    model = build(output="softmax")
    ids, lengths, spelling, tags = batch()
    with torch.no_grad():
        scores, _ = model(ids, lengths, spelling)
    plain = -sum(
        torch.log_softmax(scores[row, place], 0)[tags[row, place]].item()
        for row, length in enumerate(lengths.tolist())
        for place in range(length)
    )
    assert float(model.tag_loss(scores, tags, lengths)) == pytest.approx(plain, rel=1e-5)
    assert not any(value.requires_grad for value in model.crf.parameters())
    wish = torch.zeros(1, 3, 3)
    wish[0, :, 2] = 1.0  # I-a everywhere, but something must begin it
    assert model.decode(wish, torch.tensor([3])).tolist() == [[1, 2, 2]]
    wish[0, 0, 0] = 3.0
    assert model.decode(wish, torch.tensor([3])).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("window", [1, 3])
def test_a_window_sees_its_neighbours_only(window: int) -> None:
    model = build(window=window, intent_pooling=["mean"])
    ids, lengths, spelling, _ = batch()
    scores, _ = model(ids, lengths, spelling)
    other = ids.clone()
    other[2, 3] = ids[2, 3] % 7 + 2
    moved = model(other, lengths, spelling)[0] != scores
    reach = window // 2
    assert moved[2].any(1).tolist() == [abs(place - 3) <= reach for place in range(6)]
    assert not moved[:2].any()
    # The first sentence on its own, without padding, is the same.
    alone = Spelling(spelling.ids, spelling.lengths, spelling.words[:1, :4])
    torch.testing.assert_close(model(ids[:1, :4], lengths[:1], alone)[0][0], scores[0, :4])


@pytest.mark.parametrize("cell", sorted(CELLS))
@pytest.mark.parametrize("output", ["crf", "softmax"])
def test_every_cell_learns_from_words_and_letters(cell: str, output: str) -> None:
    """A word is in a slot if its first letter is odd; the intent is that of the first word."""
    model = build(cell, output=output).train()
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], 0.02)
    torch.manual_seed(2)
    ids, words = torch.randint(2, 9, (12, 4)), torch.randint(0, 5, (12, 4))
    letters = torch.tensor([[3, 4], [4, 9], [5, 2], [6, 8], [7, 7]])
    tags, intents = (letters[words][:, :, 0] % 2), ids[:, 0] % 2
    lengths, spelling = torch.full((12,), 4), Spelling(letters, torch.full((5,), 2), words)
    losses = []
    for _ in range(60):
        scores, classes = model(ids, lengths, spelling)
        assert classes is not None
        loss = model.tag_loss(scores, tags, lengths) / 48 + torch.nn.functional.cross_entropy(classes, intents)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert model.characters is not None
    assert all(value.grad is not None for value in model.characters.parameters())


def test_without_intents_and_letters() -> None:
    model = build(characters=False, intents=0)
    ids, lengths, _, _ = batch()
    scores, intents = model(ids, lengths)
    assert scores.shape == (3, 6, 3)
    assert intents is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "hmm"}, "output must be one of crf, softmax"),
        ({"output": "softmax", "constrain_loss": True}, "constrain_loss is for the output crf"),
        ({"window": 2}, "window must be odd"),
        ({"window": 3, "intent_pooling": ["last"]}, "intent_pooling: a window has no last state"),
        ({"intent_pooling": ["sum"]}, "pooling must be one of"),
    ],
)
def test_senseless_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
