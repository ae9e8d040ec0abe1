"""Sentiment classification: one label for a text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seqkit.data.batching import Batches, BatchingConfig, Planner, Ragged, lay_out, plan_batches
from seqkit.data.labels import Labels, label_column, number_column
from seqkit.data.skipped import counted_line
from seqkit.data.source import Source
from seqkit.data.sources import open_source
from seqkit.data.token_cache import encode_column
from seqkit.distributed import spread
from seqkit.errors import UserError, listed, shown
from seqkit.files import read_json, to_json, write_text
from seqkit.models import SequenceClassifier, worst_shift
from seqkit.nn.sending import send
from seqkit.tasks.base import RunConfig, RunTask
from seqkit.tasks.common import (
    column,
    cut,
    make_encoder,
    make_tokenizer,
    open_parts,
    scored,
    vocabulary_line,
    word_rows,
)
from seqkit.tasks.dev_outputs import kept_number, kept_text, spread_rows
from seqkit.tasks.explain import Explanation
from seqkit.tasks.init_weights import kept_tokenizer
from seqkit.tasks.layer_groups import reader_groups
from seqkit.tasks.lines import as_json, command_on
from seqkit.tasks.sentiment.config import SentimentConfig, make_classifier, sentiment_schema
from seqkit.tasks.sentiment.explain import explain_label
from seqkit.tasks.sentiment.metrics import METRICS, Outcome, classification_report
from seqkit.tasks.sentiment.predictions import Prediction
from seqkit.tasks.sentiment.stream import SentimentStream
from seqkit.tasks.stream import Stream
from seqkit.tasks.text_trace import TextTrace, one_row, tokens_of, trace_module
from seqkit.text import Tokenizer, take_texts
from seqkit.text.joining import one_line
from seqkit.training import Loss
from seqkit.training.scores import Scores, measured
from seqkit.training.transfer import Rows

_FIELDS = {"text": str, "label": str}
# Tokens in a text. A longer one is a broken file, not a sentence, and would take gigabytes for its states.
LONGEST = 50_000
_KEPT = 5  # classes whose probabilities a record of dev.jsonl has
_SCORED = BatchingConfig(batch_size=8192, batch_by="tokens")
_BLANK = r"^[\t-\r\x1c-\x20\x{85}\pZ]*$"  # what `str.strip` leaves nothing of


@dataclass(frozen=True)
class Batch:
    """Examples of one batch: ids (B, T) and lengths (B,) int64, labels (B,) int64, and their rows in the data."""

    ids: Tensor
    lengths: Tensor
    labels: Tensor
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One part of the data: tokenised texts, labels (N,) as class numbers, their names, where they come from, and which
    (N,) are blank: those are not scored, as `predict` gives them no label."""

    ids: Ragged
    labels: NDArray[np.int64]
    names: Labels
    source: Source
    blank: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """Return a digest of what is learned."""
        unknown = "\n".join(self.names.unknown).encode()
        return hashlib.sha256(self.ids.digest().encode() + self.labels.tobytes() + unknown).hexdigest()


class SentimentTask(RunTask):
    """See `RunTask`.

    Args:
        config: the whole configuration.
        tokenizer: text to ids.
        classes: names of the labels, in the order of the logits.
        load_vectors: read the pretrained vectors that the configuration names.
    """

    kind = "sentiment"
    model: SequenceClassifier

    def __init__(
        self, config: SentimentConfig, tokenizer: Tokenizer, classes: Sequence[str], *, load_vectors: bool
    ) -> None:
        self.config, self.tokenizer, self.classes = config, tokenizer, list(classes)
        encoder, self.notes = make_encoder(config.model.embedding, config.model.encoder, tokenizer, load=load_vectors)
        self.model = make_classifier(config.model, encoder, len(classes))
        self.splits: dict[str, Split] = {}
        self.scores = tuple(METRICS)
        self._planner: Planner | None = None
        self._weights: Tensor | None = None  # of the classes, on the CPU
        self._there: Tensor | None = None  # the same where the model lies

    @classmethod
    def schema(cls, tree: Mapping[str, Any]) -> type[RunConfig]:
        return sentiment_schema(tree)

    @classmethod
    def create(cls, config: SentimentConfig, folder: Path | None = None, *, fresh: bool = True) -> SentimentTask:
        sources = open_parts(config.data, lambda source, part: open_source(source, _FIELDS, part))
        train = sources["train"]
        if folder is not None:
            tokenizer, classes = cls._read(folder)
        else:
            classes = label_column(train, "label", "label").distinct()
            if len(classes) < 2:
                raise UserError(f"{train.name}: only one class, {shown(classes[0])}; a classifier needs at least two")
            tokenizer = kept_tokenizer(config) or make_tokenizer(
                config.text, config.model.embedding, column(train, "text")
            )
            config = config.model_copy(update={"text": tokenizer.config})  # that of the earlier run, after init
        task = cls(config, tokenizer, classes, load_vectors=fresh)
        for part, source in sources.items():
            task.splits[part] = task._split(source, part)
        task._refuse_empty(task.splits["train"])
        task._weights = task._class_weights()
        return task

    @classmethod
    def restore(cls, config: SentimentConfig, folder: Path) -> SentimentTask:
        tokenizer, classes = cls._read(folder)
        return cls(config, tokenizer, classes, load_vectors=False)

    @staticmethod
    def _read(folder: Path) -> tuple[Tokenizer, list[str]]:
        try:
            classes = [str(name) for name in read_json(folder / "classes.json")]
            if len(classes) < 2:
                raise ValueError
        except (OSError, ValueError, TypeError):
            raise UserError(f"{folder}: half-written: classes.json is missing or damaged") from None
        return Tokenizer.load(folder / "tokenizer.json"), classes

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder / "tokenizer.json")
        write_text(folder / "classes.json", json.dumps(self.classes, ensure_ascii=False) + "\n")

    def _split(self, source: Source, part: str) -> Split:
        """Tokenise a source and number its labels."""
        import pyarrow.compute as pc

        blank = pc.match_substring_regex(source.dataset.data.column("text"), _BLANK).to_numpy()
        if blank.all():
            raise UserError(f"{source.name}: every text is blank")
        refuse = self.config.data.refuses_unknown
        names, labels = number_column(
            source, "label", self.classes, "texts", refuse=refuse, learned=part == "train", left_out=blank
        )
        ids = encode_column(source.dataset, "text", self.tokenizer)
        if len(ids) and ids.lengths.max() > LONGEST:
            row = int(ids.lengths.argmax())
            raise UserError(
                f"{source.place(row)}: a text of {ids.lengths[row]:,} tokens; give text.max_length (and text.keep) to "
                f"cut texts, or remove it (the limit is {LONGEST:,})"
            )
        return Split(ids, labels, names, source, blank)

    def _refuse_empty(self, train: Split) -> None:
        empty = np.flatnonzero(train.ids.lengths == 0)
        if len(empty):
            row = int(empty[0])
            raise UserError(
                f"{train.source.place(row)}: nothing is left of this training text after tokenising "
                f"({len(empty)} such lines): {train.source.dataset[row]['text'][:60]!r}"
            )

    def _class_weights(self) -> Tensor | None:
        """(C,) or None."""
        choice = self.config.training.class_weights
        if choice == "none":
            return None
        if choice == "balanced":
            counts = np.bincount(self.splits["train"].labels, minlength=len(self.classes))
            return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32, device="cpu")
        if not isinstance(choice, dict):
            raise ValueError(f"training.class_weights: unknown {choice!r}")
        names = Labels.match(list(choice), self.classes)
        for name in names.unknown:
            raise UserError(f"no class {shown(name)}{names.hint(name)}", key="training.class_weights")
        for group in names.joined:
            raise UserError(f"{listed(map(shown, group))} are one class", key="training.class_weights")
        weights = dict(zip(names.numbers.tolist(), choice.values(), strict=True))
        missing = [name for number, name in enumerate(self.classes) if number not in weights]
        if missing:
            raise UserError(f"no weight for {listed(missing)}", key="training.class_weights")
        return torch.tensor([weights[number] for number in range(len(self.classes))], device="cpu")

    # --- learning -----------------------------------------------------------------------------------------------

    def _collate(self, split: Split, rows: NDArray[np.int64]) -> Batch:
        ids, lengths = lay_out(*split.ids.take(rows), self.tokenizer.pad_id)
        return Batch(ids, lengths, torch.from_numpy(split.labels[rows]), rows)

    def batches(self, epoch: int, start: int = 0) -> Iterable[Batch]:
        split = self.splits["train"]
        if self._planner is None:
            self._planner = Planner(split.ids.lengths, self.config.data, self.config.seed)
        return Batches(self._planner(epoch), lambda rows: self._collate(split, rows), start)

    def loss(self, batch: Batch, carry: Any) -> tuple[dict[str, Loss], None]:
        size = self.config.training.adversarial
        if not size:
            return {"loss": Loss(self._total(batch, None), self.weights(batch)["loss"])}, None
        table = self.model.encoder.embedding.table
        shift = torch.zeros(*batch.ids.shape, table.embedding_dim, device=self.device, requires_grad=True)
        plain = self._total(batch, shift)
        norm = table.weight.detach()[batch.ids].flatten(1).norm(dim=1)
        moved = self._total(batch, worst_shift(plain, shift, norm, size))
        return {"loss": Loss((plain + moved) / 2, self.weights(batch)["loss"])}, None

    def _total(self, batch: Batch, shift: Tensor | None) -> Tensor:
        """Return the cross-entropy of a batch, added up."""
        logits = self.model(batch.ids, batch.lengths, shift).float()
        smoothing = self.config.training.label_smoothing
        return F.cross_entropy(
            logits, batch.labels, self._weights_on(logits.device), reduction="sum", label_smoothing=smoothing
        )

    def _weights_on(self, device: torch.device) -> Tensor | None:
        """Return the weights of the classes, sent once."""
        if self._weights is not None and (self._there is None or self._there.device != device):
            self._there = send(self._weights, device)
        return self._there

    def weights(self, batch: Batch) -> dict[str, float]:
        if self._weights is None:
            return {"loss": float(len(batch.labels))}
        labels = torch.from_numpy(self.splits["train"].labels[batch.rows])
        return {"loss": float(self._weights[labels].sum())}

    def tokens(self, batch: Batch) -> int:
        return int(self.splits["train"].ids.lengths[batch.rows].sum())

    def describe(self, batch: Batch) -> list[str]:
        source = self.splits["train"].source
        return [f"{source.place(int(row))}: {source.dataset[int(row)]['text']}" for row in batch.rows]

    def layer_groups(self) -> Sequence[Sequence[str]]:
        return reader_groups(self.model.encoder)

    def evaluate(self) -> dict[str, float]:
        return self._measure(self.splits["dev"])[0] if "dev" in self.splits else {}

    def read_dev(self, data: str) -> None:
        source, part = scored(self.config.data, data)
        self.splits["dev"] = self._split(open_source(source, _FIELDS, part), part)

    def dev_outputs(self, limit: int) -> list[dict[str, Any]]:
        """See `Task.dev_outputs`; `probabilities` are those of the most probable classes, the best first."""
        if "dev" not in self.splits:
            return []
        split = self.splits["dev"]
        rows = spread_rows(np.flatnonzero(~split.blank), limit)
        shares = np.zeros((len(rows), len(self.classes)))
        plan = plan_batches(split.ids.lengths[rows], _SCORED)
        computed = spread(plan, lambda part: torch.softmax(self._logits(split.ids, rows[part]).double(), 1).numpy())
        for part, some in zip(plan, computed, strict=True):
            shares[part] = some
        texts = split.source.dataset.select_columns(["text"])[rows.tolist()]["text"]
        places = split.source.places(rows.tolist())
        return [self._record(split, *one) for one in zip(rows.tolist(), places, texts, shares, strict=True)]

    def _record(self, split: Split, row: int, place: str, text: str, shares: NDArray[np.float64]) -> dict[str, Any]:
        gold, best = int(split.labels[row]), np.argsort(-shares, kind="stable")[:_KEPT]
        return {
            "place": place,
            "text": kept_text(text),
            "gold": split.names.names[gold],
            "prediction": self.classes[best[0]],
            "confidence": kept_number(shares[best[0]]),
            "gold_probability": kept_number(shares[gold]) if gold < len(shares) else 0.0,
            "probabilities": {self.classes[number]: kept_number(shares[number]) for number in best},
            "tokens": int(split.ids.lengths[row]),
        }

    def _measure(self, split: Split) -> tuple[Scores, Outcome]:
        """Return the scores of a part, and what they are made from."""
        outcome, blank = self._outcome(split), int(split.blank.sum())
        scores = measured(outcome, METRICS, self.config.training.metric)
        return Scores(scores, len(outcome.labels), split.source.skipped, blank), outcome

    def _logits(self, ids: Ragged, rows: NDArray[np.int64]) -> Tensor:
        """(B, C) for some of the sequences, on the CPU."""
        padded, lengths = lay_out(*ids.take(rows), self.tokenizer.pad_id)
        logits: Tensor = self.model(send(padded, self.device), lengths)
        return logits.detach().float().cpu()

    def _outcome(self, split: Split) -> Outcome:
        """Return what the model makes of the texts that are not blank; never the logits of more than a batch at a
        time."""
        kept, known = np.flatnonzero(~split.blank), len(self.classes)
        labels, losses = split.labels[kept], np.zeros(len(kept))
        found = np.zeros_like(labels)

        def compute(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
            logits = self._logits(split.ids, kept[rows])
            wanted = torch.from_numpy(np.minimum(labels[rows], known - 1))  # an unknown one has no loss; see `Outcome`
            return logits.argmax(1).numpy(), F.cross_entropy(logits.double(), wanted, reduction="none").numpy()

        plan = plan_batches(split.ids.lengths[kept], _SCORED)
        for rows, (best, loss) in zip(plan, spread(plan, compute), strict=True):
            found[rows], losses[rows] = best, loss
        return Outcome(labels, found, losses, known, split.names.names)

    # --- using --------------------------------------------------------------------------------------------------

    def data_lines(self) -> list[str]:
        lines = []
        for part, split in self.splits.items():
            lengths, counts = split.ids.lengths, np.bincount(split.labels, minlength=len(split.names.names))
            balance = listed((f"{n} {c / len(split):.1%}" for n, c in zip(split.names.names, counts, strict=True)), 20)
            known = 1 - split.ids.count(self.tokenizer.unk_id) / max(int(lengths.sum()), 1)
            skipped = split.source.skipped.note()
            empty, blank = int((lengths == 0).sum()), int(split.blank.sum())
            lines.append(
                f"{part}: {len(split):,} texts ({balance}); length mean {lengths.mean():.1f}, median "
                f"{np.median(lengths):.0f}, longest {lengths.max()}; {known:.1%} of tokens in the vocabulary"
                + (f"; {skipped}" if skipped else "")
                + (f"; {empty} empty" if empty else "")
                + (f"; {blank} blank, which are not scored" if blank else "")
            )
            lines += [*split.names.joined_line(part, "label"), *self._unknown_line(part, split)]
        return [*lines, vocabulary_line(self.tokenizer)]

    @staticmethod
    def _unknown_line(name: str, split: Split) -> list[str]:
        labels = split.labels[~split.blank]
        counts = np.bincount(labels, minlength=len(split.names.names))[split.names.known :].tolist()
        return split.names.unknown_line(name, "label", counts, f"{sum(counts):,} of {len(labels):,} texts")

    @torch.no_grad()
    def score(self, data: str | None = None, **options: Any) -> tuple[dict[str, float], list[str]]:
        source, part = scored(self.config.data, data)
        split = self._split(open_source(source, _FIELDS, part), part)
        self.model.eval()
        scores, outcome = self._measure(split)
        blank = f"{scores.left_out:,} blank ones left out: they get no label" if scores.left_out else ""
        lines = [counted_line(split.source.name, len(outcome.labels), "texts", blank, split.source.skipped)]
        lines += self._unknown_line(split.source.name, split)
        return scores, lines + classification_report(outcome, split.names.names)

    @torch.no_grad()
    def predict(self, texts: Iterable[str]) -> list[Prediction]:
        """Return the label and probabilities for each text; a text of nothing but white space gets no label.

        Raises:
            TypeError, ValueError: see `take_texts`.
        """
        texts = take_texts(texts)
        self.model.eval()
        kept = [number for number, text in enumerate(texts) if text.strip()]
        found = [Prediction(None, {}) for _ in texts]
        if not kept:
            return found
        written = [texts[number] for number in kept]
        ids = Ragged.from_lists(cut(self.tokenizer.encode(written), written, LONGEST))
        plan = plan_batches(ids.lengths, _SCORED)
        for part, logits in zip(plan, spread(plan, partial(self._logits, ids)), strict=True):
            for number, prediction in zip(part.tolist(), self.predictions(logits), strict=True):
                found[kept[number]] = prediction
        return found

    def predictions(self, logits: Tensor) -> list[Prediction]:
        """Return what logits (B, C) on the CPU say."""
        found = []
        for shares in torch.softmax(logits, dim=1).tolist():
            best = max(range(len(shares)), key=shares.__getitem__)
            found.append(Prediction(self.classes[best], dict(zip(self.classes, shares, strict=True))))
        return found

    def encode(self, text: str) -> list[int]:
        """Return the ids that the model reads of a text; none for a blank one, which gets no label."""
        return list(cut(self.tokenizer.encode([text]), [text], LONGEST)[0]) if text.strip() else []

    def stream(self) -> Stream[Prediction]:
        return SentimentStream(self)

    def explain_one(self, text: str, gradients: bool) -> Explanation:
        ids = self.encode(text)
        if not ids:
            return Explanation(text)
        return explain_label(self.model, self.classes, text, tokens_of(self.tokenizer, text, ids), ids, gradients)

    def trace_one(self, text: str) -> TextTrace:
        ids = self.encode(text)
        if not ids:
            return TextTrace(text)
        encoder = self.model.encoder
        layers = trace_module(encoder.recurrent, lambda: encoder(*one_row(ids, self.device)))
        return TextTrace(text, tokens_of(self.tokenizer, text, ids), layers)

    def format(self, prediction: Prediction, form: str, **options: Any) -> str:
        if not as_json(form):
            return one_line(prediction.label or "")  # an old run may have a label with a line end
        probabilities = {name: round(value, 6) for name, value in prediction.probabilities.items()}
        return to_json({"label": prediction.label, "probabilities": probabilities})

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode([text])[0])

    def example(self, folder: Path) -> str:
        split = self.splits.get("dev") or self.splits["train"]
        row = int(np.where(split.blank, np.iinfo(np.int64).max, split.ids.lengths).argmin())
        return command_on(split.source.dataset[row]["text"], folder)

    def rows(self) -> dict[str, Rows]:
        classes = Rows(self.classes)
        return {
            **word_rows("encoder", self.model.encoder.embedding, self.tokenizer),
            "output.weight": classes,
            "output.bias": classes,
        }
