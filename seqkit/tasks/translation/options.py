"""What `seqkit predict`, `translate` and `evaluate` take for a translation run beside keys of its configuration."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from seqkit.config import Section, with_defaults


class TranslationOptions(Section):
    """Options of prediction; those of the search are keys of the `decoding` section."""

    seed: int = Field(default=1, ge=0)
    """Seed of sampling; by default the run's own."""
    prefix: str = ""
    """What every translation begins with."""
    replace_unknown: bool = False
    """Copy the source word with the most attention for an unknown word."""
    attention: bool = False
    """Keep the attention weights of each translation."""
    batch_size: int = Field(default=64, ge=1)
    """Most sentences decoded together."""


class ScoreOptions(Section):
    """Options of scoring."""

    reference: str | None = None
    """A text file of references; the data are then a text file of sources."""
    ter: bool = False
    """Also compute TER, which is slow."""


def translation_options(config: Any) -> type[Section]:
    """Return the options of prediction, with the keys of a run's `decoding` section and its values as defaults.

    Args:
        config: the configuration of the run.
    """
    base = with_defaults(TranslationOptions, TranslationOptions, seed=config.seed)
    return with_defaults(type(config.decoding), base, **dict(config.decoding))
