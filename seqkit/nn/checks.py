"""Argument checks shared by the recurrent modules, whose messages name the argument; what surrounds a call."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
LARGEST_SIZE = 2**24
"""Of any size: two of them, times the gates, still make a number of elements that torch can count."""
_CAST = (torch.float32, torch.float16, torch.bfloat16)


def check_size(name: str, value: Any, largest: int = LARGEST_SIZE) -> int:
    """Check a size.

    Args:
        name: name of the argument, for messages.
        value: its value.
        largest: the largest that is allowed.

    Returns:
        the value.

    Raises:
        TypeError: not an int.
        ValueError: not from 1 to `largest`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
    if value > largest:
        raise ValueError(f"{name} must be at most {largest:,}")
    return value


def check_probability(name: str, value: Any) -> float:
    """Check a probability.

    Args:
        name: name of the argument, for messages.
        value: its value.

    Returns:
        the value as a float.

    Raises:
        ValueError: not a number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
    return float(value)


def check_flag(name: str, value: Any) -> bool:
    """Check a flag.

    Args:
        name: name of the argument, for messages.
        value: its value.

    Returns:
        the value as a bool.

    Raises:
        TypeError: anything but True and False (0 and 1 pass, as in torch).
    """
    if not isinstance(value, (bool, int)) or value not in (0, 1):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Check a choice.

    Args:
        name: name of the argument, for messages.
        value: its value.
        choices: what it may be.

    Returns:
        the value.

    Raises:
        ValueError: not one of the choices, which the message lists.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return str(value)


def from_table(name: str, value: str | Callable[..., T], table: Mapping[str, Callable[..., T]]) -> Callable[..., T]:
    """Look up the class or factory behind an argument: a name in a table, or the thing itself.

    Args:
        name: name of the argument, for messages.
        value: its value.
        table: name -> class.

    Returns:
        the class or factory.

    Raises:
        ValueError: an unknown name; with the nearest one.
        TypeError: something that is neither text nor callable.
    """
    if callable(value):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a name or a class, got {value!r}")
    if value in table:
        return table[value]
    hint = did_you_mean(value, table)
    advice = "; a name in text is for YAML files: import the class and give it itself" if ":" in value else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, table))}, or a class; got {value!r}{hint}{advice}")


def check_goes_with(name: str, value: Tensor, parameter: Tensor, error: type[Exception] = ValueError) -> None:
    """Raise RuntimeError if `value` is on another device than a module's parameter, `error` if its dtype differs."""
    if value.device != parameter.device:
        raise RuntimeError(f"{name} is on device {value.device} but the parameters are on {parameter.device}")
    if value.dtype != parameter.dtype and autocast_dtype(value, parameter) is None:
        raise error(f"{name} must have the type {parameter.dtype}, got type {value.dtype}")


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "; did you mean 'NAME'?" with the closest of the known names, or "" if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def dtype_name(value: Tensor) -> str:
    """Return the dtype as messages name it: "float32"."""
    return str(value.dtype).removeprefix("torch.")


def autocast_dtype(*values: Tensor) -> torch.dtype | None:
    """Return the dtype in which the active autocast computes with these tensors; None where it leaves them alone.

    Autocast touches float32 and the lower precisions, never float64 or complex numbers, as in torch.
    """
    kind = values[0].device.type
    if not autocast_enabled(kind) or any(value.dtype not in _CAST for value in values):
        return None
    if _ASKED_BY_DEVICE:
        return torch.get_autocast_dtype(kind)
    return torch.get_autocast_cpu_dtype() if kind == "cpu" else torch.get_autocast_gpu_dtype()


def autocast_enabled(device_type: str) -> bool:
    """Return whether autocast is on for the device type, which may have none."""
    if not _ASKED_BY_DEVICE:  # torch 2.3 has no argument to ask with
        if device_type not in ("cpu", "cuda"):
            return False
        return torch.is_autocast_cpu_enabled() if device_type == "cpu" else torch.is_autocast_enabled()
    try:
        return torch.is_autocast_enabled(device_type)
    except RuntimeError:
        return False


# Known from the start: a compiler cannot look into what is tried and fails.
_ASKED_BY_DEVICE = hasattr(torch, "get_autocast_dtype")


def batched(*grads: Tensor | None) -> bool:
    """Return whether gradients come for many outputs at once, as with `is_grads_batched=True` or `vectorize=True`."""
    return any(grad is not None and (torch._C._functorch.is_batchedtensor(grad) or _legacy(grad)) for grad in grads)


def _legacy(value: Tensor) -> bool:
    """Return whether `torch.autograd.grad` batched the value, which has a vmap of its own."""
    ask = getattr(torch._C._functorch, "is_legacy_batchedtensor", None)
    if ask is not None:
        return bool(ask(value))
    # torch 2.3 has no such question.
    return bool(torch._C._dispatch_keys(value).has(torch._C._dispatch_key_parse("Batched")))


def tracing() -> bool:
    """Return whether `torch.jit.trace` is recording, for which every Python number is a constant."""
    return bool(torch._C._get_tracing_state())


def exporting_onnx() -> bool:
    """Return whether `torch.onnx.export` looks at this call."""
    return (torch.compiler.is_compiling() or tracing()) and _in_onnx_export()


def exporting() -> bool:
    """Return whether `torch.export` looks at this call, for itself or for ONNX."""
    return torch.compiler.is_compiling() and _HAS_EXPORTING and torch.compiler.is_exporting()


# torch 2.6 and earlier lack the question.
_HAS_EXPORTING = hasattr(torch.compiler, "is_exporting")


def _in_onnx_export() -> bool:
    return torch.onnx.is_in_onnx_export()


# As torch.compiler.assume_constant_result, which imports the compiler at once. Of torch's own function dynamo believes
# that it is always false.
_in_onnx_export._dynamo_marked_constant = True  # type: ignore[attr-defined]


def transformed() -> bool:
    """Return whether a torch.func transform or forward-mode differentiation is active."""
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    functorch = torch._C._functorch
    ask = getattr(functorch, "maybe_current_level", None) or functorch.peek_interpreter_stack
    return ask() is not None


def recorded() -> bool:
    """Return whether the call is compiled, traced or transformed, so that values cannot be looked at."""
    return torch.compiler.is_compiling() or tracing() or transformed()
