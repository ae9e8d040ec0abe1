"""Linear-chain conditional random field over tags, with transitions that may be forbidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqkit.nn.checks import check_flag, check_size, dtype_name, recorded
from seqkit.nn.custom_op import held
from seqkit.nn.exported_loops import best_path_loop, log_partition_loop, loops_exported, marginals_loop
from seqkit.nn.initialise import refill
from seqkit.nn.kernels.crf import LogPartition, best_path, differentiable_log_partition, sum_paths, time_first
from seqkit.nn.kernels.packing import check_lengths, length_vector
from seqkit.nn.sending import send, sent_back, where_exact


def iob2_allowed(tags: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return what IOB2 allows: I-x comes after B-x or I-x, and nowhere else.

    Args:
        tags: K names: O, B-x and I-x.

    Returns:
        transitions (K, K) bool, from row to column, and start (K,) bool.

    Raises:
        ValueError: a name of another kind.
    """
    for tag in tags:
        if tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) < 3):
            raise ValueError(f"tags: expected O, B-type or I-type, got {tag!r}")
    # On the CPU, so that a module can be made on torch's meta device.
    start = torch.tensor([not tag.startswith("I-") for tag in tags], device="cpu")
    after = [[not tag.startswith("I-") or (last != "O" and last[2:] == tag[2:]) for tag in tags] for last in tags]
    return torch.tensor(after, device="cpu"), start


class CRF(nn.Module):
    """Conditional random field (Lafferty et al. 2001) as an output layer (Lample et al. 2016, section 2.2).

    A sequence of tags y of length n has the score `start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_(t-1),
    y_t] + end[y_n]` and the probability exp(score) divided by the sum of that over all sequences. The only sequence of
    length 0 has the score 0. Sums run in float64, whatever the dtype of the emissions; where the device lacks it (mps),
    on the CPU, and results are float32.

    Args:
        num_tags: K.
        allowed: (K, K) bool, which tag (column) may follow which (row); default: all.
        allowed_start, allowed_end: (K,) bool, which tags may come first and last; default: all.
        constrain_loss: leave sequences that are not allowed out of the sum of the loss, so that the loss of such a
            sequence is infinite; otherwise only `decode` and `marginals` keep to what is allowed.
        device, dtype: of the parameters.

    Raises:
        ValueError: a mask of another shape, or one that leaves nothing.
    """

    transitions: nn.Parameter
    start: nn.Parameter
    end: nn.Parameter

    def __init__(
        self,
        num_tags: int,
        *,
        allowed: Tensor | None = None,
        allowed_start: Tensor | None = None,
        allowed_end: Tensor | None = None,
        constrain_loss: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_tags = check_size("num_tags", num_tags)
        self.constrain_loss = check_flag("constrain_loss", constrain_loss)
        masks = {"allowed": allowed, "allowed_start": allowed_start, "allowed_end": allowed_end}
        names = ("transitions", "start", "end")
        for (argument, mask), name in zip(masks.items(), names, strict=True):
            shape = (num_tags, num_tags) if name == "transitions" else (num_tags,)
            if mask is not None and (mask.shape != shape or mask.dtype != torch.bool or not mask.any()):
                raise ValueError(f"{argument} must be a bool mask of shape {shape} that allows something")
            setattr(self, name, nn.Parameter(torch.zeros(shape, device=device, dtype=dtype)))
            # The tags decide it, so that it is made again and not saved.
            self.register_buffer(f"forbidden_{name}", None if mask is None else ~mask, persistent=False)
        self._masks = {name: self._buffers[f"forbidden_{name}"] for name in names}
        self._restore_masks()

    def _restore_masks(self) -> None:
        """Put the masks where the scores are: nothing else could fill them again after `to_empty`."""
        for name, mask in self._masks.items():
            if mask is not None:
                self._buffers[f"forbidden_{name}"] = mask.to(self.transitions.device)

    def _apply(self, *args: Any, **options: Any) -> CRF:
        super()._apply(*args, **options)  # type: ignore[no-untyped-call]
        self._restore_masks()
        return self

    def reset_parameters(self) -> None:
        """Set all transitions to zero."""

        def zero(weights: Mapping[str, Tensor]) -> None:
            for value in weights.values():
                value.zero_()

        refill(self, {name: name for name in ("transitions", "start", "end")}, zero)

    def _scores(self, constrained: bool) -> tuple[Tensor, ...]:
        scores = []
        for name in ("transitions", "start", "end"):
            value, forbidden = getattr(self, name), getattr(self, f"forbidden_{name}")
            scores.append(value.masked_fill(forbidden, -torch.inf) if constrained and forbidden is not None else value)
        return where_exact(*scores)

    def forward(self, emissions: Tensor, tags: Tensor, lengths: Tensor | Sequence[int]) -> Tensor:
        """Compute the negative log-likelihood (nats) of each sequence of tags.

        Args:
            emissions: (B, T, K), finite.
            tags: (B, T) int64; anything on padding.
            lengths: (B,) integers in [0, T], a tensor or a list.

        Returns:
            (B,) float64.

        Raises:
            TypeError: lengths or tags that are not integers.
            ValueError: shapes that do not fit, or lengths outside [0, T].
        """
        lengths = self._check(emissions, lengths, tags)
        device, (emissions, tags) = emissions.device, where_exact(emissions, tags.long())
        lengths = send(lengths, emissions.device)
        return sent_back(self._partition(emissions, lengths) - self._score(emissions, tags, lengths), device)

    def log_partition(self, emissions: Tensor, lengths: Tensor | Sequence[int]) -> Tensor:
        """Sum over all sequences by the forward algorithm.

        Args:
            emissions: (B, T, K), finite.
            lengths: (B,) integers in [0, T], a tensor or a list.

        Returns:
            the logarithm of the sum of exp(score), (B,) float64.
        """
        lengths = self._check(emissions, lengths)
        device, (emissions, lengths) = emissions.device, where_exact(emissions, lengths)
        return sent_back(self._partition(emissions, lengths), device)

    def _partition(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """`log_partition` of arguments that are checked, and on the device that computes."""
        transitions, start, end = self._scores(self.constrain_loss)
        emissions = held(emissions, 1, "CRF")
        if loops_exported():
            return log_partition_loop(emissions, transitions, start, end, lengths)
        if recorded():
            return differentiable_log_partition(emissions, transitions, start, end, lengths)
        total: Tensor = LogPartition.apply(emissions, transitions, start, end, lengths)  # type: ignore[no-untyped-call]
        return total

    def score(self, emissions: Tensor, tags: Tensor, lengths: Tensor | Sequence[int]) -> Tensor:
        """Score sequences of tags.

        Args:
            emissions: (B, T, K), finite.
            tags: (B, T) int64; anything on padding.
            lengths: (B,) integers in [0, T], a tensor or a list.

        Returns:
            the score of each sequence, (B,) float64.
        """
        lengths = self._check(emissions, lengths, tags)
        device, (emissions, tags) = emissions.device, where_exact(emissions, tags.long())
        return sent_back(self._score(emissions, tags, send(lengths, emissions.device)), device)

    def _score(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """`score` of arguments that are checked, and on the device that computes."""
        transitions, start, end = (part.double() for part in self._scores(self.constrain_loss))
        valid = torch.arange(emissions.size(1), device=emissions.device) < lengths.unsqueeze(1)  # (B, T)
        tags = torch.where(valid, tags, 0)
        emitted = emissions.gather(2, tags.unsqueeze(2)).squeeze(2).double()
        inner = torch.where(valid, emitted, 0.0).sum(1)
        moves = torch.where(valid[:, 1:], transitions[tags[:, :-1], tags[:, 1:]], 0.0).sum(1)
        last = tags.gather(1, (lengths - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        return torch.where(lengths > 0, inner + moves + start[tags[:, 0]] + end[last], 0.0)

    @torch.no_grad()
    def decode(self, emissions: Tensor, lengths: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Find the most probable allowed sequence of tags (Viterbi).

        Args:
            emissions: (B, T, K), finite.
            lengths: (B,) integers in [0, T], a tensor or a list.

        Returns:
            tags (B, T) int64, 0 on padding, and their score (B,) float64.
        """
        lengths = self._check(emissions, lengths)
        device, (emissions, lengths) = emissions.device, where_exact(emissions, lengths)
        emissions = held(emissions, 1, "CRF")
        find = best_path_loop if loops_exported() else best_path
        tags, scores = find(emissions, lengths, *self._scores(True))
        return sent_back(tags, device), sent_back(scores, device)

    @torch.no_grad()
    def marginals(self, emissions: Tensor, lengths: Tensor | Sequence[int]) -> Tensor:
        """Compute the probability of each tag at each step over the allowed sequences, without a graph.

        Args:
            emissions: (B, T, K), finite.
            lengths: (B,) integers in [0, T], a tensor or a list.

        Returns:
            (B, T, K) float64, 0 on padding.
        """
        lengths = self._check(emissions, lengths)
        device, (emissions, lengths) = emissions.device, where_exact(emissions, lengths)
        if loops_exported():
            return sent_back(marginals_loop(emissions, lengths, *self._scores(True)).transpose(0, 1), device)
        emissions = held(emissions, 1, "CRF")
        paths = sum_paths(time_first(emissions, lengths, *self._scores(True)))
        weights = torch.ones_like(paths.log_partition).unsqueeze(1)
        return sent_back(paths.posterior(weights).tags.transpose(0, 1), device)

    def _check(self, emissions: Tensor, lengths: Tensor | Sequence[int], tags: Tensor | None = None) -> Tensor:
        """Return the lengths as int64 on their own device; raise for arguments that do not go together."""
        for name, value in (("emissions", emissions), ("transitions", self.transitions)):
            if value.is_complex():
                raise TypeError(f"{name} must be real scores, got {dtype_name(value)}")
        if emissions.dim() != 3 or emissions.size(2) != self.num_tags or not emissions.size(1):
            raise ValueError(f"emissions must be (B, T, {self.num_tags}) with T >= 1, got {tuple(emissions.shape)}")
        if tags is not None and (tags.is_floating_point() or tags.is_complex() or tags.dtype == torch.bool):
            raise TypeError(f"tags must be integers, got {tags.dtype}")
        if tags is not None and tags.shape != emissions.shape[:2]:
            raise ValueError(f"tags must be {tuple(emissions.shape[:2])}, got {tuple(tags.shape)}")
        vector = length_vector(lengths)
        if vector.shape != emissions.shape[:1]:
            raise ValueError(f"lengths must be ({len(emissions)},), got {tuple(vector.shape)}")
        if not recorded():  # there, values cannot be looked at
            check_lengths(vector, emissions.size(0), emissions.size(1))
        return vector.long()

    def extra_repr(self) -> str:
        """Return what `print` shows."""
        return f"{self.num_tags}, constrain_loss={self.constrain_loss}"
