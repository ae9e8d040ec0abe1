"""torch.compile with fullgraph=True and torch.export, with and without lengths, against eager."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import seqkit.nn as snn
from seqkit.nn.compiled import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="torch.library.custom_op needs torch 2.4")
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_export():
    model = Model("gru").eval()
    x, lengths = torch.randn(5, 7, 6), torch.tensor([7, 2, 0, 5, 3])
    program = torch.export.export(model, (x, lengths))
    assert "seqkit.scan" in program.graph_module.code
    for one, other in zip(program.module()(x, lengths), model(x, lengths), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
