"""Scores of a language model."""

from __future__ import annotations

import math
from typing import NamedTuple

from seqkit.training.scores import lower_is_better


class Outcome(NamedTuple):
    """What a language model made of a text.

    Attributes:
        nats: negative log-likelihood of all of it.
        tokens: those predicted, each line's <eos> counted.
        characters: those of the lines, each line's end counted.
    """

    nats: float
    tokens: int
    characters: int


@lower_is_better
def loss(outcome: Outcome) -> float:
    """Mean negative log-likelihood of a token, in nats."""
    return outcome.nats / outcome.tokens


@lower_is_better
def perplexity(outcome: Outcome) -> float:
    """The exponential of the loss."""
    return math.exp(min(loss(outcome), 700.0))


@lower_is_better
def bits_per_character(outcome: Outcome) -> float:
    """Negative log-likelihood of a character, in bits."""
    return outcome.nats / math.log(2) / outcome.characters


METRICS = {"loss": loss, "perplexity": perplexity, "bits_per_character": bits_per_character}
