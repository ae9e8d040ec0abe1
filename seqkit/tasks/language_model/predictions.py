"""What a language model says about lines of text: how probable each is, or how it might go on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from seqkit import drawing
from seqkit.config import Section
from seqkit.data.batching import BatchingConfig, pad, plan_batches
from seqkit.decoding import Hypothesis, Search
from seqkit.errors import UserError, argument_of
from seqkit.files import to_json
from seqkit.models import LanguageModel
from seqkit.models.encoder import valid_rows
from seqkit.nn import padding_mask
from seqkit.nn.sending import send
from seqkit.tasks.common import cut, scores_expected
from seqkit.tasks.explain import plot_bars
from seqkit.tasks.lines import as_json
from seqkit.text import Tokenizer
from seqkit.text.joining import join_tokens, one_line

LONGEST = 50_000
"""Tokens in a line. A longer one is a broken file, not a line, and would take gigabytes for its states."""
_TOGETHER = 64


@dataclass(frozen=True)
class LineScore:
    """How probable a line is, alone: after a line end, up to its own; all but `tokens` None for a blank line.

    Attributes:
        log_prob: natural logarithm of its probability.
        tokens: those predicted, <eos> counted.
        perplexity: of a token.
        bits_per_character: the line's end counted as one.
    """

    log_prob: float | None = None
    tokens: int = 0
    perplexity: float | None = None
    bits_per_character: float | None = None

    def _repr_html_(self) -> str | None:
        return drawing.notebook(self._parts)

    def _parts(self) -> list[str]:
        if self.log_prob is None or self.perplexity is None or self.bits_per_character is None:
            return [drawing.paragraph("A blank line: no score.")]
        values = [self.log_prob, self.perplexity, self.bits_per_character]
        header = ["tokens", "log-probability (nats)", "perplexity of a token", "bits per character"]
        return [drawing.table(header, [[str(self.tokens), *map(drawing.number, values)]], "How probable the line is.")]


@dataclass(frozen=True)
class Continuation:
    """A text that was continued.

    Attributes:
        text: the prompt and what follows it.
        tokens: what follows.
        log_probs: natural log-probability of each of those under the model, and last of <eos> where `finished`.
        finished: it ends by itself, and was not cut at the maximum length.
    """

    text: str
    tokens: list[str] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finished: bool = True

    def _repr_html_(self) -> str | None:
        return drawing.notebook(self._parts)

    def _parts(self) -> list[str]:
        if not self.tokens:
            return [drawing.labelled_text([(self.text, "")], "Nothing was added.")]
        bits = [-value / math.log(2) for value in self.log_probs]
        words = [drawing.Word(token, joined=False) for token in self.tokens]
        caption = "The tokens that were added; the darker, the less probable."
        parts = drawing.marked_words(words, bits[: len(words)], caption, shares=True)
        return [drawing.labelled_text([(self.text, "")], "The prompt and what follows it."), parts]

    def plot(self) -> Any:
        """Return matplotlib axes with the surprise of each token that was added, in bits.

        Raises:
            UserError: matplotlib is not installed.
        """
        bits = [-value / math.log(2) for value in self.log_probs]
        return plot_bars([*self.tokens, "<eos>"][: len(bits)], bits, "bits")


def encode_lines(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each line, without the end of the line."""
    return [list(row) for row in cut(tokenizer.encode(texts), texts, LONGEST, "line")]


@torch.no_grad()
def _read_lines(
    model: LanguageModel, tokenizer: Tokenizer, rows: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Yield batches of lines, by their ids, that are not blank: their numbers, the log-probabilities (B, T) of each
    one's tokens and last of its end, 0 on padding, and how many they are."""
    kept = [number for number, row in enumerate(rows) if row]
    device, eos = next(model.parameters()).device, tokenizer.eos_id
    sizes = np.array([len(rows[number]) + 1 for number in kept], dtype=np.int64)
    for plan in plan_batches(sizes, BatchingConfig(batch_size=8192, batch_by="tokens")):
        numbers = [kept[place] for place in plan]
        inputs, lengths = pad([[eos, *rows[number]] for number in numbers], tokenizer.pad_id)
        targets, _ = pad([[*rows[number], eos] for number in numbers], tokenizer.pad_id)
        valid = ~padding_mask(lengths, inputs.size(1))
        features = model(send(inputs, device), lengths=lengths).features.flatten(0, 1)
        read = features.index_select(0, valid_rows(lengths, inputs.size(1), device))
        wanted = targets[valid] if model.adaptive is not None else send(targets[valid], device)
        log_probs = torch.zeros(valid.shape, dtype=torch.float64, device="cpu")
        log_probs[valid] = model.token_log_probs(read, wanted).cpu().double()
        yield numbers, log_probs, lengths.tolist()


def token_log_probs(model: LanguageModel, tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the log-probabilities of each line's tokens, and last of its end, whatever stands around it; none of a
    blank line.

    Args:
        rows: the ids of each line, without its end; only the first `LONGEST` are read.
    """
    rows = [row[:LONGEST] for row in rows]
    found = [list[float]() for _ in rows]
    for numbers, log_probs, lengths in _read_lines(model, tokenizer, rows):
        for number, values, size in zip(numbers, log_probs.tolist(), lengths, strict=True):
            found[number] = values[:size]
    return found


def score_lines(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[LineScore]:
    """Return the score of each line, whatever stands around it."""
    found = [LineScore() for _ in texts]
    for numbers, log_probs, lengths in _read_lines(model, tokenizer, encode_lines(tokenizer, texts)):
        for number, total, size in zip(numbers, log_probs.sum(1).tolist(), lengths, strict=True):
            found[number] = line_score(total, size, len(texts[number]) + 1)
    return found


def line_score(total: float, size: int, characters: int) -> LineScore:
    """Return the score of `size` tokens with this log-probability, written in so many characters."""
    perplexity = math.exp(min(-total / size, 700.0))
    return LineScore(total, size, perplexity, -total / math.log(2) / characters)


class SamplingOptions(Section):
    """Options of `seqkit predict` for language models: score each line, or continue it."""

    sample: bool = False
    """Continue each line instead of scoring it; a blank line starts from nothing."""
    temperature: float = 1.0
    """Temperature of sampling: below 1 is safer, above 1 wilder."""
    top_k: int = 0
    """Sample among the k most probable tokens; 0: all."""
    top_p: float = 1.0
    """Sample among the fewest tokens that hold this share of the probability."""
    max_length: int = 100
    """Most tokens after the prompt."""
    seed: int = Field(default=1, ge=0)
    """Seed of sampling; by default the run's own."""


@dataclass
class Sampler:
    """Continues texts, each with a random draw of its own.

    Args:
        model: in evaluation mode.
        tokenizer: its.
        temperature, top_k, top_p: see `seqkit.decoding.Search`.
        max_length: most tokens that follow a prompt.
        seed: each text's draw depends on this and its number, not on what it is batched with.

    Raises:
        UserError: a setting out of range.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_length: int = 100
    seed: int = 1

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise UserError(f"must be at least 1, got {self.max_length}", key="max_length")
        settings = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        try:
            # The "source" that lengths are measured by is the longest output that is allowed.
            self.search = Search(sample=True, max_ratio=1.0, allow_unknown=False, **settings)  # type: ignore[arg-type]
        except ValueError as error:
            name, message = argument_of(error)
            raise UserError(message, key=name) from None
        self._count = 0  # texts so far

    def __call__(self, texts: Sequence[str]) -> list[Continuation]:
        """Return a continuation of each text, up to its line end; of a blank one a line from nothing."""
        found: list[Continuation] = []
        for start in range(0, len(texts), _TOGETHER):
            found += self._batch(texts[start : start + _TOGETHER])
        return found

    def _batch(self, texts: Sequence[str]) -> list[Continuation]:
        tokenizer = self.tokenizer
        prompts = encode_lines(tokenizer, texts)
        seeds = [
            int(np.random.default_rng([self.seed, self._count + number]).integers(2**62))
            for number in range(len(texts))
        ]
        self._count += len(texts)
        device = next(self.model.parameters()).device
        with scores_expected():
            hypotheses = self.search(
                self.model.step,
                None,
                None,
                source_lengths=torch.tensor([len(row) + self.max_length for row in prompts], device=device),
                bos_id=tokenizer.eos_id,  # what stands before every line
                eos_id=tokenizer.eos_id,
                unk_id=tokenizer.unk_id,
                words=tokenizer.vocabulary,
                forbidden=(tokenizer.pad_id, tokenizer.bos_id),
                prefix=prompts,
                seeds=seeds,
            )
        return [
            self._continuation(text, len(prompt), one[0])
            for text, prompt, one in zip(texts, prompts, hypotheses, strict=True)
        ]

    def _continuation(self, text: str, length: int, found: Hypothesis) -> Continuation:
        tokens = [self.tokenizer.vocabulary[index] for index in found.tokens[length:]]
        pieces = [self.tokenizer.written(*pair) for pair in self.tokenizer.placed(text)[:length]]
        whole = join_tokens([*pieces, *tokens], self.tokenizer)
        return Continuation(whole, tokens, found.log_probs[length:], found.finished)


def format_line(found: LineScore | Continuation, form: str) -> str:
    """Return a prediction as one line: JSON, or as text the continued line, or log-probability and perplexity with a
    tab."""
    if isinstance(found, Continuation):
        if not as_json(form):
            return one_line(found.text)
        shown = {
            "text": found.text,
            "tokens": found.tokens,
            "log_probs": [round(value, 6) for value in found.log_probs],
            "finished": found.finished,
        }
        return to_json(shown)
    if not as_json(form):
        return "" if found.log_prob is None else f"{found.log_prob:.4f}\t{found.perplexity:.4f}"
    values = {
        "log_prob": found.log_prob,
        "perplexity": found.perplexity,
        "bits_per_character": found.bits_per_character,
    }
    rounded = {name: None if value is None else round(value, 6) for name, value in values.items()}
    return to_json({**rounded, "tokens": found.tokens})
