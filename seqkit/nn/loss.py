"""Cross-entropy over a large vocabulary without the logits of the whole batch in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkit.nn.checks import autocast_dtype, dtype_name
from seqkit.nn.kernels.gemm import StepProduct, outer, product
from seqkit.nn.kernels.malloc import keep_freed_blocks
from seqkit.nn.kernels.tuning import LOGIT_ROWS


def linear_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the logits `features @ weight.T + bias`, which are made and used up chunk by chunk.

    The gradients are computed together with the loss, in the same pass over the logits; the backward pass only scales
    them. Under autocast the products run in its dtype, the softmax in float32.

    Args:
        features: (N, F), only rows that count.
        weight: (V, F).
        bias: (V,) or None.
        targets: (N,) int64 in [0, V).
        label_smoothing: share e of the target probability that is spread evenly over all V classes (Szegedy et al.
            2016, section 7): (1 - e) * nll - e / V * sum of all log-probabilities.

    Returns:
        the sum of the smoothed losses and the sum of the negative log-likelihoods (nats), both scalars, float32
        (float64 for float64 input). Only the first has a gradient, and no second derivative.

    Raises:
        ValueError: shapes that do not fit, complex numbers, or `label_smoothing` outside [0, 1).
        RuntimeError: in the backward pass, with `create_graph=True`.
    """
    if features.dim() != 2 or weight.dim() != 2 or features.size(1) != weight.size(1):
        raise ValueError(f"features {tuple(features.shape)} and weight {tuple(weight.shape)} must be (N, F) and (V, F)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({weight.size(0)},), got {tuple(bias.shape)}")
    if targets.shape != features.shape[:1]:
        raise ValueError(f"targets must have shape ({features.size(0)},), got {tuple(targets.shape)}")
    if features.is_complex() or weight.is_complex():
        raise ValueError(f"features and weight must be real, got {dtype_name(features)} and {dtype_name(weight)}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if not torch.is_grad_enabled():
        # Inside a Function `needs_input_grad` is true for a parameter even where no gradient can be asked for.
        features, weight, bias = features.detach(), weight.detach(), None if bias is None else bias.detach()
    keep_freed_blocks()
    low = autocast_dtype(features, weight)
    if low is not None:
        features, weight = features.to(low), weight.to(low)
        bias = None if bias is None else bias.to(low)
        with torch.autocast(features.device.type, enabled=False):
            return LinearCrossEntropy.apply(features, weight, bias, targets, label_smoothing)  # type: ignore[no-any-return, no-untyped-call]
    return LinearCrossEntropy.apply(features, weight, bias, targets, label_smoothing)  # type: ignore[no-any-return, no-untyped-call]


class LinearCrossEntropy(torch.autograd.Function):
    """(features, weight, bias, targets, label_smoothing) -> (loss, nll); see `linear_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        sums = _Sums(features, weight, bias, smoothing, ctx.needs_input_grad[:3])
        size = -(-features.size(0) // max(1, -(-features.size(0) // LOGIT_ROWS)))
        for first in range(0, features.size(0), max(1, size)):
            sums.add(first, features[first : first + size], targets[first : first + size].unsqueeze(1))
        grads = sums.grads()
        ctx.save_for_backward(*(grad for grad in grads if grad is not None))
        ctx.kept = [grad is not None for grad in grads]
        ctx.dtypes = [features.dtype, weight.dtype, weight.dtype]
        ctx.mark_non_differentiable(sums.nll)
        return sums.loss, sums.nll

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # `once_differentiable` would drop the second derivative's share without a word.
            raise RuntimeError(
                "linear_cross_entropy has no second derivative (create_graph=True); "
                "F.cross_entropy of the logits has one"
            )
        saved = iter(ctx.saved_tensors)
        gradients = [
            (next(saved) * grad).to(dtype) if kept else None for kept, dtype in zip(ctx.kept, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None


class _Sums:
    """Loss and gradients, chunk by chunk."""

    def __init__(
        self, features: Tensor, weight: Tensor, bias: Tensor | None, smoothing: float, needs: tuple[bool, ...]
    ) -> None:
        self.exact = torch.float64 if features.dtype == torch.float64 else torch.float32
        self.weight, self.bias, self.smoothing = weight, bias, smoothing
        self.loss, self.nll = features.new_zeros((), dtype=self.exact), features.new_zeros((), dtype=self.exact)
        self.by_features = torch.empty_like(features) if needs[0] else None
        self.by_weight = torch.zeros_like(weight, dtype=self.exact) if needs[1] else None
        self.by_bias = torch.zeros_like(bias, dtype=self.exact) if bias is not None and needs[2] else None
        self.back = StepProduct(weight.t(), min(LOGIT_ROWS, features.size(0))) if needs[0] else None
        # The smoothing term needs the mean logit only, which is linear in the features: no pass over V for it.
        self.mean = weight.sum(0, dtype=self.exact) if smoothing else None  # (F,), times V

    def add(self, first: int, rows: Tensor, targets: Tensor) -> None:
        """Count the chunk that begins at row `first`: rows (n, F), targets (n, 1)."""
        logits = product(rows, self.weight, self.bias).to(self.exact)
        picked, highest = logits.gather(1, targets), logits.amax(1, keepdim=True)
        # In place on the CPU: a block of this size costs more to allocate than to fill.
        probs = torch.softmax(logits, 1, out=logits) if logits.device.type == "cpu" else torch.softmax(logits, 1)
        # The largest probability is exp(highest - normaliser), at least 1 / V: its logarithm is exact enough.
        normaliser = (highest - probs.amax(1, keepdim=True).log_()).sum()
        nll = normaliser - picked.sum()
        self.nll += nll
        self.loss += (1 - self.smoothing) * nll
        classes = self.weight.size(0)
        if self.mean is not None:
            mean = (rows.to(self.exact) @ self.mean).sum() / classes
            mean += 0 if self.bias is None else self.bias.mean(dtype=self.exact) * rows.size(0)
            self.loss += self.smoothing * (normaliser - mean)
        if self.by_features is None and self.by_weight is None and self.by_bias is None:
            return
        # The gradient of the logits is their softmax minus the target distribution.
        if self.smoothing:
            probs -= self.smoothing / classes
        probs.scatter_add_(1, targets, probs.new_full((1, 1), self.smoothing - 1).expand_as(targets))
        slope = probs.to(rows.dtype)
        if self.by_features is not None and self.back is not None:
            self.by_features[first : first + rows.size(0)] = self.back.times(slope)
        if self.by_weight is not None:
            self.by_weight += outer(slope, rows)
        if self.by_bias is not None:
            self.by_bias += probs.sum(0)

    def grads(self) -> list[Tensor | None]:
        """Of features, weight and bias."""
        return [self.by_features, self.by_weight, self.by_bias]
