"""Strict YAML to typed models: `base:` inheritance, dotted overrides, errors with file and line.

This room knows no section of the configuration. A schema is a `Section`; `read` turns a file and the command line's
overrides into a `Document` (a plain tree that remembers where every key came from) and `Document.check` turns that
into a validated `Section`, or raises one `UserError` that lists every mistake with its place.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import os
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

KeyPath = tuple[str, ...]
S = TypeVar("S", bound=BaseModel)


class UserError(Exception):
    """A mistake of the person at the keyboard: shown as its message alone, with exit code 2."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice nearest to `name`, or an empty string where none is near."""
    found = difflib.get_close_matches(str(name), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional third-party module.

    Raises:
        UserError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        raise UserError(f"this needs {package}: pip install 'seqkit[{extra}]' ({error})") from error


class Section(BaseModel):
    """Base of every part of a configuration: frozen, strictly typed, no unknown key."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and cls.model_config.get("extra") == "forbid":
            for key in value:
                if key not in cls.model_fields:
                    known = nearest(key, cls.model_fields) or f"; known here: {', '.join(cls.model_fields)}"
                    raise PydanticCustomError("at_key", "{message}", {"key": key, "message": "unknown key" + known})
        return value


def from_signature(
    name: str,
    *callables: Callable[..., Any],
    skip: Collection[str] = (),
    base: type[Section] = Section,
    **extra: Any,
) -> type[Section]:
    """A `Section` whose fields are the arguments of the callables: names, types and defaults live there only.

    Args:
        name: name of the new class.
        callables: constructors or functions; `self`, `*args` and `**kwargs` are passed over, the first
            callable that has an argument gives it its type and default.
        skip: arguments that the program supplies and the file may not.
        extra: more fields, as `name=(type, Field(...))`; they come first.
    """
    fields: dict[str, Any] = dict(extra)
    for call in callables:
        function = call.__init__ if inspect.isclass(call) else call
        hints = typing.get_type_hints(function)
        for argument in inspect.signature(call).parameters.values():
            if argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL):
                continue
            if argument.name in skip or argument.name in fields:
                continue
            default = ... if argument.default is argument.empty else argument.default
            fields[argument.name] = (hints.get(argument.name, Any), Field(default=default))
    return create_model(name, __base__=base, **fields)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `1e-3` is a number, `no` and `off` are words."""

    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0].rsplit(":", 1)[1] not in ("bool", "float", "int", "timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.I), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$", re.I),
    list("-+.0123456789"),
)


def _decimal_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # PyYAML's own reads 010 as eight


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal_int)


class _Dumper(yaml.SafeDumper):
    """Quotes a word exactly where `_Loader` would not read it back as one."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # Only double quotes keep every kind of line break.
    style = '"' if any(char in value for char in "\r\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_str)


@dataclass
class Document:
    """A configuration before validation.

    Attributes:
        tree: plain dicts, lists and scalars.
        places: where each key path was written, such as `configs/x.yaml:12` or `command line`.
        name: what to call the whole in a message.
    """

    tree: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    name: str = "config"

    def place(self, path: KeyPath) -> str:
        """Where `path`, or the nearest key above it, was written."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.name

    def error(self, path: KeyPath, message: str) -> UserError:
        """A `UserError` that starts with the place and the dotted path."""
        dotted = ".".join(path)
        return UserError(f"{self.place(path)}: {dotted + ': ' if dotted else ''}{message}")

    def check(self, schema: type[S]) -> S:
        """Validate against a schema.

        Raises:
            UserError: one line a mistake, each with its place, dotted path and what was expected.
        """
        try:
            return schema.model_validate(self.tree)
        except ValidationError as error:
            lines: dict[str, None] = {}
            for item in error.errors(include_url=False):
                path, message = self._explain(item)
                lines[str(self.error(path, message))] = None
            raise UserError("\n".join(lines)) from None

    def _explain(self, item: Any) -> tuple[KeyPath, str]:
        """Pydantic's error, in our words: the path as written in the file, and the message."""
        path = self._written([str(part) for part in item["loc"]])
        given = repr(item["input"])
        given = given if len(given) <= 60 else given[:57] + "..."
        context = item.get("ctx") or {}
        if item["type"] == "at_key":
            return (*path, str(context["key"])), item["msg"]
        if item["type"] == "missing":
            return (*path, str(item["loc"][-1])), "this key is required"
        if item["type"] == "literal_error":
            choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
            return path, f"expected {context.get('expected')}, got {given}{nearest(item['input'], choices)}"
        if item["type"] in ("value_error", "assertion_error"):
            message = str(context.get("error", item["msg"]))
            word = re.match(r"[A-Za-z_]+", message)
            # A constructor's error names its argument first: point at the line of that argument.
            if word and (*path, word.group()) in self.places:
                return (*path, word.group()), message
            return path, message
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
        UserError: one is not of that form, or leads through a value that is no section.
    """
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip() or not all(key.strip().split(".")):
            raise UserError(f"command line: {text!r} is not of the form KEY=VALUE, such as training.epochs=3")
        keys = tuple(key.strip().split("."))
        try:
            parsed = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise UserError(f"command line: {text!r}: the value is not YAML ({_problem(error)})") from None
        _set(document, keys, _expand(parsed, "command line", keys))


def from_mapping(tree: Mapping[str, Any], name: str = "config") -> Document:
    """A `Document` from a dict, for callers in Python."""
    return Document(tree=copy.deepcopy(dict(tree)), name=name)


def dump(section: BaseModel) -> str:
    """A section as YAML text, every default filled in."""
    tree = section.model_dump(mode="json")
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _problem(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


def _read_file(path: Path, above: tuple[Path, ...]) -> Document:
    if path.resolve() in above:
        raise UserError(f"{path}: base: this file is its own base, through {above[-1].name}")
    text = _text(path)
    try:
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {_problem(error)}") from None
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: nested too deeply") from None
    if node is None:
        raise UserError(f"{path}: the file is empty; expected keys such as task, data, model, training")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{node.start_mark.line + 1}: expected keys and values at the top level")
    document = Document({}, {(): str(path)}, str(path))
    document.tree = _construct(node, path, (), document.places)
    base = document.tree.pop("base", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise document.error(("base",), f"expected the path of a YAML file, got {base!r}")
    parent = _read_file(path.parent / base, (*above, path.resolve()))
    return _merged(parent, document)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        known = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(str(path), known)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a directory; expected a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _construct(node: yaml.Node, file: Path, path: KeyPath, places: dict[KeyPath, str]) -> Any:
    here = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = f"{file}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                raise UserError(f"{line}: a key must be a plain word (use `base:` to inherit)")
            key = key_node.value
            if key in tree:
                first = places[path + (key,)].rsplit(":", 1)[1]
                raise UserError(f"{line}: {'.'.join((*path, key))}: this key is already on line {first}")
            places[path + (key,)] = line
            tree[key] = _construct(value_node, file, (*path, key), places)
        return tree
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, child in enumerate(node.value):
            places[path + (str(number),)] = f"{file}:{child.start_mark.line + 1}"
            items.append(_construct(child, file, (*path, str(number)), places))
        return items
    loader = _Loader("")
    try:
        return _expand(loader.construct_object(node), here, path)
    except yaml.YAMLError as error:
        raise UserError(f"{here}: {'.'.join(path)}: {_problem(error)}") from None
    finally:
        loader.dispose()


def _expand(value: Any, place: str, path: KeyPath) -> Any:
    if isinstance(value, list):
        return [_expand(item, place, path) for item in value]
    if isinstance(value, dict):
        return {str(key): _expand(item, place, (*path, str(key))) for key, item in value.items()}
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise UserError(
                f"{place}: {'.'.join(path)}: the environment variable {name} is not set; "
                f"set it, as in: {name}=/some/folder seqkit train ..."
            )
        return os.environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", variable, value)


def _merged(under: Document, over: Document) -> Document:
    """`over` laid on `under`: mappings merge key by key, anything else is replaced."""

    def merge(low: Any, high: Any, path: KeyPath) -> Any:
        if isinstance(low, str) and isinstance(high, dict):
            raise over.error(path, f"the base has the short form {low!r} here; spell it out there to add keys to it")
        if isinstance(low, dict) and isinstance(high, dict):
            return {
                key: merge(low[key], high[key], (*path, key))
                if key in low and key in high
                else high.get(key, low.get(key))
                for key in [*low, *(key for key in high if key not in low)]
            }
        return high

    return Document(merge(under.tree, over.tree, ()), {**under.places, **over.places}, over.name)


def _set(document: Document, keys: KeyPath, value: Any) -> None:
    node = document.tree
    for depth, key in enumerate(keys[:-1]):
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
    document.places[keys] = "command line"
