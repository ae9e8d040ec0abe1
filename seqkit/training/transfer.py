"""Weights from elsewhere: what matches is taken, the rest is reported, nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from seqkit.errors import UserError, listed
from seqkit.training.checkpoint import not_finite
from seqkit.training.weight_map import Choice


@dataclass(frozen=True)
class Rows:
    """What the rows of a weight stand for.

    Attributes:
        names: of the rows, in order, none twice.
        words: they are words of a vocabulary, the first of which is padding: a word that is new may start from the
            mean of those that are not.
        plain: (R,) the names without what marks a form of a word, by which rows match that have no match by name.
        dims: number of leading dimensions that go by these names; 2 for a matrix from tag to tag.
        filled: (R,) bool, rows that hold a pretrained vector already; None: none does.
    """

    names: Sequence[str]
    words: bool = False
    plain: Sequence[str] | None = None
    dims: int = 1
    filled: Tensor | None = None


@dataclass(frozen=True)
class Given:
    """Weights from elsewhere.

    Attributes:
        name: what to call them in a message: a run folder or a file.
        weights: a state dict.
        rows: weight name -> what its rows stand for.
        words: the vocabulary of every weight whose rows are words here; None: `rows` says it.
    """

    name: str
    weights: Mapping[str, Tensor]
    rows: Mapping[str, Rows] = field(default_factory=dict)
    words: Sequence[str] | None = None


@dataclass
class Transfer:
    """What became of each weight.

    Attributes:
        loaded: names here of those taken whole.
        resized: names here -> how many rows were found.
        tied: names here -> the weight that is the same one here.
        new: names here of those that nothing was given for.
        left_out: names here -> why what was given for them was not taken.
        unused: names there -> why they have no place here.
        renamed: names here -> names there, where they differ.
        partly_new: names here of those with rows, of classes or tags, that are as they were made.
    """

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    partly_new: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return a report for the person who started the run."""
        loaded = [self._named(name) for name in self.loaded]
        lines = [f"init: loaded {len(loaded)} weights: {', '.join(loaded) or 'none'}"]
        lines += [f"init: resized {self._named(name)}: {how}" for name, how in self.resized.items()]
        lines += [f"init: {name} is the same weight as {other} here" for name, other in self.tied.items()]
        if self.new:
            lines.append(f"init: newly initialised, as nothing of that name was given: {', '.join(self.new)}")
        passed_over = [*self.left_out.items(), *self.unused.items()]
        for reason in dict.fromkeys(why for _, why in passed_over):
            lines.append(f"init: left out, {reason}: {', '.join(name for name, why in passed_over if why == reason)}")
        return lines

    def _named(self, name: str) -> str:
        return f"{name} (there {self.renamed[name]})" if name in self.renamed else name


@torch.no_grad()
def transfer_weights(
    model: nn.Module, given: Given, rows: Mapping[str, Rows] | None = None, choice: Choice | None = None
) -> Transfer:
    """Load into `model` the weights that match by name and shape; rows that have names are matched by these.

    Args:
        model: changed in place.
        given: the weights.
        rows: weight name here -> what its rows stand for.
        choice: what is taken; default: all, under their own names.

    Raises:
        UserError: a pattern or an entry of the map matches nothing; what was asked for by name does not fit; word
            vectors of another width; numbers that are not finite; nothing at all can be taken.
    """
    choice, rows = choice or Choice(), rows or {}
    own = dict(model.state_dict())
    choice.check_patterns(own)
    offered = choice.offers(given.weights, own)
    asked = choice.asked(offered)
    report = Transfer(left_out={name: why for name in offered if (why := choice.refuses(name))})
    first: dict[object, _Weight] = {}  # of the names of a tied weight
    for name, there in offered.items():
        if name in report.left_out:
            continue
        one = _Weight(name, own[name], rows.get(name), there, given)
        mate = first.get(one.place)
        if mate is not None and torch.equal(mate.given, one.given):
            report.tied[name] = mate.name
        elif mate is not None:
            report.left_out[name] = f"tied here with {mate.name}"
        elif problem := _checked(one, given.name, name in asked, own):
            report.left_out[name] = problem
        else:
            one.take({"mean": True, "fresh": False}[choice.new_rows], report)
            first[one.place] = one
    if not any(one.found for one in first.values()):
        raise UserError(
            f"{given.name} has nothing that this model could take; it has: {listed(given.weights, 100, 3000)}; "
            f"this model has: {listed(own, 100, 3000)} (init.map says what goes where)",
            key="init",
        )
    if given.words is not None and not any(one.is_vocabulary for one in first.values()):
        raise UserError(f"nothing is taken from {given.name} whose rows are words", key="init.vocabulary")
    for name in [name for name in own if name not in offered]:
        mate = first.get(_place(own[name]))
        if mate is None:
            report.new.append(name)
        else:
            report.tied[name] = mate.name
    placed = set(offered.values())
    report.unused = {name: _homeless(name, choice, own) for name in given.weights if name not in placed}
    return report


def _checked(weight: _Weight, source: str, asked: bool, own: Mapping[str, Tensor]) -> str:
    """Return why a weight is left out, or nothing; refuse one that may not be left out."""
    problem, remedy = weight.problem(), f"init.leave: ['{weight.name}'] leaves it out"
    if (asked or not problem) and not_finite({weight.name: weight.given}, own):
        raise UserError(
            f"{source}: {weight.called} holds numbers there that are NaN or infinite: the weights are damaged, "
            f"or the training that made them diverged; {remedy}",
            key="init",
        )
    if problem and (asked or weight.is_vocabulary):
        raise UserError(f"{source}: {problem}; {remedy}", key="init")
    return problem


def _homeless(name: str, choice: Choice, own: Collection[str]) -> str:
    """Return why a given weight has no place in the model."""
    if choice.places(name) != [name]:
        return "sent by init.map to names that are not in this model"
    return "its place is taken by what init.map says" if name in own else "not in this model"


def _grid(numbers: list[int], dims: int) -> tuple[Tensor, ...]:
    """Return an index of the numbers in each of the first `dims` dimensions."""
    return tuple(torch.meshgrid(*[torch.tensor(numbers, dtype=torch.long, device="cpu")] * dims, indexing="ij"))


def _matched(rows: Rows, theirs: Rows) -> dict[int, int]:
    """Number of a row here -> number of the row there with its name, or else with another form of the word."""
    forms = {word: index for index, word in enumerate(theirs.plain or ())}
    number = {name: index for index, name in enumerate(theirs.names)}
    found = {}
    for index, name in enumerate(rows.names):
        word = name if rows.plain is None else rows.plain[index]
        there = number.get(name, number.get(word, forms.get(word)))
        if there is not None:
            found[index] = there
    return found


def _place(value: Tensor) -> object:
    """Return the same for two names of one weight."""
    return (value.data_ptr(), value.shape, value.stride()) if value.numel() else id(value)


class _Weight:
    """A weight of the model, and what is given for it.

    Attributes:
        found: rows that were taken, or 1 of a weight that has no rows.
    """

    def __init__(self, name: str, value: Tensor, rows: Rows | None, there: str, given: Given) -> None:
        self.name, self.value, self.rows, self.there = name, value, rows, there
        self.given, self.theirs, self.found = given.weights[there], given.rows.get(there), 0
        self.place = _place(value)
        if self.is_vocabulary and given.words is not None:
            self.theirs = Rows(given.words, words=True)
            if len(given.words) != len(self.given):
                raise UserError(
                    f"{len(given.words):,} words, but {there} in {given.name} has {len(self.given):,} rows",
                    key="init.vocabulary",
                )

    @property
    def is_vocabulary(self) -> bool:
        """Its rows are words."""
        return self.rows is not None and self.rows.words

    @property
    def called(self) -> str:
        """Return its name for a message, with its name there if it has another one."""
        return self.name if self.name == self.there else f"{self.name} (there {self.there})"

    def problem(self) -> str:
        """Return why the given weight does not fit, or nothing."""
        here, there, called = self.value.shape, self.given.shape, self.called
        if self.value.is_floating_point() != self.given.is_floating_point():
            return f"{called} holds {self.given.dtype} there, {self.value.dtype} here"
        if self.rows is not None and self.theirs is not None:
            dims = self.rows.dims
            if len(here) == len(there) and self.theirs.dims == dims and here[dims:] == there[dims:]:
                return ""
            if self.is_vocabulary and len(here) == len(there) == 2:
                return f"{called} holds vectors of {there[1]} numbers there, of {here[1]} here"
        if self.is_vocabulary and self.theirs is None:
            return f"{called} has a row for each word, but its words are unknown: give init.vocabulary"
        return "" if here == there else f"{called} is {tuple(there)} there, {tuple(here)} here"

    def take(self, mean: bool, report: Transfer) -> None:
        """Take over the numbers; `mean`: words that are new start from the mean of those taken."""
        if self.there != self.name:
            report.renamed[self.name] = self.there
        rows, theirs = self.rows, self.theirs
        given = self.given.to(self.value.device, self.value.dtype)
        if rows is None or theirs is None or list(rows.names) == list(theirs.names):
            self.value.copy_(given)
            self.found = 1
            if rows is not None and theirs is None:
                report.resized[self.name] = f"all {len(given)} rows in their order, as their source does not name them"
            else:
                report.loaded.append(self.name)
            return
        matched = _matched(rows, theirs)
        to, source = list(matched), list(matched.values())
        self.found = len(to)
        at, of = (_grid(one, rows.dims) for one in (to, source))
        self.value[at] = given[of]
        how = f"{len(to)} of {len(rows.names)} rows found by name, {len(rows.names) - len(to)} new"
        new = sorted(set(range(len(rows.names))) - set(to))
        if new and rows.words:
            how += self._fill(new, to, mean)
        elif new:
            how += " (newly initialised)"
            report.partly_new.append(self.name)
        report.resized[self.name] = how

    def _fill(self, new: list[int], taken: list[int], mean: bool) -> str:
        """Give the new words a start; says which."""
        assert self.rows is not None
        filled = [False] * len(self.rows.names) if self.rows.filled is None else self.rows.filled.tolist()
        kept = [row for row in new if filled[row]]
        left = [row for row in new if row and not filled[row]]  # row 0 is padding, which stays as it is
        words = [row for row in taken if row]
        if mean and words and left:
            # In float64: the mean of a large vocabulary.
            self.value[left] = self.value[words].double().mean(0).to(self.value.dtype)
        parts = [f"{len(kept)} with a pretrained vector"] if kept else []
        if left:
            parts.append(f"{len(left)} " + ("the mean of those found" if mean and words else "newly initialised"))
        return f" ({', '.join(parts)})" if parts else ""
