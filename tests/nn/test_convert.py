"""`from_torch` and `to_torch`: what a module carries goes over whole, or the module is left alone with a word."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import seqkit.nn as snn

KINDS = ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"]


def _flat(value):
    """What a hook saw, as shapes and kinds."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, (tuple, list)):
        return tuple(_flat(part) for part in value)
    return {key: _flat(part) for key, part in value.items()} if isinstance(value, dict) else value


def _hooked(module: nn.Module, log: list, current: list) -> dict[str, object]:
    """A hook in every table, all options on; each writes down whether it got the current module, and what else."""

    def note(name):
        def hook(one, *args):
            log.append((name, one is current[-1], *(_flat(arg) for arg in args)))

        return hook

    def state_hook(name):
        def hook(one, state, *args):
            log.append((name, one is current[-1], sorted(state) if isinstance(state, dict) else state))

        return hook

    return {
        "pre": module.register_forward_pre_hook(note("pre"), with_kwargs=True),
        "forward": module.register_forward_hook(note("forward"), with_kwargs=True, always_call=True),
        "plain": module.register_forward_hook(note("plain")),
        "backward": module.register_full_backward_hook(note("backward")),
        "backward pre": module.register_full_backward_pre_hook(note("backward pre")),
        "save": module._register_state_dict_hook(state_hook("save")),
        "save pre": module.register_state_dict_pre_hook(state_hook("save pre")),
        "load pre": module._register_load_state_dict_pre_hook(state_hook("load pre"), with_module=True),
        "load post": module.register_load_state_dict_post_hook(note("load post")),
    }


def _use(module: nn.Module, kind: str) -> None:
    """Forward with and without keywords, an error in forward, backward, save and load."""
    x = torch.randn(3, 2, 4)[0 if kind.endswith("Cell") else slice(None)].requires_grad_()
    state = torch.zeros(2, 5) if kind.endswith("Cell") else torch.zeros(1, 2, 5)
    for result in (module(x), module(x, hx=(state, state) if kind.startswith("LSTM") else state)):
        first = result if isinstance(result, torch.Tensor) else result[0]
        first.sum().backward()
    with pytest.raises(RuntimeError):
        module(torch.randn(2, 3))
    module.load_state_dict(module.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_every_table_go_over(kind):
    log, module = [], getattr(nn, kind)(4, 5)
    current = [module]
    handles = _hooked(module, log, current)
    _use(module, kind)
    wanted = list(log)
    assert len({entry[0] for entry in wanted}) == len(handles)
    assert all(entry[1] for entry in wanted)
    new = snn.from_torch(module)
    for convert in (lambda: new, lambda: snn.to_torch(new)):
        converted = convert()
        current.append(converted)
        log.clear()
        _use(converted, kind)
        assert log == wanted
    log.clear()
    for handle in handles.values():
        handle.remove()
    _use(new, kind)
    assert not log


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_added_goes_over(kind):
    module = getattr(nn, kind)(4, 5).eval()
    module.weight_hh = module.weight_hh_l0 if hasattr(module, "weight_hh_l0") else module.weight_hh
    module.register_buffer("steps", torch.tensor(3))
    module.register_buffer("scratch", torch.tensor(4), persistent=False)
    module.scale = nn.Parameter(torch.ones(5))
    module.head = nn.Linear(5, 2)
    module.note = {"from": "me"}
    next(module.parameters()).requires_grad_(False)
    state = module.state_dict()
    new = snn.from_torch(module)
    for converted in (new, snn.to_torch(new)):
        assert OrderedDict(converted.state_dict()).keys() == state.keys()
        assert [name for name, _ in converted.named_parameters()] == [name for name, _ in module.named_parameters()]
        pairs = zip(converted.parameters(), module.parameters(), strict=True)
        assert all(one is other for one, other in pairs)
        assert (converted.steps, converted.scratch, converted.note) == (3, 4, {"from": "me"})
        assert converted.head is module.head
        assert not converted.training


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_tied_weights_and_modules_in_several_places(kind):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = getattr(nn, kind)(4, 4, 2)
            self.a.weight_hh_l1 = self.a.weight_hh_l0
            self.inside = nn.ModuleList([self.a, nn.DataParallel(self.a)])
            self.other = getattr(nn, kind)(4, 4, dropout=0.0)
            self.other.weight_ih_l0 = self.a.weight_ih_l0

    model, x = Model(), torch.randn(3, 2, 4)
    want = model.a(x)[0]
    for convert, package in ((snn.from_torch, snn), (snn.to_torch, nn)):
        assert convert(model) is model
        places = [model.a, model.b, model.inside[0], model.inside[1].module]
        assert all(one is model.a for one in places)
        assert type(model.a) is getattr(package, kind)
        assert model.a.weight_hh_l1 is model.a.weight_hh_l0
        assert model.other.weight_ih_l0 is model.a.weight_ih_l0
        torch.testing.assert_close(model.inside[1](x)[0], want)


class Own(nn.LSTM):
    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return output * 2, state


class OwnToo(snn.LSTM):
    def forward(self, input, hx=None, **options):
        output, state = super().forward(input, hx, **options)
        return output * 2, state


def _patched(module):
    forward = module.forward
    module.forward = lambda *args: (forward(*args)[0] * 2, None)
    return module


def _old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(module, "weight_hh_l0")


def _compiled(module):
    module.compile(backend="eager")
    return module


UNFIT = {
    "subclass": lambda: Own(4, 5),
    "pruned": lambda: prune.l1_unstructured(nn.LSTM(4, 5), "weight_hh_l0", 0.5),
    "old weight norm": lambda: _old_weight_norm(nn.LSTM(4, 5)),
    "weight norm": lambda: parametrizations.weight_norm(nn.LSTM(4, 5), "weight_hh_l0"),
    "own forward": lambda: _patched(nn.LSTM(4, 5)),
    "compiled": lambda: _compiled(nn.LSTM(4, 5)),
    "wrapped": lambda: torch.compile(nn.LSTM(4, 5), backend="eager"),
    "cell subclass": lambda: type("OwnCell", (nn.GRUCell,), {})(4, 5),
}
UNFIT_BACK = {
    "subclass": lambda: OwnToo(4, 5),
    "bare state": lambda: snn.Recurrent("gru", 4, 5),
    "variant": lambda: snn.LSTM(4, 5, peephole=True),
    "pruned": lambda: prune.l1_unstructured(snn.LSTM(4, 5), "weight_hh_l0", 0.5),
    "weight norm": lambda: parametrizations.weight_norm(snn.LSTM(4, 5), "weight_hh_l0"),
    "own forward": lambda: _patched(snn.LSTM(4, 5)),
    "jordan": lambda: snn.Recurrent("jordan", 4, 5),
    "cell": lambda: snn.LSTMCell(4, 5, zoneout=0.5),
}


@pytest.mark.parametrize(
    ("convert", "make", "good"),
    [(snn.from_torch, make, nn.GRU) for make in UNFIT.values()]
    + [(snn.to_torch, make, snn.GRU) for make in UNFIT_BACK.values()],
    ids=[*UNFIT, *(f"back, {name}" for name in UNFIT_BACK)],
)
def test_what_cannot_go_over_whole_is_left_alone(convert, make, good):
    model = nn.ModuleDict({"bad": make(), "deep": nn.Sequential(good(4, 5)), "head": nn.Linear(2, 2)})
    bad, fine = model["bad"], model["deep"][0]
    parts = dict(bad.named_modules())
    with pytest.raises(ValueError, match=r"strict: .*bad.* \(.*nothing was changed"):
        convert(model, strict=True)
    assert model["deep"][0] is fine
    with pytest.warns(UserWarning, match=r"left as they are: bad[\w.]* \([^)]+\)$"):
        assert convert(model) is model
    assert model["bad"] is bad
    assert dict(bad.named_modules()) == parts
    assert type(model["deep"][0]) is not good


def test_a_model_compiled_before_the_conversion_uses_the_new_modules():
    x, seen = torch.randn(3, 2, 4), []
    model = nn.Sequential(nn.GRU(4, 5))
    model.compile(backend="eager")
    want = model(x)[0]
    snn.from_torch(model)
    model[0].register_forward_hook(lambda module, *_: seen.append(type(module)))
    torch.testing.assert_close(model(x)[0], want)
    assert seen == [snn.GRU]


def test_cells_that_differ_have_no_way_back():
    module = snn.LSTM(4, 5, 2)
    module.cell_at(1).zoneout = 0.5
    with pytest.raises(ValueError, match="counterpart"):
        snn.to_torch(module)


def test_quantization_goes_by_way_of_torch():
    """torch's own `quantize_dynamic` passes over modules that it does not know."""
    model, x = snn.from_torch(nn.Sequential(nn.LSTM(8, 16))).eval(), torch.randn(3, 2, 8)
    want = model(x)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch.ao.quantization.quantize_dynamic(snn.to_torch(model), {nn.LSTM}, torch.qint8)
    assert "quantized" in type(quantized[0]).__module__
    torch.testing.assert_close(quantized(x)[0], want, atol=0.05, rtol=0)


def test_quantization_of_our_modules_says_what_to_do():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.warns(
            UserWarning, match=r"leaves LSTM of seqkit\.nn in floating point; .*seqkit\.nn\.to_torch\(model\)"
        ) as said:
            torch.ao.quantization.quantize_dynamic(nn.Sequential(snn.LSTM(8, 16)), {nn.LSTM}, torch.qint8)
    assert sum("seqkit.nn" in str(one.message) for one in said) == 1
