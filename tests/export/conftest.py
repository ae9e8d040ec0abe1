"""Runs of tests/fixtures, exported once, and predict.py in a Python without torch and seqkit."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import seqkit.export.scripts

# `exported`, which the scripts import from where they lie.
sys.path.append(str(Path(seqkit.export.scripts.__file__).parent))
# No test changes what `exported` returns: it copies it first.
FIXTURES = Path(__file__).parent.parent / "fixtures"
# What predict.py may import beside the standard library; the rest is not there for it.
_ALONE = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "seqkit", "onnx", "pydantic", "datasets", "safetensors"):
            raise ModuleNotFoundError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])  # as Python itself does
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, operators_once: None) -> Callable[[str], tuple[Path, Path]]:
    """`exported(name)`: a run of the fixtures, such as `2026-11/slots-finished`, and its exported folder."""
    pytest.importorskip("onnxscript", reason="onnxscript is an extra of the tests")
    from seqkit.export import export

    made: dict[str, tuple[Path, Path]] = {}
    root = tmp_path_factory.mktemp("exported")

    def make(name: str) -> tuple[Path, Path]:
        if name not in made:
            run = root / Path(name).name
            shutil.copytree(FIXTURES / name, run)
            said = list[str]()
            handler = logging.Handler(logging.WARNING)
            handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger().addHandler(handler)
            with warnings.catch_warnings():  # of torch, about its own functions
                warnings.simplefilter("ignore")
                made[name] = run, export(run)
            logging.getLogger().removeHandler(handler)
            assert not said, said
        return made[name]

    return make


@pytest.fixture(scope="session")
def alone() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """`alone(folder, *arguments, text=b"")`: predict.py of an exported folder, without torch and seqkit."""

    def run(folder: Path, *arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-W", "error", "-c", _ALONE, str(folder / "predict.py"), *arguments]
        return subprocess.run(command, input=text, capture_output=True, env=environment, cwd=folder.parent)

    return run
