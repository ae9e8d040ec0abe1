"""One step of a decoder: which of the ways of one step a layer takes, and the weights that are laid out for them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from seqkit.nn.aten_step import ONE_BIAS, OneBiasStep
from seqkit.nn.backends import choose, scan
from seqkit.nn.cell import Cell, State
from seqkit.nn.checks import autocast_enabled, exporting_onnx, tracing, transformed
from seqkit.nn.kernels.decode_step import SingleStep
from seqkit.nn.kernels.gemm import PackedLinear
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.tuning import MIN_DECODE_ROWS, MIN_DECODE_WORK
from seqkit.nn.linear import Linear
from seqkit.nn.onnx import check_exportable, onnx_direction
from seqkit.nn.recurrent import Recurrent

_GATES = 4  # an LSTM's: the work of any cell's step is estimated as if it had so many
_PLAIN = (Tensor, nn.Parameter)


# Steps of all optimizers since weights were first kept: the fused ones change weights without torch's counting it.
_updates = 0


def _count_update(*_: Any) -> None:
    global _updates
    _updates += 1


@lru_cache(maxsize=1)
def _watch_optimizers() -> None:
    """Count the steps of all optimizers from now on. A program that keeps no weights gets no hook."""
    register_optimizer_step_post_hook(_count_update)


class KeptSteps:
    """Weights laid out for the steps of a module, kept from one search to the next until one of them changes."""

    def __init__(self) -> None:
        # By cell, ATen's name of it, and whether its weights are side by side.
        self.cells: dict[tuple[Cell, str | None, bool], OneBiasStep | SingleStep | None] = {}
        self.layers: dict[nn.Module, PackedLinear] = {}
        self._mask: tuple[Tensor, bool] | None = None  # the padding that was looked at last, and whether there is some
        self._marks: list[Any] | None = None
        self._held: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.cells) + len(self.layers)

    def renew(self, module: nn.Module) -> None:
        """Forget all that is laid out if a parameter or buffer of the module may have changed since the last call."""
        tensors = _tensors(module)
        marks = None if tensors is None else _marks(tensors)
        if marks is None or marks != self._marks:
            self.cells, self.layers = {}, {}
            # While what is marked is held, nothing else can lie at its address.
            self._held = [] if tensors is None or marks is None else [value.detach() for value in tensors]
        self._marks, self._mask = marks, None

    def unpadded(self, padding: Tensor) -> bool:
        """Tell whether a mask (B, S) marks nothing. It is looked at once a search and must not change during it."""
        known = self._mask  # read once: another thread may look at a mask of its own
        if known is None or known[0] is not padding:
            known = self._mask = padding, bool(padding.any())
        return not known[1]


def _tensors(module: nn.Module) -> list[Tensor] | None:
    """Return what a module's weights are made of; None: something is computed of them, in a way that may change."""
    found: list[Tensor] = []
    for part in module.modules():
        if "parametrizations" in part._modules:
            return None
        found += [value for value in (*part._parameters.values(), *part._buffers.values()) if value is not None]
    return found


def _marks(tensors: list[Tensor]) -> list[Any] | None:
    """Return what changes with the values of tensors, as torch counts changes; None: it does not count them here."""
    if torch.compiler.is_compiling() or tracing() or transformed():
        return None
    # What a tensor subclass holds, such as a quantized weight or one without data, has no address to compare.
    if any(type(value) not in _PLAIN or value.is_inference() for value in tensors):
        return None
    _watch_optimizers()
    return [_updates, *((value.data_ptr(), value._version, value.stride(), value.dtype) for value in tensors)]


def alone(x: Tensor) -> bool:
    """Tell whether a step is nothing but numbers on the CPU: without gradient, autocast, a compiler or a transform."""
    if torch.is_grad_enabled() or not x.is_cpu or torch.compiler.is_compiling() or tracing() or transformed():
        return False
    return type(x) is Tensor and not autocast_enabled("cpu")


def linear_step(layer: nn.Module, x: Tensor, kept: KeptSteps, lone: bool) -> Tensor:
    """Apply a linear layer to the rows (N, K) of a step: (N, M); `lone` is what `alone` tells."""
    product = None
    if lone and x.size(0) < MIN_DECODE_ROWS and not (layer._forward_hooks or layer._forward_pre_hooks):
        product = kept.layers.get(layer)
        if product is None and type(layer) in (Linear, nn.Linear) and type(layer._parameters.get("weight")) in _PLAIN:
            weight, bias = layer._parameters["weight"], layer._parameters["bias"]
            assert weight is not None
            product = kept.layers[layer] = PackedLinear(weight, bias)
    return layer(x) if product is None else product(x)


def step_layer(
    module: Recurrent, index: int, x: Tensor, state: State, kept: KeptSteps, lone: bool
) -> tuple[Tensor, State]:
    """Run one step of one layer in evaluation.

    Args:
        module, index: the module that holds the layer, and the layer's index in it.
        x: (N, F).
        state: each (N, size).
        kept: where steps with their weights laid out are kept for the next call.
        lone: what `alone` tells.

    Returns:
        output (N, output_size), and the state after, each (N, size).
    """
    cell, rows = module.cell_at(index), x.size(0)
    mode = cell.single_mode() if lone and rows < MIN_DECODE_ROWS else None
    if mode is not None:
        size = state[0].size(1)
        work = rows * (x.size(1) + size) * size * _GATES
        joined = rows > 1 and work >= MIN_DECODE_WORK and module.backend != "reference"
        step = kept.cells.get((cell, mode, joined))
        if step is None:
            step = kept.cells[cell, mode, joined] = _lay_out(module, index, x, mode if not joined else None)
        if step is not None:
            return step(x, state)
    return _step_unkept(module, index, x, state, kept)


def _lay_out(module: Recurrent, index: int, x: Tensor, mode: str | None) -> OneBiasStep | SingleStep | None:
    """Return the step of a layer's cell: ATen's function of a mode, or with None `SingleStep`; None: there is none."""
    cell = module.cell_at(index)
    serves = SingleStep.serves(cell) and x.dtype is torch.float32 if mode is None else mode in ONE_BIAS
    if not serves:
        return None
    weights = module.prepare(index, x, [x.size(0)]).weights
    return SingleStep(cell, weights) if mode is None else OneBiasStep(mode, weights)


def _step_unkept(module: Recurrent, index: int, x: Tensor, state: State, kept: KeptSteps) -> tuple[Tensor, State]:
    """`step_layer` on many rows, recorded, with gradient, or of a cell that is not plain."""
    cell, packing = module.cell_at(index), Packing.full(1, x.size(0))
    if exporting_onnx():
        network = module.network()
        check_exportable(network, x)
        return onnx_direction(network, index, x, packing, state, None)
    few = torch.compiler.is_compiling() or x.size(0) < MIN_DECODE_ROWS  # a compiler's rows are a symbol
    backend = "reference" if few else choose(module.network(), x, packing).name
    if backend == "reference" or torch.is_grad_enabled() or not SingleStep.serves(cell):
        return scan(backend, cell, x, packing, state, module.prepare(index, x, packing.batch_sizes))
    key = cell, None, True
    step = kept.cells.get(key)
    if step is None:
        step = kept.cells[key] = SingleStep(cell, module.prepare(index, x, packing.batch_sizes).weights)
    return step(x, state)
