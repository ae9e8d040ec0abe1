"""A class for a whole sequence: encoder -> pooling -> classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from seqkit.models.encoder import Encoder, padding_mask
from seqkit.nn.linear import Linear
from seqkit.nn.sending import send

PoolingName = Literal["last", "mean", "max", "attention"]


class Pooling(nn.Module):
    """Make one vector of the outputs of all steps, in one way or several, concatenated.

    `last`: the final output of each direction of the top layer. `mean`, `max`: over the valid steps. `attention`:
    the mean weighted by softmax(v . tanh(W h_t + b)) (Yang et al. 2016, eq. 5-7). A sequence of length 0 gives zeros,
    but for `last`, which gives the initial state.

    Args:
        size: H, features of an output.
        names: which ways, in this order.

    Raises:
        ValueError: no name, or one that is not known.
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
        """Pool: output (B, T, H), last (B, H), lengths (B,) -> (B, H * number of ways).

        Raises:
            ValueError: `names` was changed to something unknown.
        """
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
    """Classify sequences: encoder, pooling, and a linear classifier with an optional hidden layer.

    Args:
        encoder: reads the tokens.
        num_classes: number of classes, C.
        pooling: ways to pool the outputs over time, concatenated: "last" (the final output of each direction), "mean",
            "max", "attention" (Yang et al. 2016).
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
        """Classify: ids (B, T) int64 padded at the end, lengths (B,), shift (B, T, E) or None -> logits (B, C)."""
        output, state = self.encoder(ids, lengths, shift)
        directions = 2 if self.encoder.recurrent.bidirectional else 1
        last = torch.cat(list(state[0][-directions:]), dim=1)  # (B, H)
        vector = self.dropout(self.pooling(output, last, lengths))
        if self.hidden is not None:
            vector = self.dropout(torch.tanh(self.hidden(vector)))
        logits: Tensor = self.output(vector)
        return logits
