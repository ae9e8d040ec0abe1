"""A Triton kernel is asked once on a device whether it agrees with the hand-derived kernel, before it is used.

What a card and a version of Triton make of a kernel cannot be known beforehand, and a wrong result looks like a
right one.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.cell import Cell
from seqkit.nn.cells.gru import GRUCell
from seqkit.nn.cells.lstm import LSTMCell
from seqkit.nn.cells.rnn import RNNCell
from seqkit.nn.kernels.autograd import kernel_scan
from seqkit.nn.kernels.gru import GRUKernel
from seqkit.nn.kernels.kernel import Kernel
from seqkit.nn.kernels.lstm import LSTMKernel
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.rnn import RNNKernel
from seqkit.nn.kernels.triton import counterparts

_CELLS: dict[type[Kernel], type[Cell]] = {LSTMKernel: LSTMCell, GRUKernel: GRUCell, RNNKernel: RNNCell}
# Several blocks of rows and of units, uneven lengths, and one sequence without a step.
_ROWS, _FEATURES, _UNITS, _STEPS = 37, 8, 48, 6
# Differences as a share of the largest value: rounding stays far below, a row or a step out of place far above.
_BOUNDS = {torch.float32: 5e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def agrees(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a kernel has a Triton counterpart that gives its results and gradients on a device.

    The answer is kept for the process. A kernel that does not agree is named in a warning.
    """
    counterpart = counterparts.triton_kernel(kernel)
    if counterpart is None or type(kernel) not in _CELLS:
        return False
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return True  # nothing may be read while a graph is captured, and warming it up has asked before
    return _agrees(kernel, device, dtype)


@lru_cache(maxsize=256)
def _agrees(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> bool:
    counterpart = counterparts.triton_kernel(kernel)
    assert counterpart is not None
    try:
        error = _difference(kernel, counterpart, device, dtype)
        fault = None if error <= _BOUNDS[dtype] else f"is off by {error:.1e}"
    except Exception as failure:  # whatever compiling and launching a kernel may raise on a card never seen
        fault = f"fails with {type(failure).__name__}: {str(failure).strip().splitlines()[:1]}"
    if fault is None:
        return True
    options = ", ".join(f"{name}={value!r}" for name, value in asdict(kernel).items())  # type: ignore[call-overload]
    name = f"{_CELLS[type(kernel)].__name__}({options})"
    warnings.warn(
        f"Triton's kernel of {name} {fault} on {device} in {dtype}: it is not used, and another kernel is, which is "
        "slower; please report this card and the versions of torch and triton",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def _difference(kernel: Kernel, counterpart: Kernel, device: torch.device, dtype: torch.dtype) -> float:
    """Return the largest difference of two kernels, as a share of the largest value (at least 1) of that result."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        problem = _problem(kernel, device, dtype)
        pairs = list(zip(_results(counterpart, *problem), _results(kernel, *problem), strict=True))
        shares = [(got - want).abs().max() / want.abs().max().clamp_min(1.0) for got, want in pairs]
        return float(torch.stack(shares).max())


def _problem(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return a cell in evaluation, packed rows, their layout and the states before."""
    generator = torch.Generator("cpu").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cpu").to(device, dtype)

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        cell = _CELLS[type(kernel)](_FEATURES, _UNITS, **asdict(kernel))  # type: ignore[call-overload]
    cell = cell.to(device, dtype).eval()
    lengths = torch.arange(_ROWS, device="cpu") % (_STEPS + 1)
    packing = Packing.from_lengths(lengths, _STEPS, device)
    rows = drawn(int(lengths.sum()), _FEATURES)
    return cell, rows, packing, tuple(drawn(_ROWS, size) for size in cell.state_sizes)


def _results(kernel: Kernel, cell: Cell, rows: Tensor, packing: Packing, states: tuple[Tensor, ...]) -> list[Tensor]:
    """Return outputs, final states and all gradients, in float32."""
    x, *begin = (value.detach().clone().requires_grad_() for value in (rows, *states))
    prepared = cell.prepare(cell.weights(), packing.batch_sizes)
    output, finals = kernel_scan(cell, kernel, x, packing, tuple(begin), prepared)
    loss = sum(part.float().square().sum() for part in (output, *finals))
    grads = torch.autograd.grad(loss, [x, *begin, *cell.parameters()], allow_unused=True)  # type: ignore[arg-type]
    return [part.detach().float() for part in (output, *finals, *grads) if part is not None]
