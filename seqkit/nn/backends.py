"""Which backend runs a call, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from seqkit.nn.cells.cell import Cell, Prepared, State
from seqkit.nn.fused import kernel_scan
from seqkit.nn.packing import Packing
from seqkit.nn.scan import reference_scan
from seqkit.nn.vendor import uses_onednn, vendor_scan

if TYPE_CHECKING:
    from seqkit.nn.recurrent import Recurrent


class Choice(NamedTuple):
    """The backend of a call and the reason for it."""

    name: Literal["reference", "fused", "vendor"]
    reason: str


def choose(module: Recurrent, data: Tensor, packing: Packing) -> Choice:
    """Pick the backend for packed input data (N, I)."""
    if module.backend == "reference":
        return Choice("reference", "asked for")
    if not packing.batch_sizes:
        return Choice("reference", "no sequence has a step")
    if transformed():
        return Choice("reference", "inside torch.func or forward-mode differentiation, which need the step loop")
    cells = [module.cell_at(index) for index in range(len(module.cells))]
    if any(cell.kernel() is None for cell in cells):
        return Choice("reference", f"{type(cells[0]).__name__} has no fused kernel")
    if module.backend == "fused":
        return Choice("fused", "asked for")
    mode = cells[0].vendor_mode()
    if module.backend == "vendor":
        if mode is None:
            raise RuntimeError("backend 'vendor' serves plain cells only, and this one has a variant that is active")
        return Choice("vendor", "asked for")
    if mode is None:
        return Choice("fused", "a variant that ATen's kernels lack is active")
    return _fastest(mode, data, packing, module)


def _fastest(mode: str, data: Tensor, packing: Packing, module: Recurrent) -> Choice:
    """The table of `auto` for plain cells."""
    if data.device.type != "cpu":
        return Choice("vendor", "plain cell off the CPU")
    training = torch.is_grad_enabled() and (
        data.requires_grad or any(value.requires_grad for value in module.parameters())
    )
    rows, hidden_size = packing.batch_sizes[0], module.hidden_size
    first = next(module.parameters())
    if uses_onednn(mode, data, first):
        if hidden_size >= 512 and not packing.is_rectangle:
            return Choice("fused", "LSTM of 512 units or more on uneven lengths: no work is spent on padding")
        return Choice("vendor", "oneDNN's LSTM")
    if not training and rows * hidden_size < 8192:
        return Choice("vendor", "inference with small steps: ATen's loop has less overhead")
    return Choice("fused", "no vendor kernel on this device; hand-derived backward")


def transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is active."""
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    try:
        return bool(torch._C._functorch.maybe_current_level() is not None)
    except AttributeError:
        return False


def scan(
    backend: str, cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared
) -> tuple[Tensor, State]:
    """Run one cell in one direction on the given backend: rows (N, F) to outputs (N, output_size) and final state."""
    kernel, mode = cell.kernel(), cell.vendor_mode()
    if backend == "vendor" and mode is not None:
        return vendor_scan(cell, mode, rows, packing, state, prepared)
    if backend == "fused" and kernel is not None:
        return kernel_scan(cell, kernel, rows, packing, state, prepared)
    return reference_scan(cell, cell.project(rows, prepared), packing.batch_sizes, state, prepared)
