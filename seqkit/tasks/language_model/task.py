"""Language modelling: the next token of a text, read as one long stream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqkit.config import Section, with_defaults
from seqkit.data.batching import Batches, Ragged, split_rows
from seqkit.data.bptt import TokenStream, plan_windows
from seqkit.data.skipped import counted_line
from seqkit.data.source import Source
from seqkit.data.sources import open_source
from seqkit.data.token_cache import encode_column
from seqkit.data.tokenizer_cache import column_texts
from seqkit.distributed import on_first
from seqkit.errors import UserError
from seqkit.models import LanguageModel
from seqkit.nn import detach_state
from seqkit.nn.sending import send
from seqkit.tasks.base import RunConfig, RunTask
from seqkit.tasks.common import make_tokenizer, named_rows, scored, vocabulary_line, word_rows
from seqkit.tasks.dev_outputs import kept_number, kept_text, mean_probability, spread_rows
from seqkit.tasks.explain import Explanation
from seqkit.tasks.init_weights import kept_tokenizer
from seqkit.tasks.language_model.config import LanguageModelConfig, build, check_text, language_model_schema
from seqkit.tasks.language_model.explain import explain_line, line_layers
from seqkit.tasks.language_model.metrics import METRICS, Outcome
from seqkit.tasks.language_model.predictions import (
    Continuation,
    LineScore,
    Sampler,
    SamplingOptions,
    encode_lines,
    format_line,
    score_lines,
    token_log_probs,
)
from seqkit.tasks.language_model.stream import LineStream
from seqkit.tasks.layer_groups import reader_groups
from seqkit.tasks.lines import command_on
from seqkit.tasks.stream import Stream
from seqkit.tasks.text_trace import TextTrace, Token, tokens_of
from seqkit.text import Tokenizer, take_texts
from seqkit.training import Loss
from seqkit.training.scores import Scores, measured
from seqkit.training.transfer import Rows

_FIELDS = {"text": str}
_BLOCK = 65_536  # lines whose tokens are counted together


@dataclass(frozen=True)
class StreamBatch:
    """A window of B streams: tokens read and tokens to predict, both (B, T) int64.

    `first` is the place of the window in each stream. `factor` is its length beside the mean length of the epoch's
    windows, by which its mean loss is multiplied, so that every token counts alike: for SGD the same as the learning
    rate's rescaling of Merity et al. 2017, section 4.1, up to a constant. `rows` are the numbers of the streams.
    """

    inputs: Tensor
    targets: Tensor
    first: int
    factor: float
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Text:
    """One part of the data: lines of token ids, characters in them (each line's end counts), where they come from."""

    ids: Ragged
    characters: int
    sources: tuple[Source, ...]

    @property
    def tokens(self) -> int:
        """Tokens to predict, each line's <eos> counted."""
        return int(self.ids.lengths.sum()) + int((self.ids.lengths > 0).sum())

    def fingerprint(self) -> str:
        """Return a digest of what is learned."""
        return hashlib.sha256(self.ids.digest().encode()).hexdigest()


class LanguageModelTask(RunTask):
    """See `RunTask`.

    Args:
        config: the whole configuration.
        tokenizer: text to ids.
        load_vectors: read the pretrained vectors that the configuration names.
    """

    kind = "language_model"
    # Steps of a window in which dev and test are read; the state goes on, so that the number shows in no score.
    evaluated = 256
    model: LanguageModel

    def __init__(self, config: LanguageModelConfig, tokenizer: Tokenizer, *, load_vectors: bool) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.model, self.notes = build(config.model, tokenizer, load=load_vectors)
        self.splits: dict[str, Text] = {}
        self.scores = tuple(METRICS)
        self.sampler: Sampler | None = None

    @classmethod
    def schema(cls, tree: Mapping[str, Any]) -> type[RunConfig]:
        return language_model_schema(tree)

    @classmethod
    def create(
        cls, config: LanguageModelConfig, folder: Path | None = None, *, fresh: bool = True
    ) -> LanguageModelTask:
        data = config.data
        given: dict[str, list[Any]] = {"train": [data.train, *data.extra], "dev": [data.dev], "test": [data.test]}
        sources = {
            part: tuple(open_source(one, _FIELDS, part) for one in some)
            for part, some in given.items()
            if some[0] is not None
        }
        if folder is not None:
            tokenizer = Tokenizer.load(folder / "tokenizer.json")
        else:
            texts = column_texts([(source, "text") for source in sources["train"]])
            kept = kept_tokenizer(config, check=check_text)
            tokenizer = kept or make_tokenizer(config.text.for_writing(), config.model.embedding, texts)
        config = config.model_copy(update={"text": tokenizer.config})  # that of the earlier run, after init
        task = cls(config, tokenizer, load_vectors=fresh)
        for part, some in sources.items():
            task.splits[part] = task._read(some)
        tokens = task.splits["train"].tokens
        if tokens < 2 * data.batch_size:
            raise UserError(
                f"{sources['train'][0].name}: {tokens:,} tokens cannot be cut into data.batch_size {data.batch_size} "
                "streams of at least two"
            )
        return task

    @classmethod
    def restore(cls, config: LanguageModelConfig, folder: Path) -> LanguageModelTask:
        return cls(config, Tokenizer.load(folder / "tokenizer.json"), load_vectors=False)

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder / "tokenizer.json")

    def _read(self, sources: tuple[Source, ...]) -> Text:
        """Tokenise; several sources become one text."""
        import pyarrow.compute as pc

        parts, characters = [], 0
        for source in sources:
            ids = encode_column(source.dataset, "text", self.tokenizer)
            lengths = pc.utf8_length(source.dataset.data.column("text")).to_numpy()
            characters += int((lengths + 1)[ids.lengths > 0].sum())
            parts.append(ids)
        ids = Ragged.join(parts)
        if not ids.lengths.any():
            raise UserError(f"{sources[0].name}: no token is left of this text")
        return Text(ids, characters, sources)

    # --- learning -----------------------------------------------------------------------------------------------

    def batches(self, epoch: int, start: int = 0) -> Iterable[StreamBatch]:
        data, ids, order = self.config.data, self.splits["train"].ids, None
        if data.shuffle:
            order = np.random.default_rng([self.config.seed, epoch]).permutation(len(ids))
        stream = TokenStream(ids, self.tokenizer.eos_id, order)
        seed = self.config.seed if data.variable_bptt else None
        length = len(stream) // data.batch_size
        plan = plan_windows(length, data.bptt, seed=seed, epoch=epoch)
        mean = length / len(plan)

        every = np.arange(data.batch_size)

        def collate(window: NDArray[np.int64]) -> StreamBatch:
            first, count, *some = window.tolist()
            rows = tuple(some or every.tolist())
            tokens = torch.from_numpy(stream.window(data.batch_size, first, count, rows))
            return StreamBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), first, count / mean, rows)

        def split(window: NDArray[np.int64], rank: int, world: int) -> tuple[NDArray[np.int64], bool]:
            rows, counts = split_rows(every, rank, world)
            return np.concatenate([window, rows]), counts

        return Batches(plan, collate, start, split)

    def split_carry(self, carry: Any, rank: int, world: int) -> Any:
        rows, _ = split_rows(np.arange(self.config.data.batch_size), rank, world)
        return tuple(part[:, torch.from_numpy(rows)] for part in carry)

    def join_carries(self, carries: Sequence[Any]) -> Any:
        streams, world = self.config.data.batch_size, len(carries)
        joined = tuple(part.new_empty(part.size(0), streams, *part.shape[2:]) for part in carries[0])
        for rank, carry in enumerate(carries[:streams]):
            for whole, part in zip(joined, carry, strict=True):
                whole[:, rank::world] = part
        return joined

    def send(self, batch: StreamBatch, device: torch.device) -> StreamBatch:
        return replace(batch, inputs=send(batch.inputs, device), targets=self._targets(batch.targets, device))

    def _targets(self, targets: Tensor, device: torch.device) -> Tensor:
        """Send targets to where the loss wants them: the clusters of an adaptive softmax are chosen on the CPU."""
        return targets if self.model.adaptive is not None else send(targets, device)

    def loss(self, batch: StreamBatch, carry: Any) -> tuple[dict[str, Loss], Any]:
        training, weights = self.config.training, self.weights(batch)
        before = None if carry is None else tuple(send(part, self.device) for part in carry)
        found = self.model(batch.inputs, before)
        sums = {"nll": (self.model.loss(found.features, batch.targets), 1.0)}
        if training.ar:
            sums["ar"] = found.dropped.float().pow(2).mean(2).sum(), training.ar
        if training.tar:
            sums["tar"] = found.output.float().diff(dim=1).pow(2).mean(2).sum(), training.tar
        losses = {name: Loss(total, weights[name], share * batch.factor) for name, (total, share) in sums.items()}
        return losses, detach_state(found.state)

    def weights(self, batch: StreamBatch) -> dict[str, float]:
        training, tokens = self.config.training, float(batch.targets.numel())
        found = {"nll": tokens}
        if training.ar:
            found["ar"] = tokens
        if training.tar:
            found["tar"] = tokens - len(batch.targets)
        return found

    def tokens(self, batch: StreamBatch) -> int:
        return batch.targets.numel()

    def describe(self, batch: StreamBatch) -> list[str]:
        texts = [self.tokenizer.decode(row) for row in batch.targets.tolist()]
        streams = zip(batch.rows, texts, strict=True)
        return [f"stream {row + 1} from token {batch.first + 1}: {text}" for row, text in streams]

    def layer_groups(self) -> Sequence[Sequence[str]]:
        return reader_groups(self.model.encoder)

    def evaluate(self) -> dict[str, float]:
        return on_first(lambda: self._measure(self.splits["dev"])) if "dev" in self.splits else {}

    def read_dev(self, data: str) -> None:
        where, part = scored(self.config.data, data)
        self.splits["dev"] = self._read((open_source(where, _FIELDS, part),))

    def dev_outputs(self, limit: int) -> list[dict[str, Any]]:
        """See `Task.dev_outputs`; each line is read alone, after a line end. `log_probs` are those of the `tokens`, and
        last of the line's end; `counts` say how often the training data, where they are there, have each."""
        if "dev" not in self.splits:
            return []
        dev, eos = self.splits["dev"], self.tokenizer.eos_id
        source = dev.sources[0]
        rows = spread_rows(np.flatnonzero(dev.ids.lengths > 0), limit).tolist()
        texts = source.dataset.select_columns(["text"])[rows]["text"]
        counts = self._train_counts() if "train" in self.splits else None
        log_probs_of = token_log_probs(self.model, self.tokenizer, [dev.ids[row].tolist() for row in rows])
        found = zip(rows, source.places(rows), texts, log_probs_of, strict=True)
        records = []
        for row, place, text, log_probs in found:
            record = {
                "place": place,
                "text": kept_text(text),
                "confidence": mean_probability(log_probs),
                "tokens": self.tokenizer.pieces(text)[: len(log_probs) - 1],
                "log_probs": list(map(kept_number, log_probs)),
            }
            if counts is not None:
                record["counts"] = counts[[*dev.ids[row][: len(log_probs) - 1].tolist(), eos]].tolist()
            records.append(record)
        return records

    def _train_counts(self) -> NDArray[np.int64]:
        """(V,) how often each token stands in the training data."""
        train = self.splits["train"]
        counts = np.zeros(len(self.tokenizer), np.int64)
        for start in range(0, len(train.ids), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(train.ids)))
            counts += np.bincount(train.ids.take(rows)[0], minlength=len(counts))
        counts[self.tokenizer.eos_id] += int((train.ids.lengths > 0).sum())
        return counts

    def _measure(self, text: Text) -> Scores:
        """Scores of a whole text, each token predicted once, the state carried on: nothing that processes can share."""
        stream = TokenStream(text.ids, self.tokenizer.eos_id)
        streams = min(self.config.data.eval_batch_size, len(stream))
        length, total, state = len(stream) // streams, 0.0, None
        for first, count in plan_windows(length, self.evaluated):
            nats, state = self._nats(stream.window(streams, int(first), int(count)), state)
            total += nats
        if rest := len(stream) - streams * length:  # the last stream goes on to the end
            assert state is not None
            window = stream.read(streams * length - 1, rest + 1)[np.newaxis]
            total += self._nats(window, tuple(part[:, -1:] for part in state))[0]
        outcome, lines = Outcome(total, len(stream), text.characters), int((text.ids.lengths > 0).sum())
        scores = measured(outcome, METRICS, self.config.training.metric)
        return Scores(scores, lines, text.sources[0].skipped, len(text.ids) - lines)

    def _nats(self, window: NDArray[np.int64], state: Any) -> tuple[float, Any]:
        tokens = torch.from_numpy(window)
        found = self.model(send(tokens[:, :-1], self.device), state)
        targets = self._targets(tokens[:, 1:], self.device)
        return float(self.model.loss(found.features, targets)), found.state

    # --- using --------------------------------------------------------------------------------------------------

    def data_lines(self) -> list[str]:
        lines = []
        for part, text in self.splits.items():
            known = 1 - text.ids.count(self.tokenizer.unk_id) / max(int(text.ids.lengths.sum()), 1)
            skipped = [note for source in text.sources if (note := source.skipped.note())]
            lines.append(
                f"{part}: {len(text.ids):,} lines, {text.tokens:,} tokens, {text.characters / text.tokens:.2f} "
                f"characters a token (a line end counts as both); {known:.1%} of tokens in the vocabulary"
                + "".join(f"; {note}" for note in skipped)
            )
        data = self.config.data
        lines.append(
            f"streams: {data.batch_size} of {self.splits['train'].tokens // data.batch_size:,} tokens, in windows of "
            f"{'about ' if data.variable_bptt else ''}{data.bptt}"
        )
        return [*lines, vocabulary_line(self.tokenizer)]

    @torch.no_grad()
    def score(self, data: str | None = None, **options: Any) -> tuple[dict[str, float], list[str]]:
        where, part = scored(self.config.data, data)
        text = self._read((open_source(where, _FIELDS, part),))
        self.model.eval()
        unknown = text.ids.count(self.tokenizer.unk_id) / text.tokens
        source = text.sources[0]
        lines = [counted_line(source.name, len(text.ids), f"lines, {text.tokens:,} tokens", source.skipped)]
        if unknown:
            lines.append(f"{unknown:.2%} of the tokens are unknown words, which all count as the same token")
        return on_first(lambda: self._measure(text)), lines

    @classmethod
    def predict_options(cls, config: Any) -> type[Section]:
        return with_defaults(SamplingOptions, SamplingOptions, seed=config.seed)

    def adjust(self, **options: Any) -> None:
        """Let `predict` continue texts instead of scoring them.

        Args:
            options: those of `SamplingOptions`.

        Raises:
            UserError: a setting out of range, or one of sampling without `sample`.
        """
        sample = options.pop("sample", False)
        for name in options:
            if not sample:
                raise UserError("only sampling has it (sample=true)", key=name)
        self.sampler = (
            replace(Sampler(self.model, self.tokenizer, seed=self.config.seed), **options) if sample else None
        )

    def predict(self, texts: Iterable[str]) -> Sequence[LineScore | Continuation]:
        """Return the log-probability of each text, or with `adjust(sample=True)` a continuation of it.

        Raises:
            TypeError, ValueError: see `take_texts`.
        """
        texts = take_texts(texts)
        self.model.eval()
        return self.sampler(texts) if self.sampler else score_lines(self.model, self.tokenizer, texts)

    def stream(self) -> Stream[LineScore | Continuation]:
        return LineStream(self)

    def explain_one(self, text: str, gradients: bool) -> Explanation:
        ids = encode_lines(self.tokenizer, [text])[0]
        if not ids:
            return Explanation(text)
        tokens, words = tokens_of(self.tokenizer, text, ids), self.tokenizer.words
        return explain_line(self.model, text, tokens, ids, self.tokenizer.eos_id, words)

    def trace_one(self, text: str) -> TextTrace:
        ids, eos = encode_lines(self.tokenizer, [text])[0], self.tokenizer.eos_id
        if not ids:
            return TextTrace(text)
        tokens = [Token(self.tokenizer.vocabulary[eos]), *tokens_of(self.tokenizer, text, ids)]
        return TextTrace(text, tokens, line_layers(self.model, ids, eos))

    def format(self, prediction: LineScore | Continuation, form: str, **options: Any) -> str:
        return format_line(prediction, form)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode([text])[0])

    @property
    def independent(self) -> bool:
        return self.sampler is None

    def example(self, folder: Path) -> str:
        source = self.splits["train"].sources[0]
        words = str(source.dataset[int(self.splits["train"].ids.lengths.argmax())]["text"]).split()
        return command_on(" ".join(words[:2]), folder, options="sample=true")

    def rows(self) -> dict[str, Rows]:
        words = named_rows(self.tokenizer)
        tables = word_rows("encoder", self.model.encoder.embedding, self.tokenizer)
        if self.model.adaptive is None:
            return {**tables, **dict.fromkeys(("token_scores.weight", "token_scores.bias"), words)}
        # The head scores the frequent words and, as one row each, the clusters of the others.
        limits = self.model.adaptive.cutoffs
        clusters = [f"<cluster {number}>" for number in range(1, len(limits))]
        names = self.tokenizer.vocabulary
        head = Rows([*names[: limits[0]], *clusters])
        tails = {
            f"adaptive.tail.{number}.1.weight": Rows(names[start:end])
            for number, (start, end) in enumerate(pairwise(limits))
        }
        return {**tables, "adaptive.head.weight": head, "adaptive.head.bias": head, **tails}
