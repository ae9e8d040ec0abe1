"""A run whose weights are the mean of another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from seqkit import config
from seqkit.console import say
from seqkit.errors import Option, UserError
from seqkit.files import replace_file, to_json, write_text
from seqkit.run.config_files import open_run
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import RunFolder, pick_device
from seqkit.training.averaging import average_weights
from seqkit.training.checkpoint import Checkpoints, load_finite, save_weights
from seqkit.training.reservation import Reservation, reserve
from seqkit.training.run_folder import write_outputs
from seqkit.training.scores import counted


@dataclass(frozen=True)
class Average:
    """What `average` made: the run folder, the steps that went into it, dev scores of the old and the new weights."""

    folder: Path
    steps: list[int]
    before: dict[str, float]
    after: dict[str, float]


def average(
    path: str | Path, best: int | None = None, name: str | None = None, device: str = "auto", *, trust: bool = False
) -> Average:
    """Make a run beside another, whose weights are the mean of its best checkpoints'.

    Args:
        path: a run folder that has its checkpoints, and data that is still there.
        best: how many of them; None: all that were kept.
        name: of the new run; None: the old name with `-average`.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        trust: import code that the run folder names, such as a cell of the user's own.

    Raises:
        UserError: fewer checkpoints than two, or than wanted; the name is taken; a process trains there.
    """
    folder, checked, kind = open_run(path, trust=trust)
    with folder.locked():
        return _average(folder, checked, kind, best, name, device)


def _average(
    folder: RunFolder, checked: RunConfig, kind: type[RunTask], best: int | None, name: str | None, device: str
) -> Average:
    checkpoints = Checkpoints(folder.checkpoints)
    latest = checkpoints.latest()
    try:
        listed = [] if latest is None else [int(step) for _, step in checkpoints.load(latest)[1]["state"]["best"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: the newest checkpoint has no list of the best ({error!r})") from None
    kept = [step for step in listed if checkpoints.is_whole(step)]
    for step in listed:
        if step not in kept:
            say(f"{checkpoints.path(step)}: damaged checkpoint; passed over")
    steps = kept[:best]
    if len(steps) < max(best or 0, 2):
        raise UserError(
            f"{folder}: has {len(kept)} of its best checkpoints, {best or 'at least 2'} are needed; "
            "training.keep_best=5 (with dev data) keeps more"
        )
    name = name or f"{folder.path.resolve().name}-average"
    other = ("choose another name: ", Option("name", "NAME"))
    with reserve(name, kind.kind, root=folder.path.parent, other=other) as reserved:
        return _write(reserved, folder, checked, kind, steps, device)


def _write(
    reserved: Reservation,
    folder: RunFolder,
    checked: RunConfig,
    kind: type[RunTask],
    steps: list[int],
    device: str,
) -> Average:
    checkpoints = Checkpoints(folder.checkpoints)
    task = kind.create(checked, folder.path, fresh=False)
    task.model.to(pick_device(device)).eval()
    own = task.model.state_dict()
    limit = checked.training.keep_outputs
    before = load_finite(folder.weights, own)
    weights = average_weights([checkpoints.weights(step) for step in steps], own)
    scores = []
    for state in (before, weights):
        task.adopt(state)
        with torch.no_grad():
            scores.append(task.evaluate())
            outputs = task.dev_outputs(limit) if limit and scores[-1] else []
    with reserved.made() as made:
        write_text(made.config, config.dump(checked.model_copy(update={"name": reserved.path.name})))
        task.save(made.path)
        replace_file(made.weights, lambda path: save_weights(path, weights))
        write_text(made.path / "scores.json", to_json({"averaged": steps, "dev": counted(scores[1])}, indent=2) + "\n")
        write_outputs(made.outputs, outputs)
        made.describe({**folder.about(), "averaged": steps})
    return Average(made.path, steps, *scores)
