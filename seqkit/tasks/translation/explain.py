"""Which words of the source decided about each word of a translation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from seqkit.models import Seq2Seq
from seqkit.nn.decoder_trace import trace_decoder
from seqkit.tasks.attribution import Problem, attribute, refuse_long
from seqkit.tasks.explain import Attention, Explanation, kept_of
from seqkit.tasks.text_trace import LayerTrace, TextTrace, Token, layer_of, one_row, trace_module
from seqkit.tasks.translation.decoding import Translator
from seqkit.tasks.translation.predictions import Translation
from seqkit.text.pipeline import SPACE


def best_outputs(translator: Translator, text: str) -> tuple[Translation, list[int], list[str]]:
    """Return the best translation of a text, its ids (that of `<eos>` last where it ends by itself) and how they are
    shown."""
    target = translator.target
    (found,) = replace(translator, attention=True, copy_unknown=False)([text])
    numbers = {token: number for number, token in enumerate(target.vocabulary)}
    outputs = [numbers[token] for token in found.tokens] + [target.eos_id] * found.finished
    return found, outputs, [target.words[number].replace(SPACE, " ").strip() or "␣" for number in outputs]


def explain_translation(
    model: Seq2Seq,
    text: str,
    tokens: list[Token],
    source: Sequence[int],
    found: Translation,
    outputs: Sequence[int],
    names: list[str],
    bos: int,
    gradients: bool,
) -> Explanation:
    """Explain the logit of each token of a translation, given those before it, by the tokens of the source.

    Args:
        model: in evaluation mode.
        text: as it was given.
        tokens, source: of the text and their ids, at least one.
        found: the translation.
        outputs: its ids, T, with that of `<eos>` where it ends by itself.
        names: of these, to be shown.
        bos: the id that the target begins with.
        gradients: compute integrated gradients beside occlusion.

    Raises:
        UserError: the text or its translation is too long.
    """
    refuse_long(max(len(source), len(outputs)))
    device = next(model.parameters()).device
    row, lengths = one_row(source, device)
    inputs, target_lengths = one_row([bos, *outputs[:-1]], device)
    wanted = torch.tensor(list(outputs), device=device)

    def scores(copies: int) -> Tensor:
        features = model(
            row.expand(copies, -1), lengths.expand(copies), inputs.expand(copies, -1), target_lengths.expand(copies)
        )
        layer = model.decoder.output
        logits: Tensor = (features * layer.weight[wanted]).sum(2)
        return logits if layer.bias is None else logits + layer.bias[wanted]

    attention = None
    if found.attention is not None:
        attention = Attention(names, found.attention[: len(outputs)].tolist())
    places: list[int | None] = list(range(len(outputs)))
    problem = Problem([model.encoder.embedding], scores, len(source), len(source) + len(outputs))
    explained = attribute(problem, range(len(outputs)), names, gradients=gradients, places=places)
    return Explanation(text, found.text, tokens, explained, kept_of(source_layers(model, source)), attention)


def source_layers(model: Seq2Seq, source: Sequence[int]) -> list[LayerTrace]:
    """Return what the layers of the encoder do with a source."""
    row, lengths = one_row(source, next(model.parameters()).device)
    return trace_module(model.encoder.recurrent, lambda: model.encode(row, lengths))


def trace_translation(
    model: Seq2Seq, text: str, tokens: list[Token], source: Sequence[int], outputs: Sequence[int], names: list[str],
    bos: int,
) -> TextTrace:  # fmt: skip
    """Return what the layers of the encoder and of the decoder do with a source and its translation.

    Args:
        as of `explain_translation`.
    """
    encoder = [replace(layer, part="encoder") for layer in source_layers(model, source)]
    if not outputs:
        return TextTrace(text, tokens, encoder)
    decoder = model.decoder
    device = next(model.parameters()).device
    with torch.no_grad():
        state, memory = model.encode(*one_row(source, device))
        inputs = decoder.embedding(one_row([bos, *outputs[:-1]], device)[0])
    layers = []
    for number, record in enumerate(trace_decoder(decoder, inputs, state, memory).records):
        module, index = decoder.layer(number)
        first = state[0][number][-1].flatten().cpu()
        layers.append(layer_of(module.cell_at(index), record, number, backward=False, initial=first, part="decoder"))
    return TextTrace(text, tokens, encoder, [Token(name) for name in names], layers)
