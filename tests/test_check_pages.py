"""scripts/check_pages.py: it finds what is wrong with a page, where its programs are installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from seqkit import drawing

pytest.importorskip("jinja2")

SCRIPT = Path(__file__).parents[1] / "scripts/check_pages.py"
BAD = """<!DOCTYPE html><html lang="en"><head><title>bad</title></head><body><main><h1>bad</h1>
<p style="color:#999999;background:#ffffff">pale</p><img src="data:,"><p style="width:600px">wide</p><b></main>
</body></html>"""


@pytest.fixture(scope="module")
def check_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_pages", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_pages"] = module
    spec.loader.exec_module(module)
    return module


def test_findings_are_told(check_pages: ModuleType, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    parts = [drawing.section("Numbers"), drawing.heat_map(["a"], ["b"], [[0.5]], "one", across="step", shares=True)]
    good.write_text(drawing.page("Good", "A page", parts), "utf-8")
    bad.write_text(BAD, "utf-8")
    try:
        findings = check_pages.check([good, bad], install=False)
    except check_pages.Missing as error:
        pytest.skip(str(error))
    assert {one.page for one in findings} == {"bad.html"}
    seen = {(one.rule, one.where) for one in findings}
    for scheme in ("light", "dark"):
        assert ("color-contrast", f"phone, {scheme}") in seen
        assert ("image-alt", f"desktop, {scheme}") in seen
        assert ("overflow", f"phone, {scheme}") in seen
        assert ("overflow", f"desktop, {scheme}") not in seen
    assert any(rule == "close-order" for rule, _ in seen)


def test_many_findings_are_all_told(check_pages: ModuleType, tmp_path: Path) -> None:
    """More of them than a pipe holds."""
    page = tmp_path / "long.html"
    page.write_text(drawing.page("Long", "A page", ["<center>old</center>"] * 400), "utf-8")
    try:
        findings = check_pages.validate([page], check_pages.packages(install=False))
    except check_pages.Missing as error:
        if "html-validate failed" in str(error):
            raise
        pytest.skip(str(error))
    assert sum(one.rule == "deprecated" for one in findings) == 400


def test_a_missing_program_is_named(
    check_pages: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert check_pages.main(["lesson-memory"]) == 2
    assert "node is not installed; on Debian: apt-get install nodejs npm" in capsys.readouterr().err


def test_every_lesson_has_a_page(check_pages: ModuleType) -> None:
    from seqkit.lessons import LESSONS

    assert {f"lesson-{name}" for name in LESSONS} <= set(check_pages.MAKERS)
