"""Is one translation run better than another?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seqkit.errors import Option, UserError
from seqkit.tasks.translation.metrics import compare_outputs, make_bleu
from seqkit.tasks.translation.task import TranslationTask


@torch.no_grad()
def compare(
    tasks: Sequence[tuple[str, TranslationTask]], data: str | None = None, reference: str | None = None
) -> list[str]:
    """Run a paired bootstrap of named runs on the same data; see `compare_outputs` and `TranslationTask.score`.

    Raises:
        UserError: without `data`, when the runs' own test data are not the same.
    """
    places = [task.where(data, reference) for _, task in tasks]
    for (name, _), place in zip(tasks, places, strict=True):
        if place != places[0]:
            raise UserError(
                f"compare: {tasks[0][0]} and {name} are tested on different data; give some for both: ",
                Option("data", "FILE"),
            )
    (first_name, first), *_ = tasks
    pairs = first.open(*places[0])
    references = pairs.texts("target")
    tokenize = first.tokenize(references)
    make_bleu(tokenize)  # what it needs is missed before anything is translated
    outputs = {name: task.outputs(task.open(*places[0]), task.translator) for name, task in tasks}
    others = [name for name, task in tasks if task.tokenize(references) != tokenize]
    note = (
        [f"BLEU is split by {tokenize}, as {first_name} has it; {', '.join(others)}: by another tokenizer"]
        if others
        else []
    )
    lines = compare_outputs(outputs, references, lowercase=first.lowercase, tokenize=tokenize)
    return [pairs.counted(), *note, *lines]
