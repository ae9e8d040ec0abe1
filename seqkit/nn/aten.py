"""The machine's own recurrent kernels for plain cells: oneDNN's LSTM, cuDNN's networks, and ATen's loops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.aten_step import aten_layers
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import autocast_enabled, tracing
from seqkit.nn.cudnn import network as cudnn_network
from seqkit.nn.cudnn import serves as cudnn_serves
from seqkit.nn.kernels.autograd import kernel_scan
from seqkit.nn.kernels.gemm import onednn_bfloat16
from seqkit.nn.kernels.kernel import Kernel, Tensors
from seqkit.nn.kernels.malloc import keep_freed_blocks
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.tuning import LARGE_STEP, MIN_STRETCH_ROWS, SMALL_STEP, STRETCH_FALL
from seqkit.nn.network import Network, prepare

LSTM_MODE = 2  # oneDNN's number for the LSTM in `mkldnn_rnn_layer`
SHUT = 1e4  # a pre-activation at which the sigmoid is exactly 0 or 1, in float32 and in bfloat16 (which holds 9984)


class OneDNNKernel(Kernel):
    """oneDNN's LSTM layer. Sequences that end early ride in it through one more input feature.

    The feature is 1 on padding, with weight -1e4 into the input gate and +1e4 into the forget gate: both sigmoids
    saturate exactly, so c passes through the padding bit for bit and no gradient comes back from it. Outputs on the
    padding are not used; h_n is taken from each sequence's last valid step.
    """

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        x_TBI, weight_ih = _rectangle(tensors, packing)
        steps, living, hidden_size = len(packing.batch_sizes), packing.batch_sizes[0], tensors["c0"].size(1)
        # The workspace that backward needs is only made while gradients are enabled.
        with torch.set_grad_enabled(save):
            results = torch.ops.aten.mkldnn_rnn_layer.default(
                *self._arguments(tensors, x_TBI, weight_ih, living), *_layout(tensors, save)
            )
        out_TBH, _, cy, workspace = results
        out_RH = out_TBH.view(steps * living, hidden_size)
        out_NH = out_RH if packing.is_rectangle else out_RH.index_select(0, packing.rectangle.to(out_RH.device))
        finished = out_NH[-living:].clone() if packing.is_rectangle else out_NH.index_select(0, _ends(packing, out_RH))
        if living < packing.batch_size:
            finished = torch.cat([finished, tensors["h0"][living:]])
        final_c = torch.cat([cy, tensors["c0"][living:]]) if living < packing.batch_size else cy
        saved = {"x": x_TBI, "weight_ih": weight_ih, "out": out_TBH, "cy": cy, "workspace": workspace} if save else {}
        return [out_NH, finished, final_c], saved

    def _output_gradient(self, out_TBH: Tensor, packing: Packing, grads: Sequence[Tensor | None]) -> Tensor:
        """Return the gradient of all outputs on the rectangle; h_n are copies of output rows, so theirs joins there."""
        living, outer, final = packing.batch_sizes[0], grads[0], grads[1]
        if packing.is_rectangle and outer is not None and final is None:
            return outer.contiguous().view(out_TBH.shape)
        d_RH = out_TBH.new_zeros(out_TBH.size(0) * living, out_TBH.size(2))
        place = packing.rectangle.to(out_TBH.device)
        if outer is not None:
            d_RH.index_copy_(0, place, outer)
        if final is not None:
            d_RH.index_add_(0, place.index_select(0, _ends(packing, out_TBH)), final[:living])
        return d_RH.view(out_TBH.shape)

    def _arguments(self, tensors: Tensors, x_TBI: Tensor, weight_ih: Tensor, living: int) -> list[Tensor]:
        none = weight_ih.new_zeros(weight_ih.size(0))
        biases = [tensors.get("bias_ih", none), tensors.get("bias_hh", none)]
        states = [tensors["h0"][:living], tensors["c0"][:living]]
        return [part.contiguous() for part in (x_TBI, weight_ih, tensors["weight_hh"], *biases, *states)]

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        x_TBI, weight_ih, out_TBH = saved["x"], saved["weight_ih"], saved["out"]
        steps, living = x_TBI.shape[:2]
        size, features = out_TBH.size(2), tensors["x"].size(1)
        d_out = self._output_gradient(out_TBH, packing, grads)
        d_c = torch.zeros_like(saved["cy"]) if grads[2] is None else grads[2][:living].contiguous()
        d_h = torch.zeros_like(d_c)
        arguments = self._arguments(tensors, x_TBI, weight_ih, living)
        has_bias = "bias_ih" in tensors
        gradients = torch.ops.aten.mkldnn_rnn_layer_backward.default(
            *arguments, out_TBH, d_h, saved["cy"], d_out, d_h, d_c,
            False, LSTM_MODE, size, 1, has_bias, True, False, [], False, saved["workspace"],
        )  # fmt: skip
        d_x, d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh, d_h0, d_c0 = gradients
        d_x = d_x.reshape(steps * living, d_x.size(-1))
        if not packing.is_rectangle:
            d_x, d_weight_ih = (
                d_x.index_select(0, packing.rectangle.to(d_x.device))[:, :features],
                d_weight_ih[:, :features],
            )
        result = {"x": d_x, "weight_ih": d_weight_ih, "weight_hh": d_weight_hh}
        result |= {"bias_ih": d_bias_ih, "bias_hh": d_bias_hh} if has_bias else {}
        for name, grad, passed in (("h0", d_h0, grads[1]), ("c0", d_c0, grads[2])):
            rest = tensors[name].new_zeros(packing.batch_size - living, size) if passed is None else passed[living:]
            result[name] = torch.cat([grad, rest]) if living < packing.batch_size else grad
        return result


def _ends(packing: Packing, like: Tensor) -> Tensor:
    """Return where each living sequence's last step lies in the packed outputs."""
    # `last_rows` counts the initial states first.
    return packing.last_rows[: packing.batch_sizes[0]].to(like.device) - packing.batch_size


def _layout(tensors: Tensors, save: bool) -> list[Any]:
    """Return the arguments of `mkldnn_rnn_layer` after its tensors."""
    return [False, [], LSTM_MODE, tensors["c0"].size(1), 1, "bias_ih" in tensors, False, False, save]


def _rectangle(tensors: Tensors, packing: Packing) -> tuple[Tensor, Tensor]:
    """Return input (T, b_0, I) and W_ih; with an extra feature each where sequences end early (see `OneDNNKernel`)."""
    x_NI, weight = tensors["x"], tensors["weight_ih"]
    steps, living, features = len(packing.batch_sizes), packing.batch_sizes[0], x_NI.size(1)
    if packing.is_rectangle:
        return x_NI.reshape(steps, living, features), weight
    x_RI = x_NI.new_zeros(steps * living, features + 1)
    x_RI[:, features] = 1
    x_RI.index_copy_(0, packing.rectangle.to(x_NI.device), torch.nn.functional.pad(x_NI, (0, 1)))
    gate = weight.size(0) // 4
    column = weight.new_zeros(weight.size(0), 1)
    column[:gate], column[gate : 2 * gate] = -SHUT, SHUT
    return x_RI.view(steps, living, features + 1), torch.cat([weight, column], 1)


@lru_cache(maxsize=1)
def onednn_lstm() -> OneDNNKernel | None:
    """Return the oneDNN kernel if this torch has the operators with the arguments it needs, else None."""
    try:
        known = torch.ops.aten.mkldnn_rnn_layer.default._schema.arguments
        backward = torch.ops.aten.mkldnn_rnn_layer_backward.default._schema.arguments
    except AttributeError:
        return None
    fits = len(known) == 16 and known[-1].name == "train" and len(backward) == 23 and backward[-1].name == "workspace"
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return OneDNNKernel() if fits and available else None


def uses_onednn(mode: str, rows: Tensor) -> bool:
    """Return whether oneDNN's LSTM serves this call; everything else goes to ATen's packed kernels."""
    return bool(
        mode == "LSTM"
        and rows.device.type == "cpu"
        and (rows.dtype == torch.float32 or (rows.dtype == torch.bfloat16 and onednn_bfloat16()))
        and torch._C._get_mkldnn_enabled()  # torch.backends.mkldnn.enabled takes twice as long
        and onednn_lstm() is not None
    )


def _stretches(packing: Packing, hidden_size: int, dtype: torch.dtype) -> int:
    living = packing.batch_sizes[0]
    if packing.is_rectangle or living < MIN_STRETCH_ROWS:
        return 1
    if dtype == torch.bfloat16 and torch.is_grad_enabled() and living * hidden_size < LARGE_STEP:
        return 1
    return 3 if living * hidden_size >= LARGE_STEP else 2


def whole_network(network: Network, mode: str, x: Tensor, states: State, packing: Packing) -> tuple[Tensor, State]:
    """Run all layers and directions in one call, as torch.nn makes it.

    It saves 50 us (with a backward pass 300 us) per layer and direction.

    Args:
        mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU", which all cells are.
        x: (T, B, I) for full batches, else packed rows (N, I).
        states: each (layer-directions, B, size), rows in packed order.

    Returns:
        outputs in the layout of x, and the final states, shaped like `states`.
    """
    weights = [prepare(cell, network.weights(index), x, (0,)).weights for index, cell in enumerate(network.cells)]
    if cudnn_serves(mode, x):
        listed = [list(values.values()) for values in weights]
        return cudnn_network(network.cells, network.num_directions, mode, x, packing, states, listed)
    flat = [value for values in weights for value in values.values()]
    sizes = None if packing.is_full else torch.tensor(packing.batch_sizes, device="cpu")
    return run_whole(
        mode, x, sizes, states, flat,
        bias="bias_ih" in weights[0], num_layers=network.num_layers, both=network.num_directions == 2,
        dropout=network.dropout if network.training else 0.0, training=network.training,
    )  # fmt: skip


def run_whole(
    mode: str,
    x: Tensor,
    sizes: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    bias: bool,
    num_layers: int,
    both: bool,
    dropout: float,
    training: bool,
) -> tuple[Tensor, State]:
    """Call ATen's operator for all layers and directions, or for a single step its cells where they are faster.

    Args:
        mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU".
        x: (T, B, I), or packed rows (N, I) with their `sizes`.
        sizes: rows alive at each step; None: all.
        states: each (layer-directions, B, size).
        weights: of all layer-directions, in torch's order.
        bias, num_layers, both, dropout, training: see `Recurrent`; `both` for both directions, `dropout` 0 outside of
            training.

    Returns:
        outputs in the layout of x, and the final states, shaped like `states`.
    """
    if sizes is None and x.size(0) == 1 and not (dropout and num_layers > 1) and _by_cells(mode, x, states[0], weights):
        return aten_layers(mode, weights, x, states, 2 if both else 1)
    if x.is_cpu and (mode == "LSTM" or sizes is not None):
        # oneDNN packs an LSTM's weights into fresh memory at every call, half of its time for a single sentence where
        # pages are cleared. Packed input and output come and go, too: 0.63 ms beside 0.68 for a small RNN.
        keep_freed_blocks()
    begin = [part.contiguous() for part in states]
    hx: Any = begin if len(begin) > 1 else begin[0]
    options = ([value.contiguous() for value in weights], bias, num_layers, dropout, training, both)
    run = getattr(torch._VF, mode.lower())
    output, *finals = run(x.contiguous(), hx, *options, False) if sizes is None else run(x, sizes, hx, *options)
    return output, tuple(finals)


def _by_cells(mode: str, x: Tensor, state: Tensor, weights: Sequence[Tensor]) -> bool:
    """Return whether ATen's cells run a single step faster than its operator for all steps, by this table.

    Measured as one module of one layer, torch 2.13, one core of an AMD EPYC (Zen 5), microseconds, (B, I, H):

    | case | operator | cell | taken |
    |---|---|---|---|
    | LSTM / GRU / RNN training, (1,64,64) | 224 / 135 / 87 | 124 / 115 / 71 | cell |
    | LSTM / GRU / RNN inference, (8,16,64) | 54 / 29 / 20 | 24 / 20 / 12 | cell |
    | GRU / RNN training, (320,512,256) | 11070 / 4260 | 11030 / 4110 | cell |
    | LSTM training, (64,256,256) / (320,512,256) | 4200 / 9100 | 2600 / 14600 | operator |
    | LSTM inference, (32,256,128) / (64,256,256) | 159 / 474 | 170 / 867 | operator |
    """
    if not x.is_cpu or autocast_enabled("cpu") or tracing() or torch.compiler.is_compiling():
        return False
    if not uses_onednn(mode, x):
        return x.dtype in (torch.float32, torch.float64)
    trained = torch.is_grad_enabled() and (x.requires_grad or any(value.requires_grad for value in weights))
    step = state.size(1) * state.size(2)
    return x.dtype == torch.float32 and step < (LARGE_STEP if trained else SMALL_STEP)


def vendor_scan(
    cell: Cell, mode: str, x_NI: Tensor, packing: Packing, state: State, prepared: Prepared
) -> tuple[Tensor, State]:
    """Run one plain cell in one direction on ATen's kernel; see `reference_scan` for what comes out.

    Args:
        mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU".
    """
    weights, kernel = prepared.weights, onednn_lstm()
    if kernel is not None and uses_onednn(mode, x_NI) and "weight_hr" not in weights:
        keep_freed_blocks()
        parts = packing.falling(STRETCH_FALL, _stretches(packing, state[-1].size(1), x_NI.dtype))
        # Not a slice each: the gradient of a slice is as large as the whole, and they would be added up.
        pieces = x_NI.split_with_sizes([end - first for _, first, end in parts]) if len(parts) > 1 else [x_NI]
        outputs = []
        for (part, _, _), piece in zip(parts, pieces, strict=True):
            output, state = kernel_scan(cell, kernel, piece, part, state, prepared)
            outputs.append(output)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0], state
    if cudnn_serves(mode, x_NI):
        x = x_NI.view(packing.num_steps, packing.batch_size, -1) if packing.is_full else x_NI
        states = tuple(part.unsqueeze(0) for part in state)
        output, ends = cudnn_network([cell], 1, mode, x, packing, states, [list(weights.values())])
        return (output.flatten(0, 1) if packing.is_full else output), tuple(part.squeeze(0) for part in ends)
    alive = packing.batch_sizes[0]
    begin = tuple(part[:alive].unsqueeze(0).contiguous() for part in state)
    flat, bias = list(weights.values()), "bias_ih" in weights
    run = getattr(torch._VF, mode.lower())
    hx: Any = begin if len(begin) > 1 else begin[0]
    if packing.is_rectangle:
        x_TBI = x_NI.view(len(packing.batch_sizes), alive, -1)
        output, *final = run(x_TBI, hx, flat, bias, 1, 0.0, cell.training, False, False)
        output = output.flatten(0, 1)
    else:
        sizes = torch.tensor(packing.batch_sizes, device="cpu")
        output, *final = run(x_NI, sizes, hx, flat, bias, 1, 0.0, cell.training, False)
    living = zip(final, state, strict=True)
    return output, tuple(torch.cat([part.squeeze(0), old[alive:]]) for part, old in living)
