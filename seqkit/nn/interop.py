"""With torch's own tools: `torch.fx`, and `torch.load(weights_only=True)` of whole models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch.fx
from torch import nn

from seqkit.nn.attention import Attention
from seqkit.nn.cells import Cell
from seqkit.nn.crf import CRF
from seqkit.nn.custom_op import Operator, describe
from seqkit.nn.recurrent import Recurrent

_PACKAGE = __name__.partition(".")[0]


class LeafTracer(torch.fx.Tracer):
    """A tracer of `torch.fx` that keeps every module of `seqkit.nn` whole: one node that calls it.

    `torch.fx.symbolic_trace` looks into all modules but those of torch.nn, and the steps of a recurrence depend on
    values that it does not have.

    Example:
        graph = seqkit.nn.LeafTracer().trace(model)
        traced = torch.fx.GraphModule(model, graph)
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether the module `m`, called `module_qualified_name` in the model, is kept whole."""
        ours = isinstance(m, (Recurrent, Cell, CRF, Attention)) or type(m).__module__.startswith(f"{_PACKAGE}.nn.")
        return ours or super().is_leaf_module(m, module_qualified_name)


def safe_globals() -> list[Any]:
    """List what `torch.load(..., weights_only=True)` must be allowed for a whole model that `torch.save(model)` wrote.

    A model class of your own goes beside them. State dicts (`torch.save(model.state_dict())`) need none of it.

    Returns:
        every module class of this package that is imported, and the classes of torch.nn that these are made of.

    Example:
        with torch.serialization.safe_globals([MyModel, *seqkit.nn.safe_globals()]):  # torch 2.5 and later
            model = torch.load("model.pt")
    """
    kinds = [kind for kind in _subclasses(nn.Module) if kind.__module__.partition(".")[0] == _PACKAGE]
    # torch.export leaves subclasses behind that go by the names of their bases.
    modules = [kind for kind in kinds if getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind]
    parts = (nn.ModuleList, nn.Linear, nn.Embedding, nn.Dropout, nn.Conv1d, nn.Sequential)
    return [*modules, *parts, nn.AdaptiveLogSoftmaxWithLoss, Operator, describe]


def _subclasses(kind: type[nn.Module]) -> Iterator[type[nn.Module]]:
    subclass: type[nn.Module]
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
