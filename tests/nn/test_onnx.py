"""ONNX Runtime as outside judge: its LSTM operator on our weights, and what `torch.onnx.export` makes of modules."""

from __future__ import annotations

import importlib
import io
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import seqkit.models as models
import seqkit.nn as snn
from seqkit.nn.kernels.gemm import onednn
from seqkit.nn.linear import Linear
from seqkit.nn.onnx import MIN_TORCH, TORCH, check_exportable

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


@pytest.fixture(scope="module")
def exporter(operators_once):
    pytest.importorskip("onnxscript", reason="onnxscript is an extra of the tests")
    if TORCH < MIN_TORCH:
        pytest.skip(f"exporting needs torch {MIN_TORCH}")


def leaves(value):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if leaf is not None]


class Calls(torch.nn.Module):
    """A module with a function of it as `forward`, whose tensors come out in one list."""

    def __init__(self, inner, function):
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, *given):
        return leaves(self.function(self.inner, *given))


def export(module, *given, opened=(), dynamo=True):
    """The graph as bytes, and how many nodes of each kind it has; `opened`: the axes of each input that stay open."""
    shapes = (tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in opened),) if opened else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.onnx.export(
            module, given, None if dynamo else io.BytesIO(), dynamo=dynamo, verbose=False, dynamic_shapes=shapes
        )
    kinds = Counter(node.op_type for node in program.model_proto.graph.node)
    return program.model_proto.SerializeToString(), {kind: kinds[kind] for kind in ("LSTM", "GRU", "RNN", "Scan")}


def assert_same(graph, module, batches, bound=1e-5):
    """Through ONNX Runtime and through torch the same comes out of every batch."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names, declared = [value.name for value in session.get_inputs()], [value.shape for value in session.get_outputs()]
    for batch in batches:
        found = session.run(None, dict(zip(names, (part.numpy() for part in batch), strict=True)))
        for shape, one in zip(declared, found, strict=True):
            fixed = [size if isinstance(size, int) else real for size, real in zip(shape, one.shape, strict=True)]
            assert fixed == list(one.shape)
        with torch.no_grad():
            wanted = module(*batch)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=bound)


def normal_weights(module, scale):
    for weight in module.parameters():
        torch.nn.init.normal_(weight, 0.0, scale)


class Own(snn.Cell):
    """With submodules, and a state of two parts of which one passes through."""

    state_names = ("h", "kept")

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.inputs, self.norm = torch.nn.Linear(input_size, hidden_size), torch.nn.LayerNorm(hidden_size)
        self.back = torch.nn.Linear(hidden_size, hidden_size)

    def project(self, x, prepared):
        return self.inputs(x)

    def step(self, projected, state, prepared):
        h = torch.tanh(projected + self.norm(self.back(state[0])) + state[1])
        return (h, state[1]), {}


VARIANTS = {
    "layer_norm": True,
    "cell_clip": 0.5,
    "peephole": True,
    "proj_size": 3,
    "zoneout": 0.2,
    "zoneout_cell": 0.3,
}
# Cell, options, whether initial states are given, whether lengths are, and the nodes.
COMBINATIONS = [
    ("lstm", {"bidirectional": True, "num_layers": 2}, True, True, {"LSTM": 4}),
    ("lstm", {"peephole": True, "batch_first": True}, True, True, {"LSTM": 1}),
    ("lstm", {"peephole": True, "coupled": True, "bidirectional": True}, True, True, {"LSTM": 2}),
    ("lstm", {"cell_activation": "sigmoid", "output_activation": "identity", "bias": False}, True, True, {"LSTM": 1}),
    ("lstm", {"num_layers": 2, "residual": True, "learn_initial_state": True}, False, True, {"LSTM": 2}),
    ("gru", {"bidirectional": True}, True, True, {"GRU": 2}),
    ("gru", {"bias": False, "backend": "reference"}, False, False, {"GRU": 1}),
    ("rnn", {"bidirectional": True}, True, True, {"RNN": 2}),
    ("rnn", {"nonlinearity": "identity"}, True, True, {"RNN": 1}),
    ("rnn", {"nonlinearity": "relu", "bias": False}, True, True, {"RNN": 1}),
    ("lstm", {**VARIANTS, "bidirectional": True}, True, True, {"Scan": 2}),
    ("gru", {"layer_norm": True}, True, False, {"Scan": 1}),
    (Own, {}, True, True, {"Scan": 1}),
]


def call_all(modules, x, lengths, h, c):
    for module, (_, _, with_state, with_lengths, _) in zip(modules, COMBINATIONS, strict=True):
        sizes = module.state_sizes
        states = tuple(part[: len(module.cells), :, :size] for part, size in zip((h, c), sizes, strict=False))
        yield module(
            x.transpose(0, 1) if module.batch_first else x,
            states if with_state else None,
            lengths=lengths if with_lengths else None,
        )


def ragged(steps, rows):
    return torch.randn(steps, rows, 5), torch.randint(0, steps + 1, (rows,)), *torch.randn(2, 4, rows, 4)


def test_export_of_modules(exporter):
    """All in one graph, since most of an export's time is the exporter's own."""
    torch.manual_seed(0)
    modules = torch.nn.ModuleList(snn.Recurrent(kind, 5, 4, **options) for kind, options, *_ in COMBINATIONS)
    normal_weights(modules, 0.4)
    module = Calls(modules, lambda inner, *given: list(call_all(inner, *given))).eval()
    graph, kinds = export(module, *ragged(4, 3), opened=[(0, 1), (0,), (1,), (1,)])
    assert kinds == sum((Counter(nodes) for *_, nodes in COMBINATIONS), Counter())
    batches = [ragged(int(torch.randint(1, 12, ())), int(torch.randint(1, 6, ()))) for _ in range(50)]
    x, _, *states = ragged(3, 2)
    assert_same(graph, module, [*batches, (x, torch.zeros(2, dtype=torch.long), *states)])


def test_export_in_float64(exporter, monkeypatch):
    """ONNX Runtime's own nodes lack it; and a loop is written without torch's compiler and without its derivative."""
    torch.manual_seed(0)
    scan = importlib.import_module("torch._higher_order_ops.scan")
    for where, name in ((torch, "compile"), (scan.ScanAutogradOp, "apply")):
        monkeypatch.setattr(where, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    gru = snn.GRU(5, 4, dtype=torch.float64, bidirectional=True)
    module = Calls(gru, lambda inner, x, lengths: inner(x, lengths=lengths)).eval()

    def batch(steps, rows):
        return torch.randn(steps, rows, 5, dtype=torch.float64), torch.randint(0, steps + 1, (rows,))

    graph, kinds = export(module, *batch(1, 2), opened=[(0, 1), (0,)])  # one step, and still any number
    assert kinds["Scan"] == 2
    assert_same(graph, module, [batch(3, 4), batch(1, 1)], 1e-14)


@pytest.mark.parametrize(("rows", "warned"), [(1, 1), (2, 0)])
def test_an_example_of_one_row_is_warned_of(exporter, rows, warned):
    gru = Calls(snn.GRU(2, 2, dtype=torch.float64), lambda inner, x: inner(x)).eval()
    free = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        given = (torch.randn(3, rows, 2, dtype=torch.float64),)
        torch.onnx.export(gru, given, dynamo=True, verbose=False, dynamic_shapes=(({0: free, 1: free},),))
    assert sum("may fix the batch size; give two" in str(one.message) for one in caught) == warned


def test_export_of_a_decoders_step(exporter):
    torch.manual_seed(0)
    # So many features that tanh would look at its values.
    options = {"num_layers": 2, "attention": "general", "input_feeding": True, "feature_size": 300}
    decoder = snn.AttentionalRecurrent(5, 6, "lstm", 4, **options).eval()

    def step(inner, x, h, c, fed, memory, lengths):
        layers = tuple((h[:, :, number], c[:, :, number]) for number in range(2))
        return inner.step(x, (layers, fed), inner.remember(memory, lengths))

    def batch(rows, hypotheses, steps):
        states = torch.randn(2, rows, hypotheses, 2, 4)
        fed, lengths = torch.randn(rows, hypotheses, 300), torch.randint(0, steps + 1, (rows,))
        return torch.randn(rows, hypotheses, 5), *states, fed, torch.randn(rows, steps, 6), lengths

    module = Calls(decoder, step).eval()
    graph, kinds = export(module, *batch(3, 2, 4), opened=[(0, 1)] * 5 + [(0,)])
    assert kinds == {"LSTM": 2, "GRU": 0, "RNN": 0, "Scan": 0}
    assert_same(graph, module, [batch(1, 5, 1), batch(4, 1, 7), batch(2, 3, 2)])


def test_export_of_loops(exporter):
    """Viterbi's algorithm, forward and back, and a decoder with input feeding: nothing is unrolled."""
    torch.manual_seed(0)
    crf = snn.CRF(5, allowed_start=torch.tensor([True, True, False, True, True]))
    torch.nn.init.normal_(crf.transitions)
    decoder = snn.AttentionalRecurrent(5, 5, "lstm", 4, input_feeding=True, output="deep")

    def run(inner, x, lengths, memory, source_lengths):
        crf, decoder = inner
        state = decoder.initial_state(x.size(0))  # len(x) would be fixed
        fed = decoder(x, lengths, state, decoder.remember(memory, source_lengths))
        return crf.decode(x, lengths), fed

    def batch(rows, steps, source):
        lengths = torch.randint(0, steps + 1, (rows,)), torch.randint(0, source + 1, (rows,))
        return torch.randn(rows, steps, 5) * 3, lengths[0], torch.randn(rows, source, 5), lengths[1]

    module = Calls(torch.nn.ModuleList([crf, decoder]), run).eval()
    graph, kinds = export(module, *batch(3, 4, 5), opened=[(0, 1), (0,), (0, 1), (0,)])
    assert kinds == {"LSTM": 0, "GRU": 0, "RNN": 0, "Scan": 3}
    assert_same(graph, module, [batch(1, 1, 2), batch(4, 9, 1), batch(2, 3, 6)])


def test_export_of_a_crf(exporter):
    """The sums of CRFs for any number of steps, with lengths and for sequences that all are as long as the batch."""
    torch.manual_seed(0)
    starts, ends = torch.tensor([True, True, False]), torch.tensor([False, False, True])
    crfs = [snn.CRF(3, allowed_start=starts), snn.CRF(3, allowed_start=starts, allowed_end=ends)]
    for weight in torch.nn.ModuleList(crfs).parameters():
        torch.nn.init.normal_(weight)

    def run(inner, x, tags, lengths):
        loose, strict = inner
        full = torch.full_like(lengths, x.size(1))
        return loose(x, tags, lengths), strict.log_partition(x, full), strict.marginals(x, lengths)

    def batch(rows, steps):
        return torch.randn(rows, steps, 3) * 300, torch.randint(3, (rows, steps)), torch.arange(rows) % (steps + 1)

    module = Calls(torch.nn.ModuleList(crfs), run).eval()
    graph, kinds = export(module, *batch(3, 1), opened=[(0, 1), (0, 1), (0,)])  # one step, and still any number
    assert kinds["Scan"] == 4
    short = batch(5, 1)
    wanted = module(*short)  # no path of the second CRF has length 1
    assert (wanted[1] == -torch.inf).all()
    assert wanted[2][1].isnan().all()
    assert_same(graph, module, [short, batch(1, 1), batch(4, 11), batch(2, 3)], 1e-9)


def test_export_of_models(exporter):
    """Embedding, character encoder, every pooling, scores for a CRF."""
    torch.manual_seed(0)

    def encoder(size):
        return models.Encoder(models.Embedding(9, 5), snn.LSTM(size, 4, bidirectional=True, batch_first=True))

    words = models.CharacterEncoder(encoder(5))
    pooling = tuple(models.POOLINGS)
    inner = models.Tagger(encoder(13), 3, 2, characters=words, intent_pooling=pooling).eval()
    module = Calls(inner, lambda tagger, ids, lengths, *spelling: tagger(ids, lengths, models.Spelling(*spelling)))

    def batch(rows, steps):
        ids, lengths = torch.randint(9, (rows, steps)), torch.randint(0, steps + 1, (rows,))
        spelled, places = torch.randint(9, (rows * steps, 6)), torch.randint(rows * steps, (rows, steps))
        return ids, lengths, spelled, torch.randint(1, 7, (rows * steps,)), places

    graph, kinds = export(module.eval(), *batch(3, 4), opened=[(0, 1), (0,), (0, 1), (0,), (0, 1)])
    assert kinds["LSTM"] == 4
    assert_same(graph, module, [batch(1, 1), batch(2, 7), batch(5, 3)])


def test_what_cannot_be_exported_is_refused(exporter, monkeypatch):
    class Packs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = snn.LSTM(5, 4)

        def forward(self, x, lengths):
            return self.inner(pack_padded_sequence(x, lengths, enforce_sorted=False))[0].data

    x, lengths, *_ = ragged(4, 3)
    with pytest.raises(RuntimeError, match=r"cannot take a PackedSequence; give the padded input and lengths="):
        export(Packs(), x, lengths.clamp(min=1))
    old = Calls(snn.LSTM(5, 4), lambda inner, x: inner(x))
    with pytest.raises(RuntimeError, match=r"dynamo=False\) cannot take a module of type LSTM; pass dynamo=True"):
        export(old, x, dynamo=False)
    for given in ((x,), (x, {"lengths": lengths})):  # by itself, whose arguments torch gives by position
        with pytest.raises(RuntimeError, match=r"dynamo=False\) cannot take a module of type GRU; pass dynamo=True"):
            export(snn.GRU(5, 4), *given, dynamo=False)
    tags = Calls(snn.CRF(5), lambda inner, x, lengths: inner.decode(x, lengths))
    with pytest.raises(RuntimeError, match=r"dynamo=False\) cannot take the loop of a CRF; pass dynamo=True"):
        export(tags, x, torch.tensor([3, 0, 1, 2]), dynamo=False)
    for options in ({"num_layers": 2, "dropout": 0.5}, {"weight_drop": 0.5}, {"zoneout": 0.1}):
        with pytest.raises(RuntimeError, match=r"draws dropout masks in training mode.*call eval\(\)"):
            export(Calls(snn.LSTM(5, 4, **options).train(), lambda inner, x: inner(x)), x)
    with pytest.raises(RuntimeError, match=r"ONNX's GRU lacks bfloat16.* export it in float32 \(module\.float\(\)\)"):
        export(Calls(snn.GRU(5, 4, dtype=torch.bfloat16), lambda inner, x: inner(x)), x.bfloat16())
    with pytest.raises(RuntimeError, match="compute with real numbers"):
        check_exportable(snn.LSTM(5, 4).network(), x.to(torch.complex64))
    monkeypatch.setattr("seqkit.nn.onnx.MIN_TORCH", (99, 1))
    with pytest.raises(RuntimeError, match=r"GRU in torch\.onnx\.export needs torch 99\.1 or later, got 2\."):
        check_exportable(snn.GRU(5, 4).network(), x)


def test_export_of_a_large_linear_layer_before_any_product(exporter):
    """The first look for oneDNN tries a product, which must not stand in the graph."""
    module = Calls(Linear(256, 256), lambda inner, x: inner(x))
    x = torch.randn(2, 7, 256)
    onednn.cache_clear()
    graph, _ = export(module, x, opened=[(0, 1)])
    assert_same(graph, module, [(torch.randn(3, 40, 256),)])
