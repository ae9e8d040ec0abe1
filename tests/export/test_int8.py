"""Weights in int8: what computes with integers stays close; what only stores them equals the module with these
weights."""

from __future__ import annotations

import logging
import warnings
from collections import Counter

import numpy as np
import pytest
import torch

import seqkit.nn as snn
from seqkit.errors import UserError
from seqkit.export.int8 import quantise
from seqkit.nn.onnx import MIN_TORCH, TORCH

onnx = pytest.importorskip("onnx", reason="onnx is an extra of the tests")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra of the tests")
pytest.importorskip("onnxscript", reason="onnxscript is an extra of the tests")
pytestmark = [
    pytest.mark.skipif(TORCH < MIN_TORCH, reason=f"exporting needs {MIN_TORCH}"),
    pytest.mark.usefixtures("operators_once"),
]
SIZE, WORDS = 80, 600


class Reader(torch.nn.Module):
    """An embedding, recurrent layers beside each other, and scores by the embedding's weights where they are tied."""

    def __init__(self, *layers, tied):
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS, SIZE)
        self.layers = torch.nn.ModuleList(
            snn.Recurrent(cell, SIZE, SIZE, batch_first=True, **options) for cell, options in layers
        )
        self.scores = torch.nn.Linear(SIZE, WORDS)
        for weight in self.parameters():
            torch.nn.init.normal_(weight, 0.0, 0.1)
        if tied:
            self.scores.weight = self.embedding.weight

    def forward(self, ids, lengths):
        x = self.embedding(ids)
        outputs = [layer(x, lengths=lengths)[0] for layer in self.layers]
        return (*outputs, self.scores(outputs[0][..., :SIZE]))


def write(model, path, *, external=False):
    free = torch.export.Dim.DYNAMIC
    given = (torch.randint(WORDS, (3, 5)), torch.tensor([5, 2, 0]))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.onnx.export(
            model, given, dynamo=True, verbose=False, dynamic_shapes=({0: free, 1: free}, {0: free})
        )
    program.save(str(path), external_data=external)


def results(path, ids, lengths):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = dict(zip([value.name for value in session.get_inputs()], (ids.numpy(), lengths.numpy()), strict=True))
    return session.run(None, feeds)


def batches():
    for steps, rows in ((1, 1), (9, 4), (30, 7)):
        yield torch.randint(WORDS, (rows, steps)), torch.randint(0, steps + 1, (rows,))


def floats_left(path):
    """Large weights in float32."""
    graph = onnx.load(str(path)).graph
    return [value.name for value in graph.initializer if value.data_type == 1 and np.prod(value.dims) >= SIZE * SIZE]


LSTMS = [("lstm", {}), ("lstm", {"coupled": True, "peephole": True})]
OTHERS = [("gru", {}), ("rnn", {}), ("lstm", {"layer_norm": True}), ("jordan", {})]


def test_lstm_and_products_compute_in_integers(tmp_path, caplog):
    torch.manual_seed(0)
    model = Reader(*LSTMS, tied=True).eval()
    write(model, tmp_path / "model.onnx")
    with caplog.at_level(logging.WARNING):
        caplog.clear()  # of torch's words
        done = quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert not caplog.records
    assert done.before == (tmp_path / "model.onnx").stat().st_size
    assert done.after == (tmp_path / "int8.onnx").stat().st_size <= 0.35 * done.before
    assert done.computed == {"LSTM": 2, "matrix product": 1}
    assert done.stored == {"Gather": 1}
    assert "computed in int8: 2 LSTM, 1 matrix product; stored in int8" in str(done)
    assert not floats_left(tmp_path / "int8.onnx")
    kinds = Counter(node.op_type for node in onnx.load(str(tmp_path / "int8.onnx")).graph.node)
    assert (kinds["DynamicQuantizeLSTM"], kinds["LSTM"], kinds["MatMulInteger"]) == (2, 0, 1)
    for ids, lengths in batches():
        with torch.no_grad():
            wanted = model(ids, lengths)
        for one, other in zip(results(tmp_path / "int8.onnx", ids, lengths), wanted, strict=True):
            assert np.abs(one - other.numpy()).std() <= 0.02 * max(other.std(), 0.1)


def rounded(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return torch.round(weight / scale) * scale


def test_others_compute_in_float32_with_rounded_weights(tmp_path):
    torch.manual_seed(0)
    model = Reader(*OTHERS, tied=False).eval()
    write(model, tmp_path / "model.onnx", external=True)
    done = quantise(tmp_path / "model.onnx", tmp_path / "model.onnx")
    assert done.after <= 0.35 * done.before
    # The input of a Scan is projected before it, by a product.
    assert done.computed == {"matrix product": 3}
    assert done.stored == {"Gather": 1, "GRU": 1, "RNN": 1, "Scan": 2}
    assert not floats_left(tmp_path / "model.onnx")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and not name.startswith("scores"):
                weight.copy_(rounded(weight))
    for ids, lengths in batches():
        found = results(tmp_path / "model.onnx", ids, lengths)
        with torch.no_grad():
            wanted = model(ids, lengths)
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if place < 2:  # GRU and RNN: no product in integers on the way
                np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-5)
            else:
                assert np.abs(one - other.numpy()).std() <= 0.02 * max(other.std(), 0.1)


def test_small_weights_stay(tmp_path):
    weights = {"W": torch.randn(1, 12, 4), "R": torch.randn(1, 12, 4)}
    node = onnx.helper.make_node("GRU", ["X", *weights], ["Y"], hidden_size=4)
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "gru",
        [onnx.helper.make_tensor_value_info("X", float32, ["T", "B", 4])],
        [onnx.helper.make_tensor_value_info("Y", float32, ["T", 1, "B", 4])],
        [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(tmp_path / "model.onnx"))
    done = quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert (done.computed, done.stored) == ({}, {})
    assert str(done).endswith("none")


@pytest.mark.parametrize(("shape", "axis"), [((64, 4, 16), 0), ((64, 32), 0), ((64, 32), 1), ((1, 64, 32), 0)])
def test_a_look_up_in_a_weight_of_any_shape(tmp_path, shape, axis):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kinds = onnx.TensorProto
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["W", "ids"], ["Y"], axis=axis)],
        "look_up",
        [onnx.helper.make_tensor_value_info("ids", kinds.INT64, ["n"])],
        [onnx.helper.make_tensor_value_info("Y", kinds.FLOAT, None), onnx.helper.make_tensor_value_info("W", 1, shape)],
        [onnx.numpy_helper.from_array(weight, "W")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(tmp_path / "model.onnx"))
    assert quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx").stored == {"Gather": 1}
    ids = np.array([0, shape[axis] - 1, 0])
    session = ort.InferenceSession(str(tmp_path / "int8.onnx"), providers=["CPUExecutionProvider"])
    for found, wanted in zip(session.run(None, {"ids": ids}), (weight.take(ids, axis), weight), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=np.abs(weight).max() / 254 + 1e-6)


def test_a_graph_that_is_too_large_is_refused(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"x" * 8)
    (tmp_path / "model.onnx.data").write_bytes(b"x" * 8)
    monkeypatch.setattr("seqkit.export.int8._LARGEST", 16)
    with pytest.raises(UserError, match=r"model\.onnx: 16 bytes; int8 takes graphs of less than 16"):
        quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx")


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UserError, match=r"this needs onnx: pip install onnx, or pip install '\.\[export\]'"):
        quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx")
