"""Scores of a language model."""

from __future__ import annotations

import math
from typing import NamedTuple

from seqkit.training.scores import loss, lower_is_better, perplexity


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

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a token."""
        return self.nats / self.tokens


@lower_is_better
def bits_per_character(outcome: Outcome) -> float:
    """Return the negative log-likelihood of a character, in bits."""
    return outcome.nats / math.log(2) / outcome.characters


METRICS = {"loss": loss, "perplexity": perplexity, "bits_per_character": bits_per_character}
