"""ONNX Runtime's LSTM operator as outside judge: peepholes, coupled gates, lengths, both directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import seqkit.nn as snn

onnx = pytest.importorskip("onnx", reason="onnx is an extra of the tests")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra of the tests")


def blocks(weight, order):
    parts = weight.detach().chunk(len(order)) if weight is not None else []
    return torch.cat([parts[index] for index in order])


def operands(module, suffix):
    """W, R, B, P of one direction in ONNX's gate order i, o, f, c and peephole order i, o, f."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_ih, w_hh, b_ih, b_hh = (getattr(module, f"{name}_l0{suffix}").detach() for name in names)
    peep = getattr(module, f"weight_peephole_l0{suffix}", torch.zeros(0)).detach()
    if module.cell_at(0).coupled:
        # ONNX couples f = 1 - i, ours i = 1 - f: an input gate of negated pre-activation is the same.
        w_ih, w_hh, b_ih, b_hh = (torch.cat([-w.chunk(3)[0], w]) for w in (w_ih, w_hh, b_ih, b_hh))
        peep = torch.cat([-peep.chunk(2)[0], peep]) if peep.numel() else peep
    order = (0, 3, 1, 2)
    p = blocks(peep, (0, 2, 1)) if peep.numel() else torch.zeros(3 * module.hidden_size)
    return blocks(w_ih, order), blocks(w_hh, order), torch.cat([blocks(b_ih, order), blocks(b_hh, order)]), p


def run_onnx(module, x, lengths, h0, c0):
    directions = ["", "_reverse"] if module.bidirectional else [""]
    stacked = [torch.stack(parts) for parts in zip(*(operands(module, one) for one in directions), strict=True)]
    values = dict(zip(("W", "R", "B", "P"), stacked, strict=True)) | {"X": x, "h": h0, "c": c0}
    feeds = {name: value.detach().numpy() for name, value in values.items()}
    feeds["lens"] = np.asarray(lengths, np.int32)
    node = onnx.helper.make_node(
        "LSTM",
        ["X", "W", "R", "B", "lens", "h", "c", "P"],
        ["Y", "Yh", "Yc"],
        hidden_size=module.hidden_size,
        direction="bidirectional" if module.bidirectional else "forward",
        input_forget=int(module.cell_at(0).coupled),
    )
    kinds = {np.dtype("float32"): onnx.TensorProto.FLOAT, np.dtype("int32"): onnx.TensorProto.INT32}
    inputs = [onnx.helper.make_tensor_value_info(k, kinds[v.dtype], v.shape) for k, v in feeds.items()]
    outputs = [onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, None) for k in ("Y", "Yh", "Yc")]
    graph = onnx.helper.make_graph([node], "lstm", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, h, c = (torch.from_numpy(value) for value in session.run(None, feeds))
    return y.permute(0, 2, 1, 3).flatten(2), h, c  # (T, D, B, H) -> (T, B, D * H)


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("options", [{}, {"peephole": True}, {"coupled": True}, {"peephole": True, "coupled": True}])
def test_equals_onnxruntime(options, both, backend):
    torch.manual_seed(0)
    module = snn.LSTM(5, 6, bidirectional=both, backend=backend, **options)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.5)
    x, lengths = torch.randn(7, 4, 5), [7, 2, 5, 3]
    h0, c0 = torch.randn(2, 2 if both else 1, 4, 6)
    want = run_onnx(module, x, lengths, h0, c0)
    output, (h, c) = module(x, (h0, c0), lengths=lengths)
    for got, expected in zip((output, h, c), want, strict=True):
        assert (got - expected).abs().max() <= 2e-6
