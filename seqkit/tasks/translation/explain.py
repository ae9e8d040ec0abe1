"""Which words of the source decided about each word of a translation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.models import Seq2Seq
from seqkit.tasks.attribution import Problem, attribute, refuse_long
from seqkit.tasks.explain import Attention, Explanation, kept_of
from seqkit.tasks.text_trace import LayerTrace, Token, one_row, trace_module
from seqkit.tasks.translation.predictions import Translation


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
