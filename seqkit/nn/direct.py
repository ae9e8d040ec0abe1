"""The short way of a call: a plain network on full batches goes to ATen with nothing in between.

A module that is called step by step spends more time in Python than in arithmetic. Here are the fewest checks that
tell whether `backends.choose` would let ATen run all layers in one call; where one fails the long way is taken, which
has the messages. What comes out is the same, bit for bit; of `step_plain` up to the last bits of an LSTM, for which
the long way may be oneDNN's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqkit.nn.aten import run_whole, uses_onednn
from seqkit.nn.aten_step import ATEN_STEPS
from seqkit.nn.backends.vendor import few_or_small_steps
from seqkit.nn.cell import State
from seqkit.nn.checks import autocast_dtype, autocast_enabled, tracing, transformed
from seqkit.nn.kernels.gemm import onednn_bfloat16
from seqkit.nn.kernels.tuning import LARGE_STEP

_FEW_ROWS = 4  # a larger batch is ragged more often than not, and spends its time in arithmetic


class Plain(NamedTuple):
    """What a network is that ATen can run in one call; `Recurrent` keeps it until an option changes.

    Attributes:
        mode: ATen's name of all its cells; None: ATen cannot.
        names: of all weights, in torch's order.
        num_layers, bidirectional, batch_first, training, dropout: see `Recurrent`.
        input_size: features of the input, I.
        state_sizes: features of each tensor of the state.
        bias: whether the cells have biases.
        always: ATen was asked for: it need not be the fastest.
        single: whether there is one layer in one direction.
        first: the first row of `BACKENDS` when this was made.
    """

    mode: str | None
    names: Sequence[str] = ()
    num_layers: int = 1
    bidirectional: bool = False
    batch_first: bool = False
    training: bool = False
    dropout: float = 0.0
    input_size: int = 0
    state_sizes: tuple[int, ...] = ()
    bias: bool = True
    always: bool = False
    single: bool = False
    first: str = "vendor"


def run_plain(plain: Plain, weights: Sequence[Tensor], x: Any, hx: Any) -> tuple[Tensor, State] | None:
    """Run a plain network on a full batch, or return None where the call has to go the long way.

    Args:
        plain: the network, whose mode is not None.
        weights: of all layer-directions, in torch's order.
        x: (T, B, I), or (B, T, I) with batch_first.
        hx: see `Recurrent.forward`.

    Returns:
        output and final state, as `Recurrent.forward`.
    """
    mode, batch_first = str(plain.mode), plain.batch_first
    if type(x) is not Tensor or x.dim() != 3 or not x.is_cpu or x.dtype is not weights[0].dtype:
        return None
    steps, rows, features = x.shape
    if batch_first:
        steps, rows = rows, steps
    if features != plain.input_size or not steps or not rows or x.is_complex() or not _is_ordinary(weights[0]):
        return None
    if autocast_enabled("cpu"):
        if not _cast_by_aten(plain, x, rows):
            return None
    # In bfloat16 oneDNN is not always the fastest: the long way tells.
    elif not (plain.always or (x.dtype is not torch.bfloat16 and uses_onednn(mode, x))):
        trained = torch.is_grad_enabled() and (x.requires_grad or any(value.requires_grad for value in weights))
        if few_or_small_steps(mode, steps, rows * plain.state_sizes[0], trained) is None:
            return None
    count = plain.num_layers * (2 if plain.bidirectional else 1)
    if hx is None:
        begin = [x.new_zeros(count, rows, size) for size in plain.state_sizes]
    elif isinstance(hx, (tuple, list)) and len(hx) == len(plain.state_sizes):
        for part, size in zip(hx, plain.state_sizes, strict=True):
            if type(part) is not Tensor or part.shape != (count, rows, size):
                return None
            if part.dtype is not x.dtype or not part.is_cpu:
                return None
        begin = list(hx)
    else:
        return None
    output, finals = run_whole(
        mode, x.transpose(0, 1) if batch_first else x, None, begin, weights,
        bias=plain.bias, num_layers=plain.num_layers, both=plain.bidirectional,
        dropout=plain.dropout if plain.training else 0.0, training=plain.training,
    )  # fmt: skip
    return (output.transpose(0, 1) if batch_first else output), finals


def is_full(lengths: Any, x: Any, batch_first: bool) -> bool:
    """Tell whether every sequence of a small padded batch is as long as the batch, so that lengths say nothing.

    Args:
        lengths: of the call; anything else than a vector of them on the CPU has to go the long way, which checks it.
        x: (T, B, I), or (B, T, I) with batch_first.
        batch_first: which of them.
    """
    if type(lengths) is not Tensor or type(x) is not Tensor or x.dim() != 3 or tracing() or transformed():
        return False
    steps, rows = (x.size(1), x.size(0)) if batch_first else (x.size(0), x.size(1))
    if rows > _FEW_ROWS or lengths.dtype is not torch.int64 or not lengths.is_cpu or lengths.shape != (rows,):
        return False
    return lengths.tolist() == [steps] * rows


def step_plain(plain: Plain, weights: Sequence[Tensor], x: Any, hx: Any) -> tuple[Tensor, State] | None:
    """Run one step of a plain network of one layer, or return None where the call has to go the long way.

    Args:
        plain: the network, whose mode is not None.
        weights: of all layer-directions, in torch's order.
        x: (B, I).
        hx: see `Recurrent.step`.

    Returns:
        output and state, as `Recurrent.step`.
    """
    weight = weights[0]
    dtype = weight.dtype
    if type(x) is not Tensor or x.dim() != 2 or x.dtype is not dtype or not x.is_cpu or not _is_ordinary(weight):
        return None
    if autocast_enabled("cpu"):
        return None
    if hx is None:
        state = [x.new_zeros(x.size(0), size) for size in plain.state_sizes]
    elif type(hx) is tuple and len(hx) == len(plain.state_sizes):
        state = []
        for part in hx:
            if type(part) is not Tensor or part.dim() != 3 or part.dtype is not dtype or part.size(0) != 1:
                return None
            state.append(part.squeeze(0))
    else:
        return None
    run = ATEN_STEPS[plain.mode]  # type: ignore[index]
    try:
        if len(state) == 1:
            new = run(x, state[0], *weights)
            return new, (torch.stack((new,)),)
        new = run(x, state, *weights)
    except RuntimeError:  # sizes or devices: the long way says which
        return None
    # Copies: a change in place of the output leaves the state alone, and `detach_()` of a state refuses views.
    return new[0], tuple([torch.stack((part,)) for part in new])


def _cast_by_aten(plain: Plain, x: Tensor, rows: int) -> bool:
    """Tell whether the call is oneDNN's LSTM under autocast, which ATen casts for as the long way does."""
    return (
        plain.mode == "LSTM"
        and x.dtype is torch.float32
        and autocast_dtype(x) is torch.bfloat16
        and onednn_bfloat16()
        and uses_onednn("LSTM", x)
        and rows * plain.state_sizes[0] < LARGE_STEP  # from there on another backend may be faster
    )


def _is_ordinary(weight: Tensor) -> bool:
    """Tell whether nothing but autocast surrounds the call that changes what it computes or records."""
    return weight.is_cpu and not (tracing() or transformed())
