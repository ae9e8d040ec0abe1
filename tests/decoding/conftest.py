"""Shared by the tests of seqkit.decoding: a small model, and plain searches over it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def plain():
    """The module plain.py beside this file (tests are no package, so it cannot be imported by name)."""
    spec = importlib.util.spec_from_file_location("decoding_plain", Path(__file__).parent / "plain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
