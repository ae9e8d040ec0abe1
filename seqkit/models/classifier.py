"""A class for a whole sequence: encoder -> pooling -> classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from seqkit.models.encoder import Encoder
from seqkit.nn import Linear, padding_mask, send

PoolingName = Literal["last", "mean", "max", "attention"]


class Pooling(nn.Module):
    """Outputs of all steps -> one vector, by one way or several concatenated.

    `last`: the final output of each direction of the top layer. `mean`, `max`: over the valid steps. `attention`:
    the mean weighted by softmax(v . tanh(W h_t + b)) (Yang et al. 2016, eq. 5-7). A sequence of length 0 gives zeros,
    but for `last`, which gives the initial state.

    Args:
        size: H, features of an output.
        names: which, in this order.
    """

    def __init__(self, size: int, names: Sequence[PoolingName]) -> None:
        super().__init__()
        unknown = [name for name in names if name not in get_args(PoolingName)]
        if not names or unknown:
            raise ValueError(f"pooling must name one or more of {', '.join(get_args(PoolingName))}, got {list(names)}")
        self.names = tuple(names)
        self.output_size = size * len(self.names)
        if "attention" in self.names:
            self.project = Linear(size, size)
            self.score = nn.Linear(size, 1, bias=False)

    def forward(self, output: Tensor, last: Tensor, lengths: Tensor) -> Tensor:
        """output (B, T, H), last (B, H), lengths (B,) -> (B, H * number of ways)."""
        lengths = send(lengths, output.device)
        padding = padding_mask(lengths, output.size(1)).unsqueeze(2)  # (B, T, 1)
        empty = (lengths == 0).unsqueeze(1)
        if self.names != ("last",):
            output = output.masked_fill(padding, 0.0)  # 0 times what lies there may be NaN
        parts = []
        for name in self.names:
            if name == "last":
                parts.append(last)
            elif name == "mean":
                parts.append(output.sum(1) / lengths.clamp(min=1).unsqueeze(1).to(output.dtype))
            elif name == "max":
                parts.append(output.masked_fill(padding, -torch.inf).amax(1).masked_fill(empty, 0.0))
            elif name == "attention":
                scores = self.score(torch.tanh(self.project(output))).masked_fill(padding, -torch.inf)
                weights = torch.softmax(scores.masked_fill(empty.unsqueeze(1), 0.0), dim=1)
                parts.append((weights * output).sum(1))
            else:
                raise ValueError(f"unknown pooling {name!r}")
        return torch.cat(parts, dim=1)


class SequenceClassifier(nn.Module):
    """Encoder, pooling, and a linear classifier with an optional hidden layer.

    Args:
        encoder: see `Encoder`.
        num_classes: C.
        pooling: ways to pool, concatenated.
        dropout: on the pooled vector, and on the hidden layer.
        hidden_size: features of a tanh layer before the classifier; 0: none.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        pooling: Sequence[PoolingName] = ("last",),
        dropout: float = 0.0,
        hidden_size: int = 0,
    ) -> None:
        super().__init__()
        if hidden_size < 0:
            raise ValueError(f"hidden_size must not be negative, got {hidden_size}")
        self.encoder = encoder
        self.pooling = Pooling(encoder.output_size, pooling)
        self.dropout = nn.Dropout(dropout)
        size = self.pooling.output_size
        self.hidden = nn.Linear(size, hidden_size) if hidden_size else None
        self.output = nn.Linear(hidden_size or size, num_classes)

    def forward(self, ids: Tensor, lengths: Tensor, shift: Tensor | None = None) -> Tensor:
        """ids (B, T) int64 padded at the end, lengths (B,) -> logits (B, C); for `shift` see `Encoder`."""
        output, state = self.encoder(ids, lengths, shift)
        directions = 2 if self.encoder.recurrent.bidirectional else 1
        last = torch.cat(list(state[0][-directions:]), dim=1)  # (B, H)
        vector = self.dropout(self.pooling(output, last, lengths))
        if self.hidden is not None:
            vector = self.dropout(torch.tanh(self.hidden(vector)))
        logits: Tensor = self.output(vector)
        return logits
