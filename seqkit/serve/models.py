"""The runs that are served: what each is, what may be asked of it, and its answers."""

from __future__ import annotations

import copy
import json
import typing
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from seqkit.config import OneOf, from_mapping
from seqkit.errors import UserError
from seqkit.report import stored_outputs
from seqkit.run.loading import load_task
from seqkit.run.options import declared, open_with_options
from seqkit.serve.batcher import Batcher
from seqkit.serve.limits import Limits, Refused, too_long
from seqkit.tasks import RunTask

_PLAIN = (int, float, bool, str, NoneType)
# The owner's to set (a ratio would allow outputs of any length), or shown in no answer.
_OWNERS = ("batch_size", "min_ratio", "max_ratio", "attention")
_WIDTHS = ("beam_size", "n_best")
_LENGTHS = ("max_length", "min_length")
_EXAMPLES, _LONGEST_EXAMPLE = 8, 200  # how many a page shows, and characters in one
_KEPT = 16  # settings whose task is kept at hand


class Model:
    """A run that is served.

    Args:
        name: what clients call it.
        path: of the run folder.
        device, trust: see `seqkit.load`.
        options: `KEY=VALUE` texts: settings of `predict` that hold unless a request says otherwise.
        limits: see `Limits`.

    Raises:
        UserError: see `seqkit.run.load_predictor`.
    """

    def __init__(
        self, name: str, path: Path, device: str, options: Iterable[str], limits: Limits, *, trust: bool
    ) -> None:
        opened = open_with_options(path, "predict", options, trust=trust)
        self.name, self.path, self.limits = name, path, limits
        self.task = load_task(*opened[:3], device)
        self.task.adjust(**opened.options)
        self._options = opened.options
        self._schema = declared(opened.kind, opened.checked, "predict")
        self.options = {key: field for key, field in self._schema.model_fields.items() if _is_open(key, field)}
        self.batcher = Batcher(_answer, limits.batch, limits.queue)
        self._adjusted: OrderedDict[str, RunTask] = OrderedDict()

    def take(self, texts: Sequence[str], options: Mapping[str, Any]) -> tuple[list[Any], RunTask]:
        """Check what a client asks of `predict`.

        Returns:
            what `predict` takes, and the task with the options.

        Raises:
            Refused: too many texts, a text that is too long, an option that is not open or out of range.
        """
        if len(texts) > self.limits.texts:
            raise Refused(422, f"texts: {len(texts):,} are too many; this server takes {self.limits.texts:,} a request")
        task = self._with(options)
        return [self._item(f"texts[{place}]", text, task) for place, text in enumerate(texts)], task

    def _item(self, name: str, text: str, task: RunTask) -> Any:
        if not text.isascii():
            check_unicode(name, text)
        try:
            item = task.read_line(text)
        except UserError as error:
            raise Refused(422, f"{name}: {error}") from None
        self.check_length(name, text, self.limits.tokens)
        return item

    def check_length(self, name: str, text: str, most: int) -> None:
        """Refuse a text that has too many tokens.

        Raises:
            Refused: it has.
        """
        if too_long(name, len(text), most) and (count := self.task.count_tokens(text)) > most:
            raise Refused(422, f"{name}: {count:,} tokens are too many; this server takes {most:,}")

    def _with(self, options: Mapping[str, Any]) -> RunTask:
        """Return the task with a request's options; a fresh one where its answers depend on earlier ones."""
        if not options and self.task.independent:
            return self.task
        key = json.dumps(dict(options), sort_keys=True)
        known = self._adjusted.get(key)
        if known is None:
            self._check(options)
            try:
                known = self.task.adjusted(**{**self._options, **options})
            except UserError as error:
                raise Refused(422, f"options: {error}") from None
            if known.independent:
                self._adjusted[key] = known
                if len(self._adjusted) > _KEPT:
                    self._adjusted.popitem(last=False)
        return known

    def _check(self, options: Mapping[str, Any]) -> None:
        for key in options:
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise Refused(422, f"options.{key}: no such option of {self.name}; known: {known}")
        try:
            checked = from_mapping(options, "options").check(self._schema)
        except UserError as error:
            raise Refused(422, str(error)) from None
        for key in options:
            value = getattr(checked, key)
            most = self.limits.beam if key in _WIDTHS else self.limits.tokens if key in _LENGTHS else None
            if most is not None and isinstance(value, int) and value > most:
                raise Refused(422, f"options.{key}: {value:,} is too many; this server allows {most:,}")
            if isinstance(value, str):
                check_unicode(f"options.{key}", value)
                self.check_length(f"options.{key}", value, self.limits.tokens)

    @cached_property
    def explainer(self) -> RunTask:
        """A task with a model of its own: explaining hooks into modules while the other one predicts."""
        return copy.deepcopy(self.task)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What /runs tells of it."""
        options = {
            key: {
                **_kind(field.annotation),
                "default": self._options.get(key, field.get_default()),
                "description": " ".join((field.description or "").split()),
            }
            for key, field in self.options.items()
        }
        parameters = sum(value.numel() for value in self.task.model.parameters())
        return {
            "name": self.name,
            "task": self.task.kind,
            "parameters": parameters,
            "device": str(self.task.device),
            "options": options,
            "examples": _examples(self.path),
        }


def open_models(
    runs: Sequence[str | Path],
    device: str = "auto",
    options: Iterable[str] = (),
    limits: Limits | None = None,
    *,
    trust: bool = False,
) -> dict[str, Model]:
    """Load runs to serve them.

    Args:
        runs: run folders.
        device, trust: see `seqkit.load`.
        options: `KEY=VALUE` texts: settings of `predict`, for all of them.
        limits: see `Limits`.

    Returns:
        name -> model. A run is called like its folder, or by its whole path where two folders have one name.

    Raises:
        UserError: no run, or one twice; see `seqkit.run.load_predictor`.
    """
    paths = [Path(run) for run in runs]
    if not paths:
        raise UserError("expected a run folder, such as runs/first")
    options, counts = list(options), Counter(path.resolve().name for path in paths)
    models: dict[str, Model] = {}
    for path in paths:
        short = path.resolve().name
        name = short if counts[short] == 1 else str(path)
        if name in models:
            raise UserError(f"{path}: named twice")
        models[name] = Model(name, path, device, options, limits or Limits(), trust=trust)
    return models


def check_unicode(name: str, text: str) -> None:
    """Refuse half of a surrogate pair, which JSON can hold and UTF-8 cannot.

    Raises:
        Refused: the text has one.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(422, f"{name}: not valid Unicode (half of a surrogate pair)") from None


def _answer(task: RunTask, items: list[Any]) -> list[str]:
    return [task.format(one, "jsonl") for one in task.predict(items)]


def _examples(path: Path) -> list[dict[str, Any]]:
    """Return some of what a run's kept weights made of its dev data, from the records in its folder."""
    rows = [row for row in stored_outputs(path) if isinstance(row.get("text"), str) and row["text"].strip()]
    short = [row for row in rows if len(row["text"]) <= _LONGEST_EXAMPLE]
    step = max(len(short) // _EXAMPLES, 1)
    return [
        {"text": row["text"], "gold": _as_text(row, "gold"), "prediction": _as_text(row, "prediction")}
        for row in short[::step][:_EXAMPLES]
    ]


def _as_text(row: Mapping[str, Any], key: str) -> str | None:
    """Return an answer for a line of the page; of tags those that say something, with their tokens."""
    value = row.get(key)
    if isinstance(value, list):
        pairs = zip(row.get("tokens") or [], value, strict=False)
        return ", ".join(f"{token} ({tag})" for token, tag in pairs if tag != "O") or "no slots"
    return None if value is None else str(value)


def _is_open(key: str, field: Any) -> bool:
    """Return whether clients may set an option: a plain value, which names no code."""
    names_code = any(isinstance(one, OneOf) for one in field.metadata)
    return key not in _OWNERS and _is_plain(field.annotation) and not names_code


def _is_plain(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, UnionType):
        return all(map(_is_plain, typing.get_args(kind)))
    return origin is typing.Literal or kind in _PLAIN


def _kind(annotation: Any) -> dict[str, Any]:
    """Return the type of a plain option as JSON Schema names it, with its choices where it has some."""
    if typing.get_origin(annotation) is typing.Literal:
        return {"type": "string", "choices": list(typing.get_args(annotation))}
    kinds = set(typing.get_args(annotation) or (annotation,))
    names = {bool: "boolean", float: "number", int: "integer"}
    return {"type": next((name for kind, name in names.items() if kind in kinds), "string")}
