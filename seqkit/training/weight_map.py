"""Which weights from elsewhere are taken, and to where: patterns over names, and a map of names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from seqkit.errors import UserError, listed, nearest
from seqkit.training.patterns import beginnings, matches, matching


@dataclass(frozen=True)
class Choice:
    """What is taken, and to where.

    Attributes:
        take: patterns over the names here; empty: all.
        leave: patterns over the names here that are not taken.
        map: name, or beginning of names, there -> the same here, or several. A beginning is whole words between dots;
            a dot at its end changes nothing, and the empty one begins every name.
        new_rows: what words start from that there are only here: the mean of those taken, or as they were made.
    """

    take: Sequence[str] = ()
    leave: Sequence[str] = ()
    map: Mapping[str, Sequence[str]] = field(default_factory=dict)
    new_rows: Literal["mean", "fresh"] = "mean"

    def places(self, there: str) -> list[str]:
        """Return the names here that a name there is mapped to; its own where the map says nothing."""
        entry = self._entry(there)
        return [there] if entry is None else self._mapped(there, entry)

    def maps(self, there: str) -> bool:
        """Return whether the map has an entry for a name there."""
        return self._entry(there) is not None

    def _entry(self, there: str) -> str | None:
        """Return the key of the map that holds for a name: the longest that fits."""
        fitting = [key for key in self.map if not _bare(key) or f"{there}.".startswith(f"{_bare(key)}.")]
        return max(fitting, key=len, default=None)

    def _mapped(self, there: str, entry: str) -> list[str]:
        rest = there[len(_bare(entry)) :].strip(".")
        return [".".join(part for part in (_bare(target), rest) if part) for target in self.map[entry]]

    def check_patterns(self, here: Collection[str]) -> None:
        """Refuse patterns that match no name here.

        Raises:
            UserError: it names the first such pattern, and the name nearest to it.
        """
        matching(self.take, here, "init.take")
        matching(self.leave, here, "init.leave")

    def offers(self, there: Collection[str], here: Collection[str]) -> dict[str, str]:
        """Name here -> name there, for every name there that has a place; what the map says goes before equal names.

        Args:
            there, here: the names of the weights on both sides.

        Raises:
            UserError: an entry of the map has no name there, or leads to none here; two lead to the same.
        """
        own = set(here)
        found = {name: name for name in there if self._entry(name) is None and name in own}
        placed: dict[str, str] = {}
        for entry in self.map:
            names = [name for name in there if self._entry(name) == entry]
            if not names:
                raise UserError(f"{entry!r} is not a weight there{_hint(entry, there)}", key="init.map")
            for number, target in enumerate(self.map[entry]):
                pairs = {self._mapped(name, entry)[number]: name for name in names}
                if own.isdisjoint(pairs):
                    wrong = next(iter(pairs))
                    raise UserError(
                        f"{entry!r} -> {target!r}: {wrong!r} is not a weight here{_hint(wrong, here)}", key="init.map"
                    )
                for name, source in pairs.items():
                    if name in placed:
                        raise UserError(f"both {placed[name]!r} and {source!r} would become {name!r}", key="init.map")
                    if name in own:
                        placed[name] = source
        found |= placed
        return {name: found[name] for name in here if name in found}

    def asked(self, offered: Mapping[str, str]) -> set[str]:
        """Return the names here of `offered` that the user has asked for, by a pattern of `take` or an entry of the
        map.

        Raises:
            UserError: a pattern of `take` matches none of them.
        """
        found = matching(self.take, offered, "init.take", "no weight that both sides have")
        return found | {name for name, there in offered.items() if self.maps(there)}

    def refuses(self, name: str) -> str:
        """Return why a name here is not taken, or nothing."""
        if self.take and not matches(name, self.take):
            return "not in init.take"
        return "in init.leave" if matches(name, self.leave) else ""


def _bare(name: str) -> str:
    return name.strip(".")


def _hint(name: str, names: Iterable[str]) -> str:
    return nearest(name, [*names, *beginnings(names)]) or f"; the names are: {listed(names)}"
