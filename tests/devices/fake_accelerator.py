"""A pretended accelerator: the device "fake", with memory of its own and arithmetic done by the CPU.

A tensor on it is a wrapper around a tensor of the CPU that says it lies on `fake:0`. It refuses what CUDA refuses: an
operator that gets tensors of two devices (a tensor of the CPU without dimensions may join, and so may indices), a
generator of another device, `.numpy()`. No road that asks for `device.type == "cpu"` is taken. Random numbers come
from a generator of the device's own. So what runs on it left nothing on the CPU, and what waits for the device can be
counted. It shows nothing of CUDA's kernels, numerics, streams or memory.

    device = install()  # once a process: torch knows one such device, for good
    with watched() as traffic:
        model(x.to(device))
    traffic.reads  # the places that waited for the device to read a value back
    traffic.blocking  # the places that sent something and waited for that; traffic.sent: those that did not wait

It needs torch 2.9 or later, and no mode: it works in autograd's threads, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

NAME = "fake"
NEEDS = (2, 9)  # torch from this version on has backends in Python
_CPU = torch.device("cpu")

# What a kernel of CUDA does on the host as well, and so waits for the device.
_READS = frozenset(
    (
        "aten::_local_scalar_dense",
        "aten::is_nonzero",
        "aten::equal",
        "aten::nonzero",
        "aten::masked_select",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::unique_consecutive",
        "aten::bincount",
        "aten::repeat_interleave",
        "aten::multinomial",
    )
)
_RETURNS_PLAIN = frozenset(("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"))
_INDEXING = frozenset(f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_"))
# Made of other operators on every device, with a result on the CPU among them; torch would hand it over whole.
_MADE_OF_OTHERS = frozenset(("aten::_pack_padded_sequence",))


REFUSED: set[torch.dtype] = set()
"""Dtypes that the device does not have; a test that fills it empties it again."""


class FakeTensor(Tensor):
    """A tensor of the CPU (`inner`) that claims to lie on the device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> FakeTensor:
        if inner.dtype in REFUSED:
            raise TypeError(f"Cannot convert a tensor to {inner.dtype}, which the device does not support")
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"FakeTensor({self.inner!r})"

    def tolist(self) -> Any:
        _note("reads", "tolist")
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.device, **options})

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_without_lists(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_without_lists(index), value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy: Tensor = FakeTensor(self.inner.detach().clone())
            is_parameter = isinstance(self, nn.Parameter)
            copy = nn.Parameter(copy, self.requires_grad) if is_parameter else copy.requires_grad_(self.requires_grad)
            memo[id(self)] = copy
        return memo[id(self)]

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()


def _without_lists(index: Any) -> Any:
    """An index in which lists of numbers are tensors, as torch makes and sends them."""
    if isinstance(index, list):
        return torch.tensor(index, device=NAME)
    return tuple(map(_without_lists, index)) if isinstance(index, tuple) else index


# --- counting ---------------------------------------------------------------------------------------------------------


@dataclass
class Traffic:
    """What went between host and device, each as the place in seqkit that did it and the operator's name.

    Attributes:
        reads: values read back; the host waited until the device had computed them.
        blocking: tensors sent in a way that makes the host wait for the device (`non_blocking=False`).
        sent: tensors sent without waiting.
    """

    reads: list[str] = field(default_factory=list)
    blocking: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    @property
    def waits(self) -> list[str]:
        """All that made the host wait."""
        return self.reads + self.blocking


_watching: list[Traffic] = []


@contextmanager
def watched() -> Iterator[Traffic]:
    """Count what goes between host and device inside this context, in all threads."""
    traffic = Traffic()
    _watching.append(traffic)
    try:
        yield traffic
    finally:
        _watching.remove(traffic)


def _note(kind: str, what: str) -> None:
    if not _watching:
        return
    frame, place = sys._getframe(1), "outside seqkit"
    while frame is not None:
        name = frame.f_code.co_filename
        if "/seqkit/" in name and "/tests/" not in name:
            place = f"{name.rpartition('/seqkit/')[2]}:{frame.f_lineno}"
            break
        frame = frame.f_back  # type: ignore[assignment]
    for traffic in _watching:
        getattr(traffic, kind).append(f"{place} ({what.removeprefix('aten::')})")


# --- computing --------------------------------------------------------------------------------------------------------


def _dispatch(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operator of torch with at least one argument on the device, or that makes something there."""
    name = func._schema.name
    if name in _MADE_OF_OTHERS:
        return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
    fakes: list[FakeTensor] = []
    plain: list[Tensor] = []
    _sort(args, fakes, plain)
    _sort(kwargs.values(), fakes, plain)
    target = kwargs.get("device")
    stays = bool(fakes) if target is None else torch.device(target).type == NAME
    if name == "aten::copy_":
        stays = isinstance(args[0], FakeTensor)
        _moved(name, fakes, plain, stays, bool(args[2]) if len(args) > 2 else bool(kwargs.get("non_blocking")))
    elif name == "aten::_to_copy":
        _moved(name, fakes, plain, stays, bool(kwargs.get("non_blocking")))
    else:
        _check_devices(name, args, fakes, plain)
        _count_reads(name, args)
    stays = stays and name not in _RETURNS_PLAIN
    args, kwargs = [_inside(one) for one in args], {key: _inside(value) for key, value in kwargs.items()}
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    _take_own_generator(func, name, kwargs)
    out = _OWN[name](*args, **kwargs) if name in _OWN else func(*args, **kwargs)
    if not stays:
        return out
    own = {id(value.inner): value for value in fakes}  # in place, or out=: the argument itself comes back
    for value in fakes:
        if value.inner.shape != value.shape:
            raise NotImplementedError(f"{name} has changed the shape of its argument, which {NAME} cannot show")
    return _wrapped(out, own)


def _sort(values: Any, fakes: list[FakeTensor], plain: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, FakeTensor):
            fakes.append(value)
        elif isinstance(value, Tensor):
            plain.append(value)
        elif isinstance(value, (list, tuple)):
            _sort(value, fakes, plain)


def _inside(value: Any) -> Any:
    """The argument as the CPU takes it."""
    if isinstance(value, FakeTensor):
        return value.inner
    if isinstance(value, torch.device):
        return _CPU if value.type == NAME else value
    if isinstance(value, (list, tuple)) and any(isinstance(one, (Tensor, list, tuple)) for one in value):
        return type(value)(_inside(one) for one in value)
    return value


def _wrapped(out: Any, own: dict[int, FakeTensor]) -> Any:
    if isinstance(out, Tensor):
        return own[id(out)] if id(out) in own else FakeTensor(out)
    if isinstance(out, (list, tuple)):
        return type(out)(_wrapped(one, own) for one in out)
    return out


def _moved(name: str, fakes: Sequence[Tensor], plain: Sequence[Tensor], stays: bool, at_once: bool) -> None:
    """Count a copy, from device to device, to the device or from it."""
    if stays and plain:
        _note("sent" if at_once else "blocking", name)
    elif fakes and not stays:
        _note("reads", name)


def _check_devices(name: str, args: Sequence[Any], fakes: Sequence[Tensor], plain: Sequence[Tensor]) -> None:
    if not fakes or not plain:
        return
    bad = [value for value in plain if value.dim()]
    if name in _INDEXING and isinstance(args[0], FakeTensor):
        indices = [one for one in args[1] if isinstance(one, Tensor) and not isinstance(one, FakeTensor)]
        for _ in indices:  # CUDA sends them, and waits
            _note("blocking", name)
        bad = [value for value in bad if not any(value is one for one in indices)]
    if bad:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! ({name})"
        )


def _count_reads(name: str, args: Sequence[Any]) -> None:
    if name in _READS:
        _note("reads", name)
    elif name in _INDEXING:
        masks = [one for one in args[1] if isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)]
        # One number for all that a mask chooses is a masked_fill; everything else must know how many that is.
        if masks and (name == "aten::index" or args[2].numel() != 1):
            _note("reads", name)


def _take_own_generator(func: Any, name: str, kwargs: dict[str, Any]) -> None:
    """Random numbers come from the device's generator, and from no other."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return
    given = kwargs.get("generator")
    if given is not None and given is not _generator:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{given.device.type}'")
    if any(argument.name == "generator" for argument in func._schema.arguments):
        kwargs["generator"] = _generator
    elif name not in _OWN:
        raise NotImplementedError(f"{name} draws from a generator that {NAME} cannot choose")


_generator = torch.Generator()


def _dropout(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    mask = torch.empty_like(x).bernoulli_(1 - p, generator=_generator)
    return x * mask.div(1 - p), mask.bool()


# --- ATen's recurrent cells, which every accelerator brings along -----------------------------------------------------


def _lstm_cell(x: Tensor, h: Tensor, cx: Tensor, bias_x: Any = None, bias_h: Any = None) -> tuple[Tensor, ...]:
    total = x + h if bias_x is None else x + h + bias_x + bias_h
    i, f, g, o = total.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cy = f * cx + i * g
    return o * cy.tanh(), cy, torch.cat([i, f, g, o], 1)


def _lstm_cell_backward(dh: Any, dc: Any, cx: Tensor, cy: Tensor, gates: Tensor, has_bias: bool) -> tuple[Any, ...]:
    i, f, g, o = gates.chunk(4, 1)
    shown = cy.tanh()
    dh, dc = (torch.zeros_like(cy) if one is None else one for one in (dh, dc))
    dc = dc + dh * o * (1 - shown * shown)
    parts = [dc * g * i * (1 - i), dc * cx * f * (1 - f), dc * i * (1 - g * g), dh * shown * o * (1 - o)]
    d_gates = torch.cat(parts, 1)
    return d_gates, dc * f, d_gates.sum(0) if has_bias else None


def _gru_cell(x: Tensor, h: Tensor, hx: Tensor, bias_x: Any = None, bias_h: Any = None) -> tuple[Tensor, Tensor]:
    if bias_x is not None:
        x, h = x + bias_x, h + bias_h
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, 1), h.chunk(3, 1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    return n + z * (hx - n), torch.cat([r, z, n, hx, h_n], 1)


def _gru_cell_backward(dh: Tensor, saved: Tensor, has_bias: bool) -> tuple[Any, ...]:
    r, z, n, hx, h_n = saved.chunk(5, 1)
    d_n = dh * (1 - z) * (1 - n * n)
    d_r, d_z = d_n * h_n * r * (1 - r), dh * (hx - n) * z * (1 - z)
    d_x, d_h = torch.cat([d_r, d_z, d_n], 1), torch.cat([d_r, d_z, d_n * r], 1)
    return d_x, d_h, dh * z, *((d_x.sum(0), d_h.sum(0)) if has_bias else (None, None))


_OWN: dict[str, Callable[..., Any]] = {
    "aten::native_dropout": _dropout,
    "aten::_thnn_fused_lstm_cell": _lstm_cell,
    "aten::_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
    "aten::_thnn_fused_gru_cell": _gru_cell,
    "aten::_thnn_fused_gru_cell_backward": _gru_cell_backward,
}


# --- what torch asks of a device --------------------------------------------------------------------------------------


class _Module:
    """`torch.fake`."""

    is_initialized = staticmethod(lambda: True)
    is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    set_device = staticmethod(lambda device: None)
    device_count = staticmethod(lambda: 1)
    synchronize = staticmethod(lambda device=None: None)
    empty_cache = staticmethod(lambda: None)
    get_device_name = staticmethod(lambda device=None: "a pretended accelerator")
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])
    _is_in_bad_fork = staticmethod(lambda: False)

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        _generator.manual_seed(seed)

    manual_seed = manual_seed_all

    @staticmethod
    def get_rng_state(device: Any = None) -> Tensor:
        return _generator.get_state()

    @staticmethod
    def set_rng_state(state: Tensor, device: Any = None) -> None:
        _generator.set_state(state)


_kept: list[Any] = []  # what must live as long as the process


def _on_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _teach(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` or `torch.as_tensor`, which cannot make what Python wraps: on the CPU first, and then sent."""

    def made(data: Any, *, device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
        if isinstance(data, FakeTensor):
            found = data if make is as_tensor else data.detach().clone()
            found = found.to(device=device or found.device, dtype=options.get("dtype") or found.dtype)
        else:
            found = make(data, device="cpu" if _on_device(device) else device, **options)
            found = found.to(device) if _on_device(device) else found
        return found.requires_grad_() if requires_grad else found

    as_tensor = torch.as_tensor
    return made


def _make_there(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A factory whose result is resized as it is filled, which a wrapper cannot show."""

    def made(*args: Any, device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
        if not _on_device(device):
            return make(*args, device=device, requires_grad=requires_grad, **options)
        found = FakeTensor(make(*args, device="cpu", **options))
        return found.requires_grad_() if requires_grad else found

    return made


def _tied(apply: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`Module._apply`, which puts new parameters on this device where on CUDA the old ones move: tied ones stay so."""

    def applied(self: nn.Module, *args: Any, **options: Any) -> nn.Module:
        places: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in self.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    places.setdefault(id(value), []).append((module, name))
        apply(self, *args, **options)
        for (first, own), *others in places.values():
            for module, name in others:
                module._parameters[name] = first._parameters[own]
        return self

    return applied


def install() -> torch.device:
    """Make the device known to torch, for the rest of the process."""
    if not _kept:
        from torch.utils import backend_registration

        backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
        library = torch.library.Library("_", "IMPL")
        library.fallback(lambda op, *args, **kwargs: _dispatch(op, args, kwargs), "PrivateUse1")
        torch.tensor, torch.as_tensor = _teach(torch.tensor), _teach(torch.as_tensor)
        torch.arange, torch.eye = _make_there(torch.arange), _make_there(torch.eye)
        nn.Module._apply = _tied(nn.Module._apply)
        _generator.manual_seed(torch.initial_seed())
        _kept.append(library)
    return torch.device(NAME, 0)
