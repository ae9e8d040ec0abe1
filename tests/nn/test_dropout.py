"""Dropout modules: what is dropped together, rates, scaling, evaluation and seeds."""

from __future__ import annotations

import pytest
import torch

from seqkit.nn import EmbeddingDropout, LockedDropout, Recurrent, WordDropout, embedding_dropout


@pytest.mark.parametrize("first", [True, False])
def test_locked_dropout_holds_its_mask_over_time(first):
    torch.manual_seed(0)
    module, x = LockedDropout(0.4, batch_first=first), torch.ones(40, 50, 60)
    out = module(x)
    steps = out.transpose(0, 1) if first else out
    assert torch.equal(steps, steps[:1].expand_as(steps))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert abs((out == 0).float().mean() - 0.4) < 0.05
    assert not torch.equal(steps[0, 0], steps[0, 1])
    assert module.eval()(x) is x
    with pytest.raises(ValueError, match="3D"):
        module(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"^p "):
        LockedDropout(1.5)


def test_embedding_dropout_drops_whole_types():
    torch.manual_seed(0)
    table = torch.nn.Embedding(500, 8, padding_idx=0)
    module = EmbeddingDropout(0.3)
    ids = torch.arange(500).repeat(2, 1)
    out = module(table, ids)
    assert torch.equal(out[0], out[1])
    dropped = out[0].eq(0).all(-1)[1:]
    assert abs(dropped.float().mean() - 0.3) < 0.06
    kept = ~dropped
    assert torch.allclose(out[0, 1:][kept], table.weight[1:][kept] / 0.7)
    out.sum().backward()
    assert table.weight.grad[1:][dropped].eq(0).all()
    assert table.weight.grad[0].eq(0).all()
    assert torch.equal(module.eval()(table, ids), table(ids))
    assert embedding_dropout(table.weight, 0.3, training=False) is table.weight


def test_word_dropout_spares_padding():
    torch.manual_seed(0)
    module, ids = WordDropout(0.25, unk_index=1, padding_index=0), torch.randint(2, 9, (100, 50))
    ids[:, 40:] = 0
    out = module(ids)
    assert out[:, 40:].eq(0).all()
    changed = out != ids
    assert out[changed].eq(1).all()
    assert abs(changed[:, :40].float().mean() - 0.25) < 0.03
    assert module.eval()(ids) is ids
    module.train()
    torch.manual_seed(7)
    one = module(ids)
    torch.manual_seed(7)
    assert torch.equal(one, module(ids))


@pytest.mark.parametrize(("name", "per_step"), [("recurrent_dropout", False), ("zoneout", True)])
def test_masks_of_cells(name, per_step):
    """Which mask is per step and which per sequence, and their rates."""
    torch.manual_seed(0)
    cell = Recurrent("lstm", 3, 400, **{name: 0.3}).cell_at(0)
    weights = {"weight_hh": torch.zeros(1600, 400)}
    prepared = cell.prepare(weights, [4, 4, 2])
    (mask,) = (prepared.step_masks if per_step else prepared.sequence_masks).values()
    assert not (prepared.sequence_masks if per_step else prepared.step_masks)
    assert mask.shape == ((10 if per_step else 4), 400)
    assert mask.unique().tolist() == pytest.approx([0.0, 1.0 if per_step else 1 / 0.7])
    hit = mask == (1.0 if per_step else 0.0)
    assert abs(hit.float().mean() - 0.3) < 0.05


def test_locked_dropout_between_layers():
    """One mask per sequence: a constant input to layer 1 stays constant over the steps of each sequence."""
    torch.manual_seed(0)
    module = Recurrent("rnn", 3, 50, 2, locked_dropout=0.5, nonlinearity="identity", bias=False)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(torch.eye(50)) if name == "weight_ih_l1" else weight.zero_()
        module.weight_ih_l0.fill_(1.0)
    out, _ = module(torch.ones(6, 4, 3), lengths=[6, 2, 4, 6])
    for b, length in enumerate([6, 2, 4, 6]):
        assert torch.equal(out[:length, b], out[:1, b].expand(length, -1))
        assert abs((out[0, b] == 0).float().mean() - 0.5) < 0.25
    assert not torch.equal(out[0, 0], out[0, 3])
