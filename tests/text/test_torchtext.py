"""torchtext's tokenizers and vocabularies beside ours: with a stand-in for torchtext, and with torchtext itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from seqkit.errors import UserError
from seqkit.text import TextConfig, Tokenizer, foreign
from seqkit.text import torchtext as adapter

TEXTS = ["You can now install TorchText using pip!", "It's \"fine\", <br /> isn't it?", "you <pad> it <unk>"]
NAME = "torchtext:basic_english"
try:
    foreign.load_torchtext()
    WHY = ""
except UserError as error:
    WHY = str(error)
real = pytest.mark.skipif(bool(WHY), reason=WHY or "torchtext is here")


def split(text: str) -> list[str]:
    """A tokenizer that changes what it splits."""
    return text.lower().replace("!", " !").split()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    foreign.splitter.cache_clear()
    yield
    foreign.splitter.cache_clear()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In the place of torchtext; the names of the tokenizers that were asked for."""
    asked: list[str] = []

    def get_tokenizer(name: str) -> Callable[[str], list[str]]:
        asked.append(name)
        return split

    module = SimpleNamespace(data=SimpleNamespace(get_tokenizer=get_tokenizer))
    monkeypatch.setattr(foreign, "load_torchtext", lambda: module)
    return asked


def test_words_are_those_of_the_other_library(stand_in: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, TextConfig(tokenizer=NAME))
    assert stand_in == ["basic_english"]
    words = {word for text in TEXTS for word in split(text)} - {"<pad>", "<unk>"}
    assert set(tokenizer.vocabulary) == words | {"<pad>", "<unk>", "<bos>", "<eos>"}
    assert tokenizer.vocabulary[4] == "you"  # the most frequent
    assert tokenizer.tokens("You install  PIP!") == ["you", "install", "pip", "!"]
    assert tokenizer.decode(tokenizer.encode(["You install PIP!"])[0]) == "you install pip !"
    assert tokenizer.encode(["", " "]) == [[], []]
    tokenizer.save(tmp_path / "t.json")
    again = Tokenizer.load(tmp_path / "t.json")
    assert again.encode(TEXTS) == tokenizer.encode(TEXTS)
    assert again.fingerprint == tokenizer.fingerprint
    other = Tokenizer.train(TEXTS, TextConfig(tokenizer="torchtext:moses"))
    assert other.vocabulary == tokenizer.vocabulary
    assert other.fingerprint != tokenizer.fingerprint


def test_settings_of_ours_hold_for_foreign_words(stand_in: list[str]) -> None:
    config = TextConfig(tokenizer=NAME, vocab_size=6, strip_accents=True, max_length=3, add_eos=True)
    tokenizer = Tokenizer.train(["é e e a b", "é a"], config)
    assert tokenizer.vocabulary[4:] == ["e", "a"]
    assert tokenizer.encode(["é b a"]) == [[4, tokenizer.unk_id, tokenizer.eos_id]]
    assert tokenizer.pieces("é Bär a") == ["é", "bär", "<eos>"]
    assert tokenizer.bare().encode(["é b a"]) == [[4, 1, 5]]
    assert not tokenizer.separable  # the other library may look beyond a space


def test_a_special_token_in_a_text_is_none(stand_in: list[str]) -> None:
    tokenizer = Tokenizer.train(["a <pad> < b"], TextConfig(tokenizer=NAME, lowercase=True))
    assert tokenizer.pad_id not in tokenizer.encode(["a <PAD> <pad> b"])[0]
    assert tokenizer.pieces("a <pad>") == ["a", "<", "pad>"]


def test_no_text_is_named(stand_in: list[str]) -> None:
    tokenizer = Tokenizer.train(TEXTS, TextConfig(tokenizer=NAME))
    with pytest.raises(TypeError, match=r"^texts\[1\] is 3; expected a str"):
        tokenizer.encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^texts\[1\]: not valid Unicode"):
        tokenizer.encode(["a", "b \ud800"])
    with pytest.raises(ValueError, match="does not tell where"):
        tokenizer.offsets("a b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "torchtxt:basic_english"}, "tokenizer: expected word, bpe, .*; did you mean 'torchtext:basic"),
        ({"tokenizer": "wrd"}, "got 'wrd'; did you mean 'word'"),
        ({"tokenizer": NAME, "split": "spaces"}, "split: the torchtext:basic_english tokenizer splits by itself"),
        ({"tokenizer": NAME, "stop_words": "english"}, "stop_words: the torchtext:basic_english tokenizer"),
        ({"tokenizer": NAME, "split_chinese": False}, "split_chinese: the torchtext:basic_english tokenizer"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TextConfig(**options)


def test_an_unknown_name_is_refused_without_torchtext() -> None:
    with pytest.raises(UserError, match=r"torchtext has no 'basic_englsh' .*; did you mean 'basic_english'"):
        Tokenizer.train(TEXTS, TextConfig(tokenizer="torchtext:basic_englsh"))


@pytest.mark.parametrize("problem", ["OSError: Could not load this library: libtorchtext.so", "ImportError: not here"])
@pytest.mark.parametrize("version", ["2.13.0+cpu", "2.3.1"])
def test_a_torchtext_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str, version: str
) -> None:
    kind, message = problem.split(": ", 1)
    (tmp_path / "torchtext.py").write_text(f"raise {kind}({message!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "torchtext"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(UserError) as caught:
        Tokenizer.train(TEXTS, TextConfig(tokenizer=NAME))
    assert str(caught.value).startswith(f"text.tokenizer: {NAME}: this needs torchtext")
    if version == "2.3.1":
        assert str(caught.value).endswith(f": this needs torchtext: pip install '.[torchtext]' ({message})")
    else:
        wanted = ["0.18.0", "torch 2.3.x only", "this is torch 2.13.0+cpu", "python3.11 -m venv", "hub:NAME"]
        assert all(part in str(caught.value) for part in wanted)


def test_a_run_says_what_its_tokenizer_needs(stand_in: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.train(TEXTS, TextConfig(tokenizer=NAME))

    def missing() -> ModuleType:
        raise UserError("this needs torchtext")

    foreign.splitter.cache_clear()
    monkeypatch.setattr(foreign, "load_torchtext", missing)
    assert tokenizer.lookup(["you"]) != [tokenizer.unk_id]  # what needs no splitting still works
    with pytest.raises(UserError, match="this needs torchtext"):
        tokenizer.encode(TEXTS)


@real
def test_basic_english_is_torchtexts_own() -> None:
    from torchtext.data import get_tokenizer

    want = get_tokenizer("basic_english")
    tokenizer = Tokenizer.train(TEXTS[:2], TextConfig(tokenizer=NAME))
    for text in TEXTS[:2]:
        assert tokenizer.tokens(text) == want(text)
        assert adapter.to_function(tokenizer)(text) == want(text)


@real
def test_a_tokenizer_whose_library_is_missing() -> None:
    with pytest.raises(UserError, match=r"torchtext:revtok cannot be made .*revtok"):
        foreign.splitter("torchtext:revtok")


@real
@pytest.mark.parametrize("tokenizer", ["word", "bpe", "unigram", "char", NAME])
def test_our_tokenizer_as_a_vocab_and_a_function(tokenizer: str) -> None:
    ours = Tokenizer.train(TEXTS[:2] * 3, TextConfig(tokenizer=tokenizer, vocab_size=60, add_eos=True))
    vocab, function = adapter.to_vocab(ours), adapter.to_function(ours)
    assert vocab.get_itos() == ours.vocabulary
    for text in [*TEXTS[:2], "Unbekannt! can 🙂"]:
        assert vocab(function(text)) == ours.encode([text])[0]
    if tokenizer == "word":
        assert function("Unbekannt can")[0] == "Unbekannt"


@real
def test_a_vocab_as_our_tokenizer() -> None:
    from torchtext.data import get_tokenizer
    from torchtext.vocab import build_vocab_from_iterator

    function = get_tokenizer("basic_english")
    vocab = build_vocab_from_iterator(map(function, TEXTS[:2]), specials=["<unk>", "<s>"])
    vocab.set_default_index(0)
    ours = adapter.from_vocab(vocab, TextConfig(tokenizer=NAME), special={"<bos>": "<s>"})
    assert ours.vocabulary[:4] == ["<pad>", "<unk>", "<bos>", "<eos>"]
    assert ours.vocabulary[4:] == vocab.get_itos()[2:]
    table = torch.randn(len(vocab), 5)
    rows = table[vocab.lookup_indices(ours.vocabulary)]
    for text in [*TEXTS[:2], "you can fly"]:
        assert torch.equal(rows[ours.encode([text])[0]], table[vocab(function(text))])
    same = adapter.to_vocab(ours)
    assert adapter.from_vocab(same, ours.config).vocabulary == ours.vocabulary
    with pytest.raises(ValueError, match="the bpe tokenizer has none"):
        adapter.from_vocab(vocab, TextConfig(tokenizer="bpe"))
    with pytest.raises(ValueError, match="special: '<eos>': '</s>'"):
        adapter.from_vocab(vocab, special={"<eos>": "</s>"})
