"""Language modelling: the next token of a text, read as one long stream."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqkit.config import UserError
from seqkit.data.batching import Batches, Ragged, encode_column
from seqkit.data.sources import Source, open_source
from seqkit.data.stream import TokenStream, plan_windows
from seqkit.models import LanguageModel
from seqkit.nn import detach_state
from seqkit.tasks.base import RunConfig, RunTask
from seqkit.tasks.language_model_config import LanguageModelConfig, build, check_text, language_model_schema
from seqkit.tasks.language_model_output import Continuation, LineScore, Sampler, format_line, score_lines
from seqkit.tasks.parts import column, make_tokenizer, scored
from seqkit.text import Tokenizer
from seqkit.training import Loss, RunFolder

_FIELDS = {"text": str}
# Steps of a window in which dev and test are read; the state goes on, so that the number does not show in the scores.
_EVALUATED = 256


@dataclass(frozen=True)
class StreamBatch:
    """A window of B streams: tokens read and tokens to predict, both (B, T) int64.

    `first` is the place of the window in each stream. `factor` is its length beside the mean length of the epoch's
    windows, by which its mean loss is multiplied, so that every token counts alike: for SGD the same as the learning
    rate's rescaling of Merity et al. 2017, section 4.1, up to a constant.
    """

    inputs: Tensor
    targets: Tensor
    first: int
    factor: float


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


class LanguageModelTask(RunTask):
    """See `RunTask`.

    Args:
        config: the whole configuration.
        tokenizer: text to ids.
        load_vectors: read the pretrained vectors that the configuration names.
    """

    kind = "language_model"
    predict_options = frozenset({"sample", "temperature", "top_k", "top_p", "max_length", "seed"})
    model: LanguageModel
    scores = ("loss", "perplexity", "bits_per_character")

    def __init__(self, config: LanguageModelConfig, tokenizer: Tokenizer, *, load_vectors: bool) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.model, self._lines = build(config.model, tokenizer, load=load_vectors)
        self.texts: dict[str, Text] = {}
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
        tokenizer = Tokenizer.load(folder / "tokenizer.json") if folder else cls._vocabulary(config, sources["train"])
        config = config.model_copy(update={"text": tokenizer.config})  # that of the earlier run, after init
        task = cls(config, tokenizer, load_vectors=fresh)
        for part, some in sources.items():
            task.texts[part] = task._read(some)
        tokens = task.texts["train"].tokens
        if tokens < 2 * data.batch_size:
            raise UserError(
                f"{sources['train'][0].name}: {tokens:,} tokens cannot be cut into data.batch_size {data.batch_size} "
                "streams of at least two"
            )
        return task

    @staticmethod
    def _vocabulary(config: LanguageModelConfig, train: Iterable[Source]) -> Tokenizer:
        if config.init is None or "text" in config.model_fields_set:
            texts = chain.from_iterable(column(source, "text") for source in train)
            return make_tokenizer(config.text, config.model.embedding, texts)
        # The vectors of tokens go with their numbers: without a `text:` section both are kept.
        tokenizer = Tokenizer.load(RunFolder.open(config.init.run).path / "tokenizer.json")
        try:
            check_text(tokenizer.config)
        except ValueError as error:
            raise UserError(
                f"init.run: {config.init.run}: {error} (give a text section for a new vocabulary)"
            ) from None
        return tokenizer

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

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def batches(self, epoch: int, start: int = 0) -> Iterable[StreamBatch]:
        data, ids, order = self.config.data, self.texts["train"].ids, None
        if data.shuffle:
            order = np.random.default_rng([self.config.seed, epoch]).permutation(len(ids))
        stream = TokenStream(ids, self.tokenizer.eos_id, order)
        seed = self.config.seed if data.variable_bptt else None
        length = len(stream) // data.batch_size
        plan = plan_windows(length, data.bptt, seed=seed, epoch=epoch)
        mean = length / len(plan)

        def collate(window: NDArray[np.int64]) -> StreamBatch:
            first, count = window.tolist()
            tokens = torch.from_numpy(stream.window(data.batch_size, first, count)).to(self.device)
            return StreamBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), first, count / mean)

        return Batches(plan, collate, start)

    def loss(self, batch: StreamBatch, carry: Any) -> tuple[dict[str, Loss], Any]:
        training, weights = self.config.training, self.weights(batch)
        before = None if carry is None else tuple(part.to(self.device) for part in carry)
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
        return [f"stream {row + 1} from token {batch.first + 1}: {text}" for row, text in enumerate(texts)]

    def evaluate(self) -> dict[str, float]:
        return self._measure(self.texts["dev"]) if "dev" in self.texts else {}

    def _measure(self, text: Text) -> dict[str, float]:
        """Scores of a whole text, each token predicted once, the state carried on."""
        stream = TokenStream(text.ids, self.tokenizer.eos_id)
        streams = min(self.config.data.eval_batch_size, len(stream))
        length, total, state = len(stream) // streams, 0.0, None
        for first, count in plan_windows(length, _EVALUATED):
            nats, state = self._nats(stream.window(streams, int(first), int(count)), state)
            total += nats
        if rest := len(stream) - streams * length:  # the last stream goes on to the end
            assert state is not None
            window = stream.read(streams * length - 1, rest + 1)[np.newaxis]
            total += self._nats(window, tuple(part[:, -1:] for part in state))[0]
        mean = total / len(stream)
        bits = total / math.log(2) / text.characters
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "bits_per_character": bits}

    def _nats(self, window: NDArray[np.int64], state: Any) -> tuple[float, Any]:
        tokens = torch.from_numpy(window).to(self.device)
        found = self.model(tokens[:, :-1], state)
        return float(self.model.loss(found.features, tokens[:, 1:])), found.state

    # --- using --------------------------------------------------------------------------------------------------

    def report(self) -> list[str]:
        lines = []
        for part, text in self.texts.items():
            known = 1 - text.ids.count(self.tokenizer.unk_id) / max(int(text.ids.lengths.sum()), 1)
            skipped = sum(source.skipped for source in text.sources)
            lines.append(
                f"{part}: {len(text.ids):,} lines, {text.tokens:,} tokens, {text.characters / text.tokens:.2f} "
                f"characters a token (line ends are both); {known:.1%} of tokens in the vocabulary"
                + (f"; {skipped:,} bad lines skipped" if skipped else "")
            )
        data = self.config.data
        lines.append(
            f"streams: {data.batch_size} of {self.texts['train'].tokens // data.batch_size:,} tokens, in windows of "
            f"{'about ' if data.variable_bptt else ''}{data.bptt}"
        )
        lines.append(f"vocabulary: {len(self.tokenizer):,} entries ({self.tokenizer.config.tokenizer})")
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return [*lines, *self._lines, f"model: {trained:,} trained parameters"]

    @torch.no_grad()
    def score(self, data: str | None = None, **options: Any) -> tuple[dict[str, float], list[str]]:
        where, part = scored(self.config.data, data)
        text = self._read((open_source(where, _FIELDS, part),))
        self.model.eval()
        unknown = text.ids.count(self.tokenizer.unk_id) / text.tokens
        source = text.sources[0]
        skipped = f" ({source.skipped} bad lines skipped)" if source.skipped else ""
        lines = [f"{source.name}: {len(text.ids):,} lines, {text.tokens:,} tokens{skipped}"]
        if unknown:
            lines.append(f"{unknown:.2%} of the tokens are unknown words, which all count as the same token")
        return self._measure(text), lines

    def adjust(self, **options: Any) -> None:
        """Let `predict` continue texts instead of scoring them.

        Args:
            options: `sample`, and the fields of `Sampler`.

        Raises:
            UserError: a setting out of range, or one of sampling without `sample`.
        """
        sample = options.pop("sample", False)
        for name in options:
            if not sample:
                raise UserError(f"--{name.replace('_', '-')}: only --sample has it")
        self.sampler = (
            replace(Sampler(self.model, self.tokenizer, seed=self.config.seed), **options) if sample else None
        )

    def predict(self, texts: Sequence[str]) -> Sequence[LineScore | Continuation]:
        """The log-probability of each text, or with `adjust(sample=True)` a continuation of it."""
        self.model.eval()
        return self.sampler(texts) if self.sampler else score_lines(self.model, self.tokenizer, texts)

    def format(self, prediction: LineScore | Continuation, form: str, **options: Any) -> str:
        return format_line(prediction, form)

    def example(self, folder: Path) -> str:
        source = self.texts["train"].sources[0]
        words = str(source.dataset[int(self.texts["train"].ids.lengths.argmax())]["text"]).split()
        return f"echo {shlex.quote(' '.join(words[:2]))} | seqkit predict {shlex.quote(str(folder))} --sample"

    def fingerprint(self) -> str:
        return hashlib.sha256(self.texts["train"].ids.digest().encode()).hexdigest()

    def rows(self, folder: Path) -> dict[str, tuple[Sequence[str], Sequence[str]]]:
        names = self.tokenizer.vocabulary, Tokenizer.load(folder / "tokenizer.json").vocabulary
        tables = ("encoder.embedding.table.weight", "token_scores.weight", "token_scores.bias")
        found: dict[str, tuple[Sequence[str], Sequence[str]]] = dict.fromkeys(tables, names)
        if names[0] != names[1]:  # the clusters of another vocabulary hold other words, whatever their size
            for name, value in self.model.state_dict().items():
                if name.startswith("adaptive."):
                    found[name] = [str(row) for row in range(len(value))], ()
        return found
