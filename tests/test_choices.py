"""Every name of every choice list in a configuration does something of its own, and another name is refused by the code
that tells them apart: it is not taken for one of them. Every row of every table has code, and what a run folder names
in the place of a row never runs."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
import yaml
from pydantic import BaseModel
from torch import nn

from seqkit import run
from seqkit.config import OneOf, Untrusted, from_mapping, resolve
from seqkit.config.names import built_in
from seqkit.config.registry import options_of
from seqkit.data.batching import BatchingConfig, plan_batches
from seqkit.data.formats import read
from seqkit.data.readers import SKIPS, Column
from seqkit.data.source import SourceConfig
from seqkit.data.sources import open_source
from seqkit.data.token_cache import Encoder as TextEncoder
from seqkit.decoding.constraints import CONSTRAINTS, Beam, length_limits
from seqkit.decoding.penalties import length_penalty
from seqkit.errors import UserError
from seqkit.models import BRIDGES, POOLINGS, Decoder, Embedding, Encoder, Poolings, Seq2Seq
from seqkit.models.tagger import Tagger
from seqkit.nn import ATTENTIONS, CELLS, Recurrent, from_table, make_attention
from seqkit.nn.backends import scan
from seqkit.nn.initialise import initialise
from seqkit.nn.kernels.kernel import SLOPES, apply_
from seqkit.run.doctor import doctor
from seqkit.tasks import TASKS, RunTask
from seqkit.tasks.common import REFUSES
from seqkit.tasks.lines import as_json
from seqkit.tasks.sentiment.task import SentimentTask
from seqkit.tasks.slots.data import number_tags
from seqkit.tasks.translation.metrics import make_bleu
from seqkit.text import TextConfig, Tokenizer
from seqkit.training import Task, TrainingConfig
from seqkit.training.freezing import Freezing
from seqkit.training.loggers import LOGGERS
from seqkit.training.optim import OPTIMIZERS, OptimizerConfig, make_optimizer
from seqkit.training.schedules import SCHEDULES, ScheduleConfig, schedule_factor
from seqkit.training.trainer_state import State
from seqkit.training.transfer import Given, Rows, transfer_weights
from seqkit.training.update import PRECISIONS, Updater
from seqkit.training.weight_map import Choice

MADE_UP: Any = "made_up"
RUNS = Path(__file__).parent / "fixtures" / "2026-11"


def literals(annotation: Any) -> Iterator[tuple[str, ...]]:
    if get_origin(annotation) is Literal:
        yield get_args(annotation)
    elif get_origin(annotation) is not Annotated:
        for part in get_args(annotation):
            yield from literals(part)


def tables(annotation: Any, metadata: Iterable[Any]) -> Iterator[OneOf]:
    yield from (one for one in metadata if isinstance(one, OneOf))
    for part in get_args(annotation):
        yield from tables(part, getattr(part, "__metadata__", ()))


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from sections(part)


def choices(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, tuple[str, ...] | OneOf]]:
    """Key -> names, or the table, for every choice list of a schema."""
    for name, field in section.model_fields.items():
        for names in literals(field.annotation):
            yield f"{path}{name}", names
        for one in tables(field.annotation, field.metadata):
            yield f"{path}{name}", one
        for inner in sections(field.annotation):
            yield from choices(inner, f"{path}{name}.")


def walked() -> Iterator[tuple[str, str, tuple[str, ...] | OneOf]]:
    """Task, key and choice list, of every task with every cell."""
    for task in TASKS:
        for cell in CELLS:
            tree = {"model": {"encoder": {"cell": cell}, "decoder": {"cell": cell}}}
            kind = resolve("task", task, RunTask, TASKS)  # type: ignore[type-abstract]
            yield from ((task, *pair) for pair in choices(kind.schema(tree)))


def all_choices() -> list[tuple[str, str, tuple[str, ...]]]:
    """The same with the names of a table in its place."""
    return sorted({(task, key, one.names if isinstance(one, OneOf) else one) for task, key, one in walked()})


REGISTRIES = {(task, key): one for task, key, one in walked() if isinstance(one, OneOf)}


def with_(config: Any, **values: Any) -> Any:
    """Values that no validator has seen, as code may hand them on."""
    return config.model_copy(update=values)


def numbers(value: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(one, 5) for one in value.detach().flatten().tolist())


def optimizer(name: str) -> object:
    made = make_optimizer(nn.Linear(2, 1), with_(OptimizerConfig(), name=name))
    return type(made)


def schedule(name: str) -> object:
    config = with_(ScheduleConfig(), name=name, warmup=2)
    rates = [schedule_factor(config, step, 12) for step in range(12)]
    state, training = State(), with_(TrainingConfig(), schedule=config)
    for _ in range(5):
        state.judge({"loss": 1.0}, training)
    return tuple(rates), state.plateau_factor


class Plain(Task):
    model = nn.Linear(2, 1)
    batches: Any = None
    loss: Any = None


def precision(name: str) -> object:
    updater = Updater(Plain(), with_(TrainingConfig(), precision=name), torch.device("cpu"))
    with updater.autocast():
        return Plain.model(torch.ones(1, 2)).dtype, updater.scaler.is_enabled()


def metric_mode(name: str) -> object:
    modes = [with_(TrainingConfig(), metric=metric, metric_mode=name).more_is_better for metric in ("loss", "accuracy")]
    return tuple(modes)


def unit(name: str) -> object:
    config = from_mapping({"unfreeze": {"every": 2}}).check(TrainingConfig)
    config = with_(config, unfreeze=with_(config.unfreeze, unit=name))
    freezing = Freezing(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), [["0.*"], ["1.*"]], config)
    return freezing.stage(0, 3), bool(freezing.unreached(9, 1))


def new_rows(name: Any) -> object:
    torch.manual_seed(1)
    model = nn.Embedding(3, 2)
    rows = {"weight": Rows(["<pad>", "a", "b"], words=True)}
    given = Given("g", {"weight": torch.tensor([[0.0, 0.0], [5.0, 6.0]])}, {"weight": Rows(["<pad>", "a"], words=True)})
    transfer_weights(model, given, rows, Choice(new_rows=name))
    return numbers(model.weight)


def text(**values: Any) -> Callable[[str], object]:
    """What a tokenizer with these settings makes of a text; the name takes the place of None."""
    import pyarrow as pa

    def effect(name: str) -> object:
        config = with_(TextConfig(), **{key: name if value is None else value for key, value in values.items()})
        tokenizer = Tokenizer.train(["it's ﬁne, né", "ne\u0301 fine it ' s"], config)
        line = "it's ﬁne, ne\u0301 né"
        ids = tuple(tokenizer.encode([line])[0])
        assert ids == tuple(TextEncoder(tokenizer)(pa.array([line]))[0].tolist())
        return tuple(tokenizer.pieces(line)), ids

    return effect


def batch_by(name: str) -> object:
    config = with_(BatchingConfig(), batch_by=name, batch_size=8)
    return tuple(map(len, plan_batches(np.array([4, 4, 1, 1, 3]), config)))


def on_bad_line(name: str, folder: Path) -> object:
    path = folder / "bad.tsv"
    path.write_text("text\tlabel\na b\tx\nonly one\nc\ty\n", "utf-8")
    config = with_(SourceConfig(path=str(path)), on_bad_line=name)
    try:
        return open_source(config, {"text": str, "label": str}, "train").skipped
    except UserError as error:
        return str(error).partition(":")[0] and "refused"


def file_format(name: str, folder: Path) -> object:
    """The rows of a file that each of the readers of text takes in another way; parquet is none."""
    path = folder / "rows.data"
    path.write_text('text\ttags\n"a\tO"\n{"text": "x y", "tags": ["O"]}\n', "utf-8")
    try:
        return repr(list(read(path, name, [Column("text", str)])))
    except UserError as error:
        return name, str(error)


def on_bad_tags(name: str, folder: Path) -> object:
    path = folder / "tags.jsonl"
    path.write_text(json.dumps({"tokens": ["a", "b"], "tags": ["O", "I-x"]}) + "\n", "utf-8")
    source = open_source(SourceConfig(path=str(path)), {"tokens": list, "tags": list}, "train")
    try:
        return numbers(
            torch.from_numpy(number_tags(source, ["O", "B-x", "I-x"], name, refuse=True, learned=True)[0][0])
        )
    except UserError:
        return "refused"


def class_weights(name: Any) -> object:
    labels = np.array([0, 0, 1])
    config = SimpleNamespace(training=SimpleNamespace(class_weights=name))
    task: Any = SimpleNamespace(config=config, splits={"train": SimpleNamespace(labels=labels)}, classes=["a", "b"])
    weights = SentimentTask._class_weights(task)
    return None if weights is None else numbers(weights)


def cell(option: str, kind: str) -> Callable[[Any], object]:
    """Outputs and first weights of a cell with this option, in training, where its masks count."""

    def effect(name: Any) -> object:
        torch.manual_seed(2)
        more: dict[str, Any] = {"recurrent_dropout": 0.5} if option == "recurrent_dropout_kind" else {}
        if name == "irnn":
            more["nonlinearity"] = "relu"
        module = Recurrent(kind, 3, 4, batch_first=True, **{option: name}, **more)
        return numbers(module(torch.randn(2, 5, 3) * 3)[0])

    return effect


def backend(name: Any) -> object:
    module = Recurrent("lstm", 3, 4, backend=name) if name != "triton" else None  # it needs a card
    return name if module is None else module.backend


def attention(name: Any) -> object:
    options = {} if name != "none" else {"feed_context": True}
    decoder = Decoder(Embedding(5, 4), 4, attention=name, hidden_size=4, **options)
    kind = type(decoder.attention).__name__
    if name == "concat":  # by another name
        assert kind == attention("bahdanau")
        return name
    return kind


def decoder_option(option: str) -> Callable[[Any], object]:
    def effect(name: Any) -> object:
        encoder = Encoder(Embedding(5, 6), Recurrent("lstm", 6, 6, batch_first=True))
        model = Seq2Seq(encoder, Decoder(Embedding(5, 6), 6, hidden_size=6, **{option: name}))
        return sum(parameter.numel() for parameter in model.parameters())

    return effect


def constraint(name: str) -> object:
    entry = CONSTRAINTS[name]
    made, source = entry(*[2] * len(inspect.signature(entry).parameters)), torch.tensor([9])
    scores, past = torch.zeros(1, 1, 4), torch.tensor([[[2, 2]]])
    made(scores, Beam(2, torch.tensor([0]), source, [], 3, 1, lambda: past))
    return [int(limit) for limit in length_limits(source, [made])], numbers(scores)


def bridge(name: Any) -> object:
    torch.manual_seed(3)
    encoder = Recurrent("gru", 3, 4, batch_first=True)
    output, state = encoder(torch.randn(2, 5, 3))
    made = from_table("bridge", name, BRIDGES)(encoder, ("h",), (4,), 1)
    return numbers(made(output, state, torch.tensor([5, 5]))[0])


def pooling(name: Any) -> object:
    torch.manual_seed(4)
    return numbers(Poolings(3, [name])(torch.randn(2, 5, 3), torch.randn(2, 3), torch.tensor([5, 4])))


def tagging(name: Any) -> object:
    torch.manual_seed(5)
    encoder = Encoder(Embedding(9, 3), Recurrent("gru", 3, 4, batch_first=True))
    return Tagger(encoder, 3, output=name).crf.transitions.requires_grad


def tokenize(name: str) -> object:
    if name in ("auto", "ja-mecab", "ko-mecab", "flores200"):  # see tests/tasks/test_translation_scoring.py
        return name
    pytest.importorskip("sacrebleu")
    made = make_bleu(name)
    return made.tokenizer("It's 3–4, 我喜欢 a.b")


SCORES = {
    "sentiment": ("loss", "accuracy", "macro_f1"),
    "language_model": ("loss", "perplexity", "bits_per_character"),
    "translation": ("loss", "perplexity", "bleu", "chrf"),
    "slots": ("loss", "span_precision", "span_recall", "span_f1", "sentence_accuracy", "intent_accuracy"),
}
EFFECTS: dict[str, Any] = {
    "optimizer.name": optimizer,
    "schedule.name": schedule,
    "precision": precision,
    "metric_mode": metric_mode,
    "unit": unit,
    "new_rows": new_rows,
    "keep": text(keep=None, max_length=2),
    "split": text(split=None),
    "normalize": text(normalize=None),
    "batch_by": batch_by,
    "on_bad_line": on_bad_line,
    "format": file_format,
    "on_bad_tags": on_bad_tags,
    "on_unknown_label": lambda name: REFUSES[name],
    "class_weights": class_weights,
    "backend": backend,
    "task": lambda name: built_in(TASKS[name]),
    "cell": lambda name: type(Recurrent(name, 3, 4).cell_at(0)),
    "attention": attention,
    "output": {("linear", "deep"): decoder_option("output"), ("crf", "softmax"): tagging},
    "tie": decoder_option("tie"),
    "bridge": bridge,
    "constraints": constraint,
    "loggers": lambda name: LOGGERS[name],
    "pooling": pooling,
    "intent_pooling": pooling,
    "length_penalty_kind": lambda name: length_penalty(7, 0.5, name),
    "tokenize": tokenize,
    "cell_activation": cell("cell_activation", "lstm"),
    "output_activation": {
        ("tanh", "relu", "sigmoid", "identity"): cell("output_activation", "lstm"),
        ("identity", "tanh", "sigmoid", "relu"): cell("output_activation", "jordan"),
    },
    "nonlinearity": cell("nonlinearity", "rnn"),
    "recurrent_dropout_kind": cell("recurrent_dropout_kind", "gru"),
    "init": {("torch", "orthogonal"): cell("init", "gru"), ("torch", "orthogonal", "irnn"): cell("init", "rnn")},
}
LISTS = sorted({(key.split(".")[-1] if key.split(".")[-1] != "name" else ".".join(key.split(".")[-2:]), names)
                for _, key, names in all_choices() if not key.endswith("metric") and names != ("auto",)})  # fmt: skip


@pytest.mark.parametrize(("key", "names"), LISTS, ids=[f"{key}-{len(names)}" for key, names in LISTS])
def test_every_name_has_an_effect_of_its_own_and_another_is_refused(
    key: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    effect = EFFECTS[key]
    effect = effect[names] if isinstance(effect, dict) else effect
    own = (tmp_path,) if effect in (on_bad_line, file_format, on_bad_tags) else ()
    asked = [name for name in names if key not in ("format", "split") or name != "auto"]  # one of the others
    found = [effect(name, *own) for name in asked]
    for number, one in enumerate(found):
        assert one not in found[:number], f"{asked[number]} and {asked[found.index(one)]}"
    with pytest.raises((KeyError, ValueError, UserError, AttributeError)):
        effect(MADE_UP, *own)


@pytest.mark.parametrize(("task", "key", "names"), [one for one in all_choices() if one[1].endswith("metric")])
def test_every_metric_is_a_score_of_its_task(task: str, key: str, names: tuple[str, ...]) -> None:
    assert set(names) <= set(SCORES[task])


def test_choice_lists_are_those_of_the_tables() -> None:
    found = {key.split(".", 1)[-1]: set(names) for _, key, names in all_choices()}
    tables: dict[str, Any] = {
        "optimizer.name": OPTIMIZERS,
        "schedule.name": SCHEDULES,
        "precision": PRECISIONS,
        "train.on_bad_line": SKIPS,
        "task": TASKS,
        "encoder.cell": CELLS,
        "decoder.cell": CELLS,
        "decoder.attention": ["none", *ATTENTIONS],
        "bridge": BRIDGES,
        "pooling": POOLINGS,
        "intent_pooling": POOLINGS,
    }
    assert {key: set(table) for key, table in tables.items()} == {key: found[key] for key in tables}
    assert set(SLOPES) == {"tanh", "sigmoid", "relu", "identity"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: initialise({"weight_hh": torch.zeros(2, 2)}, 2, MADE_UP),
        lambda: apply_(MADE_UP, torch.zeros(2), torch.zeros(2)),
        lambda: make_attention(MADE_UP, 2, 2),
        lambda: scan(MADE_UP, *[None] * 5),  # type: ignore[arg-type]
        lambda: as_json(MADE_UP),
    ],
)
def test_what_code_tells_apart_by_name_takes_no_other(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=MADE_UP):
        call()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_kind_of_dropout_that_was_changed_after_construction_is_refused(kind: str) -> None:
    module = Recurrent(kind, 3, 4, recurrent_dropout=0.5)
    for one in module.cells:
        one.recurrent_dropout_kind = MADE_UP
    with pytest.raises(ValueError, match=MADE_UP):
        module(torch.zeros(2, 1, 3))


def test_a_name_that_was_changed_after_construction_is_refused() -> None:
    encoder = Recurrent("gru", 3, 4, batch_first=True)
    encoder.backend = MADE_UP
    with pytest.raises(ValueError, match=MADE_UP):
        encoder(torch.randn(2, 5, 3))


@pytest.mark.parametrize(("task", "key"), REGISTRIES)
def test_every_row_of_every_table_has_code(task: str, key: str) -> None:
    one = REGISTRIES[task, key]
    assert one.table
    for name in one.table:
        entry = one.entry(name)
        assert callable(entry)
        assert not isinstance(entry, type) or one.kind is Callable or issubclass(entry, one.kind)
        options_of(entry, one.supplied or ())  # every argument is supplied, or one that a file can give


@pytest.mark.parametrize("trust", [False, True], ids=["no trust", "trust"])
@pytest.mark.parametrize(("task", "key"), REGISTRIES)
def test_what_a_run_folder_names_never_runs(task: str, key: str, trust: bool, tmp_path: Path) -> None:
    if key == "model.characters.encoder.cell":
        origin = RUNS.with_name("2026-11-options") / "slots-characters-finished"
    else:
        origin = RUNS / f"{task}-finished"
    tree = yaml.safe_load((origin / "config.yaml").read_text())
    *path, last = key.split(".")
    node = tree
    for part in path:
        node = node[part]
        if isinstance(node, list):  # of sources
            node.append({"path": "x.tsv"})
            node = node[-1]
    node[last] = "evil:Thing" if isinstance(node.get(last, []), str) or last == "format" else ["evil:Thing"]
    for name in ("run.json", "model.safetensors"):
        shutil.copy(origin / name, tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "evil.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('was-run').touch()\nThing = 1\n"
    )
    about = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**about, "config": tree, "modules": {"evil": str(tmp_path)}}))
    line = next(
        n for n, text in enumerate((tmp_path / "config.yaml").read_text().splitlines(), 1) if "evil:Thing" in text
    )
    where = r"(\.0)?\.".join(key.split("."))
    wanted = "cannot import 'evil:Thing'" if trust else "a run folder names 'evil:Thing' here"
    for open_ in (
        lambda: run.load(tmp_path, trust=trust),
        lambda: run.read_config(tmp_path / "config.yaml", trust=trust),
    ):
        with pytest.raises(UserError if trust else Untrusted, match=rf"yaml:{line}: {where}(\.0)?: {wanted}"):
            open_()
    assert doctor(tmp_path).checks[1].seen is False
    assert not (tmp_path / "was-run").exists()
