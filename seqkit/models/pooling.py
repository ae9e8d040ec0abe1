"""Pooling: the outputs of all steps to one vector, by one way or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seqkit.nn import Linear, from_table, padding_mask, send


class Pooling(nn.Module):
    """Base of every way to pool; a subclass writes `forward`.

    Args:
        size: H, features of an output.

    Class attributes:
        reads_output: it looks at the outputs, whose padding is then cleared.
        reads_last: it looks at the final output, which a module without a state lacks.

    Attributes:
        output_size: features of the vector; H unless a subclass says otherwise.
    """

    reads_output = True
    reads_last = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.output_size = size

    def forward(self, output: Tensor, last: Tensor, lengths: Tensor, padding: Tensor) -> Tensor:
        """Pool a batch.

        Args:
            output: (B, T, H), zero past each length.
            last: (B, H), the final output of each direction of the top layer.
            lengths: (B,) int64, 0 allowed.
            padding: (B, T, 1) bool, True past each length.

        Returns:
            (B, output_size); without a NaN where a length is 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(output, last, lengths, padding)")


class LastPooling(Pooling):
    """The final output of each direction of the top layer; of a sequence of length 0 the initial state."""

    reads_output = False
    reads_last = True

    def forward(self, output: Tensor, last: Tensor, lengths: Tensor, padding: Tensor) -> Tensor:
        return last


class MeanPooling(Pooling):
    """The mean over the valid steps; zero where there are none."""

    def forward(self, output: Tensor, last: Tensor, lengths: Tensor, padding: Tensor) -> Tensor:
        return output.sum(1) / lengths.clamp(min=1).unsqueeze(1).to(output.dtype)


class MaxPooling(Pooling):
    """The maximum over the valid steps; zero where there are none."""

    def forward(self, output: Tensor, last: Tensor, lengths: Tensor, padding: Tensor) -> Tensor:
        return output.masked_fill(padding, -torch.inf).amax(1).masked_fill((lengths == 0).unsqueeze(1), 0.0)


class AttentionPooling(Pooling):
    """The mean weighted by softmax(v . tanh(W h_t + b)) (Yang et al. 2016, eq. 5-7); zero of a sequence of length 0."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.project = Linear(size, size)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, output: Tensor, last: Tensor, lengths: Tensor, padding: Tensor) -> Tensor:
        scores = self.score(torch.tanh(self.project(output))).masked_fill(padding, -torch.inf)
        weights = torch.softmax(scores.masked_fill((lengths == 0)[:, None, None], 0.0), dim=1)
        return (weights * output).sum(1)


POOLINGS: dict[str, type[Pooling]] = {
    "last": LastPooling,
    "mean": MeanPooling,
    "max": MaxPooling,
    "attention": AttentionPooling,
}


class Poolings(nn.Module):
    """Make one vector of the outputs of all steps, in one way or several, concatenated.

    Args:
        size: H, features of an output.
        ways: names in `POOLINGS` or `Pooling` classes, in this order; a way that comes twice is one module.

    Raises:
        ValueError: an unknown name, or none at all.
    """

    def __init__(self, size: int, ways: Sequence[str | Callable[..., Pooling]]) -> None:
        super().__init__()
        if not ways:
            raise ValueError(f"pooling must name one or more of {', '.join(POOLINGS)}, got none")
        self.names = tuple(ways)
        made = {way: from_table("pooling", way, POOLINGS)(size) for way in self.names}
        self.ways = [made[way] for way in self.names]
        self.output_size = sum(way.output_size for way in self.ways)
        self.reads_last = any(way.reads_last for way in self.ways)
        for number, (name, way) in enumerate(made.items()):
            # The layers of those that have a name lie in this module itself, as weights have always been called.
            for child, part in way.named_children() if name in POOLINGS else [(str(number), way)]:
                self.add_module(child, part)

    def forward(self, output: Tensor, last: Tensor, lengths: Tensor) -> Tensor:
        """Pool: output (B, T, H), last (B, H), lengths (B,) -> (B, output_size)."""
        lengths = send(lengths, output.device)
        padding = padding_mask(lengths, output.size(1)).unsqueeze(2)
        if any(way.reads_output for way in self.ways):
            output = output.masked_fill(padding, 0.0)  # 0 times what lies there may be NaN
        return torch.cat([way(output, last, lengths, padding) for way in self.ways], dim=1)

    def extra_repr(self) -> str:
        return ", ".join(type(way).__name__ for way in self.ways)
