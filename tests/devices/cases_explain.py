"""Explanations and traces on the pretended accelerator are those of the CPU. Run by test_devices.py."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

import seqkit

pytest.importorskip("captum")

RUNS = ("sentiment", "slots", "translation", "language_model")
FIXTURES = Path(__file__).parents[1] / "fixtures/2026-11"


@pytest.mark.parametrize("kind", RUNS)
def test_explanations_are_those_of_the_cpu(fake: ModuleType, kind: str) -> None:
    fake.install()
    text = "the film was dull"
    there, here = (seqkit.load(FIXTURES / f"{kind}-finished", device) for device in (fake.NAME, "cpu"))
    assert there.device.type == fake.NAME
    one, other = there.explain([text])[0], here.explain([text])[0]
    assert [token.text for token in one.tokens] == [token.text for token in other.tokens]
    for found, wanted in zip(one.attributions, other.attributions, strict=True):
        assert found.target == wanted.target
        assert found.gradients == pytest.approx(wanted.gradients, abs=1e-5)
        assert found.occlusion == pytest.approx(wanted.occlusion, abs=1e-5)
        assert abs(found.gap or 0.0) <= 1e-4
    bits = [surprisal.bits for surprisal in other.surprisals]
    assert [surprisal.bits for surprisal in one.surprisals] == pytest.approx(bits, rel=1e-4)
    for found_layer, wanted_layer in zip(there.trace(text).layers, here.trace(text).layers, strict=True):
        for name, value in wanted_layer.values.items():
            assert torch.allclose(found_layer.values[name], value, atol=1e-5)
    assert one.html()
    assert there.trace(text).html()
