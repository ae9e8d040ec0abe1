"""What messages advise exists: options of the command that prints them, commands, keywords in Python."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import seqkit
from seqkit import run
from seqkit.cli.app import app
from seqkit.errors import Option, UserError
from seqkit.lessons.base import Lesson, check_page
from seqkit.serve import serve
from seqkit.tasks.language_model.predictions import Sampler, SamplingOptions
from seqkit.tasks.translation.options import ScoreOptions, TranslationOptions

PACKAGE = Path(seqkit.__file__).parent
RUNS = Path(__file__).parent / "fixtures" / "2026-11"
CPU = ("--device", "cpu")
# Not the scripts that go with an exported run, which have a command line of their own.
LIBRARY = [
    path for path in sorted(PACKAGE.rglob("*.py")) if not {"cli", "scripts"} & {*path.relative_to(PACKAGE).parts}
]
FLAG = re.compile(r"(?<![\w-])(?<!var\()--[a-z][\w-]*")  # var(--ink) is CSS


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def flags(command: str) -> set[str]:
    return {flag for parameter in commands()[command].params for flag in parameter.opts}


def texts(tree: ast.AST) -> Iterator[str]:
    """The constants of a module that are no docstrings."""
    documents = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    documents |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents:
            yield node.value


def options() -> Iterator[str]:
    """The keyword of every constant `Option(...)` in the library."""
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Option"
            if call and isinstance(node.args[0], ast.Constant):  # type: ignore[attr-defined]
                yield node.args[0].value  # type: ignore[attr-defined]


def test_messages_of_the_library_name_no_flag() -> None:
    """Those who call it in Python meet them too: an `Option` is spelled as its reader knows it."""
    named = {"--", " --trust"}  # the ends of command lines
    for path in LIBRARY:
        for text in texts(ast.parse(path.read_text("utf-8"))):
            if "seqkit predict" not in text and text not in named:  # a command line as an example
                assert not FLAG.search(text), (path, text)


def test_every_option_that_a_message_names_exists() -> None:
    calls: list[Callable[..., Any]] = [seqkit.train, run.evaluate, run.average, run.compare, run.load_translator]
    calls += [Sampler, run.load, check_page, Lesson.blocks, serve]
    keywords = {name for call in calls for name in inspect.signature(call).parameters} | {
        *ScoreOptions.model_fields,
        *TranslationOptions.model_fields,
    }
    every = {parameter.name for name in commands() for parameter in commands()[name].params}
    found = set(options())
    assert len(found) >= 5
    for keyword in found:
        assert keyword in keywords
        assert keyword in every


def test_every_command_that_a_message_names_exists() -> None:
    for path in PACKAGE.rglob("*.py"):
        for text in texts(ast.parse(path.read_text("utf-8"))):
            for name in re.findall(r"`seqkit (\w+)", text):
                assert name in commands(), (path, text)


def in_shell(error: UserError, command: str) -> str:
    """What a command says that fails with this error."""

    def fail(*arguments: object, **options: object) -> None:
        raise error

    entry = commands()[command]
    entry.callback = fail
    with pytest.raises(UserError) as raised, entry.make_context(command, ["RUN"]) as context:
        entry.invoke(context)
    return str(raised.value)


def test_an_option_has_the_name_that_the_reader_knows() -> None:
    error = UserError("no; give ", Option("data", "FILE"), ", ", Option("ter", "True"), key=Option("reference"))
    assert (str(error), error.key) == ("reference: no; give data=FILE, ter=True", "reference")
    assert in_shell(error, "evaluate") == "reference: no; give --data FILE, ter=True"
    named = UserError(Option("name", "NAME"))
    assert (str(named), in_shell(named, "average")) == ("name=NAME", "--to NAME")
    other = UserError("no", key=Option("max_ratio"))  # which this command does not have
    assert in_shell(other, "average") == "max_ratio: no"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    for kind in ("sentiment", "translation", "language_model", "slots"):
        shutil.copytree(RUNS / f"{kind}-finished", tmp_path / "runs" / kind)
    (tmp_path / "x.dat").write_text("a\tb\n", "utf-8")
    (tmp_path / "x.txt").write_text("a\n", "utf-8")
    return tmp_path


KEY = re.compile(r"\b(\w+)=(?:true|false|FILE)\b")
OPTIONS = {*ScoreOptions.model_fields, *TranslationOptions.model_fields, *SamplingOptions.model_fields}
MISTAKES = [
    ["train", "runs/sentiment/config.yaml", "name=sentiment"],
    ["average", "runs/sentiment"],
    ["evaluate", "runs/sentiment", "--data", ""],
    ["evaluate", "runs/sentiment", "--data", "x.dat"],
    ["evaluate", "runs/sentiment", "x.dat"],
    ["evaluate", "runs/translation", "--data", "x.dat"],
    ["evaluate", "runs/translation", "--data", "x.txt"],
    ["evaluate", "runs/translation", "reference=x.txt"],
    ["evaluate", "runs/slots", "--data", "x.dat"],
    ["evaluate", "runs/language_model", "--data", "x.dat", "ter=true"],
    ["translate", "runs/translation", "x.txt", "--prefix", "zzz"],
    ["translate", "runs/sentiment", "x.txt"],
    ["predict", "runs/language_model", "x.txt", "temperature=2"],
    ["predict", "runs/language_model", "x.txt", "sample=true", "max_length=0"],
    ["predict", "runs/language_model", "x.txt", "sample=true", "top_p=7"],
    ["predict", "runs/sentiment", "x.txt", "sample=true"],
    ["compare", "runs/translation", "runs/sentiment"],
    ["compare", "runs/translation", "runs/translation", "reference=x.txt"],
]


def test_a_command_advises_what_it_has(home: Path, cli: Callable[..., Any]) -> None:
    advised = 0
    for command in MISTAKES:
        device = () if command[0] == "train" else CPU
        done = cli(home, *command, *device)
        said = done.stderr.decode()
        assert done.returncode == 2, (command, said)
        found, keys = set(FLAG.findall(said)), set(KEY.findall(said))
        advised += len(found) + len(keys)
        assert found <= flags(command[0]), (command, said)
        assert keys <= OPTIONS, (command, said)
        assert "set format" not in said  # a key of the configuration, not of the command line
    assert advised >= 8


def test_every_form_of_an_error_in_python_names_keywords() -> None:
    """What is printed, what a log or a test shows of the object, and what comes back from another process."""
    error = UserError("say so with ", Option("trust", "True"), key="a.b").at("config.yaml:3")
    for one in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(one) == one.args[0] == "config.yaml:3: a.b: say so with trust=True"
        assert repr(one) == "UserError('config.yaml:3: a.b: say so with trust=True')"
        assert one.key == "a.b"
        said = in_shell(one.at("here"), "evaluate")
        assert said == "here: config.yaml:3: a.b: say so with --trust"


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_sources_alone_are_told_of_the_references(command: str, home: Path, cli: Callable[..., Any]) -> None:
    (home / "news.de").write_text("a b\n")
    runs = ["runs/translation"] * (2 if command == "compare" else 1)
    done = cli(home, command, *runs, "--data", "news.de", *CPU)
    assert done.returncode == 2
    assert "for two text files, give the references, too: reference=FILE" in done.stderr.decode()
