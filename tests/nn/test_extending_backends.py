"""A backend of one's own: its file and a row in the table, from Python and from YAML."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import seqkit
import seqkit.nn as snn
from seqkit.nn.backends import BACKENDS
from seqkit.nn.backends.backend import Backend, Route
from seqkit.nn.backends.reference import Reference

CODE = """
import torch

from seqkit.nn.backends.backend import Backend, Route


class Backwards(Backend):
    \"\"\"The step loop, written again.\"\"\"

    needs_kernel = False
    calls = 0

    def route(self, network, x, packing, reason):
        if x.dtype == torch.float64:
            return "float64 is too wide"
        return Route("mine", reason or "mine first")

    def scan(self, cell, rows, packing, state, prepared):
        Backwards.calls += 1
        rows, outputs, ended, first = cell.project(rows, prepared), [], [], 0
        for size, here in zip(packing.batch_sizes, prepared.split(packing.batch_sizes)):
            ended = [tuple(part[size:] for part in state), *ended]
            state, _ = cell.step(rows[first : first + size], tuple(part[:size] for part in state), here)
            outputs.append(state[0])
            first += size
        return torch.cat(outputs), tuple(torch.cat(parts) for parts in zip(state, *ended))
"""
PROGRAM = """
import sys
from seqkit import run
from seqkit.nn.backends.mine import Backwards

small = [f"data.{part}.limit=128" for part in ("train", "dev", "test")]
done = run.train(sys.argv[1], "model.encoder.backend=mine", "training.epochs=1", *small, root=sys.argv[2])
assert Backwards.calls
assert "backend: mine" in (done.folder / "config.yaml").read_text()
"""


@pytest.fixture(name="mine")
def _mine(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The backend as the last row but the step loop's; `auto` reaches it for cells without a kernel."""
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    monkeypatch.delitem(BACKENDS, "reference")
    monkeypatch.setitem(BACKENDS, "mine", scope["Backwards"]())
    monkeypatch.setitem(BACKENDS, "reference", Step())
    backend: type[Any] = scope["Backwards"]
    return backend


class Step(Backend):
    """Takes every call and fails to run it, so that a test sees who ran."""

    needs_kernel: ClassVar[bool] = False

    def route(self, network: Any, x: Tensor, packing: Any, reason: str) -> Route | str:
        return Route("reference", reason)


@pytest.mark.parametrize("kind", ["lstm", "gru", "jordan"])
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
def test_it_runs_what_asks_for_it(mine: type[Any], kind: str, lengths: list[int] | None) -> None:
    x = torch.randn(5, 3, 4)
    module = snn.Recurrent(kind, 4, 6, 2, bidirectional=True, backend="mine")
    assert module.backend_for(x, lengths=lengths) == ("mine", "asked for")
    output, state = module(x, lengths=lengths)
    assert mine.calls == 4
    BACKENDS["reference"] = Reference()
    module.backend = "reference"
    expected, last = module(x, lengths=lengths)
    for one, other in zip((output, *state), (expected, *last), strict=True):
        torch.testing.assert_close(one, other)


def test_auto_asks_it_in_its_place(mine: type[Any]) -> None:
    x = torch.randn(5, 3, 4)
    assert snn.Recurrent("lstm", 4, 6).backend_for(x).name == "vendor"
    assert snn.Recurrent("jordan", 4, 6).backend_for(x) == ("mine", "JordanCell has no fused kernel")
    wide = snn.Recurrent("jordan", 4, 6, dtype=torch.float64).backend_for(x.double())
    assert wide == ("reference", "float64 is too wide")


def test_row_before_the_others_serves_modules_that_were_called_before() -> None:
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    module, x, rows = snn.LSTM(4, 6), torch.randn(1, 3, 4), dict(BACKENDS)
    output, state = module(x)
    try:
        BACKENDS.clear()
        BACKENDS.update({"mine": scope["Backwards"](), **rows})
        torch.testing.assert_close(module(x)[0], output)
        torch.testing.assert_close(module.step(x[0])[1], state)
        assert scope["Backwards"].calls == 2
    finally:
        BACKENDS.clear()
        BACKENDS.update(rows)  # in their order, which monkeypatch does not keep
    module(x)
    assert scope["Backwards"].calls == 2


def test_what_it_refuses_is_an_error_where_it_is_asked_for(mine: type[Any]) -> None:
    module = snn.LSTM(4, 6, backend="mine", dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"^backend 'mine' cannot run this call: float64 is too wide; take 'auto'"):
        module(torch.randn(5, 3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"backend must be one of 'auto', .*'mine'"):
        snn.LSTM(4, 6, backend="yours")


def test_a_file_and_a_line_make_a_choice_of_yaml(tmp_path: Path) -> None:
    package = shutil.copytree(Path(seqkit.__file__).parent, tmp_path / "seqkit")
    (package / "nn" / "backends" / "mine.py").write_text(CODE)
    table = package / "nn" / "backends" / "__init__.py"
    text = table.read_text("utf-8")
    for line, added in (
        ("from seqkit.nn.backends.reference import Reference\n", "from seqkit.nn.backends.mine import Backwards\n"),
        ('    "vendor": Vendor(),\n', '    "mine": Backwards(),\n'),
    ):
        assert line in text
        text = text.replace(line, added + line)
    table.write_text(text, "utf-8")
    config = Path(__file__).parents[2] / "configs" / "sentiment" / "quickstart.yaml"
    command = [sys.executable, "-c", PROGRAM, config, tmp_path / "runs"]
    env = {"PATH": "", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
