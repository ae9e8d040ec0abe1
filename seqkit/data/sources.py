"""Where rows come from: files, built-in data, other libraries' data sets; as memory-mapped `datasets.Dataset` tables.

A file is read once, row by row, into an Arrow file in the cache folder of the `datasets` library; every later use maps
that file, so a corpus may be larger than memory. The cache knows the file by path, size and time of change.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from seqkit._version import __version__
from seqkit.config import Section, UserError, nearest
from seqkit.data.cache import Unwritable, cache_folder, cached_file
from seqkit.data.readers import SKIPS, BadRow, Column, Rows, convert, detect, read
from seqkit.data.skipped import Skipped, good_rows, no_rows, place
from seqkit.data.textform import check_text_form, text_encoding, text_identity
from seqkit.files import write_text

LINE = "_line"
"""Name of the column that holds each row's line number."""

BUILTIN, HUB, TORCHTEXT = _KINDS = ("builtin:", "hub:", "torchtext:")
# Keys that only some kinds of sources have; a file has none of them.
_OWN_KEYS = {"seed": (BUILTIN,), "split": (HUB, TORCHTEXT), "revision": (HUB,), "root": (TORCHTEXT,)}
_BUILTIN_ROWS = {"train": 8000, "dev": 1000, "test": 1000}
_BATCH_ROWS = 10_000
_BATCH_CHARACTERS = 1 << 25

_log = logging.getLogger("seqkit.data")


class SourceConfig(Section):
    """One part of the data. In YAML a bare string stands for `{path: string}`."""

    path: str = Field(
        description="A file, plain or gzip; builtin:NAME, data that comes with the package; hub:NAME[/CONFIG] or "
        "hub:./FOLDER, a data set of the Hugging Face hub; torchtext:NAME."
    )
    format: Literal["auto", "tsv", "csv", "jsonl", "parquet", "text", "conll"] = Field(
        default="auto",
        description="Format of the file; auto goes by the extension. text: a sentence a line. conll: a token a line.",
    )
    delimiter: str | None = Field(
        default=None,
        description="What separates the columns of a CSV file, such as ';'. Default: a comma, or what a first line "
        "sep=; says, as Excel writes it; nothing is guessed.",
    )
    encoding: str = Field(default="utf-8", description="Encoding of the file's text, such as cp1252.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Field name to column name in the file, where the two differ. hub: OUTER.INNER for what is inside.",
    )
    split: str | None = Field(
        default=None,
        min_length=1,
        description="Which part of a hub or torchtext data set, for hub such as train[:10%]. Default: the one of that "
        "name, for dev validation, dev or valid.",
    )
    revision: str | None = Field(
        default=None, min_length=1, description="Commit, branch or tag of a hub data set. Default: the newest commit."
    )
    root: str | None = Field(
        default=None, min_length=1, description="Where torchtext keeps its data, in datasets/NAME. Default: .data."
    )
    limit: int | None = Field(
        default=None,
        gt=0,
        description="Use the first N good rows. Default: all; of built-in data 8000 to train, 1000 each for dev and "
        "test.",
    )
    on_bad_line: Literal["error", "skip"] = Field(
        default="error", description="What to do with a line that cannot be read: stop, or skip and count it."
    )
    seed: int | None = Field(default=None, ge=0, description="Seed of built-in data. Default: 0.")

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
        """Where row `index` of `dataset` stands: `file:line`, or `file: row N` for Parquet and built-in data."""
        return place(self.name, self.dataset.select_columns([LINE])[index][LINE], self.has_lines)


def open_source(config: SourceConfig, fields: Mapping[str, type], part: str) -> Source:
    """Read a source, or map what an earlier run read.

    Args:
        config: which file and how.
        fields: the fields needed, each `str` or `list` (a list of strings).
        part: train, dev or test: which part of built-in data, and the word for messages.

    Raises:
        UserError: the file is missing, empty, a directory, unreadable or without a needed column; a hub or torchtext
            data set that is not to be had, or lacks that split; a bad line (unless they are skipped); no row left; a
            full disk under the cache.
    """
    return open_job(make_job(config, fields, part))


def make_job(config: SourceConfig, fields: Mapping[str, type], part: str) -> Job:
    """What `open_source` would read; nothing but the file's name and size is looked at yet.

    Raises:
        UserError: see `open_source`.
    """
    for name in config.columns:
        if name not in fields:
            raise UserError(
                f"data.{part}.columns.{name}: not a field of this task "
                f"(fields: {', '.join(fields)}){nearest(name, fields)}"
            )
    columns = {name: Column(config.columns.get(name, name), kind) for name, kind in fields.items()}
    if config.path.startswith(HUB):
        from seqkit.data.hub import hub_job  # which is built on this module, as is the next

        return hub_job(config, columns, part)
    if config.path.startswith(TORCHTEXT):
        from seqkit.data.torchtext import torchtext_job

        return torchtext_job(config, columns, part)
    return _builtin_job(config, columns, part) if config.path.startswith(BUILTIN) else _file_job(config, columns)


@dataclass(frozen=True)
class Job:
    """What to read, under which key the result is cached, and how to speak of it.

    Attributes:
        name: for messages.
        identity: what says which source this is and how it is read; `state` the version of it that lies there now.
        rows: lines with their values or with what is wrong.
        columns: the fields, in the order of the values.
        limit: how many good rows to read, None for all.
        skip_bad: bad rows are counted, not refused.
        has_lines: rows stand at lines (else they are counted).
        rows_from: the same rows from a line on, where those before can be passed over unread.
        changed: when the file system noticed the last change of each file (ctime): nobody can set it back, as the time
            in `state`. It decides whether a cache is that of the file, and nothing else: a copy of a file has another.
        form: the format of the file, "" for other sources.
    """

    name: str
    identity: list[Any]
    state: list[Any]
    rows: Rows
    columns: dict[str, Column]
    limit: int | None
    skip_bad: bool
    has_lines: bool
    rows_from: Callable[[int], Rows] | None = None
    changed: list[int] = field(default_factory=list)
    form: str = ""

    @property
    def stem(self) -> str:
        """Cache file names of all states of one source begin with this."""
        return _digest([__version__, *self.identity, self.limit, self.skip_bad, self._layout()])

    def _layout(self) -> list[list[str]]:
        return [[field, column.name, column.kind.__name__] for field, column in self.columns.items()]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _file_job(config: SourceConfig, columns: dict[str, Column]) -> Job:
    path, state = check_file(config.path)
    changed = [path.stat().st_ctime_ns]
    form = detect(path) if config.format == "auto" else config.format
    if config.delimiter is not None and form != "csv":
        raise UserError(f"{path}: this is {form}, which has no delimiter to choose; leave delimiter out")
    encoding = text_encoding(config.encoding)
    if encoding != "utf-8" and form == "parquet":
        raise UserError(f"{path}: this is parquet, which has no encoding to choose; leave encoding out")
    return Job(
        name=str(path),
        identity=[str(path.resolve()), form, *text_identity(config)],
        state=state,
        rows=read(path, form, list(columns.values()), delimiter=config.delimiter, encoding=encoding),
        columns=columns,
        limit=config.limit,
        skip_bad=SKIPS[config.on_bad_line],
        has_lines=form != "parquet",
        changed=changed,
        form=form,
    )


def check_file(name: str) -> tuple[Path, list[Any]]:
    """The path of a file that can be read, and the state it is in: size and time of change.

    Raises:
        UserError: it is missing, empty, a directory or unreadable.
    """
    path = Path(name)
    try:
        path = path.expanduser()
        status = path.stat()
        if path.is_dir():
            raise UserError(f"{path}: this is a directory; expected a file")
        if not path.is_file():
            raise UserError(f"{path}: not a regular file")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        names = [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(str(path), names)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RuntimeError) as error:  # a NUL or half of a surrogate pair in it; no such ~user
        raise UserError(f"{name!r}: cannot be read ({error})") from None
    if status.st_size == 0:
        raise UserError(f"{path}: the file is empty")
    return path, [status.st_size, status.st_mtime_ns]


def _builtin_job(config: SourceConfig, columns: dict[str, Column], part: str) -> Job:
    from seqkit.data import builtin

    name, seed = config.path.removeprefix(BUILTIN), config.seed or 0
    known = builtin.columns(name)
    for column in columns.values():
        if column.name not in known:
            hint = f"(columns: {', '.join(known)}){nearest(column.name, known)}"
            raise UserError(f"{config.path}: no column {column.name!r} {hint}")

    def rows() -> Rows:
        for number, row in enumerate(builtin.rows(name, part, seed=seed), 1):
            values = [convert(row[column.name], column) for column in columns.values()]
            bad = next((value for value in values if isinstance(value, BadRow)), None)
            yield number, bad or [value for value in values if not isinstance(value, BadRow)]

    # The rules decide the rows: a changed rule file or generator must not be served from the cache.
    folder = Path(builtin.__file__).parent
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return Job(
        name=config.path,
        identity=[config.path, part, seed],
        state=[[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        rows=rows(),
        columns=columns,
        limit=config.limit or _BUILTIN_ROWS.get(part, _BUILTIN_ROWS["test"]),
        skip_bad=SKIPS[config.on_bad_line],
        has_lines=False,
    )


def open_job(job: Job) -> Source:
    """Map the Arrow file of an earlier run, or write it first."""
    with closing(job.rows):
        return _cached(job)


def _cached(job: Job) -> Source:
    import datasets

    folder = cache_folder()
    target = folder / f"{job.stem}-{_digest([*job.state, *job.changed])}.arrow"
    notes = target.with_suffix(".json")
    # The notes are written last: where they are, the Arrow file is whole.
    with suppress(OSError, ValueError, TypeError):
        if notes.is_file():
            skipped = Skipped(**json.loads(notes.read_text("utf-8")))
            return Source(datasets.Dataset.from_file(str(target)), job.name, job.has_lines, skipped)
    try:
        with cached_file(target, job.name) as file:
            skipped = _write(job, file)
    except Unwritable as error:
        _log.warning("%s: read into memory; the cache %s cannot be written (%s)", job.name, folder, error)
        return _in_memory(job)
    with suppress(OSError):
        write_text(notes, json.dumps(asdict(skipped)))
    for stale in folder.glob(f"{job.stem}-*"):
        if stale not in (target, notes):
            with suppress(OSError):
                stale.unlink()
    return Source(datasets.Dataset.from_file(str(target)), job.name, job.has_lines, skipped)


def _in_memory(job: Job) -> Source:
    import datasets
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    skipped = _write(job, sink)
    return Source(datasets.Dataset.from_buffer(sink.getvalue()), job.name, job.has_lines, skipped)


def _write(job: Job, sink: Any) -> Skipped:
    """Stream the rows into Arrow; returns what was skipped.

    Raises:
        UserError: a bad line where they are errors, or no row at all.
    """
    import pyarrow as pa

    skipped, total = Skipped(), 0
    with pa.ipc.new_stream(sink, arrow_schema(job)) as writer:
        for batch in arrow_batches(job, good_rows(job, skipped)):
            writer.write_batch(batch)
            total += len(batch)
    if total == 0:
        raise no_rows(job.name, skipped)
    return skipped


def arrow_schema(job: Job) -> Any:
    """The columns of a job's rows: its fields and `_line`."""
    import pyarrow as pa

    text = pa.string()
    types = [(field, pa.list_(text) if column.kind is list else text) for field, column in job.columns.items()]
    return pa.schema([*types, (LINE, pa.int64())])


def arrow_batches(job: Job, rows: Iterable[tuple[int, list[Any]]]) -> Iterator[Any]:
    """Rows of a job as Arrow record batches of bounded length and size."""
    import pyarrow as pa

    schema = arrow_schema(job)

    def arrow(batch: list[list[Any]]) -> Any:
        arrays = [pa.array(values, kind.type) for values, kind in zip(zip(*batch, strict=True), schema, strict=True)]
        return pa.record_batch(arrays, schema=schema)

    batch: list[list[Any]] = []
    size = 0
    for line, row in rows:
        for value in row:
            size += len(value) if isinstance(value, str) else sum(map(len, value))
        batch.append([*row, line])
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield arrow(batch)
            batch, size = [], 0
    if batch:
        yield arrow(batch)
