"""Training that ends with a report: what `seqkit.train` and the commands train and resume call."""

from __future__ import annotations

import os
from functools import wraps
from pathlib import Path
from typing import Any

from seqkit import run as runs
from seqkit.console import say
from seqkit.distributed import first
from seqkit.errors import UserError
from seqkit.report.page import check_extras, write_summary
from seqkit.report.stored import part
from seqkit.run import Run
from seqkit.training import RunFolder

_OFF = ("0", "false")
_told = False  # that something is not installed


@wraps(runs.train)
def train(*arguments: Any, **options: Any) -> Run:
    """Train, and write the report; see `seqkit.run.train`."""
    made = runs.train(*arguments, **options)
    summarise(made.folder)
    return made


@wraps(runs.resume)
def resume(*arguments: Any, **options: Any) -> Run:
    """Go on with a run, and write the report; see `seqkit.run.resume`."""
    made = runs.resume(*arguments, **options)
    summarise(made.folder)
    return made


def summarise(path: Path) -> None:
    """Write the report of a run that is whole, unless `training.report` or the environment variable SEQKIT_REPORT is
    false; whatever fails is one line."""
    global _told
    if not first() or os.environ.get("SEQKIT_REPORT", "").lower() in _OFF:
        return
    if part(RunFolder(path).settings(), "training").get("report") is not True:
        return
    try:
        check_extras()
    except UserError as error:
        if not _told:
            say(f"no report.html: {error} (training.report=false does without)")
        _told = True
        return
    try:
        say(f"report: {write_summary(path)}")
    except Exception as error:
        say(f"{path}: no report.html ({type(error).__name__}: {error}); `seqkit report {path}` tries again")
