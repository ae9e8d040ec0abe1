"""The products of the Triton kernels that take all steps at once, which are left to torch's GEMM."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkit.nn.kernels.kernel import Tensors
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton.launch import Plan


def project(tensors: Tensors, bias: bool = True) -> Tensor:
    """Return the input's part of every step's sums, W_ih x + b_ih, or without the bias: (N, G)."""
    x, weight, added = tensors["x"], tensors["weight_ih"], tensors.get("bias_ih") if bias else None
    return torch.mm(x, weight.t()) if added is None else torch.addmm(added, x, weight.t())


def turned(weight: Tensor, holds: bool) -> Tensor:
    """W_hh (G, H) as a backward kernel reads it: once, and so as it is; or at every step, and so transposed."""
    return weight.contiguous() if holds else weight.t().contiguous()


def optional(tensors: Tensors, *names: str) -> list[Tensor | None]:
    """Weights and masks that may be missing, contiguous."""
    return [None if (value := tensors.get(name)) is None else value.contiguous() for name in names]


def before_buffer(tensors: Tensors, packing: Packing, rows: int) -> Tensor | None:
    """(N, H) for what W_hh was multiplied with; None where the history of the states holds just that."""
    if packing.is_full and "mask_recurrent" not in tensors:
        return None
    return tensors["h0"].new_empty(rows, tensors["h0"].size(1))


def bias_buffer(plan: Plan, gates: Tensor, needed: frozenset[str], norm: bool) -> Tensor | None:
    """(row blocks, 2, G), float32, for the sums of the gradients of W_ih x and of W_hh h; None: no kernel adds them up.

    They are two, even where they are equal: autograd would copy one tensor that is to be the gradient of two.
    """
    if norm or not plan.persistent or not needed & {"bias_ih", "bias_hh"}:
        return None
    return gates.new_empty(plan.row_blocks, 2, gates.size(1), dtype=torch.float32)


def weight_gradients(
    tensors: Tensors,
    delta_x: Tensor,
    delta_h: Tensor,
    before: Tensor,
    needed: frozenset[str],
    bias_sums: Tensor | None = None,
) -> Tensors:
    """One GEMM for each gradient, over all steps.

    Args:
        delta_x, delta_h: (N, G), gradients of W_ih x and of W_hh h.
        before: (N, H), what W_hh was multiplied with.
        bias_sums: the row blocks' sums of both, see `bias_buffer`.
    """
    result: Tensors = {}
    if "x" in needed:
        result["x"] = torch.mm(delta_x, tensors["weight_ih"])
    if "weight_ih" in needed:
        result["weight_ih"] = torch.mm(delta_x.t(), tensors["x"])
    if "weight_hh" in needed:
        result["weight_hh"] = torch.mm(delta_h.t(), before)
    if bias_sums is not None:
        total = bias_sums[0] if bias_sums.size(0) == 1 else bias_sums.sum(0)
        result["bias_ih"], result["bias_hh"] = total.to(delta_x.dtype).unbind()
    elif needed & {"bias_ih", "bias_hh"}:
        result["bias_hh"] = delta_h.sum(0)
        result["bias_ih"] = result["bias_hh"] if delta_x is delta_h else delta_x.sum(0)
    return result
