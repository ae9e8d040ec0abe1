"""Which backend runs a call, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from seqkit.nn.aten import surrounded, uses_onednn, vendor_scan, whole_network
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import autocast_enabled, check_choice, dtype_name, tracing, transformed
from seqkit.nn.cudnn import serves as cudnn_serves
from seqkit.nn.kernels import kernel_scan, triton
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.reference import reference_scan
from seqkit.nn.kernels.triton.agreement import agrees
from seqkit.nn.layout import check_input, initial_states

if TYPE_CHECKING:
    from seqkit.nn.recurrent import Recurrent


class Choice(NamedTuple):
    """The backend of a call and the reason for it.

    Attributes:
        name: of the backend.
        reason: in words.
    """

    name: Literal["reference", "fused", "vendor", "triton"]
    reason: str


def choose(module: Recurrent, data: Tensor, packing: Packing) -> Choice:
    """Pick the backend for input data, padded or packed."""
    if module.backend == "reference":
        return Choice("reference", "asked for")
    if data.is_complex():
        if module.backend != "auto":
            raise RuntimeError(
                f"backend {module.backend!r} computes with real numbers, and the input is {dtype_name(data)}; "
                "take 'auto' or 'reference'"
            )
        return Choice("reference", "complex numbers, whose gradients only the step loop has")
    if tracing():
        return Choice("reference", "inside torch.jit.trace, which can record the step loop alone")
    if packing.first_rows == 0:
        return Choice("reference", "no sequence has a step")
    if transformed():
        return Choice("reference", "inside torch.func or forward-mode differentiation, which need the step loop")
    if not module.has_kernels:
        return Choice("reference", f"{type(module.cell_at(0)).__name__} has no fused kernel")
    if module.backend == "fused":
        return Choice("fused", "asked for")
    if module.backend == "triton":
        if (why := triton_refuses(module, data)) is not None:
            raise RuntimeError(f"backend 'triton' cannot run this call: {why}; take 'auto' or 'fused'")
        return Choice("triton", "asked for")
    kind = data.device.type
    mode = module.vendor_mode(kind)
    if module.backend == "vendor":
        if mode is None:
            raise RuntimeError("backend 'vendor' serves plain cells only, and this one has a variant that is active")
        return Choice("vendor", "asked for")
    check_choice("backend", module.backend, ("auto",))
    if kind == "cuda":
        return _on_cuda(mode, data, packing, module)
    if kind != "cpu":
        return Choice("fused", f"no kernel of {kind}'s own is known to be right")
    if mode is None:
        return Choice("fused", "a variant that ATen's kernels lack is active")
    return _on_cpu(mode, data, packing, module)


def whole_batch(module: Recurrent, input: Any, hx: Any) -> tuple[Tensor, State] | None:
    """oneDNN's LSTM or cuDNN's network on a full padded batch, without a look at what only other calls need; None for
    those.

    The general way comes to the same call, but where the kernels have emptied the caches its Python costs 60 us more,
    5 % of a training step at (T, B, H) = (64, 16, 64) on the CPU.
    """
    if not isinstance(input, Tensor) or input.dim() != 3 or module.backend not in ("auto", "vendor"):
        return None
    kind = input.device.type
    mode = module.vendor_mode(kind) if kind in ("cpu", "cuda") else None
    if mode is None or not (uses_onednn if kind == "cpu" else cudnn_serves)(mode, input):
        return None
    if not input.numel() or surrounded(module, mode, input):
        return None
    x = input.transpose(0, 1) if module.batch_first else input
    packing = Packing.full(*x.shape[:2])
    if kind == "cuda" and module.backend == "auto" and _on_cuda(mode, input, packing, module).name != "vendor":
        return None
    if autocast_enabled(kind) or transformed():
        return None
    check_input(module, input)
    output, finals = whole_network(module, mode, x, initial_states(module, hx, x, packing, True), packing)
    return output.transpose(0, 1) if module.batch_first else output, finals


def triton_refuses(module: Recurrent, data: Tensor) -> str | None:
    """Why Triton's kernels cannot run a call; None if they can."""
    if data.device.type != "cuda" and not triton.interpreted():
        return f"it needs a CUDA device, and the input is on {data.device.type}"
    if not triton.available():
        least = ".".join(map(str, triton.MIN_VERSION))
        return f"it needs an NVIDIA card from Ampere on and Triton {least} or later (pip install triton)"
    if data.dtype not in triton.DTYPES:
        return f"it computes in float32, float16 and bfloat16, and the input is {dtype_name(data)}"
    if not _served_by_triton(module, data.device, data.dtype):
        return f"no Triton kernel serves this {type(module.cell_at(0)).__name__} here"
    return None


_served: WeakKeyDictionary[Recurrent, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()


def _served_by_triton(module: Recurrent, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether every cell has a Triton kernel that agrees with its own; not kept in the module, which may be pickled."""
    found = _served.setdefault(module, {})
    # With the kernels in the key: an option may have been changed since the last call.
    kernels = [module.cell_at(index).kernel() for index in range(module.num_layers * module.num_directions)]
    key = (device, dtype, *kernels)
    if key not in found:
        found[key] = all(one is not None and agrees(one, device, dtype) for one in kernels)
    return found[key]


def _on_cuda(mode: str | None, data: Tensor, packing: Packing, module: Recurrent) -> Choice:
    """Choose for `auto` on CUDA, by this table.

    Measured with `scripts/check_device.py --parts speed` on an NVIDIA H100 80GB HBM3, torch 2.11, Triton 3.6,
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
    cudnn = mode is not None and cudnn_serves(mode, data)
    if cudnn and packing.is_full and not _trains(module, data):
        if module.hidden_size <= 128:
            return Choice("vendor", "cuDNN's network: inference with few units")
        if module.hidden_size >= 1024 and mode in ("LSTM", "GRU"):
            return Choice("vendor", "cuDNN's network: inference with many units")
    if triton_refuses(module, data) is None:
        return Choice("triton", "all steps in one launch")
    return Choice("vendor", "cuDNN's network") if cudnn else Choice("fused", "hand-derived backward")


def _trains(module: Recurrent, data: Tensor) -> bool:
    """Whether a gradient will be asked for."""
    return torch.is_grad_enabled() and (data.requires_grad or any(value.requires_grad for value in module.parameters()))


def _on_cpu(mode: str, data: Tensor, packing: Packing, module: Recurrent) -> Choice:
    """Choose for `auto` on the CPU, for plain cells, by this table.

    Measured with `scripts/bench_nn.py`, torch 2.13, one core of an AMD EPYC (Zen 5), milliseconds, (T, B, I, H):

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
    rows, hidden_size = packing.first_rows, module.hidden_size
    if uses_onednn(mode, data):
        if rows * hidden_size >= 16384 and not packing.is_rectangle:
            return Choice("fused", "LSTM with large steps on uneven lengths: no work is spent on padding")
        return Choice("vendor", "oneDNN's LSTM")
    training = _trains(module, data)
    if packing.num_steps <= (4 if training else 2):
        return Choice("vendor", "a few steps: ATen's loop has less overhead")
    if not training and rows * hidden_size < 4096:
        return Choice("vendor", "inference with small steps: ATen's loop has less overhead")
    return Choice("fused", "no vendor kernel on this device; hand-derived backward")


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
            kernel = triton.triton_kernel(kernel)
        if kernel is not None:
            return kernel_scan(cell, kernel, rows, packing, state, prepared)
    check_choice("backend", backend, ("reference", "fused", "vendor", "triton"))
    return reference_scan(cell, cell.project(rows, prepared), packing.batch_sizes, state, prepared)
