"""What `predict` takes for texts, in every task: any iterable of str in its order, and nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqkit import run
from seqkit.errors import UserError
from seqkit.tasks import RunTask
from seqkit.text import TextConfig, Tokenizer, take_texts

RUNS = Path(__file__).parents[1] / "fixtures" / "2026-11"
KINDS = ("sentiment", "translation", "slots", "language_model")


@pytest.fixture(scope="module", params=KINDS)
def task(request: pytest.FixtureRequest) -> RunTask:
    return run.load(RUNS / f"{request.param}-finished", device="cpu")


class Twice:
    """An iterable whose items are found by iteration alone: positions would find others."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, place: int) -> str:
        return self.texts[-1 - place]


def series(texts: list[str]) -> Iterable[str]:
    """A pandas Series after a shuffle: its index is not the positions."""
    pandas = pytest.importorskip("pandas")
    found: Iterable[str] = pandas.Series(texts, index=range(len(texts))[::-1], dtype=object)
    return found


FORMS: dict[str, Callable[[list[str]], Iterable[str]]] = {
    "tuple": tuple,
    "generator": lambda texts: (text for text in texts),
    "iterator": iter,
    "deque": deque,
    "values": lambda texts: dict(enumerate(texts)).values(),
    "objects": lambda texts: np.array([*texts, None], dtype=object)[:-1],
    "characters": lambda texts: np.array(texts, dtype=str),
    "backwards": lambda texts: np.array([*texts[::-1], None], dtype=object)[-2::-1],
    "series": series,
    "own": Twice,
    "map": lambda texts: map(str, texts),
}
WORDS = st.sampled_from(["the", "plot", "is", "dull", "dog", "to", "berlin", "é", "日本", ".", " "])
TEXTS = st.lists(st.one_of(st.lists(WORDS, max_size=6).map(" ".join), st.text(max_size=8)), max_size=6)


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(texts=TEXTS, form=st.sampled_from(sorted(FORMS)))
def test_any_iterable_of_str_is_answered_as_the_list_is(task: RunTask, texts: list[str], form: str) -> None:
    texts = [text.encode("utf-8", "ignore").decode().rstrip("\0") for text in texts]  # numpy drops NULs at an end
    assert task.predict(FORMS[form](texts)) == task.predict(texts)


def test_the_command_line_keeps_the_order(cli: Callable[..., Any], tmp_path: Path, task: RunTask) -> None:
    texts = ["the plot is dull", "", "cheap flights to paris", "the dog sleeps ."]
    command = "translate" if task.kind == "translation" else "predict"
    done = cli(tmp_path, command, str(RUNS / f"{task.kind}-finished"), "--device", "cpu", text="\n".join(texts) + "\n")
    assert done.returncode == 0
    want = [task.format(found, "text") for found in task.predict(iter(texts))]
    assert done.stdout.decode().splitlines() == want


class Label(str, Enum):
    """A str whose `str()` is something else."""

    DULL = "the plot is dull"


def test_subclasses_of_str_are_their_text(task: RunTask) -> None:
    plain = task.predict(["the plot is dull"] * 2)
    assert task.predict([Label.DULL, np.str_("the plot is dull")]) == plain
    assert [type(text) for text in take_texts([Label.DULL, np.str_("x")])] == [str, str]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("one text", r"^texts is 'one text', one text; expected several: write \['one text'\]$"),
        (b"one text", r"^texts is b'one text', one text"),
        (["a", "b", "", None], r"^texts\[3\] is None; expected a str$"),
        ([1], r"^texts\[0\] is 1; expected a str$"),
        (["a", float("nan")], r"^texts\[1\] is nan; expected a str$"),
        (["a", b"b"], r"^texts\[1\] is b'b'; expected a str$"),
        ((["a"],), r"^texts\[0\] is \['a'\]; expected a str$"),
        (None, r"^texts is None; expected an iterable of str$"),
        (7, r"^texts is 7; expected an iterable of str$"),
        (np.array("one"), r"^texts is a ndarray of 0 dimensions"),
        (np.array([["a", "b"]]), r"^texts is a ndarray of 2 dimensions"),
        (["x" * 50, ["y" * 10_000]], r"^texts\[1\] is .{60}; expected a str$"),
    ],
)
def test_what_is_no_iterable_of_str_is_one_error_with_its_place(task: RunTask, texts: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        task.predict(texts)


def test_a_table_is_not_its_columns_names(task: RunTask) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="a DataFrame of 2 dimensions"):
        task.predict(pandas.DataFrame({"text": ["a", "b"]}))


def test_half_of_a_surrogate_pair_is_named_with_its_place(task: RunTask) -> None:
    with pytest.raises(ValueError, match=r"^texts\[2\]: not valid Unicode"):
        task.predict(["a", " ", "\ud83d"])  # the blank text counts


@pytest.mark.parametrize("kind", ["word", "char"])
def test_a_tokenizer_takes_texts_in_the_same_way(kind: Any) -> None:
    config = TextConfig(tokenizer=kind)
    with pytest.raises(TypeError, match="one text; expected several"):
        Tokenizer.train("one text", config)
    tokenizer = Tokenizer.train(iter(["one text", "two"]), config)
    with pytest.raises(TypeError, match="one text; expected several"):
        tokenizer.encode("one text")
    assert tokenizer.encode(series(["one", "two"])) == tokenizer.encode(["one", "two"])


def test_a_prefix_of_bytes_that_are_no_text_is_refused() -> None:
    task: Any = run.load(RUNS / "translation-finished", device="cpu")
    with pytest.raises(UserError, match=r"^prefix: 'a\\udcff' is not valid Unicode"):
        task.adjust(prefix="a\udcff")
