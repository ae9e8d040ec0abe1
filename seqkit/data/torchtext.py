"""`torchtext:NAME`: rows of torchtext's data sets in a local folder; and our data as torchtext's pipelines take it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import IterDataPipe

from seqkit.data.hub import check_split, one_line, usual_split
from seqkit.data.job import Job
from seqkit.data.readers import SKIPS, BadRow, Column, Rows, convert_row
from seqkit.data.source import TORCHTEXT, Source, SourceConfig
from seqkit.errors import UserError, listed, nearest
from seqkit.text.foreign import load_torchtext, quiet

_CLASSIFIED = ("AG_NEWS", "AmazonReviewFull", "AmazonReviewPolarity", "DBpedia", "IMDB", "SogouNews", "YahooAnswers")
COLUMNS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*_CLASSIFIED, "YelpReviewFull", "YelpReviewPolarity"), ("label", "text")),
    **dict.fromkeys(("EnWik9", "PennTreebank", "WikiText2", "WikiText103"), ("text",)),
    **dict.fromkeys(("CNNDM", "IWSLT2016", "IWSLT2017", "Multi30k"), ("source", "target")),
    "SST2": ("text", "label"),
    "CoLA": ("origin", "label", "text"),
    "CC100": ("language", "text"),
    "CoNLL2000Chunking": ("tokens", "pos", "tags"),
    "UDPOS": ("tokens", "upos", "xpos"),
}
"""What the values of a row are; in other data sets, and in these, too, they are called 0, 1, ..."""


def torchtext_job(config: SourceConfig, columns: dict[str, Column], part: str) -> Job:
    """Return what to read of a data set that torchtext downloaded earlier; labels are the numbers that torchtext gives.

    Nothing is downloaded. What torchtext keeps packed it unpacks beside it, at the first reading; so the second reading
    takes the files for changed ones, and only the third comes from the cache.

    Raises:
        UserError: see `load_torchtext`; no such data set, split or column; the folder has no such data.
    """
    name = config.path.removeprefix(TORCHTEXT)
    make = _maker(config.path, name)
    root = Path(os.path.expanduser(config.root or ".data"))
    folder = root / "datasets" / name
    options = _options(make, config, part)
    if not _files(folder):
        call = ", ".join(f"{key}={value!r}" for key, value in {"root": str(root), **options}.items())
        raise UserError(
            f"{config.path}: no data in {folder}; seqkit does not download with torchtext: where there is a network, "
            f'python -c "from torchtext.datasets import {name}; list({name}({call}))" puts them there (or set root)'
        )
    positions = [_position(config.path, name, column) for column in columns.values()]
    data = _Data(config.path, folder, partial(_open, make, root, options))
    return Job(
        name=config.path,
        identity=[config.path, str(root.resolve()), sorted(options.items())],
        state=_files(folder),
        rows=_rows(data, list(columns.values()), positions),
        columns=columns,
        limit=config.limit,
        skip_bad=SKIPS[config.on_bad_line],
        has_lines=False,
    )


def _maker(path: str, name: str) -> Callable[..., Any]:
    """Return the function of torchtext that opens a data set."""
    try:
        load_torchtext()
    except UserError as error:
        raise error.at(path) from None
    try:
        with quiet():
            import torchdata.datapipes.iter  # noqa: F401  # torchtext asks for it only when a data set is opened
            from torchtext.datasets import DATASETS
    except ImportError as error:
        raise UserError(f"{path}: this needs torchdata: pip install '.[torchtext]' ({error})") from None
    if name not in DATASETS:
        raise UserError(f"{path}: torchtext has no such data set (it has: {listed(DATASETS)}){nearest(name, DATASETS)}")
    return DATASETS[name]  # type: ignore[no-any-return]


def _options(make: Callable[..., Any], config: SourceConfig, part: str) -> dict[str, str]:
    """Return the split, if the data set has some."""
    parameter = inspect.signature(make).parameters.get("split")
    if parameter is None:
        if config.split is not None:
            raise UserError(f"{config.path}: this data set has no splits; leave split out")
        return {}
    names = list(parameter.default)
    split = config.split or usual_split(names, config.path, part)
    check_split(names, config.path, split)
    if split not in names:
        raise UserError(f"{config.path}: the split {split!r} cannot be read; torchtext knows {', '.join(names)}")
    return {"split": split}


def _files(folder: Path) -> list[Any]:
    """Return the state of the files, without the marks of downloads under way."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _is_mark(path):
            status = path.stat()
            found.append([str(path.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return found


def _is_mark(path: Path) -> bool:
    return ".promise." in path.name or path.suffix == ".lock"


def _position(path: str, name: str, column: Column) -> int:
    known = COLUMNS.get(name, ())
    if column.name in known:
        return known.index(column.name)
    if column.name.isdecimal() and (not known or int(column.name) < len(known)):
        return int(column.name)
    if known:
        hint = f"(columns: {', '.join(known)}){nearest(column.name, known)}"
    else:
        hint = f"(columns: 0, 1, ...); write columns: {{{column.name}: N}}"
    raise UserError(f"{path}: no column {column.name!r} {hint}")


class _Refusing(IterDataPipe):  # type: ignore[type-arg]
    """In the place of a reader of the network: there may be nothing to read."""

    def __init__(self, asked: Any) -> None:
        self._asked = asked

    def __iter__(self) -> Iterator[Any]:
        for address in self._asked:
            raise ConnectionError(f"what {address} gave is missing or damaged, and seqkit downloads nothing")
        yield from ()


def _open(make: Callable[..., Any], root: Path, options: dict[str, str]) -> Any:
    """Return a data set of torchtext that cannot reach the network."""
    with quiet():
        from torchdata.dataloader2.graph import replace_dp, traverse_dps

        pipe = make(root=str(root), **options)
        graph = traverse_dps(pipe)
        for reader in _readers(graph):
            graph = replace_dp(graph, reader, _Refusing(reader.source_datapipe))
    return pipe


def _readers(graph: dict[int, Any]) -> Iterator[Any]:
    for pipe, below in graph.values():
        if type(pipe).__name__ in ("HTTPReaderIterDataPipe", "GDriveReaderDataPipe", "OnlineReaderIterDataPipe"):
            yield pipe
        yield from _readers(below)


@dataclass(frozen=True)
class _Data:
    """Rows of torchtext, with its errors as ours.

    Attributes:
        path: what the user wrote, for messages.
        folder: where the data are.
        opened: gives a fresh pipe of torchtext.
    """

    path: str
    folder: Path
    opened: Callable[[], Any]

    def __iter__(self) -> Iterator[Any]:
        marks, before = set(self._marks()), _files(self.folder)
        try:
            rows = iter(self.opened())
            for row in rows:  # noqa: UP028  # where this is left early, `yield from` would close them
                yield row
        except GeneratorExit:
            if _files(self.folder) != before:
                # Of what it has unpacked in part torchtext would believe, the next time, that it is all.
                for _ in rows:
                    pass
            raise
        except Exception as error:  # of torchtext, torchdata and the readers of files
            for mark in set(self._marks()) - marks:
                mark.unlink(missing_ok=True)  # of downloads, for which the next reading would wait
            raise UserError(f"{self.path}: cannot be read ({one_line(error)})") from None

    def _marks(self) -> Iterator[Path]:
        return filter(_is_mark, self.folder.rglob("*"))


def _rows(data: _Data, columns: Sequence[Column], positions: Sequence[int]) -> Rows:
    with closing(iter(data)) as rows:  # type: ignore[type-var]
        for number, row in enumerate(rows, 1):
            values = (row,) if isinstance(row, str) else row
            if max(positions) >= len(values):
                yield number, BadRow(f"{len(values)} values; expected at least {max(positions) + 1}")
                continue
            yield number, convert_row([values[at] for at in positions], columns)


class Tuples(IterDataPipe):  # type: ignore[type-arg]
    """The rows of a source as torchtext's data sets give theirs: tuples, or single values where there is one field.

    A `torch.utils.data.IterDataPipe`, so that `.map`, `.shuffle`, `.batch` and a `DataLoader` work on it; needs no
    torchtext.

    Args:
        source: `open_source(...)`, or another of our sources.
        fields: names of its columns, in the order of the tuples, such as `("label", "text")`.

    Raises:
        KeyError: the source has no such column.
    """

    def __init__(self, source: Source, fields: Sequence[str]) -> None:
        for field in fields:
            if field not in source.dataset.column_names:
                raise KeyError(f"{source.name}: no column {field!r} (columns: {listed(source.dataset.column_names)})")
        self._table, self._fields = source.dataset, tuple(fields)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._table.select_columns(list(self._fields)).iter(batch_size=1000):
            if len(self._fields) == 1:
                yield from batch[self._fields[0]]
            else:
                yield from zip(*(batch[field] for field in self._fields), strict=True)

    def __len__(self) -> int:
        return len(self._table)
