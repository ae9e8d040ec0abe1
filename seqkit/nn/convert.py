"""To and from torch.nn's recurrent modules; parameters are shared, not copied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from seqkit.nn.cells import Cell, GRUCell, LSTMCell, RNNCell
from seqkit.nn.faces import GRU, LSTM, RNN
from seqkit.nn.fused.lstm import LSTMKernel
from seqkit.nn.recurrent import Recurrent

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def from_torch(module: nn.Module) -> nn.Module:
    """The seqkit module for a torch recurrent module or cell; in any other model, swap all of them in place.

    Parameters are the same objects as before (an optimiser that holds them goes on working), as are the training
    mode and forward and backward hooks. A module that is used in two places stays one module.

    Args:
        module: `torch.nn.RNN`, `LSTM`, `GRU` or one of their cells, or any model that contains some.

    Returns:
        the new module, or the given model after the swap.

    Raises:
        ValueError: a recurrent module with parametrizations; remove and register them again on the result.
    """
    return _swap(module, {})


def _swap(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    new = _one(module)
    done[id(module)] = new
    if new is module:
        for name, child in list(module.named_children()):
            setattr(module, name, _swap(child, done))
    return new


def _one(module: nn.Module) -> nn.Module:
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return module
    if parametrize.is_parametrized(module):
        raise ValueError(f"module {type(module).__name__} has parametrizations; remove them before the conversion")
    first = next(module.parameters())
    given: dict[str, Any] = {"bias": module.bias, "device": "meta", "dtype": first.dtype}
    new: nn.Module
    if isinstance(module, nn.RNNBase):
        given |= {key: getattr(module, key) for key in ("num_layers", "batch_first", "bidirectional")}
        # One layer with dropout is a warning at construction; torch has given it already.
        given["dropout"] = module.dropout if module.num_layers > 1 else 0.0
        sizes = (module.input_size, module.hidden_size)
        if isinstance(module, nn.LSTM):
            new = LSTM(*sizes, proj_size=module.proj_size, **given)
        elif isinstance(module, nn.GRU):
            new = GRU(*sizes, **given)
        else:
            new = RNN(*sizes, nonlinearity="relu" if module.mode == "RNN_RELU" else "tanh", **given)
    else:
        sizes = (module.input_size, module.hidden_size)
        if isinstance(module, nn.LSTMCell):
            new = LSTMCell(*sizes, **given)
        elif isinstance(module, nn.GRUCell):
            new = GRUCell(*sizes, **given)
        else:
            new = RNNCell(*sizes, nonlinearity="relu" if module.nonlinearity == "relu" else "tanh", **given)
    return _share(module, new)


def _share(old: nn.Module, new: nn.Module) -> nn.Module:
    for name, value in old.named_parameters():
        new.register_parameter(name, value)
    for hooks in HOOKS:
        getattr(new, hooks).update(getattr(old, hooks))
    return new.train(old.training)


def to_torch(module: Recurrent | Cell) -> nn.Module:
    """The `torch.nn` module that computes the same; the way back from `from_torch`, parameters shared.

    Raises:
        ValueError: an option that torch.nn lacks is set; the message names it.
        TypeError: neither a recurrent module nor a cell of this package.
    """
    if isinstance(module, Recurrent):
        for name in ("locked_dropout", "residual", "learn_initial_state"):
            if getattr(module, name):
                raise ValueError(f"{name} has no counterpart in torch.nn")
        mode, options = _mode(module.cell_at(0))
        keys = ("num_layers", "batch_first", "bidirectional", "dropout")
        options |= {key: getattr(module, key) for key in keys}
        kind = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(mode, nn.RNN)
    elif isinstance(module, Cell):
        mode, options = _mode(module)
        if options.pop("proj_size", 0):
            raise ValueError("proj_size has no counterpart in torch.nn.LSTMCell")
        kind = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell}.get(mode, nn.RNNCell)
    else:
        raise TypeError(f"module must be a seqkit.nn recurrent module or cell, got {type(module).__name__}")
    first = next(module.parameters())
    with torch.device("meta"):
        new = kind(module.input_size, module.hidden_size, **options)
    return _share(module, new.to(first.dtype))


def _mode(cell: Cell) -> tuple[str, dict[str, Any]]:
    """ATen's name of a plain cell and its options for torch.nn."""
    if getattr(cell, "weight_drop", 0):
        raise ValueError("weight_drop has no counterpart in torch.nn")
    if getattr(cell, "recurrent_dropout", 0):
        raise ValueError("recurrent_dropout has no counterpart in torch.nn")
    kernel, mode, options = cell.kernel(), cell.vendor_mode(), {"bias": getattr(cell, "bias", True)}
    if isinstance(kernel, LSTMKernel) and kernel.proj_size and replace(kernel, proj_size=0).is_plain:
        return "LSTM", {**options, "proj_size": kernel.proj_size}
    if mode is None:
        raise ValueError(f"{type(cell).__name__} as configured has no counterpart in torch.nn")
    if mode.startswith("RNN_"):
        options["nonlinearity"] = mode.removeprefix("RNN_").lower()
    return mode, options
