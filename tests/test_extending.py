"""Each kind of table is extended as a user extends it: a file of one's own and a line of YAML, or a row in the table.

What is trained so is evaluated, saved, loaded and used like anything else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import seqkit
from seqkit import run
from seqkit.errors import UserError
from seqkit.models import BRIDGES, POOLINGS, Pooling, bridge
from seqkit.nn import ATTENTIONS, CELLS, Attention, Cell
from seqkit.tasks import TASKS
from seqkit.tasks.sentiment.metrics import METRICS

CELL = """
import torch
from torch import nn
from seqkit.nn import Cell

class Leaky(Cell):
    \"\"\"h' = keep h + (1 - keep) tanh(W [x; h]).\"\"\"
    def __init__(self, input_size, hidden_size, *, keep: float = 0.5):
        super().__init__(input_size, hidden_size)
        self.keep = keep
        self.mix = nn.Linear(input_size + hidden_size, hidden_size)

    def step(self, projected, state, prepared):
        new = torch.tanh(self.mix(torch.cat([projected, state[0]], 1)))
        return (self.keep * state[0] + (1 - self.keep) * new,), {}
"""
ATTENTION = """
import torch
from torch import nn
from seqkit.nn import Attention

class Distance(Attention):
    \"\"\"score = -|W q - U k|^2.\"\"\"
    def __init__(self, query_size, memory_size, *, width: int, sharp: float = 1.0):
        super().__init__(query_size, memory_size)
        self.query, self.key, self.sharp = nn.Linear(query_size, width), nn.Linear(memory_size, width), sharp

    def project(self, memory, padding=None):
        memory = memory if padding is None else memory.masked_fill(padding.unsqueeze(-1), 0.0)
        return self.key(memory), memory

    def scores(self, query, keys):
        return -self.sharp * (self.query(query).unsqueeze(2) - keys.unsqueeze(1)).square().sum(-1)
"""
POOLING = """
import torch
from torch import nn
from seqkit.models import Pooling

class Gated(Pooling):
    \"\"\"The mean of the outputs times a gate of each, in another size.\"\"\"
    def __init__(self, size, *, width: int):
        super().__init__(size)
        self.output_size = width
        self.gate, self.value = nn.Linear(size, width), nn.Linear(size, width)

    def forward(self, output, last, lengths, padding):
        gated = (torch.sigmoid(self.gate(output)) * self.value(output)).masked_fill(padding, 0.0)
        return gated.sum(1) / lengths.clamp(min=1).unsqueeze(1)
"""
BRIDGE = """
import torch
from torch import nn
from seqkit.models import Bridge

class Learned(Bridge):
    \"\"\"The same first state for every source.\"\"\"
    reads_source = False
    def __init__(self, encoder, state_names, state_sizes, num_layers, *, scale: float = 1.0):
        super().__init__(encoder, state_names, state_sizes, num_layers)
        self.first = nn.ParameterList([torch.randn(num_layers, 1, size) * scale for size in state_sizes])

    def forward(self, output, state, lengths):
        return tuple(first.expand(-1, output.size(0), -1).contiguous() for first in self.first)
"""
METRIC = """
def missing(outcome, *, power: float = 1.0) -> float:
    \"\"\"Share of what is wrong.\"\"\"
    labels = hasattr(outcome, "labels")
    pairs = (outcome.labels, outcome.predicted) if labels else (outcome.tags, outcome.predicted_tags)
    wrong = [one != other for one, other in zip(*pairs, strict=True)]
    return (sum(wrong) / len(wrong)) ** power
missing.higher_is_better = False

class Words:
    \"\"\"How many words the outputs have, beside those of the references.\"\"\"
    higher_is_better = True
    def __init__(self, *, least: int = 0):
        self.least = least
    def __call__(self, outcome):
        counts = [sum(len(text.split()) for text in texts) for texts in (outcome.outputs, outcome.references)]
        return max(counts[0], self.least) / counts[1]

def nats_per_character(outcome):
    return outcome.nats / outcome.characters
nats_per_character.higher_is_better = False
"""
TASK = """
import torch
from torch import nn
from seqkit.config import Section
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import Loss

class Data(Section):
    train: list[float]
    shift: float = 1.0

class Config(RunConfig):
    data: Data

class Line(RunTask):
    \"\"\"Learns y = x + shift.\"\"\"
    kind = "line"

    def __init__(self, config):
        self.config, self.model = config, nn.Linear(1, 1)

    @classmethod
    def schema(cls, tree):
        return Config

    @classmethod
    def create(cls, config, folder=None, *, fresh=True):
        return cls(config)

    @classmethod
    def restore(cls, config, folder):
        return cls(config)

    def save(self, folder):
        (folder / "line.txt").write_text("kept")

    def report(self):
        return [f"train: {len(self.config.data.train)} numbers"]

    def batches(self, epoch, start=0):
        return ([torch.tensor(self.config.data.train)[:, None]] * 50)[start:]

    def loss(self, batch, carry):
        return {"loss": Loss((self.model(batch) - batch - self.config.data.shift).square().sum(), len(batch))}, None

    def score(self, data=None, **options):
        batch = self.batches(0)[0]
        return {"error": (self.model(batch) - batch - self.config.data.shift).abs().mean().item()}, []

    def predict(self, texts):
        return [self.model(torch.tensor([[float(text)]])).item() for text in texts]

    def format(self, prediction, form, **options):
        return f"{prediction:.3f}"
"""


@pytest.fixture(autouse=True)
def _same_modules() -> Iterator[None]:
    """What one test imports is not there in the next."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("seqkit.config.beside."):
            del sys.modules[name]


def tree(task: str, **sections: Any) -> dict[str, Any]:
    """A configuration of a task on its built-in data that trains in a moment; the sections are laid over it."""
    name = {"sentiment": "reviews", "slots": "travel", "translation": "phrases", "language_model": "reviews"}[task]
    small = {"size": 6}
    models: dict[str, Any] = {
        "translation": {"source": small, "target": small, "decoder": {"hidden_size": 6}},
    }
    found = {
        "task": task,
        "name": "r",
        "data": {part: {"path": f"builtin:{name}", "limit": 24} for part in ("train", "dev", "test")},
        "model": {**models.get(task, {"embedding": small}), "encoder": {"hidden_size": 6}},
        "training": {"epochs": 2, "keep_best": 2, "optimizer": {"name": "adamw", "lr": 0.02}},
    }
    found["data"]["batch_size"] = 2 if task == "language_model" else 10
    for key, section in sections.items():
        found[key] = {**found.get(key, {}), **section} if isinstance(section, dict) else section
    return found


def extended(folder: Path, code: str, config: dict[str, Any], text: str = "the film is good .") -> Any:
    """Train with a package of the user's own beside the YAML file, then evaluate, load and predict."""
    package = folder / "settings" / "mypackage"
    package.mkdir(parents=True)
    (package / "mine.py").write_text(code)
    (folder / "settings" / "a.yaml").write_text(yaml.safe_dump(config))
    done = run.train(folder / "settings" / "a.yaml", root=folder / "runs")
    scores, _ = run.evaluate(done.folder, trust=True)
    assert {name: pytest.approx(value) for name, value in scores.items()} == done.test
    with pytest.raises(UserError, match=r"a run folder names 'mypackage\.mine:"):
        seqkit.load(done.folder)
    task = seqkit.load(done.folder, trust=True)
    assert len(task.predict([text])) == 1
    return task, done


def modules_of(task: Any, name: str) -> list[Any]:
    return [module for module in task.model.modules() if type(module).__name__ == name]


@pytest.mark.parametrize("name", ["language_model", "translation"])
def test_a_cell(tmp_path: Path, name: str) -> None:
    cell = {"cell": "mypackage.mine:Leaky", "hidden_size": 6, "keep": 0.25}
    parts = {"encoder": cell, **({"decoder": cell} if name == "translation" else {})}
    task, _ = extended(tmp_path, CELL, tree(name, model=parts))
    found = modules_of(task, "Leaky")
    assert len(found) >= len(parts)
    assert {module.keep for module in found} == {0.25}


@pytest.mark.parametrize("input_feeding", [False, True])
def test_an_attention(tmp_path: Path, input_feeding: bool) -> None:
    attention = {"name": "mypackage.mine:Distance", "width": 3}
    decoder = {"hidden_size": 6, "attention": attention, "input_feeding": input_feeding}
    task, done = extended(tmp_path, ATTENTION, tree("translation", model={"decoder": decoder}))
    (found,) = modules_of(task, "Distance")
    assert (found.key.weight.shape, found.sharp) == ((3, 6), 1.0)
    kept = yaml.safe_load((done.folder / "config.yaml").read_text())["model"]["decoder"]
    assert kept["attention"] == {**attention, "sharp": 1.0}
    task.configure({}, attention=True)
    assert task.predict(["the old man sleeps ."])[0].attention.sum(1).allclose(torch.ones(()), atol=1e-5)


@pytest.mark.parametrize(("name", "key"), [("sentiment", "pooling"), ("slots", "intent_pooling")])
def test_a_pooling(tmp_path: Path, name: str, key: str) -> None:
    ways = ["attention", {"name": "mypackage.mine:Gated", "width": 5}, "mean"]
    task, _ = extended(tmp_path, POOLING, tree(name, model={key: ways}))
    (found,) = modules_of(task, "Gated")
    assert found.output_size == 5
    pooling = task.model.pooling
    assert pooling.output_size == 6 + 5 + 6
    assert {"project.weight", "score.weight", "1.gate.weight", "1.value.bias"} <= set(pooling.state_dict())
    parameters = dict(task.model.named_parameters())
    assert len({id(value) for value in parameters.values()}) == len(parameters)


def test_a_bridge(tmp_path: Path) -> None:
    bridge = {"name": "mypackage.mine:Learned", "scale": 0.1}
    task, _ = extended(tmp_path, BRIDGE, tree("translation", model={"bridge": bridge}))
    assert len(modules_of(task, "Learned")) == 1
    none = {"hidden_size": 6, "attention": "none"}
    with pytest.raises(UserError, match="the decoder would see no source"):
        run.read_config(tmp_path / "settings" / "a.yaml", [f"model.decoder={json.dumps(none)}"])


@pytest.mark.parametrize(
    ("task", "metric", "sign"),
    [
        ("sentiment", {"name": "mypackage.mine:missing", "power": 2.0}, -1),
        ("slots", "mypackage.mine:missing", -1),
        ("translation", {"name": "mypackage.mine:Words", "least": 3}, 1),
        ("language_model", "mypackage.mine:nats_per_character", -1),
    ],
)
def test_a_metric_is_scored_logged_and_chooses(tmp_path: Path, task: str, metric: Any, sign: int) -> None:
    name = metric if isinstance(metric, str) else metric["name"]
    loaded, done = extended(tmp_path, METRIC, tree(task, training={"metric": metric, "epochs": 3}))
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    values = [(sign * line[name], line["step"]) for line in lines if line["split"] == "dev"]
    assert len(values) == 3
    about = json.loads((done.folder / "scores.json").read_text())
    best = max(value for value, _ in values)
    assert done.dev[name] == sign * best
    assert done.test[name] == about["test"][name] != 0
    if task == "sentiment":
        assert done.test[name] == pytest.approx((1 - done.test["accuracy"]) ** 2)
    if task == "language_model":
        assert done.test[name] == pytest.approx(done.test["bits_per_character"] * 0.6931472)
    assert loaded.config.training.more_is_better == (sign > 0)


def test_a_metric_that_needs_decoding_is_refused_without(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METRIC)
    config = tree("translation", training={"metric": "mine:Words", "dev_limit": 0})
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="mine:Words needs decoded sentences"):
        run.read_config(tmp_path / "a.yaml")


def test_a_task(tmp_path: Path) -> None:
    config = {
        "task": "mypackage.mine:Line",
        "data": {"train": [1.0, 2.0, 4.0], "shift": 2.0},
        "training": {"epochs": 4, "optimizer": {"lr": 0.1}},
    }
    package = tmp_path / "settings" / "mypackage"
    package.mkdir(parents=True)
    (package / "mine.py").write_text(TASK)
    (tmp_path / "settings" / "a.yaml").write_text(yaml.safe_dump(config))
    done = run.train(tmp_path / "settings" / "a.yaml", root=tmp_path / "runs")
    assert run.evaluate(done.folder, trust=True)[0]["error"] < 0.1
    assert seqkit.load(done.folder, trust=True).predict(["3"]) == [pytest.approx(5.0, abs=0.2)]


class Plain(Attention):
    """A row of a table that is added in one line."""

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return query.sum(2, keepdim=True) * keys.sum(2).unsqueeze(1)


class Other(Cell):
    """The same of cells."""

    def step(self, projected: Tensor, state: Any, prepared: Any) -> Any:
        return (torch.tanh(projected.sum(1, keepdim=True) + state[0]),), {}


class First(Pooling):
    """The same of poolings."""

    def forward(self, output: Tensor, last: Tensor, lengths: Tensor, padding: Tensor) -> Tensor:
        return output[:, 0]


class Zero(bridge.ZeroBridge):
    """The same of bridges."""


def right(outcome: Any) -> float:
    """The same of metrics."""
    return float((outcome.labels == outcome.predicted).sum())


@pytest.mark.parametrize(
    ("table", "entry", "key"),
    [
        (CELLS, Other, "model.encoder.cell"),
        (ATTENTIONS, Plain, "model.decoder.attention"),
        (POOLINGS, First, "model.pooling"),
        (BRIDGES, Zero, "model.bridge"),
        (METRICS, right, "training.metric"),
        (TASKS, TASKS["sentiment"], "task"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_a_row_of_a_table_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: dict[str, Any], entry: Any, key: str
) -> None:
    """After it the YAML, its schema and its messages know the name."""
    monkeypatch.setitem(table, "mine", entry)
    config = tree("translation" if table in (ATTENTIONS, BRIDGES) else "sentiment")
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = "mine"
    _, kind = run.read_config(config)
    assert '"mine"' in json.dumps(kind.schema(config).model_json_schema())
    done = run.train(config, "training.epochs=1", root=tmp_path)
    assert seqkit.load(done.folder).predict(["the film is good ."])
    node[last] = "mien"
    with pytest.raises(UserError, match=rf"{key}.*: unknown {last.removesuffix('s')} 'mien'; did you mean 'mine'\?"):
        run.read_config(config)
