"""Labels of examples: classes, slot types, intents. Which spellings are one label, and which number each has."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqkit.data.source import Source
from seqkit.errors import UserError, listed, nearest, shown


def label_form(label: str) -> str:
    """Return how a label is learned and shown: without white space around it, single spaces inside, composed (NFC).

    Two labels that differ in nothing else look alike, and are one.
    """
    return " ".join(unicodedata.normalize("NFC", label).split())


def check_label(label: str, what: str = "label") -> str:
    """Return what is wrong with a label, or ""."""
    if not label.strip() or label.splitlines() != [label]:
        return f"{shown(label)} is not a valid {what}: it is blank or holds a line end"
    return ""


@dataclass(frozen=True)
class Labels:
    """The distinct labels of one part of the data.

    Attributes:
        names: those that are learned, then those that only this part has.
        known: how many of them are learned.
        numbers: (D,) int64, the place in `names` of each distinct label as it is written.
        joined: spellings that are taken for one label, each group sorted.
    """

    names: list[str]
    known: int
    numbers: NDArray[np.int64]
    joined: list[list[str]]

    @classmethod
    def match(cls, written: Sequence[str], names: Sequence[str]) -> Labels:
        """Find the labels of a file among those that are learned: as they are written, else in their `label_form`.

        Args:
            written: the file's distinct labels.
            names: the learned ones; of an old run they may differ in form alone, and remain several.
        """
        exact = {name: number for number, name in enumerate(names)}
        alike: dict[str, int] = {}
        for number, name in enumerate(names):
            alike.setdefault(label_form(name), number)
        unknown = sorted({form for label in written if label not in exact and (form := label_form(label)) not in alike})
        alike |= {form: number for number, form in enumerate(unknown, len(names))}
        numbers = [exact[label] if label in exact else alike[label_form(label)] for label in written]
        groups: dict[int, list[str]] = {}
        for label, number in zip(written, numbers, strict=True):
            groups.setdefault(number, []).append(label)
        joined = [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]
        return cls([*names, *unknown], len(names), np.array(numbers, np.int64), joined)

    @property
    def unknown(self) -> list[str]:
        """Those that only this part has."""
        return self.names[self.known :]

    def hint(self, label: str) -> str:
        """Return what helps against an unknown label: the nearest known one, or what there is."""
        known = self.names[: self.known]
        return nearest(label, known) or f"; the training data has: {listed(known)}"

    def joined_line(self, part: str, what: str) -> list[str]:
        """Return a line of the report on spellings that are one label; none where there are none."""
        if not self.joined:
            return []
        groups = [" = ".join(map(spelled, group)) for group in self.joined]
        return [f"{part}: {what}s that differ only in white space or Unicode form count as one: {listed(groups)}"]

    def unknown_line(self, part: str, what: str, counts: Sequence[int], rows: str) -> list[str]:
        """Return a line of the report on labels that training lacks; none where there are none.

        Args:
            part: of the data.
            what: label, intent, ...
            counts: how often each of `unknown` occurs.
            rows: how many examples of how many have one.
        """
        if not self.unknown:
            return []
        often = sorted(zip(counts, self.unknown, strict=True), key=lambda pair: (-pair[0], pair[1]))
        found = listed(f"{shown(name)} ({count:,})" for count, name in often)
        kinds = f"{len(often):,} {what}{'s' * (len(often) != 1)}"
        return [f"{part}: {kinds} that training lacks, counted as wrong, in {rows}: {found}"]


def label_column(source: Source, name: str, what: str, kept: Sequence[str] = ()) -> Written:
    """Return the labels in a column of texts.

    Args:
        source: where it is.
        name: the column's.
        what: label, intent, ...
        kept: names of an old run, which may be anything.

    Raises:
        UserError: one is blank or holds a line end.
    """
    column = source.dataset.data.column(name).dictionary_encode().combine_chunks()
    written, codes = column.dictionary.to_pylist(), column.indices.to_numpy().astype(np.int64)
    for code, label in enumerate(written):
        problem = check_label(label, what)
        if problem and label not in kept:
            raise UserError(f"{source.place(int((codes == code).argmax()))}: {problem}")
    return Written(written, codes)


class Written(NamedTuple):
    """Labels as a file has them: D distinct ones, and which of them each example (N,) has."""

    labels: list[str]
    codes: NDArray[np.int64]

    def distinct(self) -> list[str]:
        """Return the labels to learn, sorted."""
        return sorted(set(map(label_form, self.labels)))


def number_column(
    source: Source,
    name: str,
    known: Sequence[str],
    rows: str,
    *,
    refuse: bool,
    learned: bool,
    left_out: NDArray[np.bool_] | None = None,
) -> tuple[Labels, NDArray[np.int64]]:
    """Return the labels in a column of texts, and the number (N,) of each example's.

    Args:
        source: where they are.
        name: the column's, which is also what messages call the labels.
        known: those that are learned.
        rows: what examples are called.
        refuse, learned: see `refuse_unknown`.
        left_out: (N,) examples that are not scored; unless they are learned from, their labels do not matter.

    Raises:
        UserError: see `label_column` and `refuse_unknown`.
    """
    written = label_column(source, name, name, known)
    labels = Labels.match(written.labels, known)
    numbers = labels.numbers[written.codes]
    places = np.arange(len(numbers)) if learned or left_out is None else np.flatnonzero(~left_out)
    bad = numbers[places] >= labels.known
    if bad.any():
        row = int(places[bad.argmax()])
        label = written.labels[written.codes[row]]
        message = f"{source.place(row)}: unknown {name} {shown(label)}{labels.hint(label)}"
        refuse_unknown(bad, message, rows, refuse=refuse, learned=learned)
    return labels, numbers


def refuse_unknown(bad: NDArray[np.bool_], message: str, rows: str, *, refuse: bool, learned: bool) -> None:
    """Stop at labels that training lacks where they may not be, or are more than it makes sense to score.

    Args:
        bad: (N,) which examples have such a label.
        message: which label the first of these has, and where.
        rows: what examples are called.
        refuse: the configuration refuses any.
        learned: this part is to be learned from.

    Raises:
        UserError: so it is.
    """
    count = int(bad.sum())
    most = 2 * count > len(bad)
    if not count or not (refuse or learned or most):
        return
    why = f"{count:,} of {len(bad):,} {rows} have such"
    if not learned:
        why += ", more than half" if most else "; data.on_unknown_label: count would score them as wrong"
    raise UserError(f"{message} ({why})")


def spelled(label: str) -> str:
    """Return a label for a message that has to show how it differs from one that looks like it.

    Spaces that follow others are escapes, and so is what is not composed (NFC).
    """
    text = re.sub(r"(?<= ) ", r"\\x20", shown(label))
    composed = unicodedata.is_normalized("NFC", text)
    return text if composed else text.encode("ascii", "backslashreplace").decode()
