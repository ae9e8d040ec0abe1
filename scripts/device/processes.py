"""Two processes with a device each, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from device.report import Report
from device.tasks import COMMON, ROOT


def check(report: Report) -> None:
    """The losses of two processes are those of one."""
    if report.device not in ("cuda", "cpu") or (report.device == "cuda" and torch.cuda.device_count() < 2):
        print("two devices of a kind are needed: nothing was tried")
        return
    plain = ["model.dropout=0", "training.steps=8", f"device={report.device}"]
    with tempfile.TemporaryDirectory() as folder, report.case("sentiment: two processes as one") as values:
        found = []
        for count in (1, 2):
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count),
                "-m", "seqkit", "train", str(ROOT / "configs/sentiment/quickstart.yaml"), f"name=p{count}",
                *COMMON, *plain,
            ]  # fmt: skip
            environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
            lines = (Path(folder) / "runs" / f"p{count}" / "metrics.jsonl").read_text("utf-8").splitlines()
            found.append([record["loss"] for record in map(json.loads, lines) if "grad_norm" in record])
        values["error"] = max(abs(one - other) for one, other in zip(*found, strict=True))
        assert values["error"] < 1e-3, found
