"""For the files that `test_devices.py` runs in processes of their own: the device, and how results are compared."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module fake_accelerator.py, installed for the rest of the process."""
    path = Path(__file__).with_name("fake_accelerator.py")
    spec = importlib.util.spec_from_file_location("fake_accelerator", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["fake_accelerator"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install()
    return module
