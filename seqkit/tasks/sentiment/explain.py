"""Why a text got its label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.models import SequenceClassifier
from seqkit.tasks.attribution import Problem, attribute, refuse_long
from seqkit.tasks.explain import Explanation, kept_of
from seqkit.tasks.text_trace import Token, one_row, trace_module


def explain_label(
    model: SequenceClassifier, classes: Sequence[str], text: str, tokens: list[Token], ids: list[int], gradients: bool
) -> Explanation:
    """Explain the label that a classifier gives to a text.

    Args:
        model: in evaluation mode.
        classes: names of the labels.
        text: as it was given.
        tokens, ids: of the text, at least one.
        gradients: compute integrated gradients beside occlusion.

    Raises:
        UserError: the text is too long.
    """
    refuse_long(len(ids))
    row, lengths = one_row(ids, next(model.parameters()).device)

    def scores(copies: int) -> Tensor:
        logits: Tensor = model(row.expand(copies, -1), lengths.expand(copies))
        return logits

    with torch.no_grad():
        shares = torch.softmax(scores(1)[0], 0)
    best = int(shares.argmax())
    found = attribute(
        Problem([model.encoder.embedding], scores, len(ids)), [best], [classes[best]], gradients=gradients
    )
    kept = kept_of(trace_module(model.encoder.recurrent, lambda: model.encoder(row, lengths)))
    return Explanation(text, f"{classes[best]} ({float(shares[best]):.1%})", tokens, found, kept)
