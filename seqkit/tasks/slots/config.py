"""The schema of a slot filling configuration, and the model that it describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, create_model, model_validator

from seqkit.config import OneOf, Section, arguments, from_signature
from seqkit.data.tagged import has_intents
from seqkit.models import CharacterEncoder, Embedding, Encoder, Tagger, WindowEncoder
from seqkit.nn import iob2_allowed
from seqkit.tasks.base import RunConfig
from seqkit.tasks.common import (
    EmbeddingConfig,
    LabelledData,
    Ways,
    Where,
    check_dev,
    encoder_config,
    fill_vectors,
    make_embedding,
    make_encoder,
    make_recurrent,
)
from seqkit.tasks.init_weights import check_new_words
from seqkit.tasks.slots.metrics import METRICS
from seqkit.text import TextConfig, Tokenizer
from seqkit.training import TrainingConfig


class SlotsData(LabelledData):
    """`data:` where the tagged sentences are, and how they are batched."""

    train: Where
    """A file with tokens and tags (JSON lines, CoNLL, ...), `builtin:travel`, or a mapping with a path and settings."""
    dev: Where | None = None
    """Chooses the best checkpoint; without it the last one is kept."""
    test: Where | None = None
    """Scored once, at the end."""
    intent: bool | None = None
    """Whether each sentence has an intent, which is learned, too. null: yes, unless the training file is CoNLL; for
    hub: and torchtext: data, if `columns` names it."""
    on_bad_tags: Literal["repair", "error"] = "error"
    """What to do with an I-x that follows neither B-x nor I-x: make it B-x and count it, or stop."""

    @property
    def has_intent(self) -> bool:
        """Return whether an intent is read.

        Raises:
            UserError: the name of the training file does not tell its format.
        """
        return has_intents(self.train) if self.intent is None else self.intent


class SlotsTraining(TrainingConfig):
    """`training:` with the losses of tags and intent."""

    metrics = METRICS
    metric: Annotated[str, OneOf("metric", METRICS, Callable, supplied=("outcome",))] = "span_f1"
    """The dev score that chooses the best checkpoint."""
    intent_weight: float = Field(default=0.1, ge=0)
    """Weight of the intent: the loss is the tags' loss per token plus this times the intent's loss per sentence."""


class _WindowBase(Section):
    """Base of the encoder section of a tagger without memory."""

    @model_validator(mode="after")
    def _buildable(self) -> _WindowBase:
        with torch.random.fork_rng(devices=[]):
            embedding = Embedding(4, 1)
        with torch.device("meta"):
            WindowEncoder(embedding, **self.model_dump())
        return self


_Window = from_signature("WindowEncoderConfig", WindowEncoder, skip=("embedding", "extra_size"), base=_WindowBase)


class CharactersConfig(Section):
    """`model.characters:` an embedding and a recurrent module over the characters of each word."""

    embedding: EmbeddingConfig = EmbeddingConfig()  # type: ignore[valid-type]
    encoder: Section
    """The arguments of `seqkit.nn.Recurrent` and of the cell."""


_Characters = from_signature("_Characters", CharacterEncoder, skip=("encoder",), base=CharactersConfig)


class SlotsModel(Section):
    """`model:` embedding (and characters) -> encoder -> tags, and pooling -> intent."""

    embedding: EmbeddingConfig = EmbeddingConfig()  # type: ignore[valid-type]
    characters: CharactersConfig | None = None
    encoder: Section
    """The arguments of `seqkit.nn.Recurrent` and of the cell; or `window`, and what else `WindowEncoder` takes."""

    @model_validator(mode="after")
    def _buildable(self) -> SlotsModel:
        with torch.random.fork_rng(devices=[]):
            embedding = Embedding(4, 1)
        with torch.device("meta"):
            _tagger(self, _encoder(self, embedding, 0), None, ["O"], 2)
        return self


_Tagger = from_signature(
    "_Tagger",
    Tagger,
    skip=("encoder", "num_tags", "num_intents", "characters", "allowed", "allowed_start"),
    base=SlotsModel,
    intent_pooling=Ways,
)


class SlotsConfig(RunConfig):
    """The whole file."""

    data: SlotsData
    text: TextConfig = TextConfig()
    """How tokens are looked up, and how a raw text is split into tokens; the tokens of the data stay as they are."""
    model: SlotsModel
    training: SlotsTraining = SlotsTraining()

    @model_validator(mode="after")
    def _sensible(self) -> SlotsConfig:
        check_dev(self.training, self.data.dev)
        check_text(self.text)
        check_new_words(self, "model.embedding", self.model.embedding)
        return self


def check_text(text: TextConfig) -> None:
    """Refuse settings after which tokens would not be the words that are tagged.

    Raises:
        ValueError: it names the first such setting.
    """
    for name in ("tokenizer", "stop_words", "max_length", "add_bos", "add_eos"):
        default = TextConfig.model_fields[name].default
        if getattr(text, name) != default:
            raise ValueError(f"text.{name}: every token has a tag, so leave it at its default ({default!r})")


def slots_schema(tree: Mapping[str, Any]) -> type[SlotsConfig]:
    """Return the schema for the cells that the configuration names."""
    model = tree.get("model")
    given = model.get("encoder") if isinstance(model, Mapping) else None
    windowed = isinstance(given, Mapping) and "window" in given
    encoder = _Window if windowed else encoder_config(tree, "model", "encoder")
    letters: Any = create_model(
        "CharactersConfig", __base__=_Characters, encoder=(encoder_config(tree, "model", "characters", "encoder"), ...)
    )
    made = create_model("ModelConfig", __base__=_Tagger, characters=(letters | None, None), encoder=(encoder, ...))
    return create_model("SlotsConfig", __base__=SlotsConfig, model=(made, ...))


def make_tagger(
    config: Any,
    tokenizer: Tokenizer,
    letters: Tokenizer | None,
    tags: Sequence[str],
    intents: Sequence[str],
    *,
    load: bool,
) -> tuple[Tagger, list[str]]:
    """Return the model that a `model:` section describes.

    Args:
        config: the section.
        tokenizer: gives the vocabulary.
        letters: gives the characters, where the section has some.
        tags: their names.
        intents: their names; empty: no output for them.
        load: read the pretrained vectors.

    Returns:
        the model, and lines that report the coverage of the vectors.

    Raises:
        UserError: see `fill_vectors`.
    """
    lines: list[str] = []
    characters = None
    if letters is not None:
        section = config.characters
        reader, found = make_encoder(section.embedding, section.encoder, letters, load=load)
        characters = CharacterEncoder(reader, **section.model_dump(exclude={"embedding", "encoder"}))
        lines += found
    table = make_embedding(config.embedding, tokenizer)
    if load:
        lines += fill_vectors(table, config.embedding, tokenizer)
    encoder = _encoder(config, table, characters.output_size if characters is not None else 0)
    return _tagger(config, encoder, characters, tags, len(intents)), lines


def _encoder(config: Any, embedding: Embedding, extra: int) -> Encoder | WindowEncoder:
    if isinstance(config.encoder, _WindowBase):
        return WindowEncoder(embedding, **config.encoder.model_dump(), extra_size=extra)
    return Encoder(embedding, make_recurrent(config.encoder, embedding.size + extra))


def _tagger(
    config: Any,
    encoder: Encoder | WindowEncoder,
    characters: CharacterEncoder | None,
    tags: Sequence[str],
    intents: int,
) -> Tagger:
    with torch.device("cpu"):
        allowed, start = iob2_allowed(tags)
    own = arguments(config, exclude={"embedding", "encoder", "characters"})
    return Tagger(encoder, len(tags), intents, characters=characters, allowed=allowed, allowed_start=start, **own)
