"""Sections that several tasks share, and the parts of a model that are built from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from pydantic import Field, model_validator

from seqkit.config import Section, UserError, from_signature
from seqkit.models import Embedding, Encoder
from seqkit.nn import Recurrent, resolve_cell
from seqkit.text import TextConfig, Tokenizer, load_vectors, vector_words

# Arguments that the program supplies: the file may not set them.
_SUPPLIED = ("input_size", "batch_first", "device", "dtype", "cell")


class _EncoderBase(Section):
    """Base of every encoder section: checked by building the module without memory."""

    cell: str = "lstm"
    """A cell of seqkit.nn (lstm, gru, rnn, ...) or `mypackage.module:MyCell`."""

    @model_validator(mode="after")
    def _buildable(self) -> _EncoderBase:
        make_recurrent(self, 1, device="meta")  # however large, no memory
        return self


class _EmbeddingBase(Section):
    vectors: str | None = None
    """Pretrained vectors to start from: a GloVe, word2vec or fastText text file, plain or gzip."""

    vectors_norm: float | None = Field(default=None, gt=0)
    """Scale each vector to this length; torch's own start, N(0, 1), has a length of about the root of `size`."""
    vectors_vocabulary: bool = False
    """Give the words of the vectors' file that the training text lacks an entry too, so that dev, test and later
    texts find them."""

    @model_validator(mode="after")
    def _buildable(self) -> _EmbeddingBase:
        for name in ("vectors_norm", "vectors_vocabulary"):
            if getattr(self, name) and self.vectors is None:
                raise ValueError(f"{name} needs vectors")
        # Not on the meta device: there torch's normal_ imports its compiler, which takes seconds.
        with torch.random.fork_rng(devices=[]):
            Embedding(4, **_arguments(self))
        return self


EmbeddingConfig = from_signature(
    "EmbeddingConfig", Embedding, skip=("num_embeddings", "padding_idx", "unk_idx"), base=_EmbeddingBase
)


def encoder_config(tree: Mapping[str, Any], *path: str) -> type[Section]:
    """The schema of an encoder section: the arguments of `Recurrent` and those of the cell that the section names.

    Args:
        tree: the configuration before validation.
        path: keys that lead to the section in it.

    Raises:
        UserError: there is no such cell.
    """
    node: Any = tree
    for key in path:
        node = node.get(key, {}) if isinstance(node, Mapping) else {}
    cell = node.get("cell", "lstm") if isinstance(node, Mapping) else "lstm"
    try:
        kind = resolve_cell(cell)
    except (ValueError, TypeError) as error:
        raise UserError(f"{'.'.join(path)}.cell: {error}") from None
    return from_signature(f"{kind.__name__}EncoderConfig", Recurrent, kind, skip=_SUPPLIED, base=_EncoderBase)


def make_recurrent(config: Section, input_size: int, **place: Any) -> Recurrent:
    """The recurrent module that an encoder section describes."""
    return Recurrent(input_size=input_size, batch_first=True, **config.model_dump(), **place)


def _arguments(config: Any) -> dict[str, Any]:
    """The constructor's arguments in an embedding section."""
    return {name: value for name, value in config.model_dump().items() if not name.startswith("vectors")}


def make_tokenizer(text: TextConfig, embedding: Any, texts: Iterable[str]) -> Tokenizer:
    """A tokenizer trained on the texts, and on the words of the vectors' file where the embedding section says so."""
    if embedding.vectors_vocabulary:
        # As often as min_frequency asks, so that each gets its entry.
        words = (word for word in vector_words(embedding.vectors) for _ in range(text.min_frequency))
        texts = chain(texts, words)
    return Tokenizer.train(texts, text)


def make_encoder(embedding: Any, encoder: Section, tokenizer: Tokenizer, *, load: bool) -> tuple[Encoder, list[str]]:
    """Embedding and recurrent module for a vocabulary.

    Args:
        embedding: an `EmbeddingConfig`.
        encoder: a section of `encoder_config`'s schema.
        tokenizer: gives the vocabulary.
        load: read the pretrained vectors (not needed where weights are loaded anyway).

    Returns:
        the encoder, and lines that report the coverage of the vectors.

    Raises:
        UserError: the vectors' file is bad or of another width than `size`.
    """
    arguments, lines, matrix = _arguments(embedding), [], None
    if embedding.vectors and load:
        vectors = load_vectors(
            embedding.vectors, tokenizer.vocabulary, size=embedding.size, norm=embedding.vectors_norm
        )
        matrix = vectors.matrix
        lines.append(
            f"vectors: {vectors.found} of {len(tokenizer)} words found in {embedding.vectors} ({vectors.coverage:.1%})"
        )
    table = Embedding(len(tokenizer), padding_idx=tokenizer.pad_id, unk_idx=tokenizer.unk_id, **arguments)
    if matrix is not None:
        with torch.no_grad():
            table.table.weight.copy_(matrix)
    return Encoder(table, make_recurrent(encoder, table.size)), lines
