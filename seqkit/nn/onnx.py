"""The road of `torch.onnx.export`: one node of ONNX for each layer and direction, with any number of steps and rows.

The node is ONNX's LSTM, GRU or RNN where it computes the cell, and else a `Scan` whose body is the cell's `step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import tracing
from seqkit.nn.exported_loops import MIN_TORCH, TORCH, draws, loop_direction, prepare_direction
from seqkit.nn.kernels.gru import GRUKernel
from seqkit.nn.kernels.lstm import LSTMKernel
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.rnn import RNNKernel
from seqkit.nn.network import Network

# ONNX's name of an activation, and its alpha and beta where it has them.
_ACTIVATIONS: dict[str, tuple[str, tuple[float, ...]]] = {
    "tanh": ("Tanh", ()),
    "relu": ("Relu", ()),
    "sigmoid": ("Sigmoid", ()),
    "identity": ("Affine", (1.0, 0.0)),
}


class Node(NamedTuple):
    """A recurrent node of ONNX.

    Attributes:
        kind: its operator.
        blocks: for each of its gates, which of our blocks it is, and the sign.
        peepholes: as `blocks`, for the peephole weights.
        activations: our names.
        attributes: more of them.
    """

    kind: str
    blocks: Sequence[tuple[int, int]]
    peepholes: Sequence[tuple[int, int]] = ()
    activations: Sequence[str] = ()
    attributes: dict[str, Any] = {}


def check_exportable(network: Network, input: Any) -> None:
    """Raise RuntimeError, with one sentence that says what to do, unless `torch.onnx.export` can take this call."""
    if tracing():
        raise RuntimeError(
            f"torch.onnx.export(..., dynamo=False) cannot take a module of type {network.name}; pass dynamo=True, "
            "which makes one node of each layer and direction"
        )
    if TORCH < MIN_TORCH:
        least = ".".join(map(str, MIN_TORCH))
        raise RuntimeError(f"{network.name} in torch.onnx.export needs torch {least} or later, got {torch.__version__}")
    if isinstance(input, PackedSequence):
        raise RuntimeError("torch.onnx.export cannot take a PackedSequence; give the padded input and lengths=")
    if isinstance(input, Tensor) and input.is_complex():
        raise RuntimeError(f"ONNX's recurrent nodes compute with real numbers, and the input is {input.dtype}")
    if network.training and network.num_layers > 1 and (network.dropout or network.locked_dropout):
        raise RuntimeError(draws(network.name))


def onnx_direction(
    network: Network, index: int, rows: Tensor, packing: Packing, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """One layer in one direction as one node: rows (T * B, F), states (B, size) in the caller's order."""
    node = None if rows.dtype == torch.float64 else _node(network.cells[index])  # ONNX Runtime's have float32 and less
    if node is None:
        if packing.num_steps == 1 and lengths is None:  # a decoder's step
            cell, prepared = prepare_direction(network, index, rows, packing)
            final, _ = cell.step(cell.project(rows, prepared), state, prepared)
            return final[0], final
        return loop_direction(network, index, rows, packing, state, lengths)
    if rows.dtype == torch.bfloat16:
        raise RuntimeError(
            f"ONNX's {node.kind} lacks bfloat16, which this {network.name} computes in; export it in float32 "
            "(module.float()) or float16 (module.half())"
        )
    _, prepared = prepare_direction(network, index, rows, packing)
    x = rows.view(packing.num_steps, packing.batch_size, rows.size(-1))
    output, final = _symbol(node, x, state, prepared, lengths, index % network.num_directions == 1)
    return output.reshape(-1, output.size(-1)), final


def _symbol(
    node: Node, x: Tensor, state: State, prepared: Prepared, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    """A node of ONNX: x (T, B, F) and states (B, H) to outputs (T, B, H) and final states."""
    weights, size = prepared.weights, state[0].size(1)
    order = _Order.of(node.blocks, size)
    bias = peepholes = None
    if "bias_ih" in weights:
        bias = torch.cat([order.taken(weights[name]) for name in ("bias_ih", "bias_hh")])
    if "weight_peephole" in weights:
        peepholes = _Order.of(node.peepholes, size).taken(weights["weight_peephole"])
    matrices = [order.taken(weights[name]) for name in ("weight_ih", "weight_hh")]
    each = [None if value is None else value.unsqueeze(0) for value in (*matrices, bias, *state, peepholes)]
    known = [_ACTIVATIONS[name] for name in node.activations]
    attributes = {"hidden_size": size, "direction": "reverse" if reverse else "forward", **node.attributes}
    attributes["activations"] = [name for name, _ in known]
    constants = [values for _, values in known if values]
    if constants:
        attributes["activation_alpha"] = [alpha for alpha, _ in constants]
        attributes["activation_beta"] = [beta for _, beta in constants]
    counts = None if lengths is None else lengths.to(torch.int32)
    output, *finals = torch.onnx.ops.symbolic_multi_out(
        node.kind,
        [x, *each[:3], counts, *each[3 : 3 + len(state)], *([] if peepholes is None else each[-1:])],
        attributes,
        dtypes=[x.dtype] * (1 + len(state)),
        shapes=[(x.size(0), 1, x.size(1), size), *((1, x.size(1), size) for _ in state)],
    )
    final = tuple(part.squeeze(0) for part in finals)
    if lengths is not None:
        # ONNX Runtime's final state of a sequence without a step is zero.
        none = (lengths == 0).unsqueeze(1)
        final = tuple(torch.where(none, old, new) for old, new in zip(state, final, strict=True))
    return output.squeeze(1), final


class _Order(NamedTuple):
    """The rows of a weight that ONNX wants, and their signs; None: all of them, unchanged."""

    rows: Tensor | None
    signs: Tensor | None

    @classmethod
    def of(cls, blocks: Sequence[tuple[int, int]], size: int) -> _Order:
        rows = [index * size + row for index, _ in blocks for row in range(size)]
        signs = [float(sign) for _, sign in blocks for _ in range(size)]
        return cls(torch.tensor(rows) if len(blocks) > 1 else None, torch.tensor(signs) if min(signs) < 0 else None)

    def taken(self, weight: Tensor) -> Tensor:
        if self.rows is not None:
            weight = weight.index_select(0, self.rows.to(weight.device))
        if self.signs is None:
            return weight
        signs = self.signs.to(weight)
        return weight * (signs if weight.dim() == 1 else signs.unsqueeze(1))


def _node(cell: Cell) -> Node | None:
    """The node that computes exactly this cell; None if ONNX has none."""
    kernel: Any = cell.kernel()
    make = _NODES.get(type(kernel))
    return None if make is None else make(kernel)


def _lstm(kernel: LSTMKernel) -> Node | None:
    if kernel.proj_size or kernel.layer_norm or kernel.zoneout or kernel.zoneout_cell or kernel.cell_clip is not None:
        return None
    activations = ("sigmoid", kernel.cell_activation, kernel.output_activation)
    if not kernel.coupled:  # from i, f, g, o to i, o, f, c; peepholes from i, f, o to i, o, f
        return Node("LSTM", [(0, 1), (3, 1), (1, 1), (2, 1)], [(0, 1), (2, 1), (1, 1)], activations)
    # ONNX has f = 1 - i where ours is i = 1 - f: its input gate is our forget gate with the sign turned.
    blocks, peepholes = [(0, -1), (2, 1), (0, 1), (1, 1)], [(0, -1), (1, 1), (0, 1)]
    return Node("LSTM", blocks, peepholes, activations, {"input_forget": 1})


def _gru(kernel: GRUKernel) -> Node | None:
    if kernel.layer_norm or kernel.zoneout:
        return None
    # From r, z, n to z, r, h; the reset gate acts after the product with W_hn, as in cuDNN.
    blocks = [(1, 1), (0, 1), (2, 1)]
    return Node("GRU", blocks, activations=("sigmoid", "tanh"), attributes={"linear_before_reset": 1})


def _rnn(kernel: RNNKernel) -> Node | None:
    if kernel.layer_norm or kernel.zoneout:
        return None
    return Node("RNN", [(0, 1)], activations=(kernel.nonlinearity,))


_NODES: dict[type, Any] = {LSTMKernel: _lstm, GRUKernel: _gru, RNNKernel: _rnn}
