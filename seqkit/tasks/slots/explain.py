"""Why each token got its tag, and the text its intent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.models import Tagger
from seqkit.models.tagger import Spelling
from seqkit.tasks.attribution import Problem, attribute, refuse_long
from seqkit.tasks.explain import Explanation, kept_of
from seqkit.tasks.slots.predictions import Tagging
from seqkit.tasks.text_trace import LayerTrace, Token, trace_module


def explain_tags(
    model: Tagger,
    tags: Sequence[str],
    intents: Sequence[str],
    found: Tagging,
    tokens: list[Token],
    inputs: tuple[Tensor, Tensor, Spelling | None],
    answer: str,
    gradients: bool,
) -> Explanation:
    """Explain the logits of the tags that a tagger chose, and of the intent.

    Args:
        model: in evaluation mode.
        tags, intents: names.
        found: what it predicts.
        tokens: of the text, at least one.
        inputs: ids (1, T) on the model's device, lengths (1,), spelling.
        answer: the prediction in one line.
        gradients: compute integrated gradients beside occlusion.

    Raises:
        UserError: the text is too long.
    """
    ids, lengths, spelling = inputs
    refuse_long(ids.size(1))

    def scores(copies: int) -> Tensor:
        own = None if spelling is None else spelling._replace(words=spelling.words.expand(copies, -1))
        scored, classes = model(ids.expand(copies, -1), lengths.expand(copies), own)
        flat: Tensor = scored.flatten(1)
        return flat if classes is None else torch.cat([flat, classes], 1)

    targets = [place * len(tags) + tags.index(tag) for place, tag in enumerate(found.tags)]
    names = [f"{token.text}: {tag}" for token, tag in zip(tokens, found.tags, strict=True)]
    places: list[int | None] = list(range(len(tokens)))
    if found.intent is not None:
        targets.append(len(tokens) * len(tags) + intents.index(found.intent))
        names.append(f"intent: {found.intent}")
        places.append(None)
    sites = [model.encoder.embedding, *([] if model.characters is None else [model.characters])]
    explained = attribute(Problem(sites, scores, len(tokens)), targets, names, gradients=gradients, places=places)
    return Explanation(found.text, answer, tokens, explained, kept_of(tag_layers(model, inputs)))


def tag_layers(model: Tagger, inputs: tuple[Tensor, Tensor, Spelling | None]) -> list[LayerTrace]:
    """Return what the layers of a tagger's encoder do; none for a window."""
    if model.encoder.recurrent is None:
        return []
    return trace_module(model.encoder.recurrent, lambda: model(*inputs))
