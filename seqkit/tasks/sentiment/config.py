"""The schema of a sentiment configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, create_model, model_validator

from seqkit.config import OneOf, Section, arguments, from_signature
from seqkit.models import Embedding, Encoder, SequenceClassifier
from seqkit.tasks.base import RunConfig
from seqkit.tasks.common import EmbeddingConfig, LabelledData, Ways, Where, check_dev, encoder_config, make_recurrent
from seqkit.tasks.init_weights import check_new_words
from seqkit.tasks.sentiment.metrics import METRICS
from seqkit.text import TextConfig
from seqkit.training import TrainingConfig


class SentimentData(LabelledData):
    """`data:` where the examples are, and how they are batched."""

    train: Where
    """A file, `builtin:reviews`, or a mapping with a path and settings of its own."""
    dev: Where | None = None
    """Chooses the best checkpoint; without it the last one is kept."""
    test: Where | None = None
    """Scored once, at the end."""


class SentimentTraining(TrainingConfig):
    """`training:` with the loss of a classifier."""

    metrics = METRICS
    metric: Annotated[str, OneOf("metric", METRICS, Callable, supplied=("outcome",))] = "accuracy"
    """The dev score that chooses the best checkpoint."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability that is spread over all classes (Szegedy et al. 2016)."""
    adversarial: float = Field(default=0.0, ge=0)
    """Learn each batch a second time, its embedded texts moved against the model by this share of their length
    (Miyato et al. 2017); the two losses count half each. Try 0.05; a step takes about 2.5 times as long."""
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]] = "none"
    """Weight of each class in the loss: none, balanced (each class counts alike, whatever its size), or a weight for
    each class by name."""


class SentimentModel(Section):
    """`model:` embedding -> encoder -> pooling -> classifier."""

    embedding: EmbeddingConfig = EmbeddingConfig()  # type: ignore[valid-type]
    encoder: Section
    """The arguments of `seqkit.nn.Recurrent` and of the cell."""

    @model_validator(mode="after")
    def _buildable(self) -> SentimentModel:
        with torch.random.fork_rng(devices=[]):
            embedding = Embedding(4, 1)
        with torch.device("meta"):
            make_classifier(self, Encoder(embedding, make_recurrent(self.encoder, 1)), 2)
        return self


_Classifier = from_signature(
    "_Classifier", SequenceClassifier, skip=("encoder", "num_classes"), base=SentimentModel, pooling=Ways
)


class SentimentConfig(RunConfig):
    """The whole file."""

    data: SentimentData
    text: TextConfig = TextConfig()
    model: SentimentModel
    training: SentimentTraining = SentimentTraining()

    @model_validator(mode="after")
    def _sensible(self) -> SentimentConfig:
        check_dev(self.training, self.data.dev)
        check_new_words(self, "model.embedding", self.model.embedding)
        return self


def sentiment_schema(tree: Mapping[str, Any]) -> type[SentimentConfig]:
    """Return the schema for the cell that the configuration names."""
    encoder = encoder_config(tree, "model", "encoder")
    model = create_model("ModelConfig", __base__=_Classifier, encoder=(encoder, ...))
    return create_model("SentimentConfig", __base__=SentimentConfig, model=(model, ...))


def make_classifier(config: Any, encoder: Encoder, num_classes: int) -> SequenceClassifier:
    """Return the model that a `model:` section describes, around an encoder."""
    own = arguments(config, exclude={"embedding", "encoder"})
    return SequenceClassifier(encoder, num_classes, **own)
