"""Keys of `data:` that stand beside its parts: the command line goes before what a file or a run says of a part."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqkit import run
from seqkit.config import from_mapping, override, read
from seqkit.errors import UserError
from seqkit.tasks.common import PARTS, Parts

RUN = Path(__file__).parent / "fixtures" / "2026-11" / "sentiment-finished"
OTHER = {
    "format": ("csv", "csv"),
    "delimiter": (";", ";"),
    "encoding": ("cp1252", "cp1252"),
    "columns": ("{text: comment}", {"text": "comment", "label": "stars"}),
    "on_bad_line": ("skip", "skip"),
}
OWN: dict[str, Any] = {
    "path": "a.csv",
    "format": "auto",
    "delimiter": ",",
    "encoding": "utf-8",
    "columns": {"text": "t", "label": "stars"},
    "on_bad_line": "error",
}


def configuration(part: Any) -> dict[str, Any]:
    return {"task": "sentiment", "data": dict.fromkeys(PARTS, part), "model": {"encoder": {"hidden_size": 4}}}


@pytest.mark.parametrize("key", Parts.shared)
@pytest.mark.parametrize("part", [OWN, "a.csv"], ids=["spelled out", "short"])
def test_the_command_line_goes_before_what_a_part_says(key: str, part: Any) -> None:
    typed, wanted = OTHER[key]
    checked: Any = run.read_config(configuration(part), [f"data.{key}={typed}"])[0]
    if isinstance(part, str) and key == "columns":
        wanted = {"text": "comment"}
    assert [getattr(getattr(checked.data, name), key) for name in PARTS] == [wanted] * 3
    one = run.read_config(configuration(OWN), [f"data.dev.{key}={typed}"])[0].data  # type: ignore[attr-defined]
    assert getattr(one.train, key) == OWN[key]


def test_one_part_keeps_what_the_command_line_says_of_it() -> None:
    for given in (["data.dev.delimiter=|", "data.delimiter=;"], ["data.delimiter=;", "data.dev.delimiter=|"]):
        data: Any = run.read_config(configuration(OWN), given)[0].data  # type: ignore[attr-defined]
        assert [getattr(data, part).delimiter for part in PARTS] == [";", "|", ";"]
    data = run.read_config(configuration(OWN), ["data.columns.text=review"])[0].data  # type: ignore[attr-defined]
    assert data.test.columns == {"text": "review", "label": "stars"}
    for given in (["data.dev={path: b.csv, delimiter: '|'}", "data.delimiter=;"], ["data.dev.path=b.csv"]):
        data = run.read_config(configuration(OWN), given)[0].data  # type: ignore[attr-defined]
        wanted = [";", "|", ";"] if len(given) > 1 else [","] * 3
        assert [getattr(data, part).delimiter for part in PARTS] == wanted


def test_one_key_of_a_mapping_goes_before_what_a_file_says_for_all_parts() -> None:
    tree = configuration(OWN)
    tree["data"]["columns"] = {"text": "all", "label": "all"}
    data: Any = run.read_config(tree, ["data.columns.text=review"])[0].data  # type: ignore[attr-defined]
    assert [getattr(data, part).columns for part in PARTS] == [{"text": "review", "label": "stars"}] * 3


def test_a_number_that_is_typed_for_all_parts_is_text_in_each() -> None:
    data: Any = run.read_config(configuration(OWN), ["data.delimiter=1"])[0].data  # type: ignore[attr-defined]
    assert [getattr(data, part).delimiter for part in PARTS] == ["1"] * 3


def test_a_key_of_another_section_is_none_of_the_parts() -> None:
    document = from_mapping({"other": {}, "data": {"train": {"format": "csv"}}})
    override(document, ["other.format=tsv"])
    document.spread("data", ["format"], ["train"], "path")
    assert document.tree["data"] == {"train": {"format": "csv"}}


def test_what_a_file_says_for_all_parts_does_not_go_before_what_it_says_of_one(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("data: {format: tsv, train: {format: csv}}\n")
    document = read(tmp_path / "x.yaml", ["data.dev=b"])
    document.spread("data", ["format"], ["train", "dev"], "path")
    assert document.tree["data"]["train"] == {"format": "csv"}


def test_a_mistake_in_one_is_the_command_lines() -> None:
    for part in (OWN, "a.csv"):
        with pytest.raises(UserError) as caught:
            run.read_config(configuration(part), ["data.encoding=nope"])
        assert str(caught.value).splitlines()[0] == "command line: data.train.encoding: no text encoding 'nope'"


def test_a_run_scores_a_file_as_the_command_line_says_it_is_read(tmp_path: Path) -> None:
    labels = run.load(RUN, "cpu").classes  # type: ignore[attr-defined]
    rows = [f"caf\xe9 is good;{labels[0]}", f"a bad one;{labels[1]}", "open"]
    (tmp_path / "other.csv").write_bytes("\n".join(["comment;stars", *rows, ""]).encode("cp1252"))
    keys = ["delimiter=;", "encoding=cp1252", "columns={text: comment, label: stars}", "on_bad_line=skip"]
    given = [f"data.{key}" for key in keys]
    own = shutil.copytree(RUN, tmp_path / "run")
    config = yaml.safe_load((own / "config.yaml").read_text("utf-8"))
    config["data"].update(dict.fromkeys(PARTS, OWN))
    (own / "config.yaml").write_text(json.dumps(config), "utf-8")
    scores, _ = run.evaluate(own, str(tmp_path / "other.csv"), "cpu", given)
    assert (scores.examples, scores.skipped.lines) == (2, 1)  # type: ignore[attr-defined]
    for left in range(len(given)):
        with suppress(UserError):  # or the line that is no UTF-8 is skipped
            fewer = run.evaluate(own, str(tmp_path / "other.csv"), "cpu", [*given[:left], *given[left + 1 :]])[0]
            assert fewer.examples < 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["model", "model.encoder", "training.early_stopping", "training.optimizer", "init"])
def test_a_value_in_the_place_of_a_section(key: str) -> None:
    with pytest.raises(UserError) as caught:
        run.read_config(configuration("a.csv"), [f"{key}=2"])
    assert str(caught.value) == f"command line: {key}: expected a section with keys of its own ({key}.KEY=VALUE), got 2"
