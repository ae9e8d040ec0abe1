"""The slots of a text that is still being written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqkit.tasks.common import cut
from seqkit.tasks.sending import sent
from seqkit.tasks.slots.data import LONGEST, Words, plain_lists
from seqkit.tasks.slots.inputs import token_offsets
from seqkit.tasks.slots.predictions import Tagging, make_tagging
from seqkit.tasks.stream import Growing, Stream, check_forward
from seqkit.text.texts import take_texts, take_tokens


class SlotsStream(Stream[Tagging]):
    """See `Stream`. Words that are fed as a list are tagged as they are, as with `is_split_into_words`.

    The tags are the most probable ones of all tokens together, so that those of earlier tokens may change, too.

    Args:
        task: a run whose encoder reads in one direction.
    """

    def __init__(self, task: Any) -> None:
        super().__init__()
        check_forward(task.model.encoder)
        self._task, self._outputs = task, Growing(self._read)
        self._words: list[str] | None = None  # what was fed as lists

    def add(self, more: str | Iterable[str]) -> None:
        if self.text and isinstance(more, str) != (self._words is None):
            raise ValueError("a stream of slots takes text or lists of words, not both")
        if isinstance(more, str):
            super().add(more)
        elif words := take_tokens(take_texts(more, "more")):
            self._words = [*(self._words or []), *words]
            self.text = " ".join(self._words)

    def _offsets(self, text: str) -> Sequence[tuple[int, int]]:
        return cut([self._task.tokenizer.offsets(text)], [text], LONGEST)[0]

    def _split(self, text: str) -> list[str]:
        return [text[start:end] for start, end in self._offsets(text)]

    def _read(self, tokens: Sequence[str], state: Any) -> tuple[Tensor, Any]:
        task = self._task
        words = Words.make(plain_lists([tokens]), task.tokenizer, task.letters)
        ids, _, spelling = words.collate(np.zeros(1, np.int64), task.tokenizer)
        characters = task.model.characters
        extra = None if characters is None else characters(sent(spelling, task.device))
        return task.model.encoder(sent(ids, task.device), None, extra=extra, hx=state)  # type: ignore[no-any-return]

    def predict(self, *, final: bool) -> Tagging:
        task, text, words = self._task, self.text, self._words
        offsets = self._offsets(text) if words is None else token_offsets(words)
        if not offsets:
            return Tagging(text)
        task.model.eval()
        tokens = [text[start:end] for start, end in offsets]
        settled = self.settled(tokens, self._split) if words is None else len(tokens)
        output, state = self._outputs(tokens, settled)
        lengths = torch.tensor([len(tokens)])
        scores, intents = task.model.classify(output, state, lengths)
        tags = [task.tags[tag] for tag in task.model.decode(scores, lengths)[0].tolist()]
        intent = None if intents is None else task.intents[int(intents.argmax())]
        return make_tagging(text, offsets, tags, intent)
