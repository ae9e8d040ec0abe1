"""The curves of a run, from its log, for a notebook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from seqkit import drawing
from seqkit.errors import require
from seqkit.training import RunFolder

_UNSCORED = ("step", "epoch", "loss", "examples", "left_out", "skipped_lines")

Curve = tuple[list[float], list[float]]


def curves(folder: Path) -> dict[str, Curve]:
    """Return steps and values of each curve that a run has logged: `train loss`, `dev loss`, then the scores on dev.

    A run without a log has none; a line that is cut off is passed over.
    """
    found: dict[str, Curve] = {"train loss": ([], []), "dev loss": ([], [])}
    with suppress(OSError):
        for line in RunFolder(folder).metrics.read_text("utf-8").splitlines():
            with suppress(ValueError):
                _add(found, json.loads(line))
    return {name: curve for name, curve in found.items() if curve[0]}


def _add(found: dict[str, Curve], record: Any) -> None:
    if not isinstance(record, dict) or record.get("split") not in ("train", "dev"):
        return
    split = record.pop("split")
    names = {"loss": f"{split} loss"}
    if split == "dev":
        names |= {name: name for name in record if name not in _UNSCORED}
    for name, shown in names.items():
        if isinstance(record.get(name), (int, float)) and isinstance(record.get("step"), int):
            xs, ys = found.setdefault(shown, ([], []))
            xs.append(record["step"])
            ys.append(record[name])


def run_parts(folder: Path, scores: Mapping[str, Mapping[str, float]], notes: list[str]) -> list[str]:
    """Return what a notebook shows of a run.

    Args:
        folder: of the run.
        scores: by part of the data and name.
        notes: lines.

    Raises:
        UserError: jinja2 or matplotlib is not installed.
    """
    parts = [drawing.paragraph(note.replace("`", "'")) for note in notes]
    names = list(dict.fromkeys(name for part in scores.values() for name in part))
    if names:
        rows = [
            [part, *(drawing.number(some[name]) if name in some else "" for name in names)]
            for part, some in scores.items()
            if some
        ]
        parts.append(drawing.table(["data", *names], rows, "Scores of the weights that were kept."))
    found = curves(folder)
    losses = [drawing.Line(name, *curve) for name, curve in found.items() if name.endswith(" loss")]
    others = [drawing.Line(name, *curve) for name, curve in found.items() if not name.endswith(" loss")]
    if losses:
        parts.append(drawing.line_chart(losses, "update", "loss", "The loss over the updates."))
    if others:
        parts.append(drawing.line_chart(others[:5], "update", "score on dev", "The scores on dev over the updates."))
    return parts


def plot_run(folder: Path) -> Any:
    """Return matplotlib axes with the losses of a run.

    Raises:
        UserError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", "plot")
    require("matplotlib", "plot")
    axes = figures.Figure(layout="constrained").add_subplot()
    for name, (steps, values) in curves(folder).items():
        if name.endswith(" loss"):
            axes.plot(steps, values, label=name, marker="o" if len(steps) == 1 else "")
    axes.set(xlabel="update", ylabel="loss", title=folder.name.replace("$", r"\$"))
    if axes.lines:
        axes.legend()
    return axes
