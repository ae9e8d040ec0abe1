"""Where rows come from: files, built-in data, other libraries' data sets; as memory-mapped `datasets.Dataset` tables.

A file is read once, row by row, into an Arrow file in the cache folder of the `datasets` library; every later use maps
that file, so a corpus may be larger than memory. The cache knows the file by path, size and time of change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqkit.console import say
from seqkit.data.cache import Unwritable, cache_folder, cached_file
from seqkit.data.formats import detect, read, reader, reader_state
from seqkit.data.hub import hub_job
from seqkit.data.job import Job, digest
from seqkit.data.readers import SKIPS, Column, Rows, convert_row
from seqkit.data.skipped import Skipped, good_rows, no_rows
from seqkit.data.source import BUILTIN, HUB, LINE, TORCHTEXT, Source, SourceConfig, text_identity
from seqkit.data.textform import text_encoding
from seqkit.errors import UserError, nearest, opening
from seqkit.files import write_text

_BUILTIN_ROWS = {"train": 8000, "dev": 1000, "test": 1000}
_BATCH_ROWS = 10_000
_BATCH_CHARACTERS = 1 << 25


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
    """Return what `open_source` would read; nothing but the file's name and size is looked at yet.

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
        return hub_job(config, columns, part)
    if config.path.startswith(TORCHTEXT):
        from seqkit.data.torchtext import torchtext_job  # which needs torch

        return torchtext_job(config, columns, part)
    return _builtin_job(config, columns, part) if config.path.startswith(BUILTIN) else _file_job(config, columns)


def _file_job(config: SourceConfig, columns: dict[str, Column]) -> Job:
    path, state = check_file(config.path)
    changed = [path.stat().st_ctime_ns]
    form = detect(path) if config.format == "auto" else config.format
    own = reader(form)
    if config.delimiter is not None and not own.has_delimiter:
        raise UserError(f"{path}: this is {form}, which has no delimiter to choose; leave delimiter out")
    encoding = text_encoding(config.encoding)
    if encoding != "utf-8" and not own.has_encoding:
        raise UserError(f"{path}: this is {form}, which has no encoding to choose; leave encoding out")
    return Job(
        name=str(path),
        identity=[str(path.resolve()), form, *text_identity(config)],
        state=[*state, *reader_state(form)],
        rows=read(path, form, list(columns.values()), delimiter=config.delimiter, encoding=encoding),
        columns=columns,
        limit=config.limit,
        skip_bad=SKIPS[config.on_bad_line],
        has_lines=own.has_lines,
        changed=changed,
        line_a_token=own.line_a_token,
    )


def check_file(name: str) -> tuple[Path, list[Any]]:
    """Return the path of a file that can be read, and the state it is in: size and time of change.

    Raises:
        UserError: it is missing, empty, a directory or unreadable.
    """
    with opening(Path(name)):
        path = Path(name).expanduser()
    with opening(path):
        status = path.stat()
        if not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: not a regular file")
        with path.open("rb"):
            pass
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
            yield number, convert_row([row[column.name] for column in columns.values()], columns.values())

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
    target = folder / f"{job.stem}-{digest([*job.state, *job.changed])}.arrow"
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
        say(f"{job.name}: read into memory; the cache {folder} cannot be written ({error})")
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
    """Return the columns of a job's rows: its fields and `_line`."""
    import pyarrow as pa

    text = pa.string()
    types = [(field, pa.list_(text) if column.kind is list else text) for field, column in job.columns.items()]
    return pa.schema([*types, (LINE, pa.int64())])


def arrow_batches(job: Job, rows: Iterable[tuple[int, list[Any]]]) -> Iterator[Any]:
    """Yield rows of a job as Arrow record batches of bounded length and size."""
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
