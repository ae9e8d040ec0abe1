"""seqkit.nn on the pretended accelerator: the same numbers as on the CPU, forward and backward.

Run by test_devices.py. A test without an assertion of its own ends in `same` (conftest.py), which makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import seqkit.nn as snn
from seqkit.nn.attention import masked_softmax

Same = Callable[..., None]

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "lstm": [
        {},
        {"bias": False, "proj_size": 3},
        {"peephole": True, "zoneout": 0.3},
        {"coupled": True, "zoneout_cell": 0.4, "recurrent_dropout": 0.3},
        {"layer_norm": True, "weight_drop": 0.3},
        {"cell_clip": 0.3, "cell_activation": "relu", "forget_bias": 1.0},
        {"recurrent_dropout": 0.3, "recurrent_dropout_kind": "semeniuta", "init": "orthogonal"},
        {"peephole": True, "coupled": True, "layer_norm": True, "proj_size": 3, "zoneout": 0.2, "cell_clip": 0.5},
    ],
    "gru": [
        {},
        {"bias": False},
        {"layer_norm": True, "zoneout": 0.3},
        {"recurrent_dropout": 0.3, "weight_drop": 0.2},
        {"recurrent_dropout": 0.3, "recurrent_dropout_kind": "semeniuta"},
    ],
    "rnn": [
        {},
        {"nonlinearity": "relu", "init": "irnn"},
        {"nonlinearity": "identity"},
        {"layer_norm": True, "zoneout": 0.3, "recurrent_dropout": 0.3},
    ],
    "jordan": [{}, {"output_size": 3, "output_activation": "tanh", "recurrent_dropout": 0.3}],
}
LENGTHS: dict[str, Callable[[torch.device], Any]] = {
    "full": lambda device: None,
    "list": lambda device: [2, 5, 0, 3],
    "cpu": lambda device: torch.tensor([5, 4, 4, 1]),
    "device": lambda device: torch.tensor([1, 3, 5, 2]).to(device),
    "none": lambda device: [0, 0, 0, 0],
}
CELLS = [
    (kind, options, backend)
    for kind, variants in VARIANTS.items()
    for options in variants
    for backend in ("reference", "fused", "auto")
    if kind != "jordan" or backend != "fused"
]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("kind", "options", "backend"), CELLS)
def test_cells(same: Same, kind: str, options: dict[str, Any], backend: Any, lengths: str) -> None:
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 4, backend=backend, bidirectional=True, batch_first=True, **options)
    x = torch.randn(4, 5, 3, requires_grad=True)
    hx = tuple(torch.randn(2, 4, size, requires_grad=True) for size in module.state_sizes)

    def compute(module: Any, x: Tensor, *hx: Tensor) -> Any:
        return module(x, hx, lengths=LENGTHS[lengths](x.device))

    same(compute, module, x, *hx)
    if lengths == "list":
        same(compute, module.eval(), x.detach(), *(part.detach() for part in hx))


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3},
        {"locked_dropout": 0.3, "residual": True},
        {"learn_initial_state": True},
        {"checkpoint_chunks": 2},
    ],
)
def test_what_is_around_cells(same: Same, options: dict[str, Any], backend: Any) -> None:
    torch.manual_seed(0)
    module = snn.LSTM(4, 4, 2, backend=backend, **options)
    x = torch.randn(6, 3, 4, requires_grad=True)
    same(lambda module, x: module(x, lengths=[6, 2, 4]), module, x)
    same(lambda module, x: module(x), module, x)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_a_layout_is_sent_once(fake: ModuleType, backend: Any) -> None:
    """However many layers, directions and passes use it: order and places of the rows together, and then each index."""
    module = snn.LSTM(3, 4, 3, bidirectional=True, backend=backend).to(fake.NAME)
    x = torch.randn(5, 3, 3, device=fake.NAME)
    with fake.watched() as traffic:
        module(x, lengths=torch.tensor([3, 5, 1]))[0].sum().backward()
    assert traffic.waits == []
    assert len(traffic.sent) == (4 if backend == "fused" else 2), traffic.sent
    with fake.watched() as traffic:
        module(x, lengths=torch.tensor([3, 5, 1]).to(fake.NAME))
    assert [place.partition(":")[0] for place in traffic.reads] == ["nn/kernels/packing.py"]


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_sizes_at_which_the_cpu_takes_its_fast_roads(same: Same, kind: str) -> None:
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 128, 128, backend="fused")
    x = torch.randn(6, 48, 128, requires_grad=True)
    lengths = [6 - number % 4 for number in range(48)]
    same(lambda module, x: module(x, lengths=lengths), module, x, tolerance=1e-3)


@pytest.mark.parametrize("kind", ["lstm", "gru", "jordan"])
def test_packed_and_unbatched_and_traced(same: Same, kind: str) -> None:
    torch.manual_seed(0)
    module = snn.Recurrent(kind, 3, 4)
    x = torch.randn(5, 3, 3, requires_grad=True)

    def packed(module: Any, x: Tensor) -> Any:
        output, state = module(pack_padded_sequence(x, torch.tensor([5, 2, 3]), enforce_sorted=False))
        return output.data, state

    same(packed, module, x)
    same(lambda module, x: module(x[:, 0]), module, x)
    same(lambda module, x: module(x[:, 0], lengths=[3]), module, x)
    same(lambda module, x: [module.trace(x, lengths=[2, 5, 1])[i] for i in (0, 1, 2)], module, x)


@pytest.mark.parametrize("cell", [snn.LSTMCell, snn.GRUCell, snn.RNNCell, snn.JordanCell])
def test_single_cells_and_their_second_derivative(same: Same, cell: Any) -> None:
    torch.manual_seed(0)
    same(lambda cell, x: cell(x), cell(3, 4), torch.randn(2, 3, requires_grad=True))
    if cell is snn.JordanCell:
        return
    name = cell.__name__.removesuffix("Cell")

    def twice(module: Any, x: Tensor) -> Any:
        (grad,) = torch.autograd.grad(module(x, lengths=[3, 1])[0].sin().sum(), x, create_graph=True)
        return grad

    same(twice, getattr(snn, name)(3, 4, backend="fused"), torch.randn(3, 2, 3, requires_grad=True))


@pytest.mark.parametrize("kind", snn.ATTENTIONS)
def test_attention(same: Same, kind: str) -> None:
    torch.manual_seed(0)
    module = snn.make_attention(kind, 4, 4, heads=2 if kind == "multi_head" else 1)
    padding = torch.arange(5) >= torch.tensor([5, 2, 0]).unsqueeze(1)
    query, memory = torch.randn(3, 2, 4, requires_grad=True), torch.randn(3, 5, 4, requires_grad=True)
    same(lambda module, q, m, p: module(q, *module.project(m), p), module, query, memory, padding)
    same(lambda q, p: masked_softmax(q, p), torch.randn(3, 5, requires_grad=True), padding)


@pytest.mark.parametrize("constrain", [False, True])
@pytest.mark.parametrize("lengths", ["cpu", "device"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_crf(same: Same, constrain: bool, lengths: str, scale: float) -> None:
    torch.manual_seed(0)
    allowed, start = snn.iob2_allowed(["O", "B-x", "I-x"])
    crf = snn.CRF(3, allowed=allowed, allowed_start=start, constrain_loss=constrain)
    with torch.no_grad():
        crf.transitions.normal_(0, scale)
    emissions, tags = torch.randn(3, 5, 3) * scale, torch.tensor([[0, 1, 2, 2, 1]] * 3)

    def compute(crf: Any, emissions: Tensor, tags: Tensor) -> Any:
        n = torch.tensor([5, 3, 0])
        n = n.to(emissions.device) if lengths == "device" else n
        decoded = crf.decode(emissions, n)
        return crf(emissions, tags, n), crf.log_partition(emissions, n), *decoded, crf.marginals(emissions, n)

    same(compute, crf, emissions.requires_grad_(), tags)
    same(lambda crf, e: crf.log_partition(e[:, :1], torch.tensor([1, 0, 1])), crf, emissions)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_cross_entropy(same: Same, smoothing: float, bias: bool) -> None:
    torch.manual_seed(0)
    weight, features = torch.randn(50, 4, requires_grad=True), torch.randn(1100, 4, requires_grad=True)
    given = [features, weight, torch.randn(50, requires_grad=True) if bias else None, torch.randint(50, (1100,))]
    same(lambda *all: snn.linear_cross_entropy(*all, label_smoothing=smoothing), *given, tolerance=1e-4)


def test_dropouts(same: Same) -> None:
    torch.manual_seed(0)
    ids, x = torch.randint(9, (3, 5)), torch.randn(3, 5, 4, requires_grad=True)
    same(lambda m, x: m(x), snn.LockedDropout(0.4), x)
    same(lambda m, table, ids: m(table, ids), snn.EmbeddingDropout(0.4), nn.Embedding(9, 4, padding_idx=0), ids)
    same(lambda m, ids: m(ids), snn.WordDropout(0.4, 1), ids)


def test_lora(same: Same) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(snn.LSTM(4, 4))
    snn.add_lora(module, rank=2, dropout=0.3)
    for name, value in module.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(value)
    x = torch.randn(5, 2, 4, requires_grad=True)
    same(lambda module, x: module(x), module, x)
    same(lambda module, x: snn.merge_lora(module)(x), module, x)


def test_a_model_made_there(fake: ModuleType) -> None:
    module = snn.GRU(3, 4, 2, device=fake.NAME, init="orthogonal")
    assert all(value.device == fake.install() for value in module.parameters())
    module.reset_parameters()
    crf = snn.CRF(2, allowed=torch.tensor([[True, False], [True, True]]), device=fake.NAME)
    assert all(value.device == fake.install() for value in crf.state_dict().values())
    assert crf.decode(torch.randn(2, 3, 2, device=fake.NAME), torch.tensor([3, 1]))[0].device == fake.install()


def test_conversion_from_torch(fake: ModuleType) -> None:
    module = nn.LSTM(3, 4).to(fake.NAME)
    x = torch.randn(5, 2, 3, device=fake.NAME)
    found, wanted = snn.from_torch(module)(x)[0], module(x)[0]
    torch.testing.assert_close(found.cpu(), wanted.cpu())
    assert snn.to_torch(snn.from_torch(module)).weight_ih_l0.device == fake.install()


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_kernel_is_asked_whether_it_agrees(fake: ModuleType, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card, with the hand-derived kernel in the place of Triton's."""
    from seqkit.nn.agreement import agrees
    from seqkit.nn.kernels.triton import counterparts

    kernel = snn.Recurrent(kind, 3, 4).cell_at(0).kernel()
    monkeypatch.setattr(counterparts, "triton_kernel", lambda kernel: kernel)
    assert agrees(kernel, fake.install(), torch.float32)
