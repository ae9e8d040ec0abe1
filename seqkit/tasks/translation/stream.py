"""The translation of a sentence that is still being written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqkit.models import Seq2Seq
from seqkit.tasks.stream import Growing, Stream, reads_forward
from seqkit.tasks.translation.decoding import Translator
from seqkit.tasks.translation.predictions import Translation


class TranslationStream(Stream[Translation]):
    """See `Stream`. Each call translates all that is there: an encoder of one direction reads only what is new, one of
    two directions reads everything again.

    Args:
        translator: of a run, or of several.
    """

    def __init__(self, translator: Translator) -> None:
        super().__init__()
        self._translator = translator
        self._outputs = [
            Growing(partial(_read, model), carried=reads_forward(model.encoder)) for model, _ in translator.systems
        ]

    def predict(self, *, final: bool) -> Translation:
        translator, text = self._translator, self.text
        if not text.strip():
            return translator.blank() if not final else translator([text])[0]
        starts = []
        lengths = torch.empty(0)
        for (model, tokenizer), outputs in zip(translator.systems, self._outputs, strict=True):
            model.eval()
            ids = translator.encode(tokenizer, text)
            if not ids:
                return translator([text])[0]
            own = torch.tensor([len(ids)])
            output, state = outputs(ids, self.settled(ids, partial(translator.encode, tokenizer)))
            starts.append(model.begin(output, state, own))
            lengths = lengths if len(starts) > 1 else own
        return translator.translate_one(text, starts, lengths, count=final)


def _read(model: Seq2Seq, ids: Sequence[int], state: Any) -> tuple[Tensor, Any]:
    return model.encoder(torch.tensor([ids], device=next(model.parameters()).device), None, hx=state)  # type: ignore[no-any-return]
