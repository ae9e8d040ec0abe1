"""Name patterns of weights, as in a shell: `encoder.*`."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable

from seqkit.errors import UserError, listed, nearest


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns matches the name; upper and lower case differ."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def matching(patterns: Iterable[str], names: Collection[str], key: str, of: str = "no weight") -> set[str]:
    """Return the names that one of the patterns matches.

    Args:
        patterns: as in a shell.
        names: what there is.
        key: where in the configuration the patterns stand, for the message.
        of: the object of "matches" in the message.

    Raises:
        UserError: a pattern matches none, so that it would be ignored; the message gives the nearest name.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if matches(name, (pattern,))}
        if not matched:
            hint = nearest(pattern, [*names, *(f"{start}.*" for start in beginnings(names))])
            hint = hint or f"; the names are: {listed(names)}"
            raise UserError(f"{pattern!r} matches {of}{hint}", key=key)
        found |= matched
    return found


def beginnings(names: Iterable[str]) -> list[str]:
    """Return the modules that the weights of these names lie in: `a.b.weight` lies in `a` and in `a.b`."""
    parts = (name.split(".") for name in names)
    return list(dict.fromkeys(".".join(some[:end]) for some in parts for end in range(1, len(some))))
