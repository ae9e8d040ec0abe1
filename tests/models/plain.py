"""Encoder-decoders to test, and the decoder's equations as loops over sentences, steps and layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkit.models import Decoder as Decoder
from seqkit.models import Embedding, Encoder, Seq2Seq
from seqkit.nn import Cell, Recurrent


class MinLSTM(Cell):
    """A user's cell (Feng et al. 2024): submodules, no fused kernel."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.gates = torch.nn.Linear(input_size, 3 * hidden_size)

    def project(self, x: Tensor, prepared: Any) -> Tensor:
        return self.gates(x)

    def step(self, projected: Tensor, state: Any, prepared: Any) -> Any:
        f, i, new = projected.chunk(3, -1)
        f, i = torch.sigmoid(f), torch.sigmoid(i)
        return ((f * state[0] + i * new) / (f + i),), {}


SOURCE, TARGET = 9, 11


def build(
    cell: Any = "lstm", layers: int = 2, *, bridge: Any = "linear", hidden_size: int = 8, **options: Any
) -> Seq2Seq:
    """A small model in float64 and evaluation; every kind of attention can read its memory (8 features)."""
    torch.manual_seed(0)
    encoder = Encoder(Embedding(SOURCE, 6), Recurrent("gru", 6, 4, 2, bidirectional=True, batch_first=True))
    target = Embedding(TARGET, options.pop("size", 6))
    return Seq2Seq(encoder, Decoder(target, 8, cell, hidden_size, layers, **options), bridge).double().eval()


def batch(lengths: tuple[int, ...] = (7, 0, 4), target_lengths: tuple[int, ...] = (3, 5, 1), pad: int = 0) -> Any:
    """(source, source_lengths, inputs, targets, lengths), `pad` more columns of padding on both sides."""
    generator = torch.Generator().manual_seed(0)
    source = torch.zeros(len(lengths), max(*lengths, 1) + pad, dtype=torch.int64)
    inputs = torch.zeros(len(lengths), max(target_lengths) + pad, dtype=torch.int64)
    targets = torch.zeros_like(inputs)
    for row, (length, steps) in enumerate(zip(lengths, target_lengths, strict=True)):
        source[row, :length] = torch.randint(4, SOURCE, (length,), generator=generator)
        tokens = torch.randint(4, TARGET, (steps - 1,), generator=generator)
        inputs[row, :steps] = torch.cat([torch.tensor([2]), tokens])
        targets[row, :steps] = torch.cat([tokens, torch.tensor([3])])
    return source, torch.tensor(lengths), inputs, targets, torch.tensor(target_lengths)


def recurrence(module: Recurrent, index: int, x: Tensor, state: Any) -> Any:
    """One step of layer `index` by torch's own cells: x (I,), state per tensor (H,)."""
    name = {2: "LSTMCell", 1: "GRUCell"}[len(module.state_sizes)]
    cell = getattr(torch.nn, name)(x.numel(), module.hidden_size).double()
    weights = {name: getattr(module, f"{name}_l{index}") for name, _ in cell.named_parameters()}
    rows = tuple(part.unsqueeze(0) for part in state)
    new = torch.func.functional_call(cell, weights, (x.unsqueeze(0), rows if len(rows) == 2 else rows[0]))
    return tuple(part.squeeze(0) for part in (new if isinstance(new, tuple) else (new,)))


def plain_logits(model: Seq2Seq, source: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """One sentence, source (S,) and inputs (T,), by the equations of `Decoder`: logits (T, V) and weights (T, S)."""
    decoder, length = model.decoder, torch.tensor([len(source)])
    output, final = model.encoder(source.unsqueeze(0), length)
    first = model.bridge(output, final, length)
    states = [tuple(part[layer, 0] for part in first) for layer in range(decoder.num_layers)]
    last = torch.cat([final[0][-2, 0], final[0][-1, 0]])
    fed = torch.zeros(decoder.feature_size).double()
    logits, weights = [], []
    for token in inputs:
        embedded = decoder.embedding.table.weight[token] * decoder.embedding.scale
        context = last if decoder.feed_context else None
        x = torch.cat([embedded, fed if decoder.input_feeding else torch.zeros(0).double()])
        x = torch.cat([embedded, last]) if decoder.feed_context else x
        below = x
        for layer in range(decoder.num_layers):
            k = decoder.attention_layer
            module, index = (decoder.lower, layer) if layer < k else (decoder.upper[layer - k], 0)
            inside = torch.cat([below, context]) if layer >= k and context is not None else below
            states[layer] = recurrence(module, index, inside, states[layer])
            below = states[layer][0] + (below if layer and decoder.residual else 0)
            if decoder.attention is not None and layer + 1 == k:
                nothing = torch.zeros(1, len(source), dtype=torch.bool)
                read, at = decoder.attention(below[None, None], *decoder.attention.project(output), nothing)
                context = read[0, 0]
                weights.append(at[0, 0])
        parts = [below, *([] if context is None else [context])]
        if decoder.output_kind == "deep":
            vector = torch.tanh(decoder.vector(torch.cat([*parts, embedded])))
        elif decoder.attention is not None:
            vector = torch.tanh(decoder.vector(torch.cat(parts)))
        else:
            vector = below if decoder.vector is None else decoder.vector(below)
        fed = vector
        logits.append(decoder.output.weight @ vector + (0 if decoder.output.bias is None else decoder.output.bias))
    return torch.stack(logits), torch.stack(weights) if weights else None
