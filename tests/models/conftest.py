"""Shared by the tests of encoder-decoders: models, batches, and a plain decoder to compare with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def plain() -> ModuleType:
    """The module plain.py beside this file (tests are no package, so it cannot be imported by name)."""
    spec = importlib.util.spec_from_file_location("models_plain", Path(__file__).parent / "plain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
