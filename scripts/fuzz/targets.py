"""What `run.py` runs: one class a target, each a call that takes its decisions from `Choices`, and some hard cases."""

from __future__ import annotations

from pathlib import Path

from fuzz.parts import Target
from fuzz.run_targets import CheckpointTarget, NamesTarget, PredictTarget
from fuzz.text_targets import ConfigTarget, ReadersTarget, VectorsTarget


def make(name: str, home: Path) -> Target:
    """The target of a name."""
    kinds: dict[str, type[Target]] = {
        "config": ConfigTarget,
        "readers": ReadersTarget,
        "vectors": VectorsTarget,
        "checkpoint": CheckpointTarget,
        "predict": PredictTarget,
        "names": NamesTarget,
    }
    return kinds[name](home)
