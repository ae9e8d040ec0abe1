"""`Document`: a configuration before validation, from files and overrides, that knows where every key was written."""

from __future__ import annotations

import copy
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from seqkit.config.names import Untrusted
from seqkit.config.yamltext import DEEPEST, LARGEST, Builder, KeyPath, compose, typed_value, writable
from seqkit.errors import UserError, argument_of, nearest, opening, shown

S = TypeVar("S", bound=BaseModel)
_BASES = 20  # files in a chain of `base:`
_MISTAKES = 50  # lines of one error
_NO_SECTION = ("model_type", "model_attributes_type", "dict_type")  # pydantic's names for one mistake
_TYPED = "command line"  # the place of what was typed there


@dataclass
class Document:
    """A configuration before validation.

    Attributes:
        tree: plain dicts, lists and scalars.
        places: where each key path was written, such as `configs/x.yaml:12` or `command line`.
        name: what to call the whole in a message.
        typed: of values from the command line that are not text, the text as typed: a key that wants text gets that.
        files: the YAML file, and those it names as its bases.
    """

    tree: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    name: str = "config"
    typed: dict[KeyPath, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def place(self, path: KeyPath) -> str:
        """Return where `path`, or the nearest key above it, was written."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.name

    def error(self, path: KeyPath, message: str) -> UserError:
        """Return a `UserError` that starts with the place and the dotted path."""
        return UserError(message, key=".".join(path)).at(self.place(path))

    def spread(self, section: str, keys: Iterable[str], parts: Iterable[str], short: str) -> None:
        """Let keys that the command line gives for all parts of a section hold for each of them.

        Such as `data.encoding` for `data.train`, which a file or a run may have an encoding of its own for: the command
        line goes before files. What it says of one part (`data.train.encoding`) stays.

        Args:
            section: such as `data`.
            keys: those that stand beside the parts for all of them.
            parts: such as train, dev, test; one that is neither text nor a mapping is left to the schema.
            short: the key that a part of text alone is the value of, such as `path`.
        """
        below = self.tree.get(section)
        if not isinstance(below, dict):
            return
        for path in [path for path, place in self.places.items() if place == _TYPED and path[:1] == (section,)]:
            if len(path) > 1 and path[1] in keys:
                for part in parts:
                    if isinstance(below.get(part), str):
                        below[part] = {short: below[part]}
                    if isinstance(below.get(part), dict):
                        self._lay(path, (section, part, *path[1:]))

    def _lay(self, source: KeyPath, target: KeyPath) -> None:
        """Copy a value to another path, key by key into a mapping; what the command line says of that path stays."""
        if any(self.places.get(target[:end]) == _TYPED for end in range(2, len(target) + 1)):
            return
        value, node = _at(self.tree, source), _at(self.tree, target[:-1])
        if not isinstance(node, dict):
            return
        if isinstance(value, dict) and isinstance(node.get(target[-1]), dict):
            for key in value:
                self._lay((*source, key), (*target, key))
            return
        node[target[-1]] = copy.deepcopy(value)
        self.places[target] = _TYPED
        if source in self.typed:
            self.typed[target] = self.typed[source]

    def check(self, schema: type[S]) -> S:
        """Validate against a schema.

        Raises:
            UserError: one line a mistake, each with its place, dotted path and what was expected.
            Untrusted: see `resolve`.
        """
        try:
            return schema.model_validate(self.tree)
        except ValidationError as error:
            try:
                items = error.errors(include_url=False)
            except UnicodeEncodeError:  # only a tree from Python can hold it
                raise self.error((), "a text holds half of a surrogate pair") from None
            if self._as_typed(items):
                return self.check(schema)
            for item in items:
                if isinstance(mistake := (item.get("ctx") or {}).get("error"), Untrusted):
                    path, _ = self._explain(item)
                    raise mistake.about(".".join(path)).at(self.place(path)) from None
            mistakes = {str(mistake): mistake for mistake in (self.error(*self._explain(item)) for item in items)}
            if len(mistakes) == 1:
                raise mistakes.popitem()[1] from None
            left = len(mistakes) - _MISTAKES
            more = [f"... and {left:,} more mistakes"] if left > 0 else []
            raise UserError("\n".join([*list(mistakes)[:_MISTAKES], *more])) from None

    def _as_typed(self, items: Iterable[Any]) -> bool:
        """Put back as typed what the command line gave as a number or a truth value and the schema wants as text."""
        found = False
        for item in items:
            path = self._written([str(part) for part in item["loc"]])
            if item["type"] == "string_type" and path in self.typed:
                _set(self, path, self.typed.pop(path))
                found = True
        return found

    def _explain(self, item: Any) -> tuple[KeyPath, str]:
        """Pydantic's error, in our words: the path as written in the file, and the message."""
        path = self._written([str(part) for part in item["loc"]])
        given = shown(item["input"])
        context = item.get("ctx") or {}
        if item["type"] == "at_key":
            return (*path, str(context["key"])), item["msg"]
        if item["type"] == "name":
            return path, item["msg"]
        if item["type"] == "missing":
            return (*path, str(item["loc"][-1])), "this key is required"
        if item["type"] == "literal_error":
            choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
            return path, f"expected {context.get('expected')}, got {given}{nearest(item['input'], choices)}"
        if item["type"] in ("value_error", "assertion_error"):
            mistake = context.get("error", item["msg"])
            name, says = argument_of(mistake)
            if (*path, name) in self.places:  # point at the line of the argument
                return (*path, name), says
            return path, str(mistake)
        if item["type"] in _NO_SECTION:
            example = ".".join((*path, "KEY=VALUE"))
            return path, f"expected a section with keys of its own ({example}), got {given}"
        message = item["msg"][0].lower() + item["msg"][1:]
        return path, f"{message}, got {given}"

    def _written(self, loc: list[str]) -> KeyPath:
        """Drop what pydantic adds to a location (the tag of a union's branch) and the file does not have."""
        path: list[str] = []
        node: Any = self.tree
        for part in loc:
            if isinstance(node, Mapping) and part in node:
                node = node[part]
                path.append(part)
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
                path.append(part)
        return tuple(path)


def read(path: str | Path, overrides: Iterable[str] = ()) -> Document:
    """Read a YAML file, the files it names under `base:`, and `key.path=value` overrides, the later over the earlier.

    `${NAME}` in a value is replaced by that environment variable. `base:` is relative to the file that holds it.

    Raises:
        UserError: no such file, not UTF-8, not YAML, a key twice, a circle of bases, an unset variable, a bad override.
    """
    document = _read_file(Path(path), ())
    override(document, overrides)
    return document


def override(document: Document, overrides: Iterable[str]) -> None:
    """Lay `key.path=value` texts over a document, in place.

    Raises:
        UserError: one is not of that form, or leads through a value that is not a section.
    """
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip() or not all(key.strip().split(".")):
            raise UserError(f"command line: {text!r} is not of the form KEY=VALUE, such as training.epochs=3")
        keys = tuple(writable(key.strip(), "command line", ()).split("."))
        if len(keys) > DEEPEST:
            raise UserError(f"command line: {key[:40]}...: more than {DEEPEST} keys")
        if len(value) > LARGEST:
            raise UserError(f"command line: {key}: a value of {len(value):,} characters; put it into a file")

        def place(line: int, text: str = text) -> str:
            return f"command line: {text[:60]!r}" if line == 0 else "command line"

        node = typed_value(value, place)
        built = None if node is None else Builder(place)(node, keys)
        _forget(document.places, keys)
        _set(document, keys, built)
        document.typed.pop(keys, None)
        _forget(document.typed, keys)
        if isinstance(built, (bool, int, float)):
            document.typed[keys] = value


def from_mapping(tree: Mapping[str, Any], name: str = "config") -> Document:
    """Return a `Document` from a dict, for callers in Python."""
    try:
        return Document(tree=_copied(dict(tree)), name=name)
    except RecursionError:
        raise UserError(f"{name}: nested too deeply") from None


def _copied(value: Any) -> Any:
    """Return a copy in which no two places are one object: to override `data.dev` must leave `data.train` as it was."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else copy.deepcopy(value)


def _read_file(path: Path, above: tuple[Path, ...]) -> Document:
    def place(line: int) -> str:
        return f"{path}:{line}" if line else str(path)

    text = _text(path)
    if path.resolve() in above:
        raise UserError(f"{path}: base: this file is its own base, through {above[-1].name}")
    if len(above) > _BASES:
        raise UserError(f"{path}: base: this is a chain of more than {_BASES} files")
    node = compose(text, place)
    if node is None:
        raise UserError(f"{path}: the file is empty; expected keys such as task, data, model, training")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{node.start_mark.line + 1}: expected keys and values at the top level")
    builder = Builder(place)
    document = Document(builder(node), {(): str(path), **builder.places}, str(path), files=(path,))
    base = document.tree.pop("base", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise document.error(("base",), f"expected the path of a YAML file, got {shown(base)}")
    parent = _read_file(path.parent / base, (*above, path.resolve()))
    return _merged(parent, document)


def _text(path: Path) -> str:
    with opening(path, "a YAML file", "*.yaml"):
        data = _bytes(path)
        if len(data) > LARGEST:
            raise UserError(f"{path}: more than {LARGEST:,} bytes; this is not a configuration")
        return data.decode("utf-8-sig")


def _bytes(path: Path) -> bytes:
    """Return what a regular file holds, or a pipe that the shell has opened: `seqkit train <(sed ... a.yaml)`.

    Others would wait for a writer, or never end.

    Raises:
        UserError: it is a named pipe, a device or a socket.
    """
    status = path.stat()
    pipe = stat.S_ISFIFO(status.st_mode) and str(path).startswith(_OPENED)
    if not pipe and not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise UserError(
            f"{path}: this is a pipe, a device or a socket; expected a YAML file, or a pipe as <(...) gives"
        )
    key = (status.st_dev, status.st_ino)
    if pipe and key in _piped:  # a pipe gives what it holds once
        return _piped[key]
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if pipe:
        _piped[key] = data
    return data


_OPENED = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
_piped: dict[tuple[int, int], bytes] = {}


def _merged(under: Document, over: Document) -> Document:
    """`over` laid on `under`: mappings merge key by key, anything else is replaced."""

    def merge(low: Any, high: Any, path: KeyPath) -> Any:
        if isinstance(low, str) and isinstance(high, dict) and "name" not in high:
            raise over.error(path, f"the base has the short form {low!r} here; spell it out there to add keys to it")
        if isinstance(low, dict) and isinstance(high, dict):
            return {
                key: merge(low[key], high[key], (*path, key))
                if key in low and key in high
                else high.get(key, low.get(key))
                for key in [*low, *(key for key in high if key not in low)]
            }
        _forget(places, path)
        return high

    places = dict(under.places)
    tree = merge(under.tree, over.tree, ())
    return Document(tree, {**places, **over.places}, over.name, files=(*over.files, *under.files))


def _forget(places: dict[KeyPath, str], path: KeyPath) -> None:
    """What stood below a key is gone: a key that is missing there now is missing where the new value was written, and
    what was typed there before is no longer meant."""
    for below in [other for other in places if len(other) > len(path) and other[: len(path)] == path]:
        del places[below]


def _at(tree: Any, path: KeyPath) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _set(document: Document, keys: KeyPath, value: Any) -> None:
    node = document.tree
    for depth, key in enumerate(keys[:-1]):
        if key not in node:
            document.places[keys[: depth + 1]] = _TYPED
        below = node.setdefault(key, {})
        if not isinstance(below, dict):
            short = ".".join(keys[: depth + 1])
            if isinstance(below, str):
                raise document.error(
                    keys[: depth + 1], f"has the short form {below!r}; spell it out to set {key}'s keys"
                )
            if below is not None:
                raise UserError(f"command line: {'.'.join(keys)}: {short} is not a section")
            below = node[key] = {}
        node = below
    node[keys[-1]] = value
    document.places[keys] = _TYPED
