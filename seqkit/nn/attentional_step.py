"""One layer of a decoder for one step: which of the ways of one step runs, and the weights that are laid out for it."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkit.nn.aten_step import OneBiasStep, serves_one_bias
from seqkit.nn.backends import choose, scan
from seqkit.nn.cell import Cell, State
from seqkit.nn.checks import exporting_onnx
from seqkit.nn.kernels.decode_step import SingleStep
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.tuning import MIN_DECODE_ROWS
from seqkit.nn.onnx import check_exportable, onnx_direction
from seqkit.nn.recurrent import Recurrent

KeptSteps = dict[tuple[Cell, bool], OneBiasStep | SingleStep]
"""By cell, and whether for few rows: steps whose weights are laid out; right only until a weight changes."""


def step_layer(
    module: Recurrent, index: int, x: Tensor, packing: Packing, state: State, kept: KeptSteps
) -> tuple[Tensor, State]:
    """Run one step of one layer in evaluation.

    Args:
        module, index: the module that holds the layer, and the layer's index in it.
        x: (N, F).
        packing: one step of N rows.
        state: each (N, size).
        kept: where steps with their weights laid out are kept for the next call.

    Returns:
        output (N, output_size), and the state after, each (N, size).
    """
    cell, network = module.cell_at(index), module.network()
    if exporting_onnx():
        check_exportable(network, x)
        return onnx_direction(network, index, x, packing, state, None)
    few = torch.compiler.is_compiling() or x.size(0) < MIN_DECODE_ROWS  # a compiler's rows are a symbol
    if few and serves_one_bias(mode := cell.single_mode(), x):
        if (cell, few) not in kept:
            kept[cell, few] = OneBiasStep(str(mode), module.prepare(index, x, packing.batch_sizes).weights)
        return kept[cell, few](x, state)
    backend = "reference" if few else choose(network, x, packing).name
    if backend == "reference" or torch.is_grad_enabled() or not SingleStep.serves(cell):
        return scan(backend, cell, x, packing, state, module.prepare(index, x, packing.batch_sizes))
    if (cell, few) not in kept:
        kept[cell, few] = SingleStep(cell, module.prepare(index, x, packing.batch_sizes).weights, x.size(0))
    return kept[cell, few](x, state)
