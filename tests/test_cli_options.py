"""`key=value` after a run: what predict and evaluate make of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqkit import run
from seqkit.errors import UserError
from seqkit.run.options import Use, open_with_options

RUNS = Path(__file__).parent / "fixtures/2026-11-options"
CPU = ("--device", "cpu")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for kind in ("translation-feeding-finished", "language_model-adaptive-finished", "slots-characters-finished"):
        shutil.copytree(RUNS / kind, tmp_path / kind.partition("-")[0])
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "use", "texts", "options", "changed"),
    [
        ("translation", "predict", ["beam_size=4"], {"beam_size": 4}, {}),
        ("translation", "predict", ["decoding.beam_size=4", "prefix=a b"], {"beam_size": 4, "prefix": "a b"}, {}),
        ("translation", "predict", ["prefix=3"], {"prefix": "3"}, {}),
        ("translation", "evaluate", ["beam_size=4", "ter=true"], {"ter": True}, {"decoding.beam_size": 4}),
        ("translation", "evaluate", ["tokenize=intl"], {}, {"scoring.tokenize": "intl"}),
        ("language_model", "predict", ["sample=true", "top_p=0.5"], {"sample": True, "top_p": 0.5}, {}),
        ("slots", "predict", ["tokens=true"], {"tokens": True}, {}),
        ("slots", "evaluate", ["batch_size=3"], {}, {"data.batch_size": 3}),
    ],
)
def test_a_key_reaches_the_option_or_the_section_that_has_it(
    kind: str, use: Use, texts: list[str], options: dict[str, Any], changed: dict[str, Any], home: Path
) -> None:
    opened = open_with_options(home / kind, use, texts)
    assert opened.options == options
    for dotted, value in changed.items():
        section, key = dotted.split(".")
        assert getattr(getattr(opened.checked, section), key) == value


@pytest.mark.parametrize(
    ("kind", "use", "text", "message"),
    [
        ("translation", "predict", "beam_sise=4", "which has no such option; did you mean 'beam_size'?"),
        ("translation", "predict", "beam_size=wide", "beam_size: input should be a valid integer, got 'wide'"),
        ("translation", "evaluate", "hidden_size=4", "which has no such option"),
        ("translation", "evaluate", "max_length", "not of the form KEY=VALUE"),
        ("translation", "evaluate", "path=x", "several sections have such a key: data.train.path, data.dev.path"),
        ("translation", "evaluate", "model.bridge=zero", "a trained run keeps its model"),
        ("language_model", "predict", "tokens=true", "which has no such option; known: sample, temperature"),
        ("slots", "predict", "tokens=perhaps", "tokens: input should be a valid boolean, got 'perhaps'"),
    ],
)
def test_a_key_that_fits_nowhere_is_one_error(kind: str, use: Use, text: str, message: str, home: Path) -> None:
    with pytest.raises(UserError) as error:
        open_with_options(home / kind, use, [text])
    assert message in str(error.value)


def test_python_values_are_checked_as_texts_are(home: Path) -> None:
    assert open_with_options(home / "translation", "predict", (), {"beam_size": 4}).options == {"beam_size": 4}
    chosen = open_with_options(home / "translation", "evaluate", (), {"reference": Path("news.en")})
    assert chosen.options == {"reference": "news.en"}
    with pytest.raises(UserError, match="sample: input should be a valid boolean"):
        run.load_predictor(home / "language_model", sample=3)


def test_every_option_of_every_task_is_listed_with_its_default_and_meaning(home: Path) -> None:
    for kind, own in (("translation", "beam_size=3"), ("language_model", "sample=false "), ("slots", "tokens=false ")):
        lines = run.describe_options(home / kind, "predict")
        assert any(line.startswith(own) for line in lines)
        names = {line.partition("=")[0] for line in lines}
        for name in names:
            assert name in {*open_schema(home / kind).model_fields}
    assert run.describe_options(home / "slots", "evaluate") == []


def open_schema(folder: Path) -> Any:
    opened = open_with_options(folder, "predict")
    return opened.kind.predict_options(opened.checked)


def test_a_flag_of_earlier_versions_is_told_its_new_spelling(cli: Callable[..., Any], home: Path) -> None:
    for command, kind, flag, spelling in (
        ("translate", "translation", "--beam-size", "beam_size=VALUE"),
        ("translate", "translation", "--no-unknown", "allow_unknown=false"),
        ("predict", "language_model", "--sample", "sample=true"),
        ("predict", "slots", "--tokens", "tokens=true"),
        ("evaluate", "translation", "--ter", "ter=true"),
        ("evaluate", "translation", "--reference=x.txt", "reference=VALUE"),
    ):
        done = cli(home, command, kind, flag, *CPU, text="a\n")
        assert done.returncode == 2
        assert done.stderr.decode().startswith(f"seqkit: {flag}: ")
        assert done.stderr.decode().rstrip().endswith(spelling)


def test_a_flag_that_is_no_option_of_the_run_is_not_spelled_as_one(cli: Callable[..., Any], home: Path) -> None:
    for kind, flag in (("slots", "--sample"), ("language_model", "--beam-size"), ("translation", "--foo")):
        done = cli(home, "predict", kind, flag, *CPU, text="a\n")
        assert done.returncode == 2
        assert f"{flag}: neither a flag of this command nor an option of this run" in done.stderr.decode()


def test_an_argument_with_a_sign_is_a_file_where_there_is_one(cli: Callable[..., Any], home: Path) -> None:
    (home / "a=b").write_text("to Rome\nto Oslo\n")
    done = cli(home, "predict", "slots", "a=b", *CPU)
    assert done.stdout.count(b"\n") == 2
    done = cli(home, "predict", "slots", "a=b", "slots/config.yaml", *CPU)
    assert b"slots/config.yaml: expected one FILE" in done.stderr
    done = cli(home, "predict", "slots", "--help-options", *CPU)
    assert done.stdout.startswith(b"tokens=false  Each line is JSON")
