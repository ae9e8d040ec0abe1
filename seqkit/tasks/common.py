"""Sections that several tasks share, and the parts of a model that are built from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from seqkit.config import Named, OneOf, Section, arguments, as_list, from_signature, resolve
from seqkit.console import say
from seqkit.data.batching import BatchingConfig
from seqkit.data.formats import detect, reader
from seqkit.data.source import BUILTIN, HUB, TORCHTEXT, Source, SourceConfig
from seqkit.data.tokenizer_cache import Texts, column_texts, train_tokenizer
from seqkit.decoding import NoFiniteScoreError
from seqkit.errors import Option, Part, UserError
from seqkit.models import POOLINGS, Embedding, Encoder, Pooling
from seqkit.nn import CELLS, Cell, Recurrent
from seqkit.text import TextConfig, Tokenizer, load_vectors, vector_words
from seqkit.training import TrainingConfig
from seqkit.training.transfer import Rows

REFUSES = {"count": False, "error": True}
"""What `data.on_unknown_label` may be: whether a label that training lacks is an error."""

# Arguments that the program supplies: the file may not set them.
SUPPLIED = ("input_size", "batch_first", "device", "dtype", "cell")


PARTS = ("train", "dev", "test")


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _shared_in_schema(schema: dict[str, Any]) -> None:
    """Editors should know the keys that `Parts` spreads."""
    properties = SourceConfig.model_json_schema()["properties"]
    schema["properties"].update({key: properties[key] for key in Parts.shared})


Where = Annotated[SourceConfig, BeforeValidator(_as_source, json_schema_input_type=str | SourceConfig)]


class Parts(Section):
    """Base of the `data:` sections with the parts train, dev and test."""

    model_config = ConfigDict(json_schema_extra=_shared_in_schema)
    shared: ClassVar[tuple[str, ...]] = ("format", "delimiter", "encoding", "columns", "on_bad_line")

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, value: Any) -> Any:
        """Let the shared keys beside the parts hold for each part that does not say otherwise."""
        if not isinstance(value, Mapping):
            return value
        shared = {key: value[key] for key in cls.shared if key in value}
        spread = {key: item for key, item in value.items() if key not in cls.shared}
        for part in PARTS:
            source = _as_source(spread.get(part))
            if isinstance(source, Mapping):
                spread[part] = {**shared, **source}
        return spread


class SplitData(Parts, BatchingConfig):
    """The same, with batches of sentences."""


class LabelledData(SplitData):
    """The same, where examples have labels."""

    on_unknown_label: Literal["count", "error"] = "count"
    """What to do with labels of dev and test that the training data lack: count them as wrong (the loss covers only the
    other labels; more than half of a part is an error), or stop."""

    @property
    def refuses_unknown(self) -> bool:
        """Return whether any label that the training data lack is an error."""
        return REFUSES[self.on_unknown_label]


T = TypeVar("T")
_Source = TypeVar("_Source", bound=SourceConfig)


def beside(like: _Source, path: str, *hint: Part) -> _Source:
    """Another file, read as `like` is; an ending that says more about its format than `like` does is believed.

    Args:
        like: what the run reads.
        path: of the file.
        hint: what else helps where its name does not tell the format, as parts of a message.
    """
    if not path.strip():
        raise UserError("expected the path of a file, got an empty text", key=Option("data"))
    form, known = "auto", ""
    try:
        if isinstance(like.format, Named) and Path(path).suffixes == Path(like.path).suffixes:
            form = known = like.format
        else:
            known = detect(Path(path), "give the file a name that does", *hint)
    except UserError:
        form = known = like.format
        if form == "auto" and not path.startswith((BUILTIN, HUB, TORCHTEXT)):
            raise
    kept = like.model_dump(include={"columns", "on_bad_line"})
    if not path.startswith((BUILTIN, HUB, TORCHTEXT)):
        own = reader(known)
        kept |= {"encoding": like.encoding} if own.has_encoding else {}
        kept |= {"delimiter": like.delimiter} if own.has_delimiter else {}
    return type(like).model_validate({**kept, "path": path, "format": form})


def scored(given: Any, data: str | None) -> tuple[Any, str]:
    """Return what `RunTask.score` reads: the file `data`, or the configuration's test data, or else its dev data.

    Args:
        given: the `data:` section.
        data: a file of the user's, read as the test (or training) data are.

    Returns:
        the section of the source, and which part it is: test or dev.

    Raises:
        UserError: there is no such data.
    """
    if data is not None:
        return beside(given.test or given.train, data), "test"
    if given.test or given.dev:
        return given.test or given.dev, "test" if given.test else "dev"
    raise no_data()


def no_data() -> UserError:
    """Return the error of a run that is to be scored and has nothing to be scored on."""
    return UserError(
        "the run's configuration has no test or dev data; give a file: ", Option("data", "FILE"), key="data"
    )


def column(source: Source, *names: str) -> Texts:
    """Return the texts of one column, or of several, one after the other, without holding them all."""
    return column_texts([(source, name) for name in names])


def check_dev(training: TrainingConfig, dev: object) -> None:
    """Refuse settings that choose by scores on dev where there is no dev data.

    Raises:
        ValueError: it names the first such setting.
    """
    needs = {
        "early_stopping": training.early_stopping is not None,
        f"schedule: {training.schedule.name}": training.schedule.make().reacts,
        "keep_best above 1": training.keep_best > 1,
    }
    for what, asked in needs.items():
        if asked and dev is None:
            raise ValueError(f"training.{what} needs data.dev")


_Way = Annotated[str, OneOf("pooling", POOLINGS, Pooling, supplied=("size",))]
Ways = Annotated[list[_Way], BeforeValidator(as_list, json_schema_input_type=_Way | list[_Way])]
"""The type of a key that says how outputs are pooled."""


class CellSection(Section):
    """Base of every section that names a cell; `cell_section` makes it for that cell."""

    cell: Annotated[str, OneOf("cell", CELLS, Cell)] = "lstm"
    """A cell of seqkit.nn (lstm, gru, rnn, ...) or `mypackage.module:MyCell`."""


class EncoderBase(CellSection):
    """Base of every encoder section: checked by building the module without memory."""

    @model_validator(mode="after")
    def _buildable(self) -> EncoderBase:
        make_recurrent(self, 1, device="meta")  # however large, no memory
        return self


class _EmbeddingBase(Section):
    """The embedding table, its dropouts, and the pretrained vectors it starts from."""

    vectors: str | None = None
    """Pretrained vectors to start from: a GloVe, word2vec or fastText text file, plain or gzip."""

    vectors_norm: float | None = Field(default=None, gt=0)
    """Scale each vector to this length; torch's own start, N(0, 1), has a length of about the root of `size`."""
    vectors_vocabulary: bool = False
    """Give the words of the vectors' file that the training text lacks an entry too, so that dev, test and later
    texts find them."""

    @model_validator(mode="after")
    def _buildable(self) -> _EmbeddingBase:
        for name in ("vectors_norm", "vectors_vocabulary"):
            if getattr(self, name) and self.vectors is None:
                raise ValueError(f"{name} needs vectors")
        # Not on the meta device: there torch's normal_ imports its compiler, which takes seconds.
        with torch.random.fork_rng(devices=[]):
            Embedding(4, **_arguments(self))
        return self


EmbeddingConfig = from_signature(
    "EmbeddingConfig", Embedding, skip=("num_embeddings", "padding_idx", "unk_idx"), base=_EmbeddingBase
)


def encoder_config(tree: Mapping[str, Any], *path: str) -> type[Section]:
    """Return the schema of an encoder section: the arguments of `Recurrent` and of the cell that the section names.

    Args:
        tree: the configuration before validation.
        path: keys that lead to the section in it.

    Raises:
        UserError: there is no such cell, or it is something else.
    """
    return cell_section("Encoder", (Recurrent,), SUPPLIED, EncoderBase, tree, *path)


def cell_section(
    name: str,
    modules: tuple[Callable[..., Any], ...],
    skip: Collection[str],
    base: type[CellSection],
    tree: Mapping[str, Any],
    *path: str,
    **types: Any,
) -> type[Section]:
    """Return the schema of a section that names a cell, an LSTM where it names none.

    Args:
        name: what the section describes.
        modules: their arguments and the cell's are its keys.
        skip: those that the program supplies.
        base: of the schema.
        tree, path, Raises: see `encoder_config`.
        types: of keys that name a row of another table.
    """
    node: Any = tree
    for key in path:
        node = node.get(key, {}) if isinstance(node, Mapping) else {}
    cell = node.get("cell", "lstm") if isinstance(node, Mapping) else "lstm"
    key = ".".join((*path, "cell"))
    if not isinstance(cell, str):
        raise UserError(f"expected the name of a cell, got {cell!r}", key=key)
    kind = resolve(key, cell, Cell, CELLS)
    return from_signature(f"{kind.__name__}{name}Config", *modules, kind, skip=skip, base=base, **types)


def make_recurrent(config: Any, input_size: int, **place: Any) -> Recurrent:
    """Return the recurrent module that an encoder section describes."""
    return Recurrent(input_size=input_size, batch_first=True, **arguments(config), **place)


def _arguments(config: Any) -> dict[str, Any]:
    """Return the constructor's arguments in an embedding section."""
    return {name: value for name, value in config.model_dump().items() if not name.startswith("vectors")}


def make_tokenizer(text: TextConfig, embedding: Any, texts: Iterable[str], *, whole: bool = False) -> Tokenizer:
    """Return a tokenizer trained on the texts, and on the words of the vectors' file where the embedding section says
    so; for `whole` see `Tokenizer.train`."""
    if embedding.vectors_vocabulary:
        # As often as min_frequency asks, so that each gets its entry.
        words = (word for word in vector_words(embedding.vectors) for _ in range(text.min_frequency))
        texts = chain(texts, words)
    return train_tokenizer(texts, text) if isinstance(texts, Texts) else Tokenizer.train(texts, text, whole=whole)


def make_embedding(section: Any, tokenizer: Tokenizer) -> Embedding:
    """Return the embedding table that an `EmbeddingConfig` describes, for a vocabulary; without its pretrained
    vectors."""
    arguments = _arguments(section)
    return Embedding(len(tokenizer), padding_idx=tokenizer.pad_id, unk_idx=tokenizer.unk_id, **arguments)


def fill_vectors(embedding: Embedding, section: Any, tokenizer: Tokenizer) -> list[str]:
    """Put the pretrained vectors that an `EmbeddingConfig` names, if any, into its table.

    Returns:
        lines that report the coverage.

    Raises:
        UserError: the vectors' file is bad or of another width than `size`.
    """
    if not section.vectors:
        return []
    vectors = load_vectors(section.vectors, tokenizer.words, size=section.size, norm=section.vectors_norm)
    with torch.no_grad():
        embedding.table.weight.copy_(vectors.matrix)
    embedding.pretrained = vectors.known
    found = f"{vectors.found} of {len(tokenizer)} words found in {section.vectors}"
    return [f"vectors: {found} ({vectors.coverage:.1%})"]


def open_parts(data: Any, open_part: Callable[[Any, str], T]) -> dict[str, T]:
    """Open the parts of a `data:` section that are given.

    Args:
        data: the section.
        open_part: takes what the section says of a part, and the part's name.
    """
    return {part: open_part(given, part) for part in PARTS if (given := getattr(data, part)) is not None}


def cut(rows: Sequence[Sequence[T]], texts: Sequence[str], longest: int, unit: str = "text") -> list[Sequence[T]]:
    """Cut tokenised texts that are too long for memory, and say so.

    Args:
        rows: the tokens of each text.
        texts: the texts.
        longest: most tokens that are kept.
        unit: what to call a text.
    """
    for text, row in zip(texts, rows, strict=True):
        if len(row) > longest:
            say(f"a {unit} of {len(row):,} tokens is cut to the first {longest:,}: {text[:40]!r}...")
    return [row[:longest] for row in rows]


def vocabulary_line(tokenizer: Tokenizer, note: str = "") -> str:
    """Return a line of the report on a vocabulary."""
    return f"vocabulary: {len(tokenizer):,} entries ({tokenizer.config.tokenizer}){note}"


def word_rows(prefix: str, embedding: Embedding, tokenizer: Tokenizer) -> dict[str, Rows]:
    """For `RunTask.rows`: what the rows of an embedding stand for that lies at `prefix` in the model."""
    return {f"{prefix}.embedding.table.weight": named_rows(tokenizer, filled=embedding.pretrained)}


def named_rows(tokenizer: Tokenizer, **options: Any) -> Rows:
    """Return rows that stand for the words of a vocabulary."""
    return Rows(tokenizer.vocabulary, words=True, plain=tokenizer.words, **options)


def make_encoder(embedding: Any, encoder: Section, tokenizer: Tokenizer, *, load: bool) -> tuple[Encoder, list[str]]:
    """Return embedding and recurrent module for a vocabulary.

    Args:
        embedding: an `EmbeddingConfig`.
        encoder: a section of `encoder_config`'s schema.
        tokenizer: gives the vocabulary.
        load: read the pretrained vectors (not needed where weights are loaded anyway).

    Returns:
        the encoder, and lines that report the coverage of the vectors.

    Raises:
        UserError: see `fill_vectors`.
    """
    table = make_embedding(embedding, tokenizer)
    lines = fill_vectors(table, embedding, tokenizer) if load else []
    return Encoder(table, make_recurrent(encoder, table.size)), lines


@contextmanager
def scores_expected() -> Iterator[None]:
    """Around a search: a model that gives no finite score is the mistake of its training.

    Raises:
        UserError: it gives none.
    """
    try:
        yield
    except NoFiniteScoreError:
        raise UserError("this model gives a text no finite score: its training diverged; train it again") from None
