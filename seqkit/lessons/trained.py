"""Runs that lessons look at: trained for them, or the user's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seqkit.console import say
from seqkit.errors import Option, UserError
from seqkit.run import load, train
from seqkit.tasks import RunTask

SEED = 1


@contextmanager
def trained(configurations: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, RunTask]]:
    """Train a run for each configuration, and return the models by the names of the configurations.

    The run folders are temporary. Training shows its progress on standard error.
    """
    with TemporaryDirectory(prefix="seqkit-lesson-") as folder:
        models = {}
        for place, (name, configuration) in enumerate(configurations.items(), 1):
            say(f"training {name} ({place} of {len(configurations)})")
            finished = train({"name": f"run-{place}", "seed": SEED, "device": "cpu", **configuration}, root=folder)
            models[name] = load(finished.folder, device="cpu")
        yield models


def opened(runs: Sequence[Path], task: str, trust: bool) -> dict[str, Any]:
    """Load runs by their folders' names.

    Raises:
        UserError: one cannot be loaded, or is of another task; two have the same name.
    """
    models: dict[str, Any] = {}
    for run in runs:
        model = load(run, trust=trust)
        if model.kind != task:
            raise UserError(Option("run", str(run)), f": a {model.kind} run; this lesson takes {task} runs")
        name = run.resolve().name
        if name in models:
            raise UserError(Option("run", str(run)), f": two runs are called {name}")
        models[name] = model
    return models


def training(epochs: int, rate: float, **more: Any) -> dict[str, Any]:
    """Return the `training` section of a short run, which is evaluated at its end."""
    return {
        "epochs": epochs,
        "evaluate_epochs": epochs,
        "optimizer": {"name": "adamw", "lr": rate},
        "schedule": {"name": "one_cycle"},
        **more,
    }
