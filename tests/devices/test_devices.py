"""Nothing is left on the CPU, proven without a GPU: each `cases_*.py` runs in a process with a pretended accelerator.

In a process of its own, because torch knows the device for the rest of it. `fake_accelerator.py` says what it shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
AREAS = sorted(HERE.glob("cases_*.py"))
VERSION = tuple(map(int, torch.__version__.split(".")[:2]))

pytestmark = pytest.mark.skipif(
    VERSION < (2, 9), reason=f"backends in Python came with torch 2.9; this is {torch.__version__}"
)


def test_there_are_areas() -> None:
    assert AREAS


@pytest.mark.parametrize("area", AREAS, ids=lambda path: path.stem.removeprefix("cases_"))
def test_on_a_pretended_accelerator(area: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--tb", "short", str(area)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1])
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
