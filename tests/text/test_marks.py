"""Words that stand without white space before them are marked: texts come back as they were, up to white space."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from seqkit.data.token_cache import Encoder
from seqkit.errors import UserError
from seqkit.text import TextConfig, Tokenizer, load_vectors, train_tokenizer
from seqkit.text.joining import join_tokens
from seqkit.text.marks import MARK, join, spaced

# Unicode's White_Space; Python's \s counts four control characters more.
SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
TEXTS = {
    "French": "« L'homme d'aujourd'hui », dit-il : qu'est-ce que c'est ? 3,50 €/m² — l’œuvre…",
    "Spanish": "¿Qué? ¡No! (El 5% de los EE.UU.) —dijo «ella»—; J. L. Borges, 1899-1986.",
    "English": "\"Quoted\" don't 5:30pm a-b ... (well-known), he said: 'tis rock'n'roll & $20/day!?",
    "German": "Das 3-jährige Mädchen sagt: „Hm, z. B. um 5:30 Uhr“ - nicht/oder ... E-Mail@b.de",
    "Chinese": "他说：“你好，世界！”（2024年）x你 a",
    "Japanese": "「こんにちは」と、東京タワーで言った。3つ々〆",
    "Hindi": "नमस्ते, दुनिया! 'हिन्दी' में १२.५ %। क्या?",
    "Arabic": "مرحبا، كيف حالك؟ «جيد» (١٢٫٥٪).",
    "Thai": "สวัสดี 'ชาวโลก' ๑๒.๕%ๆ ฯลฯ",
    "Korean": "안녕, '세계'! (한국어)은/는 3.5%",
    "symbols": "😀😀x 👩\u200d👩 a\u0301\u0302! \u0301b <pad> <unk><eos> #tag @x_y http://a.b/?c=d&e=f ￭￭a ￮￭0 ￮1 ▁a▁",
}


def marked(texts: list[str], **options: Any) -> Tokenizer:
    return Tokenizer.train(texts, TextConfig(mark_joined=True, **options))


def plain(text: str) -> str:
    return SPACE.sub(" ", text).strip(" ")


@pytest.mark.parametrize("split", ["words", "spaces"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_script_comes_back(name: str, split: str) -> None:
    text = unicodedata.normalize("NFC", TEXTS[name])
    if split == "spaces":
        text = text.replace("<unk>", "")  # as a word of its own it means what it says
    tokenizer = marked([text, "x"], split=split)
    (ids,) = tokenizer.encode([text])
    assert tokenizer.unk_id not in ids
    assert tokenizer.decode(ids) == plain(text)
    assert join(tokenizer.tokens(text)) == join_tokens(tokenizer.tokens(text), tokenizer) == plain(text)


_ANY = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("ab1 '’n\t\u00a0-.,:\"你好￭￮0\u0301éﬁÄß_▁<>")), max_size=40
)


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(_ANY, min_size=1, max_size=3),
    form=st.sampled_from(["none", "nfc", "nfd", "nfkc", "nfkd"]),
    split=st.sampled_from(["words", "spaces"]),
    chinese=st.booleans(),
    lower=st.booleans(),
    strip=st.booleans(),
)
def test_any_text_comes_back(texts: list[str], form: Any, split: Any, chinese: bool, lower: bool, strip: bool) -> None:
    options = {"normalize": form, "split_chinese": chinese, "lowercase": lower, "strip_accents": strip}
    tokenizer = marked([*texts, "x"], split=split, **options)
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert not set(range(4)) & set(ids)
        whole = Tokenizer.train([text + "x"], TextConfig(tokenizer="char", **{**options, "split_chinese": True}))
        normal = whole.decode(whole.encode([text + "x"])[0])[:-1]  # a tokenizer of characters loses nothing
        assert tokenizer.decode(ids) == plain(normal)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(_ANY, min_size=1, max_size=3), other=_ANY, split=st.sampled_from(["words", "spaces"]))
def test_the_words_are_those_without_marks(texts: list[str], other: str, split: Any) -> None:
    with_marks, without = marked([*texts, "x"], split=split), Tokenizer.train([*texts, "x"], TextConfig(split=split))
    assert set(with_marks.words) - {""} == set(without.vocabulary)
    for text in (*texts, other):
        tokens, placed, offsets = with_marks.tokens(text), with_marks.placed(text), with_marks.offsets(text)
        words = [place for place, token in enumerate(tokens) if token != MARK]
        for place, word in zip(words, without.tokens(text), strict=True):
            # What was only ever seen joined may be unknown apart.
            assert tokens[place] in (word, f"{MARK}{word}", "<unk>")
            assert (tokens[place] == word) == (word in with_marks.vocabulary and tokens[place] != f"{MARK}{word}")
        assert [placed[place][0] for place in words] == without.pieces(text)
        assert [offsets[place] for place in words] == without.offsets(text)
        # What stands without white space before it, by the text alone.
        for start, joined in [(offsets[place][0], placed[place][1]) for place in words]:
            assert joined == (start > 0 and not SPACE.fullmatch(text[start - 1]))
        assert {placed[place] for place in range(len(tokens)) if place not in words} <= {("", True)}


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(_ANY, min_size=1, max_size=3), other=_ANY, least=st.integers(1, 3), size=st.integers(6, 20))
def test_nothing_is_lost_but_unknown_words(texts: list[str], other: str, least: int, size: int) -> None:
    """Whatever was seldom or never seen joined in training: with its words in the places of <unk>, the text is back."""
    texts = [unicodedata.normalize("NFC", text).replace("<unk>", "") for text in [*texts, other]]
    tokenizer = marked([*texts[:-1], "x x x"], min_frequency=least, vocab_size=size)
    for text in texts:
        pairs = zip(tokenizer.tokens(text), tokenizer.placed(text), strict=True)
        assert join(tokenizer.written(*pair) if token == "<unk>" else token for token, pair in pairs) == plain(text)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(_ANY, min_size=1, max_size=4), other=_ANY)
def test_every_way_of_training_and_encoding_agrees(texts: list[str], other: str) -> None:
    import pyarrow as pa

    texts = [*texts, "x x"]
    tokenizer = marked(texts, min_frequency=len(texts) % 2 + 1)
    counts = Counter(stretch for text in texts for stretch in text.split(" "))
    assert Tokenizer.train_counted(counts, tokenizer.config).fingerprint == tokenizer.fingerprint
    values, lengths = Encoder(tokenizer)(pa.array([*texts, other]))
    rows = tokenizer.encode([*texts, other])
    assert lengths.tolist() == list(map(len, rows))
    assert values.tolist() == [number for row in rows for number in row]


def test_what_was_hardly_seen_joined_is_the_mark_and_the_word() -> None:
    texts = ["a-b a-b a-b c, c c-d d"]
    full = marked(texts)
    assert full.vocabulary[4:] == ["￭-", "a", "c", "￭b", "d", "￭,", "￭d", "￭"]
    some = marked(texts, min_frequency=2)
    assert some.vocabulary[4:] == ["￭-", "a", "c", "￭b", "d", "￭"]  # d twice, once of them as ￭d
    expected = ["c", "￭-", "￭", "d", "a", "￭-", "￭b", "<unk>", "￭-", "￭", "a", "￭", "<unk>", "<unk>", "￭b"]
    assert some.tokens("c-d a-b x-a, (b") == expected
    assert marked(texts, vocab_size=7).vocabulary[4:] == ["￭", "￭-", "a"]  # for ￭b, ￭, and ￭d
    assert full.tokens("a-c-é d") == ["a", "￭-", "￭", "c", "￭-", "￭", "<unk>", "d"]


def test_texts_that_white_space_alone_separates_need_no_mark() -> None:
    spaces = marked(["a b c"], split="spaces")
    assert spaces.vocabulary[4:] == Tokenizer.train(["a b c"], TextConfig(split="spaces")).vocabulary[4:]
    assert spaces.tokens("a b你 c") == ["a", "b", "<unk>", "c"]
    assert "￭" in marked(["a b你"], split="spaces").vocabulary
    assert "￭" in marked(["a b c"]).vocabulary


def test_many_forms_and_long_ones_are_found_again() -> None:
    words = [f"{a}{b}{c}" for a in "abcü你" for b in ["", "x", "xy"] for c in ["", "z" * 99, "z" * 150, "!" * 40]]
    text = " ".join("(" + word for word in words) + " " + ",".join(chr(0x4E00 + number) for number in range(3000))
    tokenizer = marked([text])
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text
    assert tokenizer.tokens("(" + "z" * 101) == ["(", "<unk>"]


def test_vectors_and_look_up_see_words_without_marks(tmp_path: Path) -> None:
    tokenizer = marked(["a-b b don't c"], lowercase=True)
    (tmp_path / "v.txt").write_text("b 1 2\n- 3 4\nn't 5 6\nb 7 8\n", "utf-8")
    found = load_vectors(tmp_path / "v.txt", tokenizer.words)
    assert found.found == 4
    rows = {token: found.matrix[number].tolist() for number, token in enumerate(tokenizer.vocabulary)}
    assert rows["b"] == rows["￭b"] == [1, 2]
    assert (rows["￭-"], rows["￭n't"]) == ([3, 4], [5, 6])
    looked_up = [tokenizer.vocabulary[number] for number in tokenizer.lookup(["B", "-", "n't", "zz", ""])]
    assert looked_up == ["b", "￭-", "￭n't", "<unk>", "<unk>"]


def test_stop_words_see_words_without_marks(tmp_path: Path) -> None:
    (tmp_path / "stop.txt").write_text("b\n,\n", "utf-8")
    assert marked(["a-b, b c"], stop_words=str(tmp_path / "stop.txt")).tokens("a-b, b c") == ["a", "￭-", "c"]


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_pieces_need_no_marks(kind: str) -> None:
    assert TextConfig(tokenizer=kind).for_writing() == TextConfig(tokenizer=kind)
    with pytest.raises(ValidationError, match=f"mark_joined: the {kind} tokenizer keeps spaces in any case"):
        TextConfig(tokenizer=kind, mark_joined=True)


def test_words_that_are_given_one_by_one_have_no_marks() -> None:
    with pytest.raises(UserError, match=r"text.mark_joined: words that are given one by one"):
        Tokenizer.train(["a"], TextConfig(mark_joined=True), whole=True)


def test_settings_resolve_to_marks_where_text_is_written() -> None:
    assert not TextConfig().marked
    assert TextConfig().for_writing().marked
    assert not TextConfig(mark_joined=False).for_writing().marked


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("L'homme, ici", ["L", "'", "homme", ",", "ici"], ["\tL", "'", "homme", ",", "\tici"]),
        ("Say It-now", ["say", "it", "-", "now"], ["\tsay", "\tit", "-", "now"]),  # lower-cased there
        ("(To go, to", ["(", "to", "go", ",", "to"], ["\t(", "to", "\tgo", ",", "\tto"]),  # and the word comes again
        ('he said "no"!', ["he", "said", "no", "!"], ["\the", "\tsaid", "\tno", "!"]),  # quotes are dropped there
        ('a "b" c', ["a", "&quot;", "b", "&quot;", "c"], ["\ta", "\t&quot;", "b", "\t&quot;", "\tc"]),
        ("a  b", ["a", " ", "b"], ["\ta", "\t ", "\tb"]),  # a word of white space
        ("", [], []),
    ],
)
def test_words_of_another_library_are_found_in_the_text(text: str, words: list[str], expected: list[str]) -> None:
    assert spaced(words, text) == expected


def test_another_librarys_words_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqkit.text import tokenizer as module

    def split(name: str) -> Any:
        return lambda text: re.findall(r"New York|<pad>|\w+|[^\w\s]", text)

    monkeypatch.setattr(module, "splitter", split)
    monkeypatch.setattr(train_tokenizer, "splitter", split)
    text = "L'homme, New York! (x) ￭a <pad>"
    tokenizer = marked([text], tokenizer="torchtext:moses")
    assert not {0, 1, 2, 3} & set(tokenizer.encode([text])[0])
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text
    assert tokenizer.placed("New L'z")[-3:] == [("'", True), ("", True), ("z", True)]
    assert join_tokens([tokenizer.written(*pair) for pair in tokenizer.placed(text)], tokenizer) == text


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    tokenizer = marked(list(TEXTS.values()))
    tokenizer.save(tmp_path / "t.json")
    loaded = Tokenizer.load(tmp_path / "t.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.config == tokenizer.config
    assert loaded.encode(TEXTS.values()) == tokenizer.encode(TEXTS.values())
    assert loaded.words == tokenizer.words
    assert torch.equal(torch.tensor(loaded.encode(["a-b"])), torch.tensor(tokenizer.encode(["a-b"])))
