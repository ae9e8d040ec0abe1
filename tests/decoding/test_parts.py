"""Trees, ensembles, penalties and unknown words by themselves."""

from __future__ import annotations

import math
from collections import namedtuple

import pytest
import torch

from seqkit.decoding import Search, ensemble, replace_unknown
from seqkit.decoding.penalties import coverage_penalty, length_penalty
from seqkit.decoding.step import leaves, map_tree, reorder, select

Pair = namedtuple("Pair", "left right")


def test_trees_keep_their_shape() -> None:
    first, second = torch.arange(12).view(2, 3, 2), torch.arange(6).view(2, 3)
    tree = {"a": [first, None], "b": (Pair(second, ()), {})}
    changed = map_tree(lambda leaf: leaf + 1, tree)
    assert torch.equal(changed["a"][0], first + 1)
    assert changed["a"][1] is None
    assert isinstance(changed["b"][0], Pair)
    assert torch.equal(changed["b"][0].left, second + 1)
    assert changed["b"][0].right == ()
    assert [leaf.dim() for leaf in leaves(tree)] == [3, 2]
    with pytest.raises(TypeError, match="got str"):
        map_tree(lambda leaf: leaf, ["x"])


def test_selecting_and_reordering_follow_the_indices() -> None:
    leaf = torch.randn(3, 2, 4)
    assert torch.equal(select([leaf], torch.tensor([2, 0]))[0], leaf[[2, 0]])
    parents = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    (moved, flat, nothing) = reorder((leaf, leaf.transpose(1, 2).transpose(1, 2)[:, :, 0], None), parents)
    assert nothing is None
    for row in range(3):
        for slot in range(3):
            assert torch.equal(moved[row, slot], leaf[row, parents[row, slot]])
            assert flat[row, slot] == leaf[row, parents[row, slot], 0]
    assert reorder(None, parents) is None


def test_length_penalties_are_the_papers() -> None:
    assert length_penalty(7, 0.6, "gnmt") == pytest.approx((5 + 7) ** 0.6 / (5 + 1) ** 0.6)
    assert length_penalty(7, 1.0, "average") == 7
    assert length_penalty(7, 0.0, "gnmt") == 1


def test_coverage_counts_each_source_word_up_to_one() -> None:
    coverage = torch.tensor([[[0.5, 3.0, 0.25, 0.1], [1.0, 0.0, 1.0, 9.0]], [[0.5, 0.5, 0.5, 0.5]] * 2])
    found = coverage_penalty(coverage.double(), torch.tensor([3, 0]))
    expected = torch.tensor([[math.log(0.5) + math.log(0.25), math.log(1e-10)], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_ratios_are_rounded_inwards_without_rounding_errors() -> None:
    # In floating point 1.1 * 10 is above 11, and 0.29 * 100 below 29.
    lengths = torch.arange(0, 2000)
    for low, high in ((110, 230), (7, 29)):
        shortest, longest = Search(min_ratio=low / 100, max_ratio=high / 100).limits(lengths)
        most = [max(1, source * high // 100) for source in range(2000)]
        assert longest.tolist() == most
        assert shortest.tolist() == [min(-(-source * low // 100), most[source]) for source in range(2000)]


def test_an_ensemble_averages_probabilities_and_attention(plain) -> None:
    models = [plain.Model(seed, eos=1.0) for seed in range(3)]
    batch = [[3, 5, 8], [4]]
    starts = [model.encode(batch) for model in models]
    state, memory = ([start[part] for start in starts] for part in range(2))
    step = ensemble([model.step for model in models])
    tokens = torch.tensor([[2], [5]])
    logits, after, attention = step(tokens, state, memory)
    alone = [model.step(tokens, *start[:2]) for model, start in zip(models, starts, strict=True)]
    mean = sum(torch.softmax(one[0], 2) for one in alone) / 3
    torch.testing.assert_close(logits.exp(), mean)
    torch.testing.assert_close(attention, sum(one[2] for one in alone) / 3)
    torch.testing.assert_close(after[1]["h"][0], alone[1][1]["h"][0])

    class Together:
        """The plain search's model that is three."""

        def encode(self, sources):
            parts = [model.encode(sources) for model in models]
            return [part[0] for part in parts], [part[1] for part in parts], parts[0][2]

    together = Together()
    together.step = lambda *arguments: step(*arguments)
    options = {"beam_size": 4, "n_best": 3, "max_length": 6}
    found = Search(**options)(step, state, memory, source_lengths=torch.tensor([3, 1]), keep_attention=True)
    for hypotheses, source in zip(found, batch, strict=True):
        plain.assert_same(hypotheses, plain.beam(together, source, **options))


def test_an_ensemble_of_one_is_the_model_and_of_none_is_refused(plain) -> None:
    model = plain.Model(0)
    state, memory, lengths = model.encode([[3, 4]])
    (found,) = Search(beam_size=3)(ensemble([model.step]), [state], [memory], source_lengths=lengths)
    (alone,) = Search(beam_size=3)(model.step, state, memory, source_lengths=lengths)
    plain.assert_same(found, alone)
    with pytest.raises(ValueError, match="at least one model"):
        ensemble([])


def test_an_ensemble_refuses_vocabularies_or_sources_that_differ() -> None:
    def scored(words: int, source: int | None):
        weights = None if source is None else torch.full((1, 1, source), 1 / source)
        return lambda tokens, state, memory: (torch.zeros(1, 1, words), state, weights)

    def call(*steps):
        return ensemble(steps)(torch.zeros(1, 1, dtype=torch.int64), [None] * len(steps), [None] * len(steps))

    with pytest.raises(ValueError, match="vocabularies differ in size: 7, 8"):
        call(scored(7, 2), scored(8, 2))
    with pytest.raises(ValueError, match="sources differ in length: 2, 3"):
        call(scored(7, 2), scored(7, 3))
    assert call(scored(7, 2), scored(7, None)).attention.shape == (1, 1, 2)
    assert call(scored(7, None)).attention is None


def test_unknown_words_are_those_of_the_source_looked_at_most() -> None:
    attention = torch.tensor([[0.1, 0.9, 0.0], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.0, 0.0, 1.0]])
    tokens, source = ["<unk>", "a", "<unk>"], ["Hund", "Anna", "sieht"]
    assert replace_unknown(tokens, attention, source) == ["Anna", "a", "Hund"]
    assert replace_unknown(tokens, attention, source, dictionary={"Hund": "dog"}) == ["Anna", "a", "dog"]
    assert replace_unknown(tokens, attention, source, unknown="a") == ["<unk>", "sieht", "<unk>"]
    assert replace_unknown(tokens, attention[:, :0], []) == tokens
    assert replace_unknown([], attention[:0], source) == []
    with pytest.raises(ValueError, match=r"^attention: .* \(3, 2\), got \(4, 3\)"):
        replace_unknown(tokens, attention, source[:2])
