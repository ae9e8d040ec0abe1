"""What describes itself: every key of every schema, `seqkit config explain`, and every public name's docstring."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch.fx
from pydantic import BaseModel, Field
from typer.testing import CliRunner

import seqkit.decoding
import seqkit.models
import seqkit.nn
import seqkit.text
import seqkit.training
from seqkit.cli.entry import app
from seqkit.config import OneOf, Section, explain, from_signature, known_keys
from seqkit.config.beside import PREFIX
from seqkit.config.names import built_in
from seqkit.config.registry import options_of
from seqkit.config.schema import argument_docs
from seqkit.errors import UserError
from seqkit.nn import CELLS, GRU, LSTM, RNN, Recurrent
from seqkit.run import config_schema
from seqkit.tasks import TASKS
from seqkit.training.schedules import Schedule, ScheduleConfig

# ---- keys


def schemas() -> Iterator[type[BaseModel]]:
    """Of every task with every cell, and of the section that has no cell."""
    for task in TASKS:
        for cell in CELLS:
            places = ("encoder", "decoder", "characters.encoder")
            yield config_schema(task, [f"model.{place}.cell={cell}" for place in places])
    yield config_schema("slots", ["model.encoder.window=3"])


def fields(schema: type[BaseModel], path: str = "") -> Iterator[tuple[str, str | None]]:
    """Every key of a schema and of the sections inside, with its description."""

    def inside(annotation: Any) -> Iterator[type[BaseModel]]:
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            yield annotation
        for part in typing.get_args(annotation):
            yield from inside(part)

    for name, field in schema.model_fields.items():
        yield f"{path}{name}", field.description
        for section in inside(field.annotation):
            yield from fields(section, f"{path}{name}.")


def test_every_key_has_a_description() -> None:
    seen = 0
    for schema in schemas():
        every = dict(fields(schema))
        seen += len(every)
        assert [key for key, text in every.items() if not text or not text.strip(" .")] == []
    assert seen > 3000


def test_every_key_of_the_json_schema_and_of_explain_has_a_description() -> None:
    for schema in schemas():
        keys = known_keys(schema)
        assert set(dict(fields(schema))) <= set(keys)  # and those that are spread, such as data.encoding
        assert [key.path for key in keys.values() if not key.meaning or not key.type or key.type == "anything"] == []


def test_every_section_and_every_option_of_a_table_has_descriptions() -> None:
    """Options of predict and evaluate too, and of each entry of each table."""

    def subclasses(kind: type[Section]) -> Iterator[type[Section]]:
        for each in kind.__subclasses__():
            yield each
            yield from subclasses(each)

    def tables(annotation: Any) -> Iterator[OneOf]:
        for part in (*getattr(annotation, "__metadata__", ()), *typing.get_args(annotation)):
            yield from [part] if isinstance(part, OneOf) else tables(part)

    for schema in schemas():
        known_keys(schema)  # makes the options of optimisers and schedules

    def ours() -> set[type[Section]]:
        modules = ((each, each.__module__) for each in subclasses(Section))
        return {each for each, name in modules if name.startswith("seqkit.") and not name.startswith(PREFIX)}

    for section in ours():
        for field in section.model_fields.values():
            for one in [*(item for item in field.metadata if isinstance(item, OneOf)), *tables(field.annotation)]:
                for entry in one.table.values() if one.supplied is not None else ():
                    options_of(built_in(entry), one.supplied or ())
    sections = ours()
    names = {each.__name__ for each in sections}
    assert {"TranslationOptions", "ScoreOptions", "SlotsOptions", "SamplingOptions", "PlateauOptions"} <= names
    lacking = [f"{each.__name__}.{key}" for each in sections for key, text in fields(each) if not text]
    assert lacking == []


def test_options_of_a_users_own_entry_are_described_by_its_docstring() -> None:
    class Steps(Schedule):
        """Go down in steps.

        Args:
            drop: what each step multiplies.
        """

        def __init__(self, *, drop: float = 0.5, plain: int = 1) -> None:
            self.drop = drop

    keys = known_keys(options_of(Steps, (), ScheduleConfig))
    assert keys["drop"].meaning == "what each step multiplies."
    assert keys["drop"].used_by.endswith("Steps")
    assert (keys["plain"].meaning, keys["plain"].default) == ("", "1")
    shown = known_keys(config_schema("sentiment"))
    assert shown["training.schedule.patience"].used_by == "option of plateau"
    assert shown["training.schedule.final"].used_by == "option of linear, cosine, one_cycle"
    assert "training.metric.name" not in shown


def test_no_description_sends_the_reader_of_a_yaml_elsewhere() -> None:
    elsewhere = re.compile(r"\b[Ss]ee (above|the class|`)|^(as|likewise|the same)\b")
    lost = {key: text for schema in schemas() for key, text in fields(schema) if elsewhere.search(text or "")}
    assert lost == {}


def test_a_description_is_the_text_of_the_constructor() -> None:
    keys = known_keys(config_schema("translation"))
    for path, module, name in [
        ("model.encoder.zoneout", "nn", "LSTMCell"),
        ("model.encoder.num_layers", "nn", "Recurrent"),
        ("model.decoder.tie", "models", "Decoder"),
        ("model.source.word_dropout", "models", "Embedding"),
        ("model.bridge", "models", "Seq2Seq"),
        ("decoding.no_repeat_ngram", "decoding", "Search"),
    ]:
        taker = getattr(importlib.import_module(f"seqkit.{module}"), name)
        key = keys[path]
        assert key.meaning == argument_docs(taker)[path.rpartition(".")[2]]
        assert key.used_by == f"argument {path.rpartition('.')[2]} of seqkit.{module}.{name}"


def test_argument_docs_read_what_google_style_allows() -> None:
    class Base:
        """A base.

        Args:
            far: of the base.
            near: of the base, too.
        """

    class Derived(Base):
        """First line.

        Args:
            one, two: text: with a colon,
                `x: y`, and a second line.

            near:
                text that begins below.
            **rest: more.

        Raises:
            ValueError: no argument.
        """

        def __init__(self, one: int, two: int, near: int, last: int, **rest: int) -> None:
            """Make it.

            Args:
                last: of the constructor.
            """

    both = "text: with a colon, `x: y`, and a second line."
    assert argument_docs(Derived) == {
        "one": both,
        "two": both,
        "near": "text that begins below.",
        "rest": "more.",
        "last": "of the constructor.",
        "far": "of the base.",
    }

    def bare(x: int) -> None: ...

    assert argument_docs(bare) == {}


def test_a_section_keeps_descriptions_where_a_type_is_replaced() -> None:
    class Inner(Section):
        """`inner:` what lies inside.

        More of it.
        """

    class Base(Section):
        inner: Inner | None = None
        number: int = Field(default=1, description="How many.")

    class Derived(Base):
        number: int = 2

    def build(number: int = 3, other: int = 4) -> None:
        """Build.

        Args:
            number: another text.
            other: a text.
        """

    assert Derived.model_fields["number"].description == "How many."
    assert Derived.model_fields["inner"].description == "what lies inside."
    made = from_signature("Made", build, other=(str, Field(default="x")))
    assert {name: field.description for name, field in made.model_fields.items()} == {
        "other": "a text.",
        "number": "another text.",
    }
    assert made.model_json_schema()["properties"]["number"]["description"] == "another text."


def test_a_key_that_is_written_again_keeps_its_meaning() -> None:
    class Low(Section):
        size: int = 3
        """How many."""

    class High(Low):
        size: int = 4

    assert High.model_fields["size"].description == "How many."


# ---- seqkit config explain


def printed(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["config", "explain", *words])
    if isinstance(done.exception, UserError):
        assert code == 2
        return str(done.exception)
    assert done.exit_code == code, done.output
    return done.output


def test_explain_prints_all_of_a_key() -> None:
    text = printed("translation", "model.decoder.attention")
    lines = dict(line.strip().split(": ", 1) for line in text.splitlines()[1:])
    assert text.startswith("model.decoder.attention\n")
    assert lines["choices"].split(", ")[:2] == ["none", "bahdanau"]
    assert lines["default"] == "bahdanau"
    assert lines["used by"] == "argument attention of seqkit.nn.AttentionalRecurrent"
    assert lines["meaning"]
    assert "number (above 0)" in printed("training.optimizer.lr")
    assert "0.001" in printed("training.optimizer.lr")
    assert "required" in printed("sentiment", "model.encoder.hidden_size")


def test_explain_lists_the_keys_of_a_section_and_all_keys() -> None:
    schema = config_schema("sentiment")
    options = ["betas", "eps", "momentum", "nesterov"]
    section = printed("sentiment", "training.optimizer").splitlines()
    optimizer = schema.model_fields["training"].annotation.model_fields["optimizer"].annotation  # type: ignore[union-attr]
    assert [line.split()[0] for line in section[1:]] == [*optimizer.model_fields, *options]
    every = printed("sentiment").splitlines()
    assert len(every) == len(known_keys(schema))
    assert any(line.startswith("model.encoder.hidden_size (required): ") for line in every)


def test_explain_knows_the_keys_of_the_cell(tmp_path: Any) -> None:
    file = tmp_path / "half.yaml"  # neither valid nor complete
    file.write_text("task: sentiment\nmodel: {encoder: {cell: jordan}, nonsense: 1}\n")
    assert "JordanCell" in printed(str(file), "model.encoder.output_size")
    (tmp_path / "half").write_text(file.read_text())  # a file whatever its name
    assert "JordanCell" in printed(str(tmp_path / "half"), "model.encoder.output_size")
    assert "GRUCell" in printed("sentiment", "model.encoder.cell=gru", "model.encoder.bias")
    assert "did you mean" in printed("sentiment", "model.encoder.peepholes", code=2)


def test_explain_without_a_task_looks_at_all() -> None:
    assert {line for line in printed().splitlines() if line.startswith("task: ")} >= {f"task: {task}" for task in TASKS}
    assert "task:" not in printed("training.epochs")  # the same for all of them
    assert printed("decoding.beam_size").startswith("task: translation\n")
    answers = printed("training.metric")
    assert {line for line in answers.splitlines() if line.startswith("task: ")} == {f"task: {task}" for task in TASKS}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["translation", "model.decoder.atention"], "unknown key; did you mean 'model.decoder.attention'?"),
        (["translation", "beam_size"], "unknown key; did you mean 'decoding.beam_size'?"),
        (["model.encoder.hiden_size"], "unknown key; did you mean 'model.encoder.hidden_size'?"),
        (["slots", "zzzz"], "zzzz: unknown key; known here: task, name, seed, "),
        (["trnslation", "model"], "unknown task 'trnslation'; did you mean 'translation'?"),
        (["missing.yaml"], "missing.yaml: no such file"),
        (["slots", "model", "text"], "expected CONFIG and KEY"),
    ],
)
def test_explain_names_the_nearest(words: list[str], message: str) -> None:
    assert message in printed(*words, code=2)


def test_explain_of_a_key_by_hand() -> None:
    class Inner(Section):
        """`inner:` inside."""

        size: int = Field(default=3, gt=0, description="How\n many.")

    class Whole(Section):
        inner: Inner = Inner()
        name: str

    keys = known_keys(Whole)
    assert explain(keys) == ["inner: inside.", "inner.size (3): How many.", "name (required): "]
    assert explain(keys, "inner") == ["inner: inside.", "  size (3): How many."]
    assert explain(keys, "inner.size") == [
        "inner.size",
        "  meaning: How many.",
        "  type: integer (above 0)",
        "  default: 3",
        "  used by: section inner",
    ]


# ---- docstrings

PUBLIC = [
    (f"{room.__name__}.{name}", getattr(room, name))
    for room in (seqkit.nn, seqkit.models, seqkit.decoding, seqkit.training, seqkit.text)
    for name in room.__all__
]
_SHAPE = re.compile(
    r"\([^()]*\b[A-Z]\b[^()]*\)|\(\.\.\.|\(num_layers|\(b, |scalar|shape|like |state dict", re.IGNORECASE
)


_NO_VERBS = {"The", "A", "An", "Whether", "What", "How", "Which", "Where", "Why", "One", "All", "Every", "Each", "As"}


def test_public_names_have_full_docstrings() -> None:
    lacking = [f"{name}: {what}" for name, value in PUBLIC if callable(value) for what in gaps(value)]
    assert lacking == []


def gaps(value: Any) -> Iterator[str]:
    """What the docstring of a class or a function lacks."""
    if typing.get_origin(value) is not None or value is Any:  # a name of a type
        return
    if not inspect.isclass(value):
        yield from function_gaps(value, inspect.getdoc(value) or "", argument_docs(value), "")
        return
    doc = inspect.getdoc(value) or ""
    if "\n" not in doc and len(doc) < 40:
        yield "no docstring"
    documented = {**argument_docs(value), **attributes(doc)}
    if not issubclass(value, (BaseModel, Exception, torch.fx.Tracer)):  # whose constructors are not seqkit's
        yield from function_gaps(value.__init__, doc, documented, "", constructor=value)
    for name, method in vars(value).items():
        method = getattr(method, "__func__", method)
        if inspect.isfunction(method) and (not name.startswith("_") or name == "__call__"):
            text = method.__doc__ or inherited_doc(value, name)
            yield from function_gaps(method, inspect.cleandoc(text), argument_docs_of(text), name)


def inherited_doc(value: type, name: str) -> str:
    docs = (getattr(vars(base).get(name), "__doc__", None) for base in value.__mro__[1:])
    return next((doc for doc in docs if doc), "")


def argument_docs_of(text: str) -> dict[str, str]:
    def call() -> None: ...

    call.__doc__ = text
    return argument_docs(call)


def attributes(doc: str) -> dict[str, str]:
    """The entries of `Attributes:`, which describe the arguments of named tuples and dataclasses."""
    return argument_docs_of(doc.replace("Args:", "Before:").replace("Attributes:", "Args:"))


def function_gaps(
    function: Any, doc: str, documented: Mapping[str, str], name: str, constructor: type | None = None
) -> Iterator[str]:
    prefix = f"{name}: " if name else ""
    if not doc:
        yield f"{prefix}no docstring"
        return
    if constructor is None and doc.split()[0] in _NO_VERBS:
        yield f"{prefix}does not begin with a verb"
    signature = inspect.signature(constructor or function)
    strict = not name
    if strict and (stale := set(argument_docs_of(doc)) - set(signature.parameters)):
        yield f"there is no argument {', '.join(stale)}"
    for argument in signature.parameters.values():
        if argument.name in ("self", "cls") or argument.name.startswith("_"):
            continue
        text = documented.get(argument.name)
        if text is None and not (not strict and re.search(rf"\b{argument.name}\b", doc)):
            yield f"{prefix}argument {argument.name} is not described"
        elif str(argument.annotation).startswith("Tensor") and not _SHAPE.search(text or doc):
            yield f"{prefix}no shape of {argument.name}"
    verbs = "Return|Make|Compute|Find|Score|Tell|Say|Read|Look|Encode|Build|Run|Drop|Replace|Pool|Classify|Add|Write"
    says = re.search(r"^(Returns|Yields):" + (rf"|->|^({verbs})\b" if name else ""), doc, re.MULTILINE)
    nothing = (None, "None", "Iterator[None]", inspect.Signature.empty)
    if constructor is None and signature.return_annotation not in nothing and not says:
        yield f"{prefix}what it returns is not described"
    for kind in sorted(raised(function)):
        if not re.search(rf"Raises:.*\b{kind}\b", doc, re.DOTALL):
            yield f"{prefix}{kind} is not under Raises"


def raised(function: Any) -> set[str]:
    """The names of the exceptions that the body of a function raises itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):  # made by dataclass or NamedTuple
        return set()
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)} - {"NotImplementedError"}


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_help_of_a_module_tells_everything_in_the_words_of_its_parts(kind: type[Recurrent]) -> None:
    cell = CELLS[kind.__name__.lower()]
    own = argument_docs_of(inspect.getdoc(kind) or "")
    arguments = list(inspect.signature(kind).parameters)
    assert [name for name in own if name in arguments] == arguments
    for name, text in own.items():
        source = argument_docs(cell) if name in inspect.signature(cell).parameters else argument_docs(Recurrent)
        assert text == source[name], name
