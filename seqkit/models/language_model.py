"""The next token: an encoder whose state is carried on, and a softmax over the vocabulary, tied or adaptive."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqkit.models.encoder import Encoder
from seqkit.nn import LOGIT_ROWS, Linear, LockedDropout, State, check_flag, linear_cross_entropy, send_together


class Reading(NamedTuple):
    """What a language model computes before its softmax: `features` (B, T, F) go into that, `output` (B, T, H) is the
    recurrent module's own, `dropped` the same with dropout, `state` the final one."""

    features: Tensor
    output: Tensor
    dropped: Tensor
    state: State


class LanguageModel(nn.Module):
    """Predict the next token: embedding, recurrent layers, softmax over the vocabulary (AWD-LSTM of Merity et al. 2017,
    once its dropouts are set).

    Args:
        encoder: of one direction; its cell's `weight_drop` and its dropouts are AWD-LSTM's.
        tie: share the softmax's weights with the embedding (Press & Wolf 2017). Where the encoder's output has another
            size than the embedding, a linear layer goes before. The embedding starts as its own `init_std` says; with
            the default of 1 the first scores are far from even, 0.1 is better.
        output_dropout: rate of the dropout on the encoder's output, one mask for all steps of a sequence.
        output_bias: whether the softmax has a bias.
        adaptive_cutoffs: adaptive softmax (Grave et al. 2017) instead: the ids at which the clusters of rarer tokens
            begin; ids must be in order of falling frequency. Needs `tie=False`.
        adaptive_div: each cluster's projection is smaller by this factor than the one before.

    Raises:
        ValueError: the message starts with the argument's name.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        tie: bool = True,
        output_dropout: float = 0.0,
        output_bias: bool = True,
        adaptive_cutoffs: Sequence[int] = (),
        adaptive_div: float = 4.0,
    ) -> None:
        super().__init__()
        if encoder.recurrent.bidirectional:
            raise ValueError("encoder: a language model reads in one direction; it must not be bidirectional")
        self.encoder = encoder
        self.dropout = LockedDropout(output_dropout)
        self.tie = check_flag("tie", tie)
        table, size = encoder.embedding.table, encoder.output_size
        self.vector = Linear(size, encoder.embedding.size) if tie and size != encoder.embedding.size else None
        self.adaptive = None
        if not adaptive_cutoffs:
            self.token_scores = Linear(
                encoder.embedding.size if tie else size,
                table.num_embeddings,
                bias=check_flag("output_bias", output_bias),
            )
            if tie:
                self.token_scores.weight = table.weight
            return
        if tie:
            raise ValueError("adaptive_cutoffs: the adaptive softmax has weights of its own; set tie to false")
        if adaptive_div <= 0:
            raise ValueError(f"adaptive_div must be positive, got {adaptive_div}")
        cutoffs = list(adaptive_cutoffs)
        if any(low >= high for low, high in itertools.pairwise([0, *cutoffs, table.num_embeddings])):
            raise ValueError(
                f"adaptive_cutoffs must rise and lie between 1 and {table.num_embeddings - 1}, the last entry of the "
                f"vocabulary; got {cutoffs}"
            )
        if int(size // adaptive_div ** len(cutoffs)) < 1:
            raise ValueError(
                f"adaptive_div: the last of {len(cutoffs)} clusters would have {size} / {adaptive_div:g}^{len(cutoffs)}"
                " features, less than one; take a smaller one, or fewer adaptive_cutoffs"
            )
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(
            size, table.num_embeddings, cutoffs, div_value=adaptive_div, head_bias=output_bias
        )

    def forward(self, ids: Tensor, state: State | None = None, lengths: Tensor | None = None) -> Reading:
        """Read on.

        Args:
            ids: (B, T) int64.
            state: what the call before returned, each part (num_layers, B, size); None: the initial state.
            lengths: (B,) where sequences end early; None: all are T long.

        Returns:
            features (B, T, F) for the softmax, outputs and the state to go on from.
        """
        output, final = self.encoder.recurrent(self.encoder.embedding(ids), state, lengths=lengths)
        dropped = self.dropout(output)
        return Reading(dropped if self.vector is None else self.vector(dropped), output, dropped, final)

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Add up the negative log-likelihoods in nats: features (..., F), targets (...) int64 -> scalar.

        An adaptive softmax takes targets on the CPU, too: from another device they are read back for each cluster.
        """
        rows, wanted = features.flatten(0, -2), targets.flatten()
        if self.adaptive is not None:
            return -_adaptive_log_probs(self.adaptive, rows, wanted).sum()
        total, _ = linear_cross_entropy(rows, self.token_scores.weight, self.token_scores.bias, wanted)
        return total

    @torch.no_grad()
    def token_log_probs(self, features: Tensor, targets: Tensor) -> Tensor:
        """Compute the log-probability of each target: features (..., F), targets (...) int64 -> (...) float32."""
        parts = []
        wide, every = features.flatten(0, -2), targets.flatten()
        for first in range(0, len(every), LOGIT_ROWS):
            rows, wanted = wide[first : first + LOGIT_ROWS], every[first : first + LOGIT_ROWS]
            if self.adaptive is not None:
                parts.append(_adaptive_log_probs(self.adaptive, rows, wanted).float())
            else:
                parts.append(-F.cross_entropy(self.token_scores(rows).float(), wanted, reduction="none"))
        return torch.cat(parts).view(targets.shape) if parts else features.new_zeros(targets.shape)

    def scores(self, features: Tensor) -> Tensor:
        """Score every token, normalised or not: features (..., F) -> (..., V)."""
        if self.adaptive is None:
            return self.token_scores(features)  # type: ignore[no-any-return]
        found = self.adaptive.log_prob(features.flatten(0, -2))
        return found.view(*features.shape[:-1], found.size(-1))

    def step(self, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any, None]:
        """Run a step for `seqkit.decoding.Search`, which begins with the state None; `memory` is not used.

        Args:
            tokens: (B, K) int64, the last of each hypothesis.
            state: None, or parts (B, K, num_layers, size) as a step gave them.

        Returns:
            scores (B, K, V), the next state, None.

        Raises:
            RuntimeError: the module is in training mode.
        """
        if self.training:
            raise RuntimeError("step serves evaluation only; call eval() first")
        shape = tokens.shape
        before = None if state is None else tuple(part.flatten(0, 1).transpose(0, 1).contiguous() for part in state)
        found = self(tokens.reshape(-1, 1), before)
        after = tuple(part.transpose(0, 1).unflatten(0, shape) for part in found.state)
        scores = self.scores(found.features.squeeze(1))
        return scores.view(*shape, scores.size(-1)), after, None


def _adaptive_log_probs(softmax: nn.AdaptiveLogSoftmaxWithLoss, rows: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target: rows (N, F), targets (N,) -> (N,).

    With the targets on the CPU and the rows on another device it is known there which rows belong to which cluster, and
    nothing waits.
    """
    if targets.device == rows.device:
        return softmax(rows, targets).output  # type: ignore[no-any-return]
    chosen, indices = targets.clone(), []
    for number, (low, high) in enumerate(itertools.pairwise(softmax.cutoffs)):
        here = ((targets >= low) & (targets < high)).nonzero().squeeze(1)
        chosen[here] = softmax.shortlist_size + number
        indices += [here, targets[here] - low]
    chosen, *indices = send_together([chosen, *indices], rows.device)
    found = rows.new_zeros(len(rows))
    for tail, here, own in zip(softmax.tail, indices[::2], indices[1::2], strict=True):
        if len(here):
            log_probs = F.log_softmax(tail(rows.index_select(0, here)), dim=1)
            found = found.index_copy(0, here, log_probs.gather(1, own.unsqueeze(1)).squeeze(1))
    head = F.log_softmax(softmax.head(rows), dim=1)
    return found + head.gather(1, chosen.unsqueeze(1)).squeeze(1)
