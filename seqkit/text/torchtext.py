"""torchtext's tokenizers and vocabularies as ours, and ours as torchtext's.

torchtext ended with 0.18.0, whose compiled part loads with torch 2.3.x alone: everything here needs such an
environment, and everything else in seqkit does without.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import models

from seqkit.config import UserError, nearest
from seqkit.text import pipeline
from seqkit.text.config import FOREIGN, TextConfig

if TYPE_CHECKING:
    from seqkit.text.tokenizer import Tokenizer

NAMES = ("basic_english", "spacy", "moses", "toktok", "revtok", "subword")
"""Tokenizers that `torchtext.data.get_tokenizer` knows by name."""


def load_torchtext() -> Any:
    """The module torchtext.

    Raises:
        UserError: it is not installed, or does not load with this torch.
    """
    try:
        with quiet():
            import torchtext
            import torchtext.data
            import torchtext.vocab
    except (ImportError, OSError) as error:
        if torch.__version__.startswith("2.3."):
            raise UserError(f"this needs torchtext: pip install '.[torchtext]' ({error})") from None
        raise UserError(
            f"this needs torchtext, whose last version, 0.18.0, loads with torch 2.3.x only, and here is torch "
            f"{torch.__version__}; make an environment for it (python3.11 -m venv tt && tt/bin/pip install "
            "'.[torchtext]'), or read data with hub:NAME and split text with text.tokenizer: word"
        ) from None
    return torchtext


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torchtext's and torchdata's warnings that they have ended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*(Torchtext is deprecated|torchdata)")
        yield


@lru_cache(maxsize=8)
def splitter(tokenizer: str) -> Callable[[str], list[str]]:
    """A tokenizer of torchtext, a function from a text to its tokens.

    Args:
        tokenizer: `torchtext:NAME`, as in `text.tokenizer`.

    Raises:
        UserError: there is none of that name; see also `load_torchtext`; the library behind it is not installed.
    """
    name = tokenizer.removeprefix(FOREIGN)
    if name not in NAMES:
        raise UserError(f"text.tokenizer: torchtext has no {name!r} (it has: {', '.join(NAMES)}){nearest(name, NAMES)}")
    try:
        get_tokenizer = load_torchtext().data.get_tokenizer
    except UserError as error:
        raise error.at(f"text.tokenizer: {tokenizer}") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it then raises
            split = get_tokenizer(name)
    except (ImportError, OSError, AttributeError) as error:
        raise UserError(f"text.tokenizer: {tokenizer} cannot be made ({error})") from None

    def checked(text: str) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(f"expected str, got {type(text).__name__}")
        return list(split(text))

    return checked


def from_vocab(vocab: Any, config: TextConfig | None = None, special: Mapping[str, str] | None = None) -> Tokenizer:
    """Our tokenizer with the words of a torchtext `Vocab`, in its order behind our four special tokens.

    A word's number differs from that in the vocab unless this begins with our special tokens, too. The rows of an
    embedding table that go with it are put in our order by `table[vocab.lookup_indices(tokenizer.vocabulary)]`, where
    the vocab has a default index or all of them.

    Args:
        vocab: a `torchtext.vocab.Vocab`, of words.
        config: how texts become words; the default fits no vocab of lower-cased words.
        special: names of special tokens in the vocab, where they are not ours, such as `{"<bos>": "<s>"}`.

    Raises:
        ValueError: the config's tokenizer is not of words; `special` names a token that the vocab has not.
    """
    from seqkit.text.tokenizer import Tokenizer
    from seqkit.text.training import assemble

    config = config or TextConfig()
    if config.kind != "word":
        raise ValueError(f"config: a torchtext Vocab is of words; the {config.tokenizer} tokenizer has none")
    names = {token: token for token in pipeline.SPECIAL_TOKENS} | dict(special or {})
    for ours, theirs in (special or {}).items():
        if ours not in pipeline.SPECIAL_TOKENS or theirs not in vocab:
            raise ValueError(f"special: {ours!r}: {theirs!r}: expected one of ours and a token of the vocab")
    words = [word for word in vocab.get_itos() if word not in names.values()]
    entries = {token: number for number, token in enumerate([*pipeline.SPECIAL_TOKENS, *words])}
    return Tokenizer(assemble(models.WordLevel(vocab=entries, unk_token=pipeline.UNK), config), config)


def to_vocab(tokenizer: Tokenizer) -> Any:
    """A torchtext `Vocab` with the same numbers, which takes an unknown token for <unk>.

    Raises:
        UserError: see `load_torchtext`.
    """
    from collections import OrderedDict

    tokens = OrderedDict((token, 1) for token in tokenizer.vocabulary)
    vocab = load_torchtext().vocab.vocab(tokens, min_freq=1)
    vocab.set_default_index(tokenizer.unk_id)
    return vocab


def to_function(tokenizer: Tokenizer) -> Callable[[str], list[str]]:
    """A function from a text to its tokens, as torchtext's pipelines take one; an unknown token is as it is written.

    `to_vocab(tokenizer)(to_function(tokenizer)(text))` equals `tokenizer.encode([text])[0]`.
    """

    def split(text: str) -> list[str]:
        tokens = tokenizer.tokens(text)
        if pipeline.UNK not in tokens:
            return tokens
        written = tokenizer.pieces(text)
        return [piece if token == pipeline.UNK else token for token, piece in zip(tokens, written, strict=True)]

    return split
