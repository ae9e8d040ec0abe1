"""Which parameters train, from when on, and how fast beside each other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from seqkit.errors import UserError, listed
from seqkit.training.config import TrainingConfig, UnfreezeConfig
from seqkit.training.patterns import matches, matching

_SHOWN, _LENGTH = 6, 400  # names in a message, and characters; the log has them all


@dataclass(frozen=True)
class Stage:
    """Parameters that train after `start` epochs or steps, beside the parameters of the stages before."""

    start: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class News:
    """A stage that begins: a line for the person who watches, and a record for the log."""

    line: str
    record: dict[str, Any]


class Freezing:
    """The stages of a training, and the factors of its learning rates.

    A parameter that wants no gradient beforehand (a frozen embedding) never trains, nor does one that
    `training.freeze` names. Gradual unfreezing (Howard & Ruder 2018, section 3.3) leaves out groups of which nothing
    can train. The rate of a group is the rate of the next one, nearer the output, times `optimizer.layer_decay`
    (discriminative fine-tuning, section 3.1 there, where it is 1 / 2.6).

    What is frozen has `requires_grad` False and nothing else: its dropout stays on, as everywhere in torch. Nothing
    changes in the model before `hold` or `enter` is called.

    Args:
        model: whose parameters train.
        groups: name patterns of its layers, input side first; see `Task.layer_groups`.
        config: how.

    Attributes:
        factors: what the learning rate is multiplied by, for each parameter that trains at any time.
        stages: at least one; the first begins at 0.

    Raises:
        UserError: a pattern matches no parameter, nothing would train or nothing be unfrozen.
        ValueError: the groups leave out a parameter.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Sequence[str]], config: TrainingConfig) -> None:
        self._named = dict(model.named_parameters())
        self._wanted = {name: parameter.requires_grad for name, parameter in self._named.items()}
        self._unit = config.unfreeze.unit if config.unfreeze else "epochs"
        self._quiet = not config.freeze and config.unfreeze is None
        self._entered: int | None = None
        names = _all_names(model)
        frozen = _chosen(config.freeze, names, "training.freeze")
        trained = {name: every for name, every in names.items() if self._wanted[name] and name not in frozen}
        if not trained:
            raise UserError("every parameter is frozen; there is nothing to train", key="training")
        layers = _layers(groups, names)
        self.stages = _stages(config.unfreeze, layers, names, trained)
        ever = {name for stage in self.stages for name in stage.names}
        decayed = _decayed(layers, config.optimizer.layer_decay)
        self.factors = {name: decayed[name] for name in names if name in ever}

    def stage(self, epoch: int, step: int) -> int:
        """Return the number of the stage after these completed epochs and updates."""
        now = {"epochs": epoch, "steps": step}[self._unit]
        return bisect_right([stage.start for stage in self.stages], now) - 1

    def hold(self) -> None:
        """Let everything train that does so in some stage, and nothing else."""
        self._entered = None
        self._allow(len(self.stages))

    def enter(self, number: int) -> bool:
        """Let train what trains in a stage, and nothing else; whether that has changed anything."""
        if number == self._entered:
            return False
        self._entered = number
        return self._allow(number + 1)

    def release(self) -> None:
        """Let train what did before: a later training of the same model is to find it so."""
        self._entered = None
        for name, parameter in self._named.items():
            if self._wanted[name]:
                parameter.requires_grad_(True)

    def news(self, number: int, epoch: int, step: int) -> News | None:
        """Return what is to be said when a stage begins; None where nothing is ever frozen."""
        if self._quiet:
            return None
        names = self.stages[number].names
        trained = sum(self._named[name].numel() for stage in self.stages[: number + 1] for name in stage.names)
        total = sum(parameter.numel() for parameter in self._named.values())
        shown = listed(names, _SHOWN, _LENGTH)
        begin = "trained from the start" if number == 0 else f"unfrozen after epoch {epoch}, step {step}"
        line = f"{begin}: {shown}; {trained:,} of {total:,} parameters train"
        if number == 0 and len(self.stages) > 1:
            line += f"; the last of {len(self.stages)} stages begins after {self._unit[:-1]} {self.stages[-1].start}"
        record = {"step": step, "epoch": epoch, "unfrozen": list(names), "trained": trained, "parameters": total}
        return News(line, record)

    def unreached(self, epochs: int | None, steps: int | None) -> str:
        """Return a warning that training ends before the last stage begins; empty where it does not, or nobody knows.

        Args:
            epochs: how many there will be, None where updates are counted.
            steps: how many updates there will be, None where that is not known.
        """
        end = {"epochs": epochs, "steps": steps}[self._unit]
        late = [stage for stage in self.stages[1:] if end is not None and stage.start >= end]
        if not late:
            return ""
        names = listed(late[0].names, _SHOWN, _LENGTH)
        return (
            f"training.unfreeze: {len(late)} of {len(self.stages)} stages never begin, the first ({names}) after "
            f"{self._unit[:-1]} {late[0].start}: training ends after {end} {self._unit}"
        )

    def _allow(self, stages: int) -> bool:
        names = {name for stage in self.stages[:stages] for name in stage.names}
        changed = [name for name, one in self._named.items() if one.requires_grad != (name in names)]
        for name in changed:
            self._named[name].requires_grad_(name in names)
        return bool(changed)


def _all_names(model: nn.Module) -> dict[str, list[str]]:
    """Return every name of each parameter, under the first of them, in the model's order: a tied weight has several."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[first[id(parameter)]].append(name)
    return found


def _chosen(patterns: Sequence[str], names: Mapping[str, Sequence[str]], key: str) -> set[str]:
    """Return the parameters of which a name matches a pattern."""
    found = matching(patterns, [one for every in names.values() for one in every], key)
    return {name for name, every in names.items() if not found.isdisjoint(every)}


def _layers(groups: Sequence[Sequence[str]], names: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the parameters of each group that has some. The first group that matches a name holds; a tied weight goes
    to the group nearest the output that one of its names leads to: it cannot be frozen as one and trained as the
    other."""
    found: list[list[str]] = [[] for _ in groups]
    for name, every in names.items():
        found[max(_place(one, groups) for one in every)].append(name)
    return [group for group in found if group]


def _place(name: str, groups: Sequence[Sequence[str]]) -> int:
    for number, group in enumerate(groups):
        if matches(name, group):
            return number
    raise ValueError(f"layer_groups: no group has a pattern for the parameter {name}")


def _stages(
    config: UnfreezeConfig | None,
    layers: Sequence[Sequence[str]],
    names: Mapping[str, Sequence[str]],
    trained: Mapping[str, Sequence[str]],
) -> tuple[Stage, ...]:
    if config is None:
        return (Stage(0, tuple(trained)),)
    if config.every is not None:
        parts = [own for layer in layers if (own := tuple(name for name in layer if name in trained))]
        if len(parts) < 2:
            raise UserError(
                "there is nothing to unfreeze: all that trains is in one group of layers "
                f"({listed(parts[0], _SHOWN, _LENGTH)})",
                key="training.unfreeze",
            )
        return tuple(Stage(number * config.every, own) for number, own in enumerate(reversed(parts)))
    stages: list[Stage] = []
    seen: set[str] = set()
    for number, given in enumerate(config.stages):
        where = f"training.unfreeze.stages.{number}.train"
        chosen = _chosen(given.train, names, where)
        own = tuple(name for name in names if name in chosen and name in trained and name not in seen)
        if not own:
            raise UserError(f"{where}: {listed(given.train)} adds nothing: it trains already, or never does")
        seen.update(own)
        stages.append(Stage(given.at, own))
    return tuple(stages)


def _decayed(layers: Sequence[Sequence[str]], decay: float) -> dict[str, float]:
    """Return what the learning rate of each parameter is multiplied by."""
    if decay != 1 and len(layers) < 2:
        raise UserError(
            "this model has one group of layers; there is nothing to decay", key="training.optimizer.layer_decay"
        )
    return {name: decay ** (len(layers) - 1 - number) for number, layer in enumerate(layers) for name in layer}
