"""What was trained: command, data, model, time and versions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from seqkit.console import duration
from seqkit.drawing import number, paragraph, section, table
from seqkit.report.stored import StoredRun, part

_CELLS = (("model", "encoder"), ("model", "decoder"))


def score_table(runs: Sequence[StoredRun]) -> str:
    """Return the scores of each run on dev and test."""
    rows, names = [], list[str]()
    for run in runs:
        for split in ("dev", "test"):
            names += [name for name in run.scores(split) if name not in names]
    for run in runs:
        for split in ("dev", "test"):
            if scores := run.scores(split):
                count = run.examples(split)
                values = [score_text(scores[name]) if name in scores else "–" for name in names]
                first = split if len(runs) == 1 else f"{run.name}, {split}"
                rows.append([first, *values, f"{count:,}" if count is not None else "–"])
    if not rows:
        return paragraph(
            "There are no scores: the run has no dev and no test data, or stopped before its first evaluation."
        )
    return table(
        ["data" if len(runs) == 1 else "run and data", *names, "examples"], rows, "Scores of the kept weights."
    )


def score_text(value: float) -> str:
    """Return a score with four digits, as the command line has it; large ones with three."""
    return f"{value:.4f}" if abs(value) < 100 else number(value)


def trained(run: StoredRun, heading: str = "What was trained") -> list[str]:
    """Return the section on what was trained."""
    config = part(run.about, "config")
    lines = run.about.get("report")
    told = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
    rows = [["model", _model(run)]]
    if run.seconds:
        speed = f", {run.speed:,.0f} tokens a second" if run.speed else ""
        rows.append(
            ["training time", f"{duration(run.seconds)} for {run.steps:,} updates, evaluations left out{speed}"]
        )
    rows += [
        ["seed and device", f"{config.get('seed', '–')}, {config.get('device', '–')}"],
        ["versions", f"seqkit {run.about.get('seqkit', '–')}, torch {run.about.get('torch', '–')}"],
        ["state", run.state],
    ]
    folder = shlex.quote(str(run.folder))
    again = f"seqkit train {folder}/config.yaml name=again{run.folder.flag}"
    return [
        section(heading),
        paragraph(f"The command that repeats it: `{again.replace('`', '')}`"),
        table([], rows, f"The run {run.name}."),
        *([paragraph("Data and model, as reported before training:")] if told else []),
        *(paragraph(line) for line in told),
        paragraph(
            "This page and `dev.jsonl` in the run folder hold texts of the dev data; `training.keep_outputs: 0` and "
            "`training.report: false` keep them out."
        ),
    ]


def _model(run: StoredRun) -> str:
    """Describe the layers in a line."""
    model = part(part(run.about, "config"), "model")
    shown = []
    for side in ("encoder", "decoder"):
        layer = part(model, side)
        if layer.get("cell"):
            more = "bidirectional " if layer.get("bidirectional") else ""
            layers = layer.get("num_layers", 1)
            size = layer.get("hidden_size", "–")
            shown.append(f"{side}: {more}{layer['cell']}, {layers} layer{'' if layers == 1 else 's'} of {size}")
            if layer.get("attention"):
                shown[-1] += f", attention {layer['attention']}"
    return "; ".join(shown) or run.task
