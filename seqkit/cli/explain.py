"""`seqkit config explain`: what the keys of a configuration mean."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from seqkit.cli.app import Trust
from seqkit.cli.runs import configs
from seqkit.config import explain as explained
from seqkit.config import known_keys
from seqkit.console import tell
from seqkit.errors import UserError


@configs.command(epilog="Example: seqkit config explain translation model.decoder.attention")
def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG | KEY | KEY=VALUE",
            help="CONFIG: a YAML file or a task; without it all tasks. KEY: a key or a section, such as "
            "training.optimizer.lr; without it all keys. KEY=VALUE: such as model.encoder.cell=gru, for another cell.",
        ),
    ] = None,
    trust: Trust = False,
) -> None:
    """Print what a key means: type, default, choices, and where it is used; the keys of a section, or all keys."""
    from seqkit import run

    overrides = [word for word in words or [] if "=" in word]
    plain = [word for word in words or [] if "=" not in word]
    if len(plain) > 2:
        raise UserError(f"expected CONFIG and KEY, got {len(plain)} words: {' '.join(plain)}")
    is_config = len(plain) == 2 or any(
        word in run.TASKS or os.path.isfile(word) or word.endswith((".yaml", ".yml")) or ":" in word for word in plain
    )
    sources, rest = (plain[:1], plain[1:]) if is_config else (list(run.TASKS), plain)
    key = rest[0] if rest else ""
    answers: dict[str, list[str]] = {}
    failed = None
    for source in sources:
        try:
            lines = explained(known_keys(run.config_schema(source, overrides, trust=trust)), key)
            answers.setdefault("\n".join(lines), []).append(source)
        except UserError as error:
            failed = failed or error
    if failed and not answers:
        raise failed
    for text, tasks in answers.items():
        if len(tasks) < len(sources):
            tell(f"task: {', '.join(tasks)}")
        for line in text.splitlines():
            tell(line)
