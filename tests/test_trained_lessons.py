"""The lessons that train models, shortened: what must come out better than what."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkit.errors import UserError
from seqkit.lessons import LESSONS, bottleneck, keywords, small_tasks, taipei, variants
from seqkit.lessons.trained import trained

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]


# --- variants ---------------------------------------------------------------------------------------------------------


def test_the_same_sequence_by_hand() -> None:
    """Each network's equation, without any module."""
    elman, deep, jordan, gru, total = 0.0, 0.0, 0.0, 0.0, 0.0
    wanted: dict[str, list[float]] = {name: [] for name in variants.same_sequence() if name != "input"}
    for x in variants.SEQUENCE:
        elman = x + elman / 2
        deep = elman + deep / 2
        jordan = -(x + jordan / 2)
        gru = gru / 2 + float(torch.tensor(x, dtype=torch.float64).tanh()) / 2
        total += x
        shown = total if total > 2 else 0.0
        steps = {"Elman": elman, "2 layers": deep, "Jordan": jordan, "GRU": gru, "LSTM": total, "peephole": shown}
        for name, value in steps.items():
            wanted[name].append(value)
    backward = 0.0
    for x in reversed(variants.SEQUENCE):
        backward = x + backward / 2
        wanted["backward"].insert(0, backward)
    found = variants.same_sequence()
    assert found.pop("input") == list(variants.SEQUENCE)
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, abs=1e-9), name


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 41])
def test_who_is_ahead_is_by_one_or_two(steps: int) -> None:
    symbols, targets = small_tasks.count_draw(steps, steps)(torch.Generator().manual_seed(1), 200)
    assert symbols.shape == targets.shape == (steps, 200)
    ahead = (symbols == 1).sum(0) - (symbols == 0).sum(0)
    assert set(ahead.abs().tolist()) <= {1, 2}
    assert ((ahead > 0).long() == targets[-1]).all()
    assert (targets[:-1] == small_tasks.IGNORED).all()


def test_what_is_asked_was_read() -> None:
    generator = torch.Generator().manual_seed(1)
    read, targets = small_tasks.shifted_draw(6, 4, 2)(generator, 5)
    assert (targets[2:] == read[:4]).all()
    assert (targets[:2] == small_tasks.IGNORED).all()
    read, targets = small_tasks.shifted_draw(6, 4, -1)(generator, 5)
    assert (targets[:5] == read[1:]).all()
    assert (targets[5:] == small_tasks.IGNORED).all()
    read, targets = small_tasks.gap_draw(4, 7)(generator, 5)
    assert read.shape == (9, 5)
    assert (targets[-1] == read[0]).all()
    assert (read[0] < 4).all()
    assert ((read[1:-1] >= 4) & (read[1:-1] < 8)).all()
    assert (read[-1] == 8).all()


def test_only_two_directions_look_ahead() -> None:
    ahead = variants.EXERCISES[2]
    found = {name: variants.exercise(name, ahead, updates=150)["look ahead"] for name in ("Elman, both ways", "LSTM")}
    assert found["Elman, both ways"] > 0.9
    assert found["LSTM"] < 0.35  # of four symbols


def test_a_jordan_network_copies_worse_than_an_elman_network() -> None:
    copying = variants.EXERCISES[1]
    found = {name: variants.exercise(name, copying, updates=250)["copy"] for name in ("Elman", "Jordan")}
    assert found["Elman"] > found["Jordan"] + 0.2


def test_an_lstm_remembers_longer_than_an_elman_network() -> None:
    found = {name: variants.remembers(name, 40, updates=350, seeds=[1]) for name in ("Elman", "LSTM")}
    assert found["LSTM"] > found["Elman"] + 0.2


def test_the_same_seed_gives_the_same_model() -> None:
    draw = small_tasks.gap_draw(4, 3)

    def weights(seed: int) -> torch.Tensor:
        torch.rand(3)  # what was drawn before does not matter
        task = small_tasks.learn(lambda: variants.NETWORKS["GRU"](9, 4), draw, 9, updates=3, rate=0.01, seed=seed)
        return torch.cat([weight.flatten() for weight in task.model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


# --- taipei -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taggers() -> Any:
    wanted = {
        name: taipei.configuration(*taipei.ENCODERS[name], sentences=2000, epochs=4)
        for name in ("feed-forward", "LSTM")
    }
    with trained(wanted) as models:
        yield models


def test_memory_tells_the_destination_from_the_origin(taggers: Any) -> None:
    blind, lstm = (taipei.scores(taggers[name], 150) for name in ("feed-forward", "LSTM"))
    assert blind["destination"] < 0.5 < lstm["destination"]
    assert blind["origin"] < 0.5 < lstm["origin"]
    pair = taipei.SENTENCES[:2]
    assert len(set(taipei.answers(taggers["feed-forward"], pair))) == 1
    assert taipei.answers(taggers["LSTM"], pair) == ["to", "from"]


# --- keywords ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviews_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from seqkit.run import train

    root = tmp_path_factory.mktemp("runs")
    tree = keywords.configuration(reviews=3000, epochs=5)
    return train({"name": "reviews", "device": "cpu", **tree}, root=root).folder


def test_the_judging_words_are_those_of_the_rules() -> None:
    words = keywords.judgements()
    assert {"charming", "dull"} <= words
    assert not {"text", "sign", "the", "+", "-"} & words


def test_words_that_judge_keep_a_larger_share(reviews_run: Path) -> None:
    from seqkit.run import load

    classifier = load(reviews_run, device="cpu")
    found = keywords.groups(keywords.mean_shares(classifier, 80))
    assert found["words that judge"] > 1.5 * found["other words"]
    share = keywords.layer_of(classifier, keywords.REVIEWS[0]).share
    assert share is not None
    assert float(share.sum()) == pytest.approx(1)


def test_a_lesson_looks_at_a_run(cli: Cli, tmp_path: Path, reviews_run: Path) -> None:
    done = cli(tmp_path, "lessons", "keywords", "--run", str(reviews_run), "--to", "page.html")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "The model is the run reviews." in text
    assert "words that judge" in text
    assert max(map(len, text.splitlines())) <= 80
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "charming" in page
    assert "<script" not in page


def test_a_run_of_another_task_is_refused(reviews_run: Path) -> None:
    with pytest.raises(UserError, match="a sentiment run; this lesson takes slots runs"):
        LESSONS["taipei"].blocks([reviews_run])
    with pytest.raises(UserError, match="this lesson takes none: its numbers are exact"):
        LESSONS["memory"].blocks([reviews_run])
    with pytest.raises(UserError, match="takes at most 1 of the task sentiment"):
        LESSONS["keywords"].blocks([reviews_run, reviews_run])


# --- bottleneck -------------------------------------------------------------------------------------------------------


def test_attention_does_not_lose_long_sentences() -> None:
    pytest.importorskip("sacrebleu")
    found = bottleneck.measure(pairs=2500, tested=120, epochs=4)
    (name, fixed), (_, attention) = (found[decoder] for decoder in ("fixed vector", "attention"))
    assert name == "BLEU"
    assert sum(group.sentences for group in fixed) == 120
    assert fixed[0].score > fixed[-1].score + 20
    assert attention[-1].score > fixed[-1].score + 20


def test_without_sacrebleu_sentences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottleneck, "find_spec", lambda name: None)
    name, score = bottleneck.metric(None, ["a b", "c"])
    assert name == "exact match (%)"
    assert score(["a b", "d"], ["a b", "c"]) == 50
