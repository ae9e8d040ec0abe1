"""torchtext's vocabularies as our tokenizers, and our tokenizers as torchtext's; see `seqkit.text.foreign`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import models

from seqkit.text import pipeline
from seqkit.text.config import TextConfig
from seqkit.text.foreign import load_torchtext
from seqkit.text.tokenizer import Tokenizer
from seqkit.text.train_tokenizer import assemble


def from_vocab(vocab: Any, config: TextConfig | None = None, special: Mapping[str, str] | None = None) -> Tokenizer:
    """Return our tokenizer with the words of a torchtext `Vocab`, in its order behind our four special tokens.

    A word's number differs from that in the vocab unless this begins with our special tokens, too. The rows of an
    embedding table that go with it are put in our order by `table[vocab.lookup_indices(tokenizer.vocabulary)]`, where
    the vocab has a default index or all of them.

    Args:
        vocab: a `torchtext.vocab.Vocab`, of words.
        config: how texts become words; the default fits no vocab of lower-cased words.
        special: names of special tokens in the vocab, where they are not ours, such as `{"<bos>": "<s>"}`.

    Raises:
        ValueError: the config's tokenizer is not of words; `special` names a token that the vocab lacks.
    """
    config = config or TextConfig()
    if config.kind != "word":
        raise ValueError(f"config: a torchtext Vocab holds words; the {config.tokenizer} tokenizer has none")
    names = {token: token for token in pipeline.SPECIAL_TOKENS} | dict(special or {})
    for ours, theirs in (special or {}).items():
        if ours not in pipeline.SPECIAL_TOKENS or theirs not in vocab:
            raise ValueError(f"special: {ours!r}: {theirs!r}: expected one of ours and a token of the vocab")
    words = [word for word in vocab.get_itos() if word not in names.values()]
    entries = {token: number for number, token in enumerate([*pipeline.SPECIAL_TOKENS, *words])}
    return Tokenizer(assemble(models.WordLevel(vocab=entries, unk_token=pipeline.UNK), config), config)


def to_vocab(tokenizer: Tokenizer) -> Any:
    """Return a torchtext `Vocab` with the same numbers, which takes an unknown token for <unk>.

    Raises:
        UserError: see `load_torchtext`.
    """
    tokens = OrderedDict((token, 1) for token in tokenizer.vocabulary)
    vocab = load_torchtext().vocab.vocab(tokens, min_freq=1)
    vocab.set_default_index(tokenizer.unk_id)
    return vocab


def to_function(tokenizer: Tokenizer) -> Callable[[str], list[str]]:
    """Return a function from a text to its tokens, as torchtext's pipelines take one; an unknown token is as it is
    written.

    `to_vocab(tokenizer)(to_function(tokenizer)(text))` equals `tokenizer.encode([text])[0]`.
    """

    def split(text: str) -> list[str]:
        tokens = tokenizer.tokens(text)
        if pipeline.UNK not in tokens:
            return tokens
        written = tokenizer.pieces(text)
        return [piece if token == pipeline.UNK else token for token, piece in zip(tokens, written, strict=True)]

    return split
