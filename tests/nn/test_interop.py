"""torch's own tools on our modules: torch.fx, loading whole models, exported programs in a new process."""

from __future__ import annotations

import io

import pytest
import torch

import seqkit.models as models
import seqkit.nn as snn


class Uses(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.core = snn.LSTM(3, 4, bidirectional=True, batch_first=True, peephole=True)
        self.attention = snn.make_attention("bahdanau", 8, 8)
        self.crf = snn.CRF(8, allowed_start=torch.tensor([True] * 7 + [False]))
        self.drop = snn.LockedDropout(0.1)

    def forward(self, x, lengths, padding):
        output, _ = self.core(x, lengths=lengths)
        context, _ = self.attention(output, *self.attention.project(output), padding)
        return self.crf.log_partition(self.drop(context) + output, lengths)


def given():
    lengths = torch.tensor([5, 2])
    return torch.randn(2, 5, 3), lengths, torch.arange(5) >= lengths.unsqueeze(1)


def test_fx_keeps_our_modules_whole():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.core, self.drop = snn.GRU(3, 4, batch_first=True), snn.LockedDropout(0.1)
            self.cell, self.head = snn.LSTMCell(4, 5), torch.nn.Linear(5, 2)

        def forward(self, x, lengths):
            output, state = self.core(x, lengths=lengths)
            h, _ = self.cell(self.drop(output).mean(1) + state[0])
            return self.head(h)

    model = Model().eval()
    traced = torch.fx.GraphModule(model, snn.LeafTracer().trace(model))
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["core", "drop", "cell", "head"]
    for rows, steps in ((2, 5), (3, 7)):
        x, lengths = torch.randn(rows, steps, 3), torch.randint(0, steps + 1, (rows,))
        torch.testing.assert_close(traced(x, lengths), model(x, lengths))


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="torch before 2.5 has no list to extend")
def test_whole_models_load_with_weights_only():
    recurrent = snn.Recurrent("gru", 4, 4, batch_first=True)
    embedding = models.Embedding(9, 4)
    encoder = models.Encoder(embedding, recurrent)
    cases = [
        Uses(),
        snn.Recurrent("jordan", 3, 4, 2, bidirectional=True),
        models.SequenceClassifier(encoder, 3, pooling=("attention",), hidden_size=3),
        models.Tagger(models.WindowEncoder(embedding, 3), 3, 2),
        models.LanguageModel(encoder, tie=False, adaptive_cutoffs=[3]),
        models.Seq2Seq(encoder, models.Decoder(embedding, 4, "gru", 4, num_layers=2, input_feeding=True), "mean"),
    ]
    for model in cases:
        written = io.BytesIO()
        torch.save(model, written)
        written.seek(0)
        with torch.serialization.safe_globals([Uses, *snn.safe_globals()]):
            found = torch.load(written, weights_only=True)
        assert type(found) is type(model)
        for one, other in zip(found.parameters(), model.parameters(), strict=True):
            assert torch.equal(one, other)
    same = given()
    model, found = cases[0].eval(), io.BytesIO()
    torch.save(model, found)
    found.seek(0)
    with torch.serialization.safe_globals([Uses, *snn.safe_globals()]):
        assert torch.equal(torch.load(found, weights_only=True)(*same), model(*same))


def test_safe_globals_leave_out_what_an_exporter_left_behind():
    left = type("Recurrent", (snn.Recurrent,), {"__module__": snn.Recurrent.__module__})
    listed = snn.safe_globals()
    assert snn.Recurrent in listed
    assert left not in listed
