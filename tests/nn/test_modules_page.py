"""The Python blocks of the page `modules` run, and the custom cell there learns."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import seqkit


def test_blocks_run():
    text = (Path(seqkit.__file__).parent / "docs/modules.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    torch.manual_seed(0)
    scope = {"x": torch.randn(3, 5, 128), "lengths": torch.tensor([5, 2, 4])}
    exec(blocks[0], scope)
    assert scope["output"].shape == (3, 5, 512)
    scope = {}
    exec(blocks[1], scope)
    assert scope["loss"] < 0.9
    exec(blocks[2], scope)
    assert (*scope["features"].shape, *scope["weights"].shape) == (3, 1, 48, 3, 1, 7)
