"""Tokens to text, lines of output, scores by length, pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkit import run
from seqkit.decoding import Hypothesis, Search
from seqkit.errors import UserError
from seqkit.tasks.translation.decoding import Translator
from seqkit.tasks.translation.metrics import CorpusScores, compare_outputs
from seqkit.tasks.translation.predictions import Translation, format_translation, plot_attention
from seqkit.text import TextConfig, Tokenizer
from seqkit.text.joining import join_tokens

SENTENCES = [
    "A man (in a T-shirt) isn't here, is he?",
    'She said: "no", and left...',
    "Two 5,000-year-old statues cost $20.50 each!",
    "The dog's ball; the players' field/yard.",
    "„Hallo“, sagte er… [leise]",
    "你好 world 世界",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_words_split_from_punctuation_are_put_together_again(text: str) -> None:
    tokenizer = Tokenizer.train(SENTENCES, TextConfig())
    assert len(tokenizer.tokens(text)) > len(text.split())
    assert join_tokens(tokenizer.tokens(text), tokenizer) == text


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1), max_size=9))
def test_what_was_split_at_spaces_or_into_pieces_is_exact(words: list[str]) -> None:
    text = " ".join(words)
    for config in (
        TextConfig(split="spaces", normalize="none", split_chinese=False),
        TextConfig(tokenizer="char", normalize="none"),
    ):
        tokenizer = Tokenizer.train(["a b " + text], config)
        assert join_tokens(tokenizer.tokens(text), tokenizer) == text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_pieces_of_words_are_joined_as_the_tokenizer_decodes(kind: str) -> None:
    tokenizer = Tokenizer.train(SENTENCES, TextConfig(tokenizer=kind, vocab_size=90))
    for text in SENTENCES:
        assert join_tokens(tokenizer.tokens(text), tokenizer) == tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_a_line_end_inside_a_translation_does_not_break_the_line() -> None:
    tokenizer = Tokenizer.train(["a\nb"], TextConfig(tokenizer="char"))
    assert join_tokens(["a", "\n", "b"], tokenizer) == "a b"


def found(**changes: object) -> Translation:
    attention = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    plain = {"text": "x y", "tokens": ["x", "y"], "score": -1.5, "log_probs": [-0.5, -0.5, -0.5]}
    return Translation(**{**plain, "source_tokens": ["a", "$b"], "attention": attention, **changes})  # type: ignore[arg-type]


def test_lines_of_text() -> None:
    one = found()
    assert format_translation(one, "text", number=4) == "x y"
    assert format_translation(one, "text", alignments=True) == "x y ||| 1-0 0-1"
    several = found(n_best=(one, found(text="z", tokens=["z"], score=-2.0)))
    assert format_translation(several, "text", number=4).split("\n") == ["4 ||| x y ||| -1.5", "4 ||| z ||| -2"]
    assert format_translation(several, "text", number=0, alignments=True).split("\n")[1] == "0 ||| z ||| -2 ||| 1-0"
    assert format_translation(Translation(""), "text", alignments=True) == " ||| "
    with pytest.raises(UserError, match="there is no attention"):
        format_translation(found(attention=None), "text", alignments=True)


def test_lines_of_json() -> None:
    shown = json.loads(format_translation(found(n_best=(found(),)), "jsonl", alignments=True))
    assert shown["alignment"] == [[1, 0], [0, 1]]
    assert shown["n_best"][0]["log_probs"] == [-0.5] * 3
    assert "source_tokens" not in json.loads(format_translation(found(), "jsonl"))


def test_an_unknown_word_is_the_source_word_most_looked_at() -> None:
    source = Tokenizer.train(["a b"], TextConfig(add_eos=True, lowercase=True))
    target = Tokenizer.train(["x y"], TextConfig())
    translator = Translator([(None, source)], target, Search(), copy_unknown=True)  # type: ignore[list-item]
    ids = [target.vocabulary.index("y"), target.unk_id, target.unk_id]
    weights = torch.tensor([[0.9, 0.0, 0.0, 0.1], [0.0, 0.2, 0.3, 0.5], [0.6, 0.3, 0.0, 0.1], [1.0, 0.0, 0.0, 0.0]])
    hypothesis = Hypothesis(ids, -1.0, [-0.1] * 4, weights, True)
    assert translator._one(hypothesis, source.pieces("Zoë b Émile")).text == "y Émile Zoë"
    with pytest.raises(UserError, match="there is no attention"):
        translator._one(Hypothesis(ids, -1.0, [-0.1] * 4, None, True), source.pieces("Zoë b"))


def test_a_picture_has_a_row_for_each_token(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_attention(found(), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text("utf-8")
    assert all(f"<!-- {word} -->" in drawn for word in ("x", "y", "&lt;eos&gt;", "a")) or "<text" in drawn
    with pytest.raises(UserError, match=r"nowhere.*cannot be written"):
        plot_attention(found(), tmp_path / "nowhere" / "a.png")


def test_scores_and_their_signatures_with_and_without_case() -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    outputs, references = ["The cat sat on the mat .", "a dog"], ["the Cat sat on a mat .", "a dog ran"]
    for lowercase, name in ((True, "case:lc"), (False, "case:mixed")):
        corpus = CorpusScores(lowercase=lowercase, tokenize="13a", ter=True)
        scores = corpus(outputs, references)
        assert scores["bleu"] == metrics.BLEU(lowercase=lowercase).corpus_score(outputs, [references]).score
        assert scores["chrf"] == metrics.CHRF(lowercase=lowercase).corpus_score(outputs, [references]).score
        assert scores["ter"] == metrics.TER(case_sensitive=not lowercase).corpus_score(outputs, [references]).score
        assert all(name in line for line in corpus.report(outputs, references)[1][:2])


def test_bleu_by_length_is_bleu_of_the_parts() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    references = [" ".join(f"w{number}{i}" for i in range(4 + number)) for number in range(12)]
    outputs = [text if number % 3 else text[:-4] for number, text in enumerate(references)]
    lengths = np.arange(4, 16)
    line = CorpusScores(lowercase=False, tokenize="13a").by_length(outputs, references, lengths)
    parts = [part.split(": ") for part in line.split(": ", 1)[1].split(", ")]
    assert len(parts) == 4
    for span, score in parts:
        low, high = map(int, span.split("-"))
        rows = [row for row, length in enumerate(lengths) if low <= length <= high]
        own = sacrebleu.corpus_bleu([outputs[row] for row in rows], [[references[row] for row in rows]]).score
        assert float(score) == pytest.approx(own, abs=0.05)


def test_a_bootstrap_finds_the_better_system_and_no_difference_where_there_is_none() -> None:
    references = [f"the number {number} is here today" for number in range(60)]
    poor = [text.replace("here", "there") if number % 2 else text for number, text in enumerate(references)]
    same = [text.replace("here", "there") if number % 2 == 0 else text for number, text in enumerate(references)]
    lines = compare_outputs({"a": poor, "b": references, "c": same}, references, lowercase=False, tokenize="13a")
    values = [float(line.split("p = ")[1]) for line in lines if "p = " in line]
    assert len(values) == 4
    assert values[0] == values[2] == pytest.approx(0.001, abs=0.001)
    assert values[1] > 0.05


@pytest.mark.parametrize("change", ["none", "case", "spaces"])
def test_where_nothing_differs_p_is_one(change: str) -> None:
    references = [f"the {word} dog sees a {word} cat ." for word in ("old", "young", "red", "blue", "small")] * 4
    outputs = [text.replace("sees", "hears") for text in references]
    copies = {"none": outputs, "case": [text.upper() for text in outputs], "spaces": [f"{text}  " for text in outputs]}
    systems = {"run": outputs, "copy": copies[change], "better": references}
    lines = compare_outputs(systems, references, lowercase=True, tokenize="13a")
    for name, p in (("copy", 1.0), ("better", 0.001)):
        found = [float(line.partition("p = ")[2]) for line in lines if line.strip().startswith(name)]
        assert found == pytest.approx([p, p], abs=1e-4), lines


def test_a_run_is_like_its_copy(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(Path(__file__).parents[1] / "fixtures/2026-11/translation-finished", folder)
    lines = run.compare(first, second, device="cpu")
    assert [line.partition("p = ")[2] for line in lines if "p = " in line] == ["1.0000", "1.0000"]
