"""What the keys of a schema mean, read from its JSON Schema, which is the one complete list of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from seqkit.errors import UserError, listed, nearest

_TYPES = {"string": "text", "boolean": "true or false", "null": "null", "integer": "integer", "number": "number"}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minItems": "length at least",
    "maxItems": "length at most",
}


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        path: dotted, such as `model.encoder.hidden_size`; keys of the entries of a list follow the name of the list.
        meaning: its description.
        type: in words, with bounds.
        choices: the words that it may be, where they are listed.
        default: as YAML; "required" where it must be given; "" where the default is made from other keys.
        used_by: the constructor that takes it as an argument, or the section that the program reads it from.
        is_section: it has keys of its own.
    """

    path: str
    meaning: str
    type: str
    choices: tuple[str, ...]
    default: str
    used_by: str
    is_section: bool

    def line(self, below: str = "") -> str:
        """Return the key in one line, its path without the section `below`."""
        default = "" if self.is_section or not self.default else f" ({self.default})"
        return f"{self.path.removeprefix(below + '.')}{default}: {self.meaning}"

    def lines(self) -> list[str]:
        """Return all that is known of the key, a line each."""
        parts = {
            "meaning": self.meaning,
            "type": self.type,
            "choices": ", ".join(self.choices),
            "default": self.default or "set by the program",
            "used by": self.used_by,
        }
        return [self.path, *(f"  {name}: {text}" for name, text in parts.items() if text)]


def known_keys(schema: type[BaseModel]) -> dict[str, Key]:
    """Return every key of a schema by its dotted path, the keys of a nested section after it."""
    tree = schema.model_json_schema()
    return {key.path: key for key in _walk(tree, tree.get("$defs", {}), "")}


def explain(keys: Mapping[str, Key], path: str = "") -> list[str]:
    """Explain a key; of a section, its keys with a line each; without a path, all keys with a line each.

    Args:
        keys: from `known_keys`.
        path: dotted.

    Raises:
        UserError: there is no such key; with the nearest one.
    """
    if not path:
        return [key.line() for key in keys.values()]
    if path not in keys:
        near = _inside(keys, path.rpartition(".")[0]) or _inside(keys, "")
        known = [key.path for key in near]
        hint = nearest(path, known) or nearest(path, keys) or f"; known here: {listed(known, 50, 500)}"
        raise UserError(f"{path}: unknown key{hint}")
    key = keys[path]
    if not key.is_section:
        return key.lines()
    return [f"{path}: {key.meaning}", *(f"  {each.line(path)}" for each in _inside(keys, path))]


def _inside(keys: Mapping[str, Key], section: str) -> list[Key]:
    return [key for key in keys.values() if key.path.rpartition(".")[0] == section]


def _walk(node: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> Iterator[Key]:
    for name, entry in node.get("properties", {}).items():
        sections = [part for part in _parts(entry, known) if "title" in part and "properties" in part]
        path = f"{prefix}{name}"
        choices = tuple(word for part in _parts(entry, known) for word in _words(part))
        default = "required" if name in node.get("required", ()) else ""
        if "default" in entry:
            value = entry["default"]
            default = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
        text = " ".join(entry.get("description", "").split())
        used_by = entry.get("$comment") or (f"section {prefix[:-1]}" if prefix else "the top level")
        yield Key(path, text, _type(entry), choices, default, used_by, bool(sections))
        for section in sections:
            yield from _walk(section, known, f"{path}.")


def _parts(entry: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the alternatives of an entry and of the entries of its list, references resolved."""
    if "$ref" in entry:
        yield known[entry["$ref"].rpartition("/")[2]]
    else:
        yield entry
    for part in (*entry.get("anyOf", ()), *([entry["items"]] if "items" in entry else [])):
        yield from _parts(part, known)


def _words(part: Mapping[str, Any]) -> list[str]:
    return [str(word) for word in part.get("enum", [part["const"]] if "const" in part else [])]


def _type(entry: Mapping[str, Any]) -> str:
    """Return the type of an entry in words."""
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(_type(part) for part in entry["anyOf"]))
    if _words(entry):
        return "one of the choices"
    bounds = [f"{words} {entry[bound]}" for bound, words in _BOUNDS.items() if bound in entry]
    if "$ref" in entry:
        name = "section"
    elif entry.get("type") == "array":
        name = f"list of {_type(entry.get('items', {}))}"
    elif entry.get("type") == "object":
        inside = entry.get("additionalProperties")
        name = f"mapping of names to {_type(inside if isinstance(inside, Mapping) else {})}"
    else:
        name = _TYPES.get(entry.get("type", ""), "anything")
    return f"{name} ({', '.join(bounds)})" if bounds else name
