"""The way into the packed layout and back: checks of a call's arguments, default states, the shapes of the results."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkit.nn.backends import by_loop, by_operator
from seqkit.nn.cell import Cell, State
from seqkit.nn.checks import autocast_dtype, check_goes_with, tracing
from seqkit.nn.kernels.packing import Packing, check_lengths, length_vector
from seqkit.nn.network import Network

_OTHERWISE = "use torch.export with lengths=, or trace without lengths"


class Entered(NamedTuple):
    """A call's arguments after checks: input (T, B, I) or packed (N, I), its layout, and the states.

    Each state is (layer-directions, B, size), with its rows in packed order.
    """

    x: Tensor
    packing: Packing
    states: State
    batched: bool
    packed: PackedSequence | None
    # Under `torch.compile` the rows are all T * B of the padded layout, and the operator gets the lengths itself.
    padded_lengths: Tensor | None = None

    @property
    def data(self) -> Tensor:
        """The packed input (N, I). Made at every call, and not before: full batches may not need it."""
        return self.x if self.x.dim() == 2 else self.packing.pack(self.x)


def enter(network: Network, input: Any, hx: Any, lengths: Any) -> Entered:
    """Check the arguments and bring them into the packed layout."""
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths cannot be given together with a PackedSequence, which holds its own")
        check_input(network, input.data)
        if tracing():
            raise RuntimeError(f"torch.jit.trace cannot record a PackedSequence; {_OTHERWISE}")
        packing = Packing.from_packed(input)
        return Entered(input.data, packing, initial_states(network, hx, input.data, packing, True), True, input)
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a Tensor or a PackedSequence, got {type(input).__name__}")
    if input.dim() not in (2, 3):
        raise ValueError(f"{network.name}: Expected input to be 2D or 3D, got {input.dim()}D instead")
    check_input(network, input)
    batched = input.dim() == 3
    x = input if batched else input.unsqueeze(1)
    x = x.transpose(0, 1) if batched and network.batch_first else x
    num_steps, batch_size = x.shape[:2]
    if num_steps == 0:
        raise RuntimeError("input must have at least one step, got a sequence length of 0")
    padded_lengths = None
    if lengths is None:
        packing = Packing.full(num_steps, batch_size)
    elif by_operator(network, x) or by_loop(network, x):
        packing, padded_lengths = Packing.full(num_steps, batch_size), length_vector(lengths).reshape(-1)
    elif tracing():
        raise RuntimeError(
            f"torch.jit.trace cannot record lengths for this {network.name}, which has no operator of its own "
            f"and would be right for these lengths alone; {_OTHERWISE}"
        )
    else:
        checked = check_lengths(lengths if batched else length_vector(lengths).reshape(-1), batch_size, num_steps)
        packing = Packing.from_lengths(checked, num_steps, x.device)
    return Entered(x, packing, initial_states(network, hx, x, packing, batched), batched, None, padded_lengths)


def check_input(network: Network, input: Tensor) -> None:
    """Raise unless the input has the features, the device and the dtype of the module."""
    if input.size(-1) != network.input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {network.input_size}, got {input.size(-1)}"
        )
    if network.example is not None:
        check_goes_with("input", input, network.example)


def initial_states(network: Network, hx: Any, data: Tensor, packing: Packing, batched: bool) -> State:
    """Return the initial states, each (layer-directions, B, size), rows in packed order."""
    batch_size = packing.batch_size
    if hx is None:
        return _default_states(network, batch_size, data)
    count, cell = len(network.cells), network.cells[0]
    names, sizes = cell.state_names, cell.state_sizes
    if isinstance(hx, Tensor) or not isinstance(hx, (tuple, list)) or len(hx) != len(names):
        came = f"{len(hx)} of them" if isinstance(hx, (tuple, list)) else f"a {type(hx).__name__}"
        raise RuntimeError(f"hx must be a tuple of {len(names)} tensors ({', '.join(names)}), got {came}")
    parts = []
    for position, (name, part, size) in enumerate(zip(names, hx, sizes, strict=True)):
        expected = (count, batch_size, size) if batched else (count, size)
        fits = isinstance(part, Tensor) and part.shape == expected and part.device == data.device
        if not fits or part.dtype != data.dtype:
            _check_state(f"hx[{position}] ({name})", part, expected, data)
        parts.append(packing.sort(part if batched else part.unsqueeze(1)))
    return tuple(parts)


def _check_state(label: str, part: Any, expected: tuple[int, ...], data: Tensor) -> None:
    """Raise RuntimeError, as torch, unless `part` is a tensor of the expected shape that goes with the input."""
    if not isinstance(part, Tensor):
        raise RuntimeError(f"{label} must be a Tensor, got {type(part).__name__}")
    if part.shape != expected:
        axes = "layers * directions, batch, features" if len(expected) == 3 else "layers * directions, features"
        raise RuntimeError(f"{label} must have the shape {expected} ({axes}), got {tuple(part.shape)}")
    if part.device != data.device:
        raise RuntimeError(f"{label} is on device {part.device} but the input is on {data.device}")
    if part.dtype != data.dtype and autocast_dtype(part, data) is None:
        raise RuntimeError(f"{label} must have the type {data.dtype}, got {part.dtype}")


def _default_states(network: Network, batch_size: int, like: Tensor) -> State:
    if network.learned_state is not None:
        starts = (torch.stack(list(parts)) for parts in network.learned_state())
        return tuple(start.unsqueeze(1).expand(-1, batch_size, -1) for start in starts)
    cells = network.cells
    if type(cells[0]).initial_state is Cell.initial_state:
        return tuple(like.new_zeros(len(cells), batch_size, size) for size in cells[0].state_sizes)
    each = [cell.initial_state(batch_size, like) for cell in cells]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True))


def leave(network: Network, data: Tensor, finals: State, entered: Entered) -> tuple[Any, State]:
    """From outputs, packed or (T, B, size), and final states (layer-directions, B, size) to the caller's layout."""
    packing, packed = entered.packing, entered.packed
    state = finals if packing.restore is None else tuple(packing.unsort(part) for part in finals)
    if packed is not None:
        data = data.flatten(0, -2)
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), state
    if not entered.batched:
        state = tuple(part.squeeze(1) for part in state)
    return arranged(network, packing.unpack(data) if data.dim() == 2 else data, entered), state


def arranged(network: Network, padded: Tensor, entered: Entered) -> Tensor:
    """From (T, B, F) to the layout of the caller's input; a packed one stays (T, B, F)."""
    if not entered.batched:
        return padded.squeeze(1)
    return padded.transpose(0, 1) if network.batch_first and entered.packed is None else padded


def lowered(network: Network, entered: Entered) -> Entered | None:
    """Return the arguments in autocast's precision, None where it is off or leaves them alone.

    As in torch, the whole recurrence runs in the lower precision, not product by product.
    """
    low = autocast_dtype(entered.x)
    if low is None or not network.cells[0].flat:
        return None
    return entered._replace(x=entered.x.to(low), states=tuple(part.to(low) for part in entered.states))
