"""`lora:` fine-tuning by low-rank adapters, for the model of any task."""

from __future__ import annotations

from typing import Any

from seqkit.console import say
from seqkit.errors import UserError, argument_of, listed
from seqkit.nn.lora import add_lora
from seqkit.tasks.base import RunTask
from seqkit.training.transfer import Transfer


def adapt(task: RunTask, lora: Any, report: Transfer | None) -> None:
    """Put adapters on the model of a task, as `lora:` says, and say what trains.

    Args:
        task: its model is changed.
        lora: the section.
        report: of the weights that the model started from; None where a checkpoint gives them afterwards.

    Raises:
        UserError: a pattern matches nothing that can have an adapter; or a weight that has learned nothing yet, such
            as the output layer of new classes, would stay untrained.
    """
    try:
        done = add_lora(task.model, **lora.model_dump())
    except ValueError as error:
        name, message = argument_of(error)
        raise UserError(message, key=f"lora.{name}") from None
    made = [] if report is None else [*report.new, *report.left_out, *report.partly_new]
    vectors = {name for name, rows in task.rows().items() if rows.filled is not None}
    frozen = {name for name, value in task.model.named_parameters() if not value.requires_grad}
    lost = [name for name in dict.fromkeys(made) if name in frozen - vectors]
    if lost:
        raise UserError(
            f"must name the weights that init does not fill, or they would stay untrained: {listed(lost, 100, 3000)}",
            key="lora.train",
        )
    for line in done.lines():
        say(f"lora: {line}")
