"""Data sets that come with the package: `builtin:reviews`, `builtin:phrases` and `builtin:travel`.

Each is a rule file beside this module, read by one generator (grammar.py, where the formalism is described). Rows are
drawn deterministically from a seed and without end. Words are written as in the middle of a sentence, with a space
before punctuation, so that splitting at spaces loses nothing (reviews are lower case throughout).

| name | row | test holds |
|---|---|---|
| reviews | `{"text": str, "label": "positive"/"negative"/"neutral"}`, classes balanced | subject x adjective or fact |
| phrases | `{"source": str, "target": str}`, English to German | subject x verb, verb x object, adjective x noun |
| travel | `{"tokens": list[str], "tags": list[str], "intent": str}`, tags in IOB2 | city x the words around it |

No sentence is in two parts, and every test row holds a combination of the kind in the last column that no train
or dev row holds. Rows within a part may repeat: of the first 30,000 of train, 0.02 % (reviews), 0.9 % (phrases) and
4 % (travel) are not new.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqkit.data.builtin.grammar import PARTS, Grammar
from seqkit.errors import UserError, nearest

NAMES: tuple[str, ...] = ("reviews", "phrases", "travel")

__all__ = ["NAMES", "PARTS", "Grammar", "columns", "grammar", "rows"]


@functools.cache
def grammar(name: str) -> Grammar:
    """Return the compiled rule file of a built-in data set, read once a process.

    Raises:
        UserError: no such data set.
    """
    if name not in NAMES:
        raise UserError(f"builtin:{name}: unknown data set; expected one of {', '.join(NAMES)}{nearest(name, NAMES)}")
    return Grammar.read(Path(__file__).parent / f"{name}.yaml")


def columns(name: str) -> list[str]:
    """Return names of the columns of a built-in data set, in order.

    Raises:
        UserError: no such data set.
    """
    return list(grammar(name).columns)


def rows(name: str, part: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Return rows of a part of a built-in data set, without end; equal arguments give equal rows.

    Args:
        name: reviews, phrases or travel.
        part: train, dev or test.
        seed: another seed gives other rows of the same part; the parts stay disjoint across seeds.

    Raises:
        UserError: no such data set or part (at the call, not at the first row).
    """
    rules = grammar(name)
    if part not in PARTS:
        raise UserError(
            f"builtin:{name}: unknown part {part!r}; expected one of {', '.join(PARTS)}{nearest(part, PARTS)}"
        )
    return rules.rows(part, seed)
