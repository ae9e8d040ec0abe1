"""The tokens of the data and those that a text is split into: chosen, counted and given; in Python and at the shell."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqkit.errors import UserError
from seqkit.run import load, read_config, train
from seqkit.tasks.slots.data import plain_lists
from seqkit.tasks.slots.split_fit import fitted, misfit
from seqkit.tasks.slots.task import SlotsTask
from seqkit.text import TextConfig, Tokenizer

PLACES = ["o'hare", "st.louis", "new york", "la-guardia"]
TIMES = ["5:30pm", "noon", "7o'clock"]
PRICES = ["$20", "$1,200.50"]


def sentence(generator: random.Random) -> dict[str, Any]:
    """As those of ATIS: white space separates, and nothing else does."""
    tokens, tags = ["flights"], ["O"]
    parts = [("to", "goal", PLACES), ("at", "time", TIMES), ("below", "price", PRICES)]
    for word, kind, values in generator.sample(parts, 2):
        value = generator.choice(values).split()
        tokens += [word, *value]
        tags += ["O", f"B-{kind}", *[f"I-{kind}"] * (len(value) - 1)]
    return {"tokens": tokens, "tags": tags, "intent": generator.choice(["a", "b"])}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def tree(train: str, **sections: Any) -> dict[str, Any]:
    return {
        "task": "slots",
        "name": "atis",
        "data": {"train": train, "dev": train, "batch_size": 8},
        "model": {"embedding": {"size": 12}, "encoder": {"hidden_size": 12, "bidirectional": True}},
        "training": {"epochs": 6, "optimizer": {"lr": 0.03}},
        **sections,
    }


def task_for(path: Path, rows: list[list[str]], **sections: Any) -> SlotsTask:
    """A task whose training sentences have these tokens, the first of which is a slot."""
    data = [
        {"tokens": row, "tags": ["B-x", *["O"] * (len(row) - 1)], "intent": "ab"[number % 2]}
        for number, row in enumerate(rows)
    ]
    return SlotsTask.create(read_config(tree(write(path / "own.jsonl", data), **sections))[0])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    generator = random.Random(0)
    return [sentence(generator) for _ in range(80)]


@pytest.fixture(scope="module")
def trained(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atis")
    return train(tree(write(folder / "train.jsonl", rows)), root=folder).folder


# --- which split ----------------------------------------------------------------------------------------------------


def test_text_of_training_sentences_gets_the_slots_that_their_tokens_get(
    trained: Path, rows: list[dict[str, Any]]
) -> None:
    task: Any = load(trained)
    assert Tokenizer.load(trained / "tokenizer.json").config.split == "spaces"
    assert task.config.text.split == "spaces"
    assert read_config(trained / "config.yaml")[0].text.split == "spaces"  # type: ignore[attr-defined]
    from_text = task.predict([" ".join(row["tokens"]) for row in rows])
    from_tokens = task.predict([row["tokens"] for row in rows], is_split_into_words=True)
    assert from_text == from_tokens
    assert [found.tags for found in from_text] == [row["tags"] for row in rows]


@pytest.mark.parametrize(
    ("rows", "split", "chinese"),
    [
        ([["to", "Oslo", ",", "now"], ["a", "b"]], "words", True),  # both would do: what fits other text, too
        ([["to", "o'hare"], ["a", "b"]], "spaces", True),
        ([["我", "想", "去"], ["a", "b"]], "words", True),
        ([["我", "北京"], ["a", "b"]], "words", False),
        ([["我", "北京", "$20"], ["a", "b"]], "spaces", False),
        ([["New York", "x"], ["a", "b"]], "words", True),  # nothing helps
        ([["New York", "x"], ["$20", "b"]], "spaces", True),
    ],
)
def test_the_split_that_fits_is_chosen(tmp_path: Path, rows: list[list[str]], split: str, chinese: bool) -> None:
    task = task_for(tmp_path, rows)
    assert (task.tokenizer.config.split, task.tokenizer.config.split_chinese) == (split, chinese)
    assert task.config.text == task.tokenizer.config


@pytest.mark.parametrize(("text", "says"), [({"split": "words"}, "text.split: spaces 0"), ({"split": "spaces"}, "")])
def test_what_the_user_says_stays_and_is_warned_of(tmp_path: Path, text: dict[str, Any], says: str) -> None:
    task = task_for(tmp_path, [["to", "o'hare"], ["a", "b"]], text=text)
    assert task.tokenizer.config.split == text["split"]
    warnings = [line for line in task.report() if line.startswith("warning: text.split")]
    assert len(warnings) == bool(says)
    assert all(
        f"text.split: words splits 1 training sentences differently from their tokens, {says}; without" in line
        for line in warnings
    )


def test_what_fits_no_split_is_counted(tmp_path: Path) -> None:
    rows = [["New York", "is", "New York"], ["a", "b"], ["<pad>", "c"]]
    (line,) = (line for line in task_for(tmp_path, rows).report() if line.startswith("train: given as text"))
    assert "splits 3 tokens, such as 'New York', in 2 sentences with 2 slots in them differently; `seqkit" in line
    assert not [line for line in task_for(tmp_path, [["a", "b"], ["c"]]).report() if "differently" in line]


def test_punctuation_that_stands_alone_is_told_where_only_spaces_separate(tmp_path: Path) -> None:
    report = "\n".join(task_for(tmp_path, [["to", "o'hare", ",", "now"], ["a", "."]]).report())
    assert "',' is a token of its own (such are in 2 sentences)" in report


TOKENS = st.text(st.sampled_from("aB2'.$:-, \u00a0<pad>é\u0301e北京한\u200b"), min_size=1, max_size=7).filter(str.strip)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=4),
    normalize=st.sampled_from(["none", "nfc", "nfkd"]),
    lowercase=st.booleans(),
)
def test_the_count_is_that_of_splitting_the_sentences(rows: list[list[str]], normalize: Any, lowercase: bool) -> None:
    """A look at each distinct token alone says what splitting the sentences says; the choice is the best of all."""
    lists = plain_lists(rows)
    flags = np.zeros(len(lists[0]), bool)
    config = TextConfig(normalize=normalize, lowercase=lowercase)
    tokenizer = Tokenizer.train(lists[2], config, whole=True)

    def wrong(one: Tokenizer) -> int:
        texts = [" ".join(row) for row in rows]
        found = [[text[start:end] for start, end in one.offsets(text)] for text in texts]
        return sum(got != row for got, row in zip(found, rows, strict=True))

    counts = []
    for split in ("words", "spaces"):
        for chinese in (True, False):
            other = tokenizer.resplit(split=split, split_chinese=chinese)
            assert misfit(other, lists, flags, flags).sentences == wrong(other)
            counts.append(wrong(other))
    assert wrong(fitted(tokenizer, lists, config)) == min(counts)
    words = config.model_copy(update={"split": "words", "split_chinese": True})
    assert fitted(tokenizer, lists, words).config == tokenizer.config


def test_a_kept_vocabulary_is_split_as_the_new_data_is(
    trained: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    init = {"run": str(trained)}
    before = load(trained)
    fresh = task_for(tmp_path, [["Oslo", ",", "now"], ["a", "b"]], init=init)
    assert fresh.tokenizer.config.split == "spaces"  # that of the run, which fits as well
    assert fresh.tokenizer.vocabulary == before.tokenizer.vocabulary  # type: ignore[attr-defined]
    assert task_for(tmp_path, [["北京", "now"], ["a", "b"]], init=init).tokenizer.config.split_chinese is False


# --- tokens for predict ---------------------------------------------------------------------------------------------

ODD = [["flights", "to", "o'hare at", "5:30pm"], [], ["to", " $20 "], ["日本", "é\u0301", "<pad>"]]


def test_a_tag_for_each_token_that_is_given(trained: Path) -> None:
    found = load(trained).predict(ODD, is_split_into_words=True)  # type: ignore[call-arg]
    assert [one.tokens for one in found] == ODD
    assert [len(one.tags) for one in found] == [len(row) for row in ODD]
    for one, row in zip(found, ODD, strict=True):
        assert one.text == " ".join(row)
        assert all(one.text[slot.start : slot.end] == slot.text for slot in one.slots)


def test_the_command_line_reads_the_rows_of_the_training_data(
    cli: Callable[..., Any], trained: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows[:5], *({"tokens": row} for row in ODD)]] + [" "]
    write_ = tmp_path / "in.jsonl"
    write_.write_text("\n".join(lines) + "\n", "utf-8")
    done = cli(tmp_path, "predict", str(trained), str(write_), "tokens=true", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [one["tokens"] for one in found] == [*(row["tokens"] for row in rows[:5]), *ODD, []]
    assert [one["tags"] for one in found[:5]] == [row["tags"] for row in rows[:5]]
    assert [len(one["tags"]) for one in found] == [len(one["tokens"]) for one in found]
    assert len(cli(tmp_path, "predict", str(trained), str(write_), "tokens=true").stdout.decode().splitlines()) == 10


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("flights to Oslo", ":2: not valid JSON"),
        ('{"tokens": "to Oslo"}', ":2: 'tokens': expected a list of strings"),
        ('{"words": ["to"]}', ":2: no key 'tokens'"),
        ('["to", "Oslo"]', ":2: expected a JSON object, got list; with tokens=true, a line is like"),
        ('{"tokens": ["to", " "]}', ":2: tokens[1] is ' ', a blank token"),
        ('{"tokens": ["\\ud83d"]}', ":2: not valid Unicode"),
        (json.dumps({"tokens": ["a"] * 10_001}), ":2: tokens: 10,001 tokens are not a sentence"),
    ],
)
def test_a_line_that_holds_no_tokens_is_one_error_with_its_place(
    cli: Callable[..., Any], trained: Path, tmp_path: Path, line: str, says: str
) -> None:
    done = cli(tmp_path, "predict", str(trained), "tokens=true", text='{"tokens": ["to", "noon"]}\n' + line + "\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 1)
    assert len(done.stderr.decode().splitlines()) == 1
    assert f"standard input{says}" in done.stderr.decode()


def test_json_is_text_unless_the_user_says_otherwise(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    line = '{"tokens": ["to", "noon"]}'
    done = cli(tmp_path, "predict", str(trained), "--format", "jsonl", text=f"{line}\n{line}\n" + '{"tokens": x}\n')
    assert [json.loads(one)["tokens"] for one in done.stdout.decode().splitlines()[:2]] == [line.split()] * 2
    assert done.stderr.decode().count("`seqkit predict RUN tokens=true` reads tokens") == 1
    quiet = cli(tmp_path, "predict", str(trained), text='{"tokens": x}\nto noon\n')
    assert not quiet.stderr


@pytest.mark.parametrize(
    ("given_", "error", "says"),
    [
        (["to noon"], TypeError, r"^texts\[0\] is 'to noon'; expected a list of tokens$"),
        ([["to"], None], TypeError, r"^texts\[1\] is None; expected a list of tokens$"),
        ([["to"], ["to", 7]], TypeError, r"^texts\[1\]\[1\] is 7; expected a str$"),
        ([["to", "\t"]], ValueError, r"^texts\[0\]\[1\] is '\\t', a blank token$"),
        ([["\ud83d"]], ValueError, r"^texts\[0\]\[0\]: not valid Unicode"),
        ([["to"], ["x"] * 10_001], UserError, r"^texts\[1\]: 10,001 tokens"),
    ],
)
def test_what_are_no_tokens_is_one_error_with_its_place(
    trained: Path, given_: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        load(trained).predict(given_, is_split_into_words=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("form", [tuple, iter, lambda rows: [np.array(row, dtype=object) for row in rows]])
def test_any_iterable_of_token_lists_is_taken(trained: Path, form: Any) -> None:
    task: Any = load(trained)
    assert task.predict(form(ODD), is_split_into_words=True) == task.predict(ODD, is_split_into_words=True)


def test_tokens_are_for_slot_filling(cli: Callable[..., Any], tmp_path: Path) -> None:
    run = Path(__file__).parents[1] / "fixtures/2026-11/sentiment-finished"
    done = cli(tmp_path, "predict", str(run), "tokens=true", text="{}\n")
    assert done.returncode == 2
    assert "tokens: this is a sentiment run" in done.stderr.decode()
