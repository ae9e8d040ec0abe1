"""The schema of a language model's configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator

from seqkit.config import OneOf, Section, from_signature
from seqkit.data.bptt import StreamConfig
from seqkit.errors import UserError, argument_of
from seqkit.models import Embedding, Encoder, LanguageModel
from seqkit.nn import Recurrent
from seqkit.tasks.base import RunConfig
from seqkit.tasks.common import (
    SUPPLIED,
    EmbeddingConfig,
    EncoderBase,
    Parts,
    Where,
    cell_section,
    check_dev,
    make_encoder,
    make_recurrent,
)
from seqkit.tasks.init_weights import check_new_words
from seqkit.tasks.language_model.metrics import METRICS
from seqkit.text import TextConfig, Tokenizer
from seqkit.training import TrainingConfig


class LanguageModelData(Parts, StreamConfig):
    """`data:` where the text is, one line a row in the column `text`, and how it is read."""

    train: Where
    """A file, `builtin:reviews`, or a mapping with a path and settings of its own."""
    extra: list[Where] = []
    """More files to learn from, read after `train`, each with settings of its own."""
    dev: Where | None = None
    """Chooses the best checkpoint; without it the last one is kept."""
    test: Where | None = None
    """Scored once, at the end."""


class LanguageModelTraining(TrainingConfig):
    """`training:` with the losses of a language model.

    AWD-LSTM's NT-ASGD (Merity et al. 2017, section 3) is not here: `ema` does as well and needs no trigger. Dev
    perplexity after 20 epochs of SGD (4,000 captions of Multi30k, 128 units, lr 10, clip_norm 0.25, one seed): 25.92 as
    it is, 25.31 averaged from the first worse epoch on (with the published patience of five evaluations the trigger
    never fired), 25.19 with `ema: 0.99`.
    """

    metrics = METRICS
    metric: Annotated[str, OneOf("metric", METRICS, Callable, supplied=("outcome",))] = "loss"
    """The dev score that chooses the best checkpoint; less is better in all that have a name."""
    ar: float = Field(default=0.0, ge=0)
    """Activation regularisation, alpha (Merity et al. 2017, section 4.6): this much of the mean square of the top
    layer's outputs, after dropout, is added to the loss. The paper has 2."""
    tar: float = Field(default=0.0, ge=0)
    """Temporal activation regularisation, beta: this much of the mean square of the difference between the outputs of
    one step and the next. The paper has 1."""

    @field_validator("metric_mode")
    @classmethod
    def _less_is_better(cls, value: str, info: ValidationInfo) -> str:
        if value == "max" and info.data.get("metric") in METRICS:
            raise ValueError(f"less is better in {info.data['metric']}; max is for a metric of your own")
        return value


class LanguageModelModel(Section):
    """`model:` embedding -> encoder -> softmax over the vocabulary."""

    embedding: EmbeddingConfig = EmbeddingConfig()  # type: ignore[valid-type]
    encoder: Section
    """The arguments of `seqkit.nn.Recurrent` and of the cell."""

    @model_validator(mode="after")
    def _buildable(self) -> LanguageModelModel:
        cutoffs = self.adaptive_cutoffs  # type: ignore[attr-defined]
        with torch.random.fork_rng(devices=[]):
            embedding = Embedding(max([4, *cutoffs]) + 1, 1)
        with torch.device("meta"):
            make_language_model(self, Encoder(embedding, make_recurrent(self.encoder, 1)))
        return self


_Model = from_signature(
    "_Model",
    LanguageModel,
    skip=("encoder", "adaptive_cutoffs"),
    base=LanguageModelModel,
    adaptive_cutoffs=(list[int], Field(default=[])),
)


class LanguageModelConfig(RunConfig):
    """The whole file."""

    data: LanguageModelData
    text: TextConfig = TextConfig()
    model: LanguageModelModel
    training: LanguageModelTraining = LanguageModelTraining()

    @model_validator(mode="after")
    def _sensible(self) -> LanguageModelConfig:
        check_dev(self.training, self.data.dev)
        check_text(self.text)
        if self.model.adaptive_cutoffs and self.text.kind not in ("word", "char"):  # type: ignore[attr-defined]
            raise ValueError(
                f"model.adaptive_cutoffs: needs a vocabulary in order of frequency, which {self.text.tokenizer} lacks"
            )
        check_new_words(self, "model.embedding", self.model.embedding)
        return self


def check_text(text: TextConfig) -> None:
    """Refuse what would change the text that is modelled.

    Raises:
        ValueError: it names the first such setting.
    """
    for name in ("max_length", "add_bos", "add_eos"):
        if getattr(text, name) != TextConfig.model_fields[name].default:
            raise ValueError(f"text.{name}: a language model reads whole lines, each followed by <eos>; leave it out")


def language_model_schema(tree: Mapping[str, Any]) -> type[LanguageModelConfig]:
    """Return the schema for the cell that the configuration names."""
    skip = (*SUPPLIED, "bidirectional")  # the future is what is asked for
    encoder = cell_section("Encoder", (Recurrent,), skip, EncoderBase, tree, "model", "encoder")
    model = create_model("ModelConfig", __base__=_Model, encoder=(encoder, ...))
    return create_model("LanguageModelConfig", __base__=LanguageModelConfig, model=(model, ...))


def make_language_model(config: Any, encoder: Encoder) -> LanguageModel:
    """Return the model that a `model:` section describes, around an encoder."""
    own = config.model_dump(exclude={"embedding", "encoder"})
    return LanguageModel(encoder, **own)


def build(config: Any, tokenizer: Tokenizer, *, load: bool) -> tuple[LanguageModel, list[str]]:
    """Return the model that a `model:` section describes, for a vocabulary.

    Args:
        config: the section.
        tokenizer: gives the vocabulary.
        load: read the pretrained vectors.

    Returns:
        the model, and lines that report the coverage of the vectors.

    Raises:
        UserError: the vocabulary is too small for the cutoffs; see also `make_encoder`.
    """
    encoder, lines = make_encoder(config.embedding, config.encoder, tokenizer, load=load)
    try:
        return make_language_model(config, encoder), lines
    except ValueError as error:
        name, message = argument_of(error)
        raise UserError(message, key=f"model.{name}") from None
