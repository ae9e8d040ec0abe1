"""Options of predict and evaluate: `key=value` for what the task of a run declares and for keys of its configuration.

`beam_size=5` is short for `decoding.beam_size=5`: a key needs its section only where several sections have such a key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from seqkit.config import Section, from_mapping, override, with_defaults
from seqkit.errors import UserError, listed, nearest
from seqkit.run.config_files import WEIGHTS, open_run
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import RunFolder

Use = Literal["predict", "evaluate"]
Opener = Callable[..., tuple[RunFolder, RunConfig, type[RunTask]]]
"""`open_run`, or what opens another kind of folder that holds the configuration of a run."""


class OpenedRun(NamedTuple):
    """A run folder, its configuration, the class of its task, and the options of this use."""

    folder: RunFolder
    checked: RunConfig
    kind: type[RunTask]
    options: dict[str, Any]


def open_with_options(
    path: str | Path,
    use: Use,
    texts: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
    opener: Opener = open_run,
) -> OpenedRun:
    """Open a run folder with options laid over it.

    Args:
        path: a run folder.
        use: whose options they are.
        texts: `KEY=VALUE`, as on a command line.
        values: options as Python values.
        trust: see `seqkit.load`.
        opener: opens the folder.

    Raises:
        UserError: see `open_run`; a key that this kind of run lacks, or that several sections have; a bad value.
    """
    return lay_options(opener(path, trust=trust), use, texts, values, trust=trust, opener=opener)


def lay_options(
    opened: tuple[RunFolder, RunConfig, type[RunTask]],
    use: Use,
    texts: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
    opener: Opener = open_run,
) -> OpenedRun:
    """Lay options over a run that `opener` has opened; see `open_with_options`."""
    folder, checked, kind = opened
    path = folder.path
    schema = declared(kind, checked, use)
    # In values a path stands for its text.
    texts = [*texts, *(f"{key}={json.dumps(value, default=str)}" for key, value in (values or {}).items())]
    own, overrides = list[str](), list[str]()
    for text in texts:
        key, sign, value = text.partition("=")
        name = key.strip().removeprefix(f"{kind.options_section}.")
        if name in schema.model_fields:
            own.append(f"{name}{sign}{value}")
        else:
            overrides.append(f"{_full_key(key.strip(), str(path), use, checked, kind)}{sign}{value}" if sign else text)
    document = from_mapping({})
    override(document, own)
    section = document.check(schema)
    options = {name: getattr(section, name) for name in section.model_fields_set}
    if overrides:
        folder, checked, kind = opener(path, overrides, trust=trust)
    return OpenedRun(folder, checked, kind, options)


def declared(kind: type[RunTask], checked: RunConfig, use: Use) -> type[Section]:
    """Return the schema of what a task takes for a use beside keys of its configuration."""
    return kind.predict_options(checked) if use == "predict" else kind.score_options(checked)


def describe_options(path: str | Path, use: Use, *, trust: bool = False, opener: Opener = open_run) -> list[str]:
    """Return a line for each option of a run: `name = default`, and what it means."""
    _, checked, kind = opener(path, trust=trust)
    schema = declared(kind, checked, use)
    section = getattr(checked, kind.options_section, None)
    if isinstance(section, Section):
        schema = with_defaults(type(section), schema, **dict(section))
    fields = schema.model_fields
    rows = [(f"{name}={_written(field.get_default())}", field.description or "") for name, field in fields.items()]
    width = max((len(left) for left, _ in rows), default=0)
    return [f"{left:{width}}  {' '.join(text.split())}".rstrip() for left, text in rows]


def spelling(path: str | Path, use: Use, name: str, *, trust: bool = False, opener: Opener = open_run) -> str:
    """Return how to write an option: `name=true` for a switch, else `name=VALUE`; "" for what a run does not take."""
    _, checked, kind = opener(path, trust=trust)
    fields = {**getattr(type(getattr(checked, kind.options_section, None)), "model_fields", {})}
    fields |= declared(kind, checked, use).model_fields
    return f"{name}={'true' if fields[name].annotation is bool else 'VALUE'}" if name in fields else ""


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, type(None))) else str(value)


def _full_key(key: str, path: str, use: Use, checked: RunConfig, kind: type[RunTask]) -> str:
    """Return the dotted key of the configuration that a key stands for."""
    if "." in key or key in type(checked).model_fields:
        return key
    places = [place for place in _leaves(checked.model_dump(exclude=set(WEIGHTS))) if place.endswith(f".{key}")]
    preferred = f"{kind.options_section}.{key}"
    if preferred in places or len(places) == 1:
        return preferred if preferred in places else places[0]
    if places:
        raise UserError(f"several sections have such a key: {', '.join(places)}", key=key)
    known = [*declared(kind, checked, use).model_fields, *_leaves(checked.model_dump(include={kind.options_section}))]
    names = [name.rpartition(".")[2] for name in known]
    hint = nearest(key, names) or (f"; known: {listed(names)}" if names else "")
    raise UserError(f"this is a {kind.kind} run ({path}), which has no such option{hint}", key=key)


def _leaves(tree: Any, above: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values that are no sections."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"
