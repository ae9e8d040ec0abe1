"""Triton's kernels: one launch for all steps of a layer-direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.nn.agreement import agrees
from seqkit.nn.backends.backend import Backend, Route
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import dtype_name
from seqkit.nn.kernels.autograd import kernel_scan
from seqkit.nn.kernels.kernel import Kernel
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton import counterparts, support
from seqkit.nn.network import Network


class Triton(Backend):
    """The counterparts of the cells' kernels."""

    def route(self, network: Network, x: Tensor, packing: Packing, reason: str) -> Route | str:
        if network.backend == "auto":
            taken = x.device.type == "cuda" and triton_refuses(network.cells, x) is None
            return Route("triton", "all steps in one launch") if taken else ""
        return triton_refuses(network.cells, x) or Route("triton", reason)

    def scan(
        self, cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared
    ) -> tuple[Tensor, State]:
        kernel = counterparts.triton_kernel(cell.kernel())
        assert kernel is not None  # `route` has asked
        return kernel_scan(cell, kernel, rows, packing, state, prepared)


def triton_refuses(cells: Sequence[Cell], x: Tensor) -> str | None:
    """Return why Triton's kernels cannot run a call; None if they can."""
    if x.device.type != "cuda" and not support.interpreted():
        return f"it needs a CUDA device, and the input is on {x.device.type}"
    if not support.available():
        least = ".".join(map(str, support.MIN_VERSION))
        return f"it needs an NVIDIA card from Ampere on and Triton {least} or later (pip install triton)"
    if x.dtype not in support.DTYPES:
        return f"it computes in float32, float16 and bfloat16, and the input is {dtype_name(x)}"
    if not triton_serves(cells, x.device, x.dtype):
        return f"no Triton kernel serves this {type(cells[0]).__name__} here"
    return None


def triton_serves(cells: Sequence[Cell], device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether every cell has a Triton kernel that agrees with its own."""
    kernels = (cell.kernel() for cell in cells)
    return all(kernel is not None and agrees(kernel, device, dtype) for kernel in kernels)


def operator_kernel(kernel: Kernel, like: Tensor) -> Kernel:
    """Return what `seqkit::scan` computes with: on a CUDA device the kernel's Triton form where there is one."""
    if like.device.type != "cuda" or like.dtype not in support.DTYPES:
        return kernel
    counterpart = counterparts.triton_kernel(kernel) if agrees(kernel, like.device, like.dtype) else None
    return kernel if counterpart is None or counterpart.takes_projected != kernel.takes_projected else counterpart
