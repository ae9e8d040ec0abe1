"""The short ways of one example give what the long ways give, bit for bit, and follow the weights."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from seqkit.decoding.selection import best_continuations
from seqkit.nn import LSTM, RNN, AttentionalRecurrent, add_lora
from seqkit.nn.aten_step import ONE_BIAS, OneBiasStep
from seqkit.nn.cells import CELLS
from seqkit.nn.direct import is_full
from seqkit.nn.kernels.decode_step import SingleStep


@pytest.mark.parametrize(("name", "options"), [("lstm", {}), ("rnn", {}), ("lstm", {"bias": False})])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_step_with_one_bias_is_the_cells_own(name: str, options: dict[str, Any], rows: int) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](19, 32, **options).eval()
    x, state = torch.randn(rows, 19), tuple(torch.randn(rows, 32) for _ in cell.state_names)
    with torch.no_grad():
        prepared = cell.prepare(cell.weights(), [rows])
        wanted, _ = cell.step(cell.project(x, prepared), state, prepared)
        mode = cell.single_mode()
        assert mode in ONE_BIAS
        output, found = OneBiasStep(mode, cell.weights())(x, state)
    assert output is found[0]
    assert all(map(torch.equal, wanted, found))


@torch.no_grad()
def test_a_search_that_starts_anew_takes_the_weights_of_then() -> None:
    torch.manual_seed(0)
    decoder = AttentionalRecurrent(6, 5, "lstm", 8, num_layers=2, attention="general").eval()
    memory = decoder.remember(torch.randn(1, 4, 5), torch.tensor([4]))
    inputs = torch.randn(1, 3, 6)
    for _ in range(2):
        wanted, _ = decoder(inputs, None, decoder.initial_state(1), memory)
        state, found = decoder.start(decoder.initial_state(1)), []
        for time in range(3):
            features, state, _ = decoder.step(inputs[:, time : time + 1], state, memory)
            found.append(features)
        torch.testing.assert_close(torch.cat(found, 1), wanted)
        for value in decoder.parameters():
            value.mul_(1.5)


@pytest.mark.parametrize("kind", [LSTM, RNN])
def test_full_lengths_change_nothing(kind: Any) -> None:
    torch.manual_seed(0)
    network = kind(5, 7, bidirectional=True, batch_first=True)
    x = torch.randn(2, 6, 5)
    output, state = network(x)
    again, same = network(x, lengths=torch.tensor([6, 6]))
    assert torch.equal(output, again)
    assert all(map(torch.equal, torch.utils._pytree.tree_leaves(state), torch.utils._pytree.tree_leaves(same)))
    assert is_full(torch.tensor([6, 6]), x, True)
    for lengths in (torch.tensor([6, 5]), torch.tensor([2, 2]), torch.tensor([6]), [6, 6], torch.tensor([6.0, 6.0])):
        assert not is_full(lengths, x, True)
    with pytest.raises(ValueError, match="lengths must lie between"):
        network(x, lengths=torch.tensor([6, 7]))


def test_the_best_of_one_hypothesis_is_the_first_of_a_sorted_list() -> None:
    torch.manual_seed(0)
    log_probs, sums = torch.randn(3, 1, 900).log_softmax(2), torch.randn(3, 1)
    log_probs[2] = -torch.inf
    scores, parents, tokens = best_continuations(log_probs, sums, 1)
    totals = (log_probs + sums.unsqueeze(2)).flatten(1)
    assert torch.equal(scores[:, 0], totals.max(1).values)
    assert tokens[:, 0].tolist() == [*totals[:2].argmax(1).tolist(), 0]
    assert not parents.any()


def changes() -> list[Any]:
    """What may happen to the weights of a model between two searches: (name, does it)."""

    def steps(make: Any) -> Any:
        def change(module: torch.nn.Module) -> None:
            for value in module.parameters():
                value.grad = torch.ones_like(value)
            make(module.parameters()).step()

        return change

    @torch.inference_mode()
    def inside_inference_mode(module: torch.nn.Module) -> None:
        for value in module.parameters():
            value.mul_(1.5)

    def new_data(module: torch.nn.Module) -> None:
        for value in module.parameters():
            value.data = value.data * 1.5

    def data_and_a_switch(module: torch.nn.Module) -> None:
        module.train()
        for value in module.parameters():
            value.data.mul_(1.5)
        module.eval()

    def new_parameters(module: torch.nn.Module) -> None:
        for part in module.modules():
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, torch.nn.Parameter(value.detach() * 1.5))

    def other_types(module: torch.nn.Module) -> None:
        module.bfloat16().float()

    def loaded(module: torch.nn.Module, assign: bool = False) -> None:
        module.load_state_dict({name: 1.5 * value for name, value in module.state_dict().items()}, assign=assign)

    adam, sgd = torch.optim.Adam, torch.optim.SGD
    return [
        ("sgd", steps(lambda values: sgd(values, lr=0.1))),
        ("adam, foreach", steps(lambda values: adam(values, lr=0.1, foreach=True))),
        ("adam, fused", steps(lambda values: adam(values, lr=0.1, fused=True))),
        ("inference mode", inside_inference_mode),
        ("new data", new_data),
        ("data and a switch", data_and_a_switch),
        ("new parameters", new_parameters),
        ("other types", other_types),
        ("loaded", loaded),
        ("assigned", lambda module: loaded(module, assign=True)),
        ("adapters", lambda module: add_lora(module)),
    ]


def decoded(decoder: AttentionalRecurrent, inputs: torch.Tensor, memory: Any) -> torch.Tensor:
    """Features (B, T, F) of steps one by one."""
    state, found = decoder.start(decoder.initial_state(len(inputs))), []
    for time in range(inputs.size(1)):
        features, state, _ = decoder.step(inputs[:, time : time + 1], state, memory)
        found.append(features)
    return torch.cat(found, 1)


@pytest.mark.parametrize(("name", "change"), changes())
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_kept_weights_are_never_stale(kind: str, name: str, change: Any) -> None:
    """Sizes at which the cell's weights and the features' layer are packed, and kept from search to search."""
    torch.manual_seed(0)
    decoder = AttentionalRecurrent(64, 128, kind, 128, input_feeding=True, feature_size=512).eval()
    inputs = torch.randn(5, 3, 64)
    with torch.no_grad():
        memory = decoder.remember(torch.randn(5, 4, 128), torch.tensor([4, 4, 3, 4, 4]))
        before = decoded(decoder, inputs, memory)
        kept = list(decoder._single.cells.values()), list(decoder._single.layers.values())
        assert any(isinstance(step, SingleStep) for step in kept[0])
        assert all(product._packed is not None for product in kept[1])
        assert torch.equal(before, decoded(decoder, inputs, memory))
        assert kept == (list(decoder._single.cells.values()), list(decoder._single.layers.values()))
    change(decoder)
    if name == "adapters":
        for part, value in decoder.named_parameters():
            if part.endswith("lora_b"):
                torch.nn.init.normal_(value, std=0.05)
    with torch.no_grad():
        found = decoded(decoder, inputs, memory)
        wanted, _ = decoder(inputs, None, decoder.initial_state(5), memory)
        assert (found - before).abs().max() > 1e-4
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
        if name == "adapters":  # what is computed of weights is laid out for each search anew
            torch.nn.init.zeros_(decoder.get_parameter("lower.parametrizations.weight_hh_l0.0.lora_b"))
            assert not torch.equal(found, decoded(decoder, inputs, memory))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bahdanau", "dot", "multi_head"])
def test_a_source_without_padding_is_read_as_with_a_mask(kind: str) -> None:
    torch.manual_seed(0)
    decoder = AttentionalRecurrent(6, 8, "lstm", 8, attention=kind).eval()
    source, inputs = torch.randn(1, 4, 8), torch.randn(1, 3, 6)
    full = decoder.remember(source, torch.tensor([4]))
    padded = decoder.remember(torch.cat([source, torch.randn(1, 2, 8)], 1), torch.tensor([4]))
    assert decoder._single.unpadded(full[2])
    assert not decoder._single.unpadded(padded[2])
    wanted = decoded(decoder, inputs, padded)
    torch.testing.assert_close(decoded(decoder, inputs, full), wanted)
    full[2][:, 2:] = True  # between two searches a mask may change
    decoded(decoder, inputs, full)
    assert not decoder._single.unpadded(full[2])


@torch.no_grad()
def test_a_hook_on_a_linear_layer_sees_each_step() -> None:
    decoder = AttentionalRecurrent(6, 8, "lstm", 8).eval()
    memory, seen = decoder.remember(torch.randn(1, 4, 8), torch.tensor([4])), []
    decoder.vector.register_forward_hook(lambda *call: seen.append(call[2]))
    found = decoded(decoder, torch.randn(1, 3, 6), memory)
    assert torch.equal(torch.stack(seen, 1), found)  # the hyperbolic tangent is taken in place


@torch.no_grad()
def test_a_decoder_runs_on_tensors_without_data() -> None:
    with FakeTensorMode():
        decoder = AttentionalRecurrent(6, 8, "lstm", 8).eval()
        memory = decoder.remember(torch.randn(1, 4, 8), torch.tensor([4]))
        assert decoded(decoder, torch.randn(1, 3, 6), memory).shape == (1, 3, 8)
        assert not decoder._single


@torch.no_grad()
def test_saved_and_copied_decoders_hold_no_kept_weights() -> None:
    torch.manual_seed(0)
    decoder = AttentionalRecurrent(64, 128, "lstm", 128, feature_size=512).eval()
    memory, inputs = decoder.remember(torch.randn(5, 4, 128), torch.full((5,), 4)), torch.randn(5, 2, 64)
    before = pickle.dumps(decoder)
    expected = decoded(decoder, inputs, memory)
    assert decoder._single
    after = pickle.dumps(decoder)
    assert len(after) - len(before) < 100
    assert b"KeptSteps" not in after
    for other in (pickle.loads(after), copy.deepcopy(decoder)):
        assert not other._single
        assert torch.equal(decoded(other, inputs, memory), expected)
    older = AttentionalRecurrent.__new__(AttentionalRecurrent)
    older.__setstate__({**decoder.__getstate__(), "_single": {}})
    assert torch.equal(decoded(older, inputs, memory), expected)
