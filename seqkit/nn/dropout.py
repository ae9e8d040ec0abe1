"""Dropout for sequences: locked masks, whole word types, and unknown words. All draw from torch's global generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.nn.cell import drop_mask, dropped
from seqkit.nn.checks import check_flag, check_probability


def between_layers(
    x: Tensor, rate: float, locked_rate: float, sequences: int, spread: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply dropout to what enters a layer above the first, in training.

    Args:
        x: (..., F).
        rate: drawn for each element.
        locked_rate: drawn once per sequence and feature, the same at every step (Gal & Ghahramani 2016).
        sequences: B.
        spread: repeats a mask (B, F) over the steps of x.
    """
    if rate:
        x = dropped(x, rate)
    if locked_rate:
        x = x * spread(drop_mask(x, sequences, x.size(-1), locked_rate))
    return x


class LockedDropout(nn.Module):
    """Dropout with one mask per sequence, the same at every step (Gal & Ghahramani 2016; "variational").

    Args:
        p: probability with which a feature is zeroed; the rest is scaled by 1 / (1 - p).
        batch_first: input is (B, T, F), else (T, B, F).

    Raises:
        ValueError: p outside [0, 1].
    """

    def __init__(self, p: float, batch_first: bool = True) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        self.batch_first = check_flag("batch_first", batch_first)

    def forward(self, x: Tensor) -> Tensor:
        """Drop features: x (B, T, F) or (T, B, F) -> the same shape; in evaluation x itself.

        Raises:
            ValueError: x is not 3-D.
        """
        if x.dim() != 3:
            raise ValueError(f"LockedDropout: Expected input to be 3D, got {x.dim()}D instead")
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(torch.ones_like(x.select(1 if self.batch_first else 0, 0)), self.p).unsqueeze(
            1 if self.batch_first else 0
        )

    def extra_repr(self) -> str:
        return f"p={self.p}, batch_first={self.batch_first}"


def embedding_dropout(weight: Tensor, p: float, training: bool = True) -> Tensor:
    """Zero whole rows of an embedding matrix, so that a dropped word type is gone from the whole batch.

    Rows survive with probability 1 - p and are scaled by 1 / (1 - p) (Gal & Ghahramani 2016, section 4.2;
    Merity et al. 2017, section 4.3).

    Args:
        weight: (V, E).
        p: probability with which a row is zeroed.
        training: False: nothing is zeroed.

    Returns:
        (V, E).
    """
    if not training or p == 0:
        return weight
    return weight * F.dropout(weight.new_ones(weight.size(0), 1), p)


class EmbeddingDropout(nn.Module):
    """Look ids up in `embedding` after `embedding_dropout` on its matrix; the module itself is not registered here.

    Args:
        p: probability with which a word type is dropped.

    Forward: `(embedding, ids)` with ids of any shape (...) to (..., E).

    Raises:
        ValueError: p outside [0, 1].
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = check_probability("p", p)

    def forward(self, embedding: nn.Embedding, ids: Tensor) -> Tensor:
        """Look up: the module `embedding` with a matrix (V, E), ids (...) int64 -> (..., E)."""
        if not self.training or self.p == 0:
            return embedding(ids)  # type: ignore[no-any-return]
        weight = embedding_dropout(embedding.weight, self.p)
        return F.embedding(ids, weight, embedding.padding_idx)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class WordDropout(nn.Module):
    """Replace, in training, each token id by `unk_index` with probability p; padding is never replaced.

    Args:
        p: probability of replacement, independent for each token (Iyyer et al. 2015, who drop the token).
        unk_index: the id that stands for an unknown word.
        padding_index: the id that is never replaced; None: none.

    Raises:
        ValueError: p outside [0, 1].
    """

    def __init__(self, p: float, unk_index: int, padding_index: int | None = 0) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        self.unk_index = unk_index
        self.padding_index = padding_index

    def forward(self, ids: Tensor) -> Tensor:
        """Replace: ids (...) int64 -> ids of the same shape."""
        if not self.training or self.p == 0:
            return ids
        drop = torch.rand(ids.shape, device=ids.device) < self.p
        if self.padding_index is not None:
            drop &= ids != self.padding_index
        return ids.masked_fill(drop, self.unk_index)

    def extra_repr(self) -> str:
        return f"p={self.p}, unk_index={self.unk_index}, padding_index={self.padding_index}"
