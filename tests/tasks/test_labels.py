"""Labels of a classifier that training lacks, that look alike, or that are very many."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.errors import UserError
from seqkit.run import counted, evaluate, load, read_config, resume, train
from seqkit.tasks.sentiment.metrics import METRICS, Outcome, classification_report
from seqkit.tasks.sentiment.task import SentimentTask
from seqkit.training.scores import measured

TRAIN = [("good", "a warm film"), ("bad", "a dull film"), ("fair", "a plain film"), ("good", "witty"), ("bad", "weak")]


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    lines = [json.dumps({"label": label, "text": text}, ensure_ascii=False) for label, text in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def tree(folder: Path, dev: list[tuple[str, str]] | None = None, **sections: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"train": write(folder / "train.jsonl", TRAIN)}
    if dev is not None:
        data["dev"] = write(folder / "dev.jsonl", dev)
    base: dict[str, Any] = {
        "task": "sentiment",
        "name": "own",
        "data": data,
        "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}},
        "training": {"steps": 3, "metric": "loss"},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section} if isinstance(section, dict) else section
    return base


def task_for(config: dict[str, Any]) -> SentimentTask:
    return SentimentTask.create(read_config(config)[0])  # type: ignore[arg-type]


ODD = [
    ("good", "warm"),
    ("rage", "dull"),
    ("bad", "weak film"),
    ("joy", "a film"),
    ("joy", " "),
    ("fair", "witty plain"),
]


def test_unknown_labels_count_as_wrong_on_every_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In training, evaluate and evaluate --data; compared with scikit-learn on what predict says."""
    metrics = pytest.importorskip("sklearn.metrics")
    config = tree(tmp_path, ODD)
    config["data"]["test"] = config["data"]["dev"]
    folder = train(config, root=tmp_path).folder
    line = "2 labels that training lacks, counted as wrong, in 2 of 5 texts: 'joy' (1), 'rage' (1)"
    assert f"dev: {line}" in capsys.readouterr().err
    scored = [(label, text) for label, text in ODD if text.strip()]
    task: Any = load(folder)
    found = task.predict([text for _, text in scored])
    truth, guess = [label for label, _ in scored], [one.label for one in found]
    dev = json.loads((folder / "scores.json").read_text("utf-8"))
    for scores, lines in (evaluate(folder), evaluate(folder, str(tmp_path / "dev.jsonl")), (dev["test"], [])):
        assert counted(scores) == pytest.approx(dev["dev"], rel=1e-6)
        assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
        assert scores["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro", zero_division=0))
        known = [
            one.probabilities[label] for (label, _), one in zip(scored, found, strict=True) if label in task.classes
        ]
        assert scores["loss"] == pytest.approx(-np.log(known).mean(), rel=1e-5)
        assert not lines or any(line in one for one in lines)
        assert not lines or any(one.startswith("rage ") for one in lines)
    assert task.classes == ["bad", "fair", "good"]


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=30).filter(
        lambda pairs: any(label < 4 for label, _ in pairs)
    )
)
def test_scores_with_unknown_classes_equal_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, found = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    losses = np.arange(len(pairs)) + 0.5
    outcome = Outcome(labels, found, losses, 4)
    scores = measured(outcome, METRICS)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, found))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(labels, found, average="macro", zero_division=0))
    assert scores["loss"] == pytest.approx(losses[labels < 4].mean())
    names = list("abcdef")
    want = metrics.precision_recall_fscore_support(labels, found, labels=range(6), zero_division=0)
    lines = classification_report(outcome, names)
    assert lines[0].endswith("taken for a, b, c, d")
    matrix = metrics.confusion_matrix(labels, found, labels=range(6))
    for line in lines[1:]:
        cells = line.split()
        number = names.index(cells[0])
        assert [float(cell) for cell in cells[1:4]] == pytest.approx([part[number] for part in want[:3]], abs=5e-5)
        assert cells[4:] == [str(count) for count in matrix[number, :4]]


@pytest.mark.parametrize(
    ("dev", "data", "says"),
    [
        (
            ODD,
            {"on_unknown_label": "error"},
            r"dev\.jsonl:2: unknown label 'rage'; the training data has: bad, fair, good "
            r"\(2 of 5 texts have such; data\.on_unknown_label: count would",
        ),
        (
            [("goood", "x"), ("joy", "x"), ("bad", "x")],
            {},
            r"dev\.jsonl:1: unknown label 'goood'; did you mean 'good'\? "
            r"\(2 of 3 texts have such, more than half\)",
        ),
        ([("joy\n", "x"), ("bad", "x")], {}, r"dev\.jsonl:1: 'joy\\n' is not a valid label"),
        ([("", "x"), ("bad", "x")], {}, r"dev\.jsonl:1: '' is not a valid label"),
        ([("x" * 100_000, "x")], {}, r"unknown label 'xx"),
    ],
)
def test_too_many_unknown_labels_or_any_that_is_refused_is_one_error(
    tmp_path: Path, dev: list[tuple[str, str]], data: dict[str, Any], says: str
) -> None:
    base = tree(tmp_path, dev)
    with pytest.raises(UserError, match=says) as caught:
        task_for({**base, "data": {**base["data"], **data}})
    assert len(str(caught.value)) < 700


def test_half_of_a_part_may_be_unknown(tmp_path: Path) -> None:
    assert task_for(tree(tmp_path, [("joy", "x"), ("bad", "x")])).evaluate()["accuracy"] in (0.0, 0.5)


def test_labels_of_blank_texts_do_not_matter(tmp_path: Path) -> None:
    config = tree(tmp_path, [("joy", " "), ("rage", ""), ("bad", "x")])
    config["data"]["on_unknown_label"] = "error"
    assert np.isfinite(task_for(config).evaluate()["loss"])


def test_fine_tuning_learns_new_labels_and_counts_those_that_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(tree(tmp_path), root=tmp_path).folder
    config = tree(tmp_path, [("good", "x"), ("rage", "y")], name="tuned", init={"run": str(first)})
    config["data"]["train"] = write(tmp_path / "new.jsonl", [("rage", "so dull"), ("bad", "weak"), ("rage", "no")])
    task: Any = load(train(config, root=tmp_path).folder)
    assert task.classes == ["bad", "rage"]
    assert "dev: 1 label that training lacks, counted as wrong, in 1 of 2 texts: 'good' (1)" in capsys.readouterr().err


def test_changed_training_labels_are_no_unknown_ones_to_count(tmp_path: Path) -> None:
    folder = train(tree(tmp_path), root=tmp_path).folder
    resume(folder, "data.on_unknown_label=error")
    write(tmp_path / "train.jsonl", [("joy", text) if label == "fair" else (label, text) for label, text in TRAIN])
    with pytest.raises(UserError, match=r"train\.jsonl:3: unknown label 'joy'.*\(1 of 5 texts have such\)"):
        resume(folder)


# --- labels that look alike -----------------------------------------------------------------------------------------


def test_labels_that_look_alike_are_one_and_it_is_said(tmp_path: Path) -> None:
    rows = [("caf\u00e9", "x"), ("cafe\u0301 ", "y"), ("bar", "z"), ("\u00a0bar", "w"), ("bar  ", "v")]
    config = tree(
        tmp_path, [("bar  ", "x"), ("cafe\u0301", "y")], training={"class_weights": {"cafe\u0301": 1.0, "bar": 3.0}}
    )
    config["data"]["train"] = write(tmp_path / "alike.jsonl", rows)
    task = task_for(config)
    assert task.classes == ["bar", "caf\u00e9"]
    assert task.splits["train"].labels.tolist() == [1, 1, 0, 0, 0]
    assert task.splits["dev"].labels.tolist() == [0, 1]
    assert task._weights is not None
    assert task._weights.tolist() == [3.0, 1.0]
    (line,) = (line for line in task.report() if "alike" in line or "count as one" in line)
    assert line.startswith("train: labels that differ only in white space or Unicode form count as one: ")
    assert line.endswith(r"'bar' = 'bar \x20' = '\xa0bar', 'cafe\u0301 ' = 'café'")  # how they differ is to be seen


def test_a_run_that_learned_them_apart_keeps_them_apart(tmp_path: Path) -> None:
    folder = train(tree(tmp_path), root=tmp_path).folder
    (folder / "classes.json").write_text('["good", "good ", "line\\nend"]', "utf-8")
    data = write(tmp_path / "test.jsonl", [("good", "warm"), ("good ", "dull"), ("line\nend", "x"), (" good", "y")])
    task: Any = load(folder)
    found = [one.label for one in task.predict(["warm", "dull", "x", "y"])]
    right = np.mean([one == label for one, label in zip(found, ["good", "good ", "line\nend", "good"], strict=True)])
    assert evaluate(folder, data)[0]["accuracy"] == pytest.approx(right)


# --- very many labels -----------------------------------------------------------------------------------------------


def test_thousands_of_classes_take_memory_for_what_occurs_and_few_lines() -> None:
    size = 50_000
    labels = np.arange(size, dtype=np.int64) // 2 * 2
    found = np.where(labels % 10 == 0, labels + 1, labels)
    names = [f"class{number}" for number in range(size)]
    tracemalloc.start()
    outcome = Outcome(labels, found, np.ones(size), size)
    scores, lines = measured(outcome, METRICS), classification_report(outcome, names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scores["accuracy"] == pytest.approx(0.8)
    assert peak < 100 * size * 8  # a matrix would be 20 GB
    assert len(lines) < 70
    assert max(map(len, lines)) < 100
    assert "class0 taken for class1: 2" in lines
    assert "... and 49,960 classes with as many mistakes or fewer" in lines


def test_the_worst_pairs_are_the_most_frequent_ones() -> None:
    labels = np.repeat(np.arange(30), np.arange(30) + 1)
    outcome = Outcome(labels, (labels + 1) % 30, np.ones(len(labels)), 30)
    lines = classification_report(outcome, [f"c{number}" for number in range(30)])
    pairs = [line for line in lines if "taken for c" in line]
    assert pairs == [f"c{number} taken for c{(number + 1) % 30}: {number + 1}" for number in range(29, 9, -1)]
    assert lines[-1] == "... and 10 other pairs"


def test_messages_about_thousands_of_labels_are_short(tmp_path: Path) -> None:
    config = tree(tmp_path)
    config["data"]["train"] = write(tmp_path / "many.jsonl", [(f"class{n}", "x") for n in range(3000)])
    assert max(map(len, task_for(config).report())) < 600
    config["data"]["dev"] = write(tmp_path / "dev.jsonl", [("zzz", "x")])
    with pytest.raises(UserError, match="and 2,990 more") as caught:
        task_for(config)
    assert len(str(caught.value)) < 500
    config["training"]["class_weights"] = {"class0": 1.0}
    del config["data"]["dev"]
    with pytest.raises(UserError, match=r"no weight for class1, .* and 2,989 more"):
        task_for(config)
