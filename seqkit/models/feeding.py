"""Input feeding: each step of the decoder takes the attentional vector of the one before, so steps run one by one.

`_reference` is the step loop under autograd, for any cell and any attention; it defines what is computed. Plain cells
with one of our attentions run in `seqkit.nn.kernels.input_feeding` instead, whose backward pass is derived by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from seqkit.nn import Prepared, Recurrent, State
from seqkit.nn.backends import Choice
from seqkit.nn.cell import drop_mask
from seqkit.nn.checks import autocast_enabled, tracing, transformed
from seqkit.nn.custom_op import outside
from seqkit.nn.kernels.attention_step import READERS, reader_weights
from seqkit.nn.kernels.input_feeding import Plan, feed_scan
from seqkit.nn.kernels.kernel import Tensors
from seqkit.nn.kernels.packing import Packing, check_lengths, no_rows
from seqkit.nn.kernels.pointwise import cell_steps
from seqkit.nn.linear import Linear

if TYPE_CHECKING:
    from seqkit.models.decoder import Decoder


def feed(
    decoder: Decoder, embedded: Tensor, lengths: Tensor, state: State, memory: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """All steps of a decoder with input feeding.

    Sentences are sorted by falling length and leave the batch as they end. All masks are drawn before the loop.

    Args:
        decoder: with `input_feeding` and an attention; see its docstring for the equations.
        embedded: (B, T, E).
        lengths: (B,) in [0, T].
        state: the first state, each (L, B, size).
        memory: (keys, values, padding), each (B, ...).

    Returns:
        attentional vectors (B, T, F), before dropout, and the attention's weights (B, T, S); zero past a length.
    """
    if tracing():
        raise RuntimeError(
            "torch.jit.trace cannot record the loop of a decoder with input feeding, which would be right for these "
            "lengths alone; trace its `step`, or take input_feeding=False"
        )
    if torch.compiler.is_compiling():
        return outside("a decoder with input feeding", feed, decoder, embedded, lengths, state, memory)  # type: ignore[no-any-return]
    steps = embedded.size(1)
    packing = Packing.from_lengths(check_lengths(lengths, embedded.size(0), steps), steps, embedded.device)
    rows = packing.pack(embedded.transpose(0, 1))  # (N, E)
    if not rows.size(0):
        vectors = no_rows([rows, *decoder.parameters()], decoder.feature_size)
        weights = rows.new_zeros(0, memory[2].size(1))
    else:
        count = packing.first_rows  # sentences of length 0 come last and have no part in it
        order = None if packing.order is None else packing.order[:count]
        memory = tuple(part[:count] if order is None else part.index_select(0, order) for part in memory)
        state = tuple(packing.sort(part)[:, :count] for part in state)
        inner = Packing.full(len(packing.batch_sizes), count)
        if not packing.is_rectangle:
            inner = Packing(packing.batch_sizes, count, len(packing.batch_sizes))
        vectors, weights = feed_packed(decoder, rows, inner, state, memory)
    return packing.unpack(vectors).transpose(0, 1), packing.unpack(weights).transpose(0, 1)


def feed_packed(
    decoder: Decoder, rows: Tensor, packing: Packing, state: State, memory: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """`feed` in the packed layout, without sentences of length 0.

    Args:
        rows: (N, E), embedded tokens.
        state: each (L, b_0, size), in the packed order as all of memory.

    Returns:
        vectors (N, F) and weights (N, S).
    """
    prepared = decoder.prepare(rows, packing.batch_sizes)
    masks = [_input_mask(decoder, rows, packing) for _ in range(decoder.num_layers - 1)]
    layers = [tuple(part[number] for part in state) for number in range(decoder.num_layers)]
    if choose_feeding(decoder, rows, prepared).name == "reference":
        return _reference(decoder, rows, packing, layers, memory, prepared, masks)
    return _fused(decoder, rows, packing, layers, memory, prepared, masks)


def choose_feeding(decoder: Decoder, rows: Tensor, prepared: Sequence[Prepared] = ()) -> Choice:
    """The backend on which `decoder` runs its steps, and why.

    Args:
        rows: embedded tokens, for their device.
        prepared: of each layer for this call.
    """
    if decoder.lower.backend == "reference":
        return Choice("reference", "asked for")
    if tracing() or torch.compiler.is_compiling() or transformed():
        return Choice("reference", "a compiler, torch.func or forward-mode differentiation needs the step loop")
    if rows.is_complex():
        return Choice("reference", "complex numbers, whose gradients only the step loop has")
    if autocast_enabled(rows.device.type):
        return Choice("reference", "under autocast, which chooses a precision for each product")
    for recurrent, index in _modules(decoder):
        cell = recurrent.cell_at(index)
        if cell_steps(cell.kernel()) is None:
            return Choice(
                "reference", f"{type(cell).__name__} with these options has no steps with a hand-derived backward"
            )
    if any(one.step_masks for one in prepared):
        return Choice("reference", "a mask of the cell is drawn at every step")
    if decoder.attention is None or reader_weights(decoder.attention) is None:
        return Choice("reference", f"{type(decoder.attention).__name__} has no reader with a hand-derived backward")
    if decoder.vector is None or type_before_parametrizations(decoder.vector) not in (Linear, nn.Linear):
        return Choice("reference", f"the attentional vector is made by a {type(decoder.vector).__name__}")
    return Choice("fused", "hand-derived backward")


def _input_mask(decoder: Decoder, rows: Tensor, packing: Packing) -> Tensor | None:
    """The dropout on the input of a layer above the first, for all steps: (N, H)."""
    size, mask = decoder.query_size, None
    if decoder.training and decoder.rate:
        mask = drop_mask(rows, rows.size(0), size, decoder.rate)
    if decoder.training and decoder.locked_rate:
        locked = packing.spread(drop_mask(rows, packing.batch_size, size, decoder.locked_rate))
        mask = locked if mask is None else mask.mul_(locked)
    return mask


def _fused(
    decoder: Decoder,
    rows: Tensor,
    packing: Packing,
    layers: Sequence[State],
    memory: tuple[Tensor, ...],
    prepared: Sequence[Prepared],
    masks: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """The steps with a hand-derived backward; arguments as in `_reference`."""
    attention, vector = decoder.attention, decoder.vector
    assert attention is not None
    assert vector is not None
    given: Tensors = dict(zip(("keys", "values", "padding"), memory, strict=True))
    given |= {"rows": rows, "combine_weight": vector.weight, **(reader_weights(attention) or {})}
    if vector.bias is not None:
        given["combine_bias"] = vector.bias
    for number, (state, ready) in enumerate(zip(layers, prepared, strict=True)):
        here = {**ready.weights, **{f"mask_{name}": mask for name, mask in ready.sequence_masks.items()}}
        here |= {f"state{place}": part for place, part in enumerate(state)}
        mask = masks[number - 1] if number else None
        if mask is not None:
            here["mask_input"] = mask
        given |= {f"{name}.{number}": value for name, value in here.items()}
    cells = [cell_steps(recurrent.cell_at(index).kernel()) for recurrent, index in _modules(decoder)]
    plan = Plan(
        packing,
        [cell for cell in cells if cell is not None],
        READERS[type(attention)][0],
        decoder.attention_layer,
        decoder.residual,
        len(decoder.state_names),
        tuple(given),
    )
    return feed_scan(plan, given)


def _modules(decoder: Decoder) -> list[tuple[Recurrent, int]]:
    """Of each layer, the module that holds it and the layer's index there."""
    return [decoder.layer(number) for number in range(decoder.num_layers)]


def _reference(
    decoder: Decoder,
    rows: Tensor,
    packing: Packing,
    layers: Sequence[State],
    memory: tuple[Tensor, ...],
    prepared: Sequence[Prepared],
    masks: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """The steps one by one under autograd.

    Args:
        rows: (N, E).
        layers: for each layer its first state, each (b_0, size).
        memory: each (b_0, ...).
        prepared: of each layer's cell.
        masks: for each layer but the first, the dropout on its input (N, H), or None.
    """
    sizes = packing.batch_sizes
    ready = [one.split(sizes) for one in prepared]
    dropped = [None if mask is None else mask.split_with_sizes(sizes) for mask in masks]
    fed = rows.new_zeros(sizes[0], decoder.feed_size)
    vectors, weights = [], []
    for t, (size, embedded) in enumerate(zip(sizes, rows.split_with_sizes(sizes), strict=True)):
        layers = [tuple(part[:size] for part in state) for state in layers]
        memory = tuple(part[:size] for part in memory)
        x = torch.cat([embedded, fed[:size]], 1)
        at_step = [None if mask is None else mask[t] for mask in dropped]
        top, context, weight, layers = _step(decoder, x, layers, [one[t] for one in ready], memory, at_step)
        fed = decoder.combine(top, context, embedded)
        vectors.append(fed)
        weights.append(weight)
    return torch.cat(vectors), torch.cat(weights)


def _step(
    decoder: Decoder,
    x: Tensor,
    layers: Sequence[State],
    prepared: Sequence[Prepared],
    memory: tuple[Tensor, ...],
    masks: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, list[State]]:
    """All layers of one step on x (b, E + F): the top output, the context, the weights (b, S) and the new states."""
    assert decoder.attention is not None
    new: list[State] = []
    context = weights = x
    for number, (before, ready) in enumerate(zip(layers, prepared, strict=True)):
        recurrent, index = decoder.layer(number)
        cell, mask = recurrent.cell_at(index), masks[number - 1] if number else None
        inside = x if mask is None else x * mask
        if number >= decoder.attention_layer:
            inside = torch.cat([inside, context], 1)
        after, _ = cell.step(cell.project(inside, ready), before, ready)
        new.append(after)
        x = after[0] + x if decoder.residual and number else after[0]
        if number + 1 == decoder.attention_layer:
            read = decoder.attention(x.unsqueeze(1), *memory, clean=True)
            context, weights = (part.squeeze(1) for part in read)
    return x, context, weights, new
