"""A source of rows: how the configuration describes it, and what it is once it has been read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from seqkit.config import OneOf, Section
from seqkit.data.formats import READERS, reader
from seqkit.data.readers import Reader
from seqkit.data.skipped import Skipped, place
from seqkit.data.textform import check_delimiter, text_encoding
from seqkit.errors import UserError

LINE = "_line"
"""Name of the column that holds each row's line number."""

BUILTIN, HUB, TORCHTEXT = _KINDS = ("builtin:", "hub:", "torchtext:")
# Keys that only some kinds of sources have; a file has none of them.
_OWN_KEYS = {"seed": (BUILTIN,), "split": (HUB, TORCHTEXT), "revision": (HUB,), "root": (TORCHTEXT,)}


class SourceConfig(Section):
    """One part of the data. In YAML a bare string stands for `{path: string}`."""

    path: str
    """A file, plain or gzip; builtin:NAME, data that comes with the package; hub:NAME[/CONFIG] or hub:./FOLDER, a data
    set of the Hugging Face hub; torchtext:NAME."""
    format: Annotated[str, OneOf("format", READERS, Reader, supplied=(), also=("auto",))] = "auto"
    """Format of the file; auto goes by the extension. text: a sentence a line. conll: a token a line.
    `mypackage.module:MyReader` reads another one."""
    delimiter: str | None = None
    """What separates the columns of a CSV file, such as ';'. Default: a comma, or what a first line sep=; says, as
    Excel writes it; nothing is guessed."""
    encoding: str = "utf-8"
    """Encoding of the file's text, such as cp1252."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Field name to column name in the file, where the two differ. hub: OUTER.INNER for what is inside."""
    split: str | None = Field(default=None, min_length=1)
    """Which part of a hub or torchtext data set, for hub such as train[:10%]. Default: the one of that name, for dev
    validation, dev or valid."""
    revision: str | None = Field(default=None, min_length=1)
    """Commit, branch or tag of a hub data set. Default: the newest commit."""
    root: str | None = Field(default=None, min_length=1)
    """Where torchtext keeps its data, in datasets/NAME. Default: .data."""
    limit: int | None = Field(default=None, gt=0)
    """Use the first N good rows. Default: all; of built-in data 8000 to train, 1000 each for dev and test."""
    on_bad_line: Literal["error", "skip"] = "error"
    """What to do with a line that cannot be read: stop, or skip and count it."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of built-in data. Default: 0."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> SourceConfig:
        if not self.path:
            raise ValueError("path: is empty; expected a file, builtin:NAME, hub:NAME or torchtext:NAME")
        kind = next((kind for kind in _KINDS if self.path.startswith(kind)), "")
        if kind and self.format != "auto":
            raise ValueError(f"format: {kind}NAME has none; leave it out")
        check_text_form(self, kind)
        for key, owners in _OWN_KEYS.items():
            if getattr(self, key) is not None and kind not in owners:
                raise ValueError(f"{key}: only {' and '.join(owners)} data have one; leave it out")
        return self


@dataclass(frozen=True)
class Source:
    """The rows of one part.

    Attributes:
        dataset: a memory-mapped `datasets.Dataset` with one column a field and `_line`, the line each row begins at
            (Parquet and built-in data: its number), which survives shuffling and filtering.
        name: the file as the user wrote it, or builtin:NAME, for messages.
        has_lines: rows stand at lines (else they are counted).
        skipped: bad lines that were passed over.
    """

    dataset: Any
    name: str
    has_lines: bool
    skipped: Skipped = field(default_factory=Skipped)

    def place(self, index: int) -> str:
        """Return where row `index` of `dataset` stands: `file:line`, or `file: row N` for Parquet and built-in data."""
        return place(self.name, self.dataset.select_columns([LINE])[index][LINE], self.has_lines)

    def places(self, rows: Sequence[int]) -> list[str]:
        """Return the same of several rows."""
        lines = self.dataset.select_columns([LINE])[list(rows)][LINE]
        return [place(self.name, line, self.has_lines) for line in lines]


def check_text_form(config: SourceConfig, kind: str) -> None:
    """Refuse a delimiter that is none, an encoding that is not known, and either where it has no meaning.

    Raises:
        ValueError: it begins with the key.
    """
    own = None if config.format == "auto" else reader(config.format)
    if text_encoding(config.encoding) != "utf-8" and (kind or (own and not own.has_encoding)):
        raise ValueError(
            f"encoding: {kind + 'NAME' if kind else f'a {type(own).__name__} file'} has none; leave it out"
        )
    if config.delimiter is None:
        return
    try:
        check_delimiter(config.delimiter, "delimiter")
    except UserError as error:
        raise ValueError(str(error)) from None
    if kind or (own and not own.has_delimiter):
        raise ValueError("delimiter: only CSV files have one (format: csv); leave it out")


def text_identity(config: SourceConfig) -> list[str]:
    """Return what `Job.identity` needs of these two; nothing for defaults, so that earlier runs find their data."""
    encoding = text_encoding(config.encoding)
    named = {"delimiter": config.delimiter, "encoding": None if encoding == "utf-8" else encoding}
    return [f"{key} {value}" for key, value in named.items() if value is not None]
