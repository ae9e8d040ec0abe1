"""Double backward, torch.func, forward mode, autocast, determinism: every backend against the step loop."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap

import seqkit.nn as snn

CELLS = [
    ("lstm", {}),
    ("lstm", {"peephole": True, "layer_norm": True, "zoneout": 0.2, "zoneout_cell": 0.2, "proj_size": 2}),
    ("lstm", {"coupled": True, "recurrent_dropout": 0.2, "cell_clip": 0.5}),
    ("gru", {}),
    ("gru", {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.3}),
    ("rnn", {}),
    ("rnn", {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.3}),
    ("jordan", {}),
]
NAMES = [kind + "-" + "-".join(options) for kind, options in CELLS]


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize(("kind", "options"), CELLS, ids=NAMES)
def test_gradcheck(kind, options, check):
    torch.manual_seed(0)
    backend = "auto" if kind == "jordan" else "fused"
    module = snn.Recurrent(kind, 2, 3, bidirectional=True, dtype=torch.float64, backend=backend, **options)
    names = [name for name, _ in module.named_parameters()]
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    hx = tuple(torch.randn(2, 2, size, dtype=torch.float64, requires_grad=True) for size in module.state_sizes)

    def run(x, *rest):
        torch.manual_seed(5)
        weights = dict(zip(names, rest[len(hx) :], strict=True))
        output, state = functional_call(module, weights, (x, rest[: len(hx)]), {"lengths": [3, 2]})
        return output, *state

    assert module.backend_for(x).name == ("reference" if kind == "jordan" else "fused")
    values = [value.detach().clone().requires_grad_() for value in module.parameters()]
    assert check(run, (x, *hx, *values), fast_mode=True)


@pytest.mark.parametrize("lengths", [None, [4, 2, 3]])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("backend", ["fused", "vendor"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_second_derivative_in_float32(kind, backend, bias, lengths):
    """The vendor's kernels have no double backward of their own."""
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True, "bias": bias}
    module = snn.Recurrent(kind, 3, 4, backend=backend, **options)
    reference = snn.Recurrent(kind, 3, 4, backend="reference", **options)
    reference.load_state_dict(module.state_dict())
    x = torch.randn(4, 3, 3, requires_grad=True)
    hx = tuple(torch.randn(4, 3, 4, requires_grad=True) for _ in module.state_sizes)
    found = []
    for one in (module, reference):
        # Not a leaf: what lies before the module is none of its business, but must get its gradient through it.
        output, state = one(x * x, tuple(part * part for part in hx), lengths=lengths)
        loss = output.sin().sum() + sum(part.cos().sum() for part in state)
        first = torch.autograd.grad(loss, [x, *hx, *one.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(part.pow(2).sum() for part in first), [x, *hx, *one.parameters()])
        found.append([*first, *second])
    for got, want in zip(*found, strict=True):
        assert torch.allclose(got, want, atol=1e-5 * max(1.0, want.abs().max().item()))


def test_second_derivative_with_frozen_layers():
    """Fewer nodes than layers want a gradient, and another LSTM lies before this one."""
    torch.manual_seed(0)
    found = []
    first, second = snn.LSTM(3, 4), snn.LSTM(4, 4, 2)
    second.weight_ih_l0.requires_grad_(False)
    x = torch.randn(5, 2, 3, requires_grad=True)
    for backend in ("vendor", "reference"):
        first.backend = second.backend = backend
        output, _ = second(first(x)[0])
        leaves = [x, *(one for one in (*first.parameters(), *second.parameters()) if one.requires_grad)]
        (grad,) = torch.autograd.grad(output.sin().sum(), [x], create_graph=True)
        found.append(torch.autograd.grad(grad.pow(2).sum(), leaves))
    for got, want in zip(*found, strict=True):
        assert torch.allclose(got, want, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch.func.jvp uses it
@pytest.mark.parametrize("backend", ["auto", "fused"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_func_transforms_equal_reference(kind, backend):
    torch.manual_seed(0)
    modules = [snn.Recurrent(kind, 3, 4, backend=name, dtype=torch.float64) for name in (backend, "reference")]
    modules[1].load_state_dict(modules[0].state_dict())
    x = torch.randn(5, 4, 2, 3, dtype=torch.float64)
    tangent = torch.randn_like(x[0])
    results = []
    for module in modules:
        weights = dict(module.named_parameters())

        def loss(weights, x, module=module):
            return functional_call(module, weights, (x,))[0].pow(2).sum()

        results.append(
            [
                vmap(lambda one, module=module: module(one)[0])(x),
                *grad(loss)(weights, x[0]).values(),
                *jvp(lambda one, module=module: module(one)[0], (x[0],), (tangent,)),
                *vmap(grad(loss), (None, 0))(weights, x).values(),
            ]
        )
    for got, want in zip(*results, strict=True):
        assert torch.allclose(got, want, atol=1e-12)
        assert want.abs().max() > 1e-3
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x[0], tangent)
        assert modules[0].backend_for(dual).name == "reference"
        out = torch.autograd.forward_ad.unpack_dual(modules[0](dual)[0]).tangent
    delta = 1e-6
    step = (modules[1](x[0] + delta * tangent)[0] - modules[1](x[0] - delta * tangent)[0]) / (2 * delta)
    assert torch.allclose(out, step, atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "fused", "reference"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_autocast(kind, backend):
    torch.manual_seed(0)
    module = getattr(snn, kind)(16, 24, 2, bidirectional=True, backend=backend)
    x = torch.randn(7, 5, 16)
    want, _ = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = module(x)
        state = state if isinstance(state, tuple) else (state,)
        assert output.dtype == torch.bfloat16
        assert all(part.dtype == torch.bfloat16 for part in state)
        output.float().sum().backward()
    assert (output.float() - want).abs().max() < 0.05
    assert module.weight_hh_l0.grad.dtype == torch.float32
    assert module.weight_hh_l0.grad.abs().max() > 0


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_seed_fixes_everything(kind, backend):
    options = {"zoneout": 0.3, "recurrent_dropout": 0.3, "weight_drop": 0.3}
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 8, 2, dropout=0.3, locked_dropout=0.3, backend=backend, **options)
    x = torch.randn(5, 4, 3)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(module(x, lengths=[5, 2, 4, 3])[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    # The masks do not depend on the backend.
    other = snn.Recurrent(kind, 3, 8, 2, dropout=0.3, locked_dropout=0.3, backend="reference", **options)
    other.load_state_dict(module.state_dict())
    torch.manual_seed(1)
    assert torch.allclose(other(x, lengths=[5, 2, 4, 3])[0], outputs[0], atol=1e-6)


def test_retain_graph_twice():
    module, x = snn.LSTM(3, 4, backend="fused"), torch.randn(4, 2, 3, requires_grad=True)
    loss = module(x)[0].pow(2).sum()
    (first,) = torch.autograd.grad(loss, [x], retain_graph=True)
    (second,) = torch.autograd.grad(loss, [x])
    assert torch.equal(first, second)


@pytest.mark.parametrize("backend", ["fused", "vendor"])
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_each_result_alone(kind, lengths, backend):
    """A loss on the outputs only, or on one final state only: the other gradients are absent, not zero tensors."""
    torch.manual_seed(0)
    modules = [snn.Recurrent(kind, 3, 4, bidirectional=True, backend=name) for name in (backend, "reference")]
    modules[1].load_state_dict(modules[0].state_dict())
    x = torch.randn(4, 3, 3, requires_grad=True)
    for position in range(1 + len(modules[0].state_sizes)):
        found = []
        for module in modules:
            output, state = module(x, lengths=lengths)
            found.append(torch.autograd.grad((output, *state)[position].sin().sum(), [x, *module.parameters()]))
        for got, want in zip(*found, strict=True):
            assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "fused", "vendor", "reference"])
def test_empty_batch(backend):
    module = snn.LSTM(3, 4, bidirectional=True, backend=backend)
    output, (h, c) = module(torch.randn(5, 0, 3))
    assert (output.shape, h.shape, c.shape) == ((5, 0, 8), (2, 0, 4), (2, 0, 4))
    output, (h, _) = module(torch.randn(5, 2, 3), lengths=[0, 0])
    assert output.eq(0).all()
    assert h.eq(0).all()


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("options", [{}, {"coupled": True}, {"zoneout_cell": 0.5}])
def test_clipped_memory_passes_the_gradient_at_the_bound(backend, options):
    """A memory of exactly the bound lets the gradient through, one beyond it does not, whatever torch.clamp does."""
    module = snn.Recurrent("lstm", 1, 3, cell_clip=1.0, backend=backend, **options).eval()
    with torch.no_grad():
        for value in module.parameters():
            value.zero_()
        gates = module.bias_ih_l0.view(-1, 3)
        gates[0 if "coupled" in options else 1] = 200.0  # forget gate exactly 1
        if "coupled" not in options:
            gates[0] = -200.0  # input gate exactly 0
    c = torch.tensor([[[1.0, 0.5, 1.5]]], requires_grad=True)
    _, (_, last) = module(torch.zeros(1, 1, 1), (torch.zeros(1, 1, 3), c))
    (grad,) = torch.autograd.grad(last.sum(), [c])
    kept = options.get("zoneout_cell", 0.0)
    assert torch.equal(grad, torch.tensor([[[1.0, 1.0, kept]]]))
