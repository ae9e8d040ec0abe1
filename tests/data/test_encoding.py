"""Columns to ids: the same as the tokenizer's own, cached, mapped, and bounded in memory."""

from __future__ import annotations

import itertools
import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit import __version__
from seqkit.data import token_cache, tokenizer_cache
from seqkit.data.batching import Ragged
from seqkit.data.sources import SourceConfig, open_source
from seqkit.data.token_cache import Encoder, column_arrays, encode_column
from seqkit.data.tokenizer_cache import column_texts, train_tokenizer
from seqkit.errors import UserError
from seqkit.text import TextConfig, Tokenizer

WORDS = ["the", "The", "ox", "isn't", "3.14", "Straße", "été", "été", "你好", "<pad>", "x<eos>", "a--b", "▁", "▁x"]
ODD = ["\t", "\u00a0", "\u0301", "´", "\u3000", "ﬁ", "ΑΣ", "\u200b", "🙂", "\r", "zz"]
TEXTS = [" ".join(words) for words in itertools.combinations(WORDS, 3)]
pieces = st.sampled_from([*WORDS, *ODD, " ", " ", "  ", "q"])
texts = st.lists(st.lists(pieces, max_size=8).map("".join) | st.text(max_size=12), max_size=8)

TOKENIZERS = {
    f"{kind}-{split}-{form}": TextConfig(tokenizer=kind, split=split, **more)  # type: ignore[arg-type]
    for kind in ("word", "bpe", "unigram")
    for split in ("words", "spaces")
    for form, more in {
        "plain": {"normalize": "none"},
        "nfkc": {"normalize": "nfkc", "lowercase": True},
        "accents": {"strip_accents": True, "split_chinese": True},
        "stop": {"stop_words": "english"},
    }.items()
} | {
    "char": TextConfig(tokenizer="char"),
    "start": TextConfig(max_length=3, add_eos=True),
    "end": TextConfig(max_length=4, keep="end", add_bos=True, add_eos=True),
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    found = {}
    for name, config in TOKENIZERS.items():
        size = {} if config.tokenizer in ("word", "char") else {"vocab_size": 90}
        found[name] = Tokenizer.train(TEXTS, config.model_copy(update=size))
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(rows=texts)
def test_arrays_are_what_the_tokenizer_gives(tokenizers: dict[str, Tokenizer], name: str, rows: list[str]) -> None:
    encode = Encoder(tokenizers[name])
    for part in (rows, rows[::-1]):  # what is remembered from the first serves the second
        values, lengths = encode(pa.array(part, pa.string()))
        found = [row.tolist() for row in np.split(values, np.cumsum(lengths)[:-1])] if part else []
        assert found == tokenizers[name].encode(part)


@pytest.fixture
def source(tmp_path: Path) -> Any:
    path = tmp_path / "a.txt"
    rows = [*TEXTS[:30], "", "  ", "unheard of", *TEXTS[30:60]]
    path.write_text("".join(row + "\n" for row in rows), "utf-8")
    return open_source(SourceConfig(path=str(path), format="text"), {"text": str}, "train")


def listed(ids: Any) -> list[list[int]]:
    return [ids[row].tolist() for row in range(len(ids))]


def test_a_column_is_tokenised_once_and_mapped(
    source: Any, cache: Path, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizers["bpe-words-plain"]
    expected = tokenizer.encode(source.dataset["text"][:])
    monkeypatch.setattr(token_cache, "_ROWS", 7)
    first = encode_column(source.dataset, "text", tokenizer)
    assert listed(first) == expected
    assert first.lengths.tolist() == [len(row) for row in expected]
    assert first.digest() == Ragged.from_lists(expected).digest()
    monkeypatch.setattr(token_cache, "_encoded", None)  # from here on nothing is tokenised
    again = encode_column(source.dataset, "text", tokenizer)
    assert listed(again) == expected
    monkeypatch.setattr(Ragged, "_chunks", property(), raising=False)  # known without a look at the ids
    assert again.digest() == first.digest()
    assert again.count(tokenizer.unk_id) == sum(row.count(1) for row in expected)


def test_two_columns_through_one_tokenizer_are_two_entries_of_the_cache(
    tmp_path: Path, cache: Path, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tsv").write_text("left\tright\n" + "".join(f"{text}\tx {text}\n" for text in TEXTS[:9]), "utf-8")
    config = SourceConfig(path=str(tmp_path / "a.tsv"))
    pairs = open_source(config, {"left": str, "right": str}, "train").dataset
    turned = open_source(config.model_copy(update={"columns": {"left": "right", "right": "left"}}),
                         {"left": str, "right": str}, "train").dataset  # fmt: skip
    tokenizer = tokenizers["bpe-words-plain"]
    for _ in range(2):  # made, and found again
        for data in (pairs, turned):
            for column in ("left", "right"):
                assert listed(encode_column(data, column, tokenizer)) == tokenizer.encode(data[column][:])
        assert pairs["left"][:] == turned["right"][:] != pairs["right"][:]
        monkeypatch.setattr(token_cache, "_encoded", None)  # the second time nothing is tokenised


def test_the_key_is_the_data_the_tokenizer_and_the_code(
    source: Any, cache: Path, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> int:
        return len(list(cache.glob("ids-*.json")))

    for number, name in enumerate(("word-words-plain", "word-words-plain", "char", "start")):
        ids = encode_column(source.dataset, "text", tokenizers[name])
        assert listed(ids) == tokenizers[name].encode(source.dataset["text"][:])
        assert files() == max(1, number)
    encode_column(source.dataset.select(range(5)), "text", tokenizers["char"])
    monkeypatch.setattr(token_cache, "ENCODING_VERSION", -1)
    encode_column(source.dataset, "text", tokenizers["char"])
    assert files() == 5
    monkeypatch.setattr(token_cache, "version", lambda name: "99")
    encode_column(source.dataset, "text", tokenizers["char"])
    assert files() == 6


def test_the_versions_of_foreign_code_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"tokenizers": "1", "torchtext": "2", "sacremoses": "3"}

    def version(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(token_cache, "version", version)
    config = TextConfig(tokenizer="torchtext:moses")
    before, plain = token_cache.code_versions(config), token_cache.code_versions(TextConfig())
    there["sacremoses"] = "4"
    assert token_cache.code_versions(config) != before
    assert token_cache.code_versions(TextConfig()) == plain == [__version__, "1"]


def test_what_killed_processes_left_goes_after_a_day(
    source: Any, cache: Path, tokenizers: dict[str, Tokenizer]
) -> None:
    for name in ("writing.old", "writing.new", ".ids-1.json.9.tmp", "notes.tmp"):
        (cache / name).touch()
        if name != "writing.new":
            os.utime(cache / name, (0, 0))
    encode_column(source.dataset, "text", tokenizers["char"])
    left = {path.name for path in cache.iterdir()}
    assert {"writing.new", "notes.tmp"} <= left
    assert not {"writing.old", ".ids-1.json.9.tmp"} & left


def test_a_shuffled_data_set_keeps_its_order(source: Any, tokenizers: dict[str, Tokenizer]) -> None:
    shuffled = source.dataset.select([5, 3, 31, 0])
    ids = encode_column(shuffled, "text", tokenizers["word-words-plain"])
    assert listed(ids) == tokenizers["word-words-plain"].encode(shuffled["text"][:])


@pytest.mark.parametrize("damage", ["short", "notes", "gone"])
def test_damaged_ids_are_made_anew(source: Any, cache: Path, tokenizers: dict[str, Tokenizer], damage: str) -> None:
    expected = listed(encode_column(source.dataset, "text", tokenizers["char"]))
    (notes,) = cache.glob("ids-*.json")
    ids = notes.with_suffix("")
    if damage == "short":
        ids.write_bytes(ids.read_bytes()[:-4])
    elif damage == "notes":
        notes.write_text("{")
    else:
        ids.unlink()
    assert listed(encode_column(source.dataset, "text", tokenizers["char"])) == expected


def test_without_a_cache_the_ids_are_in_memory(
    source: Any, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(token_cache, "cache_folder", lambda: Path("/dev/null/none"))
    ids = encode_column(source.dataset, "text", tokenizers["char"])
    assert listed(ids) == tokenizers["char"].encode(source.dataset["text"][:])
    assert "tokenised in memory" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(
    source: Any, cache: Path, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(cache.iterdir())

    def fdopen(handle: int, *_: object, **__: object) -> Any:
        os.close(handle)
        return Path("/dev/full").open("wb")

    monkeypatch.setattr("seqkit.data.cache.os.fdopen", fdopen)
    with pytest.raises(UserError, match=r"text of .*: cannot be cached in .*\(the disk is full\); set HF_DATASETS_"):
        encode_column(source.dataset, "text", tokenizers["char"])
    assert set(cache.iterdir()) == before


def test_what_is_remembered_is_bounded(tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "_REMEMBERED", 2000)
    tokenizer = tokenizers["bpe-spaces-plain"]
    encode = Encoder(tokenizer)
    for start in range(0, 400, 10):
        part = [f"word{number} the ox" for number in range(start, start + 10)]
        values, lengths = encode(pa.array(part))
        assert np.split(values.tolist(), np.cumsum(lengths)[:-1])[0].tolist() == tokenizer.encode(part)[0]
        assert encode._stretches._characters <= 2000 + 12 * (token_cache._OVERHEAD + 8)
        assert len(encode._stretches._numbers) < 40


def test_long_texts_are_tokenised_in_small_parts(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join("the ox " * (20 if number % 5 else 900) + "\n" for number in range(40)))
    source = open_source(SourceConfig(path=str(path), format="text"), {"text": str}, "train")
    monkeypatch.setattr(token_cache, "_BYTES", 1000)
    arrays = list(column_arrays(source.dataset, "text"))
    assert sum(map(len, arrays)) == 40
    assert len(arrays) > 20
    cut = []
    plain = token_cache._Stretches.__call__
    monkeypatch.setattr(
        token_cache._Stretches, "__call__", lambda self, texts: (cut.append(len(texts)), plain(self, texts))[1]
    )
    tokenizer = tokenizers["word-words-plain"]
    assert listed(encode_column(source.dataset, "text", tokenizer)) == tokenizer.encode(source.dataset["text"][:])
    assert 0 < len(cut) < len(arrays)  # the longest go to the library whole


def test_a_tokenizer_is_trained_once(source: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = column_texts([(source, "text")])
    first = train_tokenizer(texts, TextConfig(tokenizer="bpe", vocab_size=90))
    assert first.fingerprint == Tokenizer.train(source.dataset["text"][:], first.config).fingerprint
    train = Tokenizer.train
    trained = []
    monkeypatch.setattr(Tokenizer, "train", lambda texts, config: (trained.append(1), train(texts, config))[1])
    assert train_tokenizer(texts, first.config).fingerprint == first.fingerprint
    assert not trained
    (path,) = cache.glob("tokenizer-*.json")
    path.write_text(path.read_text()[:-9])
    assert train_tokenizer(texts, first.config).fingerprint == first.fingerprint
    train_tokenizer(texts, TextConfig(tokenizer="bpe", vocab_size=91))
    assert len(trained) == 2
    words = cache / "stop.txt"
    words.write_text("ox\n")
    for word in ("ox", "the"):
        words.write_text(word + "\n")
        assert word not in train_tokenizer(texts, TextConfig(stop_words=str(words))).vocabulary


@settings(max_examples=60, deadline=None)
@given(rows=texts, config=st.sampled_from([config for config in TOKENIZERS.values() if config.tokenizer == "word"]))
@pytest.mark.parametrize("limits", [{}, {"vocab_size": 9}, {"min_frequency": 2}])
def test_words_are_counted_as_the_library_counts(rows: list[str], config: TextConfig, limits: dict[str, int]) -> None:
    config = config.model_copy(update=limits)
    texts = [*rows, "the ox <unk> <unk> isn't", "ox the <unk>"]
    parts = [pa.array(part, pa.string()) for part in (texts[:2], texts[2:])]
    counts = tokenizer_cache._counts(tokenizer_cache.Texts(lambda: iter(parts), ""))
    assert counts is not None
    assert Tokenizer.train_counted(counts, config).vocabulary == Tokenizer.train(texts, config).vocabulary


def test_a_vocabulary_too_large_to_count_is_left_to_the_library(
    source: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_cache, "_STRETCHES", 3)
    texts = column_texts([(source, "text")])
    assert tokenizer_cache._counts(texts) is None
    found = train_tokenizer(texts, TextConfig())
    assert found.fingerprint == Tokenizer.train(source.dataset["text"][:], found.config).fingerprint
