"""A small synchronous grammar, and the one generator that serves every built-in data set.

**Derivation.** A rule file names categories. A category is a table of words (`lexicon`) or a list of alternatives
(`rules`); an alternative draws its `parts`, each a category, independently. The alternative is chosen by `weight`.

**Synchronous sides.** A node of the derivation is not a string: it offers named *fields*. An English and a German
field of one node are two readings of one derivation, and so are the words and the tags of a travel request. A field
is a template over the fields of the parts: `de.sub: "{s.de.nom} {p.mid} {p.last}"`. `{s}` alone is the field of `s`
that has the name of the field being defined. A field that a rule does not define is that of its `head` part, as head
features are in phrase-structure grammars, and at last the word's or that of `defaults`. A side declared under `mirror`
may be left out of a rule: it is then the template of the other side with the filling symbol for every literal word.

**Reordering.** Sides name the pieces in the order they like; a clause of phrases.yaml offers its German as main clause
(`v2`), with the verb first (`inv`) and with the verb last (`sub`), and the rule above picks one.

**Features and agreement.** A path step may itself be a reference: `{v.fin.{s.agr}}` picks the form of the verb by the
number and person of the subject, `{adj.weak.$case.{n.g}}` the ending in a table. `$case` in the name of a field
stands for each value listed under `features`, so one line defines all cases; `each` does the same for a whole rule.

**Semantic value.** Nothing more is needed: a label is a field, and its composition is a lookup in a table,
`value: "{flip.{clause.value}}"`. `balance` draws the wanted value first, uniformly, then rejects other derivations.

**Reserved combinations.** A rule may have `reserve` templates, such as `["{a.id} {n.id}"]`. A stable hash of the value
reserves a `share` of the combinations. Train and dev contain none of them; a test derivation contains at least one
(drawn at its outermost rule with `reserve` or inside that; the rest is free). A `*` in the value stands for a word
that has to meet all others in train, so the combination is never reserved. The hash depends on no seed. A sentence
without reserved combinations belongs to dev or train by a hash of the sentence (`dev` is the share of dev), so
no sentence is in two parts.

**Bounds.** An alternative that needs a category without words, or one that never ends, is never drawn. Below `depth`
levels only the alternatives that end soonest are drawn; a derivation with more than `limit` words in the first column
is drawn again. The source is `random.Random`, seeded by name, part and seed.

Source of the idea: synchronous context-free grammar (Aho & Ullman 1969, "Syntax directed translations and the
pushdown assembler") with synthesised attributes (Knuth 1968, "Semantics of context-free languages").
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqkit.config import read
from seqkit.data.builtin.rules import Node, Rule, compile_rules, read_field
from seqkit.errors import UserError

PARTS = ("train", "dev", "test")
_TRIES = 100_000


def _fraction(text: str) -> float:
    """Return a stable number in [0, 1) for a text: the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56


@dataclass
class _Choice:
    """A rule ready to be drawn: its parts are categories, not names."""

    rule: Rule
    parts: list[_Category] = field(default_factory=list)


@dataclass
class _Category:
    """What a category can be: words, or rules with cumulative weights; `ending` are the rules that end soonest."""

    words: list[Node] = field(default_factory=list)
    choices: list[_Choice] = field(default_factory=list)
    cumulative: list[float] = field(default_factory=list)
    ending: list[_Choice] = field(default_factory=list)


def _link(rules: Mapping[str, list[Rule]]) -> dict[str, _Category]:
    """Categories that point at each other, with alternatives that are categories replaced by what these can be."""
    heights = _heights(rules)
    categories = {key: _Category() for key in heights}

    def height(rule: Rule) -> int:
        return 1 + max((heights[part] for part in rule.parts), default=0)

    def flat(key: str, weight: float) -> Iterator[tuple[Rule, float]]:
        possible = [rule for rule in rules[key] if all(part in heights for part in rule.parts)]
        total = sum(rule.weight for rule in possible)
        for rule in possible:
            share = weight * rule.weight / total
            if rule.unit:
                yield from flat(rule.parts[0], share)
            else:
                yield rule, share

    for key, category in categories.items():
        total = 0.0
        leaves = list(flat(key, 1.0))
        if not any(rule.parts for rule, _ in leaves) and len({weight for _, weight in leaves}) == 1:
            category.words = [(rule.fields, 0) for rule, _ in leaves]
            continue
        lowest = min(height(rule) for rule, _ in leaves)
        for rule, weight in leaves:
            choice = _Choice(rule, [categories[part] for part in rule.parts])
            total += weight
            category.choices.append(choice)
            category.cumulative.append(total)
            if height(rule) == lowest:
                category.ending.append(choice)
    return categories


def _heights(rules: Mapping[str, list[Rule]]) -> dict[str, int]:
    """Return the least number of levels below each category that can end, by fixed point."""
    heights: dict[str, int] = {}
    changed = True
    while changed:
        changed = False
        for key, alternatives in rules.items():
            known = [
                1 + max((heights[part] for part in rule.parts), default=0)
                for rule in alternatives
                if all(part in heights for part in rule.parts)
            ]
            if known and heights.get(key) != min(known):
                heights[key], changed = min(known), True
    return heights


class Grammar:
    """A compiled rule file.

    Args:
        tree: the rule file as plain dicts (see the top of this module and the comments of the shipped files).
        name: what to call the file in an error; it also seeds the random source.

    Attributes:
        columns: names of the columns of a row.

    Raises:
        UserError: an unknown category, part, field or table, or a start that never ends.
    """

    def __init__(self, tree: Mapping[str, Any], name: str) -> None:
        self.name = name
        self._kinds: dict[str, str] = dict(tree["columns"])
        self.columns: list[str] = list(self._kinds)
        self._share = float(tree["share"])
        self._dev = float(tree["dev"])
        self.depth = int(tree["depth"])
        self._limit = int(tree["limit"])
        self._spelling: dict[str, str] = dict(tree.get("spelling", {}))
        self._balance: dict[str, list[str]] = {key: list(values) for key, values in tree.get("balance", {}).items()}
        self._hashes: dict[str, bool] = {}
        categories = _link(compile_rules(tree, name))
        if str(tree["start"]) not in categories:
            raise UserError(f"{name}: start: the category {tree['start']} is absent or never ends")
        self.start = categories[str(tree["start"])]

    @classmethod
    def read(cls, path: str | Path) -> Grammar:
        """Read and compile a rule file.

        Raises:
            UserError: the file is absent or not YAML, or a rule is wrong.
        """
        return cls(read(path).tree, Path(path).stem)

    def reserved(self, combination: str) -> bool:
        """Return whether a combination, the value of a rule's `reserve` template, is kept for the test part."""
        known = self._hashes.get(combination)
        if known is None:
            known = self._hashes[combination] = (
                "*" not in combination and _fraction(f"{self.name}:{combination}") < self._share
            )
        return known

    def rows(self, part: str, seed: int = 0) -> Iterator[dict[str, Any]]:
        """Yield rows of one part, without end; equal arguments give equal rows.

        Args:
            part: train, dev or test.
            seed: another seed gives other rows of the same part.
        """
        rng = random.Random(int.from_bytes(hashlib.blake2b(f"{self.name}/{part}/{seed}".encode()).digest(), "big"))
        draw = _Draw(self, rng, part == "test")
        wanted = [(self.columns.index(key), values) for key, values in self._balance.items()]
        while True:
            targets = [(column, values[int(rng.random() * len(values))]) for column, values in wanted]
            for _ in range(_TRIES):
                values = self._values(draw)
                if all(values[column] == target for column, target in targets) and self._belongs(values[0], part):
                    yield self._row(values)
                    break
            else:
                raise UserError(f"{self.name}: no derivation for {part} with {targets} in {_TRIES} tries")

    def _values(self, draw: _Draw) -> list[str]:
        node = draw.sentence()
        # The first column decides on length, so the others are only read from a derivation that is kept.
        while (first := self._text(read_field(node, self.columns[0]))).count(" ") >= self._limit:
            node = draw.sentence()
        return [first] + [self._text(read_field(node, column)) for column in self.columns[1:]]

    def _text(self, raw: str) -> str:
        text = " ".join(raw.split())
        for wrong, right in self._spelling.items():
            text = text.replace(wrong, right)
        return text

    def _belongs(self, sentence: str, part: str) -> bool:
        if part == "test":
            return True
        return (_fraction(sentence) < self._dev) == (part == "dev")

    def _row(self, values: list[str]) -> dict[str, Any]:
        kinds = self._kinds.values()
        return {
            column: value.split(" ") if kind == "words" else value
            for column, value, kind in zip(self.columns, values, kinds, strict=True)
        }


class _Draw:
    """Draws derivations for one part; combinations that do not belong to the part are drawn again on the spot.

    Drawing again where the combination stands, and not the whole sentence, keeps long sentences as frequent in train as
    in test.
    """

    def __init__(self, grammar: Grammar, rng: random.Random, test: bool) -> None:
        self._start = grammar.start
        self._depth = grammar.depth
        self._reserved = grammar.reserved
        self._random: Callable[[], float] = rng.random
        self._test = test
        self._owed = test

    def sentence(self) -> Node:
        while True:
            self._owed = self._test
            node = self._node(self._start, 0)
            if not self._owed:
                return node

    def _node(self, category: _Category, depth: int) -> Node:
        draw = self._random
        if category.words:
            return category.words[int(draw() * len(category.words))]
        if depth >= self._depth:
            choice = category.ending[int(draw() * len(category.ending))]
        else:
            cumulative = category.cumulative
            choice = category.choices[bisect(cumulative, draw() * cumulative[-1])]
        if choice.rule.reserve:
            return self._combination(choice, depth + 1)
        return self._parts(choice, depth + 1)

    def _parts(self, choice: _Choice, depth: int) -> Node:
        draw = self._random
        node: list[Any] = [choice.rule.fields, choice.rule.head]
        for part in choice.parts:
            words = part.words
            node.append(words[int(draw() * len(words))] if words else self._node(part, depth))
        return tuple(node)

    def _combination(self, choice: _Choice, depth: int) -> Node:
        """Return a node of a rule with `reserve`. What test owes is paid here or left to a part, as often."""
        owed = self._owed
        for _ in range(_TRIES):
            here = owed and self._random() < 0.5
            self._owed = owed and not here
            node = self._parts(choice, depth)
            if self._test and not here:
                if not self._owed:
                    return node
            elif any(self._reserved(reserve(node)) for reserve in choice.rule.reserve) == here:
                return node
        raise UserError(f"{choice.rule.name}: every combination is {'free' if owed else 'reserved'}")
