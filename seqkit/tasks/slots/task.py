"""Slot filling: a tag for every token, which together make slots, and the intent of the whole sentence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seqkit.config import Section
from seqkit.console import say
from seqkit.data.batching import Batches, BatchingConfig, plan_batches
from seqkit.data.labels import label_column
from seqkit.data.skipped import counted_line
from seqkit.data.source import Source
from seqkit.data.tagged import open_tagged
from seqkit.distributed import spread
from seqkit.errors import UserError, shown
from seqkit.files import read_json, write_text
from seqkit.models import Tagger
from seqkit.tasks.base import RunConfig, RunTask
from seqkit.tasks.common import column, cut, make_tokenizer, open_parts, scored, word_rows
from seqkit.tasks.dev_outputs import kept_number, kept_text, spread_rows
from seqkit.tasks.explain import Explanation
from seqkit.tasks.init_weights import kept_tokenizer
from seqkit.tasks.layer_groups import reader_groups
from seqkit.tasks.lines import command_on
from seqkit.tasks.sending import sent
from seqkit.tasks.slots.config import SlotsConfig, check_text, make_tagger, slots_schema
from seqkit.tasks.slots.data import (
    LONGEST,
    TagBatch,
    Tagged,
    Words,
    collate,
    column_lists,
    describe,
    plain_lists,
    read_tagged,
    tag_names,
    unknown_lines,
)
from seqkit.tasks.slots.explain import explain_tags, tag_layers
from seqkit.tasks.slots.inputs import looks_like_tokens, read_tokens, refuse_long, token_offsets
from seqkit.tasks.slots.metrics import METRICS, Outcome, SpanCounts
from seqkit.tasks.slots.predictions import Tagging, format_tagging, make_tagging
from seqkit.tasks.slots.split_fit import fit_lines, fitted, split_of
from seqkit.tasks.slots.stream import SlotsStream
from seqkit.tasks.stream import Stream
from seqkit.tasks.text_trace import TextTrace, Token
from seqkit.text import TextConfig, Tokenizer, take_sentences, take_texts
from seqkit.training import Loss
from seqkit.training.scores import Scores, measured
from seqkit.training.transfer import Rows

_LETTERS = TextConfig(tokenizer="char")


class SlotsOptions(Section):
    """Options of `seqkit predict` for slot filling."""

    tokens: bool = False
    """Each line is JSON, {"tokens": ["to", "Rome"]}, as in the training data, and gets a tag for each token."""


class SlotsTask(RunTask):
    """See `RunTask`.

    Args:
        config: the whole configuration.
        tokenizer: of words.
        letters: of characters, where the model reads them.
        tags, intents: their names, in the order of the scores; no intents: they are not learned.
        load_vectors: read the pretrained vectors that the configuration names.
    """

    kind = "slots"
    model: Tagger

    def __init__(
        self,
        config: SlotsConfig,
        tokenizer: Tokenizer,
        letters: Tokenizer | None,
        tags: Sequence[str],
        intents: Sequence[str],
        *,
        load_vectors: bool,
    ) -> None:
        self.config, self.tokenizer, self.letters = config, tokenizer, letters
        self.tags, self.intents = list(tags), list(intents)
        self.model, self.notes = make_tagger(
            config.model, tokenizer, letters, self.tags, self.intents, load=load_vectors
        )
        self.splits: dict[str, Tagged] = {}
        self._takes_tokens = self._warned = False
        self.scores = tuple(name for name in METRICS if self.intents or name != "intent_accuracy")

    @classmethod
    def schema(cls, tree: Mapping[str, Any]) -> type[RunConfig]:
        return slots_schema(tree)

    @classmethod
    def create(cls, config: SlotsConfig, folder: Path | None = None, *, fresh: bool = True) -> SlotsTask:
        has_intent = config.data.has_intent
        sources = open_parts(config.data, partial(open_tagged, intent=has_intent))
        train = sources["train"]
        if folder is not None:
            made = cls._read(folder, config)
        else:
            tokenizer, letters = cls._vocabularies(config, train)
            intents = label_column(train, "intent", "intent").distinct() if has_intent else []
            if len(intents) == 1:
                raise UserError(f"{train.name}: only one intent, {shown(intents[0])}; set data.intent to false")
            made = tokenizer, letters, tag_names(train), intents
            config = config.model_copy(update={"text": tokenizer.config})  # that of the earlier run, after init
        task = cls(config, *made, load_vectors=fresh)
        for part, source in sources.items():
            task.splits[part] = task._split(source, part)
        return task

    @staticmethod
    def _vocabularies(config: SlotsConfig, train: Source) -> tuple[Tokenizer, Tokenizer | None]:
        lists = column_lists(train, "tokens")
        letters = None
        if config.model.characters is not None:
            letters = make_tokenizer(_LETTERS, config.model.characters.embedding, lists[2])
        words = chain.from_iterable(column(train, "tokens"))
        kept = kept_tokenizer(config, check=check_text)
        tokenizer = kept or make_tokenizer(config.text, config.model.embedding, words, whole=True)
        return fitted(tokenizer, lists, config.text), letters

    @classmethod
    def restore(cls, config: SlotsConfig, folder: Path) -> SlotsTask:
        return cls(config, *cls._read(folder, config), load_vectors=False)

    @classmethod
    def _read(cls, folder: Path, config: SlotsConfig) -> tuple[Tokenizer, Tokenizer | None, list[str], list[str]]:
        letters = None
        if config.model.characters is not None:
            letters = Tokenizer.load(folder / "tokenizer.characters.json")
        labels = cls._labels(folder)
        return Tokenizer.load(folder / "tokenizer.json"), letters, labels["tags"], labels["intents"]

    @staticmethod
    def _labels(folder: Path) -> dict[str, list[str]]:
        try:
            labels = read_json(folder / "labels.json")
            found = {name: [str(label) for label in labels[name]] for name in ("tags", "intents")}
            if not found["tags"]:
                raise ValueError
            return found
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{folder}: half-written: labels.json is missing or damaged") from None

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder / "tokenizer.json")
        if self.letters is not None:
            self.letters.save(folder / "tokenizer.characters.json")
        labels = {"tags": self.tags, "intents": self.intents}
        write_text(folder / "labels.json", json.dumps(labels, ensure_ascii=False) + "\n")

    def _split(self, source: Source, part: str) -> Tagged:
        data = self.config.data
        kinds = self.tokenizer, self.letters, self.tags, self.intents
        return read_tagged(source, *kinds, data.on_bad_tags, refuse=data.refuses_unknown, learned=part == "train")

    # --- learning -----------------------------------------------------------------------------------------------

    def batches(self, epoch: int, start: int = 0) -> Iterable[TagBatch]:
        data = self.splits["train"]
        plan = plan_batches(data.words.lengths, self.config.data, seed=self.config.seed, epoch=epoch)
        return Batches(plan, lambda rows: collate(data, rows, self.tokenizer), start)

    def loss(self, batch: TagBatch, carry: Any) -> tuple[dict[str, Loss], None]:
        tags, intents = self.model(batch.ids, batch.lengths, batch.spelling)
        weights = self.weights(batch)
        losses = {"tags": Loss(self.model.tag_loss(tags, batch.tags, batch.lengths), weights["tags"])}
        if intents is not None and batch.intents is not None:
            total = F.cross_entropy(intents.float(), batch.intents, reduction="sum")
            losses["intent"] = Loss(total, weights["intent"], self.config.training.intent_weight)
        return losses, None

    def weights(self, batch: TagBatch) -> dict[str, float]:
        weights = {"tags": float(self.tokens(batch))}
        if batch.intents is not None:
            weights["intent"] = float(len(batch.rows))
        return weights

    def tokens(self, batch: TagBatch) -> int:
        return int(self.splits["train"].words.lengths[batch.rows].sum())

    def describe(self, batch: TagBatch) -> list[str]:
        source = self.splits["train"].source
        return [f"{source.place(int(row))}: {' '.join(source.dataset[int(row)]['tokens'])}" for row in batch.rows]

    def layer_groups(self) -> Sequence[Sequence[str]]:
        return reader_groups(self.model.encoder, "characters.*")

    def evaluate(self) -> dict[str, float]:
        return self._judge(self.splits["dev"])[0] if "dev" in self.splits else {}

    def read_dev(self, data: str) -> None:
        where, part = scored(self.config.data, data)
        self.splits["dev"] = self._split(open_tagged(where, part, intent=bool(self.intents)), part)

    def dev_outputs(self, limit: int) -> list[dict[str, Any]]:
        """See `Task.dev_outputs`; `gold` and `prediction` are the tags of the `tokens`, `confidence` is the probability
        of all predicted tags together, and `gold_intent` and `intent` are there where intents are learned."""
        if "dev" not in self.splits:
            return []
        data = self.splits["dev"]
        kept = spread_rows(np.arange(len(data)), limit)

        def compute(part: NDArray[np.int64]) -> list[tuple[list[str], float, str | None]]:
            rows = kept[part]
            batch = sent(collate(data, rows, self.tokenizer), self.device)
            scores, classes = self.model(batch.ids, batch.lengths, batch.spelling)
            tags = self.model.decode(scores, batch.lengths)
            shares = self.model.log_probs(scores, tags, batch.lengths).exp().tolist()
            best = [None] * len(rows) if classes is None else [self.intents[i] for i in classes.argmax(1).tolist()]
            return list(zip(self._names(tags, data.words.lengths[rows]), shares, best, strict=True))

        plan = plan_batches(data.words.lengths[kept], BatchingConfig(batch_size=8192, batch_by="tokens"))
        found: dict[int, tuple[list[str], float, str | None]] = {}
        for part, some in zip(plan, spread(plan, compute), strict=True):
            found |= zip(part.tolist(), some, strict=True)
        rows = kept.tolist()
        tokens, intents = data.source.dataset.select_columns(["tokens"])[rows]["tokens"], data.intent_labels
        records = []
        for number, (row, place) in enumerate(zip(rows, data.source.places(rows), strict=True)):
            tags, share, intent = found[number]
            record = {
                "place": place,
                "text": kept_text(" ".join(tokens[number])),
                "tokens": tokens[number],
                "gold": [data.tag_names[tag] for tag in data.tags[row]],
                "prediction": tags,
                "confidence": kept_number(share),
            }
            records.append(record if intent is None else {**record, "gold_intent": intents[row], "intent": intent})
        return records

    def _judge(self, data: Tagged) -> tuple[Scores, SpanCounts]:
        """Return all scores, and slots counted by type."""
        losses = {"tags": 0.0, "intent": 0.0}
        tags: list[list[str]] = [[] for _ in range(len(data))]
        intents = [""] * len(data)

        def compute(rows: NDArray[np.int64]) -> tuple[float, float, list[int], list[list[str]]]:
            batch = sent(collate(data, rows, self.tokenizer), self.device)
            scores, classes = self.model(batch.ids, batch.lengths, batch.spelling)
            known = np.flatnonzero(data.known_tags[rows])
            tag_loss = 0.0
            if len(known):
                kept = torch.from_numpy(known)
                there = scores[kept.to(scores.device)], batch.tags[kept.to(scores.device)], batch.lengths[kept]
                tag_loss = float(self.model.tag_loss(*there))
            names = self._names(self.model.decode(scores, batch.lengths), data.words.lengths[rows])
            if classes is None or batch.intents is None:
                return tag_loss, 0.0, [], names
            kept = torch.from_numpy(np.flatnonzero(data.known_intents[rows]))
            asked = classes.cpu().double()[kept], batch.intents.cpu()[kept]
            return tag_loss, float(F.cross_entropy(*asked, reduction="sum")), classes.argmax(1).tolist(), names

        plan = plan_batches(data.words.lengths, BatchingConfig(batch_size=8192, batch_by="tokens"))
        for rows, (tag_loss, intent_loss, numbers, names) in zip(plan, spread(plan, compute), strict=True):
            losses["tags"] += tag_loss
            losses["intent"] += intent_loss
            for place, row in enumerate(rows.tolist()):
                tags[row] = names[place]
                if numbers:
                    intents[row] = self.intents[numbers[place]]
        loss = losses["tags"] / int(data.words.lengths[data.known_tags].sum())
        if data.intents is not None:
            loss += self.config.training.intent_weight * losses["intent"] / int(data.known_intents.sum())
        wanted = [[data.tag_names[tag] for tag in data.tags[row]] for row in range(len(data))]
        outcome = Outcome(wanted, tags, data.intent_labels, intents, loss)
        scores = measured(outcome, {name: METRICS[name] for name in self.scores}, self.config.training.metric)
        return Scores(scores, len(data), data.source.skipped), outcome.counts

    def _names(self, found: Tensor, lengths: NDArray[np.int32]) -> list[list[str]]:
        """Return numbers of tags (B, T) as their names, without padding."""
        rows = zip(found.tolist(), lengths.tolist(), strict=True)
        return [[self.tags[tag] for tag in row[:length]] for row, length in rows]

    # --- using --------------------------------------------------------------------------------------------------

    def data_lines(self) -> list[str]:
        lines = [line for part, data in self.splits.items() for line in describe(part, data, self.tokenizer.unk_id)]
        letters = f", {len(self.letters):,} characters" if self.letters is not None else ""
        lines.append(
            f"vocabulary: {len(self.tokenizer):,} words{letters}; {len(self.tags)} tags; {split_of(self.tokenizer)}"
        )
        return [*lines, *fit_lines(self.tokenizer, self.splits)]

    @torch.no_grad()
    def score(self, data: str | None = None, **options: Any) -> tuple[dict[str, float], list[str]]:
        where, part = scored(self.config.data, data)
        split = self._split(open_tagged(where, part, intent=bool(self.intents)), part)
        self.model.eval()
        scores, counts = self._judge(split)
        repaired = f"{split.repaired[0]} tags repaired" if split.repaired[0] else ""
        lines = [counted_line(split.source.name, len(split), "sentences", split.source.skipped, repaired)]
        return scores, [*lines, *unknown_lines(split.source.name, split), *counts.report()]

    @classmethod
    def predict_options(cls, config: Any) -> type[Section]:
        return SlotsOptions

    def adjust(self, **options: Any) -> None:
        self._takes_tokens = bool(options.get("tokens", self._takes_tokens))

    def read_line(self, line: str) -> str | list[str]:
        if self._takes_tokens:
            return read_tokens(line) if line.strip() else []
        if not self._warned and looks_like_tokens(line):
            self._warned = True
            say("warning: a line is JSON with tokens, taken for text; `seqkit predict RUN tokens=true` reads tokens")
        return line

    def predict(self, texts: Iterable[Any], *, is_split_into_words: bool | None = None) -> list[Tagging]:
        """Return slots and intent of each text; one without tokens gets neither.

        Args:
            texts: each a str, which is split into tokens.
            is_split_into_words: each is the list of its tokens instead, as in the training data; they are tagged as
                they are, and with spaces between them they are its text. Default: as `adjust` said, else false.

        Raises:
            TypeError, ValueError: see `take_texts` and `take_sentences`.
            UserError: a list of too many tokens.
        """
        if self._takes_tokens if is_split_into_words is None else is_split_into_words:
            sentences = take_sentences(texts)
            for place, tokens in enumerate(sentences):
                refuse_long(tokens, f"texts[{place}]")
            return self._tag(list(map(" ".join, sentences)), list(map(token_offsets, sentences)))
        taken = take_texts(texts)
        return self._tag(taken, cut(list(map(self.tokenizer.offsets, taken)), taken, LONGEST))

    @torch.no_grad()
    def _tag(self, whole: Sequence[str], offsets: Sequence[Sequence[tuple[int, int]]]) -> list[Tagging]:
        """Texts whose tokens stand at these places."""
        self.model.eval()
        found = [Tagging(text) for text in whole]
        kept = [number for number, places in enumerate(offsets) if places]
        if not kept:
            return found
        tokens = [[whole[number][start:end] for start, end in offsets[number]] for number in kept]
        words = Words.make(plain_lists(tokens), self.tokenizer, self.letters)
        for rows in plan_batches(words.lengths, BatchingConfig(batch_size=8192, batch_by="tokens")):
            ids, lengths, spelling = words.collate(rows, self.tokenizer)
            scores, intents = self.model(sent(ids, self.device), lengths, sent(spelling, self.device))
            names = self._names(self.model.decode(scores, lengths), words.lengths[rows])
            best = [None] * len(rows) if intents is None else [self.intents[i] for i in intents.argmax(1).tolist()]
            for row, tags, intent in zip(rows.tolist(), names, best, strict=True):
                number = kept[row]
                found[number] = make_tagging(whole[number], offsets[number], tags, intent)
        return found

    def stream(self) -> Stream[Tagging]:
        return SlotsStream(self)

    def explain_one(self, text: str, gradients: bool) -> Explanation:
        (found,) = self.predict([text], is_split_into_words=False)
        if not found.tokens:
            return Explanation(text)
        inputs, tokens = self._inputs(text)
        answer = format_tagging(found, "text")
        return explain_tags(self.model, self.tags, self.intents, found, tokens, inputs, answer, gradients)

    def trace_one(self, text: str) -> TextTrace:
        if self.model.encoder.recurrent is None:
            raise UserError("this model reads a window of tokens: it has no gates to show")
        if not self.tokenizer.offsets(text):
            return TextTrace(text)
        inputs, tokens = self._inputs(text)
        return TextTrace(text, tokens, tag_layers(self.model, inputs))

    def _inputs(self, text: str) -> tuple[tuple[Tensor, Tensor, Any], list[Token]]:
        """What the model takes of one text that is not blank, and its tokens."""
        places = cut([self.tokenizer.offsets(text)], [text], LONGEST)[0]
        words = Words.make(plain_lists([[text[start:end] for start, end in places]]), self.tokenizer, self.letters)
        ids, lengths, spelling = words.collate(np.arange(1), self.tokenizer)
        tokens = [
            Token(text[start:end], start > 0 and not text[start - 1].isspace(), number == self.tokenizer.unk_id)
            for (start, end), number in zip(places, ids[0].tolist(), strict=False)
        ]
        return (sent(ids, self.device), lengths, sent(spelling, self.device)), tokens

    def format(self, prediction: Tagging, form: str, **options: Any) -> str:
        return format_tagging(prediction, form)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode([text])[0])

    def example(self, folder: Path) -> str:
        data = self.splits["train"]
        row = int(data.words.lengths.argmin())
        text = " ".join(data.source.dataset[row]["tokens"])
        return command_on(text, folder)

    def rows(self) -> dict[str, Rows]:
        tags, intents = Rows(self.tags), Rows(self.intents)
        found = {
            **word_rows("encoder", self.model.encoder.embedding, self.tokenizer),
            **dict.fromkeys(("tag_scores.weight", "tag_scores.bias", "crf.start", "crf.end"), tags),
            "crf.transitions": Rows(self.tags, dims=2),
            **dict.fromkeys(("intent_scores.weight", "intent_scores.bias"), intents),
        }
        if self.model.characters is not None and self.letters is not None:
            table = self.model.characters.encoder.embedding
            found |= word_rows("characters.encoder", table, self.letters)
        return found
