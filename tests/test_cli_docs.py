"""`seqkit docs`: the pages of the manual in a terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqkit.cli.docs import PAGES, plain, summary

NAMES = sorted(path.stem for path in PAGES.glob("*.md"))


def test_all_pages_are_listed_with_a_line_each(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli(tmp_path, "docs")
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 3 and len(line) <= 80 for line in lines)
    assert "translation" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_printed_without_comments_and_targets_of_links(
    cli: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    text = cli(tmp_path, "docs", name).stdout.decode()
    assert text.startswith("# ")
    assert summary((PAGES / f"{name}.md").read_text("utf-8")) in text
    assert "<!--" not in text
    assert ".md)" not in text


def test_code_is_printed_as_it_is() -> None:
    code = "```python\nCELLS[name](3)  # <!-- x --> [a](b.md)\n```\n"
    text = f"[a](https://b.md/)\n<!-- long: why -->\n{code}[c](d-e.md), [c](#d), [c](d-e.md#f)\n"
    assert plain(text) == f"a\n{code}`seqkit docs d-e`, c, `seqkit docs d-e`\n"


def test_a_wrong_name_is_one_error_with_the_nearest_page(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli(tmp_path, "docs", "translations")
    assert done.returncode == 2
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert "'translations'" in line
    assert "did you mean 'translation'" in line


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, seqkit.cli\ntry:\n    seqkit.cli.main(['docs', 'slots'])\nexcept SystemExit:\n    pass\n"
    heavy = "print([name for name in ('torch', 'numpy', 'datasets', 'seqkit.run') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
