"""A class for a whole sequence: encoder -> pooling -> classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seqkit.models.encoder import Encoder, last_output
from seqkit.models.pooling import Pooling, Poolings
from seqkit.nn import State


class SequenceClassifier(nn.Module):
    """Classify sequences: encoder, pooling, and a linear classifier with an optional hidden layer.

    Args:
        encoder: reads the tokens.
        num_classes: number of classes, C.
        pooling: ways to pool the outputs over time, concatenated: "last" (the final output of each direction), "mean",
            "max", "attention" (Yang et al. 2016), or `Pooling` classes.
        dropout: rate of the dropout on the pooled vector and on the hidden layer.
        hidden_size: features of a tanh layer before the classifier; 0: none.

    Raises:
        ValueError: an argument outside its range; the message starts with its name.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        pooling: Sequence[str | Callable[..., Pooling]] = ("last",),
        dropout: float = 0.0,
        hidden_size: int = 0,
    ) -> None:
        super().__init__()
        if hidden_size < 0:
            raise ValueError(f"hidden_size must not be negative, got {hidden_size}")
        self.encoder = encoder
        self.pooling = Poolings(encoder.output_size, pooling)
        self.dropout = nn.Dropout(dropout)
        size = self.pooling.output_size
        self.hidden = nn.Linear(size, hidden_size) if hidden_size else None
        self.output = nn.Linear(hidden_size or size, num_classes)

    def forward(self, ids: Tensor, lengths: Tensor, shift: Tensor | None = None) -> Tensor:
        """Classify: ids (B, T) int64 padded at the end, lengths (B,), shift (B, T, E) or None -> logits (B, C)."""
        output, state = self.encoder(ids, lengths, shift)
        return self.classify(output, state, lengths)

    def classify(self, output: Tensor, state: State, lengths: Tensor) -> Tensor:
        """Classify what the encoder returned: output (B, T, H), its final state, lengths (B,) -> logits (B, C)."""
        last = last_output(self.encoder.recurrent, state)
        vector = self.dropout(self.pooling(output, last, lengths))
        if self.hidden is not None:
            vector = self.dropout(torch.tanh(self.hidden(vector)))
        logits: Tensor = self.output(vector)
        return logits
