"""Batches that are made and sent while a device computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seqkit.data.batching import Spare
from seqkit.training.ahead import Ahead


def made(count: int, log: list[str]) -> Iterator[int]:
    for number in range(count):
        log.append(f"made {number}")
        yield number
    if count == 2:
        raise OSError("the disk is gone")


def sending(number: int, log: list[str]) -> int:
    log.append(f"sent {number}")
    return number * 10


def test_a_batch_is_fetched_once_and_comes_in_its_turn() -> None:
    log: list[str] = []
    ahead = Ahead(made(3, log), lambda number: sending(number, log))
    assert log == []
    assert next(ahead) == 0
    assert log == ["made 0", "sent 0"]
    ahead.fetch()
    ahead.fetch()
    assert log[2:] == ["made 1", "sent 1"]
    assert [next(ahead), next(ahead)] == [10, 20]
    ahead.fetch()
    assert list(ahead) == []
    assert list(ahead) == []


def test_what_goes_wrong_is_raised_where_the_batch_is_asked_for() -> None:
    ahead = Ahead(made(2, []), lambda number: number)
    assert [next(ahead), next(ahead)] == [0, 1]
    ahead.fetch()
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_a_batch_that_does_not_count_stays_one() -> None:
    assert list(Ahead([Spare(1), 2], lambda number: number * 10)) == [Spare(10), 20]
