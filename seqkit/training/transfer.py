"""Weights from an earlier run: what matches is taken, the rest is reported, nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Transfer:
    """What became of each weight: names, and for `resized` how many rows were found."""

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A report for the person who started the run."""
        lines = [f"init: loaded {len(self.loaded)} weights: {', '.join(self.loaded) or 'none'}"]
        lines += [f"init: resized {name}: {how}" for name, how in self.resized.items()]
        if self.new:
            lines.append(f"init: newly made, not in the run: {', '.join(self.new)}")
        lines += [f"init: left out {name}: {why}" for name, why in self.left_out.items()]
        return lines


@torch.no_grad()
def transfer_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    rows: Mapping[str, tuple[Sequence[str], Sequence[str]]] | None = None,
) -> Transfer:
    """Load into `model` the weights whose name and shape match.

    Args:
        model: changed in place.
        weights: a state dict.
        rows: for weights whose rows stand for named things (words, classes): weight name -> (names of the rows here,
            names of the rows there). Rows are matched by name; a row that is new keeps its fresh value.
    """
    report = Transfer()
    own = dict(model.state_dict())
    for name, value in own.items():
        given = weights.get(name)
        if given is None:
            report.new.append(name)
            continue
        here, there = (rows or {}).get(name, ((), ()))
        if list(here) == list(there) and given.shape == value.shape:
            value.copy_(given)
            report.loaded.append(name)
        elif here and given.shape[1:] == value.shape[1:]:
            place = {word: number for number, word in enumerate(there)}
            pairs = [(number, place[word]) for number, word in enumerate(here) if word in place]
            if pairs:
                to, source = torch.tensor(pairs).T
                value[to.to(value.device)] = given.to(value.device, value.dtype)[source.to(value.device)]
            report.resized[name] = f"{len(pairs)} of {len(here)} rows found by name, {len(here) - len(pairs)} new"
        else:
            report.left_out[name] = f"shape {tuple(given.shape)} there, {tuple(value.shape)} here"
    report.left_out.update({name: "not in this model" for name in weights if name not in own})
    return report
