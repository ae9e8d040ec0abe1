"""YAML text to plain trees and back: YAML 1.2's core scalars, nothing that is not data, and bounds on everything.

A configuration may come from a stranger. Nothing in it is executed or imported here, and what it may cost is bounded:
the bytes of a file, how deep it nests, and how many values it has when those that aliases repeat are counted each time
(ten lines of YAML can stand for 2^1000 of them).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import yaml
from pydantic import BaseModel

from seqkit.errors import UserError

KeyPath = tuple[str, ...]

LARGEST = 1 << 18
"""Bytes of a YAML file."""
DEEPEST = 50
"""Keys of a path."""
_MOST = 20_000  # values of a file
_WHOLE = range(-(2**63), 2**63)  # what numpy, torch and Python's own sequences can count to
_SCALARS = ("str", "int", "float", "bool", "null")

_OTHERS = ("bool", "float", "int", "timestamp", "value")  # read otherwise below, or not at all


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `1e-3` is a number, `no` and `off` are words."""

    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0].rsplit(":", 1)[1] not in _OTHERS]
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


def dump(section: BaseModel) -> str:
    """Return a section as YAML text, every default filled in."""
    tree = section.model_dump(mode="json")
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def compose(text: str, place: Callable[[int], str]) -> yaml.Node | None:
    """Return the nodes of a YAML text, None where it is empty.

    Args:
        text: of one document.
        place: what to call a line (counted from 1; 0: the whole) in a message.

    Raises:
        UserError: it is not YAML.
    """
    try:
        return yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{place(mark.line + 1 if mark else 0)}: not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{place(0)}: not valid YAML: nested too deeply") from None


def typed_value(text: str, place: Callable[[int], str]) -> yaml.Node | None:
    """Return the node of a value typed on a command line, None where it is empty.

    It is YAML only if it begins with a brace, a bracket or a quote and is YAML to its end. All else is one scalar, as
    typed: `data/tr #2.tsv` has no comment, and `a: b.tsv` is not a mapping.
    """
    stripped = text.strip()
    if stripped[:1] in tuple("{[\"'"):
        try:
            node = compose(stripped, place)
            if node is not None and node.end_mark.index == len(stripped):
                return node
        except UserError:
            pass
    if not stripped:
        return None
    loader: Any = _Loader("")
    mark = yaml.Mark("", 0, 0, 0, None, 0)
    tag: str = loader.resolve(yaml.ScalarNode, stripped, (True, False))
    loader.dispose()
    word = tag == "tag:yaml.org,2002:str"
    # YAML's merge and other tags that are not plain data are words here.
    known = tag.rpartition(":")[2] in _SCALARS
    return yaml.ScalarNode(
        tag if known else "tag:yaml.org,2002:str", text if word or not known else stripped, mark, mark
    )


class Builder:
    """Builds the plain tree of nodes.

    Args:
        place: as in `compose`.

    Attributes:
        places: where each key path was written.
    """

    def __init__(self, place: Callable[[int], str]) -> None:
        self.places: dict[KeyPath, str] = {}
        self._place = place
        self._count = 0

    def __call__(self, node: yaml.Node, path: KeyPath = ()) -> Any:
        """Return the tree below a node; `path` leads to it.

        Raises:
            UserError: a key twice, a tag that is not of plain data, a bad scalar, an unset variable, too much of it.
        """
        here = self._place(node.start_mark.line + 1)
        self._count += 1
        if len(path) > DEEPEST or self._count > _MOST:
            limit = f"deeper than {DEEPEST} levels" if len(path) > DEEPEST else f"more than {_MOST:,} values"
            raise UserError(f"{here}: {'.'.join(path[:3])}: {limit}; is there an alias (*) that repeats itself?")
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, ("map",), path)
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, ("seq",), path)
            items = []
            for number, child in enumerate(node.value):
                self.places[path + (str(number),)] = self._place(child.start_mark.line + 1)
                items.append(self(child, (*path, str(number))))
            return items
        self._check_tag(node, _SCALARS, path)
        return self._scalar(node, here, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = self._place(key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                raise UserError(f"{line}: a key must be a plain word (use `base:` to inherit)")
            key = writable(key_node.value, line, path)
            if key in tree:
                first = self.places[path + (key,)].rpartition(":")[2]
                on = f"is already on line {first}" if first.isdigit() else "is given twice"
                raise UserError(f"{line}: {'.'.join((*path, key))}: this key {on}")
            self.places[path + (key,)] = line
            tree[key] = self(value_node, (*path, key))
        return tree

    def _check_tag(self, node: yaml.Node, allowed: tuple[str, ...], path: KeyPath) -> None:
        if node.tag.removeprefix("tag:yaml.org,2002:") not in allowed:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            where = self._place(node.start_mark.line + 1)
            raise UserError(f"{where}: {'.'.join(path)}: the tag {tag} is refused; a configuration is plain data")

    def _scalar(self, node: yaml.Node, here: str, path: KeyPath) -> Any:
        loader = _Loader("")
        try:
            value = loader.construct_object(node)
            if isinstance(value, int) and value not in _WHOLE:
                raise ValueError
        except (yaml.YAMLError, ValueError, KeyError):
            kind = node.tag.rpartition(":")[2].replace("int", "int of 64 bits")
            raise UserError(f"{here}: {'.'.join(path)}: {node.value[:40]!r} is not a YAML {kind}") from None
        finally:
            loader.dispose()
        return _expand(value, here, path) if isinstance(value, str) else value


def _expand(text: str, place: str, path: KeyPath) -> str:
    """Return a text with the values of the environment variables that it names."""

    def variable(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise UserError(
                f"{place}: {'.'.join(path)}: the environment variable {name} is not set; "
                f"set it, as in: {name}=/some/folder seqkit train ..."
            )
        return os.environ[name]

    return writable(re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", variable, text), place, path)


def writable(text: str, place: str, path: KeyPath) -> str:
    """Return the text, if a file can hold it and be called so; YAML's escapes and foreign file names can spell more.

    Raises:
        UserError: it holds a NUL, or half of a surrogate pair.
    """
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise UserError(f"{place}: {'.'.join(path)}: {text[:40]!r} holds a NUL, or half of a surrogate pair")
    return text
