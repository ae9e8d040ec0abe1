"""From texts to translations: tokenise, decode in batches of similar length, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from seqkit.data.batching import BatchingConfig, Ragged, pad, plan_batches
from seqkit.decoding import Hypothesis, Search, StepFunction, Tree, ensemble, replace_unknown
from seqkit.distributed import spread
from seqkit.errors import Option, UserError
from seqkit.models import Seq2Seq
from seqkit.nn.sending import send
from seqkit.tasks.common import cut, scores_expected
from seqkit.tasks.translation.config import LONGEST
from seqkit.tasks.translation.predictions import Translation, refuse_without_attention
from seqkit.text import Tokenizer
from seqkit.text.joining import join_tokens
from seqkit.text.pipeline import SPACE

# Source tokens in a batch, for each sentence that `batch_size` allows: long sentences come in smaller batches.
_TOKENS = 100


@dataclass
class Translator:
    """Translates with one model, or with several that have one target vocabulary.

    Attributes:
        systems: models and the tokenizers of their sources.
        target: tokenizer of the target.
        search: how to decode.
        batch_size: sentences decoded together.
        seed: of sampling; each sentence has a seed by this and its number, so that batches do not matter.
        prefix: ids that every translation begins with.
        attention: keep it, for alignments, plots and unknown words.
        copy_unknown: write the most attended source word instead of an unknown word.
    """

    systems: list[tuple[Seq2Seq, Tokenizer]]
    target: Tokenizer
    search: Search
    batch_size: int = 64
    seed: int = 1
    prefix: list[int] = field(default_factory=list)
    attention: bool = False
    copy_unknown: bool = False
    _count: int = 0  # sentences so far

    def __call__(self, texts: Sequence[str]) -> list[Translation]:
        """Return a translation for each text; a blank text gets an empty one."""
        found = [self.blank() for _ in texts]
        kept = [number for number, text in enumerate(texts) if text.strip()]
        if kept:
            sentences = [texts[number] for number in kept]
            sources = [self._encode(tokenizer, sentences) for _, tokenizer in self.systems]
            numbers = [self._count + number for number in kept]
            for number, hypotheses in zip(kept, self.decode(sources, numbers), strict=True):
                found[number] = self._translation(texts[number], hypotheses)
        self._count += len(texts)
        return found

    def blank(self) -> Translation:
        """Return the translation of a text of nothing but white space."""
        blank = Translation("")
        return replace(blank, n_best=(blank,) if self.search.n_best > 1 else ())

    @staticmethod
    def encode(tokenizer: Tokenizer, text: str) -> list[int]:
        """Return the ids that a model reads of a text; none for a blank one, which has an empty translation."""
        return list(cut(tokenizer.encode([text]), [text], LONGEST)[0]) if text.strip() else []

    def translate_one(self, text: str, starts: list[tuple[Tree, Tree]], lengths: Tensor, *, count: bool) -> Translation:
        """Translate a text that has been read.

        Args:
            text: the source.
            starts: of each system what `Seq2Seq.encode` returns.
            lengths: (1,) of the first system's source.
            count: the text is one of those that seeds of sampling are numbered by.
        """
        (hypotheses,) = self._search(starts, lengths, [self._seed(self._count)])
        self._count += count
        return self._translation(text, hypotheses)

    @staticmethod
    def _encode(tokenizer: Tokenizer, texts: list[str]) -> Ragged:
        return Ragged.from_lists(cut(tokenizer.encode(texts), texts, LONGEST))

    @torch.no_grad()
    def decode(self, sources: Sequence[Ragged], numbers: Sequence[int] | None = None) -> list[list[Hypothesis]]:
        """Decode ids.

        Args:
            sources: for each system the ids of all N sentences.
            numbers: of the sentences, for the seeds of sampling; by default from 0 on.

        Returns:
            for each sentence what was found, best first.
        """
        for model, _ in self.systems:
            model.eval()
        found: list[list[Hypothesis]] = [[] for _ in range(len(sources[0]))]
        budget = BatchingConfig(batch_size=self.batch_size * _TOKENS, batch_by="tokens")
        parts: list[list[int]] = []
        for plan in plan_batches(sources[0].lengths, budget):
            parts += (plan[start : start + self.batch_size].tolist() for start in range(0, len(plan), self.batch_size))

        def compute(rows: list[int]) -> list[list[Hypothesis]]:
            seeds = [self._seed(numbers[row] if numbers is not None else row) for row in rows]
            return self._batch(sources, rows, seeds)

        for rows, some in zip(parts, spread(parts, compute), strict=True):
            for row, hypotheses in zip(rows, some, strict=True):
                found[row] = hypotheses
        return found

    def _seed(self, number: int) -> int:
        return int(np.random.default_rng([self.seed, number]).integers(2**62)) if self.search.sample else 0

    def _batch(self, sources: Sequence[Ragged], rows: list[int], seeds: list[int]) -> list[list[Hypothesis]]:
        starts, lengths = [], torch.empty(0)
        for ids, (model, tokenizer) in zip(sources, self.systems, strict=True):
            source, own = pad([ids[row] for row in rows], tokenizer.pad_id)
            device = next(model.parameters()).device
            starts.append(model.encode(send(source, device), own))
            lengths = lengths if len(starts) > 1 else own
        return self._search(starts, lengths, seeds)

    def _search(self, starts: list[tuple[Tree, Tree]], lengths: Tensor, seeds: list[int]) -> list[list[Hypothesis]]:
        if self.prefix:
            self._check_prefix(lengths)
        steps: list[StepFunction] = [model.step for model, _ in self.systems]
        together = len(steps) > 1
        differ = len({tokenizer.fingerprint for _, tokenizer in self.systems}) > 1
        if self.search.coverage_penalty and (differ or all(one.decoder.attention is None for one, _ in self.systems)):
            refuse_without_attention()
        if differ:
            steps = [_blind(step) for step in steps]  # places in different sources cannot be averaged
        with scores_expected():
            return self.search(
                ensemble(steps) if together else steps[0],
                [state for state, _ in starts] if together else starts[0][0],
                [memory for _, memory in starts] if together else starts[0][1],
                source_lengths=lengths,
                bos_id=self.target.bos_id,
                eos_id=self.target.eos_id,
                unk_id=self.target.unk_id,
                words=self.target.vocabulary,
                forbidden=(self.target.pad_id, self.target.bos_id),
                prefix=[self.prefix] * len(lengths) if self.prefix else None,
                seeds=seeds,
                keep_attention=self.attention or self.copy_unknown,
            )

    def _check_prefix(self, lengths: Tensor) -> None:
        most = self.search.limits(lengths)[1]
        if len(self.prefix) > int(most.min()):
            raise UserError(
                f"it has {len(self.prefix)} tokens, and for a source of "
                f"{int(lengths[most.argmin()])} no more than {int(most.min())} are allowed (max_length, max_ratio)",
                key=Option("prefix"),
            )

    def _translation(self, text: str, hypotheses: Sequence[Hypothesis]) -> Translation:
        source = self.systems[0][1].pieces(text)[:LONGEST] if self.attention or self.copy_unknown else []
        all_of_them = tuple(self._one(hypothesis, source) for hypothesis in hypotheses)
        return replace(all_of_them[0], n_best=all_of_them if self.search.n_best > 1 else ())

    def _one(self, found: Hypothesis, source: list[str]) -> Translation:
        tokens = [self.target.vocabulary[index] for index in found.tokens]
        attention: Tensor | None = found.attention
        if self.copy_unknown:
            if attention is None:
                refuse_without_attention()
            config = self.systems[0][1].config
            words = slice(int(config.add_bos), len(source) - config.add_eos)  # <bos> and <eos> are no words to copy
            unknown = self.target.vocabulary[self.target.unk_id]
            copies = [self._copied(piece) for piece in source[words]]
            tokens = replace_unknown(tokens, attention[:, words], copies, unknown=unknown)
        return Translation(
            join_tokens(tokens, self.target),
            tokens,
            found.score,
            found.log_probs,
            found.finished,
            source,
            attention if self.attention else None,
        )

    def _copied(self, piece: str) -> str:
        """Return a stretch of the source as a token of the target, without a mark: the model writes one before an
        unknown word that no white space precedes."""
        if self.target.config.marked and self.systems[0][1].config.kind in ("bpe", "unigram"):
            piece = piece.replace(SPACE, " ").strip()
        return self.target.written(piece, joined=False)

    def best(self, hypotheses: Sequence[Hypothesis]) -> str:
        """Return the best of them as text."""
        return join_tokens([self.target.vocabulary[index] for index in hypotheses[0].tokens], self.target)


def _blind(step: StepFunction) -> StepFunction:
    """Return the same step function without attention."""

    def blind(tokens: Tensor, state: Tree, memory: Tree) -> tuple[Tensor, Tree, None]:
        logits, state, _ = step(tokens, state, memory)
        return logits, state, None

    return blind
