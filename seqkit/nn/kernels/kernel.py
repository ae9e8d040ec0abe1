"""What a fused kernel is, and the parts that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.tuning import MIN_EXPM1, MIN_REACH, MIN_TANH

Tensors = dict[str, Tensor]


class Kernel:
    """Forward and hand-derived backward of one cell over all steps, on packed rows (see `Packing`).

    Both work on dicts of tensors: "x" (N, I) or "projected" (N, P), the cell's weights by name, states "h0", "c0"
    (B, size) in packed order, and masks as "mask_NAME". No autograd graph is recorded inside.
    """

    # Weights that only the projection uses; a kernel that takes "projected" does not see them.
    projection_weights: tuple[str, ...] = ("weight_ih", "norm_ih")

    @property
    def takes_projected(self) -> bool:
        """Return whether the kernel wants `cell.project`'s result instead of the input."""
        return False

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        """Return [outputs (N, size), final states (B, size)...] and the buffers that backward needs if `save`."""
        raise NotImplementedError

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        """Return gradients by name for (at least) the names in `needed`; grads belong to forward's returned list."""
        raise NotImplementedError


def history(initial: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return a buffer (B + N, size) that begins with the initial state, and its part for the steps, (N, size)."""
    buffer = initial.new_empty(initial.size(0) + count, initial.size(1))
    buffer[: initial.size(0)] = initial
    return buffer, buffer[initial.size(0) :]


def previous(buffer: Tensor, packing: Packing) -> Tensor:
    """Return from a history buffer (B + N, size) the state before each step: (N, size)."""
    if packing.is_full:
        return buffer[: buffer.size(0) - packing.batch_size]
    return buffer.index_select(0, packing.on(buffer.device, "previous_rows"))


def last(buffer: Tensor, packing: Packing) -> Tensor:
    """Return from a history buffer (B + N, size) each sequence's last state: (B, size), a copy."""
    if packing.is_full:
        return buffer[buffer.size(0) - packing.batch_size :].clone()
    return buffer.index_select(0, packing.on(buffer.device, "last_rows"))


def blocks(tensor: Tensor, size: int, order: Sequence[int]) -> Tensor:
    """Return the blocks of `size` rows (or entries) of a weight in another order."""
    parts = torch.split(tensor, size)
    return torch.cat([parts[index] for index in order])


def unblocks(tensor: Tensor, size: int, order: Sequence[int]) -> Tensor:
    """Return the inverse of `blocks`."""
    return blocks(tensor, size, [list(order).index(index) for index in range(len(order))])


def mask_rows(mask: Tensor | None, packing: Packing) -> list[Tensor]:
    """Return a mask drawn per step (N, size), or a single row (1, size) for all, as one piece for each step."""
    if mask is None:
        return []
    if mask.size(0) == 1:
        return [mask] * len(packing.batch_sizes)
    return split(mask, packing)


def split(rows: Tensor, packing: Packing) -> list[Tensor]:
    """Return packed rows (N, size) as one view for each step."""
    return list(rows.split_with_sizes(packing.batch_sizes))


def step_views(buffer: Tensor, packing: Packing) -> list[Tensor]:
    """Return `split`, or the first rows of a buffer (b_0, size) for each step, where every step uses it anew."""
    if buffer.size(0) == packing.batch_sizes[0]:
        return [buffer[:size] for size in packing.batch_sizes]
    return split(buffer, packing)


SLOPES: dict[str, Any] = {
    # Derivative from the value of the function, times `grad`, into `out`.
    "tanh": lambda grad, value, out: torch.ops.aten.tanh_backward.grad_input(grad, value, grad_input=out),
    "sigmoid": lambda grad, value, out: torch.ops.aten.sigmoid_backward.grad_input(grad, value, grad_input=out),
    "relu": lambda grad, value, out: torch.mul(grad, value > 0, out=out),
    "identity": lambda grad, value, out: out.copy_(grad),
}


def apply_(name: str, source: Tensor, out: Tensor, *, exact: bool = False) -> Tensor:
    """Return the activation called `name` of source, written to out (which may be source); `exact` as in `tanh_`."""
    if name == "tanh":
        return tanh_(source, out, exact=exact)
    if name == "sigmoid":
        return torch.sigmoid(source, out=out)
    if name == "relu":
        return torch.clamp_min(source, 0, out=out)
    if name != "identity":
        raise ValueError(f"unknown activation {name!r}")
    return out if source is out else out.copy_(source)


_MINUS_ONE = torch.tensor(-1.0, device="cpu")
_TWO = torch.tensor(2.0, device="cpu")


def quick(source: Tensor) -> bool:
    """Return whether tanh may be 2 sigmoid(2x) - 1 here: float32 on the CPU, where ATen's tanh is slow."""
    return source.dtype == torch.float32 and source.device.type == "cpu"


def reaches(source: Tensor, least: float) -> bool:
    """Return whether some value is at least `least`."""
    return source.numel() > 0 and source.amax().item() >= least


def tanh_(source: Tensor, out: Tensor, *, exact: bool = False) -> Tensor:
    """tanh of source, written to out: where that is faster as 2 sigmoid(2x) - 1, off by at most 2e-7.

    The largest value of source is looked at first, so that the error is small beside the largest result: small values
    (1e-4, say) among themselves would lose most of their digits. `exact` keeps the digits of every value, up to three
    units in its last place, for networks with layer normalisation: it divides by the spread of its input, and an error
    that is small beside the largest value grows with every step.
    """
    if exact and source.numel() >= MIN_EXPM1 and quick(source):
        # From 40 on it is 1; expm1 would be infinite.
        grown = torch.add(source, source, out=out).clamp_(max=40).expm1_()
        return grown.div_(torch.add(grown, _TWO))
    if exact or source.numel() < MIN_TANH or not quick(source) or not reaches(source, MIN_REACH):
        return torch.tanh(source, out=out)
    # x + x and a tensor for -1, because a Python number costs a conversion on every call.
    return torch.add(_MINUS_ONE, torch.add(source, source, out=out).sigmoid_(), alpha=2, out=out)
