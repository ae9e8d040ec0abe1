"""Adversarial training on embedded input (Miyato, Dai & Goodfellow 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def worst_shift(loss: Tensor, shift: Tensor, embedded_norm: Tensor, size: float) -> Tensor:
    """Find the small change of each text that raises its loss most, to first order (Miyato et al. 2017, eq. 5 and 6).

    Args:
        loss: scalar, computed with `shift` added to the embedded input; its graph is kept.
        shift: (B, T, E) zeros that want a gradient.
        embedded_norm: (B,) Euclidean length of each whole embedded text.
        size: length of the change, as a share of that.

    Returns:
        (B, T, E) without a graph: `size * embedded_norm * g / |g|` for the gradient g of each text.
    """
    (gradient,) = torch.autograd.grad(loss, shift, retain_graph=True)
    gradient = gradient.float()
    length = gradient.flatten(1).norm(dim=1).clamp(min=1e-20)
    scale = size * embedded_norm.float() / length
    moved: Tensor = (gradient * scale.view(-1, 1, 1)).to(shift.dtype)
    return moved
