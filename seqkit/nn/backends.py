"""Which backend runs a call, and why: the one place that every road asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from seqkit.nn.agreement import agrees
from seqkit.nn.aten import uses_onednn, vendor_scan
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import check_choice, dtype_name, exporting_onnx, tracing, transformed
from seqkit.nn.cudnn import serves as cudnn_serves
from seqkit.nn.exported_loops import loops_exported
from seqkit.nn.kernels.autograd import kernel_scan
from seqkit.nn.kernels.kernel import Kernel
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.reference import reference_scan
from seqkit.nn.kernels.triton import counterparts, support
from seqkit.nn.kernels.tuning import (
    FEW_STEPS,
    FEW_STEPS_TRAINING,
    FEW_UNITS,
    LARGE_STEP,
    MANY_UNITS,
    SMALL_STEP,
)
from seqkit.nn.network import Network

Name = Literal["reference", "fused", "vendor", "triton"]


class Choice(NamedTuple):
    """The backend of a call and the reason for it.

    Attributes:
        name: of the backend.
        reason: in words.
    """

    name: Name
    reason: str


class Route(NamedTuple):
    """How a call runs.

    Attributes:
        name, reason: see `Choice`.
        whole: ATen's name of the network where one call serves all layers and directions; None: one after another.
        operator: whether a layer-direction is one opaque operator, for a compiler or a trace.
        onnx: whether a layer-direction is one node of ONNX.
        loop: whether a layer-direction is one loop of an exported program.
    """

    name: Name
    reason: str
    whole: str | None = None
    operator: bool = False
    onnx: bool = False
    loop: bool = False


def choose(network: Network, x: Tensor, packing: Packing, *, open_lengths: bool = False) -> Route:
    """Pick how a call runs.

    Args:
        x: the input, padded or packed, in the dtype that is computed with.
        open_lengths: for a compiler, x holds all rows of the padded layout and the lengths come as a tensor.

    Raises:
        RuntimeError: the backend that was asked for cannot run this call.
    """
    backend = network.backend
    if exporting_onnx():
        return Route("reference", "one node of ONNX for each layer and direction", onnx=True)
    if by_loop(network, x) and (open_lengths or not isinstance(packing.num_steps, int)):
        return Route("reference", "one loop for each layer and direction inside torch.export", loop=True)
    if backend == "reference":
        return Route("reference", "asked for")
    if not open_lengths and (route := _recorded_whole(network, x, packing)) is not None:
        return route
    if x.is_complex():
        if backend != "auto":
            raise RuntimeError(
                f"backend {backend!r} computes with real numbers, and the input is {dtype_name(x)}; "
                "take 'auto' or 'reference'"
            )
        return Route("reference", "complex numbers, whose gradients only the step loop has")
    traced = tracing()
    if traced or torch.compiler.is_compiling():
        if by_operator(network, x):
            return Route(
                "fused",
                "one operator for each layer and direction (on a CUDA device it may be Triton's)",
                operator=True,
            )
        if traced:
            return Route("reference", "inside torch.jit.trace, which can record the step loop alone")
    if packing.first_rows == 0:
        return Route("reference", "no sequence has a step")
    if transformed():
        return Route("reference", "inside torch.func or forward-mode differentiation, which need the step loop")
    for cell in network.cells:
        if not cell.has_kernel:
            return Route("reference", f"{type(cell).__name__} has no fused kernel")
    if backend == "fused":
        return Route("fused", "asked for")
    if backend == "triton":
        if (why := triton_refuses(network.cells, x)) is not None:
            raise RuntimeError(f"backend 'triton' cannot run this call: {why}; take 'auto' or 'fused'")
        return Route("triton", "asked for")
    mode = _mode(network, x.device.type)
    name: Name = "vendor"
    reason = "asked for"
    if backend == "auto":
        name, reason = _table(network, mode, x, packing)
    elif check_choice("backend", backend, ("vendor",)) and mode is None:
        raise RuntimeError("backend 'vendor' serves plain cells only, and this one has a variant that is active")
    return Route(name, reason, _whole_mode(network, mode, x, packing) if name == "vendor" else None)


def _recorded_whole(network: Network, x: Tensor, packing: Packing) -> Route | None:
    """Return ATen's own operator for all layers where a trace or an export can hold it, else None."""
    # In torch.export, where dynamo is not at work, ATen's operators fix the number of steps.
    exported = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    fixed = exported and isinstance(packing.num_steps, int)
    if not (tracing() or fixed) or network.backend not in ("auto", "vendor"):
        return None
    mode = _whole_mode(network, _mode(network, x.device.type), x, packing)
    if mode is None:
        return None
    place = "torch.export of a fixed length" if exported else "torch.jit.trace, where it is open to any size"
    return Route("vendor", f"ATen's own operator inside {place}", mode)


def by_operator(network: Network, x: Tensor) -> bool:
    """Tell whether a compiler, exporter or `torch.jit.trace` looks at this call, and an operator takes its lengths."""
    if exporting_onnx():
        return True
    return (
        (torch.compiler.is_compiling() or tracing())
        and network.backend != "reference"
        and not x.is_complex()
        and all(cell.operator is not None for cell in network.cells)
    )


def by_loop(network: Network, x: Tensor) -> bool:
    """Tell whether `torch.export` looks at this call, no operator serves it, and a loop of torch's own does."""
    return loops_exported() and not exporting_onnx() and not by_operator(network, x)


def operator_kernel(kernel: Kernel, like: Tensor) -> Kernel:
    """Return what `seqkit::scan` computes with: on a CUDA device the kernel's Triton form where there is one."""
    if like.device.type != "cuda" or like.dtype not in support.DTYPES:
        return kernel
    counterpart = counterparts.triton_kernel(kernel) if agrees(kernel, like.device, like.dtype) else None
    return kernel if counterpart is None or counterpart.takes_projected != kernel.takes_projected else counterpart


def _mode(network: Network, device_type: str) -> str | None:
    """Return ATen's name of what all cells compute in their present mode, or None if it has none on such a device."""
    first: str | None = None
    for cell in network.cells:
        mode = cell.cudnn_mode() if device_type == "cuda" else cell.vendor_mode()
        if mode is None or (first is not None and mode != first):
            return None
        first = mode
    return first


def _whole_mode(network: Network, mode: str | None, x: Tensor, packing: Packing) -> str | None:
    """Return the mode if one call of ATen serves all layers and directions, else None."""
    if mode is None or network.residual:
        return None
    cudnn = cudnn_serves(mode, x)
    # Our own dropout, whose masks a second derivative can see; cuDNN's stay inside it.
    if network.training and (network.locked_dropout or (cudnn and network.dropout and network.num_layers > 1)):
        return None
    if network.checkpoint_chunks > 1 and torch.is_grad_enabled():
        return None
    if packing.is_full or cudnn:
        return mode
    # ATen's packed kernels want every sequence to have a step, never reach oneDNN, and are slow to train.
    unfit = torch.is_grad_enabled() or uses_onednn(mode, x) or packing.first_rows < packing.batch_size
    return None if unfit else mode


def _table(network: Network, mode: str | None, x: Tensor, packing: Packing) -> tuple[Name, str]:
    """Return the choice of `auto`."""
    kind = x.device.type
    if kind == "cuda":
        return _on_cuda(network, mode, x, packing)
    if kind != "cpu":
        return "fused", f"no kernel of {kind}'s own is known to be right"
    if mode is None:
        return "fused", "a variant that ATen's kernels lack is active"
    return _on_cpu(network, mode, x, packing)


def triton_refuses(cells: Sequence[Cell], x: Tensor) -> str | None:
    """Tell why Triton's kernels cannot run a call; None if they can."""
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
    """Tell whether every cell has a Triton kernel that agrees with its own."""
    kernels = (cell.kernel() for cell in cells)
    return all(kernel is not None and agrees(kernel, device, dtype) for kernel in kernels)


def _on_cuda(network: Network, mode: str | None, x: Tensor, packing: Packing) -> tuple[Name, str]:
    """Choose for `auto` on CUDA, by this table.

    Measured with `scripts/device/check.py --parts speed` on an NVIDIA H100 80GB HBM3, torch 2.11, Triton 3.6,
    cuDNN 9.19, float32 (cuDNN in TF32, as torch has it), milliseconds, (T, B, I, H); on other cards: not measured.

    | case | vendor | triton | fused | taken |
    |---|---|---|---|---|
    | LSTM / GRU training, full, (64,16,64,64) | 3.03 / 2.72 | 2.54 / 2.43 | 20.4 / 21.8 | triton |
    | LSTM / GRU training, full, (50,32,256,256) | 4.9 / 4.39 | 2.21 / 2.07 | 15.6 / 15.9 | triton |
    | LSTM / GRU training, full, (200,32,300,512) | 12.2 / 13.4 | 4.3 / 3.92 | 48.2 / 94.6 | triton |
    | LSTM / GRU training, full, (30,64,512,1024) | 4.42 / 10.5 | 3.83 / 4.68 | 11.4 / 13.4 | triton |
    | LSTM / GRU training, ragged, (100,64,256,256) | 10.1 / 9.09 | 3.99 / 3.78 | 34.7 / 34.6 | triton |
    | LSTM / GRU inference, full, (50,32,128,128) | 0.673 / 0.731 | 0.747 / 0.777 | 6.61 / 9.14 | vendor |
    | LSTM / GRU inference, full, (100,64,256,256) | 3.22 / 2.96 | 1.1 / 0.836 | 13.3 / 18.3 | triton |
    | LSTM / GRU inference, full, (30,64,512,1024) | 1.01 / 1.6 | 1.42 / 1.66 | 3.54 / 6.36 | vendor |
    | LSTM / GRU inference, ragged, (64,16,64,64) | 3.13 / 3.82 | 1.67 / 1.91 | 8.98 / 12.2 | triton |
    | LSTM / GRU inference, ragged, (30,64,512,1024) | 2.27 / 2.41 | 1.95 / 2.59 | 6.14 / 7.15 | triton |
    """
    cudnn = mode is not None and cudnn_serves(mode, x)
    if cudnn and packing.is_full and not _trains(network, x):
        if network.hidden_size <= FEW_UNITS:
            return "vendor", "cuDNN's network: inference with few units"
        if network.hidden_size >= MANY_UNITS and mode in ("LSTM", "GRU"):
            return "vendor", "cuDNN's network: inference with many units"
    if triton_refuses(network.cells, x) is None:
        return "triton", "all steps in one launch"
    return ("vendor", "cuDNN's network") if cudnn else ("fused", "hand-derived backward")


def _trains(network: Network, x: Tensor) -> bool:
    """Tell whether a gradient will be asked for."""
    return torch.is_grad_enabled() and (x.requires_grad or any(value.requires_grad for value in network.parameters()))


def _on_cpu(network: Network, mode: str, x: Tensor, packing: Packing) -> tuple[Name, str]:
    """Choose for `auto` on the CPU, for plain cells, by this table.

    Measured with `scripts/bench/nn.py`, torch 2.13, one core of an AMD EPYC (Zen 5), milliseconds, (T, B, I, H):

    | case | vendor | fused | taken |
    |---|---|---|---|
    | LSTM training, full, (50,32,256,256) / (200,32,300,512) | 27.5 / 413 | 37.1 / 427 | vendor |
    | LSTM training, ragged, (50,32,128,128) / (50,32,256,256) | 10.6 / 30.1 | 13.7 / 32.5 | vendor |
    | LSTM training, ragged, (100,64,256,256), vendor in 3 stretches | 118 | 104 | fused |
    | GRU / RNN training, full, (50,32,128,128) | 15.9 / 5.5 | 11.3 / 4.1 | fused |
    | GRU / RNN inference, full, (64,16,64,64) | 1.4 / 0.6 | 1.7 / 0.7 | vendor |
    | GRU / RNN inference, full, (50,32,128,128) | 4.3 / 1.8 | 3.5 / 1.3 | fused |
    | GRU / RNN training, full, (1,32,64,64), one step of a decoder | 0.29 / 0.18 | 0.44 / 0.28 | vendor |
    | GRU / RNN training, full, (4,8,256,256) | 2.1 / 0.6 | 4.8 / 1.0 | vendor |
    | GRU / RNN training, full, (8,64,256,256) | 25 / 9.4 | 18 / 8.2 | fused |
    | GRU / RNN inference, full, (1,64,256,256) | 0.82 / 0.35 | 1.04 / 0.48 | vendor |
    | GRU / RNN inference, full, (4,64,256,256) | 2.6 / 1.0 | 2.1 / 0.9 | fused |
    """
    living, hidden_size = packing.first_rows, network.hidden_size
    if uses_onednn(mode, x):
        if living * hidden_size >= LARGE_STEP and not packing.is_rectangle:
            return "fused", "LSTM with large steps on uneven lengths: no work is spent on padding"
        return "vendor", "oneDNN's LSTM"
    training = _trains(network, x)
    if packing.num_steps <= (FEW_STEPS_TRAINING if training else FEW_STEPS):
        return "vendor", "a few steps: ATen's loop has less overhead"
    if not training and living * hidden_size < SMALL_STEP:
        return "vendor", "inference with small steps: ATen's loop has less overhead"
    return "fused", "faster than ATen's loop; hand-derived backward"


def scan(
    backend: str, cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared
) -> tuple[Tensor, State]:
    """Run one cell in one direction on the given backend: rows (N, F) to outputs (N, output_size) and final state."""
    if backend == "vendor":
        mode = cell.cudnn_mode() if rows.is_cuda else cell.vendor_mode()
        if mode is not None:
            return vendor_scan(cell, mode, rows, packing, state, prepared)
    if backend in ("fused", "triton"):
        kernel = cell.kernel()
        if kernel is not None and backend == "triton":
            kernel = counterparts.triton_kernel(kernel)
        if kernel is not None:
            return kernel_scan(cell, kernel, rows, packing, state, prepared)
    check_choice("backend", backend, get_args(Name))
    return reference_scan(cell, cell.project(rows, prepared), packing.batch_sizes, state, prepared)
