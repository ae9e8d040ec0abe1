"""The probability of a line that is still being written, and what may come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.sending import send
from seqkit.tasks.language_model.predictions import Continuation, LineScore, encode_lines, line_score
from seqkit.tasks.stream import Growing, Stream


class LineStream(Stream[LineScore | Continuation]):
    """See `Stream`. `feed` scores what is there without a line end, `end` the whole line, as `predict` does.

    After `adjust(sample=True)` `end` gives a continuation. Sampling counts its random numbers from the line's start, so
    that the line is then read once more.

    Args:
        task: a run.
    """

    def __init__(self, task: Any) -> None:
        super().__init__()
        self._task, self._log_probs = task, Growing(self._read)

    def _ids(self, text: str) -> list[int]:
        return [self._task.tokenizer.eos_id, *encode_lines(self._task.tokenizer, [text])[0]]

    def _read(self, ids: Sequence[int], carry: Any) -> tuple[Tensor, Any]:
        """Log-probability of each token, (1, T), that of the first one of all 0; state, and features of the last."""
        model, device = self._task.model, self._task.device
        state, before = carry or (None, None)
        tokens = torch.tensor([ids])
        found = model(send(tokens, device), state)
        features = found.features if before is None else torch.cat([before, found.features], 1)
        targets = tokens if before is not None else tokens[:, 1:]
        log_probs = model.token_log_probs(features[:, :-1], targets if model.adaptive else send(targets, device))
        log_probs = log_probs.cpu().double()
        if before is None:
            log_probs = torch.cat([log_probs.new_zeros(1, 1), log_probs], 1)
        return log_probs, (found.state, found.features[:, -1:])

    def _all(self) -> tuple[Tensor, Any]:
        self._task.model.eval()
        ids = self._ids(self.text)
        return self._log_probs(ids, max(1, self.settled(ids, self._ids)))

    def predict(self, *, final: bool) -> LineScore | Continuation:
        task, text = self._task, self.text
        if final and task.sampler:
            return task.sampler([text])[0]  # type: ignore[no-any-return]
        log_probs, (_, last) = self._all()
        size = log_probs.size(1) - 1
        if not size:
            return LineScore()
        if not final:
            return line_score(float(log_probs.sum()), size, len(text))
        end = torch.tensor([[task.tokenizer.eos_id]])
        closing = task.model.token_log_probs(last, end if task.model.adaptive else send(end, task.device))
        whole = torch.cat([log_probs, closing.cpu().double()], 1)
        return line_score(float(whole.sum()), size + 1, len(text) + 1)

    @torch.no_grad()
    def following(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the most probable next tokens, each with its natural log-probability.

        Args:
            count: how many, at most.
        """
        _, (_, last) = self._all()
        scores = torch.log_softmax(self._task.model.scores(last).float().flatten(), 0)
        best = scores.topk(min(count, len(scores)))
        words = self._task.tokenizer.vocabulary
        return [(words[place], value) for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
