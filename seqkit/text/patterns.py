"""Patterns for the library's regular expressions (Oniguruma)."""

from __future__ import annotations

import re
from collections.abc import Sequence


def escape(text: str) -> str:
    """Return a text as a pattern of the library that matches it alone."""
    return re.sub(r"([^\w])", r"\\\1", text)


def any_of(words: Sequence[str]) -> str:
    """Return a pattern for sorted words that shares their beginnings: a plain list of thousands is tried one by one."""
    if len(words) == 1:
        return escape(words[0])
    groups: dict[str, list[str]] = {}
    for word in words:
        groups.setdefault(word[:1], []).append(word[1:])
    single = [first for first, rest in groups.items() if first and rest == [""]]
    parts = [escape(first) + any_of(rest) for first, rest in groups.items() if first and rest != [""]]
    if single:  # looked up at once, however many
        parts.append("[" + "".join(map(escape, single)) + "]")
    if "" in groups:
        parts.append("")
    return parts[0] if len(parts) == 1 else "(?:" + "|".join(parts) + ")"
