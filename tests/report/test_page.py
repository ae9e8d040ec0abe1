"""Pages about runs: what they hold, what they leave alone, and what happens where something is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import seqkit
from seqkit import report as reports
from seqkit import run
from seqkit.cli.entry import app
from seqkit.errors import UserError
from seqkit.report import report, run_rows, stored_outputs, write_runs, write_summary
from seqkit.training.locks import take_lock

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
TASKS = ("sentiment", "slots", "translation", "language_model")
VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use", "wbr"}


class Checker(HTMLParser):
    """Elements that are closed in order, ids that are there once, and what is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [str(values["id"])] if "id" in values else []
        self.loads += [str(values[name]) for name in ("src", "href", "srcset") if name in values and tag != "use"]
        assert not any(name.startswith("on") for name in values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def checked(path: Path, largest: int = 1_000_000) -> Checker:
    text = path.read_text("utf-8")
    assert len(text.encode()) < largest
    found = Checker(text)
    assert len(set(found.ids)) == len(found.ids)
    assert [link for link in found.loads if not link.startswith(("#", "data:"))] == []
    return found


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda task: Path(shutil.copytree(finished / task, tmp_path / task))


HEADINGS = {
    "sentiment": ["Curves", "What it gets right and wrong", "The least certain answers"],
    "slots": ["Curves", "What it gets right and wrong", "The worst sentences"],
    "translation": ["Curves", "Samples over time", "Translations", "The worst translations", "The best translations"],
    "language_model": ["Curves", "What it expects", "The most surprising passages"],
}


@pytest.mark.parametrize("task", TASKS)
def test_the_summary_runs_no_model_and_opens_no_data(
    task: str, copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(task)
    for path in (folder / "model.safetensors", folder / "config.yaml"):
        path.write_text("not to be read")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a model is run")

    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
    page = checked(write_summary(folder))
    text = " ".join(page.texts)
    for heading in [*HEADINGS[task], "What was trained"]:
        assert heading in text
    score = json.loads((folder / "scores.json").read_text())["dev"]["loss"]
    assert f"{score:.4f}" in text
    assert f"seqkit train {folder}/config.yaml name=again" in text
    assert page.tags.count("svg") >= 3


@pytest.mark.parametrize("task", TASKS)
def test_the_report_opens_no_data_but_those_that_are_named(
    task: str, copied: Callable[[str], Path], generated_data: Path, tmp_path: Path
) -> None:
    folder = copied(task)
    gone = (folder / "config.yaml").read_text().replace(str(generated_data), str(tmp_path / "gone"))
    (folder / "config.yaml").write_text(gone)
    before = stored_outputs(folder)
    page = checked(report(folder, tmp_path / "x.html", sentences=2), 4_000_000)
    assert before[0]["place"] in " ".join(page.texts) or len(before) > 20
    if task == "translation":
        assert "What the search does" in page.texts
    if task == "language_model":
        assert "Samples" in page.texts


def test_a_sentence_opens_into_its_explanation(finished: Path, tmp_path: Path) -> None:
    with_them = checked(report(finished / "sentiment", tmp_path / "a.html", sentences=3), 4_000_000)
    without = checked(report([finished / "sentiment"], tmp_path / "b.html", sentences=0), 4_000_000)
    assert with_them.texts.count("explanation") >= 3
    assert without.texts.count("explanation") == 0


def test_other_data_are_shown(finished: Path, tmp_path: Path) -> None:
    data = tmp_path / "mine.tsv"
    data.write_text("label\ttext\npositive\ta superb film\nnegative\ta dull story\n")
    page = " ".join(checked(report(finished / "sentiment", tmp_path / "x.html", data=str(data)), 4_000_000).texts)
    assert "mine.tsv:2" in page
    assert "mine.tsv:3" in page
    assert "dev.tsv" not in page
    with pytest.raises(UserError, match=r"gone\.tsv"):
        report(finished / "sentiment", tmp_path / "y.html", data=str(tmp_path / "gone.tsv"))
    assert not (tmp_path / "y.html").exists()


def test_texts_and_names_are_escaped(copied: Callable[[str], Path]) -> None:
    folder = copied("sentiment")
    records = stored_outputs(folder)
    for record in records:
        record.update(text=HOSTILE, place=HOSTILE, gold=HOSTILE, probabilities={HOSTILE: 0.5, "b": 0.5})
    (folder / "dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    about = json.loads((folder / "run.json").read_text())
    about["report"], about["torch"] = [HOSTILE], HOSTILE
    (folder / "run.json").write_text(json.dumps(about))
    page = checked(write_summary(folder))
    assert not {"script", "img"} & set(page.tags)
    assert HOSTILE in " ".join(page.texts)


@pytest.mark.parametrize("count", [2, 50])
def test_many_classes_and_long_texts_fit(count: int, copied: Callable[[str], Path]) -> None:
    folder = copied("sentiment")
    names = [f"類別 {number}" for number in range(count)]
    records = [
        {"place": f"a.tsv:{row}", "text": "مرحبا كلمة " * (row % 3 * 200 + 1), "gold": names[row % count],
         "prediction": names[row * 7 % count], "confidence": 0.5, "gold_probability": 0.1, "tokens": row % 9,
         "probabilities": dict.fromkeys(names[:5], 1 / count)}
        for row in range(400)
    ]  # fmt: skip
    (folder / "dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    text = " ".join(checked(write_summary(folder)).texts)
    assert ("classes with the most mistakes" in text) == (count > 20)
    right = sum(one["gold"] == one["prediction"] for one in records if one["gold"] == names[0])
    of = sum(one["gold"] == names[0] for one in records)
    assert f"{right / of:.3f}" in text


def test_true_slots_are_missed_and_found_ones_are_wrong(copied: Callable[[str], Path]) -> None:
    folder = copied("slots")
    record = {"tokens": ["a", "b", "c"], "gold": ["O", "B-x", "O"], "prediction": ["B-y", "O", "O"], "text": "a b c"}
    (folder / "dev.jsonl").write_text(json.dumps(record) + "\n")
    page = write_summary(folder).read_text()
    for line, note in (("true", "x, missed"), ("found", "y, wrong")):
        (shown,) = re.findall(rf"<dt>{line}</dt><dd[^>]*>(.*?)</dd>", page, re.S)
        assert re.findall(r"<small>(.*?)</small>", shown) == [note]


def test_a_tagger_without_a_mistake_has_explanations_too(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied("slots")
    records = stored_outputs(folder)
    for one in records:
        one["prediction"], one["intent"] = one["gold"], one["gold_intent"]
    least = min(records, key=lambda one: float(one["confidence"]))
    (folder / "dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    page = checked(report(folder, tmp_path / "x.html", sentences=2), 4_000_000)
    assert f"There are none: all {len(records)} sentences are right." in page.texts
    assert page.texts.count("explanation") == 2
    assert "true and found" in page.texts
    assert page.texts.index("The least certain sentences") < page.texts.index(least["place"])


def test_frequent_classes_come_first(copied: Callable[[str], Path]) -> None:
    folder = copied("sentiment")
    names = ["a"] * 3 + ["b"] * 9 + ["c"] * 5
    records = [{"text": "x", "gold": name, "prediction": name, "confidence": 0.5} for name in names]
    (folder / "dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    page = write_summary(folder).read_text()
    (table,) = [part for part in page.split("<table") if "precision</th>" in part]
    assert re.findall(r'<th scope="row">(\w)</th>', table) == ["b", "c", "a"]


def test_translations_are_scored_as_the_task_scores_them(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied("translation")
    about = json.loads((folder / "run.json").read_text())
    assert about["config"]["scoring"]["lowercase"] is None
    about["config"]["text"]["target"]["lowercase"] = True  # what the task goes by
    about["config"]["scoring"]["tokenize"] = "auto"
    (folder / "run.json").write_text(json.dumps(about))
    records = stored_outputs(folder)
    for record in records:
        record.update(gold="我喜歡貓 A", prediction="我喜歡貓 a")
    (folder / "dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "dev.jsonl").write_text((folder / "dev.jsonl").read_text().replace(" a", " b"))
    text = " ".join(checked(write_summary(folder)).texts)
    assert "case:lc" in text
    assert "tok:zh" in text
    assert text.count("chrF 100.0") >= 3
    rows = re.findall(r"other, BLEU</th>.*?>100\.\d*<", report([folder, other], tmp_path / "x.html").read_text())
    assert len(rows) == 1


BAD_LINES = [
    '{"split": "train", "step": 3, "loss": null}',
    '{"split": "dev", "step": "x"}',
    "[]",
    '{"split": 1',
    "\udcff",
]


@pytest.mark.parametrize(
    "spoil", ["no logs", "one point", "damaged", "no outputs", "killed", "strange outputs", "old", "own task"]
)
def test_a_run_that_lacks_something_has_a_page(spoil: str, copied: Callable[[str], Path]) -> None:
    folder = copied("slots")
    metrics, outputs = folder / "metrics.jsonl", folder / "dev.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    about = json.loads((folder / "run.json").read_text())
    if spoil == "no logs":
        metrics.unlink()
        (folder / "timing.jsonl").unlink()
    elif spoil == "one point":
        metrics.write_text("".join(line for line in lines if '"step": 6,' in line))
    elif spoil == "damaged":
        metrics.write_text("\n".join(BAD_LINES), errors="surrogateescape")
    elif spoil in ("no outputs", "killed"):
        outputs.unlink()
    elif spoil == "strange outputs":
        outputs.write_text('{"gold": 3}\n{"tokens": ["a"], "gold": ["O", "O"], "prediction": ["O"]}\n{}\n')
    elif spoil == "old":
        about = {name: about[name] for name in ("format", "seqkit", "torch", "task")}
        outputs.unlink()
    else:
        about["task"] = "mine.tasks:Mine"
        outputs.write_text('{"text": "a", "prediction": "b", "confidence": 0.5}\n')
    if spoil == "killed":
        (folder / "scores.json").unlink()
    (folder / "run.json").write_text(json.dumps(about))
    text = " ".join(checked(write_summary(folder)).texts)
    wanted = {
        "no logs": "There are no curves", "one point": "Curves", "damaged": "There are no curves",
        "no outputs": "There are no examples", "killed": "stopped; its last checkpoint is of step 12",
        "strange outputs": "no texts that could be shown", "old": "There are no examples",
        "own task": "confidence 0.500",
    }  # fmt: skip
    assert wanted[spoil] in text


def test_several_runs_stand_beside_each_other(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task, test in zip(TASKS, ("McNemar", "Paired bootstrap", "Koehn", "Paired bootstrap"), strict=True):
        other = Path(shutil.copytree(finished / task, tmp_path / f"{task}-other"))
        about = json.loads((other / "run.json").read_text())
        about["config"]["training"]["steps"] = 6
        about["config"]["training"]["report"] = False
        about["config"]["training"]["optimizer"]["lr"] += 1e-7
        (other / "run.json").write_text(json.dumps(about))
        log = (other / "metrics.jsonl").read_text().splitlines(True)
        (other / "metrics.jsonl").write_text("".join(line.replace('"output": "', '"output": "other ') for line in log))
        records = stored_outputs(other)
        for number, one in enumerate(records):  # another run answers otherwise
            if "log_probs" in one:
                one["log_probs"] = [value * 1.01 for value in one["log_probs"]]
            elif number % 3 == 0:
                one["prediction"] = one["gold"]
        (other / "dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        page = checked(report([finished / task, other], tmp_path / f"{task}.html"))
        text = " ".join(page.texts)
        assert test in text
        assert "training.steps" in text
        assert "0.0500001" in text
        assert "training.report" not in page.texts  # says nothing of what was learned
        assert f"{task}-other, dev" in text
        if task == "translation":  # beside each other, for one source
            step = page.texts.index(f"{task}-other, update 12")
            assert page.texts[step + 1].startswith("other")
            mine = page.texts.index(f"{task}, update 12")
            assert page.texts[mine + 1] == page.texts[step + 1].removeprefix("other").strip()
            assert page.texts[:step].count("Samples over time") == 2  # in the contents, and the heading
    monkeypatch.chdir(tmp_path)
    path = report([finished / "sentiment", finished / "slots"])
    assert path == Path("report.html")
    assert "no dev examples in common" in " ".join(checked(path).texts)


# --- at the end of training -------------------------------------------------------------------------------------------


def test_training_ends_with_a_report(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SEQKIT_REPORT")
    folder = make_run(tmp_path, "sentiment")
    assert f"report: {folder}/report.html" in capsys.readouterr().err
    checked(folder / "report.html")
    assert not (make_run(tmp_path, "sentiment", "training.report=false", name="off") / "report.html").exists()
    capsys.readouterr()

    def fail(path: Path) -> None:
        raise ZeroDivisionError("for a test")

    monkeypatch.setattr(reports.after, "write_summary", fail)
    folder = make_run(tmp_path, "sentiment", name="failing")
    told = [line for line in capsys.readouterr().err.splitlines() if "no report.html" in line]
    assert told == [f"{folder}: no report.html (ZeroDivisionError: for a test); `seqkit report {folder}` tries again"]


def test_without_the_extras_training_says_once_how_to_get_them(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SEQKIT_REPORT")
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    monkeypatch.setattr(reports.after, "_told", False)
    for name in ("a", "b"):
        assert not (make_run(tmp_path, "sentiment", name=name) / "report.html").exists()
    told = [line for line in capsys.readouterr().err.splitlines() if "no report.html" in line]
    assert len(told) == 1
    assert "pip install jinja2" in told[0]


def test_resume_writes_it_too_and_it_is_of_the_new_weights(
    copied: Callable[[str], Path],
    cli: Callable[..., subprocess.CompletedProcess[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SEQKIT_REPORT")
    folder = copied("sentiment")
    done = cli(folder.parent, "resume", folder.name, "training.steps=14")
    assert done.returncode == 0, done.stderr
    assert "14" in re.findall(r"for (\d+) updates", (folder / "report.html").read_text())


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_commands_write_pages(
    copied: Callable[[str], Path], cli: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    root = copied("slots").parent
    done = cli(root, "report", "slots", "--sentences", "1")
    assert (done.returncode, done.stdout) == (0, b"report: slots/report.html\n")
    done = cli(root, "runs", ".", "--html", "runs.html")
    assert done.returncode == 0, done.stderr
    header, line, last = done.stdout.decode().splitlines()
    assert header.split() == ["run", "task", "score", "time", "state"]
    assert line.split()[:3] == ["slots", "slots", "span_f1"]
    assert last == "page: runs.html"
    assert Checker((root / "runs.html").read_text()).loads == ["slots/report.html"]
    for arguments, part in (
        (("report", "none"), "no such run folder"),
        (("report", "slots", "--to", "none/x.html"), "none/x.html: cannot be written"),
        (("report", "slots", "slots", "--data", "x.tsv"), "--data x.tsv: only a report of a single run"),
        (("runs", "none"), "none: cannot be read"),
    ):
        done = cli(root, *arguments)
        assert done.returncode == 2
        assert part in done.stderr.decode()


def test_a_refusal_that_does_not_end_the_command_names_the_flag(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("sentiment")
    config = folder / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("cell: lstm", "cell: x.evil:C"), "utf-8")
    for call, wanted in (
        (lambda: app(["report", str(folder)], standalone_mode=False), "say so with --trust"),
        (lambda: report(folder), "say so with trust=True"),
    ):
        call()
        assert wanted in capsys.readouterr().err
        assert wanted in " ".join(checked(folder / "report.html").texts)


def test_runs_tells_how_each_stands(copied: Callable[[str], Path], tmp_path: Path) -> None:
    done, killed = copied("sentiment"), copied("slots")
    (killed / "scores.json").unlink()
    (tmp_path / "no-run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{")
    rows = {row.name: row for row in run_rows(tmp_path)}
    assert list(rows) == ["broken", "sentiment", "slots"]
    assert "run.json is missing or damaged" in rows["broken"].state
    assert rows["sentiment"].state == "finished"
    assert rows["slots"].state == "stopped; its last checkpoint is of step 12"
    score = json.loads((done / "scores.json").read_text())["dev"]["accuracy"]
    assert rows["sentiment"].score == f"accuracy {score:.4f} (dev)"
    with take_lock(killed / ".lock"), take_lock(tmp_path / ".new~lock"):
        rows = {row.name: row for row in run_rows(tmp_path)}
    assert rows["slots"].state == "running, step 12"
    assert rows["new"].state == "starting"
    assert {row.name for row in run_rows(tmp_path)} == {"broken", "sentiment", "slots"}  # a lock that nobody holds
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "There are no runs" in " ".join(checked(write_runs(run_rows(empty), tmp_path / "x.html")).texts)


def test_seqkit_train_is_what_trains(finished: Path) -> None:
    assert seqkit.train.__wrapped__ is run.train  # type: ignore[attr-defined]
