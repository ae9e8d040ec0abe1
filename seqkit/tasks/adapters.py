"""`lora:` fine-tuning by low-rank adapters, for the model of any task."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from seqkit.config import Section, UserError, from_signature, listed
from seqkit.nn.lora import add_lora, check_numbers
from seqkit.tasks.initial import Names
from seqkit.training.progress import say
from seqkit.training.transfer import Transfer

if TYPE_CHECKING:
    from seqkit.tasks.base import RunTask


class _Buildable(Section):
    """`lora:` freeze what `init` gives, but for what `train` names, and train low-rank adapters on the weights `on`.

    The run folder gets plain weights, the adapters added in: whatever loads a run knows nothing of them.
    """

    @model_validator(mode="after")
    def _sensible(self) -> _Buildable:
        check_numbers(**self.model_dump(include={"rank", "alpha", "dropout"}))
        return self


def _patterns(name: str, description: str) -> Any:
    default = list(inspect.signature(add_lora).parameters[name].default)
    return Names, Field(default=default, description=description)


LoraConfig: Any = from_signature(
    "LoraConfig",
    add_lora,
    skip=("model",),
    base=_Buildable,
    on=_patterns("on", "Patterns, as in a shell, of the names of weights that get an adapter."),
    train=_patterns("train", "Patterns of the names of parameters that are trained whole."),
)


def adapt(task: RunTask, lora: Any, report: Transfer | None) -> None:
    """Put adapters on the model of a task, as `lora:` says, and say what trains.

    Args:
        task: its model is changed.
        lora: the section.
        report: of the weights that the model started from; None where a checkpoint gives them afterwards.

    Raises:
        UserError: a pattern matches nothing that can have an adapter; or a weight that has learned nothing yet, such
            as the output layer of new classes, would stay as it was made.
    """
    try:
        done = add_lora(task.model, **lora.model_dump())
    except ValueError as error:
        raise UserError(f"lora.{error}") from None
    made = [] if report is None else [*report.new, *report.left_out, *report.partly_new]
    vectors = {name for name, rows in task.rows().items() if rows.filled is not None}
    frozen = {name for name, value in task.model.named_parameters() if not value.requires_grad}
    lost = [name for name in dict.fromkeys(made) if name in frozen - vectors]
    if lost:
        raise UserError(
            f"lora.train: must name what has nothing from init and would stay as it was made: {listed(lost, 100, 3000)}"
        )
    for line in done.lines():
        say(f"lora: {line}")
