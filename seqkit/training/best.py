"""Which weights are the best: the order of evaluations, and the weights that are handed out at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqkit.console import say
from seqkit.distributed import on_first
from seqkit.training.averaging import average_weights
from seqkit.training.checkpoint import load_finite
from seqkit.training.config import TrainingConfig
from seqkit.training.task import Task

TIES = "loss, later"
"""Of equal scores the one with the lower dev loss is the better one, then the later one."""
OLD_TIES = "earlier"
"""The earlier one: so go on the runs that were begun before their checkpoints kept dev losses."""


def rank(scores: Mapping[str, float], config: TrainingConfig, ties: str = TIES) -> tuple[float, float]:
    """Return what evaluations are ordered by, more being better: the metric, and of equal ones the dev loss, where
    there is one that is finite, and it counts."""
    score, loss = scores[config.metric], scores.get("loss", math.inf)
    value = score if config.more_is_better else -score
    counts = ties == TIES and math.isfinite(loss)
    return value if math.isfinite(score) else -math.inf, -loss if counts else -math.inf


@dataclass(frozen=True)
class Chosen:
    """The weights for use, their dev scores and outputs, and whether they are the mean of the best."""

    weights: dict[str, Tensor]
    scores: dict[str, float]
    outputs: list[dict[str, Any]]
    averaged: bool


def choose(
    task: Task,
    files: Sequence[Path],
    score: Callable[[], tuple[dict[str, float], list[dict[str, Any]]]],
    config: TrainingConfig,
    ties: str = TIES,
) -> Chosen:
    """Give the model the best weights, or their mean where that is asked for and dev says that it is no worse.

    Args:
        task: has learned, and is settled.
        files: weights of the checkpoints to choose from, the best first.
        score: returns the scores and the dev outputs of the model as it is.
        config: says whether a mean is wanted.
        ties: how equal scores are ordered.

    Raises:
        UserError: a file is damaged, or a weight is not finite.
    """
    model = task.model
    own = dict(model.named_buffers())  # in which infinity may be meant
    weights = on_first(lambda: load_finite(files[0], own))
    model.load_state_dict(weights)
    best = Chosen(weights, *score(), False)
    if not config.average_best or len(files) < 2:
        return best
    weights = on_first(lambda: average_weights(files, own))
    model.load_state_dict(weights)
    mean = Chosen(weights, *score(), True)
    kept = rank(mean.scores, config, ties) >= rank(best.scores, config, ties)
    values = f"{mean.scores[config.metric]:.4f} against {best.scores[config.metric]:.4f}"
    say(f"average of the best {len(files)}: {config.metric} {values}: {'kept' if kept else 'not kept'}")
    if not kept:
        model.load_state_dict(best.weights)
    return mean if kept else best
