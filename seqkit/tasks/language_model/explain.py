"""How surprising each token of a text was, and what the model expected instead."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from seqkit.models import LanguageModel
from seqkit.tasks.attribution import refuse_long
from seqkit.tasks.explain import Explanation, Surprisal, kept_of
from seqkit.tasks.text_trace import LayerTrace, Token, one_row, trace_module

_ALTERNATIVES = 5


@torch.no_grad()
def explain_line(
    model: LanguageModel, text: str, tokens: list[Token], ids: Sequence[int], eos: int, words: Sequence[str]
) -> Explanation:
    """Explain how probable a line is.

    Args:
        model: in evaluation mode.
        text: as it was given.
        tokens, ids: of the line, at least one.
        eos: the id that stands before and after every line.
        words: the vocabulary, as it is to be shown.

    Raises:
        UserError: the line is too long.
    """
    refuse_long(len(ids))
    row, _ = one_row([eos, *ids], next(model.parameters()).device)
    log_probs = torch.log_softmax(model.scores(model(row).features)[0].double().cpu(), 1)  # (T + 1, V)
    end = Token(words[eos])
    surprisals = []
    for token, target, values in zip([*tokens, end], [*ids, eos], log_probs, strict=True):
        best = values.topk(min(_ALTERNATIVES, len(values)))
        expected = [
            (words[index], math.exp(value))
            for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        bits = -float(values[target]) / math.log(2)
        surprisals.append(Surprisal(token.text, bits, int((values > values[target]).sum()) + 1, expected, token.joined))
    perplexity = 2 ** min(sum(one.bits for one in surprisals) / len(surprisals), 1000.0)
    kept = kept_of(line_layers(model, ids, eos))
    return Explanation(text, f"perplexity {perplexity:.2f}", [end, *tokens], kept=kept, surprisals=surprisals)


def line_layers(model: LanguageModel, ids: Sequence[int], eos: int) -> list[LayerTrace]:
    """Return what the layers do with the end of the line before and a line."""
    row, _ = one_row([eos, *ids], next(model.parameters()).device)
    return trace_module(model.encoder.recurrent, lambda: model(row))
