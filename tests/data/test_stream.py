"""Continuous streams: every token once, in order, whatever the rows, chunks, streams and windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkit.data.batching import Ragged
from seqkit.data.bptt import TokenStream, plan_windows

EOS = 3
ROWS = st.lists(st.lists(st.integers(4, 30), max_size=6), min_size=1, max_size=12)


def plain(rows: list[list[int]]) -> list[int]:
    return [token for row in rows if row for token in [*row, EOS]]


@given(ROWS, st.integers(0, 12), st.data())
def test_any_stretch_is_that_of_the_joined_text(rows: list[list[int]], cut: int, data: st.DataObject) -> None:
    ids = Ragged.join([Ragged.from_lists(rows[:cut]), Ragged.from_lists(rows[cut:])])
    stream, text = TokenStream(ids, EOS), [EOS, *plain(rows)]
    assert len(stream) == len(text) - 1
    first = data.draw(st.integers(-1, len(stream) - 1))
    count = data.draw(st.integers(0, len(stream) - first))
    assert stream.read(first, count).tolist() == text[first + 1 : first + 1 + count]


@given(ROWS, st.randoms(use_true_random=False))
def test_an_order_moves_whole_lines(rows: list[list[int]], dice: object) -> None:
    order = list(range(len(rows)))
    dice.shuffle(order)  # type: ignore[attr-defined]
    stream = TokenStream(Ragged.from_lists(rows), EOS, np.array(order))
    assert stream.read(0, len(stream)).tolist() == plain([rows[row] for row in order])


def test_windows_of_parallel_streams_go_on_where_they_ended() -> None:
    rows = [[4, 5, 6], [], [7], [8, 9, 10, 11], [12]]
    stream = TokenStream(Ragged.from_lists(rows), EOS)  # 4 5 6 e 7 e 8 9 10 11 e 12 e
    assert stream.window(2, 0, 4).tolist() == [[EOS, 4, 5, 6, EOS], [EOS, 8, 9, 10, 11]]
    assert stream.window(2, 4, 2).tolist() == [[EOS, 7, EOS], [11, EOS, 12]]


@given(st.integers(1, 3000), st.integers(1, 90), st.one_of(st.none(), st.integers(0, 5)), st.integers(0, 3))
def test_windows_cover_every_token_once(length: int, bptt: int, seed: int | None, epoch: int) -> None:
    windows = [window.tolist() for window in plan_windows(length, bptt, seed=seed, epoch=epoch)]
    place = 0
    for first, count in windows:
        assert first == place
        assert count >= 1
        place += count
    assert place == length
    if seed is None:
        assert all(count == bptt for _, count in windows[:-1])


def test_lengths_are_a_pure_function_of_seed_and_epoch_and_spread_as_published() -> None:
    def draw(seed: int, epoch: int) -> list[int]:
        return [int(count) for _, count in plan_windows(200_000, 70, seed=seed, epoch=epoch)]

    lengths = np.array(draw(1, 0))
    assert draw(1, 0) == lengths.tolist()
    assert draw(1, 1) != lengths.tolist()
    assert draw(2, 0) != lengths.tolist()
    assert len(draw(1, 1)) == len(lengths)  # so that schedules know where the end is
    halves = lengths < 52
    assert halves.mean() == pytest.approx(0.05, abs=0.012)
    assert lengths[~halves].mean() == pytest.approx(70, abs=1)
    assert lengths[~halves].std() == pytest.approx(5, abs=0.4)
    assert lengths[halves].mean() == pytest.approx(35, abs=2)
