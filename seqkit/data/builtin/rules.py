"""Rule files to rules: macros, word tables and field templates. The formalism stands at the top of grammar.py."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from seqkit.errors import UserError, nearest

# A node of a derivation is a bare tuple, because millions are made: its rule's fields, the place of the head in the
# tuple (0: none), then the nodes of the parts. The field "" holds the name of the rule.
Node = tuple[Any, ...]
Reader = Callable[[Node], str]
Value = str | Reader
_FIRST = 2
_KEYWORDS = ("parts", "each", "weight", "reserve", "head", "use")


@dataclass
class Rule:
    """One alternative of a category.

    Attributes:
        name: file and category, for errors.
        parts: categories of the parts, in the order of the file.
        fields: constants, or functions of a node of this rule.
        head: place in a node of the part that answers for fields not given here; 0 for none.
        unit: the alternative is another category, handed through.
        reserve: the combinations that a node stands for.
    """

    name: str
    parts: list[str]
    fields: dict[str, Value]
    weight: float = 1.0
    head: int = 0
    unit: bool = False
    reserve: list[Reader] = field(default_factory=list)


def read_field(node: Node, key: str) -> str:
    """Return the value of a field of a node, the head's where the rule does not define it.

    Raises:
        UserError: neither the rule nor its heads define it.
    """
    value = node[0].get(key)
    while value is None:
        if not node[1]:
            raise UserError(f"{node[0]['']}: no field {key!r}, and no head that has it")
        node = node[node[1]]
        value = node[0].get(key)
    return value if value.__class__ is str else value(node)


def compile_rules(tree: Mapping[str, Any], name: str) -> dict[str, list[Rule]]:
    """Return the alternatives of every category of a rule file.

    Raises:
        UserError: a rule names a category, a part or a table that does not exist, or a word table has a ragged line.
    """
    compiler = _Compiler(tree, name)
    categories: dict[str, list[Rule]] = {}
    for key, table in tree.get("lexicon", {}).items():
        categories[key] = compiler.lexicon(key, table)
    for key, alternatives in tree["rules"].items():
        for alternative in alternatives:
            for category, rule in compiler.rules(key, alternative):
                categories.setdefault(category, []).append(rule)
    for key, rules in categories.items():
        for rule in rules:
            for part in rule.parts:
                if part not in categories:
                    raise UserError(f"{name}: {key}: no category {part!r}{nearest(part, categories)}")
    return categories


class _Compiler:
    def __init__(self, tree: Mapping[str, Any], name: str) -> None:
        self._name = name
        self._features: dict[str, list[str]] = {k: [str(v) for v in vs] for k, vs in tree.get("features", {}).items()}
        self._mirror: dict[str, dict[str, str]] = tree.get("mirror", {})
        self._defaults: dict[str, str] = tree.get("defaults", {})
        self._tables: dict[str, str] = {}
        for key, table in tree.get("tables", {}).items():
            self._flatten(key, table)
        self._roots = {key.split(".")[0] for key in self._tables}

    def _flatten(self, key: str, table: Any) -> None:
        """A table is nested keys, or a block with the keys in its first line (after a corner cell) and column."""
        if isinstance(table, Mapping):
            for step, below in table.items():
                self._flatten(f"{key}.{step}", below)
        elif "\n" in str(table):
            head, *lines = table.strip().split("\n")
            for line in lines:
                row, *cells = line.split()
                for column, cell in zip(head.split()[1:], cells, strict=True):
                    self._tables[f"{key}.{row}.{column}"] = _word(cell)
        else:
            self._tables[key] = str(table)

    def lexicon(self, key: str, table: str) -> list[Rule]:
        """Return a word table: a line of field names, then a line a word; `_` is a space, `~` empty, `=` as to the
        left.

        `id` is the first column, where the table has no column of that name.
        """
        head, *lines = [line.split("#")[0].split() for line in table.strip().split("\n")]
        rules = []
        for cells in lines:
            if len(cells) != len(head):
                raise UserError(f"{self._name}: lexicon.{key}: {' '.join(cells)!r}: expected {len(head)} columns")
            for column, cell in enumerate(cells):
                cells[column] = cells[column - 1] if cell == "=" else cell
            fields: dict[str, Value] = dict(zip(head, map(_word, cells), strict=True))
            fields = {"": f"{self._name}: {key}", **self._defaults, "id": fields[head[0]], **fields}
            for side, mirror in self._mirror.items():
                if side not in fields and mirror["of"] in fields:
                    fields[side] = " ".join(mirror["fill"] for _ in str(fields[mirror["of"]]).split())
            rules.append(Rule(f"{self._name}: {key}", [], fields))
        return rules

    def rules(self, key: str, source: Mapping[str, Any]) -> Iterator[tuple[str, Rule]]:
        """Yield the rules that one alternative stands for: one for each setting of its `each` variables."""
        each = source.get("each", {})
        for setting in itertools.product(*each.values()):
            values = dict(zip(each, map(str, setting), strict=True))
            yield _replace(key, values), self._rule(_replace(key, values), source, values)

    def _rule(self, category: str, source: Mapping[str, Any], values: Mapping[str, str]) -> Rule:
        name = f"{self._name}: {category}"
        weight = float(source.get("weight", 1))
        if "use" in source:
            return Rule(name, [_replace(source["use"], values)], {}, weight, unit=True)
        parts = {part: _replace(key, values) for part, key in source.get("parts", {}).items()}
        texts: dict[str, str] = {}
        for key, text in source.items():
            if key not in _KEYWORDS:
                texts.update(self._spread(_replace(key, values), _replace(str(text), values)))
        for side, mirror in self._mirror.items():
            if side not in texts and mirror["of"] in texts:
                texts[side] = _mirrored(texts[mirror["of"]], mirror["fill"])
        order = {part: place for place, part in enumerate(parts, _FIRST)}
        fields = {key: self._template(text, key, order, name) for key, text in texts.items()}
        rule = Rule(name, list(parts.values()), {"": name, **fields}, weight)
        if "head" in source:
            rule.head = order[source["head"]]
        for text in source.get("reserve", []):
            reserve = self._template(_replace(text, values), "reserve", order, name)
            if isinstance(reserve, str):
                raise UserError(f"{name}: reserve: {reserve!r} is a constant, not a combination of parts")
            rule.reserve.append(reserve)
        return rule

    def _spread(self, key: str, text: str) -> Iterator[tuple[str, str]]:
        """`de.$case: ...` to one field for each case."""
        names = [name for name in re.findall(r"\$(\w+)", key) if name in self._features]
        for setting in itertools.product(*(self._features[name] for name in names)):
            values = dict(zip(names, setting, strict=True))
            yield _replace(key, values), _replace(text, values)

    def _template(self, text: str, target: str, order: Mapping[str, int], name: str) -> Value:
        """Return a constant where the template has no reference to a part, else a function of the node."""
        literal, readers = "", []
        for piece, is_reference in _pieces(text):
            value = self._reference(piece, target, order, name) if is_reference else piece
            if isinstance(value, str):
                literal += value.replace("%", "%%")
            else:
                literal += "%s"
                readers.append(value)
        return _join(literal, readers)

    def _reference(self, path: str, target: str, order: Mapping[str, int], name: str) -> Value:
        root, _, rest = path.partition(".")
        if root in order:
            return _of_part(order[root], self._template(rest or target, target, order, name))
        if root == "self":
            return _of_self(self._template(rest, target, order, name))
        if root not in self._roots:
            raise UserError(f"{name}: {target}: no part or table {root!r}{nearest(root, [*order, *self._roots])}")
        key = self._template(path, target, order, name)
        tables = self._tables
        if isinstance(key, str):
            if key not in tables:
                raise UserError(f"{name}: {target}: no entry {key!r} in the tables{nearest(key, tables)}")
            return tables[key]
        return _of_table(tables, key, name)


def _of_part(place: int, key: Value) -> Reader:
    if not isinstance(key, str):
        return lambda node: read_field(node[place], key(node))

    def reader(node: Node) -> str:  # read_field, spelled out: most of the work is here
        node = node[place]
        value = node[0].get(key)
        if value is None:
            return read_field(node, key)
        return value if value.__class__ is str else value(node)

    return reader


def _of_self(key: Value) -> Reader:
    if isinstance(key, str):
        return lambda node: read_field(node, key)
    return lambda node: read_field(node, key(node))


def _of_table(tables: Mapping[str, str], key: Reader, name: str) -> Reader:
    def lookup(node: Node) -> str:
        try:
            return tables[key(node)]
        except KeyError:
            raise UserError(f"{name}: no entry {key(node)!r} in the tables") from None

    return lookup


def _join(literal: str, readers: list[Reader]) -> Value:
    """`literal` is a %-format with one %s a reader; the short cases are spelled out for speed."""
    if not readers:
        return literal % ()
    if len(readers) == 1:
        one = readers[0]
        return one if literal == "%s" else lambda node: literal % one(node)
    if len(readers) == 2:
        left, right = readers
        return lambda node: literal % (left(node), right(node))
    return lambda node: literal % tuple([reader(node) for reader in readers])


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield literal stretches and outermost `{...}` references, told apart by the flag."""
    start = depth = 0
    for place, character in enumerate(text):
        if character == "{":
            if depth == 0 and place > start:
                yield text[start:place], False
            start = start if depth else place + 1
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                yield text[start:place], True
                start = place + 1
    if depth:
        raise UserError(f"template {text!r}: a brace is not closed")
    if start < len(text):
        yield text[start:], False


def _mirrored(text: str, fill: str) -> str:
    return "".join(
        f"{{{piece}}}" if is_reference else re.sub(r"\S+", fill, piece) for piece, is_reference in _pieces(text)
    )


def _replace(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda match: values.get(match.group(1), match.group(0)), text)


def _word(cell: str) -> str:
    return "" if cell == "~" else cell.replace("_", " ")
