"""One line out for each line in, in every task and format, whatever line ends the model has learned or was given."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seqkit
from seqkit import run
from seqkit.data.builtin import rows
from seqkit.errors import UserError
from seqkit.files import to_json
from seqkit.tasks.language_model.predictions import Continuation, LineScore, format_line
from seqkit.tasks.lines import command_on
from seqkit.tasks.slots.predictions import Tagging, format_tagging, make_tagging
from seqkit.tasks.translation.predictions import Translation, format_translation
from seqkit.text import TextConfig, Tokenizer
from seqkit.text.joining import has_line_end, join_tokens, one_line

RUNS = Path(__file__).parents[1] / "fixtures" / "2026-11"
ENDS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
BROKEN = st.lists(st.one_of(st.sampled_from(ENDS), st.sampled_from("ab .")), max_size=8).map("".join)
CPU = ("--device", "cpu")


@given(text=BROKEN)
def test_one_line_keeps_all_but_line_ends(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not has_line_end(line)
    assert line.replace(" ", "") == "".join(text.split()).replace(" ", "")
    assert has_line_end(text) == any(end in text for end in ENDS)
    if not has_line_end(text):
        assert line == text


@given(text=BROKEN, number=st.floats())
def test_every_format_of_every_prediction_is_one_line(text: str, number: float) -> None:
    task: Any = run.load(RUNS / "sentiment-finished", device="cpu") if not _TASKS else _TASKS[0]
    _TASKS[:] = [task]
    tagging = make_tagging(text, [(0, len(text))] if text else [], [f"B-{text}"] if text else [], text)
    translation = Translation(text, [text], number, [number], attention=None)
    several = Translation(text, [text], number, [number], n_best=(translation,))
    for form in ("text", "jsonl"):
        shown = [
            task.format(type(task.predict([""])[0])(text, {text: number}), form),
            format_tagging(tagging, form),
            format_tagging(Tagging(text), form),
            format_line(Continuation(text, [text], [number]), form),
            format_line(LineScore(number, 1, number, number), form),
            format_translation(translation, form),
            format_translation(several, form),
        ]
        for line in shown:
            assert len(line.splitlines()) <= 1
            if form == "jsonl":
                json.loads(line, parse_constant=pytest.fail)


_TASKS: list[Any] = []


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
@pytest.mark.parametrize("end", ENDS)
def test_joined_tokens_are_one_line(kind: Any, end: str) -> None:
    tokenizer = Tokenizer.train([f"a b{end}", f"{end}c{end}d"], TextConfig(tokenizer=kind))
    for tokens in (["a", end], [f"b{end}"], [end, "a", end, "b"]):
        assert len(join_tokens(tokens, tokenizer).splitlines()) <= 1


def learn(tmp_path: Path, task: str, rows: list[dict[str, Any]], **more: Any) -> run.Run:
    """Train a little on rows of JSON."""
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    sizes = {"embedding": {"size": 8}, "encoder": {"hidden_size": 8}}
    model = {"source": {"size": 16}, "target": {"size": 16}, "encoder": {"hidden_size": 32}}
    tree = {
        "task": task,
        "name": "learned",
        "device": "cpu",
        "data": {"train": str(data), "batch_size": 4},
        "model": {**model, "decoder": {"hidden_size": 32}} if task == "translation" else sizes,
        "training": {"steps": 3, "optimizer": {"lr": 0.02}},
        **more,
    }
    return seqkit.train(tree, root=tmp_path / "runs")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028"])
@pytest.mark.parametrize("place", ["{end}", "{label}{end}", "{end}{label}", "a{end}b"])
def test_a_label_with_a_line_end_is_refused(tmp_path: Path, end: str, place: str) -> None:
    label = place.format(end=end, label="good")
    rows: list[dict[str, Any]] = [{"text": "a b", "label": "bad"}, {"text": "c d", "label": label}]
    with pytest.raises(UserError, match="is not a valid label: it is blank or holds a line end"):
        learn(tmp_path, "sentiment", rows)
    tagged: dict[str, Any] = {"tokens": ["a", "b"], "tags": ["O", "B-x"], "intent": "one"}
    with pytest.raises(UserError, match="is not a valid intent: it is blank or holds a line end"):
        learn(tmp_path, "slots", [tagged, {**tagged, "intent": label}])
    with pytest.raises(UserError, match="expected O, B-type or I-type"):
        learn(tmp_path, "slots", [tagged, {**tagged, "tags": ["O", f"B-{label}"]}])


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_targets_with_line_ends_are_translated_line_for_line(
    tmp_path: Path, cli: Callable[..., Any], kind: str
) -> None:
    rows = [{"source": "a", "target": "ab\n"}, {"source": "b", "target": "a\nb\n"}] * 4
    text = {"tokenizer": kind, **({"vocab_size": 12} if kind == "bpe" else {})}
    training = {"steps": 60, "optimizer": {"lr": 0.02}}
    made = learn(tmp_path, "translation", rows, text=text, training=training, decoding={"max_length": 8})
    lines = "a\nb\n\na b\n"
    for options in ((), ("--format", "jsonl"), ("--alignments",)):
        done = cli(tmp_path, "translate", str(made.folder), *CPU, *options, text=lines)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.decode().splitlines()) == 4
    done = cli(tmp_path, "translate", str(made.folder), *CPU, "n_best=2", "beam_size=2", text=lines)
    assert all(line.count(" ||| ") == 2 for line in done.stdout.decode().splitlines() if not line.startswith("2 "))
    found = seqkit.load(made.folder, device="cpu").predict(["a"])[0]
    if kind == "char":
        assert "\n" in found.tokens  # it has learned one


def test_a_run_that_has_labels_with_line_ends_answers_line_for_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    for task, file in (("sentiment", "classes.json"), ("slots", "labels.json")):
        own = tmp_path / task
        shutil.copytree(RUNS / f"{task}-finished", own)
        labels = json.loads((own / file).read_text("utf-8"))
        if isinstance(labels, list):
            labels = [f"{label}\n" for label in labels]
        else:
            labels = {"tags": labels["tags"], "intents": [f"{label}\n" for label in labels["intents"]]}
        (own / file).write_text(json.dumps(labels), "utf-8")
        for form in ("text", "jsonl"):
            done = cli(tmp_path, "predict", str(own), *CPU, "--format", form, text="the plot is dull\n\nfly\n")
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.decode().splitlines()) == 3


def test_json_is_json_whatever_the_numbers() -> None:
    tree = {"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": -float("inf"), "d": "é\u2028\x85\x9b", "e": "\udce9"}}
    text = to_json(tree)
    assert text == '{"a": [null, [null, 1.5]], "b": {"c": null, "d": "é\\u2028\\u0085\\u009b", "e": "\\udce9"}}'
    assert json.loads(text.encode())["b"]["e"] == "\udce9"
    assert json.loads(text)["b"]["d"] == "é\u2028\x85\x9b"


@pytest.mark.parametrize("text", ["it's", "-n", "a\\nb", "$HOME `x`", '"', "a\nb", "word " * 60, "x" * 300])
def test_an_example_gives_the_shell_the_text_as_it_is(text: str) -> None:
    said, _, rest = command_on(text, Path("runs/my run"), "translate", "--trust").rpartition(" | ")
    out = subprocess.run(["sh", "-c", said], capture_output=True, text=True, check=True).stdout
    assert out.count("\n") == 1
    assert out[:-1].strip()
    assert one_line(text).startswith(out[:-1])
    assert len(out) <= 121
    assert len(text) > 120 or out[:-1] == one_line(text)
    assert shlex.split(rest) == ["seqkit", "translate", "runs/my run", "--trust"]


def test_the_example_of_a_training_is_of_its_own_data(tmp_path: Path) -> None:
    parts = {part: {"path": "builtin:reviews", "limit": 50} for part in ("train", "dev")}
    small = {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}}
    tree = {"task": "sentiment", "device": "cpu", "data": parts, "model": small, "training": {"steps": 1}}
    said, _, rest = seqkit.train(tree, root=tmp_path).example.rpartition(" | ")
    assert shlex.split(said)[1] in {row["text"] for row in islice(rows("reviews", "dev"), 50)}
    assert rest.startswith("seqkit predict ")
