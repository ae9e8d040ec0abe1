"""The way into the packed layout and back: checks of a call's arguments, default states, the shapes of the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkit.nn.cells import State
from seqkit.nn.compiled import compiling
from seqkit.nn.packing import Packing, check_lengths

if TYPE_CHECKING:
    from seqkit.nn.recurrent import Recurrent


class Entered(NamedTuple):
    """A call's arguments after checks: packed input (N, I), its layout, and one state (B, size) per layer-direction."""

    data: Tensor
    packing: Packing
    states: list[State]
    batched: bool
    packed: PackedSequence | None
    # Under `torch.compile` the rows are all T * B of the padded layout, and the operator gets the lengths itself.
    padded_lengths: Tensor | None = None


def enter(module: Recurrent, input: Any, hx: Any, lengths: Any) -> Entered:
    """Check the arguments and bring them into the packed layout."""
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths cannot be given together with a PackedSequence, which holds its own")
        _check_input(module, input.data)
        packing = Packing.from_packed(input)
        return Entered(input.data, packing, _states(module, hx, input.data, packing, True), True, input)
    if input.dim() not in (2, 3):
        raise ValueError(f"{type(module).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead")
    _check_input(module, input)
    batched = input.dim() == 3
    x = input if batched else input.unsqueeze(1)
    x = x.transpose(0, 1) if batched and module.batch_first else x
    num_steps, batch_size = x.shape[:2]
    if num_steps == 0:
        raise RuntimeError("input must have at least one step, got a sequence length of 0")
    padded_lengths = None
    if lengths is None:
        packing = Packing.full(num_steps, batch_size)
    elif compiling(module):
        packing, padded_lengths = Packing.full(num_steps, batch_size), torch.as_tensor(lengths).reshape(-1)
    else:
        checked = check_lengths(lengths if batched else torch.as_tensor(lengths).reshape(-1), batch_size, num_steps)
        packing = Packing.from_lengths(checked, num_steps, x.device)
    return Entered(packing.pack(x), packing, _states(module, hx, x, packing, batched), batched, None, padded_lengths)


def _check_input(module: Recurrent, input: Tensor) -> None:
    if input.size(-1) != module.input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {module.input_size}, got {input.size(-1)}"
        )
    # The module's own parameters first: walking all submodules takes longer than the rest of the checks.
    first = next(iter(module._parameters.values()), None)
    first = next(module.parameters(), None) if first is None else first
    if first is None:
        return
    if first.device != input.device:
        raise RuntimeError(f"input is on device {input.device} but the parameters are on {first.device}")
    if first.dtype != input.dtype and not autocast_enabled(input.device.type):
        raise ValueError(f"input must have the type {first.dtype}, got type {input.dtype}")


def _states(module: Recurrent, hx: Any, data: Tensor, packing: Packing, batched: bool) -> list[State]:
    """One state per layer and direction, each (B, size), rows in packed order."""
    if hx is None:
        return [_default_state(module, index, packing.batch_size, data) for index in range(len(module.cells))]
    names, sizes = module.cell_at(0).state_names, module.state_sizes
    if isinstance(hx, Tensor) or not isinstance(hx, (tuple, list)) or len(hx) != len(names):
        came = f"{len(hx)} of them" if isinstance(hx, (tuple, list)) else f"a {type(hx).__name__}"
        raise RuntimeError(f"hx must be a tuple of {len(names)} tensors ({', '.join(names)}), got {came}")
    parts = []
    for position, (name, part, size) in enumerate(zip(names, hx, sizes, strict=True)):
        rank = 3 if batched else 2
        if part.dim() != rank:
            raise RuntimeError(
                f"hx[{position}] ({name}) must be {rank}-D for {'' if batched else 'un'}batched input, "
                f"got {part.dim()}-D"
            )
        whole = part if batched else part.unsqueeze(1)
        expected = (len(module.cells), packing.batch_size, size)
        if whole.shape != expected:
            raise RuntimeError(f"Expected hidden[{position}] ({name}) size {expected}, got {list(whole.shape)}")
        if part.device != data.device:
            raise RuntimeError(f"hx[{position}] ({name}) is on {part.device} but the input is on {data.device}")
        if part.dtype != data.dtype and not autocast_enabled(data.device.type):
            raise RuntimeError(f"hx[{position}] ({name}) must have the type {data.dtype}, got {part.dtype}")
        parts.append([packing.sort(layer) for layer in whole.unbind(0)])
    return list(zip(*parts, strict=True))


def _default_state(module: Recurrent, index: int, batch_size: int, like: Tensor) -> State:
    cell = module.cell_at(index)
    if not module.learn_initial_state:
        return cell.initial_state(batch_size, like)
    suffix = module.suffix(index)
    return tuple(getattr(module, f"initial_{name}{suffix}").expand(batch_size, -1) for name in cell.state_names)


def leave(module: Recurrent, data: Tensor, finals: list[State], entered: Entered) -> tuple[Any, State]:
    """From the packed layout back to the caller's."""
    packing, packed = entered.packing, entered.packed
    state = tuple(packing.unsort(torch.stack(parts)) for parts in zip(*finals, strict=True))
    if packed is not None:
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), state
    output = packing.unpack(data)
    if not entered.batched:
        return output.squeeze(1), tuple(part.squeeze(1) for part in state)
    return (output.transpose(0, 1) if module.batch_first else output), state


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype of the active autocast for the device type, or None."""
    if device_type not in ("cpu", "cuda") or not autocast_enabled(device_type):
        return None
    try:
        return torch.get_autocast_dtype(device_type)
    except AttributeError:
        return torch.get_autocast_cpu_dtype() if device_type == "cpu" else torch.get_autocast_gpu_dtype()


def autocast_enabled(device_type: str) -> bool:
    """Whether autocast is on for the device type; torch 2.3 has no argument to ask with."""
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:
        return torch.is_autocast_cpu_enabled() if device_type == "cpu" else torch.is_autocast_enabled()
