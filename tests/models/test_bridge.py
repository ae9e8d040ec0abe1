"""The bridge: what each kind hands over, between any two cells, layers, directions and sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seqkit.models import BRIDGES, Bridge
from seqkit.nn import CELLS, Recurrent, from_table


def encoder(cell: str, size: int = 3, layers: int = 2, both: bool = True) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(cell, 4, size, layers, bidirectional=both, batch_first=True).double()


def run(bridge: Bridge, module: Recurrent, lengths: tuple[int, ...] = (5, 2, 0)) -> tuple[Any, Tensor, Any]:
    torch.manual_seed(1)
    x, where = torch.randn(len(lengths), 5, 4).double(), torch.tensor(lengths)
    output, state = module(x, lengths=where)
    return bridge.double()(output, state, where), output, state


@pytest.mark.parametrize("kind", ["linear", "mean", "zero"])
@pytest.mark.parametrize("target", sorted(CELLS))
@pytest.mark.parametrize("source", sorted(CELLS))
@pytest.mark.parametrize(("layers", "both"), [(1, False), (3, True)])
def test_every_mismatch_is_bridged(kind: Any, source: str, target: str, layers: int, both: bool) -> None:
    module, other = encoder(source, 3, layers, both), Recurrent(target, 4, 5, 2, batch_first=True).double()
    bridge = BRIDGES[kind](module, other.cell_at(0).state_names, other.state_sizes, 2)
    first, _, _ = run(bridge, module)
    assert [tuple(part.shape) for part in first] == [(2, 3, size) for size in other.state_sizes]
    output, _ = other(torch.zeros(3, 1, 4).double(), first)
    assert output.isfinite().all()
    assert (kind == "zero") == all(part.eq(0).all() for part in first)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_linear_maps_both_directions_and_all_states_of_the_layer_beside(layers: int) -> None:
    module = encoder("lstm")
    bridge: Any = BRIDGES["linear"](module, ("h", "c"), (5, 6), layers)
    (h, c), _, (source_h, source_c) = run(bridge, module)
    for layer in range(layers):
        beside = max(0, 2 - layers + layer)
        parts = [part[2 * beside + way] for part in (source_h, source_c) for way in (0, 1)]
        linear = bridge.maps[layer]
        expected = torch.tanh(torch.cat(parts, 1) @ linear.weight.T + linear.bias)
        torch.testing.assert_close(torch.cat([h[layer], c[layer]], 1), expected)


def test_mean_maps_the_mean_of_the_valid_outputs() -> None:
    module = encoder("gru")
    bridge: Any = BRIDGES["mean"](module, ("h",), (5,), 2)
    (h,), output, _ = run(bridge, module)
    for layer, linear in enumerate(bridge.maps):
        for row, length in enumerate((5, 2, 0)):
            mean = output[row, :length].mean(0) if length else torch.zeros(6).double()
            torch.testing.assert_close(h[layer, row], torch.tanh(linear.weight @ mean + linear.bias))


@pytest.mark.parametrize("layers", [1, 2])
def test_copy_takes_the_top_layers_with_their_directions_side_by_side(layers: int) -> None:
    module = encoder("lstm")
    bridge = BRIDGES["copy"](module, ("h", "c"), (6, 6), layers)
    first, output, state = run(bridge, module)
    for mine, theirs in zip(first, state, strict=True):
        for layer in range(layers):
            beside = 2 - layers + layer
            expected = torch.cat([theirs[2 * beside], theirs[2 * beside + 1]], 1)
            assert torch.equal(mine[layer], expected)
    # The forward direction's last output and the backward direction's first.
    assert torch.equal(first[0][-1, 1], torch.cat([output[1, 1, :3], output[1, 0, 3:]]))
    assert not list(bridge.parameters())


def test_copy_goes_by_the_names_of_the_states() -> None:
    module = encoder("lstm")
    (h,), _, state = run(BRIDGES["copy"](module, ("h",), (6,), 2), module)
    assert torch.equal(h[1, :, :3], state[0][2])
    module = encoder("jordan")  # its state is (y, h)
    (h,), _, state = run(BRIDGES["copy"](module, ("h",), (6,), 2), module)
    assert torch.equal(h[1, :, :3], state[1][2])


@pytest.mark.parametrize(
    ("source", "names", "sizes", "layers", "words"),
    [
        ("lstm", ("h", "c"), (6, 6), 3, "3 layers and the encoder 2"),
        ("lstm", ("h", "c"), (5, 6), 2, r"'h' has 6 features \(2 x 3\) and the decoder's 5"),
        ("gru", ("h", "c"), (6, 6), 2, r"state 'c' is not among the encoder's \(h\)"),
    ],
)
def test_copy_refuses_what_it_cannot_do_exactly(source: str, names: Any, sizes: Any, layers: int, words: str) -> None:
    with pytest.raises(ValueError, match=f"^bridge 'copy'.*{words}"):
        BRIDGES["copy"](encoder(source), names, sizes, layers)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"^bridge must be one of .* got 'max'"):
        from_table("bridge", "max", BRIDGES)
