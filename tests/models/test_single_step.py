"""A decoder's step on many rows: the joined and packed weights of `SingleStep`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from seqkit.models import Decoder, Embedding, Encoder, Seq2Seq
from seqkit.nn import AttentionalRecurrent, Recurrent
from seqkit.nn.kernels.decode_step import SingleStep
from seqkit.nn.kernels.tuning import MIN_DECODE_ROWS


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("cell", "options"), [("lstm", {}), ("gru", {}), ("rnn", {}), ("rnn", {"nonlinearity": "relu"})]
)
def test_equals_the_cells_own_step(cell: str, options: dict[str, Any], bias: bool) -> None:
    torch.manual_seed(1)
    layer = Recurrent(cell, 5, 4, bias=bias, **options).double().eval()
    x = torch.randn(7, 5, dtype=torch.float64)
    state = tuple(torch.randn(7, 4, dtype=torch.float64) for _ in layer.state_sizes)
    one = layer.cell_at(0)
    with torch.no_grad():
        prepared = layer.prepare(0, x, [7])
        expected, _ = one.step(one.project(x, prepared), state, prepared)
        output, found = SingleStep(one, prepared.weights)(x, state)
    assert torch.equal(output, found[0])
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).abs().max() < 1e-12


@pytest.mark.parametrize("options", [{"peephole": True}, {"layer_norm": True}, {"proj_size": 2}, {"zoneout": 0.1}])
def test_variants_are_left_to_their_scan(options: dict[str, Any]) -> None:
    assert not SingleStep.serves(Recurrent("lstm", 5, 4, **options).eval().cell_at(0))


def _many_rows(model: Seq2Seq, source: torch.Tensor) -> torch.Tensor:
    """Logits of one step for as many hypotheses as make the packed weights worth while."""
    with torch.no_grad():
        state, memory = model.encode(source, torch.tensor([3, 2]))
        layers = tuple(tuple(part.expand(-1, MIN_DECODE_ROWS, -1) for part in layer) for layer in state[0])
        return model.step(torch.full((2, MIN_DECODE_ROWS), 2), (layers, None), memory)[0]


def test_a_search_sees_new_weights_and_a_model_that_has_searched_can_be_copied() -> None:
    torch.manual_seed(1)
    encoder = Encoder(Embedding(9, 4), Recurrent("lstm", 4, 3, batch_first=True))
    model = Seq2Seq(encoder, Decoder(Embedding(9, 4), 3, "lstm", 4, 2), "linear").double().eval()
    source = torch.tensor([[4, 5, 6], [7, 8, 0]])
    before = _many_rows(model, source)
    assert torch.equal(_many_rows(copy.deepcopy(model), source), before)
    with torch.no_grad():
        for parameter in model.decoder.lower.parameters():
            parameter.mul_(2)
        features = model(source, torch.tensor([3, 2]), torch.full((2, 1), 2), torch.tensor([1, 1]))
        expected = model.decoder.output(features)
    after = _many_rows(model, source)
    assert (after - before).abs().max() > 1e-3
    assert (after - expected).abs().max() < 1e-12


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_decoder_whose_weights_are_packed_can_be_copied(copied: Any) -> None:
    """Only large float32 weights are packed, into tensors that can neither be copied nor pickled."""
    torch.manual_seed(1)
    decoder = AttentionalRecurrent(64, 128, "gru", 128).eval()
    x = torch.randn(1, MIN_DECODE_ROWS, 64)
    with torch.no_grad():
        memory = decoder.remember(torch.randn(1, 3, 128), [3])
        (layer,), _ = decoder.start(decoder.initial_state(1))
        state = (tuple(part.expand(-1, MIN_DECODE_ROWS, -1) for part in layer),), None
        expected = decoder.step(x, state, memory)[0]
        assert decoder._single
        assert torch.equal(copied(decoder).step(x, state, memory)[0], expected)
