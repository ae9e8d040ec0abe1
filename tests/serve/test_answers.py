"""The endpoint answers what `predict` answers, whoever else asks at the same time."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seqkit.run import load_predictor
from seqkit.serve import Limits

TEXTS = [
    "the film was dull and tired",
    "a superb story",
    "",
    "quite a warm , witty film with a lovely scene of an actor",
    "Find the superb film.",
    "naïve 電影 فيلم \U0001f600",
    '"quotes" \\ and\nlines',
]


def wanted(folder: Path, texts: list[str], *options: str) -> list[Any]:
    task = load_predictor(folder, "cpu", options)
    return [json.loads(task.format(one, "jsonl")) for one in task.predict(texts)]


def assert_same(got: Any, want: Any) -> None:
    """Texts and labels equal, numbers to 1e-5."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            assert_same(got[key], want[key])
    elif isinstance(want, list):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    elif isinstance(want, float):
        assert math.isclose(got, want, rel_tol=1e-5, abs_tol=1e-5)
    else:
        assert got == want


@pytest.mark.parametrize("task", ["sentiment", "slots", "translation", "language_model"])
def test_answers_are_those_of_predict(task: str, served: Any, runs: dict[str, Path]) -> None:
    answer = served.predict(run=runs[task].name, texts=TEXTS)
    assert answer.status == 200
    assert answer.json["run"] == runs[task].name
    assert_same(answer.json["predictions"], wanted(runs[task], TEXTS))
    one = served.predict(run=runs[task].name, text=TEXTS[0])
    assert_same(one.json["predictions"], wanted(runs[task], TEXTS[:1]))
    assert served.predict(run=runs[task].name, texts=[]).json["predictions"] == []


@pytest.mark.parametrize("task", ["sentiment", "slots", "translation", "language_model"])
def test_clients_that_are_answered_together_get_the_same(
    task: str, served: Any, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow first batch lets the others queue: they are answered in one, each with its own texts."""
    batcher = served.models[runs[task].name].batcher
    sizes, began, end, plain = list[int](), threading.Event(), threading.Event(), batcher._answer

    def slow(by: Any, items: list[Any]) -> list[str]:
        sizes.append(len(items))
        began.set()
        end.wait(60)
        return plain(by, items)

    monkeypatch.setattr(batcher, "_answer", slow)
    asked = [TEXTS[place : place + 2] for place in range(6)] * 2
    with ThreadPoolExecutor(len(asked)) as pool:
        futures = [pool.submit(served.predict, run=runs[task].name, texts=asked[0])]
        assert began.wait(60)
        futures += [pool.submit(served.predict, run=runs[task].name, texts=texts) for texts in asked[1:]]
        while batcher.waiting < 2 * (len(asked) - 1):
            time.sleep(0.01)
        end.set()
        answers = [future.result() for future in futures]
    assert sizes == [2, 22]
    want = dict(zip(TEXTS, wanted(runs[task], TEXTS), strict=True))
    for texts, answer in zip(asked, answers, strict=True):
        assert_same(answer.json["predictions"], [want[text] for text in texts])


def test_options_of_a_request(served: Any, runs: dict[str, Path]) -> None:
    name, folder = runs["translation"].name, runs["translation"]
    found = served.predict(run=name, texts=TEXTS, options={"beam_size": 3, "n_best": 2}).json["predictions"]
    assert_same(found, wanted(folder, TEXTS, "beam_size=3", "n_best=2"))
    assert_same(served.predict(run=name, texts=TEXTS).json["predictions"], wanted(folder, TEXTS))


@pytest.mark.parametrize("task", ["translation", "language_model"])
def test_what_is_drawn_does_not_depend_on_earlier_requests(task: str, served: Any, runs: dict[str, Path]) -> None:
    options = {"sample": True, "seed": 5, "temperature": 1.5}
    want = wanted(runs[task], TEXTS, "sample=true", "seed=5", "temperature=1.5")
    for _ in range(2):
        assert_same(served.predict(run=runs[task].name, texts=TEXTS, options=options).json["predictions"], want)


def test_a_run_that_always_draws(start: Any, runs: dict[str, Path]) -> None:
    folder = runs["language_model"]
    want = wanted(folder, ["the"], "sample=true", "max_length=7")
    with start(folder, options=("sample=true", "max_length=7")) as server:
        for _ in range(2):
            assert_same(server.predict(text="the").json["predictions"], want)


def test_runs_and_health(served: Any, runs: dict[str, Path]) -> None:
    found = served.get("/runs").json["runs"]
    assert [one["name"] for one in found] == [folder.name for folder in runs.values()]
    assert [one["task"] for one in found] == list(runs)
    options = found[2]["options"]
    assert options["beam_size"]["type"] == "integer"
    assert options["length_penalty_kind"] == {
        "type": "string",
        "choices": ["gnmt", "average"],
        "default": "gnmt",
        "description": options["length_penalty_kind"]["description"],
    }
    # What names code, what lets outputs grow without end, and what is the owner's.
    assert not options.keys() & {"constraints", "max_ratio", "min_ratio", "batch_size", "attention"}
    assert served.get("/health").json == {"status": "ok", "waiting": dict.fromkeys(served.models, 0)}


def test_examples_come_from_stored_outputs(start: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs["slots"], tmp_path / "run"))
    rows: list[Any] = [
        {"text": "to Rome", "tokens": ["to", "Rome"], "gold": ["O", "B-city"], "prediction": ["O", "O"]},
        {"text": "a film", "gold": "good", "prediction": "bad"},
        {"text": "no gold"},
        {"text": " "},
        {"text": 3},
        {"text": "long " * 100, "gold": "good"},
    ]
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with start(folder) as server:
        assert server.get("/runs").json["runs"][0]["examples"] == [
            {"text": "to Rome", "gold": "Rome (B-city)", "prediction": "no slots"},
            {"text": "a film", "gold": "good", "prediction": "bad"},
            {"text": "no gold", "gold": None, "prediction": None},
        ]


def test_openapi_describes_what_there_is(served: Any) -> None:
    found = served.get("/openapi.json").json
    for path, methods in found["paths"].items():
        for method in methods:
            assert served.send(method.upper(), path).status in (200, 415), path
    request = found["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(request["properties"]) == {"run", "text", "texts", "options"}
    page = served.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in found["paths"]:
        assert path in page.text


@pytest.mark.parametrize("what", ["words", "gates"])
def test_explanations_are_those_of_the_task(what: str, served: Any, runs: dict[str, Path]) -> None:
    folder, text = runs["sentiment"], "a superb , warm film"
    task = load_predictor(folder, "cpu")
    want: Any = task.trace(text) if what == "gates" else task.explain([text])[0]
    body = {"run": folder.name, "text": text, "what": what}
    assert_same(served.post("/explain", body).json["explanation"], json.loads(json.dumps(want.to_json())))
    assert served.post("/explain", {**body, "form": "html"}).json["html"] == want.html()


def test_explanations_wait_in_a_queue_of_their_own(
    start: Any, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, end = threading.Event(), threading.Event()

    def slow(*item: Any) -> str:
        began.set()
        end.wait(60)
        return "{}"

    monkeypatch.setattr("seqkit.serve.explaining._explained", slow)
    with start(runs["sentiment"], limits=Limits(explain_queue=1)) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(server.post, "/explain", {"text": "a film"})
        assert began.wait(60)
        others = [pool.submit(server.post, "/explain", {"text": "a film"}) for _ in range(7)]
        while sum(future.done() for future in others) < 6:
            time.sleep(0.01)
        assert server.predict(text="a film").status == 200  # not held up
        refused = [future.result() for future in others if future.done()]
        assert {answer.status for answer in refused} == {429}
        assert refused[0].error == "busy: 1 explanations wait already; try again in a moment"
        assert refused[0].headers["retry-after"] == "1"
        end.set()
        assert sorted(future.result().status for future in [first, *others]) == [200, 200, *[429] * 6]
