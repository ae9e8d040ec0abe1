"""Batches: every example once, seeded, bucketed, within the token budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkit.config import from_mapping
from seqkit.data.batching import Batches, BatchingConfig, Ragged, pad, plan_batches

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
