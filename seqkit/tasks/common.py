"""Sections that several tasks share, and the parts of a model that are built from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from seqkit.config import Section, from_signature, resolve
from seqkit.data.batching import BatchingConfig
from seqkit.data.formats import detect
from seqkit.data.sources import BUILTIN, HUB, TORCHTEXT, Source, SourceConfig
from seqkit.data.tokenizer_cache import Texts, column_texts, train_tokenizer
from seqkit.errors import UserError, option
from seqkit.models import Embedding, Encoder
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
        """Whether any label that the training data lack is an error."""
        return REFUSES[self.on_unknown_label]


_Source = TypeVar("_Source", bound=SourceConfig)


def beside(like: _Source, path: str, hint: str = "") -> _Source:
    """Another file, read as `like` is; an ending that says more about its format than `like` does is believed.

    Args:
        like: what the run reads.
        path: of the file.
        hint: what else helps where its name does not tell the format.
    """
    if not path.strip():
        raise UserError(f"{option('data')}: expected the path of a file, got an empty text")
    form, known = "auto", ""
    try:
        known = detect(Path(path))
    except UserError as error:
        form = known = like.format
        if form == "auto" and not path.startswith((BUILTIN, HUB, TORCHTEXT)):
            raise UserError(
                f"{str(error).partition('; set format')[0]}; give the file a name that does{hint}"
            ) from None
    kept = like.model_dump(include={"columns", "on_bad_line"})
    is_file = not path.startswith((BUILTIN, HUB, TORCHTEXT))
    if is_file and known != "parquet":
        kept["encoding"] = like.encoding
    if known == "csv":
        kept["delimiter"] = like.delimiter
    return type(like).model_validate({**kept, "path": path, "format": form})


def scored(given: Any, data: str | None) -> tuple[Any, str]:
    """What `RunTask.score` reads: the file `data`, or the configuration's test data, or else its dev data.

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
    raise UserError(f"data: the run's configuration has no test or dev data; give a file: {option('data', 'FILE')}")


def column(source: Source, *names: str) -> Texts:
    """The texts of one column, or of several, one after the other, without holding them all."""
    return column_texts([(source, name) for name in names])


def check_dev(training: TrainingConfig, dev: object) -> None:
    """Refuse settings that choose by scores on dev where there is no dev data.

    Raises:
        ValueError: it names the first such setting.
    """
    needs = {
        "early_stopping": training.early_stopping is not None,
        "schedule: plateau": training.schedule.name == "plateau",
        "keep_best above 1": training.keep_best > 1,
    }
    for what, asked in needs.items():
        if asked and dev is None:
            raise ValueError(f"training.{what} needs data.dev")


class CellSection(Section):
    """Base of every section that names a cell; `cell_section` makes it for that cell."""

    cell: str = "lstm"
    """A cell of seqkit.nn (lstm, gru, rnn, ...) or `mypackage.module:MyCell`."""
    _kind: ClassVar[type[Cell]] = CELLS["lstm"]  # no option of a cell begins with an underscore


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
    """The schema of an encoder section: the arguments of `Recurrent` and of the cell that the section names.

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
) -> type[Section]:
    """The schema of a section that names a cell, an LSTM where it names none.

    Args:
        name: what the section describes.
        modules: their arguments and the cell's are its keys.
        skip: those that the program supplies.
        base: of the schema.
        tree, path, Raises: see `encoder_config`.
    """
    node: Any = tree
    for key in path:
        node = node.get(key, {}) if isinstance(node, Mapping) else {}
    cell = node.get("cell", "lstm") if isinstance(node, Mapping) else "lstm"
    key = ".".join((*path, "cell"))
    if not isinstance(cell, str):
        raise UserError(f"{key}: expected the name of a cell, got {cell!r}")
    kind = resolve(key, cell, Cell, CELLS)
    made: Any = from_signature(f"{kind.__name__}{name}Config", *modules, kind, skip=skip, base=base)
    made._kind = kind
    return made  # type: ignore[no-any-return]


def cell_arguments(section: Any) -> dict[str, Any]:
    """The arguments of the module that a section describes which names a cell: that one as a class."""
    return {**section.model_dump(), "cell": section._kind}


def make_recurrent(config: Any, input_size: int, **place: Any) -> Recurrent:
    """The recurrent module that an encoder section describes."""
    return Recurrent(input_size=input_size, batch_first=True, **cell_arguments(config), **place)


def _arguments(config: Any) -> dict[str, Any]:
    """The constructor's arguments in an embedding section."""
    return {name: value for name, value in config.model_dump().items() if not name.startswith("vectors")}


def make_tokenizer(text: TextConfig, embedding: Any, texts: Iterable[str], *, whole: bool = False) -> Tokenizer:
    """A tokenizer trained on the texts, and on the words of the vectors' file where the embedding section says so; for
    `whole` see `Tokenizer.train`."""
    if embedding.vectors_vocabulary:
        # As often as min_frequency asks, so that each gets its entry.
        words = (word for word in vector_words(embedding.vectors) for _ in range(text.min_frequency))
        texts = chain(texts, words)
    return train_tokenizer(texts, text) if isinstance(texts, Texts) else Tokenizer.train(texts, text, whole=whole)


def make_embedding(section: Any, tokenizer: Tokenizer) -> Embedding:
    """The embedding table that an `EmbeddingConfig` describes, for a vocabulary; without its pretrained vectors."""
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


def word_rows(prefix: str, embedding: Embedding, tokenizer: Tokenizer) -> dict[str, Rows]:
    """For `RunTask.rows`: what the rows of an embedding stand for that lies at `prefix` in the model."""
    return {f"{prefix}.embedding.table.weight": named_rows(tokenizer, filled=embedding.pretrained)}


def named_rows(tokenizer: Tokenizer, **options: Any) -> Rows:
    """Rows that stand for the words of a vocabulary."""
    return Rows(tokenizer.vocabulary, words=True, plain=tokenizer.words, **options)


def make_encoder(embedding: Any, encoder: Section, tokenizer: Tokenizer, *, load: bool) -> tuple[Encoder, list[str]]:
    """Embedding and recurrent module for a vocabulary.

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
