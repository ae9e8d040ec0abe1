"""Several models that decode together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.decoding.step import Step, StepFunction, Tree


def ensemble(steps: Sequence[StepFunction]) -> StepFunction:
    """Make a step function that gives the mean of the models' probabilities.

    Its state and memory are lists of the models' own, in order; its logits are log-probabilities, the logarithm of the
    mean. Attention is the mean over the models that give some.

    Args:
        steps: one for each model, over the same vocabulary and sources of the same length.

    Returns:
        the step function.

    Raises:
        ValueError: there are none; or, at a step, vocabularies or sources differ in size.
    """
    if not steps:
        raise ValueError("steps: an ensemble needs at least one model")

    def step(tokens: Tensor, state: Tree, memory: Tree) -> Step:
        results = [one(tokens, own, kept) for one, own, kept in zip(steps, state, memory, strict=True)]
        sizes = [logits.size(2) for logits, _, _ in results]
        if len(set(sizes)) > 1:
            raise ValueError(f"steps: the models' vocabularies differ in size: {', '.join(map(str, sizes))}")
        total: Tensor | None = None
        for logits, _, _ in results:
            log_probs = logits.log_softmax(-1)
            total = log_probs if total is None else torch.logaddexp(total, log_probs)
        assert total is not None
        weights = [attention for _, _, attention in results if attention is not None]
        widths = sorted({attention.size(2) for attention in weights})
        if len(widths) > 1:
            raise ValueError(f"steps: the models' sources differ in length: {', '.join(map(str, widths))}")
        mean = torch.stack(weights).mean(0) if weights else None
        return Step(total - math.log(len(results)), [own for _, own, _ in results], mean)

    return step
