"""The layers that the tasks declare: every parameter in one, in the order of the computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seqkit.models import Embedding, Encoder, SequenceClassifier
from seqkit.nn import CELLS, Recurrent
from seqkit.nn.lora import add_lora
from seqkit.run import read_config
from seqkit.tasks.layer_groups import reader_groups, recurrent_layers
from seqkit.training import TrainingConfig
from seqkit.training.freezing import Freezing

ROOT = Path(__file__).parent.parent.parent
EVERY = TrainingConfig.model_validate({"unfreeze": {"every": 1}})


def layers(model: nn.Module, groups: Any) -> list[set[str]]:
    """The names of each layer, input side first."""
    return [set(stage.names) for stage in reversed(Freezing(model, groups, EVERY).stages)]


def of(config: str, *overrides: str) -> tuple[Any, list[set[str]]]:
    checked, kind = read_config(ROOT / "configs" / config, [*overrides, "data.train.limit=60"])
    task = kind.create(checked)
    found = layers(task.model, task.layer_groups())
    trained = [name for name, one in task.model.named_parameters() if one.requires_grad]
    assert sorted(name for layer in found for name in layer) == sorted(trained)
    return task, found


def modules(layer: set[str]) -> set[str]:
    """What the parameters of a layer belong to."""
    return {name.rpartition(".")[0] for name in layer}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("directions", [1, 2])
def test_each_layer_of_any_cell_is_a_group(cell: str, directions: int) -> None:
    """That of a parameter is the first layer whose output it changes."""
    torch.manual_seed(0)
    recurrent = Recurrent(cell, 3, 2, 11, bidirectional=directions == 2, learn_initial_state=True)
    model = nn.ModuleDict({"inner": recurrent})
    found = layers(model, recurrent_layers("inner", recurrent))
    assert len(found) == 11
    for number, layer in enumerate(found):
        cells = range(number * directions, (number + 1) * directions)
        expected = {name for name, one in model.named_parameters() if _in_cells(recurrent, one, cells)}
        expected |= {f"inner.initial_{part}{recurrent.suffix(c)}" for c in cells for part in _states(recurrent)}
        assert layer == expected


def _in_cells(recurrent: Recurrent, parameter: nn.Parameter, cells: range) -> bool:
    held = [
        one for cell in cells for one in (*recurrent._weights(cell).values(), *recurrent.cell_at(cell).parameters())
    ]
    return any(parameter is one for one in held)


def _states(recurrent: Recurrent) -> tuple[str, ...]:
    return tuple(recurrent.cell_at(0).state_names)


def test_a_classifier() -> None:
    _, found = of("sentiment/quickstart.yaml", "model.encoder.num_layers=2", "model.encoder.bidirectional=true")
    assert [modules(layer) for layer in found] == [
        {"encoder.embedding.table"}, {"encoder.recurrent"}, {"encoder.recurrent"}, {"output"},
    ]  # fmt: skip
    assert all("_l0" in name for name in found[1])
    assert all("_l1" in name for name in found[2])


def test_an_adapter_is_of_the_layer_of_its_weight() -> None:
    encoder = Encoder(Embedding(9, 4), Recurrent("lstm", 4, 4, 2, bidirectional=True, batch_first=True))
    model = SequenceClassifier(encoder, 2)
    add_lora(model, rank=2, on=["encoder.recurrent.weight*"], train=["output.*"])
    found = layers(model, reader_groups(encoder))
    assert [len(layer) for layer in found] == [8, 8, 2]
    assert all("_l0" in name and ".lora_" in name for name in found[0])
    assert all("_l1" in name for name in found[1])


def test_a_tied_language_model_has_its_embedding_in_the_output() -> None:
    _, found = of("language_model/quickstart.yaml")
    assert [modules(layer) for layer in found] == [
        {"encoder.recurrent"}, {"encoder.embedding.table", "token_scores", "vector"},
    ]  # fmt: skip
    _, found = of("language_model/quickstart.yaml", "model.tie=false")
    assert [modules(layer) for layer in found] == [
        {"encoder.embedding.table"}, {"encoder.recurrent"}, {"token_scores"},
    ]  # fmt: skip


def test_taggers() -> None:
    _, found = of("slots/travel.yaml", "model.characters={embedding: {size: 4}, encoder: {hidden_size: 4}}")
    assert modules(found[0]) == {
        "encoder.embedding.table", "characters.encoder.embedding.table", "characters.encoder.recurrent",
    }  # fmt: skip
    assert [modules(layer) for layer in found[1:-1]] == [{"encoder.recurrent"}]
    assert {"crf", "tag_scores"} <= modules(found[-1])
    _, found = of("slots/travel-window.yaml")
    assert [modules(layer) for layer in found[:-1]] == [{"encoder.embedding.table"}, {"encoder.window"}]


def test_translation() -> None:
    upper = ["model.decoder.num_layers=3", "model.decoder.attention_layer=1"]
    _, found = of("translation/quickstart.yaml", *upper, "model.encoder.num_layers=2", "model.decoder.tie=none")
    assert [modules(layer) for layer in found] == [
        {"encoder.embedding.table"},
        {"encoder.recurrent"},
        {"encoder.recurrent"},
        {"bridge.maps.0", "bridge.maps.1", "bridge.maps.2"},
        {"decoder.embedding.table"},
        {"decoder.lower"},
        {"decoder.upper.0"},
        {"decoder.upper.1"},
        {"decoder.attention.key", "decoder.vector", "decoder.output"},
    ]
