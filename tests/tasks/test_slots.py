"""The slots task: learning, scores equal to conlleval, prediction on raw text, resuming, bad data, fine-tuning."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqkit
from seqkit.errors import UserError
from seqkit.run import counted, evaluate, load, read_config, resume, train
from seqkit.tasks.slots.metrics import Span, SpanCounts, spans
from seqkit.tasks.slots.predictions import format_tagging, make_tagging
from seqkit.tasks.slots.task import SlotsTask

CITIES = ["Boston", "Lima", "New York", "Oslo", "Rio de Janeiro"]


def sentence(generator: random.Random) -> dict[str, Any]:
    """`to` or `from` decides what a city is, the verb decides the intent."""
    verb, intent = generator.choice([("book", "buy"), ("find", "look"), ("show me", "look")])
    tokens, tags = [*verb.split(), "flights"], ["O"] * (len(verb.split()) + 1)
    for word, kind in generator.sample([("to", "goal"), ("from", "start")], generator.choice([1, 2])):
        city = generator.choice(CITIES).split()
        tokens += [word, *city]
        tags += ["O", f"B-{kind}", *[f"I-{kind}"] * (len(city) - 1)]
    return {"tokens": tokens, "tags": tags, "intent": intent}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, generator = tmp_path_factory.mktemp("slots"), random.Random(0)
    return {
        part: write(folder / f"{part}.jsonl", [sentence(generator) for _ in range(size)])
        for part, size in (("train", 120), ("dev", 40), ("test", 40))
    }


def tree(files: dict[str, str], **sections: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "task": "slots",
        "data": {"train": files["train"], "dev": files["dev"], "batch_size": 16},
        "text": {"lowercase": True},
        "model": {
            "embedding": {"size": 12},
            "characters": {"embedding": {"size": 6}, "encoder": {"hidden_size": 5, "bidirectional": True}},
            "encoder": {"hidden_size": 10, "bidirectional": True},
        },
        "training": {"epochs": 2, "optimizer": {"lr": 0.02}, "intent_weight": 0.5},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section} if isinstance(section, dict) else section
    return base


@pytest.fixture(scope="module")
def trained(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tree(files, name="base", training={"epochs": 8, "optimizer": {"lr": 0.02}})
    config["data"]["test"] = files["test"]
    return train(config, root=tmp_path_factory.mktemp("runs")).folder


def task_for(config: dict[str, Any]) -> SlotsTask:
    return SlotsTask.create(read_config(config)[0])  # type: ignore[arg-type]


# --- learning and predicting --------------------------------------------------------------------------------------


def test_it_learns_and_a_run_folder_needs_nothing_else(trained: Path, tmp_path: Path) -> None:
    scores = json.loads((trained / "scores.json").read_text())["test"]
    assert scores["span_f1"] > 0.98
    assert scores["intent_accuracy"] == 1.0
    assert scores["sentence_accuracy"] > 0.95
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained, moved)
    shutil.rmtree(moved / "checkpoints")
    text = "  Show me flights from  New York,to Oslo "
    found, blank, nothing = seqkit.load(moved).predict([text, " ", ""])
    assert found.intent == "look"
    assert [(slot.type, slot.text) for slot in found.slots] == [("start", "New York"), ("goal", "Oslo")]
    assert all(text[slot.start : slot.end] == slot.text for slot in found.slots)
    assert found.tokens == ["Show", "me", "flights", "from", "New", "York", ",", "to", "Oslo"]
    assert len(found.tags) == len(found.tokens)
    assert (blank.intent, blank.slots, nothing.tokens) == (None, [], [])


def test_evaluate_agrees_with_training_and_with_the_predictions(trained: Path, files: dict[str, str]) -> None:
    scores, lines = evaluate(trained)
    assert counted(scores) == json.loads((trained / "scores.json").read_text())["test"]
    assert evaluate(trained, files["test"])[0] == scores
    rows = [json.loads(line) for line in Path(files["test"]).read_text().splitlines()]
    found = load(trained).predict([" ".join(row["tokens"]) for row in rows])
    assert [one.tokens for one in found] == [row["tokens"] for row in rows]
    right = [one.tags == row["tags"] and one.intent == row["intent"] for one, row in zip(found, rows, strict=True)]
    assert scores["sentence_accuracy"] == pytest.approx(sum(right) / len(rows))
    table = conlleval([(row["tags"], one.tags) for row, one in zip(rows, found, strict=True)])
    assert scores["span_f1"] == pytest.approx(table[2])
    assert any(line.startswith("goal ") for line in lines)


def test_predictions_do_not_depend_on_the_batch(trained: Path) -> None:
    task = load(trained)
    texts = ["book flights to Rio de Janeiro", "Lima", "show me flights from Oslo to New York , please , now"]
    together = task.predict(texts)
    assert [task.predict([text])[0] for text in texts] == together


def test_the_lines_of_a_prediction(trained: Path) -> None:
    text = "get é me to  New York\r now"
    offsets = [(0, 3), (4, 5), (6, 8), (9, 11), (13, 16), (17, 21), (23, 26)]
    found = make_tagging(text, offsets, ["O", "O", "B-who", "O", "B-goal", "I-goal", "B-when"], "go")
    shown = json.loads(format_tagging(found, "jsonl"))
    assert shown["intent"] == "go"
    assert shown["slots"][1] == {"type": "goal", "text": "New York", "start": 13, "end": 21}
    assert shown["tokens"][4:] == ["New", "York", "now"]
    assert format_tagging(found, "text") == "go: get é [who me] to  [goal New York]  [when now]"
    task = load(trained)
    for form in ("text", "jsonl"):
        assert len(task.format(task.predict(["book a\u2028b\x85c"])[0], form).splitlines()) == 1


def test_offsets_are_those_of_the_text_as_it_was_given(files: dict[str, str]) -> None:
    """Also where normalising makes two characters one, or one two."""
    words = ["cafe\u0301", "ﬁnd", "e\u0301t\u0301\u0323e\u0301", "New", "York", "\u1112\u1161\u11ab", "你", "好"]
    text = "{} {}{}, {}\u00a0{} {}{}{}".format(words[0], words[1], " " + words[2], *words[3:])
    for settings_ in ({"normalize": "nfkc"}, {"strip_accents": True}, {"normalize": "nfd"}):
        tokenizer = task_for(tree(files, text=settings_)).tokenizer
        assert [text[a:b] for a, b in tokenizer.offsets(text)] == [*words[:3], ",", *words[3:]]


def test_characters_see_what_lower_case_words_do_not(files: dict[str, str], tmp_path: Path) -> None:
    """A capital makes a slot; the words' vectors cannot tell."""
    generator = random.Random(1)
    rows = []
    for _ in range(150):
        tokens = [generator.choice(["rose", "mark", "will", "may"]) for _ in range(4)]
        names = [generator.random() < 0.5 for _ in tokens]
        tokens = [token.title() if name else token for token, name in zip(tokens, names, strict=True)]
        rows.append({"tokens": tokens, "tags": ["B-name" if name else "O" for name in names]})
    path = write(tmp_path / "names.jsonl", rows)
    scores = {}
    for name, characters in (("with", tree(files)["model"]["characters"]), ("without", None)):
        data = {"train": path, "dev": path, "intent": False}
        config = tree(
            files, data=data, model={"characters": characters}, training={"epochs": 4, "optimizer": {"lr": 0.03}}
        )
        scores[name] = train({**config, "name": name}, root=tmp_path).dev["span_f1"]
    assert scores["with"] > 0.99
    assert scores["without"] < 0.8


def test_memory_tells_the_goal_from_the_start_and_a_window_cannot(files: dict[str, str], tmp_path: Path) -> None:
    encoders: dict[str, Any] = {"window": {"window": 1, "hidden_size": 20}}
    encoders |= {cell: {"cell": cell, "hidden_size": 12, "bidirectional": True} for cell in ("rnn", "gru")}
    for name, encoder in encoders.items():
        model = {"encoder": encoder, "characters": None, "intent_pooling": "mean", "output": "softmax"}
        config = tree(files, model=model, training={"epochs": 8, "optimizer": {"lr": 0.02}}, name=name)
        score = train(config, root=tmp_path).dev["span_f1"]
        assert score < 0.8 if name == "window" else score > 0.97, name


# --- scores -------------------------------------------------------------------------------------------------------


def conlleval(pairs: list[tuple[list[str], list[str]]], kind: str | None = None) -> tuple[float, float, float]:
    """After the Perl script of CoNLL-2000: walk through the tags with a flag for a slot that is right so far."""

    def ends(last: str, tag: str) -> bool:
        return last != "O" and (tag == "O" or tag[0] == "B" or last[2:] != tag[2:])

    def starts(last: str, tag: str) -> bool:
        return tag != "O" and (tag[0] == "B" or last == "O" or last[2:] != tag[2:])

    right = gold = found = 0
    for truth, guess in pairs:
        inside, last, before = False, "O", "O"
        for tag, other in [*zip(truth, guess, strict=True), ("O", "O")]:
            if inside:
                over, done = ends(last, tag), ends(before, other)
                if over and done:
                    right += kind is None or last[2:] == kind
                    inside = False
                elif over != done or tag[2:] != other[2:]:
                    inside = False
            if starts(last, tag) and starts(before, other) and tag[2:] == other[2:]:
                inside = True
            gold += starts(last, tag) and kind in (None, tag[2:])
            found += starts(before, other) and kind in (None, other[2:])
            last, before = tag, other
    precision, recall = (right / found if found else 0.0), (right / gold if gold else 0.0)
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


_TAGS = st.lists(st.sampled_from(["O", "O", "B-a", "I-a", "B-b", "I-b"]), max_size=8)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(_TAGS, _TAGS, st.booleans()), max_size=4))
def test_span_scores_are_those_of_conlleval(rows: list[tuple[list[str], list[str], bool]]) -> None:
    pairs = []
    for truth, guess, same in rows:
        size = min(len(truth), len(guess))
        pairs.append((truth[:size], truth[:size] if same else guess[:size]))
    counts = SpanCounts()
    for truth, guess in pairs:
        counts.add(truth, guess)
    for kind in (None, "a", "b"):
        assert counts.scores(kind) == pytest.approx(conlleval(pairs, kind))


def test_spans_and_their_report() -> None:
    tags = ["B-a", "I-a", "B-a", "O", "I-b", "I-a"]
    assert spans(tags) == [Span("a", 0, 2), Span("a", 2, 3), Span("b", 4, 5), Span("a", 5, 6)]
    counts = SpanCounts()
    counts.add(tags, ["B-a", "I-a", "O", "O", "B-b", "I-b"])
    report = counts.report()
    assert report[1].split() == ["a", "1.0000", "0.3333", "0.5000", "3", "1"]
    assert report[2].split() == ["b", "0.0000", "0.0000", "0.0000", "1", "1"]


# --- wrong in one of two things, and labels that training lacks -----------------------------------------------------


def rows_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("wrong_intents", "wrong_tags"), [((), ()), ((1, 4, 7), ()), ((), (0, 5)), ((1, 4, 7), (4, 5)), ((2,), (9,))]
)
def test_a_sentence_is_right_if_both_its_slots_and_its_intent_are(
    trained: Path, files: dict[str, str], tmp_path: Path, wrong_intents: tuple[int, ...], wrong_tags: tuple[int, ...]
) -> None:
    """What the model says is made the truth, and then one of two things, or both, is changed."""
    rows = rows_of(files["test"])
    found = load(trained).predict([row["tokens"] for row in rows], is_split_into_words=True)  # type: ignore[call-arg]
    truth = [{"tokens": one.tokens, "tags": list(one.tags), "intent": one.intent} for one in found]
    for number in wrong_intents:
        truth[number]["intent"] = "buy" if truth[number]["intent"] == "look" else "look"
    for number in wrong_tags:
        tags = truth[number]["tags"]
        place = next(place for place, tag in enumerate(tags) if tag.startswith("B-"))
        tags[place] = "B-start" if tags[place] == "B-goal" else "B-goal"
        for inside in range(place + 1, len(tags)):
            if not tags[inside].startswith("I-"):
                break
            tags[inside] = f"I-{tags[place][2:]}"
    scores, _ = evaluate(trained, write(tmp_path / "own.jsonl", truth))
    count = len(rows)
    assert scores["intent_accuracy"] == pytest.approx(1 - len(wrong_intents) / count)
    assert scores["sentence_accuracy"] == pytest.approx(1 - len({*wrong_intents, *wrong_tags}) / count)
    slots = sum(tag.startswith("B-") for row in truth for tag in row["tags"])
    assert scores["span_precision"] == scores["span_recall"] == pytest.approx(1 - len(wrong_tags) / slots)


def test_unknown_slot_types_and_intents_count_as_wrong(trained: Path, files: dict[str, str], tmp_path: Path) -> None:
    rows = rows_of(files["test"])
    for number, row in enumerate(rows):
        if number % 3 == 0:
            row["tags"] = [tag.replace("goal", "stop") for tag in row["tags"]]
        if number % 4 == 1:
            row["intent"] = "fly"
    path = write(tmp_path / "own.jsonl", rows)
    scores, lines = evaluate(trained, path)
    found = load(trained).predict([row["tokens"] for row in rows], is_split_into_words=True)  # type: ignore[call-arg]
    table = conlleval([(row["tags"], one.tags) for row, one in zip(rows, found, strict=True)])
    assert (scores["span_precision"], scores["span_recall"], scores["span_f1"]) == pytest.approx(table)
    understood = [one.intent == row["intent"] for one, row in zip(found, rows, strict=True)]
    assert scores["intent_accuracy"] == pytest.approx(sum(understood) / len(rows))
    right = [one.tags == row["tags"] and same for one, row, same in zip(found, rows, understood, strict=True)]
    assert scores["sentence_accuracy"] == pytest.approx(sum(right) / len(rows))
    stops = [sum(tag == "B-stop" for tag in row["tags"]) for row in rows]
    have, odd = sum(map(bool, stops)), len(rows) // 4
    assert (
        f"1 slot type that training lacks, counted as wrong, in {have} of 40 sentences: 'stop' ({sum(stops)})"
        in lines[1]
    )
    assert f"1 intent that training lacks, counted as wrong, in {odd} of 40 sentences: 'fly' ({odd})" in lines[2]
    assert any(line.split()[:4] == ["stop", "0.0000", "0.0000", "0.0000"] for line in lines)
    # The loss is that of the sentences whose tags are known, and of those whose intent is.
    tags_alone = ["training.intent_weight=0"]
    known_tags = [{**row, "intent": "buy"} for row, count in zip(rows, stops, strict=True) if not count]
    known_intents = [{**row, "tags": ["O"] * len(row["tags"])} for row in rows if row["intent"] != "fly"]
    apart = evaluate(trained, path, overrides=tags_alone)[0]["loss"]
    assert apart > 0
    assert apart == pytest.approx(
        evaluate(trained, write(tmp_path / "a.jsonl", known_tags), overrides=tags_alone)[0]["loss"]
    )
    own = write(tmp_path / "b.jsonl", known_intents)
    intents = [evaluate(trained, own, overrides=weight)[0]["loss"] for weight in ([], tags_alone)]
    assert scores["loss"] - apart == pytest.approx(intents[0] - intents[1], rel=1e-4, abs=1e-9)


def test_unknown_slot_types_are_an_error_where_they_are_too_many_or_refused(
    files: dict[str, str], tmp_path: Path
) -> None:
    rows = [{**GOOD, "tags": ["O", "B-when"]}, {**GOOD, "tags": ["B-when", "B-goal"]}, GOOD]
    dev = write(tmp_path / "dev.jsonl", rows)
    message = r"dev\.jsonl:1: unknown slot type in tag 'B-when'.*\(2 of 3 sentences have such, more than half\)"
    check_data(files, tmp_path, {"dev": dev}, message)
    dev = write(tmp_path / "dev.jsonl", [{**GOOD, "intent": "fly"}] * 3 + [GOOD] * 2)
    check_data(files, tmp_path, {"dev": dev}, r"unknown intent 'fly'.*\(3 of 5 sentences have such, more than half\)")


def test_unknown_types_in_the_middle_of_a_sentence_are_scored_without_crf_and_repaired(
    files: dict[str, str], tmp_path: Path
) -> None:
    rows = [{**GOOD, "tags": ["O", "I-when"]}, {**GOOD, "tags": ["I-when", "I-when"], "intent": "fly"}, GOOD, GOOD]
    data = {"dev": write(tmp_path / "dev.jsonl", rows), "on_bad_tags": "repair"}
    task = task_for(tree(files, data=data, model={"output": "softmax"}))
    assert [task.splits["dev"].tag_names[tag] for tag in task.splits["dev"].tags[1]] == ["B-when", "I-when"]
    with torch.no_grad():
        assert all(0 <= value < 100 for value in task.evaluate().values())


def test_thousands_of_types_and_intents_take_few_lines(files: dict[str, str], tmp_path: Path) -> None:
    rows = [{"tokens": ["a"], "tags": [f"B-type{n}"], "intent": f"intent{n}" + "x" * 300} for n in range(300)]
    path = write(tmp_path / "own.jsonl", rows)
    task = task_for(tree(files, data={"train": path, "dev": None}, training={"metric": "loss"}))
    assert max(map(len, task.report())) < 800
    counts = SpanCounts()
    for n in range(3000):
        counts.add([f"B-{'a' * n}z"], [f"B-type{n}"])
    assert (len(counts.report()), max(map(len, counts.report()))) == (42, 81)
    assert counts.report()[-1] == "... and 5,960 types with as many mistakes or fewer"
    dev = write(tmp_path / "dev.jsonl", [{**GOOD, "intent": "z" * 1000}])
    for own in (dev, write(tmp_path / "tags.jsonl", [{**GOOD, "tags": ["O", "B-" + "z" * 1000], "intent": "intent0"}])):
        with pytest.raises(UserError, match="unknown") as caught:
            task_for(tree(files, data={"train": path, "dev": own}))
        assert len(str(caught.value)) < 600


def test_slot_types_and_intents_that_look_alike_are_one(files: dict[str, str], tmp_path: Path) -> None:
    rows = [
        {"tokens": ["a", "b"], "tags": ["B-caf\u00e9", "I-cafe\u0301 "], "intent": "x"},
        {"tokens": ["a", "b"], "tags": ["O", "B- caf\u00e9"], "intent": " x"},
        {"tokens": ["a", "b"], "tags": ["O", "O"], "intent": "y"},
    ]
    task = task_for(
        tree(files, data={"train": write(tmp_path / "own.jsonl", rows), "dev": None}, training={"metric": "loss"})
    )
    assert task.tags == ["O", "B-caf\u00e9", "I-caf\u00e9"]
    assert task.intents == ["x", "y"]
    assert [task.splits["train"].tags[row].tolist() for row in range(3)] == [[1, 2], [0, 1], [0, 0]]
    told = [line for line in task.report() if "count as one: " in line]
    assert [line.split(" that ")[0] for line in told] == ["train: intents", "train: slot types"]


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_losses_are_named_weighed_and_scored(files: dict[str, str]) -> None:
    task = task_for(tree(files))
    task.model.eval()
    batch = next(iter(task.batches(0)))
    losses, _ = task.loss(batch, None)
    scores, intents = task.model(batch.ids, batch.lengths, batch.spelling)
    assert intents is not None
    assert batch.intents is not None
    assert losses["tags"].sum.item() == pytest.approx(
        float(task.model.crf(scores, batch.tags, batch.lengths).detach().sum())
    )
    picked = torch.log_softmax(intents.detach(), 1)[range(16), batch.intents]
    assert losses["intent"].sum.item() == pytest.approx(-float(picked.sum()), rel=1e-5)
    assert (losses["intent"].weight, losses["intent"].coefficient) == (16, 0.5)
    assert losses["tags"].weight == task.tokens(batch) == int(batch.lengths.sum())
    assert task.weights(batch) == {name: loss.weight for name, loss in losses.items()}
    with torch.no_grad():
        total = task.evaluate()["loss"]
        parts = {"tags": 0.0, "intent": 0.0}
        task.splits["train"] = task.splits["dev"]
        for one in task.batches(0):
            for name, loss in task.loss(one, None)[0].items():
                parts[name] += float(loss.sum)
    dev = task.splits["dev"]
    assert total == pytest.approx(
        parts["tags"] / int(dev.words.lengths.sum()) + 0.5 * parts["intent"] / len(dev), rel=1e-5
    )


def test_a_batch_holds_what_the_file_says(files: dict[str, str]) -> None:
    task = task_for(tree(files, text={"lowercase": False}))
    rows = [json.loads(line) for line in Path(files["train"]).read_text().splitlines()]
    seen: list[int] = []
    assert task.letters is not None
    for batch in task.batches(0):
        seen += batch.rows.tolist()
        assert batch.spelling is not None
        assert batch.intents is not None
        for place, row in enumerate(batch.rows.tolist()):
            length = int(batch.lengths[place])
            assert [task.tokenizer.vocabulary[word] for word in batch.ids[place, :length]] == rows[row]["tokens"]
            assert not batch.ids[place, length:].any()
            assert [task.tags[tag] for tag in batch.tags[place, :length]] == rows[row]["tags"]
            assert task.intents[int(batch.intents[place])] == rows[row]["intent"]
            for word, token in zip(batch.spelling.words[place, :length], rows[row]["tokens"], strict=True):
                letters = batch.spelling.ids[word, : batch.spelling.lengths[word]]
                assert task.letters.decode(letters) == token
    assert sorted(seen) == list(range(120))


# --- resuming and fine-tuning -------------------------------------------------------------------------------------


def test_a_run_killed_after_an_epoch_resumes_to_the_same_weights(files: dict[str, str], tmp_path: Path) -> None:
    config = tree(files, training={"epochs": 3, "ema": 0.9}, model={"dropout": 0.3})
    whole = train({**config, "name": "whole"}, root=tmp_path).folder
    cut = train({**config, "name": "cut"}, root=tmp_path).folder
    for path in cut.glob("checkpoints/step-*"):
        shutil.rmtree(path)
    shorter = train({**config, "training": {**config["training"], "epochs": 2}, "name": "short"}, root=tmp_path).folder
    for path in shorter.glob("checkpoints/step-*"):
        shutil.copytree(path, cut / "checkpoints" / path.name)
    resume(cut)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_resuming_on_other_data_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    rows = [sentence(random.Random(seed)) for seed in range(12)]
    path = write(tmp_path / "own.jsonl", rows)
    folder = train(tree(files, data={"train": path}), root=tmp_path / "runs").folder
    resume(folder)
    rows[3]["tags"] = ["O"] * len(rows[3]["tags"])  # the same tokens, other tags
    write(tmp_path / "own.jsonl", rows)
    with pytest.raises(UserError, match="not the one that this run was started with"):
        resume(folder)


def test_fine_tuning_on_more_slots_keeps_what_is_shared(
    trained: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"tokens": ["tell", "Oslo", "now"], "tags": ["O", "B-goal", "B-when"], "intent": "buy"},
        {"tokens": ["tell", "me"], "tags": ["O", "B-airline"], "intent": "tell"},
    ]
    config = tree(files, name="tuned", init={"run": str(trained)}, training={"steps": 1, "epochs": None})
    config["data"] = {"train": write(tmp_path / "own.jsonl", rows)}
    del config["text"]
    config["training"]["optimizer"] = {"name": "sgd", "lr": 1e-9}
    made = load(train(config, root=tmp_path).folder)
    before = load(trained)
    assert isinstance(made, SlotsTask)
    assert isinstance(before, SlotsTask)
    assert made.tags == ["O", *(f"{mark}-{kind}" for kind in ("airline", "goal", "when") for mark in "BI")]
    here, there = made.tags.index("I-goal"), before.tags.index("I-goal")
    torch.testing.assert_close(made.model.tag_scores.weight[here], before.model.tag_scores.weight[there])
    torch.testing.assert_close(made.model.crf.start[here], before.model.crf.start[there])
    assert made.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert made.letters is not None
    table, other = made.model.characters, before.model.characters
    assert table is not None
    assert other is not None
    assert before.letters is not None
    row = made.letters.vocabulary.index("O"), before.letters.vocabulary.index("O")
    weights = [one.encoder.embedding.table.weight for one in (table, other)]
    torch.testing.assert_close(weights[0][row[0]], weights[1][row[1]])
    shown = capsys.readouterr().err
    assert "init: resized tag_scores.weight: 3 of 7 rows found by name, 4 new" in shown
    assert "init: resized crf.transitions: 3 of 7 rows found by name, 4 new" in shown
    pairs = [("I-goal", "O"), ("O", "B-goal"), ("B-goal", "I-goal")]
    for first, second in pairs:
        places = [(one.tags.index(first), one.tags.index(second)) for one in (made, before)]
        after, then = (one.model.crf.transitions[place] for one, place in zip((made, before), places, strict=True))
        torch.testing.assert_close(after, then)


def test_a_classifier_becomes_a_tagger(
    generated_data: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = {"hidden_size": 10, "bidirectional": True}
    config = {
        "task": "sentiment",
        "data": {"train": str(generated_data / "sst2/train.tsv")},
        "model": {"embedding": {"size": 12}, "encoder": encoder},
        "training": {"steps": 1, "metric": "loss"},
    }
    first = train(config, root=tmp_path).folder
    capsys.readouterr()
    second = tree(files, init={"run": str(first)}, model={"characters": None}, training={"steps": 1, "epochs": None})
    task = load(train(second, root=tmp_path).folder)
    shown = capsys.readouterr().err
    assert "encoder.recurrent.weight_hh_l0" in shown.partition("init: loaded")[2].splitlines()[0]
    assert "encoder.embedding.table.weight: " in shown
    assert "init: left out, not in this model: output.bias, output.weight" in shown
    assert isinstance(task, SlotsTask)


# --- bad input ----------------------------------------------------------------------------------------------------


def check_data(files: dict[str, str], tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(tree(files, data=data), root=tmp_path / "runs")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


GOOD = {"tokens": ["to", "Oslo"], "tags": ["O", "B-goal"], "intent": "buy"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tags": ["O", "B-gaol"]}, r"dev\.jsonl:2: unknown slot type in tag 'B-gaol'; did you mean 'goal'"),
        (
            {"tags": ["O", "B-zzz"]},
            r"dev\.jsonl:2: unknown slot type in tag 'B-zzz'; the training data has: goal, start",
        ),
        ({"intent": "bye"}, r"dev\.jsonl:2: unknown intent 'bye'"),
        ({"tags": ["O"]}, r"dev\.jsonl:2: 2 tokens and 1 tags"),
        ({"tags": ["O", "I-goal"]}, r"dev\.jsonl:2: tag 2 is 'I-goal' after O; data\.on_bad_tags: repair"),
        ({"tags": ["I-goal", "O"]}, r"dev\.jsonl:2: tag 1 is 'I-goal' after the start"),
        ({"tags": ["B-start", "I-goal"]}, r"dev\.jsonl:2: tag 2 is 'I-goal' after B-start"),
        ({"tokens": ["x"] * 10_001, "tags": ["O"] * 10_001}, r"dev\.jsonl:2: 10,001 tokens are not a sentence"),
    ],
)
def test_bad_dev_data_is_one_clear_line(
    files: dict[str, str], tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    dev = write(tmp_path / "dev.jsonl", [GOOD, {**GOOD, **row}])
    check_data(files, tmp_path, {"dev": dev, "on_unknown_label": "error"}, message)


def test_bad_training_data(files: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [{**GOOD, "tags": ["O", "O"]}, {**GOOD, "intent": "x", "tags": ["O", "O"]}])
    check_data(files, tmp_path, {"train": path}, "every tag is O")
    path = write(tmp_path / "own.jsonl", [GOOD])
    check_data(files, tmp_path, {"train": path}, "only one intent, 'buy'; set data.intent to false")


def test_tags_out_of_order_are_repaired_and_counted(files: dict[str, str], tmp_path: Path) -> None:
    rows = [
        {"tokens": list("abcdef"), "tags": ["I-x", "I-x", "O", "I-y", "B-x", "I-y"], "intent": "p"},
        {"tokens": ["a"], "tags": ["I-y"], "intent": "q"},
        {"tokens": list("ab"), "tags": ["B-y", "I-y"], "intent": "q"},
    ]
    data = {"train": write(tmp_path / "own.jsonl", rows), "dev": None, "on_bad_tags": "repair"}
    task = task_for(tree(files, data=data, training={"metric": "loss"}))
    found = [[task.tags[tag] for tag in task.splits["train"].tags[row]] for row in range(3)]
    assert found == [["B-x", "I-x", "O", "B-y", "B-x", "B-y"], ["B-y"], ["B-y", "I-y"]]
    assert any("4 tags repaired, I- to B-, the first at" in line and "own.jsonl:1" in line for line in task.report())
    check_data(files, tmp_path, {**data, "on_bad_tags": "error"}, r"own\.jsonl:1: tag 1 is 'I-x'.*\(4 such tags")


def test_a_tag_of_a_known_type_that_training_never_saw_is_no_mistake(files: dict[str, str], tmp_path: Path) -> None:
    one = write(tmp_path / "own.jsonl", [GOOD, {**GOOD, "intent": "q"}])
    dev = write(tmp_path / "dev.jsonl", [{**GOOD, "tags": ["B-goal", "I-goal"]}])
    assert task_for(tree(files, data={"train": one, "dev": dev})).tags == ["O", "B-goal", "I-goal"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"text": {"tokenizer": "bpe"}}, r"text\.tokenizer: every token has a tag"),
        ({"text": {"max_length": 9}}, r"text\.max_length: every token has a tag"),
        ({"text": {"stop_words": "english"}}, r"text\.stop_words: every token has a tag"),
        ({"model": {"encoder": {"window": 2}}}, r"model\.encoder: window must be odd"),
        ({"model": {"encoder": {"window": 1, "cell": "gru"}}}, "unknown key"),
        ({"model": {"output": "softmax", "constrain_loss": True}}, "constrain_loss is for the output crf"),
        ({"model": {"encoder": {"window": 1}, "intent_pooling": "last"}}, "a window has no last state"),
        ({"model": {"characters": {"embedding": {"size": 4}}}}, r"characters\.encoder: this key is required"),
        ({"training": {"metric": "accuracy"}}, "did you mean 'intent_accuracy'"),
        ({"data": {"on_bad_tags": "skip"}}, "'repair' or 'error'"),
    ],
)
def test_senseless_settings_are_named(files: dict[str, str], sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(tree(files, **sections))


def test_conll_files_and_no_intent(files: dict[str, str], tmp_path: Path) -> None:
    text = "".join(
        "".join(f"{token}\tX\t{tag}\n" for token, tag in zip(row["tokens"], row["tags"], strict=True)) + "\n"
        for row in map(json.loads, Path(files["train"]).read_text().splitlines())
    )
    path = tmp_path / "own.conll"
    path.write_text(text, "utf-8")
    run = train(tree(files, data={"train": str(path), "dev": str(path)}), root=tmp_path)
    assert "intent_accuracy" not in run.dev
    found = load(run.folder).predict(["book flights to Oslo"])[0]
    assert found.intent is None
    assert not format_tagging(found, "text").startswith("None")
    with pytest.raises(UserError, match="a CoNLL file has no column 'intent'"):
        train(tree(files, data={"train": str(path), "intent": True}), root=tmp_path)


def test_a_text_of_too_many_tokens_is_cut(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqkit.tasks.slots.task.LONGEST", 1000)
    found = load(trained).predict(["Oslo " * 1005, "book"])
    assert [len(one.tokens) for one in found] == [1000, 1]
    assert "cut to the first 1,000" in capsys.readouterr().err


def test_given_tokens_stay_whole(files: dict[str, str], tmp_path: Path) -> None:
    """Words are looked up as they stand, though a raw text would be split there."""
    rows = [
        {"tokens": ["Don't", "stop,", "New York"], "tags": ["O", "B-x", "B-y"], "intent": "a"},
        {"tokens": ["你好", "<pad>", "<unk>"], "tags": ["O", "O", "O"], "intent": "b"},
    ]
    data = {"train": write(tmp_path / "own.jsonl", rows), "dev": None}
    task = task_for(tree(files, data=data, training={"metric": "loss"}))
    batch = next(iter(task.batches(0)))
    words = [[task.tokenizer.vocabulary[word] for word in batch.ids[row]] for row in batch.rows.argsort()]
    assert words == [["don't", "stop,", "new york"], ["你好", "<unk>", "<unk>"]]


def test_vectors_are_loaded(generated_data: Path, files: dict[str, str], tmp_path: Path) -> None:
    vectors = {"size": 100, "vectors": str(generated_data / "glove.6b.100d.subset.txt.gz"), "vectors_vocabulary": True}
    row = {"tokens": ["superb", "film"], "tags": ["B-x", "O"]}
    path = write(tmp_path / "own.jsonl", [{**row, "intent": "a"}, {**row, "intent": "b"}])
    config = tree(files, data={"train": path, "dev": None}, model={"embedding": vectors}, training={"metric": "loss"})
    task = task_for(config)
    assert any("words found in" in line for line in task.report())
    assert "lovely" in task.tokenizer.vocabulary
    weight = task.model.encoder.embedding.table.weight.detach()
    assert weight[task.tokenizer.vocabulary.index("superb")].std().item() == pytest.approx(0.4, rel=0.3)
