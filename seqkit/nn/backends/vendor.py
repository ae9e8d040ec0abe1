"""The machine's own kernels for plain cells (oneDNN, cuDNN, ATen's loops), and where `auto` takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.nn.aten import uses_onednn, vendor_scan, whole_network
from seqkit.nn.backends.backend import Backend, Route, trains
from seqkit.nn.backends.triton import triton_refuses
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import tracing
from seqkit.nn.cudnn import serves as cudnn_serves
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.tuning import (
    FEW_STEPS,
    FEW_STEPS_GRU,
    FEW_STEPS_RNN,
    FEW_STEPS_TRAINING,
    FEW_UNITS,
    LARGE_STEP,
    MANY_UNITS,
    SMALL_STEP,
    WIDE_LOW,
)
from seqkit.nn.network import Network

_VARIANT = "a variant that ATen's kernels lack is active"


class Vendor(Backend):
    """oneDNN's LSTM, cuDNN's networks, and ATen's loops."""

    def unfit(self, cells: Sequence[Cell]) -> str | None:
        if all(cell.cudnn_mode() is not None for cell in cells):
            return None
        return "serves plain RNN, LSTM and GRU only; take 'auto' or 'fused' for variants"

    def route(self, network: Network, x: Tensor, packing: Packing, reason: str) -> Route | str:
        mode, kind = _mode(network, x.device.type), x.device.type
        if network.backend == "auto":
            if kind not in ("cpu", "cuda"):
                return f"no kernel of {kind}'s own is known to be right"
            if mode is None:
                return _VARIANT if kind == "cpu" else ""
            taken, reason = (_on_cuda if kind == "cuda" else _on_cpu)(network, mode, x, packing)
            if not taken:
                return reason
        elif mode is None:
            return _VARIANT
        return Route("vendor", reason, _whole_mode(network, mode, x, packing))

    def scan(
        self, cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared
    ) -> tuple[Tensor, State]:
        mode = _cell_mode(cell, rows.device.type)
        assert mode is not None  # `route` has asked
        return vendor_scan(cell, mode, rows, packing, state, prepared)

    def whole(self, network: Network, how: str, x: Tensor, states: State, packing: Packing) -> tuple[Tensor, State]:
        return whole_network(network, how, x, states, packing)


def recorded_whole(network: Network, x: Tensor, packing: Packing) -> Route | None:
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


def _mode(network: Network, device_type: str) -> str | None:
    """Return ATen's name of what all cells compute in their present mode, or None if it has none on such a device."""
    first: str | None = None
    for cell in network.cells:
        mode = _cell_mode(cell, device_type)
        if mode is None or (first is not None and mode != first):
            return None
        first = mode
    return first


def _cell_mode(cell: Cell, device_type: str) -> str | None:
    return cell.cudnn_mode() if device_type == "cuda" else cell.vendor_mode()


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


def _on_cpu(network: Network, mode: str, x: Tensor, packing: Packing) -> tuple[bool, str]:
    """Return whether `auto` takes ATen's kernels on the CPU, and why or why not, by this table.

    Measured with `scripts/bench/nn.py`, torch 2.13, one core of an AMD EPYC (Zen 5), milliseconds, (T, B, I, H):

    | case | vendor | fused | taken |
    |---|---|---|---|
    | LSTM training, full, (50,32,256,256) / (200,32,300,512) | 27.5 / 413 | 37.1 / 427 | vendor |
    | LSTM training, ragged, (50,32,128,128) / (50,32,256,256) | 10.6 / 30.1 | 13.7 / 32.5 | vendor |
    | LSTM training, ragged, (100,64,256,256), vendor in 3 stretches | 118 | 104 | fused |
    | bfloat16: LSTM training, ragged, (50,32,128,128) / (50,32,256,256) | 5.1 / 17.0 | 9.2 / 20.8 | vendor |
    | bfloat16: LSTM training, ragged, (50,64,256,256) / (50,32,512,512) | 29.1 / 63.8 | 33.9 / 52.3 | fused |
    | bfloat16: LSTM training, full, (100,64,256,256) / (50,32,384,384) | 69.5 / 29.5 | 71.5 / 37.2 | vendor |
    | bfloat16: LSTM training, full, (50,64,512,512) / (30,64,512,1024) | 157 / 303 | 117 / 213 | fused |
    | bfloat16: LSTM inference, ragged, (100,64,256,256) / (50,32,512,512) | 18.6 / 18.1 | 24.4 / 20.1 | vendor |
    | GRU / RNN training, full, (50,32,128,128) | 15.9 / 5.5 | 11.3 / 4.1 | fused |
    | GRU / RNN inference, full, (64,16,64,64) | 1.4 / 0.6 | 1.7 / 0.7 | vendor |
    | GRU / RNN inference, full, (50,32,128,128) | 4.3 / 1.8 | 3.5 / 1.3 | fused |
    | GRU inference, ragged, (50,32,128,128) / (50,24,128,128) | 4.2 / 3.4 | 4.3 / 4.0 | vendor |
    | GRU / RNN training, full, (1,32,64,64), one step of a decoder | 0.29 / 0.18 | 0.44 / 0.28 | vendor |
    | GRU / RNN training, full, (8,32,64,64) | 1.15 / 0.41 | 1.34 / 0.61 | vendor |
    | GRU / RNN training, full, (13,32,128,128) / (14,32,128,128) | 4.6 / 1.6 | 4.3 / 1.6 | fused / vendor |
    | RNN training, full, (14,20,200,200) / (24,20,200,200) | 2.3 / 4.0 | 2.3 / 3.5 | vendor / fused |
    | GRU / RNN training, full, (8,64,256,256) | 15.5 / 5.4 | 13.3 / 6.7 | fused / vendor |
    | RNN training, full, (18,64,256,256) | 12.1 | 11.3 | fused |
    | GRU / RNN inference, full, (1,64,256,256) | 0.82 / 0.35 | 1.04 / 0.48 | vendor |
    | GRU / RNN inference, full, (4,64,256,256) | 2.6 / 1.0 | 2.1 / 0.9 | fused |
    """
    living, hidden_size = packing.first_rows, network.hidden_size
    if uses_onednn(mode, x):
        if living * hidden_size < LARGE_STEP:
            return True, "oneDNN's LSTM"
        low = x.dtype == torch.bfloat16
        if not packing.is_rectangle and (not low or trains(network, x)):
            return False, "LSTM with large steps on uneven lengths: no work is spent on padding"
        wide = hidden_size >= WIDE_LOW and packing.num_steps > FEW_STEPS_TRAINING
        if low and wide and trains(network, x):
            return False, "LSTM with many units in bfloat16: oneDNN's backward pass is slower"
        return True, "oneDNN's LSTM"
    step, training = living * hidden_size, trains(network, x)
    if not packing.is_full:
        step = sum(packing.batch_sizes) * hidden_size // len(packing.batch_sizes)
    reason = few_or_small_steps(mode, packing.num_steps, step, training, full=packing.is_full)
    return (True, reason) if reason else (False, "faster than ATen's loop; hand-derived backward")


def few_or_small_steps(mode: str, num_steps: int, step: int, training: bool, *, full: bool = True) -> str | None:
    """Return why ATen's loop is faster on the CPU than the fused kernel; None: it is not.

    Args:
        mode: ATen's name of the cell.
        num_steps: T.
        step: rows times units of a step, on average.
        training: whether a gradient will be asked for.
        full: whether all sequences have all steps.
    """
    few = FEW_STEPS
    if training and not full:
        few = FEW_STEPS_TRAINING
    elif training:
        few = FEW_STEPS_RNN if mode.startswith("RNN") else FEW_STEPS_GRU
        few = few // 2 if step >= LARGE_STEP else few
    if num_steps <= few:
        return "a few steps: ATen's loop has less overhead"
    if not training and step < SMALL_STEP:
        return "inference with small steps: ATen's loop has less overhead"
    return None


def _on_cuda(network: Network, mode: str, x: Tensor, packing: Packing) -> tuple[bool, str]:
    """Return whether `auto` takes cuDNN's networks, and why, by this table.

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
    if not cudnn_serves(mode, x):
        return False, ""
    if packing.is_full and not trains(network, x):
        if network.hidden_size <= FEW_UNITS:
            return True, "cuDNN's network: inference with few units"
        if network.hidden_size >= MANY_UNITS and mode in ("LSTM", "GRU"):
            return True, "cuDNN's network: inference with many units"
    slower = triton_refuses(network.cells, x) is None
    return (False, "") if slower else (True, "cuDNN's network")
