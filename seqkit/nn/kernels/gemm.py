"""Matrix products for the fused scans: oneDNN with prepacked weights where it is faster, else ATen's own.

On an AMD EPYC (Zen 5, torch 2.13) MKL reaches 90 GFLOP/s a core where oneDNN reaches 210, and a prepacked weight saves
the transposition at every step. The oneDNN entry points are private to torch, so their presence and their result
are checked once, and everything works without them. oneDNN multiplies bfloat16 in half of float32's time, where the CPU
has instructions for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.nn.kernels.tuning import (
    MIN_DECODE_WORK,
    MIN_FILLED_WORK,
    MIN_LOW_WORK,
    MIN_OUTER_WORK,
    MIN_PACKED_WORK,
    MIN_PRODUCT_ROWS,
    MIN_WORK,
    OUTER_ROWS,
    PRODUCT_ROWS,
    STEP_ROWS,
)


@lru_cache(maxsize=1)
def onednn() -> tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]] | None:
    """Return oneDNN's (linear, linear plus a tensor, weight packing), or None where this torch lacks them."""
    try:
        ops: Any = torch.ops.mkldnn
        linear, plus = ops._linear_pointwise.default, ops._linear_pointwise.binary
        pack = ops._reorder_linear_weight.default
        x, weight = torch.eye(8, device="cpu"), torch.arange(64.0, device="cpu").reshape(8, 8)
        packed = pack(weight, 8)
        right = torch.equal(linear(x, packed, None, "none", [], ""), weight.t())
        right &= torch.equal(plus(x, x, packed, None, "add"), weight.t() + x)
        right &= torch.equal(linear(x, weight, None, "none", [], ""), weight.t())
    except (AttributeError, RuntimeError, TypeError):
        return None
    return (linear, plus, pack) if right else None


@lru_cache(maxsize=1)
def onednn_bfloat16() -> bool:
    """Return whether oneDNN multiplies bfloat16 on this CPU, with a packed weight too."""
    entry = onednn()
    try:
        if entry is None or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        linear, plus, pack = entry
        x, weight = torch.eye(8, device="cpu").bfloat16(), torch.arange(64.0, device="cpu").reshape(8, 8).bfloat16()
        right = torch.equal(linear(x, pack(weight, 8), None, "none", [], ""), weight.t())
        return right and torch.equal(plus(x, x, pack(weight, 8), None, "add"), (weight.t() + x))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _fast(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN serves these operands."""
    dtype = x.dtype
    return bool(
        dtype == weight.dtype
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and onednn_bfloat16()))
        and x.device.type == "cpu"
        and torch.backends.mkldnn.enabled
        and onednn() is not None
    )


def _filled(x: Tensor, multiple: int) -> Tensor:
    """Return x (N, K) with rows of zeros up to the next multiple."""
    extra = -x.size(0) % multiple
    return torch.constant_pad_nd(x, (0, 0, 0, extra)) if extra else x


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, low: bool = False) -> Tensor:
    """x (N, K) times the transpose of weight (M, K), plus bias (M,): one large GEMM, (N, M).

    With `low` the operands, which are float32, are rounded to bfloat16 where that is faster; the bias is added in
    float32.
    """
    if low and fast_low(weight, x.size(0)):
        result = torch.mm(_filled(x.bfloat16(), PRODUCT_ROWS), weight.bfloat16().t())[: x.size(0)]
        return result.float() if bias is None else torch.add(result, bias)
    if x.size(0) >= MIN_PRODUCT_ROWS and x.size(0) * weight.numel() >= MIN_WORK and _fast(x, weight):
        rows = _filled(x, PRODUCT_ROWS).contiguous()
        if x.dtype == torch.bfloat16 and bias is None:  # ATen's GEMM is oneDNN's, and takes a transposed view
            return torch.mm(rows, weight.t())[: x.size(0)]
        # A copy of a transposed view takes a quarter of the time of packing it, which pays for many products alone.
        return onednn()[0](rows, weight.contiguous(), bias, "none", [], "")[: x.size(0)]  # type: ignore[index]
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def fast_low(weight: Tensor, rows: int) -> bool:
    """Return whether products of a weight in float32 with this number of rows are faster rounded to bfloat16."""
    return bool(
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and rows * weight.numel() >= MIN_LOW_WORK
        and torch.backends.mkldnn.enabled
        and onednn_bfloat16()
    )


def outer(left: Tensor, *right: Tensor, low: bool = False) -> Tensor:
    """left (N, M) transposed times the columns of right (N, K1), (N, K2), ... side by side: (M, K1 + K2 + ...).

    It is the sum of the outer products of all rows: one GEMM over all steps, in blocks of rows to bound its memory.
    `low` as in `product`; the sum is taken in float32.
    """
    if low and all(fast_low(part, left.size(1)) for part in right):
        return outer(left.bfloat16(), *(part.bfloat16() for part in right)).float()
    total = None
    # In bfloat16 ATen's GEMM takes the operands as they are, adds up in float32 and rounds once.
    size = max(left.size(0), 1) if left.dtype == torch.bfloat16 else OUTER_ROWS
    for first in range(0, left.size(0), size):
        rows = [part[first : first + size] for part in (left, *right)]
        part = _outer(rows[0], rows[1] if len(rows) == 2 else torch.cat(rows[1:], 1))
        total = part if total is None else total.add_(part)
    return left.new_zeros(left.size(1), sum(part.size(1) for part in right)) if total is None else total


def _outer(left: Tensor, right: Tensor) -> Tensor:
    large = left.dtype == torch.float32 and left.numel() * right.size(1) >= MIN_OUTER_WORK
    backward_weights = _backward_weights() if large and _fast(left, right) else None
    if backward_weights is None:
        return torch.mm(left.t(), right)
    left, right = _filled(left, PRODUCT_ROWS), _filled(right, PRODUCT_ROWS)
    # The third argument only tells the shape of the result.
    shape = left.new_empty(1).expand(left.size(1), right.size(1))
    return backward_weights(left.contiguous().to_mkldnn(), right.contiguous().to_mkldnn(), shape, False)[0]


@lru_cache(maxsize=1)
def _backward_weights() -> Callable[..., tuple[Tensor, Tensor]] | None:
    """oneDNN's weight gradient of a linear layer: 1.2 to 1.4 times as fast as its product with a transposed copy."""
    try:
        op: Any = torch.ops.aten.mkldnn_linear_backward_weights.default
        left, right = torch.arange(24.0, device="cpu").reshape(8, 3), torch.eye(8, device="cpu")
        got = op(left.to_mkldnn(), right.to_mkldnn(), left.new_empty(1).expand(3, 8), False)[0]
    except (AttributeError, RuntimeError, TypeError):
        return None
    return op if got.layout == torch.strided and torch.equal(got, left.t()) else None


class StepProduct:
    """One weight (M, K), packed once where that pays, multiplied by many small inputs (b, K).

    Args:
        weight: (M, K), or a transposed view of such.
        max_rows: the largest b.
        uses: how many products there will be; by default so many that packing pays.
    """

    def __init__(self, weight: Tensor, max_rows: int, uses: float = math.inf) -> None:
        self.work = weight.numel()
        self.packed: Tensor | None = None
        self.transposed = weight.t()
        often = uses * max_rows * self.work >= MIN_PACKED_WORK
        if often and self._pays(max_rows) and _fast(weight, weight):
            self.linear, self.plus, pack = onednn()  # type: ignore[misc]
            self.packed = pack(weight, max_rows)
        # ATen's GEMM is twice as fast on a contiguous operand as on a transposed view.
        elif not self.transposed.is_contiguous():
            self.transposed = self.transposed.contiguous()

    def _pays(self, rows: int) -> bool:
        """Return whether oneDNN's product with this number of rows is faster than ATen's."""
        return rows * self.work >= (MIN_FILLED_WORK if rows % STEP_ROWS else MIN_WORK)

    def times(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x (b, K) times the transpose of the weight: (b, M); `out` may or may not be used to hold it."""
        if self.packed is not None and self._pays(x.size(0)):
            return self.linear(_filled(x, STEP_ROWS), self.packed, None, "none", [], "")[: x.size(0)]
        return torch.mm(x, self.transposed) if out is None else torch.mm(x, self.transposed, out=out)

    def plus_rows(self, x: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """`times(x) + rows` for rows (b, M), in one call."""
        if self.packed is not None and self._pays(x.size(0)):
            if x.size(0) % STEP_ROWS == 0:
                return self.plus(x, rows, self.packed, None, "add")
            return self.times(x).add_(rows)
        if out is None:
            return torch.addmm(rows, x, self.transposed)
        return torch.addmm(rows, x, self.transposed, out=out)


class LowStepProduct(StepProduct):
    """`StepProduct` of a weight in float32 whose operands are rounded to bfloat16; the results are float32."""

    def __init__(self, weight: Tensor, max_rows: int) -> None:
        self.linear, _, pack = onednn()  # type: ignore[misc]
        self.packed = pack(weight.bfloat16(), max_rows)

    def times(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return self._rounded(x).float()

    def plus_rows(self, x: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.add(rows, self._rounded(x), out=out)

    def _rounded(self, x: Tensor) -> Tensor:
        return self.linear(_filled(x.bfloat16(), STEP_ROWS), self.packed, None, "none", [], "")[: x.size(0)]


def step_product(weight: Tensor, max_rows: int, uses: float = math.inf, *, low: bool) -> StepProduct:
    """Return the product of a weight with the rows of many steps; `low` as in `product`."""
    if low and fast_low(weight, max_rows):
        return LowStepProduct(weight, max_rows)
    return StepProduct(weight, max_rows, uses)


class PackedLinear:
    """A linear layer of which the weight is packed once, for products with few rows each: decoding.

    Rows below `STEP_ROWS` are not filled up: there are few such shapes.

    Args:
        weight: (M, K), as it is now.
        bias: (M,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias, self.work = weight, bias, weight.numel()
        self._packed: Tensor | None = None
        self._fast = _fast(weight, weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x (N, K) -> (N, M), in fresh memory."""
        rows = x.size(0)
        fits = self._fast and x.dtype is torch.float32 and x.size(1) == self.weight.size(1)
        if not fits or rows * self.work < MIN_DECODE_WORK:
            return F.linear(x, self.weight, self.bias)
        linear, _, pack = onednn()  # type: ignore[misc]
        if self._packed is None:
            self._packed = pack(self.weight.detach().contiguous(), STEP_ROWS)
        if rows <= STEP_ROWS:
            return linear(x.contiguous(), self._packed, self.bias, "none", [], "")
        return linear(_filled(x, STEP_ROWS).contiguous(), self._packed, self.bias, "none", [], "")[:rows]
