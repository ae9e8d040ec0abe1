"""scripts/device/check.py, shortened: it must work on the day a device is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RUN = """
import runpy, sys
sys.path[:0] = [{root!r}, {here!r}]
if {device!r} == "fake":
    import fake_accelerator
    fake_accelerator.install()
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def check(device: str, out: Path, *more: str) -> dict[str, Any]:
    argv = [str(ROOT / "scripts/device/check.py"), "--device", device, "--quick", "--out", str(out), *more]
    code = RUN.format(root=str(ROOT), here=str(HERE), device=device, argv=argv)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


@pytest.mark.parametrize("device", ["cpu", "fake"])
def test_check_device(device: str, tmp_path: Path) -> None:
    if device == "fake":
        import torch

        if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 9):
            pytest.skip("torch's Python backends begin with 2.9")
    found = check(device, tmp_path / "out" / "found.json", "--minutes", "4", "--parts", "nn,tasks")
    assert found["failed"] == 0
    assert found["unreached"] == []
    cases = [row["case"] for row in found["rows"]]
    assert len(cases) > 100
    for begin in (
        "lstm",
        "gru",
        "rnn",
        "jordan",
        "masks",
        "second derivative",
        "default device",
        "CRF",
        "sentiment: resumes",
    ):
        assert any(case.startswith(begin) for case in cases), begin


def test_the_clock_stops_it(tmp_path: Path) -> None:
    found = check("cpu", tmp_path / "found.json", "--minutes", "0.02", "--parts", "nn,speed")
    assert found["unreached"] == ["nn", "speed"]
