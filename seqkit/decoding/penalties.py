"""What a hypothesis is ranked by besides its probability: its length and what it covers of the source."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

LengthPenaltyKind = Literal["gnmt", "average"]
# A source position that was never looked at costs 23 beta and not infinity.
_LEAST_COVERAGE = 1e-10


def length_penalty(length: float, alpha: float, kind: LengthPenaltyKind) -> float:
    """Return what the log-probability of a hypothesis is divided by.

    `gnmt`: ((5 + n) / 6) ** alpha (Wu et al. 2016, eq. 14). `average`: n ** alpha, so that an alpha of 1 gives the mean
    over the tokens. Both grow with n, and are 1 for an alpha of 0.

    Args:
        length: n, the number of scored tokens, <eos> counted.
        alpha: the strength.
        kind: which of the two.
    """
    return math.pow({"gnmt": (5 + length) / 6, "average": max(length, 1)}[kind], alpha)


def coverage_penalty(coverage: Tensor, lengths: Tensor) -> Tensor:
    """Return the sum over source positions i of log(min(sum over steps of attention to i, 1)) (Wu et al. 2016, eq. 14).

    At most 0, and 0 where every word was looked at once or more.

    Args:
        coverage: (B, K, S) attention weights summed over the steps.
        lengths: (B,) int64 of the sources; positions beyond are passed over.

    Returns:
        (B, K), before the factor beta.
    """
    logs = coverage.clamp(_LEAST_COVERAGE, 1.0).log()
    padding = torch.arange(coverage.size(2), device=coverage.device) >= lengths.view(-1, 1, 1)
    return logs.masked_fill(padding, 0.0).sum(2)
