"""Translation: from a sentence of one language to one of another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqkit.config import Section, from_mapping
from seqkit.data.batching import Batches, BatchingConfig, Planner, Ragged, plan_batches
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.tokenizer_cache import Texts
from seqkit.decoding import Search
from seqkit.distributed import spread
from seqkit.errors import Option, UserError
from seqkit.models import Seq2Seq
from seqkit.tasks.base import RunConfig, RunTask
from seqkit.tasks.common import (
    beside,
    column,
    make_tokenizer,
    named_rows,
    no_data,
    open_parts,
    vocabulary_line,
    word_rows,
)
from seqkit.tasks.dev_outputs import kept_text, mean_probability, spread_rows
from seqkit.tasks.explain import Explanation
from seqkit.tasks.init_weights import SOURCE_TABLE, TARGET_TABLE, kept_tokenizer
from seqkit.tasks.layer_groups import translation_groups
from seqkit.tasks.lines import command_on
from seqkit.tasks.sending import sent
from seqkit.tasks.stream import Stream
from seqkit.tasks.text_trace import TextTrace, tokens_of
from seqkit.tasks.translation.bleu_tokenizer import fitting_tokenizer, settled
from seqkit.tasks.translation.config import (
    TranslationConfig,
    check_side,
    make_model,
    make_search,
    translation_schema,
)
from seqkit.tasks.translation.data import PairBatch, Pairs, collate, describe, open_split, tokenise
from seqkit.tasks.translation.decoding import Translator
from seqkit.tasks.translation.explain import best_outputs, explain_translation, trace_translation
from seqkit.tasks.translation.metrics import LIKELIHOOD, METRICS, CorpusScores, Outcome, make_bleu
from seqkit.tasks.translation.options import ScoreOptions, TranslationOptions, translation_options
from seqkit.tasks.translation.predictions import Translation, check_plot, format_translation, plot_attention
from seqkit.tasks.translation.reference_scores import reachable, why_bleu_is_zero
from seqkit.tasks.translation.stream import TranslationStream
from seqkit.tasks.translation.streaming import PairStream
from seqkit.text import Tokenizer, take_texts
from seqkit.text.marks import plain
from seqkit.training import Loss
from seqkit.training.scores import Scores, measured
from seqkit.training.transfer import Rows

_SIDES = ("source", "target")
_TABLES = dict(zip(_SIDES, (SOURCE_TABLE, TARGET_TABLE), strict=True))


class TranslationTask(RunTask):
    """See `RunTask`.

    Args:
        config: the whole configuration.
        source, target: tokenizers of the two sides.
        load_vectors: read the pretrained vectors that the configuration names.
    """

    kind = "translation"
    options_section = "decoding"
    needs = {"sacrebleu.metrics": "translation"}
    model: Seq2Seq

    def __init__(self, config: TranslationConfig, source: Tokenizer, target: Tokenizer, *, load_vectors: bool) -> None:
        self.config, self.source, self.target = config, source, target
        try:
            self.model, self.notes = make_model(config.model, source, target, load=load_vectors)
        except ValueError as error:  # two vocabularies taken over from a run, where the model wants one
            raise UserError(str(error), key="model") from None
        self.splits: dict[str, Pairs] = {}
        self._planner: Planner | None = None
        self._stream: PairStream | None = None
        self._samples: list[dict[str, str]] = []
        self._found: tuple[Pairs, list[tuple[str, float | None]]] | None = None  # by the last `evaluate`
        self.scores = tuple(LIKELIHOOD if config.training.dev_limit == 0 else METRICS)
        decoding: Any = config.decoding
        self.translator = self._translator(make_search(decoding.model_dump()))

    @classmethod
    def schema(cls, tree: Mapping[str, Any]) -> type[RunConfig]:
        return translation_schema(tree)

    @classmethod
    def create(cls, config: TranslationConfig, folder: Path | None = None, *, fresh: bool = True) -> TranslationTask:
        stream = PairStream(config.data, config.seed) if config.data.window else None
        origins = open_parts(config.data.model_copy(update={"train": None}) if stream else config.data, open_pairs)
        texts = stream.texts if stream else partial(column, origins["train"])
        source, target = cls._read(folder) if folder else cls._vocabularies(config, texts)
        text = config.text.model_copy(update={"source": source.config, "target": target.config})
        if folder is None:  # those of the earlier run, after init
            text = text.model_copy(update={"joint": source.fingerprint == target.fingerprint})
        tokenize, why = settled(config.scoring.tokenize, texts("target")) if folder is None else (None, "")
        scoring = config.scoring.model_copy(update={"tokenize": tokenize} if tokenize else {})
        config = config.model_copy(update={"text": text, "scoring": scoring})
        task = cls(config, source, target, load_vectors=fresh)
        task.notes = [*task.notes, why] if why else task.notes
        for part, origin in origins.items():
            task.splits[part] = tokenise(origin, source, target, config.data if part == "train" else None)
        if stream:
            stream.tokenise(source, target)
            task._stream = stream
        return task

    @classmethod
    def _vocabularies(cls, config: TranslationConfig, texts: Callable[..., Texts]) -> tuple[Tokenizer, Tokenizer]:
        text, model = config.text.resolved(), config.model
        if text.joint:
            one = make_tokenizer(text.source, model.source, texts(*_SIDES))
            return one, one
        source, target = (
            kept_tokenizer(config, table, check=partial(check_side, side))
            or make_tokenizer(getattr(text, side), getattr(model, side), texts(side))
            for side, table in _TABLES.items()
        )
        return source, target

    @classmethod
    def check_needs(cls, config: Any) -> None:
        super().check_needs(config)
        if config.scoring.tokenize != "auto":
            make_bleu(config.scoring.tokenize)

    @classmethod
    def restore(cls, config: TranslationConfig, folder: Path) -> TranslationTask:
        return cls(config, *cls._read(folder), load_vectors=False)

    @staticmethod
    def _read(folder: Path) -> tuple[Tokenizer, Tokenizer]:
        source, target = (Tokenizer.load(folder / f"tokenizer.{side}.json") for side in _SIDES)
        return source, target

    def save(self, folder: Path) -> None:
        self.source.save(folder / "tokenizer.source.json")
        self.target.save(folder / "tokenizer.target.json")

    # --- learning -----------------------------------------------------------------------------------------------

    def batches(self, epoch: int, start: int = 0) -> Iterable[PairBatch]:
        rate = self._own_inputs(epoch)

        def make(pairs: Pairs, rows: NDArray[np.int64]) -> PairBatch:
            return collate(pairs, rows, self.target, rate)

        if self._stream is not None:
            return self._stream.batches(make, epoch, start)
        pairs = self.splits["train"]
        if self._planner is None:
            self._planner = pairs.planner(self.config.data, self.config.seed)
        return Batches(self._planner(epoch), partial(make, pairs), start)

    def _own_inputs(self, epoch: int) -> float:
        """Return the rate of scheduled sampling in an epoch, counted from 0."""
        training = self.config.training
        warmup = training.scheduled_sampling_warmup
        return float(training.scheduled_sampling * (min(1.0, epoch / warmup) if warmup else 1.0))

    def loss(self, batch: PairBatch, carry: Any) -> tuple[dict[str, Loss], None]:
        inputs, model = batch.inputs, self.model
        if batch.own_inputs:
            inputs = model.mix_inputs(batch.source, batch.source_lengths, inputs, batch.lengths, batch.own_inputs)
        total, _ = model.loss(
            batch.source,
            batch.source_lengths,
            inputs,
            batch.targets,
            batch.lengths,
            label_smoothing=self.config.training.label_smoothing,
        )
        return {"loss": Loss(total, float(batch.tokens))}, None

    def weights(self, batch: PairBatch) -> dict[str, float]:
        return {"loss": float(batch.tokens)}

    def tokens(self, batch: PairBatch) -> int:
        return batch.tokens

    def describe(self, batch: PairBatch) -> list[str]:
        origin = batch.origin
        rows = [(origin.place(int(row)), origin.dataset[int(row)]) for row in batch.rows]
        return [f"{place}: {row['source']} ||| {row['target']}" for place, row in rows]

    def layer_groups(self) -> Sequence[Sequence[str]]:
        return translation_groups(self.model)

    def evaluate(self) -> dict[str, float]:
        if "dev" not in self.splits:
            return {}
        dev, training = self.splits["dev"], self.config.training
        outcome, count = Outcome(self._loss(dev)), len(dev)
        self._samples, self._found = [], None
        limit = training.dev_limit if training.dev_limit is not None else len(dev)
        if limit:
            plain = {"n_best": 1, "sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
            settings = {**self.config.decoding.model_dump(), **plain, "beam_size": training.dev_beam_size}
            dev = replace(dev, kept=dev.kept[:limit])
            references = dev.texts("target")
            corpus = self._corpus_scores(references)
            found = self._decode(dev, self._translator(make_search(settings)))
            outputs = [text for text, _ in found]
            self._found = dev, found
            sources = dev.texts("source")
            outcome = Outcome(outcome.loss, sources, references, outputs, corpus(outputs, references))
            chosen = np.linspace(0, len(dev) - 1, min(training.samples, len(dev))).astype(int).tolist()
            self._samples = [
                {"source": sources[row], "reference": references[row], "output": outputs[row]} for row in chosen
            ]
        metrics = {name: METRICS[name] for name in self.scores}
        return Scores(measured(outcome, metrics, training.metric), count, dev.origin.skipped)

    def why_zero(self, scores: Sequence[str]) -> str:
        why = ""
        if "bleu" in scores:
            tokenize, corpus = self.config.scoring.tokenize, self._corpus_scores(())
            why = why_bleu_is_zero(self.splits["dev"], tokenize, corpus)
        return why or super().why_zero(scores)

    def samples(self) -> list[dict[str, str]]:
        return self._samples

    def read_dev(self, data: str) -> None:
        self.splits["dev"] = self.open(*self.where(data))

    def dev_outputs(self, limit: int) -> list[dict[str, Any]]:
        """See `Task.dev_outputs`; those that `evaluate` has decoded. `confidence` is the geometric mean of the tokens'
        probabilities."""
        if self._found is None:
            return []
        pairs, found = self._found
        chosen = spread_rows(np.arange(len(pairs)), limit)
        rows = pairs.kept[chosen].tolist()
        places, texts = pairs.origin.places(rows), pairs.origin.dataset.select_columns(list(_SIDES))[rows]
        return [
            {
                "place": place,
                "text": kept_text(source),
                "gold": kept_text(target),
                "prediction": kept_text(found[number][0]),
                "confidence": found[number][1],
                "tokens": int(pairs.source.lengths[row]),
            }
            for number, row, place, source, target in zip(
                chosen.tolist(), rows, places, texts["source"], texts["target"], strict=True
            )
        ]

    def _loss(self, pairs: Pairs) -> float:
        """Mean negative log-likelihood of a target token, <eos> among them."""
        config = BatchingConfig(batch_size=4096, batch_by="tokens")
        total, count = 0.0, 0

        def compute(rows: NDArray[np.int64]) -> tuple[float, int]:
            batch = sent(collate(pairs, rows, self.target), self.device)
            _, loss = self.model.loss(batch.source, batch.source_lengths, batch.inputs, batch.targets, batch.lengths)
            return float(loss), batch.tokens

        longer = np.maximum(pairs.target.lengths + 1, pairs.source.lengths)
        plan = plan_batches(longer, config, rows=pairs.kept)
        for loss, tokens in spread(plan, compute):
            total, count = total + loss, count + tokens
        return total / count

    def _translator(self, search: Search) -> Translator:
        return Translator([(self.model, self.source)], self.target, search, seed=self.config.seed)

    def outputs(self, pairs: Pairs, translator: Translator) -> list[str]:
        """Return the best translation of each source."""
        return [text for text, _ in self._decode(pairs, translator)]

    @staticmethod
    def _decode(pairs: Pairs, translator: Translator) -> list[tuple[str, float | None]]:
        """Return the best translation of each source, and the geometric mean of its tokens' probabilities."""
        ids = Ragged.from_lists([pairs.source[row].tolist() for row in pairs.kept])
        return [
            (translator.best(hypotheses), mean_probability(hypotheses[0].log_probs))
            for hypotheses in translator.decode([ids])
        ]

    def _corpus_scores(self, references: Sequence[str], *, ter: bool = False) -> CorpusScores:
        return CorpusScores(lowercase=self.lowercase, tokenize=self.tokenize(references), ter=ter)

    def tokenize(self, references: Sequence[str]) -> str:
        """Return the name of the tokenizer that BLEU splits by: the run's own, or the one that fits the references
        where `auto` is asked for again."""
        chosen: str = self.config.scoring.tokenize
        return fitting_tokenizer(references).name if chosen == "auto" else chosen

    @property
    def lowercase(self) -> bool:
        """Return whether scores compare without case."""
        chosen = self.config.scoring.lowercase
        return self.target.config.lowercase if chosen is None else chosen

    # --- using --------------------------------------------------------------------------------------------------

    def data_lines(self) -> list[str]:
        lines = [
            line for part, pairs in self.splits.items() for line in describe(part, pairs, self.source, self.target)
        ]
        if self._stream is not None:
            lines.insert(0, self._stream.report())
        kinds = f"{len(self.source):,} source entries ({self.source.config.tokenizer})"
        separate = f"vocabulary: {kinds}, {len(self.target):,} target entries ({self.target.config.tokenizer})"
        return [*lines, vocabulary_line(self.source, ", joint") if self.config.text.joint else separate]

    def report(self) -> list[str]:
        return super().report() + reachable(self.splits, self.target, self._corpus_scores(()))

    @torch.no_grad()
    def score(self, data: str | None = None, **options: Any) -> tuple[dict[str, float], list[str]]:
        """See `RunTask`.

        Args:
            data: a file with both columns, or with `reference` the text file of the sources.
            options: those of `ScoreOptions`.
        """
        pairs = self.open(*self.where(data, options.get("reference")))
        self.model.eval()
        references = pairs.texts("target")
        corpus = self._corpus_scores(references, ter=bool(options.get("ter")))
        likelihood, outputs = self._loss(pairs), self.outputs(pairs, self.translator)
        found, lines = corpus.report(outputs, references)
        outcome = Outcome(likelihood, pairs.texts("source"), references, outputs, found)
        scores = Scores(
            {**measured(outcome, METRICS, self.config.training.metric), **found}, len(pairs), pairs.origin.skipped
        )
        return scores, [pairs.counted(), *lines, corpus.by_length(outputs, references, pairs.source_lengths)]

    def where(self, data: str | None = None, reference: str | None = None) -> tuple[PairConfig, str]:
        """Return where the pairs to score are, and which part they are: `data` (with `reference` two files), or the
        configuration's test data, or else its dev data."""
        own = self.config.data
        like = own.test or own.dev or own.train
        if reference is not None:
            if not data or not reference:
                raise UserError("give the sources, too: ", Option("data", "FILE"), key="reference")
            kept = {"on_bad_line": like.on_bad_line, "encoding": like.encoding}
            return PairConfig(source=data, target=reference, **kept), "test"
        if data is not None:
            return beside(like, data, "; for two text files, give the references, too: reference=FILE"), "test"
        if own.test or own.dev:
            return own.test or own.dev or like, "test" if own.test else "dev"
        raise no_data()

    def open(self, where: PairConfig, part: str) -> Pairs:
        """Return the pairs of a place that `where` has returned."""
        return open_split(where, part, self.source, self.target)

    def join(self, name: str, others: Sequence[tuple[str, TranslationTask]]) -> None:
        """Let other runs decode together with this one.

        Args:
            name: of this run, for messages.
            others: with their names.

        Raises:
            UserError: the target vocabulary of one is another.
        """
        for other_name, other in others:
            if other.target.vocabulary != self.target.vocabulary:
                raise UserError(
                    f"{name} and {other_name} have different target vocabularies "
                    f"({len(self.target):,} and {len(other.target):,} entries) and cannot decode together",
                    key=Option("ensemble"),
                )
            self.translator.systems.append((other.model, other.source))

    @classmethod
    def predict_options(cls, config: Any) -> type[Section]:
        return translation_options(config)

    @classmethod
    def score_options(cls, config: Any) -> type[Section]:
        return ScoreOptions

    def adjust(self, **options: Any) -> None:
        """Change how this task translates.

        Args:
            options: those of `TranslationOptions`, and keys of the `decoding` section.

        Raises:
            UserError: settings out of range, or that contradict each other; a prefix with an unknown word; a seed where
                nothing is drawn.
        """
        decoding = {name: value for name, value in options.items() if name not in TranslationOptions.model_fields}
        settings = {**self.config.decoding.model_dump(), **decoding}
        if decoding.get("sample") and "beam_size" not in decoding:
            settings["beam_size"] = 1
        checked = from_mapping(settings, "decoding").check(type(self.config.decoding))
        if "seed" in options and not checked.sample:
            raise UserError("only sampling has it (sample=true)", key="seed")
        changes: dict[str, Any] = {"search": make_search(checked.model_dump()), "prefix": self._prefix(options)}
        changes |= {name: options[name] for name in ("seed", "batch_size", "attention") if name in options}
        if "replace_unknown" in options:
            changes["copy_unknown"] = options["replace_unknown"]
        self.translator = replace(self.translator, _count=0, **changes)

    def _prefix(self, options: Mapping[str, Any]) -> list[int]:
        """Return the ids that every translation begins with."""
        prefix = options.get("prefix", "")
        try:
            ids: list[int] = self.target.encode([prefix])[0]
        except ValueError:  # bytes of the command line that are not text
            raise UserError(f"{prefix!r} is not valid Unicode", key=Option("prefix")) from None
        if self.target.unk_id in ids:
            raise UserError(f"{prefix!r} holds a word that the target vocabulary lacks", key=Option("prefix"))
        return ids

    def predict(self, texts: Iterable[str]) -> list[Translation]:
        """Return a translation for each text; a text of nothing but white space gets an empty one.

        Raises:
            TypeError, ValueError: see `take_texts`.
        """
        return self.translator(take_texts(texts))

    def stream(self) -> Stream[Translation]:
        return TranslationStream(self.translator)

    def explain_one(self, text: str, gradients: bool) -> Explanation:
        source = self.translator.encode(self.source, text)
        if not source:
            return Explanation(text)
        found, outputs, names = best_outputs(self.translator, text)
        tokens, bos = tokens_of(self.source, text, source), self.target.bos_id
        return explain_translation(self.model, text, tokens, source, found, outputs, names, bos, gradients)

    def trace_one(self, text: str) -> TextTrace:
        source = self.translator.encode(self.source, text)
        if not source:
            return TextTrace(text)
        _, outputs, names = best_outputs(self.translator, text)
        tokens = tokens_of(self.source, text, source)
        return trace_translation(self.model, text, tokens, source, outputs, names, self.target.bos_id)

    def format(self, prediction: Translation, form: str, **options: Any) -> str:
        """See `format_translation`, which takes the options."""
        return format_translation(prediction, form, **options)

    def check_plot(self, path: Path) -> None:
        """Refuse a file that `plot` could not draw into, before anything is translated."""
        check_plot(path)

    def plot(self, prediction: Translation, path: Path) -> None:
        """Draw the attention of a translation into a file; its tokens without marks."""
        tokens = list(map(plain, prediction.tokens)) if self.target.config.marked else prediction.tokens
        plot_attention(replace(prediction, tokens=tokens), path)

    def count_tokens(self, text: str) -> int:
        return len(self.source.encode([text])[0])

    @property
    def independent(self) -> bool:
        return not self.translator.search.sample

    def example(self, folder: Path) -> str:
        part = self.splits.get("dev") or self.splits.get("train")
        if part is None:
            return super().example(folder)
        shortest = part.kept[int(part.source_lengths.argmin())]
        text = part.origin.dataset[int(shortest)]["source"]
        return command_on(text, folder, "translate")

    def fingerprint(self, part: str = "train") -> str:
        if part == "train" and self._stream is not None:
            return self._stream.fingerprint()
        return super().fingerprint(part)

    def rows(self) -> dict[str, Rows]:
        words = named_rows(self.target)
        return {
            **word_rows("encoder", self.model.encoder.embedding, self.source),
            **word_rows("decoder", self.model.decoder.embedding, self.target),
            "decoder.output.weight": words,
            "decoder.output.bias": words,
        }
