"""Building vocabularies: one function a kind of tokenizer, all deterministic."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, trainers

from seqkit.errors import UserError
from seqkit.text import pipeline
from seqkit.text.config import TextConfig
from seqkit.text.foreign import splitter
from seqkit.text.marks import MARK, is_marked, spaced

_SUBWORD_VOCAB_SIZE = 8000
_STRETCHES = 500_000  # counted before they are split into words; about 60 MB
_SPECIAL = list(pipeline.SPECIAL_TOKENS)


def train(texts: Iterable[str], config: TextConfig, *, whole: bool = False) -> Backend:
    """Return a complete `tokenizers.Tokenizer` for the texts; see `Tokenizer.train`.

    Raises:
        ValueError: `whole` with a tokenizer that is not of words.
        UserError: no token in the texts, or a `vocab_size` that does not hold their characters.
    """
    build = {"word": _word, "char": _char, "bpe": _bpe, "unigram": _unigram}[config.kind]
    if whole:
        if config.kind != "word":
            raise ValueError(f"whole: the {config.tokenizer} tokenizer has no words")
        if config.marked:
            raise UserError(
                "words that are given one by one have no text around them; leave it out", key="text.mark_joined"
            )
        build = _whole
    elif config.marked:
        build = _marked
    elif config.is_foreign:
        split = splitter(config.tokenizer)
        texts, build = chain.from_iterable(map(split, texts)), _whole
    return _complete(build(texts, config), config)


def train_counted(counts: Mapping[str, int], config: TextConfig) -> Backend:
    """Return the word tokenizer that `train` makes, from how often each stretch between two spaces occurs in the
    texts."""
    words: Counter[str] = Counter()
    _count(counts, pipeline.normalizer(config), pipeline.splitter(config), words)
    return _complete(_chosen(words, config), config)


def _count(counts: Mapping[str, int], normalizer: Any, split: Any, words: Counter[str]) -> None:
    """Add to `words` the words of stretches of text, each as often as its stretch occurs."""
    for stretch, count in counts.items():
        normal = stretch if normalizer is None else normalizer.normalize_str(stretch)
        for word, _ in split.pre_tokenize_str(normal):
            words[word] += count


def _chosen(words: Counter[str], config: TextConfig) -> Any:
    """Return the model of the words that are frequent enough.

    A marked word that is not among them counts as the mark and the word without it, which it will be.
    """
    # Where only white space separates, and no word of the texts stood close to another, there is nothing to mark.
    alone = config.marked and (config.settled().split != "spaces" or any(map(is_marked, words)))
    limit = None if config.vocab_size is None else max(0, config.vocab_size - len(_SPECIAL) - alone)
    apart = 0
    while True:
        # As the library's trainer has it: the special tokens count, even where a text holds them as words.
        frequent = [word for word, count in words.items() if count >= config.min_frequency]
        kept = sorted(frequent, key=_by_count(words))[:limit]
        left = {word for word in words if config.marked and is_marked(word)}.difference(kept)
        if not left:
            break
        for word in sorted(left):
            apart += words[word]
            words[word.removeprefix(MARK)] += words.pop(word)
    if alone:  # whatever text comes, the mark is never an unknown word
        words[MARK] = apart
        kept = sorted([*kept, MARK], key=_by_count(words))
    vocabulary = _numbered([word for word in kept if word not in _SPECIAL])
    return models.WordLevel(vocab=vocabulary, unk_token=pipeline.UNK)


def _by_count(counts: Mapping[str, int]) -> Callable[[str], tuple[int, str]]:
    return lambda word: (-counts[word], word)


def _complete(model: Any, config: TextConfig) -> Backend:
    backend = assemble(model, config)
    if not {*backend.get_vocab()} - {*_SPECIAL, *([MARK] if config.marked else [])}:
        raise UserError(
            f"no token to train the {config.tokenizer} tokenizer on; "
            "the training texts are empty, or min_frequency, vocab_size or stop_words leave nothing",
            key="text",
        )
    return backend


def assemble(model: Any, config: TextConfig) -> Backend:
    """Return the whole tokenizer around a model: how texts are normalised and split before it, and tokens joined
    after."""
    kept = [token for token in Backend(model).get_vocab() if token.startswith(MARK)] if config.marked else None
    backend = _raw(model, config, pipeline.splitter(config, kept))
    decoder = pipeline.decoder(config)
    if decoder is not None:
        backend.decoder = decoder
    return backend


def _raw(model: Any, config: TextConfig, splitter: Any) -> Backend:
    """Return the model behind its normaliser and a splitter, or None."""
    backend = Backend(model)
    normalizer = pipeline.normalizer(config)
    if normalizer is not None:
        backend.normalizer = normalizer
    if splitter is not None:
        backend.pre_tokenizer = splitter
    return backend


def _fit(texts: Iterable[str], backend: Backend, trainer: Any) -> dict[str, Any]:
    """Train, and return the model's part of the library's JSON."""
    failures: list[BaseException] = []

    def watched() -> Iterator[str]:
        try:
            yield from texts
        except BaseException as error:
            failures.append(error)
            raise

    try:
        backend.train_from_iterator(watched(), trainer)
    except BaseException as error:
        if failures:
            raise failures[0] from None  # the library wraps what the texts' own iterator raised
        # A panic of the Rust side arrives as a BaseException of a private class.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error)
        if "not large enough" in reason:
            reason = "vocab_size is smaller than the number of different characters in the texts"
        raise UserError(f"the tokenizer cannot be trained: {reason}", key="text") from error
    model: dict[str, Any] = json.loads(backend.to_str())["model"]
    return model


def _word(texts: Iterable[str], config: TextConfig) -> Any:
    return _words(texts, config, pipeline.splitter(config))


def _marked(texts: Iterable[str], config: TextConfig) -> Any:
    """Words that are marked: the library's trainer does not tell how often it saw each."""
    steps = pipeline.normalizer(config), pipeline.splitter(config)
    split = splitter(config.tokenizer) if config.is_foreign else None
    stretches: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for text in texts:
        stretches.update(str.split(text, " ") if split is None else spaced(split(text), text))
        if len(stretches) > _STRETCHES:
            _count(stretches, *steps, words)
            stretches.clear()
    _count(stretches, *steps, words)
    return _chosen(words, config)


def _whole(texts: Iterable[str], config: TextConfig) -> Any:
    return _words(texts, config, None)


def _words(texts: Iterable[str], config: TextConfig, splitter: Any) -> Any:
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.vocab_size or 2**31,
        min_frequency=config.min_frequency,
        special_tokens=_SPECIAL,
        show_progress=False,
    )
    model = _fit(texts, _raw(models.WordLevel(unk_token=pipeline.UNK), config, splitter), trainer)
    # A text may hold the word <unk>, which the library then counts a second time.
    words = [word for word in sorted(model["vocab"], key=model["vocab"].__getitem__) if word not in _SPECIAL]
    return models.WordLevel(vocab=_numbered(words), unk_token=pipeline.UNK)


def _char(texts: Iterable[str], config: TextConfig) -> Any:
    normalizer = pipeline.normalizer(config)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text if normalizer is None else normalizer.normalize_str(text))
    frequent = [character for character, count in counts.items() if count >= config.min_frequency]
    frequent.sort(key=_by_count(counts))
    limit = config.vocab_size - len(_SPECIAL) if config.vocab_size else None
    # Pieces without merges are characters; a model of words would hold one object a character of a 10 MB line.
    return models.BPE(vocab=_numbered(frequent[:limit]), merges=[], unk_token=pipeline.UNK)


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate([*_SPECIAL, *tokens])}


def _bpe(texts: Iterable[str], config: TextConfig) -> Any:
    size = config.vocab_size or _SUBWORD_VOCAB_SIZE
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=config.min_frequency,
        special_tokens=_SPECIAL,
        limit_alphabet=size - len(_SPECIAL),
        show_progress=False,
    )
    model = _fit(texts, _raw(models.BPE(unk_token=pipeline.UNK), config, pipeline.splitter(config)), trainer)
    # tokenizers < 0.20 writes a merge as one string.
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    return models.BPE(vocab=model["vocab"], merges=merges, unk_token=pipeline.UNK)


def _unigram(texts: Iterable[str], config: TextConfig) -> Any:
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size or _SUBWORD_VOCAB_SIZE,
        unk_token=pipeline.UNK,
        special_tokens=_SPECIAL,
        show_progress=False,
    )
    model = _fit(texts, _raw(models.Unigram(), config, pipeline.splitter(config)), trainer)
    vocabulary = _settled([(str(piece), float(score)) for piece, score in model["vocab"][len(_SPECIAL) :]])
    return models.Unigram(vocab=[*((token, 0.0) for token in _SPECIAL), *vocabulary], unk_id=1)


def _settled(vocabulary: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the same pieces with scores that do not depend on the order in which the library walked its hash maps.

    That order changes from run to run. It shows in the last digits of the log-probabilities, and in the rare
    characters that are added after training at the lowest score, each 0.0001 above the one before.
    """
    low = min((score for _, score in vocabulary), default=0.0)
    floor = low
    for score in sorted(score for piece, score in vocabulary if len(piece) == 1):
        if score - floor > 0.00011:
            break
        floor = score
    settled = [(piece, round(low if len(piece) == 1 and score <= floor else score, 4)) for piece, score in vocabulary]
    return sorted(settled, key=lambda item: (-item[1], item[0]))
