"""Looking inside a decoder: every named gate and state of its layers, step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkit.nn.attentional import AttentionalRecurrent
from seqkit.nn.kernels.reference import traced_scan
from seqkit.nn.kernels.stack import joined
from seqkit.nn.trace import Trace


@torch.no_grad()
def trace_decoder(decoder: AttentionalRecurrent, input: Tensor, state: Any, memory: tuple[Tensor, ...]) -> Trace:
    """Run a decoder on known inputs, step by step, and keep every gate and state.

    Args:
        decoder: in evaluation mode.
        input: (B, T, E), T at least 1.
        state: from `AttentionalRecurrent.start`, its tensors (B, 1, size).
        memory: from `AttentionalRecurrent.remember`.

    Returns:
        features (B, T, F), the state after the last step, each (L, B, size), and a record of each layer, (B, T, size).

    Raises:
        RuntimeError: the decoder is in training mode.
    """
    if decoder.training:
        raise RuntimeError("trace_decoder serves evaluation only; call eval() first")
    size = len(input)
    cells = [module.cell_at(index) for module, index in map(decoder.layer, range(decoder.num_layers))]
    prepared = decoder.prepare(input[:, 0], [size])
    layers, first = state
    states = [tuple(part.squeeze(1) for part in layer) for layer in layers]
    records: list[dict[str, list[Tensor]]] = [{} for _ in cells]

    def layer(number: int, parts: list[Tensor]) -> Tensor:
        cell, here = cells[number], prepared[number]
        drive = cell.project(joined(parts), here)
        output, states[number], gates = traced_scan(cell, drive, [size], states[number], here)
        for name, value in gates.items():
            records[number].setdefault(name, []).append(value)
        return output

    def read(query: Tensor) -> tuple[Tensor, Tensor]:
        assert decoder.attention is not None
        context, weights = decoder.attention(query.unsqueeze(1), *memory, clean=True)
        return context.squeeze(1), weights

    vector = [memory[0]] if decoder.feed_context else []
    features: list[Tensor] = []
    fed = [first.squeeze(1)] if decoder.input_feeding else []
    for rows in input.unbind(1):
        x, known = joined([rows, *fed, *vector]), vector[0] if vector else None
        top, context, _ = decoder.stack.through(x, known, layer, None if decoder.attention is None else read)
        features.append(decoder.combine(top, context, rows))
        fed = features[-1:] if decoder.input_feeding else []
    final = tuple(torch.stack(parts) for parts in zip(*states, strict=True))
    whole = [{name: torch.stack(values, 1) for name, values in record.items()} for record in records]
    return Trace(torch.stack(features, 1), final, whole)
