"""`hub:NAME`: rows of a data set of the Hugging Face hub, of the local cache or of a folder, by the `datasets` library.

Only data is read: the library is never allowed to run a data set's own code. Of what it has cached, the columns of the
task are copied once into the cache of `seqkit.data.sources`, checked and numbered as the rows of a file are.
"""

from __future__ import annotations

import contextlib
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seqkit.data.job import Job
from seqkit.data.readers import SKIPS, BadRow, Column, Rows, Value, convert
from seqkit.data.source import HUB, SourceConfig
from seqkit.errors import UserError, listed, nearest

SPLITS = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}
"""Names that the parts of a data set usually have; the first that is there is taken where none is given."""

_ROWS = 1000  # read at a time
_FORMS = "hub:NAME, hub:OWNER/NAME, either with /CONFIG behind it, or a folder, hub:./FOLDER"


def hub_job(config: SourceConfig, columns: dict[str, Column], part: str) -> Job:
    """Return what to read of a data set; it is downloaded and prepared first, unless it is in the cache of `datasets`.

    A class label becomes its name, `columns: {source: translation.de}` reads a value inside another.

    Raises:
        UserError: there is no such data set, configuration, part or column, or it is neither cached nor in reach.
    """
    builder = _prepared(config)
    names = list(builder.info.splits)
    split = config.split or usual_split(names, config.path, part)
    check_split(names, config.path, split)
    try:
        dataset = builder.as_dataset(split=split)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"{config.path}: the split {split!r} cannot be read ({one_line(error)})") from None
    return Job(
        name=config.path,
        identity=[config.path, split, config.revision],
        state=[str(builder.hash), str(dataset._fingerprint), len(dataset)],
        rows=_rows(dataset, [_Reader(dataset.features, column, config.path) for column in columns.values()]),
        columns=columns,
        limit=config.limit,
        skip_bad=SKIPS[config.on_bad_line],
        has_lines=False,
    )


def _rows(dataset: Any, readers: Sequence[_Reader]) -> Rows:
    wanted = list(dict.fromkeys(reader.path[0] for reader in readers))
    number = 0
    for table in dataset.select_columns(wanted).with_format("arrow").iter(_ROWS):
        for values in zip(*(reader.read(table) for reader in readers), strict=True):
            number += 1
            bad = next((value for value in values if isinstance(value, BadRow)), None)
            yield number, bad or [value for value in values if not isinstance(value, BadRow)]


class _Reader:
    """One column of the task: where it lies in the data set, and the names of its classes if it has some.

    Raises:
        UserError: there is no such column.
    """

    def __init__(self, features: Any, column: Column, source: str) -> None:
        known = dict(_leaves(features.arrow_schema))
        if column.name not in known:
            names = [".".join(path) for path in known.values()]
            raise UserError(
                f"{source}: no column {column.name!r} (columns: {listed(names)}){nearest(column.name, names)}"
            )
        self.column, self.path = column, known[column.name]
        feature: Any = features
        for name in self.path:
            feature = feature.get(name) if isinstance(feature, dict) else None
        self.names: list[str] | None = getattr(_inner(feature), "names", None)

    def read(self, table: Any) -> Iterator[Value | BadRow]:
        """Yield the column's values in a table of some rows."""
        import pyarrow.compute as pc

        values = table.column(self.path[0])
        if len(self.path) > 1:
            values = pc.struct_field(values, list(self.path[1:]))
        for value in values.to_pylist():
            yield convert(value, self.column) if self.names is None else self._named(value, self.names)

    def _named(self, value: Any, names: list[str]) -> Value | BadRow:
        for number in value if isinstance(value, list) else [value]:
            if number is None or not 0 <= number < len(names):  # -1 stands for a label that is not told
                return BadRow(f"{self.column.name!r}: {number} is not a class (classes: {listed(names)})")
        return convert([names[item] for item in value] if isinstance(value, list) else names[value], self.column)


def _inner(feature: Any) -> Any:
    """Return what a feature is a list of, or itself."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", feature)


def _leaves(fields: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each column by its dotted name, those inside another after it."""
    import pyarrow as pa

    for field in fields:
        path = (*above, field.name)
        if pa.types.is_struct(field.type):
            yield from _leaves(field.type, path)
        else:
            yield ".".join(path), path


def _prepared(config: SourceConfig) -> Any:
    """Return the builder of a data set that lies prepared in the cache.

    Raises:
        UserError: see `hub_job`.
    """
    errors: list[Exception] = []
    readings = _readings(config.path)
    if config.revision is not None and _is_folder(config.path):
        raise UserError(f"{config.path}: a folder has no revision; leave it out")
    for name, kind in readings:
        try:
            builder = _build(name, kind, config.revision)
        except Exception as error:  # whatever the library, its readers and the network raise
            errors.append(error)
        else:
            return _at_revision(builder, config, name)
    found = (error for error in errors if not isinstance(error, (ConnectionError, FileNotFoundError)))
    raise _explained(config.path, readings, next(found, errors[0])) from None


def _is_folder(path: str) -> bool:
    return path.removeprefix(HUB).startswith((".", "/", "~"))


def _readings(path: str) -> list[tuple[str, str | None]]:
    """Return what hub:... may mean, the likeliest first: (name or folder, configuration).

    Raises:
        UserError: it has another form; no such folder; a folder that may be meant instead.
    """
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    name = path.removeprefix(HUB)
    if _is_folder(path):
        folder = Path(os.path.expanduser(name))
        if folder.is_dir():
            return [(str(folder), None)]
        card = folder.parent / "README.md"  # where a folder names its configurations
        if card.is_file() and "config_name" in card.read_text("utf-8", errors="replace"):
            return [(str(folder.parent), folder.name)]
        raise UserError(f"{path}: no such folder: {folder}")
    if name in _PACKAGED_DATASETS_MODULES:
        raise UserError(f"{path}: {name} is a file format, not a data set; give the path of a file")
    parts = name.split("/")
    if len(parts) > 3 or not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
        raise UserError(f"{path}: expected {_FORMS}")
    first: tuple[str, str | None] = (name, None) if len(parts) < 3 else ("/".join(parts[:2]), parts[2])
    if Path(first[0]).is_dir():  # which the library would take for the data set
        raise UserError(f"{path}: there is also a folder {first[0]} here; write hub:./{name} to read that")
    return [first, (parts[0], parts[1])] if len(parts) == 2 and not Path(parts[0]).is_dir() else [first]


def _build(name: str, kind: str | None, revision: str | None) -> Any:
    """Return a builder with everything downloaded and prepared; without a network, of what is cached."""
    global _unreachable
    import datasets

    options: dict[str, Any] = {}
    if int(datasets.__version__.split(".")[0]) < 4:
        options["trust_remote_code"] = False  # later versions cannot run a data set's code at all
    try:
        with _offline(datasets.config) if _unreachable else contextlib.nullcontext():
            builder = datasets.load_dataset_builder(name, kind, revision=revision, **options)
            builder.download_and_prepare()
    except ConnectionError:
        # Each further look for the hub would take half a minute of retries.
        _unreachable = True
        raise
    _unreachable = _unreachable or _from_cache(builder)
    return builder


_unreachable = False


@contextlib.contextmanager
def _offline(settings: Any) -> Iterator[None]:
    """Let the library look into its cache only."""
    names = [name for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if hasattr(settings, name)]
    before = [getattr(settings, name) for name in names]
    for name in names:
        setattr(settings, name, True)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(settings, name, value)


def _from_cache(builder: Any) -> bool:
    """Return whether the hub was not asked: then the newest that is cached was taken, whatever its revision."""
    return ".cache." in type(builder).__module__


def _at_revision(builder: Any, config: SourceConfig, name: str) -> Any:
    """Return the builder, or without a network the builder of the revision that is asked for.

    Raises:
        UserError: what is cached is not known to be it.
    """
    revision = config.revision
    if revision is None or not _from_cache(builder):
        return builder
    from huggingface_hub.constants import HF_HUB_CACHE

    reference = Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "refs" / revision
    wanted = reference.read_text("utf-8").strip() if reference.is_file() else revision
    cached = [path.name for path in Path(builder.cache_dir).parent.iterdir() if path.is_dir()]
    found = [commit for commit in cached if commit.startswith(wanted)]
    if len(found) != 1:
        raise UserError(
            f"{config.path}: revision {revision!r} is not in the cache (cached: {listed(sorted(cached))}), and the hub "
            "cannot be reached; leave revision out, or name the cached one"
        )
    kept = {"dataset_name": builder.dataset_name, "config_name": builder.config.name, "repo_id": builder.repo_id}
    return type(builder)(**kept, version=str(builder.config.version), hash=found[0])


def _explained(path: str, readings: Sequence[tuple[str, str | None]], error: Exception) -> UserError:
    import datasets

    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        revision = f" ({error})" if "Revision" in str(error) else ""
        return UserError(
            f"{path}: no such data set on the hub{revision}, or a private or gated one (then: hf auth login)"
        )
    if isinstance(error, ConnectionError):
        offline = " (HF_HUB_OFFLINE is set)" if datasets.config.HF_HUB_OFFLINE else ""
        calls = " or ".join(f"load_dataset({', '.join(repr(part) for part in one if part)})" for one in readings)
        return UserError(
            f"{path}: not in the cache {datasets.config.HF_DATASETS_CACHE}, and the hub cannot be reached{offline}; "
            f'where there is a network, python -c "from datasets import load_dataset; {calls}" fills the cache '
            "(HF_HOME names its place; it may be copied), or save the data set's files in a folder: hub:./FOLDER"
        )
    text = one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    if "script" in text or "trust_remote_code" in text or "custom code" in text:
        return UserError(
            f"{path}: this data set is a program, which is never run; the hub may have its tables "
            "(revision: refs/convert/parquet)"
        )
    return UserError(f"{path}: cannot be loaded ({text})")


def usual_split(names: Sequence[str], path: str, part: str) -> str:
    """Return the split that a part is read from where none is given.

    Raises:
        UserError: none of `names` is called as usual.
    """
    for name in SPLITS.get(part, ()):
        if name in names:
            return name
    raise UserError(f"{path}: has no split called {part}; set data.{part}.split to one of {listed(names)}")


def check_split(names: Sequence[str], path: str, split: str) -> None:
    """Refuse a split, or an expression of splits, of which a name is not among `names`.

    Raises:
        UserError: it tells the first one.
    """
    for piece in split.split("+"):
        name = piece.split("[")[0].strip()
        if name not in names and name != "all":
            raise UserError(f"{path}: no split {name!r} (splits: {listed(names)}){nearest(name, names)}")


def one_line(error: BaseException) -> str:
    """Return an error of another library for a message."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
