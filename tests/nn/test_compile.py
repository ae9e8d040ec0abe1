"""torch.compile with fullgraph=True and torch.export, with and without lengths, against eager."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import seqkit.nn as snn
from seqkit.nn.custom_op import AVAILABLE
from seqkit.nn.exported_loops import MIN_TORCH, TORCH
from seqkit.nn.kernels.tuning import MIN_DECODE_ROWS

needs_operators = pytest.mark.skipif(not AVAILABLE, reason="torch.library.custom_op needs torch 2.4")
CASES = [
    ("lstm", {}),
    ("lstm", {"layer_norm": True, "peephole": True, "proj_size": 3}),
    ("gru", {"layer_norm": True}),
    ("rnn", {}),
]


class Model(torch.nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.core = snn.Recurrent(kind, 6, 8, 2, bidirectional=True, batch_first=True, **options)
        self.head = torch.nn.Linear(self.core.output_size, 3)

    def forward(self, x, lengths=None):
        output, state = self.core(x, lengths=lengths)
        return self.head(output), *state


def results(model, x, lengths):
    found = model(x, lengths)
    loss = sum(part.sin().sum() for part in found)
    return [*found, *torch.autograd.grad(loss, [x, *model.parameters()])]


@needs_operators
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_compile_fullgraph(kind, options, ragged):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model(kind, **options)
    x = torch.randn(5, 7, 6, requires_grad=True)
    lengths = torch.tensor([7, 2, 0, 5, 3]) if ragged else None
    want = results(model, x, lengths)
    got = results(torch.compile(model, fullgraph=True, backend="aot_eager"), x, lengths)
    for one, other in zip(got, want, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@needs_operators
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_dropout_is_active_and_lengths_may_change():
    torch._dynamo.reset()
    model = Model("lstm", zoneout=0.3, recurrent_dropout=0.3, dropout=0.3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 7, 6)
    first, second = compiled(x, torch.tensor([7, 2, 1, 5, 3]))[0], compiled(x, torch.tensor([7, 2, 1, 5, 3]))[0]
    assert not torch.equal(first, second)
    model.eval()
    for lengths in ([7, 2, 1, 5, 3], [1, 1, 0, 4, 7]):
        got, want = compiled(x, torch.tensor(lengths)), model(x, torch.tensor(lengths))
        assert torch.allclose(got[0], want[0], atol=1e-5)
    with pytest.raises(ValueError, match="lengths"):
        compiled(x, torch.tensor([9, 1, 1, 1, 1]))


@needs_operators
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("ragged", [False, True])
def test_any_number_of_steps_compiles_twice(ragged):
    """Once for the first length and once for all others: batches of text differ in length at every call."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    options = {} if ragged else {"zoneout": 0.2, "recurrent_dropout": 0.2}
    model = snn.Recurrent("lstm", 6, 8, bidirectional=ragged, **options)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for steps in (7, 9, 4, 12, 3, 20, 5, 6, 8, 31, 2, 15):
        x = torch.randn(steps, 5, 6, requires_grad=True)
        lengths = torch.randint(0, steps + 1, (5,)) if ragged else None
        output, _ = compiled(x, lengths=lengths)
        output.sum().backward()
        if ragged:
            assert torch.allclose(output, model(x, lengths=lengths)[0], atol=1e-5)
            (want,) = torch.autograd.grad(model(x, lengths=lengths)[0].sum(), [x])
            assert torch.allclose(x.grad, want, atol=1e-5)
    assert counter.frame_count == 2


@needs_operators
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_export():
    model = Model("gru").eval()
    x, lengths = torch.randn(5, 7, 6), torch.tensor([7, 2, 0, 5, 3])
    program = torch.export.export(model, (x, lengths))
    assert "seqkit.scan" in program.graph_module.code
    for one, other in zip(program.module()(x, lengths), model(x, lengths), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


class Packs(torch.nn.Module):
    """As a model written for torch.nn uses a recurrent module."""

    def __init__(self, core):
        super().__init__()
        self.core = core
        self.head = torch.nn.Linear(core.output_size, 3)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x * 2, lengths, enforce_sorted=False)
        output, state = self.core(packed)
        return self.head(pad_packed_sequence(output)[0]), *state


class Reads(torch.nn.Module):
    def __init__(self, core):
        super().__init__()
        self.core = core

    def forward(self, x, lengths):
        output, state = self.core(x * 2, lengths=lengths)
        return output * 2, *state


class Own(snn.Cell):
    def step(self, projected, state, prepared):
        return (torch.tanh(projected + state[0]),), {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("wrap", [Packs, Reads])
@pytest.mark.parametrize("cell", ["lstm", "jordan", Own])
def test_what_no_operator_serves_runs_between_two_graphs(cell, wrap):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = wrap(snn.Recurrent(cell, 4, 4, 2, bidirectional=cell != Own, backend="auto"))
    compiled = torch.compile(model, backend="eager")
    for lengths in ([5, 2, 3], [1, 1, 5], [5, 5, 5]):
        x = torch.randn(5, 3, 4, requires_grad=True)
        wanted, found = results(model, x, torch.tensor(lengths)), results(compiled, x, torch.tensor(lengths))
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other, atol=1e-5)


SMALL = {
    "empty, locked dropout": ((3, 4), torch.zeros(3, dtype=torch.long)),
    "no sequence": ((0, 4), torch.zeros(0, dtype=torch.long)),
    "no sequence, no lengths": ((0, 4), None),
}


def modules(steps):
    """Name -> a function of B that gives a module and what goes into it before lengths."""
    locked = {"locked_dropout": 0.3, "bidirectional": True, "batch_first": True}
    yield "gru", Reads(snn.GRU(4, 4, 2, **locked)), lambda n: torch.randn(n, steps, 4)
    yield "lstm, layer norm", Reads(snn.LSTM(4, 4, 2, layer_norm=True, **locked)), lambda n: torch.randn(n, steps, 4)


@needs_operators
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("how", ["compile", "export"])
def test_batches_without_a_step(case, how):
    (rows, steps), lengths = SMALL[case]
    for name, module, make in modules(steps):
        x = make(rows)
        torch._dynamo.reset()
        if how == "compile":
            run = torch.compile(module, fullgraph=True, backend="eager")
        else:
            run = torch.export.export(module, (x, lengths)).module()
        torch.manual_seed(0)
        found = run(x, lengths)
        torch.manual_seed(0)
        for one, other in zip(found, module(x, lengths), strict=True):
            assert torch.equal(one, other), name


class Attends(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.attention = snn.make_attention(kind, 4, 4, heads=2 if kind == "multi_head" else 1)

    def forward(self, query, memory, lengths):
        padding = torch.arange(memory.size(1)) >= lengths.unsqueeze(1)
        return self.attention(query, *self.attention.project(memory, padding), padding)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("kind", "rows"), [*((kind, 0) for kind in snn.ATTENTIONS), ("bahdanau", 3)])
def test_attention_compiles_and_exports(kind, rows):
    torch._dynamo.reset()
    model, lengths = Attends(kind), torch.tensor([4, 0, 2])[:rows]
    given = (torch.randn(rows, 2, 4), torch.randn(rows, 4, 4), lengths)
    wanted = model(*given)
    runs = [torch.compile(model, fullgraph=True, backend="eager"), torch.export.export(model, given).module()]
    for run in runs if AVAILABLE else runs[:1]:
        for one, other in zip(run(*given), wanted, strict=True):
            torch.testing.assert_close(one, other)


@needs_operators
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("grad", [False, True])
def test_export_of_a_fixed_length_needs_no_operator_of_ours(kind, grad):
    model = snn.Recurrent(kind, 4, 5, num_layers=2, bidirectional=True)
    with torch.set_grad_enabled(grad):
        program = torch.export.export(model, (torch.randn(4, 3, 4),), dynamic_shapes=({1: torch.export.Dim("rows")},))
        opened = torch.export.export(model, (torch.randn(4, 3, 4),), dynamic_shapes=({0: torch.export.Dim("steps")},))
    assert "seqkit" not in program.graph_module.code
    assert "seqkit.scan" in opened.graph_module.code
    for run, x in ((program, torch.randn(4, 6, 4)), (opened, torch.randn(7, 3, 4))):
        found, wanted = run.module()(x), model(x)
        for one, other in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
            torch.testing.assert_close(one, other)


@needs_operators
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("rows", [3, 0])
def test_crf_compiles(rows):
    torch._dynamo.reset()
    torch.manual_seed(0)
    crf = snn.CRF(3, allowed_start=torch.tensor([True, True, False]), constrain_loss=False)
    torch.nn.init.normal_(crf.transitions)
    emissions = torch.randn(rows, 4, 3, requires_grad=True)
    tags, lengths = torch.randint(0, 3, (rows, 4)), torch.tensor([4, 0, 2])[:rows]

    def run(emissions, tags, lengths):
        return crf(emissions, tags, lengths), crf.decode(emissions, lengths), crf.marginals(emissions, lengths)

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    found, wanted = compiled(emissions, tags, lengths), run(emissions, tags, lengths)
    for one, other in zip((found[0], *found[1], found[2]), (wanted[0], *wanted[1], wanted[2]), strict=True):
        torch.testing.assert_close(one, other)
    pair = [torch.autograd.grad(loss[0].sum(), [emissions, crf.transitions]) for loss in (found, wanted)]
    for one, other in zip(*pair, strict=True):
        torch.testing.assert_close(one, other)


@needs_operators
@torch.no_grad()
def test_export_of_a_decoders_step():
    """For any number of sources and hypotheses; the decoder itself goes on as before."""
    torch.manual_seed(0)
    decoder = snn.AttentionalRecurrent(5, 6, "lstm", 4, num_layers=2, attention="general", input_feeding=True).eval()

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = decoder

        def forward(self, x, state, memory):
            return self.inner.step(x, state, memory)

    def given(rows, hypotheses):
        states = tuple(tuple(torch.randn(rows, hypotheses, 4) for _ in range(2)) for _ in range(2))
        memory = decoder.remember(torch.randn(rows, 3, 6), torch.randint(0, 4, (rows,)))
        return torch.randn(rows, hypotheses, 5), (states, torch.randn(rows, hypotheses, 4)), memory

    count = MIN_DECODE_ROWS // 2 + 1
    sources, hypotheses = torch.export.Dim("sources", min=2), torch.export.Dim("hypotheses", min=2)
    tree, first = torch.utils._pytree, given(count, 2)
    shapes = (*(tree.tree_map(lambda _: {0: sources, 1: hypotheses}, part) for part in first[:2]), ({0: sources},) * 3)
    run = torch.export.export(Step(), first, dynamic_shapes=shapes).module()
    for sizes in ((2, 3), (count + 1, 2)):
        batch = given(*sizes)
        for one, other in zip(*map(tree.tree_leaves, (run(*batch), decoder.step(*batch))), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reads(snn.Recurrent("jordan", 4, 4)), "lengths for a Recurrent on the step loop"),
        (lambda: Reads(snn.GRU(4, 4, backend="reference")), "lengths for a GRU on the step loop"),
        (lambda: Packs(snn.GRU(4, 4)), "PackedSequence"),
    ],
)
@needs_operators
def test_export_refuses_what_it_cannot_hold_in_one_graph(make, message, monkeypatch):
    monkeypatch.setattr("seqkit.nn.exported_loops.MIN_TORCH", (99, 1))  # a later torch has loops
    given = (torch.randn(5, 3, 4), torch.tensor([5, 2, 3]))
    with pytest.raises(Exception, match=message):
        torch.export.export(make(), given, strict=False)


class Loops(torch.nn.Module):
    """What no operator serves: cells without a kernel, Viterbi's algorithm, input feeding."""

    def __init__(self):
        super().__init__()
        self.read = snn.Recurrent("jordan", 4, 3, bidirectional=True, batch_first=True)
        self.free = snn.GRU(6, 3, batch_first=True, backend="reference")
        self.crf = snn.CRF(3, allowed_start=torch.tensor([True, True, False]))
        torch.nn.init.normal_(self.crf.transitions)
        options = {"attention": "dot", "input_feeding": True}
        self.decoder = snn.AttentionalRecurrent(4, 3, "lstm", 3, **options)

    def forward(self, x, lengths):
        both, (h, _) = self.read(x, lengths=lengths)
        one = self.free(both)[0]
        state = self.decoder.initial_state(x.size(0))
        fed = self.decoder(x, lengths, state, self.decoder.remember(one, lengths))
        total = self.crf.log_partition(one * 9, lengths)
        return both, one, h, total, *self.crf.decode(one * 9, lengths), *fed


@pytest.mark.skipif(TORCH < MIN_TORCH, reason="torch's exporter lacks loops")
@pytest.mark.parametrize("way", ["loops", "strict", "without torch's own names"])
def test_export_holds_loops_for_any_number_of_steps(way, tmp_path, monkeypatch):
    torch.manual_seed(0)
    strict = way == "strict"
    model = Loops() if way == "loops" else Reads(snn.Recurrent("jordan", 4, 3, batch_first=True))
    if way == "without torch's own names":
        scan = importlib.import_module("torch._higher_order_ops.scan")
        without = SimpleNamespace(**{name: value for name, value in vars(scan).items() if name != "scan_op"})
        monkeypatch.setitem(sys.modules, scan.__name__, without)  # torch's `scan` keeps its own
    model, free = model.eval(), torch.export.Dim.DYNAMIC

    def batch(rows, steps):
        return torch.randn(rows, steps, 4), torch.randint(0, steps + 1, (rows,))

    with torch.no_grad():
        shapes = ({0: free, 1: free}, {0: free})
        program = torch.export.export(model, batch(3, 4), dynamic_shapes=shapes, strict=strict)
        assert "seqkit" not in program.graph_module.code
        torch.export.save(program, tmp_path / "loops.pt2")
        run = torch.export.load(tmp_path / "loops.pt2").module()
        for rows, steps in ((1, 1), (2, 9), (5, 2)):
            given = batch(rows, steps)
            for one, other in zip(run(*given), model(*given), strict=True):
                torch.testing.assert_close(one, other)


@pytest.mark.skipif(TORCH < MIN_TORCH, reason="torch's exporter lacks loops")
@pytest.mark.parametrize("make", [lambda: Reads(snn.GRU(4, 4, backend="reference", weight_drop=0.5)), Loops])
@torch.no_grad()
def test_exported_loops_draw_no_masks(make):
    module = make().train()
    free = torch.export.Dim.DYNAMIC
    given = torch.randn(3, 3, 4), torch.tensor([3, 1, 2])
    with pytest.raises(Exception, match=r"draws dropout masks in training mode.*call eval\(\) first"):
        torch.export.export(module, given, dynamic_shapes=({0: free, 1: free}, {0: free}))
