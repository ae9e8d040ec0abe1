"""To and from torch.nn's recurrent modules; parameters are shared, not copied."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from seqkit.nn.cells import Cell, GRUCell, LSTMCell, RNNCell
from seqkit.nn.recurrent import Recurrent
from seqkit.nn.rnn import GRU, LSTM, RNN

FROM_TORCH: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}
TO_TORCH = {ours: theirs for theirs, ours in FROM_TORCH.items()}


def from_torch(module: nn.Module, *, strict: bool = False) -> nn.Module:
    """Convert a torch recurrent module or cell to seqkit's; in any other model, swap all of them in place.

    Everything that the module carries goes over: parameters are the same objects as before (an optimiser that holds
    them goes on working), and so are the tables of its hooks of every kind (handles go on working), buffers,
    submodules and attributes that were added to it; the training mode is kept. A module that is used in two places
    stays one module, and a Python list or a closure that holds a module keeps the old one, with the same parameters.

    Modules that are exactly `torch.nn.RNN`, `LSTM`, `GRU` or one of their cells are swapped. These are left alone, with
    one UserWarning that lists them: subclasses, parametrized, pruned, weight-normed or scripted modules, modules that
    are compiled themselves, and those with a method or a parameter replaced. Convert first, and do that afterwards.

    The new modules are not instances of torch's: code that asks `isinstance(m, torch.nn.LSTM)`, as many functions that
    initialise weights do, takes another branch. Either call such code before the conversion (the parameters are
    shared), or let it ask for `(torch.nn.LSTM, seqkit.nn.LSTM)`; `to_torch` goes back for code that cannot be changed,
    such as `torch.ao.quantization.quantize_dynamic`, which passes over modules that it does not know.

    Args:
        module: a recurrent module or cell of torch.nn, or any model that contains some.
        strict: raise an error, before anything is changed, where a recurrent module would be left alone.

    Returns:
        the new module, or the given model after the swap.

    Raises:
        ValueError: with `strict`, what the warning would say.
    """
    return _convert(module, _is_torch, _refuses, _from_one, strict)


def to_torch(module: nn.Module, *, strict: bool = False) -> nn.Module:
    """Convert a module or cell of this package to torch.nn's; in any other model, swap all of them in place.

    This is the way back from `from_torch`, which says what goes over.

    In a model, modules that torch.nn has no counterpart for are left alone, with one UserWarning that lists them. Where
    the model calls them with `lengths=`, it must pack its input instead (`torch.nn.utils.rnn.pack_padded_sequence`).

    Args:
        module: a recurrent module or cell of this package, or any model that contains some.
        strict: raise an error, before anything is changed, where a module would be left alone.

    Returns:
        the new module, or the given model after the swap.

    Raises:
        ValueError: an option that torch.nn lacks is set; the message names it. In a model, with `strict` only.
    """
    if isinstance(module, (Recurrent, Cell)):
        if (why := _refuses(module)) is not None:
            raise ValueError(f"{type(module).__name__} is {why}, which torch.nn has no counterpart for")
        return _to_one(module)
    return _convert(module, _is_ours, _no_counterpart, _to_one, strict)


def _convert(
    model: nn.Module,
    wanted: Callable[[nn.Module], bool],
    refuses: Callable[[nn.Module], str | None],
    make: Callable[[nn.Module], nn.Module],
    strict: bool,
) -> nn.Module:
    """Swap the wanted modules wherever they are registered, and say what is left alone."""
    chosen, reasons = [], {}
    for name, module, parent in _tree(model, wanted):
        if not wanted(module):
            continue
        # A wrapper that `torch.compile(module)` made goes on calling the module that it was made for.
        bound = module is not model and type(parent).__name__ == "OptimizedModule"
        if (why := "compiled" if bound else refuses(module)) is None:
            chosen.append(module)
        else:
            reasons[name or "the module itself"] = why
    if reasons:
        listed = "; ".join(f"{name} ({why})" for name, why in reasons.items())
        if strict:
            raise ValueError(f"strict: recurrent modules that cannot be converted: {listed}; nothing was changed")
        warnings.warn(f"recurrent modules left as they are: {listed}", UserWarning, stacklevel=3)
    new = {id(old): make(old) for old in chosen}
    if id(model) in new:
        return new[id(model)]
    for _, parent, _ in list(_tree(model, wanted)):
        for name, child in _children(parent):
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return model


def _tree(module: nn.Module, wanted: Callable[[nn.Module], bool]) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Name, module and parent of every module, each once, parents first; nothing below one that is wanted."""
    seen: set[int] = set()
    waiting = [("", module, module)]
    while waiting:
        name, current, parent = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield name, current, parent
        if not wanted(current):
            waiting += [(f"{name}.{key}".lstrip("."), child, current) for key, child in reversed(_children(current))]


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return all of them: unlike `named_children`, one that has two names comes twice."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _is_torch(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name in {kind.__name__ for kind in FROM_TORCH}
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase))


def _is_ours(module: nn.Module) -> bool:
    return isinstance(module, (Recurrent, Cell))


def _no_counterpart(module: nn.Module) -> str | None:
    """Return why a module of this package that stands in a model cannot become one of torch.nn's."""
    if (why := _refuses(module)) is not None:
        return why
    if type(module) is Recurrent and len(module.state_sizes) == 1:
        return "its state is a tuple of one tensor, and torch's is bare"
    try:
        _options(module)
    except ValueError as error:
        return str(error)
    return None


# What every module has, besides the tables of hooks.
_PLAIN = ("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def _refuses(module: nn.Module) -> str | None:
    """Return why a recurrent module of either side cannot be taken over whole; None if it can."""
    kinds = (*FROM_TORCH, *TO_TORCH, Recurrent)
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted"
    if any(parametrize.is_parametrized(part) for part in module.modules()):
        return "parametrized"
    if type(module) not in kinds:
        near = next((kind.__name__ for kind in type(module).__mro__ if kind in kinds), "Cell")
        return f"{type(module).__name__}, a subclass of {near}"
    for name in _weight_names(module):
        if module._parameters.get(name) is None:
            return f"{name} is no parameter of its own: pruned, weight-normed or replaced"
    for name, value in _added(module).items():
        if hasattr(type(module), name):
            return "compiled" if name == "_compiled_call_impl" else f"{name} set on the module itself"
        if getattr(value, "__self__", None) is module:
            return f"{name} is bound to it"
    return None


def _weight_names(module: nn.Module) -> list[str]:
    if isinstance(module, nn.RNNBase):
        return [name for names in module._all_weights for name in names]
    if isinstance(module, nn.RNNCellBase):
        return ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
    if isinstance(module, Recurrent):
        flat = [index for index in range(len(module.cells)) if module.cell_at(index).flat]
        return [full for index in flat for _, full in module._full_names[index]]
    return list(module.weight_names) if isinstance(module, Cell) else []


def _added(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that were added to a module after its construction."""
    plain = type(module)("rnn", 1, 1) if type(module) is Recurrent else type(module)(1, 1)
    known = set(plain.__dict__) | {"_describe", "operator", "has_kernel"}  # what a Recurrent keeps in its cells
    return {name: value for name, value in vars(module).items() if name not in known}


def _from_one(module: nn.Module) -> nn.Module:
    first = next(module.parameters())
    options: dict[str, Any] = {"bias": module.bias, "device": "meta", "dtype": first.dtype}
    if isinstance(module, nn.RNNBase):
        options |= {key: getattr(module, key) for key in ("num_layers", "batch_first", "bidirectional")}
    if isinstance(module, nn.LSTM):
        options["proj_size"] = module.proj_size
    elif isinstance(module, (nn.RNN, nn.RNNCell)):
        options["nonlinearity"] = module.mode[4:].lower() if isinstance(module, nn.RNN) else module.nonlinearity
    sizes: tuple[Any, Any] = (module.input_size, module.hidden_size)
    new = FROM_TORCH[type(module)](*sizes, **options)
    if isinstance(module, nn.RNNBase):
        vars(new)["dropout"] = module.dropout  # not above: with one layer it would warn again
    return _carry(module, new)


def _to_one(module: nn.Module) -> nn.Module:
    kind, options = _options(module)
    sizes: tuple[Any, Any] = (module.input_size, module.hidden_size)
    new = kind(*sizes, **options, device="meta", dtype=next(module.parameters()).dtype)
    if isinstance(module, Recurrent):
        vars(new)["dropout"] = module.dropout
    return _carry(module, new)


def _options(module: nn.Module) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return the class in torch.nn that computes the same, and its options.

    Raises:
        ValueError: there is none.
    """
    if isinstance(module, Recurrent):
        for name in ("locked_dropout", "residual", "learn_initial_state"):
            if getattr(module, name):
                raise ValueError(f"{name} has no counterpart in torch.nn")
        mode, options = _mode(module.cell_at(0))
        if any(_mode(module.cell_at(index)) != (mode, options) for index in range(len(module.cells))):
            raise ValueError("cells with different options have no counterpart in torch.nn")
        keys = ("num_layers", "batch_first", "bidirectional")
        return {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(mode, nn.RNN), options | {key: getattr(module, key) for key in keys}
    assert isinstance(module, Cell)
    mode, options = _mode(module)
    if options.pop("proj_size", 0):
        raise ValueError("proj_size has no counterpart in torch.nn.LSTMCell")
    return {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell}.get(mode, nn.RNNCell), options


def _mode(cell: Cell) -> tuple[str, dict[str, Any]]:
    """Return ATen's name of a plain cell, with or without a projection, and its options for torch.nn."""
    if getattr(cell, "weight_drop", 0):
        raise ValueError("weight_drop has no counterpart in torch.nn")
    if getattr(cell, "recurrent_dropout", 0):
        raise ValueError("recurrent_dropout has no counterpart in torch.nn")
    mode, options = cell.cudnn_mode(), {"bias": getattr(cell, "bias", True)}
    if mode is None:
        raise ValueError(f"{type(cell).__name__} as configured has no counterpart in torch.nn")
    if mode.startswith("RNN_"):
        options["nonlinearity"] = mode.removeprefix("RNN_").lower()
    if getattr(cell, "proj_size", 0):
        options["proj_size"] = cell.proj_size
    return mode, options


def _carry(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give `new` what `old` carries; tables of hooks are the same objects, so that handles can remove them."""
    for name, value in old._parameters.items():
        new.register_parameter(name, value)
    for name, buffer in old._buffers.items():
        new.register_buffer(name, buffer, persistent=name not in old._non_persistent_buffers_set)
    for name, child in old._modules.items():
        if not (isinstance(old, Recurrent) and name == "cells"):
            new.register_module(name, child)
    for name in vars(nn.Module()):
        if name not in _PLAIN:  # the tables of hooks, whatever this torch has
            new.__dict__[name] = old.__dict__[name]
    for hooks in (new._load_state_dict_pre_hooks, new._state_dict_pre_hooks, new._load_state_dict_post_hooks):
        for key, hook in hooks.items():
            _rebind(hooks, key, hook, old, new)
    for name, value in _added(old).items():
        new.__dict__[name] = value
    return new.train(old.training)


def _rebind(hooks: Any, key: int, hook: Any, old: nn.Module, new: nn.Module) -> None:
    """A state-dict hook that gets its module as an argument is kept with a reference to it."""
    if getattr(hook, "with_module", False) and hook.module() is old:
        hooks[key] = type(hook)(hook.hook, new)
