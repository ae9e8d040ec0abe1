"""Curves of one run, or of several beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from seqkit.drawing import Example, Line, Piece, example_list, line_chart, paragraph, section
from seqkit.report.stored import StoredRun, is_number

_POINTS = 400  # of a line; more of them cannot be told apart, and make the page large
_LINES = 5
_PERCENT = ("bleu", "chrf", "ter")
_NEVER = ("loss", "perplexity")  # drawn by themselves
_SAMPLES = 3
_TIMES, _TIMES_OF_EACH = 6, 3  # at which a run's answers are shown, and each of several runs'


def curves(runs: Sequence[StoredRun]) -> list[str]:
    """Return the section of the curves."""
    charts = [*_losses(runs), *_scores(runs), *_rates(runs), *_norms(runs)]
    if not charts:
        loggers = runs[0].training.get("loggers")
        why = (
            "training.loggers lacks jsonl, so that nothing was logged."
            if isinstance(loggers, list) and "jsonl" not in loggers
            else "nothing was logged before the run stopped."
            if not runs[0].final
            else "the run folder has no `metrics.jsonl` that could be read."
        )
        charts = [paragraph(f"There are no curves: {why}")]
    shown = runs[:_LINES]
    left = "" if len(runs) == len(shown) else f"The curves are of the first {_LINES} of the {len(runs)} runs."
    return [section("Curves"), *([paragraph(left)] if left else []), *charts]


def _line(name: str, points: tuple[list[float], list[float]]) -> Line | None:
    """Return a line through the points, not through all of very many; a single point is marked."""
    x, y = points
    if not x:
        return None
    step = -(-len(x) // _POINTS)
    kept = sorted({*range(0, len(x), step), len(x) - 1})
    return Line(name, [x[place] for place in kept], [y[place] for place in kept], marked=len(kept) == 1)


def _chart(lines: Sequence[Line | None], what: str, caption: str, *, log: bool = False) -> list[str]:
    there = [line for line in lines if line is not None]
    positive = all(value > 0 for line in there for value in line.y)
    return [line_chart(there, "update", what, caption, log=log and positive)] if there else []


def _losses(runs: Sequence[StoredRun]) -> list[str]:
    if len(runs) == 1:
        (run,) = runs
        parts = [name for name in run.logged("train") if name not in ("loss", "grad_norm", "lr", "clipped")]
        lines = [
            _line("training", run.curve("train", "loss")),
            _line("dev", run.curve("dev", "loss")),
            *(_line(f"{name} (training)", run.curve("train", name)) for name in parts[: _LINES - 2]),
        ]
        caption = "Loss. The training loss is the mean since the line of the log before, dropout included."
        return _chart(lines, "loss (nats)", caption)
    charts = []
    for split, name in (("train", "Training"), ("dev", "Dev")):
        lines = [_line(run.name, run.curve(split, "loss")) for run in runs[:_LINES]]
        charts += _chart(lines, "loss (nats)", f"{name} loss of each run.")
    return charts


def _scores(runs: Sequence[StoredRun]) -> list[str]:
    names = [name for name in dict.fromkeys(name for run in runs for name in run.logged("dev")) if name not in _NEVER]
    charts = []
    if len(runs) > 1:
        for name in names:
            lines = [_line(run.name, run.curve("dev", name)) for run in runs[:_LINES]]
            charts += _chart(lines, name, f"{name} on dev, of each run.")
    else:
        (run,) = runs
        values = {name: run.curve("dev", name)[1] for name in names}
        shares = [name for name in names if all(0 <= value <= 1 for value in values[name])]
        percents = [name for name in names if name in _PERCENT and name not in shares]
        others = [[name] for name in names if name not in (*shares, *percents)]
        for group in (shares, percents, *others):
            lines = [_line(name, run.curve("dev", name)) for name in group[:_LINES]]
            charts += _chart(
                lines, " and ".join(group[:2]) if len(group) < 3 else "score", f"Scores on dev: {_listed(group)}."
            )
    lines = [
        _line(run.name if len(runs) > 1 else "perplexity", run.curve("dev", "perplexity")) for run in runs[:_LINES]
    ]
    return charts + _chart(lines, "perplexity", "Perplexity on dev, on a logarithmic axis.", log=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LINES])


def _rates(runs: Sequence[StoredRun]) -> list[str]:
    lines = [_line(run.name, run.curve("train", "lr")) for run in runs[:_LINES]]
    return _chart(lines, "learning rate", "Learning rate.")


def _norms(runs: Sequence[StoredRun]) -> list[str]:
    lines = [_line("norm" if len(runs) == 1 else run.name, run.curve("train", "grad_norm")) for run in runs[:_LINES]]
    limit = runs[0].training.get("clip_norm")
    note = ""
    if len(runs) == 1 and is_number(limit):
        if lines[0] is not None:
            lines.append(Line("training.clip_norm", [0, max(lines[0].x)], [limit, limit]))
        note = _clipped(runs[0])
    caption = f"Norm of the gradient before clipping, the mean since the line of the log before. {note}".strip()
    return _chart(lines, "norm of the gradient", caption, log=True)


def _clipped(run: StoredRun) -> str:
    """Say how often gradients were clipped; earlier versions did not count."""
    records = [one for one in run.split("train") if is_number(one.get("clipped")) and is_number(one.get("step"))]
    if not records:
        return ""
    clipped, updates = sum(int(one["clipped"]) for one in records), int(records[-1]["step"])
    share = f" ({clipped / updates:.1%})" if updates else ""
    return f"Gradients were clipped in {clipped:,} of {updates:,} updates{share}."


def samples(runs: Sequence[StoredRun]) -> list[str]:
    """Return how the answers to some dev examples changed during training, where runs have logged them; of several runs
    the examples that the first one with samples has logged."""
    logged = [_samples(run) for run in runs[:_LINES]]
    chosen = next((one for one in logged if one), {})
    most = _TIMES if len(runs) == 1 else _TIMES_OF_EACH
    shown = []
    for given in list(chosen)[:_SAMPLES]:
        lines = list(zip(given[::2], given[1::2], strict=True))
        for run, outputs in zip(runs, logged, strict=False):
            steps = sorted(outputs.get(given, {}))
            if len(steps) > most:
                steps = [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]
            name = "" if len(runs) == 1 else f"{run.name}, "
            lines += [(f"{name}update {step:,}", outputs[given][step]) for step in steps]
        shown.append(Example("", "", [(name, [Piece(text)]) for name, text in lines]))
    if not shown:
        return []
    return [
        section("Samples over time"),
        paragraph("The same dev examples, answered at several times."),
        example_list(shown),
    ]


def _samples(run: StoredRun) -> dict[tuple[str, ...], dict[int, str]]:
    """Return the outputs of each example by step; an example is the names and texts of what it holds beside."""
    found: dict[tuple[str, ...], dict[int, str]] = {}
    for record in run.split("sample"):
        given = {name: text for name, text in record.items() if name not in ("split", "step") and isinstance(text, str)}
        if "output" in given and is_number(record.get("step")):
            output = given.pop("output")
            found.setdefault(tuple(part for pair in given.items() for part in pair), {})[int(record["step"])] = output
    return found
