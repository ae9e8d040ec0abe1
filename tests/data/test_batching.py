"""Batches: every example once, seeded, bucketed, within the token budget."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkit.config import from_mapping
from seqkit.data.batching import Batches, BatchingConfig, Planner, Ragged, lay_out, pad, plan_batches

lengths_of = st.lists(st.integers(0, 40), max_size=80).map(lambda xs: np.array(xs, np.int32))
configs = st.builds(
    BatchingConfig,
    batch_size=st.integers(1, 60),
    batch_by=st.sampled_from(["sentences", "tokens"]),
    bucket=st.integers(0, 4),
)


@given(lengths_of, configs, st.none() | st.integers(0, 5), st.integers(0, 3))
def test_every_example_is_in_exactly_one_batch_of_the_right_size(
    lengths: np.ndarray, config: BatchingConfig, seed: int | None, epoch: int
) -> None:
    plan = plan_batches(lengths, config, seed=seed, epoch=epoch)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    for batch in plan:
        if config.batch_by == "sentences":
            assert 1 <= len(batch) <= config.batch_size
        else:
            assert len(batch) == 1 or len(batch) * lengths[batch].max() <= config.batch_size
    again = plan_batches(lengths, config, seed=seed, epoch=epoch)
    assert all(np.array_equal(one, other) for one, other in zip(plan, again, strict=True))


def test_epochs_and_seeds_differ_and_evaluation_starts_with_the_longest() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 500)
    config = BatchingConfig(batch_size=10)
    orders = [
        np.concatenate(plan_batches(lengths, config, seed=seed, epoch=epoch)).tolist()
        for seed, epoch in [(1, 0), (1, 1), (2, 0)]
    ]
    assert len({tuple(order) for order in orders}) == 3
    assert lengths[plan_batches(lengths, config)[0]].min() >= np.sort(lengths)[-10]


def test_buckets_save_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 2000)

    def padded(bucket: int) -> int:
        plan = plan_batches(lengths, BatchingConfig(batch_size=20, bucket=bucket), seed=1)
        return sum(len(batch) * int(lengths[batch].max()) for batch in plan)

    assert padded(50) < 1.05 * lengths.sum() < 1.5 * lengths.sum() < padded(0)


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=8))
def test_ragged_and_pad_agree_with_lists(rows: list[list[int]]) -> None:
    ragged = Ragged.from_lists(rows)
    assert [ragged[number].tolist() for number in range(len(ragged))] == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.count(3) == sum(row.count(3) for row in rows)
    ids, lengths = pad([ragged[number] for number in range(len(rows))], 0)
    assert ids.shape == (len(rows), max(1, *map(len, rows), 1))
    assert ids.dtype == lengths.dtype == torch.int64
    for row, padded, length in zip(rows, ids.tolist(), lengths.tolist(), strict=True):
        assert padded == row + [0] * (ids.size(1) - len(row))
        assert length == len(row)


def test_ragged_reads_across_chunks() -> None:
    chunks = [
        (np.arange(5, dtype=np.int32), np.array([0, 2, 2, 5], np.int32)),
        (np.zeros(0, np.int32), np.array([0], np.int32)),
    ]
    chunks.append((np.arange(10, 20, dtype=np.int32), np.array([3, 4, 10], np.int32)))  # a slice: starts at 3
    ragged = Ragged(chunks)
    assert [ragged[number].tolist() for number in range(5)] == [[0, 1], [], [2, 3, 4], [13], [14, 15, 16, 17, 18, 19]]
    assert (ragged.count(13), ragged.count(10)) == (1, 0)


def test_batches_start_where_asked() -> None:
    batches = Batches([np.array([1]), np.array([2]), np.array([3])], lambda rows: int(rows[0]), start=1)
    assert (len(batches), list(batches), list(batches)) == (2, [2, 3], [2, 3])


@pytest.mark.parametrize("tree", [{"batch_size": 0}, {"batch_by": "words"}, {"bucket": -1}])
def test_senseless_sizes_are_refused(tree: dict[str, object]) -> None:
    with pytest.raises(Exception, match=next(iter(tree))):
        from_mapping(tree).check(BatchingConfig)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60), configs, st.integers(0, 3))
def test_a_second_length_sorts_examples_of_one_length(
    pairs: list[tuple[int, int]], config: BatchingConfig, epoch: int
) -> None:
    lengths, then = np.array(pairs, np.int64).reshape(-1, 2).T
    plan = plan_batches(lengths, config, seed=1, epoch=epoch, then=then)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    for batch in plan if config.bucket else ():
        assert sorted(zip(lengths[batch], then[batch], strict=True)) == [(lengths[i], then[i]) for i in batch]


def list_of_batches(
    lengths: np.ndarray, config: BatchingConfig, seed: int | None, epoch: int, then: np.ndarray | None
) -> list[np.ndarray]:
    """The plan as it was made at first, from which the shipped configurations have their scores: row by row."""

    def cut(order: np.ndarray) -> list[np.ndarray]:
        if config.batch_by == "sentences":
            return [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
        batches, start, longest = [], 0, 0
        for position, index in enumerate(order):
            longest = max(longest, int(lengths[index]), 1)
            if position > start and longest * (position - start + 1) > config.batch_size:
                batches.append(order[start:position])
                start, longest = position, max(int(lengths[index]), 1)
        return batches + ([order[start:]] if start < len(order) else [])

    if seed is None:
        return cut(np.argsort(-lengths, kind="stable"))
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    if not config.bucket:
        return cut(order)
    per_batch = config.batch_size
    if config.batch_by == "tokens":
        per_batch = max(1, round(config.batch_size / max(float(lengths.mean()), 1.0))) if len(lengths) else 1
    batches: list[np.ndarray] = []
    for start in range(0, len(order), config.bucket * per_batch):
        part = order[start : start + config.bucket * per_batch]
        if then is not None:
            part = part[np.argsort(then[part], kind="stable")]
        batches += cut(part[np.argsort(lengths[part], kind="stable")])
    return [batches[number] for number in generator.permutation(len(batches))]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.booleans()), max_size=150),
    configs,
    st.none() | st.integers(0, 5),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 1),
    st.booleans(),
)
def test_the_order_is_the_one_it_always_was(
    rows: list[tuple[int, int, bool]],
    config: BatchingConfig,
    seed: int | None,
    epoch: int,
    twice: bool,
    extra: int,
    some: bool,
) -> None:
    lengths, then = (np.array([row[side] for row in rows], np.int32) for side in (0, 1))
    kept = np.flatnonzero([row[2] for row in rows]) if some else np.arange(len(rows))
    second = then if twice else None
    old = list_of_batches(
        lengths[kept].astype(np.int64) + extra, config, seed, epoch, None if second is None else second[kept]
    )
    new = plan_batches(
        lengths, config, seed=seed, epoch=epoch, then=second, rows=kept.astype(np.int32) if some else None, extra=extra
    )
    assert len(new) == len(old)
    assert [batch.tolist() for batch in new] == [kept[batch].tolist() for batch in old]
    assert [batch.tolist() for batch in new[1:3]] == [kept[batch].tolist() for batch in old[1:3]]
    assert all(batch.dtype == np.int64 for batch in new)


def test_an_epoch_of_a_large_corpus_takes_little_memory() -> None:
    count, size = 150_000, 8
    lengths = np.random.default_rng(0).integers(5, 40, count).astype(np.int32)
    rows = np.arange(0, count, 2, dtype=np.int32)
    for by in ("sentences", "tokens"):
        config = BatchingConfig(batch_size=32 * size, batch_by=by)  # type: ignore[arg-type]
        planner = Planner(lengths, config, seed=1, then=lengths, rows=rows, extra=1)
        tracemalloc.start()
        plan = planner(0)
        assert planner(0) is plan
        assert sum(map(len, plan)) == len(rows)
        planner(1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # The order in four bytes an example, twice while the old plan is held here; windows and borders beside it.
        assert peak < 2 * 4 * len(rows) + 2e6, by


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=8), st.booleans(), st.booleans(), st.data())
def test_rows_are_taken_and_laid_out_as_one_by_one(
    rows: list[list[int]], first: bool, last: bool, data: st.DataObject
) -> None:
    middle = data.draw(st.integers(0, len(rows)))
    parts = [Ragged.from_lists(part) for part in (rows[:middle], rows[middle:]) if part]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    for ragged in (Ragged.from_lists(rows), Ragged.join(parts) if parts else Ragged([])):
        values, lengths = ragged.take(np.array(chosen, np.int64))
        assert values.tolist() == [number for row in chosen for number in rows[row]]
        assert lengths.tolist() == [len(rows[row]) for row in chosen]
        ids, sizes = lay_out(values, lengths, 0, first=11 if first else None, last=12 if last else None)
        whole = [[11] * first + rows[row] + [12] * last for row in chosen]
        assert sizes.tolist() == [len(row) for row in whole]
        width = max([1, *map(len, whole)])
        assert ids.tolist() == [row + [0] * (width - len(row)) for row in whole]


@given(st.lists(st.lists(st.integers(1, 2), max_size=3), max_size=12), st.data())
def test_rows_of_one_id_only(rows: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.from_lists(rows)
    start = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(start, len(rows)))
    assert ragged.only(1, start, end).tolist() == [bool(row) and set(row) == {1} for row in rows[start:end]]
    assert not ragged.only(5, start, end).any()
