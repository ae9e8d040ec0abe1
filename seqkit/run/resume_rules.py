"""What may change in the configuration of a run between its stop and its resume.

run.json keeps the configuration that the run was made with. What config.yaml says today (the user may have edited it)
and what the command line lays over it is compared with that, key by key.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from seqkit.errors import UserError
from seqkit.run.config_files import Trust, read_config
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import RunFolder, TrainingConfig
from seqkit.training.checkpoint import Checkpoints

# None of these changes an update. Data may move: whether they are the same is checked when they are read.
_HARMLESS = (
    "device",
    "data.train*",
    "data.extra*",
    "data.dev*",
    "data.test*",
    "data.on_unknown_label",
    "training.log_every",
    "training.checkpoint_every",
    "training.loggers*",
    "training.samples",
    "training.keep_best",
    "training.keep_outputs",
    "training.report",
    "training.average_best",
    "training.early_stopping*",
)
_REFUSED = 20  # keys in a message
_LENGTH = ("training.epochs", "training.steps")
_EVALUATIONS = ("training.evaluate_every", "training.evaluate_epochs")
_SCORES = ("decoding*", "scoring*", "training.metric*", "training.dev_*")
_REASONS = {
    "task": "the weights belong to this task",
    "model*": "the weights belong to this model",
    "text*": "the weights belong to this vocabulary",
    "init*": "they were loaded when the run began",
    "seed": "every random number would be different",
    "name": "rename the folder instead",
    "data*": "the batches would be different",
    "training*": "the updates would be different",
}


def read_change(
    folder: RunFolder, overrides: list[str], trust: Trust = False
) -> tuple[RunConfig, type[RunTask], list[str]]:
    """Return the configuration with which a run goes on.

    Args:
        folder: the run.
        overrides: `KEY.PATH=VALUE` texts, laid over its config.yaml.
        trust: see `read_config`.

    Returns:
        the configuration, the class of its task, and a line for each key that is not as it was.

    Raises:
        UserError: a mistake in config.yaml or the overrides; a key that may not change, with the reason.
    """
    now, kind = read_config(folder.config, overrides, trust=trust, folder=folder)
    made_with = folder.about().get("config")
    source = made_with if isinstance(made_with, dict) else folder.config
    before = read_config(source, trust=trust, folder=folder)[0]
    changes = list(_compare(before.model_dump(mode="json"), now.model_dump(mode="json")))
    refused = [
        f"\n  {key}: {reason}" for key, _, _ in changes if (reason := _refusal(key, before.training, now.training))
    ]
    if refused:
        more = f"\n  and {len(refused) - _REFUSED:,} more keys" if len(refused) > _REFUSED else ""
        raise UserError(
            f"{folder}: these keys cannot change once training has begun:{''.join(refused[:_REFUSED])}{more}\n"
            f"(A new run may take the weights of this one: init.run={folder})"
        )
    if any(key in _LENGTH for key, _, _ in changes):
        _check_length(folder, now.training)
    return now, kind, [f"{key}: {old!r} -> {new!r}" for key, old, new in changes]


def _check_length(folder: RunFolder, training: TrainingConfig) -> None:
    """Refuse a training that would have ended before the last checkpoint."""
    checkpoints = Checkpoints(folder.checkpoints)
    step = checkpoints.latest()
    if step is None:
        return
    state = checkpoints.load(step)[1]["state"]
    begun = state["epoch"] + bool(state["position"])
    for key, asked, done in (("steps", training.steps, step), ("epochs", training.epochs, begun)):
        if asked is not None and asked < done:
            raise UserError(f"{asked} is less than the {done} that {folder} has trained already", key=f"training.{key}")


def _compare(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted keys at which two trees differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(name for name in now if name not in before)]
        if key and before.get("name") != now.get("name"):  # another schedule has other options
            names = [name for name in names if name in before and name in now]
        for name in names:
            yield from _compare(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
    elif before != now:
        yield key, before, now


def _refusal(key: str, before: TrainingConfig, now: TrainingConfig) -> str:
    """Return why a key may not change, empty where it may."""
    name, warmup, schedule = before.schedule.name, before.schedule.warmup, before.schedule.make()
    if key.startswith("training.early_stopping") and schedule.reacts and before.margin != now.margin:
        return f"the {name} schedule goes by min_delta, too, so the updates would be different"
    if any(fnmatchcase(key, pattern) for pattern in _HARMLESS):
        return ""
    if key in _LENGTH:
        if not schedule.spreads and not 0 < warmup < 1:
            return ""
        return f"the {name} schedule spreads over the whole training, so the updates would be different"
    if key in _EVALUATIONS:
        if not schedule.reacts:
            return ""
        return f"the {name} schedule counts evaluations, so the updates would be different"
    if any(fnmatchcase(key, pattern) for pattern in _SCORES):
        return "dev scores from before and after could not be compared"
    return next((reason for pattern, reason in _REASONS.items() if fnmatchcase(key, pattern)), "it decides the result")
