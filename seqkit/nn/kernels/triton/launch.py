"""How a Triton kernel is launched: one launch a step or one for all steps, and the layout as numbers on the card.

The parameters of every kernel stand in this order: pointers of its own; offsets, lengths, counters; floats of its own;
first, end, row_block0, steps, B; then constants: H, PERSISTENT, FULL, those of its own, and BM, BN, BK, SPLIT, STAGES,
HOLD, PRECISION of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton.support import interpreted
from seqkit.nn.kernels.triton.tiles import FORCED, Precision, Tile, limits, precision, tuning

# Offsets are padded to a multiple of this, so that the lengths after them begin at an aligned address.
ALIGNED = 64


def layout(packing: Packing, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """On the device, int32: where each step begins in a history buffer (steps + 2, padded), and lengths (B,).

    Both are None for full batches. They are made once for a packing and device.
    """
    if packing.is_full:
        return None, None
    kept: dict[torch.device, tuple[Tensor, Tensor]] = packing.__dict__.setdefault("_triton_layout", {})
    if device not in kept:
        sizes = torch.tensor(packing.batch_sizes, dtype=torch.int32)
        steps, B = sizes.numel(), packing.batch_size
        places = -(-(steps + 2) // ALIGNED) * ALIGNED
        numbers = torch.zeros(places + B, dtype=torch.int32, pin_memory=device.type == "cuda")
        numbers[1] = B
        numbers[2 : steps + 1] = B + sizes[:-1].cumsum(0, dtype=torch.int32)
        # The length of row j is the number of steps with b_t > j.
        numbers[places:] = torch.searchsorted(-sizes, -torch.arange(B, dtype=torch.int32), right=False)
        sent = numbers.to(device, non_blocking=True)
        kept[device] = sent[:places], sent[places:]
    return kept[device]


class Plan(NamedTuple):
    """How one kernel runs at one size.

    Attributes:
        tile: what a program does.
        precision: of float32 products.
        persistent: whether one launch makes all steps; else each step has its own.
        row_blocks, unit_blocks: programs of a step.
        together: row blocks that are resident at once, if persistent; row blocks never meet.
    """

    tile: Tile
    precision: Precision
    persistent: bool
    row_blocks: int
    unit_blocks: int
    together: int

    @property
    def holds(self) -> bool:
        """Return whether the weight stays in registers."""
        return self.persistent and self.tile.hold

    @property
    def parts(self) -> int:
        """A power of two that covers the unit blocks."""
        return 1 << (self.unit_blocks - 1).bit_length()

    def told(self, state: Tensor) -> Tensor:
        """Scratch for what the programs of a row block tell each other about their rows; see `norms.py`."""
        return state.new_empty(self.row_blocks * self.tile.rows, 4, self.parts, dtype=torch.float32)


def forward_plan(state: Tensor, slots: int) -> Plan:
    """For a forward kernel: state (B, H), and columns of the product for each unit."""
    B, H = state.shape
    return _plan(B, H, H, slots, state.element_size(), precision(), state.device, FORCED.mode, FORCED.forward)


def backward_plan(state: Tensor, terms: int) -> Plan:
    """For a backward kernel: state (B, H), and columns of the gates' buffer."""
    B, H = state.shape
    return _plan(B, H, terms, 1, state.element_size(), precision(), state.device, FORCED.mode, FORCED.backward)


@lru_cache(maxsize=512)
def _plan(
    batch_size: int,
    hidden_size: int,
    terms: int,
    slots: int,
    itemsize: int,
    products: Precision,
    device: torch.device,
    mode: str | None,
    forced: Tile | None,
) -> Plan:
    processors, shared = limits(device)
    tile = forced or tuning(batch_size, hidden_size, terms, slots, itemsize, products, processors, shared)
    row_blocks, unit_blocks = tile.programs(batch_size, hidden_size)
    # A pipeline copies to shared memory, and only in pieces of 16 bytes does it pass L1, which may be out of date.
    if hidden_size % 16:
        tile = tile._replace(stages=1)
    together = processors // unit_blocks
    mode = mode or ("stepwise" if interpreted() else "persistent")
    return Plan(tile, products, mode == "persistent" and together > 0, row_blocks, unit_blocks, together)


def run(
    kernel: Any,
    plan: Plan,
    packing: Packing,
    state: Tensor,
    steps: int,
    pointers: Sequence[Tensor | None],
    floats: tuple[float, ...],
    constants: tuple[Any, ...],
) -> None:
    """Run `steps` steps of a kernel on its own pointers, floats and constants, in the order of its parameters.

    Args:
        state: any tensor (B, H) on the device.
        pointers: contiguous tensors, or None.
    """
    device, (B, H) = state.device, state.shape
    offsets, lengths = layout(packing, device)
    counters = zeros(device, plan.row_blocks * COUNTERS) if plan.persistent else None
    tile, products = plan.tile, plan.precision
    launch = Launch(
        kernel,
        device,
        [*pointers, offsets, lengths, counters],
        floats,
        (len(packing.batch_sizes), B),
        (H, plan.persistent, packing.is_full, *constants, *tile[:4], tile.stages, plan.holds, products),
        tile.warps,
    )
    with _on(device):
        (_persistent if plan.persistent else _stepwise)(launch, plan, steps)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _persistent(launch: Launch, plan: Plan, steps: int) -> None:
    """One launch for all steps and as many row blocks as are resident together."""
    for row_block in range(0, plan.row_blocks, plan.together):
        programs = min(plan.together, plan.row_blocks - row_block) * plan.unit_blocks
        launch(programs, 0, steps, row_block)


def _stepwise(launch: Launch, plan: Plan, steps: int) -> None:
    """One launch a step."""
    for step in range(steps):
        launch(plan.row_blocks * plan.unit_blocks, step, step + 1, 0)


# 32-bit numbers from the counters of one row block to those of the next, so that each has a line of the cache.
COUNTERS = 32
_zeros: dict[tuple[torch.device, int], Tensor] = {}


def zeros(device: torch.device, size: int) -> Tensor:
    """At least `size` zeros, int32, which the launch that takes them must leave as zeros.

    They are kept for each stream, on which one launch follows another. A captured graph may run on any stream later
    and has its own.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(size, dtype=torch.int32, device=device)
    key = device, torch.cuda.current_stream(device).cuda_stream
    kept = _zeros.get(key)
    if kept is None or kept.numel() < size:
        kept = _zeros[key] = torch.zeros(max(size, 64 * COUNTERS), dtype=torch.int32, device=device)
    return kept


# By all that Triton compiles a kernel for: the kernel, so that no other can ever have its id, and what launches it
# compiled, by the number of programs.
_runners: dict[tuple[Any, ...], tuple[Any, dict[int, Callable[..., None]]]] = {}


class Launch:
    """Launches of one kernel that differ in nothing but their steps, first row block and number of programs.

    Triton looks at every argument of every launch to find the compiled kernel, which takes longer than the launch.
    Here the look is taken once: at the dtype of each pointer, and at whether it is None or divisible by 16.

    Args:
        kernel: made by `triton.jit`; its integers are not specialised.
        counts: the number of steps, and B.
        constants: all constants, whether it is persistent in second place.
    """

    def __init__(
        self,
        kernel: Any,
        device: torch.device,
        pointers: list[Tensor | None],
        floats: tuple[float, ...],
        counts: tuple[int, int],
        constants: tuple[Any, ...],
        warps: int,
    ) -> None:
        self.kernel, self.pointers, self.floats = kernel, pointers, floats
        self.rest = (*counts, *constants)
        # Triton's own loops name their stages; the loop over time must not be pipelined.
        self.options: dict[str, Any] = {"num_warps": warps, "num_stages": 1}
        if constants[1] and not interpreted():
            self.options["launch_cooperative_grid"] = True
        self.addresses = [None if pointer is None else pointer.data_ptr() for pointer in pointers]
        dtypes = tuple([None if pointer is None else pointer.dtype for pointer in pointers])
        aligned = tuple([pointer is None or pointer % 16 == 0 for pointer in self.addresses])
        wide = max(counts) >> 31
        key = (id(kernel), device, constants, warps, wide, dtypes, aligned)
        entry = _runners.get(key)
        if entry is None:
            entry = _runners[key] = (kernel, {})
        self.runners = entry[1]

    def __call__(self, programs: int, first: int, end: int, row_block: int) -> None:
        """Launch steps `first` to `end` of the row blocks from `row_block` on."""
        runner = self.runners.get(programs)
        if runner is not None:
            runner(*self.addresses, *self.floats, first, end, row_block, *self.rest)
            return
        compiled = self.kernel[(programs,)](
            *self.pointers, *self.floats, first, end, row_block, *self.rest, **self.options
        )
        if compiled is not None:  # the interpreter compiles nothing
            self.runners[programs] = compiled[(programs, 1, 1)]
