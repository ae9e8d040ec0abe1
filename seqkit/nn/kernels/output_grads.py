"""The gradients that reach a scan's outputs, step by step backwards, and the weight gradients at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkit.nn.kernels.gemm import StepProduct, outer, product
from seqkit.nn.kernels.kernel import Tensors, split
from seqkit.nn.kernels.packing import Packing


class Incoming:
    """Gradient of the output at each step: from above, from the next step, and from the final state.

    `flow` is (b_t, size) at step t once step t + 1 has passed its part on; after step 0 it is (B, size), the gradient
    of the initial state.
    """

    def __init__(self, outer: Tensor | None, final: Tensor | None, state: Tensor, packing: Packing) -> None:
        self.sizes = packing.batch_sizes
        self.outer = None if outer is None else split(outer.contiguous(), packing)
        self.final = torch.zeros_like(state) if final is None else final.contiguous()
        self.flow = self.final[: self.sizes[-1]]
        if self.outer is not None:
            self.flow = self.flow + self.outer[-1]

    def put(self, t: int, weight: StepProduct, delta: Tensor, carried: Tensor | None = None) -> None:
        """Pass delta (b_t, G) through the recurrent weight to step t - 1, and `carried` (b_t, size) as it is."""
        extra = None if self.outer is None or t == 0 else self.outer[t - 1]
        if extra is not None and extra.size(0) != delta.size(0):
            extra = extra[: delta.size(0)]
        if carried is None:
            carried = extra
        elif extra is not None:
            carried.add_(extra)
        self._join(t, weight.times(delta) if carried is None else weight.plus_rows(delta, carried))

    def add(self, t: int, carried: Tensor) -> None:
        """Pass a gradient (b_t, size) to step t - 1 as it is."""
        extra = self._extra(t)
        self._join(t, carried if extra is None else carried + extra[: carried.size(0)])

    def _extra(self, t: int) -> Tensor | None:
        return None if self.outer is None or t == 0 else self.outer[t - 1]

    def _join(self, t: int, flow: Tensor) -> None:
        """Append the sequences whose last step is t - 1 (for t = 0: those of length 0)."""
        narrow, wide = flow.size(0), self.sizes[t - 1] if t else self.final.size(0)
        if wide > narrow:
            ended, extra = self.final[narrow:wide], self._extra(t)
            flow = torch.cat([flow, ended if extra is None else ended + extra[narrow:]])
        self.flow = flow


def weight_gradients(
    tensors: Tensors, delta_x: Tensor, delta_h: Tensor, before: Tensor, needed: frozenset[str]
) -> Tensors:
    """One GEMM for x and one for both weights, over all steps.

    Args:
        delta_x, delta_h: (N, G), gradients of W_ih x and of W_hh h.
        before: (N, size), what W_hh was multiplied with.
    """
    result: Tensors = {}
    if "x" in needed:
        result["x"] = product(delta_x, tensors["weight_ih"].t())
    if delta_x is delta_h and {"weight_ih", "weight_hh"} <= needed:
        both = outer(delta_x, tensors["x"], before)
        sizes = [tensors["x"].size(1), before.size(1)]
        result["weight_ih"], result["weight_hh"] = both.split_with_sizes(sizes, 1)
        return result
    if "weight_ih" in needed:
        result["weight_ih"] = outer(delta_x, tensors["x"])
    if "weight_hh" in needed:
        result["weight_hh"] = outer(delta_h, before)
    return result
