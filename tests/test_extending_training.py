"""A schedule, an optimiser, a logger, a reader and a constraint of the user's own: each is one file and a name in YAML,
and trains, is resumed and predicts. And every row of these tables can be built."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import nn

import seqkit
from seqkit import run
from seqkit.config import from_mapping
from seqkit.data import Column, Form
from seqkit.data.formats import READERS, detect, reader
from seqkit.data.source import SourceConfig
from seqkit.decoding import CONSTRAINTS
from seqkit.errors import Stopped, UserError
from seqkit.files import read_json
from seqkit.run.doctor import doctor
from seqkit.tasks.translation.config import DecodingConfig
from seqkit.training import Schedule, TrainingConfig
from seqkit.training.checkpoint import load_weights
from seqkit.training.loggers import LOGGERS, Logger
from seqkit.training.optim import OPTIMIZERS
from seqkit.training.schedules import SCHEDULES, schedule_factor

PACKAGE = {
    "schedule": """
from seqkit.training import Schedule

class InverseRoot(Schedule):
    def __init__(self, *, power: float = 0.5):
        self.power = power

    def after_warmup(self, step, last):
        return (1 + step) ** -self.power
""",
    "optimizer": """
import torch

class Signs(torch.optim.Optimizer):
    def __init__(self, params, *, lr=1e-3, betas: tuple[float, float] = (0.5, 0.9), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 1 - group["betas"][0])
                    parameter.sub_(mean.sign(), alpha=group["lr"])
""",
    "logger": """
from seqkit.training import Logger

class Diary(Logger):
    def __init__(self, file: str = "diary.txt"):
        self.file, self.lines = file, []

    def resumed(self, step, position):
        self.lines = [*position, f"resumed {step}"]

    def position(self):
        return list(self.lines)

    def start(self, folder, config):
        self.path = folder / self.file
        self.lines.append(f"start {config['task']} {config['training']['schedule']['name']}")

    def log(self, record):
        if record["split"] == "train":
            self.lines.append(f"{record['step']} {record['lr']:.6f}")

    def artifact(self, item, name):
        self.lines.append(f"artifact {name} {item.exists()}")

    def end(self, result):
        self.lines.append(f"end {result and result.step}")
        self.path.write_text("\\n".join(self.lines))
""",
    "reader": """
from seqkit.data import BadRow, Reader

class Arrows(Reader):
    def __init__(self, arrow: str = "=>"):
        self.arrow = arrow

    def read(self, path, columns, form):
        for number, line in enumerate(path.read_text(form.encoding).splitlines(), 1):
            cells = line.split(self.arrow)
            if len(cells) == 2:
                row = {"source": cells[0].strip(), "target": cells[1].strip()}
                yield number, [row[column.name] for column in columns]
            else:
                yield number, BadRow("no arrow")
""",
    "constraint": """
from seqkit.decoding import Constraint

class NoLetter(Constraint):
    def __init__(self, letter: str):
        self.letter = letter

    def __call__(self, log_probs, beam):
        ids = [number for number, word in enumerate(beam.words) if self.letter in word]
        log_probs[:, :, ids] = float("-inf")
""",
}
MARK = "from pathlib import Path\nPath(__file__).with_name('was-run').touch()\n"
NAMES: dict[str, tuple[str, Any]] = {
    "schedule": ("training.schedule", "InverseRoot"),
    "optimizer": ("training.optimizer", "Signs"),
    "logger": ("training.loggers", "Diary"),
    "reader": ("data.format", "Arrows"),
    "constraint": ("decoding.constraints", "NoLetter"),
}


@pytest.fixture(scope="module")
def home(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the package, data and a.yaml; what is imported from it is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine").mkdir()
    for name, text in PACKAGE.items():
        (folder / "mine" / f"{name}.py").write_text(text)
    for part in ("train", "dev"):
        sides = [(generated_data / "multi30k" / f"{part}.{side}").read_text().splitlines() for side in ("de", "en")]
        lines = [f"{source} -> {target}" for source, target in zip(*sides, strict=True)]
        (folder / f"{part}.arrows").write_text("\n".join(["no row", *lines]))
    tree = {
        "task": "translation",
        "device": "cpu",
        "data": {
            **{part: {"path": str(folder / f"{part}.arrows"), "limit": 40} for part in ("train", "dev")},
            "format": {"name": "mine.reader:Arrows", "arrow": "->"},
            "on_bad_line": "skip",
            "batch_size": 10,
        },
        "text": {"tokenizer": "char"},
        "model": {
            "source": {"size": 4},
            "target": {"size": 4},
            "encoder": {"cell": "gru", "hidden_size": 4},
            "decoder": {"cell": "gru", "hidden_size": 4, "attention": "general"},
        },
        "training": {
            "steps": 6,
            "metric": "loss",
            "dev_limit": 0,
            "log_every": 1,
            "optimizer": {"name": "mine.optimizer:Signs", "lr": 0.01, "betas": [0.25, 0.5]},
            "schedule": {"name": "mine.schedule:InverseRoot", "warmup": 2, "power": 1.0},
            "loggers": ["jsonl", {"name": "mine.logger:Diary", "file": "my.txt"}],
        },
        "decoding": {
            "beam_size": 2,
            "max_length": 12,
            "constraints": [{"name": "mine.constraint:NoLetter", "letter": "e"}],
        },
    }
    (folder / "a.yaml").write_text(yaml.safe_dump(tree))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith(("mine", "seqkit.config.beside.")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    return run.train(home / "a.yaml", "name=whole", root=home).folder


def test_parts_of_ones_own_train_are_resumed_and_predict(home: Path, whole: Path) -> None:
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    rates = [record["lr"] for record in records if record["split"] == "train"]
    assert rates == pytest.approx([0.01 * factor for factor in (1 / 3, 2 / 3, 1, 1 / 2, 1 / 3, 1 / 4)])
    diary = (whole / "my.txt").read_text().splitlines()
    assert diary[0] == "start translation mine.schedule:InverseRoot"
    assert diary[1:-2] == [f"{step} {rate:.6f}" for step, rate in enumerate(rates, 1)]
    assert diary[-2:] == ["artifact model.safetensors True", "end 6"]
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert config["training"]["optimizer"]["betas"] == [0.25, 0.5]
    assert config["data"]["train"]["format"] == {"name": "mine.reader:Arrows", "arrow": "->"}

    begun = run.train(home / "a.yaml", "name=begun", "training.steps=3", root=home).folder
    run.resume(begun, "training.steps=6", trust=True)
    assert "resumed 3" in (begun / "my.txt").read_text().splitlines()
    weights = [load_weights(folder / "model.safetensors") for folder in (whole, begun)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    task = seqkit.load(begun, trust=True)
    texts = ["the film felt warm.", "a scene."]
    assert all("e" not in prediction.text for prediction in task.predict(texts))
    scores, _ = run.evaluate(begun, str(home / "dev.arrows"), trust=True)
    assert scores["loss"] > 0


@pytest.mark.parametrize("key", NAMES)
def test_what_a_run_folder_names_runs_nothing_without_trust(whole: Path, tmp_path: Path, key: str) -> None:
    folder = tmp_path / "x"
    shutil.copytree(whole, folder)
    path, name = NAMES[key]
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    plain = {"schedule": "constant", "optimizer": "adam", "logger": ["jsonl"], "reader": "tsv", "constraint": []}
    evil = f"evil:{name}"
    for other, (place, _) in NAMES.items():
        section, _, last = place.partition(".")
        value = (
            evil if other == key and not isinstance(plain[other], list) else [evil] if other == key else plain[other]
        )
        for node in [tree["data"]["train"], tree["data"]["dev"]] if section == "data" else [tree[section]]:
            node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    about = read_json(folder / "run.json")
    (folder / "run.json").write_text(json.dumps({**about, "config": tree, "modules": {"evil": str(folder)}}))
    (folder / "evil.py").write_text(MARK + PACKAGE[key])
    for trust, words in ((False, "trust=True"), (True, "cannot import")):
        for call in (lambda t=trust: seqkit.load(folder, trust=t), lambda t=trust: run.resume(folder, trust=t)):
            with pytest.raises(UserError, match=words) as error:
                call()
            assert path.partition(".")[2] in str(error.value)
    assert not list(tmp_path.rglob("was-run"))


# --- every row of a table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_can_be_built_and_steps(name: str) -> None:
    config = from_mapping({"optimizer": name}).check(TrainingConfig).optimizer
    parameter = nn.Parameter(torch.ones(2))
    optimizer = config.make([{"params": [parameter]}])
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert bool((parameter < 1).all())


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_can_be_built_and_gives_factors(name: str) -> None:
    config = from_mapping({"schedule": {"name": name, "warmup": 2}}).check(TrainingConfig).schedule
    assert type(config.make()) is SCHEDULES[name]
    assert 0 < schedule_factor(config, 0, 9) < 1


@pytest.mark.parametrize("name", LOGGERS)
def test_every_logger_can_be_built_and_writes(name: str, tmp_path: Path) -> None:
    if name == "tensorboard":
        pytest.importorskip("tensorboard")
    (logger,) = from_mapping({"loggers": [name]}).check(TrainingConfig).make_loggers().values()
    logger.start(tmp_path, {})
    logger.log({"split": "train", "step": 1, "epoch": 1, "loss": 2.0})
    logger.artifact(tmp_path, "folder")
    logger.position()
    logger.end(None)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) > 0


@pytest.mark.parametrize("name", READERS)
def test_every_reader_reads_and_is_known_by_its_endings(name: str, tmp_path: Path) -> None:
    made = reader(from_mapping({"path": "x", "format": name}).check(SourceConfig).format)
    assert made.endings
    assert all(detect(Path(f"a{ending}.gz")) == name for ending in made.endings)
    path = tmp_path / "rows"
    if name == "parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.table({"tokens": [["a", "b"]]}), path)
    else:
        texts = {"tsv": "tokens\na b\n", "csv": "tokens\na b\n", "jsonl": '{"tokens": ["a", "b"]}\n', "text": "a b\n"}
        path.write_text(texts.get(name, "a O\nb O\n"))
    assert [row for _, row in made.read(path, [Column("tokens", list)], Form())] == [[["a", "b"]]]


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_constraint_can_be_named(name: str) -> None:
    option = {"min_length": {"length": 2}, "max_length": {"length": 2}, "no_repeat_ngram": {"size": 2}}
    option |= {"min_ratio": {"ratio": 0.5}, "max_ratio": {"ratio": 0.5}}
    config = from_mapping({"constraints": [{"name": name, **option.get(name, {})}]}).check(DecodingConfig)
    assert config.model_dump(mode="json")["constraints"] == [{"name": name, **option[name]} if name in option else name]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"optimizer": "adamm"}, "optimizer.*: unknown optimizer 'adamm'; did you mean 'adamw?'"),
        ({"schedule": {"name": "cosin"}}, "schedule.name: unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"loggers": ["json"]}, "loggers.0: unknown logger 'json'; did you mean 'jsonl'"),
        ({"loggers": ["jsonl", "jsonl"]}, "loggers: each can be there once"),
        ({"loggers": [{"name": "jsonl", "file": "x"}]}, "loggers.0.file: unknown key"),
        ({"tensorboard": "yes"}, "tensorboard: input should be a valid boolean"),
        ({"optimizer": {"name": "sgd", "betas": [0.5, 0.9]}}, "betas is for adamw and adam, not for sgd"),
        ({"optimizer": {"name": "torch.optim:Rprop", "momentum": 0.5}}, "optimizer.momentum: unknown key"),
    ],
)
def test_what_is_no_row_is_refused_with_the_nearest_one(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_mapping(tree).check(TrainingConfig)


class Ended(Logger):
    """Says that it ended."""

    ends: ClassVar[list[Any]] = []

    def end(self, result: Any) -> None:
        self.ends.append(result)


class Broken(Ended):
    """Cannot start."""

    def start(self, folder: Path, config: Any) -> None:
        raise OSError("no space")


def test_a_logger_that_cannot_start_leaves_no_other_open(
    small_run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ended, "ends", [])
    for name, kind in (("jsonl", Ended), ("tensorboard", Broken)):
        monkeypatch.setitem(LOGGERS, name, kind)
    with pytest.raises((Stopped, OSError), match="no space"):
        run.train(small_run(loggers=["jsonl", "tensorboard"]), root=tmp_path)
    assert Ended.ends == [None]


def test_an_option_at_the_default_of_any_other_row_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Schedule):
        """A schedule whose `final` differs from the one that linear has."""

        def __init__(self, *, final: float = 0.25) -> None:
            self.final = final

    monkeypatch.setitem(SCHEDULES, "late", Late)
    for final in (0.0, 0.25):
        tree = {"schedule": {"name": "constant", "final": final}}
        assert "final" not in from_mapping(tree).check(TrainingConfig).schedule.model_dump()
    with pytest.raises(UserError, match=r"final is for .*late, not for constant"):
        from_mapping({"schedule": {"name": "constant", "final": 0.1}}).check(TrainingConfig)


# --- what earlier versions wrote --------------------------------------------------------------------------------------


def test_options_of_other_rows_at_their_defaults_are_those_of_an_earlier_version() -> None:
    tree = {
        "optimizer": {"name": "sgd", "lr": 0.1, "betas": [0.9, 0.999], "eps": 1e-8, "momentum": 0.5, "nesterov": True},
        "schedule": {"name": "linear", "warmup": 0.0, "final": 0.5, "factor": 0.5, "patience": 2},
    }
    config = from_mapping(tree).check(TrainingConfig)
    assert "betas" not in config.optimizer.model_dump()
    assert config.schedule.model_dump() == {"name": "linear", "warmup": 0.0, "final": 0.5}
    assert from_mapping(config.model_dump(mode="json")).check(TrainingConfig) == config


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({}, ["jsonl"]),
        ({"tensorboard": False}, ["jsonl"]),
        ({"tensorboard": True}, ["jsonl", "tensorboard"]),
        ({"tensorboard": True, "loggers": []}, ["tensorboard"]),
        ({"tensorboard": False, "loggers": ["jsonl", "tensorboard"]}, ["jsonl"]),
        ({"loggers": ["tensorboard"]}, ["tensorboard"]),
    ],
)
def test_the_key_tensorboard_is_short_for_a_logger(tree: dict[str, Any], expected: list[str]) -> None:
    config = from_mapping(tree).check(TrainingConfig)
    dump = config.model_dump(mode="json")
    assert (dump["loggers"], "tensorboard" in dump) == (expected, False)


def test_an_optimiser_of_torchs_takes_its_own_options() -> None:
    tree = {"optimizer": {"name": "torch.optim:RMSprop", "alpha": 0.5, "weight_decay": 0.1}}
    optimizer = from_mapping(tree).check(TrainingConfig).optimizer.make([{"params": [nn.Parameter(torch.zeros(1))]}])
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert (optimizer.defaults["alpha"], optimizer.defaults["lr"]) == (0.5, 1e-3)
    with pytest.raises(UserError, match=r"weight_decay: torch.optim:Rprop has no such setting"):
        from_mapping({"optimizer": {"name": "torch.optim:Rprop", "weight_decay": 0.1}}).check(
            TrainingConfig
        ).optimizer.make([{"params": [nn.Parameter(torch.zeros(1))]}])


def test_a_run_without_loggers_is_whole(small_run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = run.train(small_run(loggers=[]), root=tmp_path).folder
    assert not list(folder.glob("*.jsonl"))
    assert doctor(folder).good
    run.resume(folder, "training.steps=2", "training.loggers=[jsonl]")
    assert (folder / "metrics.jsonl").exists()


def test_a_logger_that_was_not_there_before_keeps_the_lines_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    made: Logger = LOGGERS["jsonl"]()
    made.resumed(5, None)
    made.start(tmp_path, {})
    made.log({"split": "dev", "step": 6})
    made.end(None)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 6]
