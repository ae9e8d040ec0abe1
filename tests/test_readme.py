"""README's code blocks run, but for those marked long and the two set-up lines, which .ci/run executes.

Trainings are those of README cut to three steps on little data; what else a block does, it does as written.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")
SETUP = re.compile(r"<!-- first two commands -->.*?<!-- end -->", re.S)
BLOCK = re.compile(r"(<!-- long: [^>]+ -->\n)?```(bash|python)\n(.*?)```", re.S)
SHORTER = ["training.epochs=null", "training.steps=3", *(f"data.{part}.limit=50" for part in ("train", "dev", "test"))]
# The command may not be installed where the tests run from a checkout; what is to be installed is.
SHELL = f"""set -e
pip() {{ echo "pip $*"; }}
seqkit() {{
  case "$1 $2" in "train configs/"*) set -- "$@" {" ".join(SHORTER)} ;; esac
  "{sys.executable}" -m seqkit "$@"
}}
"""
BLOCKS = [(number, *match.groups()) for number, match in enumerate(BLOCK.finditer(SETUP.sub("", TEXT)))]


def test_the_first_block_is_the_two_set_up_lines() -> None:
    match = SETUP.search(TEXT)
    assert match
    lines = [line for line in match.group().splitlines() if line.startswith("pip ")]
    assert lines == [
        "pip install . && seqkit train configs/sentiment/quickstart.yaml",
        "pip install '.[test]' && pytest",
    ]
    assert TEXT.index(match.group()) == TEXT.index("<!--")


def test_what_blocks_install_are_extras_of_the_project() -> None:
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = [name for group in re.findall(r"^pip install '\.\[([^]]+)\]'", TEXT, re.M) for name in group.split(",")]
    assert "translation" in named
    assert set(named) <= set(extras)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the first set-up line leaves it, with a shorter training."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    command = [sys.executable, "-m", "seqkit", "train", "configs/sentiment/quickstart.yaml", *SHORTER]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("number", "long", "language", "code"), BLOCKS, ids=[f"block-{block[0]}" for block in BLOCKS])
def test_block_runs(home: Path, number: int, long: str | None, language: str, code: str) -> None:
    if long:
        pytest.skip(long.strip("<!-> \n"))
    if language == "bash":
        done = subprocess.run(["bash", "-c", SHELL + code], cwd=home, capture_output=True, text=True, timeout=300)
    else:
        done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
