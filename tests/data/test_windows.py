"""Windows: every example once an epoch, resumed anywhere without reading twice, the file as it was."""

from __future__ import annotations

import gzip
import os
import threading
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.data.batching import BatchingConfig, Plan, Spare, plan_batches
from seqkit.data.pairs import PairConfig, pairs_job
from seqkit.data.source import SourceConfig
from seqkit.data.sources import make_job
from seqkit.data.streaming import Sizes, Stream, WindowBatches
from seqkit.errors import UserError


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return str(path)


def stream(path: str, size: int, **settings: Any) -> Stream:
    config = SourceConfig(path=path, format="text", **settings)
    return Stream(lambda: make_job(config, {"text": str}, "train"), size)


def plan(config: BatchingConfig, epoch: int, texts: list[str], window: int) -> Plan:
    return plan_batches(np.array([len(text) for text in texts]), config, seed=1, epoch=epoch, window=window)


class Reader:
    """Counts the windows that it gives."""

    def __init__(self, texts: list[str], size: int) -> None:
        self.texts, self.size, self.given = texts, size, list[int]()

    def __call__(self, first: int, line: int) -> Any:
        assert line in (0, first * self.size + 1)
        for number in range(first, -(-len(self.texts) // self.size)):
            self.given.append(number)
            yield number, number * self.size + 1, self.texts[number * self.size : (number + 1) * self.size]


def batches(reader: Reader, config: BatchingConfig, epoch: int, start: int, key: str) -> WindowBatches[Any, Any]:
    sizes = Sizes([key], alike=config.batch_by == "sentences")
    return WindowBatches(
        reader, partial(plan, config, epoch), lambda texts, rows: [texts[row] for row in rows], sizes, epoch, start
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(["sentences", "tokens"]),
    st.data(),
)
def test_every_example_once_and_a_resume_is_the_tail(
    lengths: list[int], size: int, batch_size: int, by: Any, data: st.DataObject
) -> None:
    texts = [chr(97 + length) * length + str(number) for number, length in enumerate(lengths)]
    config = BatchingConfig(batch_size=batch_size, batch_by=by, bucket=2)
    key = repr((lengths, size, config))
    for epoch in (0, 1):
        whole = list(batches(Reader(texts, size), config, epoch, 0, key + "whole"))
        assert sorted(chain.from_iterable(whole)) == sorted(texts)
        start = data.draw(st.integers(0, len(whole)))
        for known in (key + "whole", key + f"new{epoch}{start}"):  # with the sizes of the pass above, and without
            again = batches(Reader(texts, size), config, epoch, start, known)
            assert list(again) == list(again) == whole[start:]


@pytest.mark.parametrize("by", ["sentences", "tokens"])
def test_a_resume_goes_to_its_window_at_once(by: Any) -> None:
    texts = ["a" * (1 + number % 7) for number in range(100)]
    config = BatchingConfig(batch_size=10, batch_by=by)
    whole = list(batches(Reader(texts, 20), config, 0, 0, by))
    reader = Reader(texts, 20)
    assert list(batches(reader, config, 0, len(whole) - 1, by)) == whole[-1:]
    assert reader.given == [4]
    reader = Reader(texts, 20)  # another epoch: known beforehand where all windows of a size have as many batches
    list(batches(reader, config, 1, 9 if by == "sentences" else 40, by))
    assert reader.given == ([4] if by == "sentences" else [0, 1, 2, 3, 4])


def test_a_torn_line_of_the_sizes_is_passed_over(cache: Path) -> None:
    sizes = Sizes(["torn"], alike=False)
    for window in range(3):
        sizes.note(0, window, 5, 1 + 10 * window)
    (path,) = cache.glob("windows-*.jsonl")
    path.write_text(path.read_text()[:-4])
    assert Sizes(["torn"], alike=False).find(0, 14) == (2, 10, 0)
    assert Sizes(["other"], alike=False).find(0, 14) == (0, 0, 0)


def test_what_the_reading_thread_raises_is_raised_in_its_place() -> None:
    def broken(first: int, line: int) -> Any:
        yield 0, 1, ["a"] * 4
        raise UserError("a.txt:5: no good")

    config = BatchingConfig(batch_size=2)
    sizes = Sizes(["broken"], alike=True)
    found = iter(WindowBatches(broken, partial(plan, config, 0), lambda texts, rows: len(rows), sizes, 0))
    assert (next(found), next(found)) == (2, 2)
    with pytest.raises(UserError, match=r"a.txt:5: no good"):
        next(found)
    left = iter(WindowBatches(broken, partial(plan, config, 0), lambda texts, rows: len(rows), sizes, 0))
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("windows")]


def test_shares_make_up_the_batches() -> None:
    texts = [str(number) for number in range(23)]
    config = BatchingConfig(batch_size=4)
    whole = list(batches(Reader(texts, 10), config, 0, 1, "share"))
    parts = [list(batches(Reader(texts, 10), config, 0, 1, "share").share(rank, 3)) for rank in range(3)]
    for batch, own in zip(whole, zip(*parts, strict=True), strict=True):
        assert sorted(batch) == sorted(text for part in own if not isinstance(part, Spare) for text in part)


def test_windows_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", [f"line {number}" for number in range(25)])
    found = stream(path, 10)
    windows = list(found.windows())
    assert [(number, len(source.dataset)) for number, source in windows] == [(0, 10), (1, 10), (2, 5)]
    assert windows[2][1].dataset["text"][:2] == ["line 20", "line 21"]
    assert windows[2][1].place(1) == f"{path}:22"
    assert [number for number, _ in found.windows(2)] == [2]
    assert list(found.windows(3)) == []
    assert list(found.texts("text"))[::12] == ["line 0", "line 12", "line 24"]
    assert [len(source.dataset) for _, source in stream(path, 10, limit=13).windows()] == [10, 3]


def test_bad_lines_and_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nb\xffd\nfine\nlast\n")
    with pytest.raises(UserError, match=r"a.txt:2: not UTF-8"):
        list(stream(str(path), 2).windows())
    found = stream(str(path), 2, on_bad_line="skip")
    assert [source.dataset["text"][:] for _, source in found.windows()] == [["good", "fine"], ["last"]]
    assert found.skipped.lines == 1
    assert [source.place(0) for _, source in found.windows(1)] == [f"{path}:4"]
    before, text = path.stat(), path.read_bytes()
    path.write_bytes(text.replace(b"last", b"LAST"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as large, and its time set back
    with pytest.raises(UserError, match=r"a.txt: the file has changed since training began"):
        list(found.windows())
    path.write_text("other\n")
    with pytest.raises(UserError, match=r"a.txt: the file has changed since training began"):
        list(found.windows())
    path.write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"a.txt: no rows; 1 bad line skipped, first .*a.txt:1"):
        list(stream(str(path), 2, on_bad_line="skip").windows())


@pytest.mark.parametrize("packed", [False, True])
def test_lines_before_a_known_line_are_not_looked_at(tmp_path: Path, packed: bool) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        data = b"".join(b"\xff\n" if number == 4 else b"%d\r\n" % number for number in range(1, 26))
        path.write_bytes(gzip.compress(data) if packed else data)
    config = PairConfig(source=str(paths[0]), target=str(paths[1]), on_bad_line="skip", limit=23)
    found = Stream(lambda: pairs_job(config, "train"), 10)
    (window, last) = list(found.windows(1))
    for line, skipped in ((0, 1), (12, 0)):
        again = list(found.windows(1, line))
        assert [source.dataset[:] for _, source in again] == [source.dataset[:] for _, source in (window, last)]
        assert found.skipped.lines == skipped
    assert [source.place(0).split(":")[-1] for _, source in again] == ["12", "22"]
    assert len(last[1].dataset) == 3


def test_pairs_whose_files_part_are_found_at_the_end(tmp_path: Path) -> None:
    config = PairConfig(source=write(tmp_path / "a", ["x"] * 5), target=write(tmp_path / "b", ["y"] * 4))
    windows = Stream(lambda: pairs_job(config, "train"), 2).windows()
    assert [number for number, _ in (next(windows), next(windows))] == [0, 1]
    with pytest.raises(UserError, match=r"a has 5 lines, .*b 4"):
        next(windows)
