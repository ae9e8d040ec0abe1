"""What a tokenizer keeps outside itself: its file, the stop word list, the section of the configuration."""

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer as Backend

from seqkit.errors import UserError
from seqkit.text import TextConfig, Tokenizer

TEXTS = ["The quick brown fox doesn't jump", "the fox and the dog"]


def make(kind: str = "word", texts: list[str] = TEXTS, **options: object) -> Tokenizer:
    return Tokenizer.train(texts, TextConfig(tokenizer=kind, **options))


def all_tokens(text: str, **options: object) -> list[str]:
    """Tokens of a text by a word tokenizer that was trained on it, so that none is unknown."""
    return make(texts=[text], **options).tokens(text)


def test_many_stop_words_with_common_beginnings(tmp_path: Path) -> None:
    words = ["a", "ab", "abc", "abd", "b", "ba.b", "x*", "für", "fürs"]
    (tmp_path / "stop.txt").write_text("\n".join(words), encoding="utf-8")
    others = ["abcd", "bab", "xx", "fü", "c", "bax"]
    text = " ".join([*words, *others])
    assert all_tokens(text, stop_words=str(tmp_path / "stop.txt"), split="spaces") == others


def test_english_stop_words_leave_negation() -> None:
    text = "The film is not the one that I would call good , but it 's never dull"
    assert " ".join(all_tokens(text, stop_words="english")) == "film not call good , but never dull"
    tokenizer = make(texts=[text], stop_words="english")
    assert tokenizer.encode(["the of and"]) == [[]]
    assert "the" not in tokenizer.vocabulary


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_stop_words_of_pieces(kind: str) -> None:
    tokenizer = make(kind, texts=["the cat and theory"] * 5, stop_words="english")
    assert tokenizer.decode(tokenizer.encode(["the cat and theory"])[0]) == "cat theory"


def test_stop_words_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stop.txt"
    path.write_bytes("\ufeff# mine\r\nÉté\r\nc++\r\n".encode())
    text = "c ++ été c++ ÉTÉ x"
    assert all_tokens(text, stop_words=str(path), lowercase=True, split="spaces") == ["c", "++", "x"]
    for content, message in [
        (b"don't\n", r"stop.txt:1: \"don't\" is 2 tokens \(do n't\)"),
        (b"a\nb\xff\n", r"stop.txt:2: not UTF-8 text \(byte 0xff\)"),
        (b"# nothing\n", "stop.txt: no word"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            make(stop_words=str(path))
    with pytest.raises(UserError, match=r"stop_words: no such file: englisch.*did you mean 'english'"):
        make(stop_words="englisch")


def test_a_saved_tokenizer_needs_no_stop_word_file(tmp_path: Path) -> None:
    stop = tmp_path / "stop.txt"
    stop.write_text("fox\n")
    tokenizer = make(stop_words=str(stop))
    tokenizer.save(tmp_path / "t.json")
    stop.unlink()
    assert Tokenizer.load(tmp_path / "t.json").tokens("the fox") == tokenizer.tokens("the fox") == ["the"]


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    make().save(path)
    whole = path.read_text(encoding="utf-8")
    saved = json.loads(whole)
    own = saved["model"].pop("seqkit")
    document = {"format": "seqkit.tokenizer", "version": 1, "config": own["config"], "tokenizer": saved}

    def changed(**parts: object) -> str:
        """A file of version 1 with a mistake in it."""
        return json.dumps({**document, **parts})

    def settings_changed(**parts: object) -> str:
        return json.dumps({**saved, "model": {**saved["model"], "seqkit": {**own, **parts}}})

    path.write_text(changed(), encoding="utf-8")
    assert Tokenizer.load(path).fingerprint == make().fingerprint
    for content, message in [
        (settings_changed(version=3), "version 3; this seqkit reads version 1 and 2"),
        (settings_changed(config={"tokenizer": "word", "later": 1}), "damaged tokenizer file"),
        (settings_changed(config=None), "damaged tokenizer file"),
        (json.dumps(saved), "not a seqkit tokenizer"),  # the library's own
        (json.dumps({"model": {"seqkit": own}}), "damaged tokenizer file"),
        (whole[: len(whole) // 2], "damaged tokenizer file"),
        ("", "damaged tokenizer file"),
        ("[1]", "not a seqkit tokenizer"),
        ('{"model": {}}', "not a seqkit tokenizer"),
        (changed(version=2), "version 2; this seqkit reads version 1"),
        (changed(config={"tokenizer": "word", "later": 1}), "damaged tokenizer file"),
        (changed(tokenizer={}), "damaged tokenizer file"),
        (changed(tokenizer=None), "damaged tokenizer file"),
        (json.dumps({key: document[key] for key in ("format", "version", "config")}), "damaged tokenizer file"),
        (whole.replace('"<bos>": 2', '"<bos>": 9999'), "damaged tokenizer file"),
        (whole.replace('"<bos>": 2', '"<start>": 2'), "does not begin with"),
    ]:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=message) as caught:
            Tokenizer.load(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="damaged tokenizer file"):
        Tokenizer.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path / "absent.json")


_KINDS = [
    {"tokenizer": "word"},
    {"tokenizer": "word", "mark_joined": True},
    {"tokenizer": "word", "mark_joined": True, "split": "spaces", "stop_words": "english"},
    {"tokenizer": "bpe", "lowercase": True, "strip_accents": True},
    {"tokenizer": "unigram"},
    {"tokenizer": "char"},
]
_ENDS = [
    {},
    {"add_bos": True},
    {"add_eos": True, "max_length": 3},
    {"add_bos": True, "add_eos": True, "max_length": 5, "keep": "end"},
]


@pytest.mark.parametrize("kind", _KINDS, ids=str)
def test_the_tokenizers_library_reads_the_file_and_gives_the_same_ids(kind: dict[str, object], tmp_path: Path) -> None:
    texts = [*TEXTS, "<pad> Ä, don't (x) 你好 <eos>", "", "  the\tfox ", "zzz-the ￭", "the " * 20]
    for number, ends in enumerate(_ENDS):
        tokenizer = Tokenizer.train(texts, TextConfig.model_validate({**kind, **ends}))
        path = tmp_path / f"{number}.json"
        tokenizer.save(path)
        library = Backend.from_file(str(path))
        assert [library.encode(text).ids for text in texts] == tokenizer.encode(texts)
        assert library.get_vocab() == {token: index for index, token in enumerate(tokenizer.vocabulary)}
        loaded = Tokenizer.load(path)
        assert (loaded.fingerprint, loaded.config) == (tokenizer.fingerprint, tokenizer.config)
        bare = tokenizer.bare().encode(texts)
        assert [library.decode(ids) for ids in bare] == [tokenizer.decode(ids) for ids in bare]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    make().save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make("bpe").save(path)
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize(
    "options",
    [
        {"vocab_size": 4},
        {"vocab_size": -1},
        {"min_frequency": 0},
        {"max_length": 0},
        {"max_length": 2, "add_bos": True, "add_eos": True},
        {"tokenizer": "words"},
        {"keep": "middle"},
        {"normalize": "NFC"},
        {"lowercase": "yes"},
        {"tokenizer": "char", "stop_words": "english"},
        {"tokenizer": "char", "split": "spaces"},
        {"tokenizer": "char", "split_chinese": False},
        {"tokenizer": "unigram", "min_frequency": 2},
        {"unknown": 1},
    ],
)
def test_the_schema_refuses(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TextConfig.model_validate(options)
