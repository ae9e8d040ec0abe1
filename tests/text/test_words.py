"""Words that are given, not found: they are looked up as they stand; and where the words of a text stand."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.text import TextConfig, Tokenizer

WORDS = ["Don't", "stop,", "New York", "stop,", "you", "你好", "Cafe\u0301", "<unk>", "<pad>"]


@pytest.mark.parametrize("split", ["words", "spaces"])
def test_given_words_are_whole(split: Any) -> None:
    tokenizer = Tokenizer.train(WORDS, TextConfig(split=split, lowercase=True), whole=True)
    assert tokenizer.vocabulary[:5] == ["<pad>", "<unk>", "<bos>", "<eos>", "stop,"]
    assert sorted(tokenizer.vocabulary[5:]) == sorted(["don't", "new york", "you", "你好", "caf\u00e9"])
    found = tokenizer.lookup(["STOP,", "stop", "New York", "CAFÉ", "你好", "<pad>", ""])
    assert [tokenizer.vocabulary[number] for number in found] == [
        "stop,", "<unk>", "new york", "caf\u00e9", "你好", "<unk>", "<unk>",
    ]  # fmt: skip
    # A raw text is split as the settings say, and its words are found if they are the same.
    expected = ["don't", "you"] if split == "spaces" else ["<unk>", "<unk>", "you"]
    assert tokenizer.tokens("Don't you") == expected


def test_they_are_counted_like_others() -> None:
    texts = ["b a", "a c a"]
    words = [word for text in texts for word in text.split()]
    for config in (TextConfig(), TextConfig(min_frequency=2), TextConfig(vocab_size=6)):
        assert Tokenizer.train(words, config, whole=True).fingerprint == Tokenizer.train(texts, config).fingerprint
    with pytest.raises(ValueError, match="the bpe tokenizer has no words"):
        Tokenizer.train(words, TextConfig(tokenizer="bpe"), whole=True)


_TEXTS = st.text(st.sampled_from("ae\u0301\u0323 \t.-'n你\u1112\u1161\u11abﬁ1😀"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(text=_TEXTS, form=st.sampled_from(["none", "nfc", "nfd", "nfkc"]), strip=st.booleans())
def test_offsets_cover_all_but_the_spaces(text: str, form: Any, strip: bool) -> None:
    tokenizer = Tokenizer.train(["a"], TextConfig(normalize=form, strip_accents=strip))
    offsets = tokenizer.offsets(text)
    assert len(offsets) == len(tokenizer.tokens(text))
    ends = [0, *(place for pair in offsets for place in pair)]
    assert ends == sorted(ends)
    pieces = [text[start:end] for start, end in offsets]
    assert all(piece and piece == piece.strip() for piece in pieces)
    # A mark without a letter before it may belong to no word where accents are stripped.
    covered, whole = ("".join(part.split()) for part in ("".join(pieces), text))
    missing = len(whole) - len(covered)
    assert missing == 0 or (strip and any(unicodedata.combining(char) for char in whole))


def test_offsets_of_a_text() -> None:
    tokenizer = Tokenizer.train(["a"], TextConfig(lowercase=True, max_length=3, add_bos=True))
    assert tokenizer.offsets("  I don't ") == [(2, 3), (4, 6)]
