"""The Triton kernels in Triton's interpreter, which needs a process of its own (see `triton_interpreted.py`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqkit.nn.kernels.triton.support import recent

needs_triton = pytest.mark.skipif(not recent(), reason="no recent Triton is installed")


@needs_triton
def test_in_the_interpreter():
    file = Path(__file__).with_name("triton_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-q", "-x", str(file)]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_import_needs_no_triton():
    """`seqkit.nn` and the table of counterparts load without Triton."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import seqkit.nn\n"
        "from seqkit.nn.kernels.triton.counterparts import triton_kernel\n"
        "from seqkit.nn.cells import LSTMCell\n"
        "triton_kernel(LSTMCell(2, 3).kernel())\n"
        "assert not any(name.startswith('triton.') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
