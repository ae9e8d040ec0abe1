"""The tokenizer against what it must give, token by token, and its file against itself."""

import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.errors import UserError
from seqkit.text import SPECIAL_TOKENS, TextConfig, Tokenizer

KINDS = ("word", "bpe", "unigram", "char")
TEXTS = [
    "The quick brown fox doesn't jump over the lazy dog; it's 3.50 euros!",
    "Ein Mädchen klettert in ein Spielhaus aus Holz, und zwei Männer stehen am Herd.",
    "你好世界 says the dog (twice), quickly-moving and never tired...",
    "the fox and the dog and the man and the house",
]


def make(kind: str = "word", texts: list[str] = TEXTS, **options: object) -> Tokenizer:
    return Tokenizer.train(texts, TextConfig(tokenizer=kind, **options))


def all_tokens(text: str, **options: object) -> list[str]:
    """Tokens of a text by a word tokenizer that was trained on it, so that none is unknown."""
    return make(texts=[text], **options).tokens(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't, CAN'T won’t", ["I", "do", "n't", ",", "CA", "N'T", "wo", "n’t"]),
        ("it's the dogs' 'tis we're", ["it", "'s", "the", "dogs", "'", "'", "tis", "we", "'re"]),
        ("costs 3.50, or 1,000:", ["costs", "3.50", ",", "or", "1,000", ":"]),
        ("re-imagining ... what?!", ["re", "-", "imagining", "...", "what", "?", "!"]),
        ("wo n't -lrb- x_y", ["wo", "n't", "-", "lrb", "-", "x_y"]),
        ("你好世界", ["你", "好", "世", "界"]),
        ("a你b", ["a", "你", "b"]),
        ("a b\tc\nd", ["a", "b", "c", "d"]),
        ("<pad> <eos>", ["<", "pad", ">", "<", "eos", ">"]),
        ("Mädchen é", ["Mädchen", "é"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
    ],
)
def test_words_are_split(text: str, expected: list[str]) -> None:
    assert all_tokens(text) == expected


def test_split_at_spaces_only() -> None:
    assert all_tokens("wo n't re-do it.  <unk>", split="spaces") == ["wo", "n't", "re-do", "it.", "<unk>"]


def test_chinese_stays_together_when_asked() -> None:
    assert all_tokens("你好世界 x", split_chinese=False) == ["你好世界", "x"]


@pytest.mark.parametrize("kind", KINDS)
def test_first_four_ids_are_the_special_tokens(kind: str) -> None:
    tokenizer = make(kind)
    assert tokenizer.vocabulary[:4] == list(SPECIAL_TOKENS) == ["<pad>", "<unk>", "<bos>", "<eos>"]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert len(tokenizer) == len(tokenizer.vocabulary) == len(set(tokenizer.vocabulary))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["words", "spaces"])
def test_special_tokens_written_in_a_text_are_plain_text(kind: str, split: str) -> None:
    options = {} if kind == "char" else {"split": split}
    text = "<pad> <bos>x<eos> <PAD>"
    tokenizer = make(kind, texts=[text] * 20, lowercase=True, **options)
    assert not {0, 2, 3} & set(tokenizer.encode([text])[0])


def test_word_vocabulary_counts_and_limits() -> None:
    texts = ["a a a b b c", "d d a"]
    by_count = [word for word, _ in sorted(Counter(" ".join(texts).split()).items(), key=lambda p: (-p[1], p[0]))]
    assert make(texts=texts).vocabulary[4:] == by_count == ["a", "b", "d", "c"]
    assert make(texts=texts, vocab_size=6).vocabulary[4:] == ["a", "b"]
    assert make(texts=texts, min_frequency=2).vocabulary[4:] == ["a", "b", "d"]
    assert make("char", texts=["aab", "a"], min_frequency=2).vocabulary[4:] == ["a"]
    assert make("char", texts=["bca"]).vocabulary[4:] == ["a", "b", "c"]
    assert make("char", texts=["aabbc", "a"], vocab_size=6).vocabulary[4:] == ["a", "b"]
    assert make(texts=texts, min_frequency=2).encode(["a c d zz", ""]) == [[4, 1, 6, 1], []]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_subword_vocabulary_is_limited(kind: str) -> None:
    assert len(make(kind, texts=TEXTS * 5, vocab_size=70)) <= 70 < len(make(kind, texts=TEXTS * 5))


def test_bpe_against_a_plain_implementation() -> None:
    """Sennrich et al. 2016, algorithm 1: merge the most frequent pair, again and again."""
    texts = ["low low low low low lower lower newest newest newest newest newest newest widest widest widest"]
    words = Counter(tuple("▁" + word) for word in texts[0].split())
    pieces = {character for word in words for character in word}
    for _ in range(12):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        most = max(pairs.values())
        assert most > 1
        tied = [pair for pair, count in pairs.items() if count == most]
        # A tie may be broken either way: follow the tokenizer under test.
        size = 4 + len(pieces) + 1
        merged = set(make("bpe", texts=texts, vocab_size=size).vocabulary) - pieces - set(SPECIAL_TOKENS)
        assert len(merged) == 1
        new = merged.pop()
        pair = next(pair for pair in tied if "".join(pair) == new)
        pieces.add(new)
        words = Counter({_merge(word, pair): count for word, count in words.items()})
    assert make("bpe", texts=texts, vocab_size=4 + len(pieces)).tokens("newest low")[0] == "▁newest"


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({"lowercase": True}, "ÄB Éa", "äb éa"),
        ({"strip_accents": True}, "Café naïve Ångström", "Cafe naive Angstrom"),
        ({"strip_accents": True, "lowercase": True}, "CAFÉ", "cafe"),
        ({"strip_accents": True}, "한국어", "한국어"),
        ({"strip_accents": True, "normalize": "nfkd"}, "ﬁé", "fie"),
        ({}, "e\u0301", "\u00e9"),
        ({"normalize": "nfd"}, "\u00e9", "e\u0301"),
        ({"normalize": "nfkc"}, "ﬁ①", "fi1"),
        ({"normalize": "none"}, "e\u0301\u00e9", "e\u0301\u00e9"),
    ],
)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_normalisation(kind: str, options: dict[str, object], text: str, expected: str) -> None:
    tokenizer = make(kind, texts=[text], **options)
    assert tokenizer.decode(tokenizer.encode([text])[0]) == expected


def test_length_and_marks() -> None:
    text = "a b c d e"
    ids = make(texts=[text]).encode([text])[0]
    assert make(texts=[text], max_length=3).encode([text])[0] == ids[:3]
    assert make(texts=[text], max_length=3, keep="end").encode([text])[0] == ids[-3:]
    both = make(texts=[text], max_length=4, keep="end", add_bos=True, add_eos=True)
    assert both.encode([text, "", "a"]) == [[2, *ids[-2:], 3], [2, 3], [2, ids[0], 3]]
    assert make(texts=[text], add_eos=True).encode([text])[0] == [*ids, 3]
    assert both.decode(both.encode([text])[0]) == "d e"


OPTIONS: list[dict[str, object]] = [
    {},
    {"lowercase": True, "strip_accents": True, "normalize": "nfkc", "min_frequency": 1},
    {"max_length": 4, "keep": "end", "add_bos": True, "add_eos": True, "split_chinese": True},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=40))
def test_loading_gives_the_same_tokenizer(
    tmp_path_factory: pytest.TempPathFactory, kind: str, options: dict[str, object], text: str
) -> None:
    key = (kind, str(options))
    if key not in _saved:
        path = tmp_path_factory.mktemp("saved") / "t.json"
        tokenizer = make(kind, **options)
        tokenizer.save(path)
        _saved[key] = (tokenizer, Tokenizer.load(path))
    tokenizer, loaded = _saved[key]
    assert loaded.encode([text, *TEXTS]) == tokenizer.encode([text, *TEXTS])
    assert loaded.vocabulary == tokenizer.vocabulary
    assert loaded.config == tokenizer.config
    assert loaded.fingerprint == tokenizer.fingerprint


_saved: dict[tuple[str, str], tuple[Tokenizer, Tokenizer]] = {}


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="abcdefg hij.,'!\n\tÄé你好世界-0123", max_size=60))
def test_decode_gives_the_text_back(kind: str, text: str) -> None:
    if kind not in _whole:
        _whole[kind] = make(kind, texts=["abc def ghij.,'! \n\tÄé你好世界-0123 a b c d e f g h i j"] * 3)
    tokenizer = _whole[kind]
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


_whole: dict[str, Tokenizer] = {}


@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8", max_codepoint=0x2FFF), min_size=1, max_size=30))
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_decode_gives_any_text_back_to_its_own_tokenizer(kind: str, text: str) -> None:
    text = text.replace("▁", "")
    if text:
        tokenizer = make(kind, texts=[text], normalize="none")
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_words_lose_nothing_but_white_space(text: str) -> None:
    # Unicode's White_Space; Python's \s counts four control characters more.
    space = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
    assert "".join(all_tokens(text + " x", normalize="none")) == re.sub(space, "", text) + "x"


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic(kind: str) -> None:
    """Also between processes, where the library's hash maps are seeded anew."""
    code = (
        "import sys, json; from seqkit.text import *; "
        "print(Tokenizer.train(json.load(sys.stdin), TextConfig(tokenizer=sys.argv[1])).fingerprint)"
    )
    texts = [*TEXTS, *(f"{a}{b} {b}{c}{a}, {c}" for a in "abcdeß" for b in "xyzü" for c in "一二mn")]
    root = str(Path(__file__).parents[2])
    other = subprocess.run(
        [sys.executable, "-c", code, kind],
        input=json.dumps(texts),
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    prints = {Tokenizer.train(iter(order), TextConfig(tokenizer=kind)).fingerprint for order in (texts, texts[::-1])}
    assert prints == {other.stdout.strip()}


def test_fingerprint_changes_with_anything_that_decides_an_encoding() -> None:
    options: list[dict[str, object]] = [
        {}, {"lowercase": True}, {"max_length": 9}, {"max_length": 9, "keep": "end"}, {"add_bos": True},
        {"add_eos": True}, {"split": "spaces"}, {"stop_words": "english"}, {"normalize": "nfkc"},
        {"min_frequency": 2}, {"split_chinese": False},
    ]  # fmt: skip
    assert len({make(**option).fingerprint for option in options}) == len(options)


def test_pickle_for_worker_processes() -> None:
    tokenizer = make("bpe")
    assert pickle.loads(pickle.dumps(tokenizer)).encode(TEXTS) == tokenizer.encode(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_of_ten_megabytes_without_a_space(kind: str) -> None:
    tokenizer = make(kind, max_length=10)
    assert len(tokenizer.encode(["x" * 10_000_000])[0]) in (1, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_train_on(kind: str, texts: list[str]) -> None:
    with pytest.raises(UserError, match="no token to train"):
        make(kind, texts=texts)


def test_stop_words_may_leave_nothing() -> None:
    with pytest.raises(UserError, match="no token to train"):
        make(texts=["the of and"], stop_words="english")


def test_a_vocabulary_too_small_for_the_characters() -> None:
    with pytest.raises(UserError, match="vocab_size is smaller than the number of different characters"):
        make("unigram", vocab_size=6)
    assert len(make("bpe", vocab_size=6)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_texts_comes_through(kind: str) -> None:
    def texts():  # type: ignore[no-untyped-def]
        yield "one"
        raise UserError("data.tsv:3: bad")

    with pytest.raises(UserError, match=r"^data.tsv:3: bad$"):
        Tokenizer.train(texts(), TextConfig(tokenizer=kind))


def test_what_cannot_be_encoded_or_decoded() -> None:
    tokenizer = make()
    with pytest.raises(ValueError, match=r"texts\[1\]: not valid Unicode"):
        tokenizer.encode(["a", "\ud800"])
    with pytest.raises(TypeError, match=r"texts\[0\] is None; expected a str"):
        tokenizer.encode([None])  # type: ignore[list-item]
    for wrong in (-1, len(tokenizer)):
        with pytest.raises(ValueError, match="ids must lie in"):
            tokenizer.decode([4, wrong])


@pytest.mark.parametrize("kind", ["word", "bpe", "unigram", "char"])
def test_pieces_are_the_stretches_of_the_text_behind_the_tokens(kind: str) -> None:
    config = TextConfig(tokenizer=kind, lowercase=True, vocab_size=60 if kind in ("bpe", "unigram") else None)  # type: ignore[arg-type]
    tokenizer = Tokenizer.train(["a dog sees the cat", "the dog"], config)
    text = "The Dog sees Z\u0308ebras"
    pieces = tokenizer.pieces(text)
    assert len(pieces) == len(tokenizer.encode([text])[0])
    joined = "".join(pieces)
    assert joined.replace("▁", "").replace(" ", "") == text.replace(" ", "")
    if kind == "word":
        assert pieces == ["The", "Dog", "sees", "Z\u0308ebras"]
    short = Tokenizer.train(["a b"], TextConfig(add_eos=True, max_length=3, keep="end"))
    assert short.pieces("x y Z") == ["y", "Z", "<eos>"]
