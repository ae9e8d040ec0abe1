"""How a Triton kernel is launched: tiles, one launch a step or one for all steps, the layout as numbers on the card."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from seqkit.nn.fused.kernel import Tensors
from seqkit.nn.fused.triton import interpreted
from seqkit.nn.packing import Packing

Precision = Literal["ieee", "tf32", "tf32x3"]


@dataclass(frozen=True)
class Tile:
    """How the work of a step is cut: each program makes `units` hidden units for `rows` packed rows.

    Attributes:
        rows: packed rows of a program, a power of two.
        units: hidden units of a program, a power of two.
        depth: terms of the product that are loaded at once, a power of two.
        split: parts that `depth` is cut into, one for each warp; at least 16 terms each.
        warps: warps of a program.
        stages: depth of the software pipeline over the product's terms; 1: none.
        hold: whether the program's part of the weight stays in registers for all steps; needs depth >= terms.
    """

    rows: int
    units: int
    depth: int
    split: int
    warps: int
    stages: int
    hold: bool

    def programs(self, batch_size: int, hidden_size: int) -> tuple[int, int]:
        """Row blocks and unit blocks."""
        return -(-batch_size // self.rows), -(-hidden_size // self.units)


@dataclass
class Forced:
    """What a check or a test may force; None leaves the choice to this file."""

    mode: Literal["stepwise", "persistent"] | None = None
    forward: Tile | None = None
    backward: Tile | None = None
    precision: Precision | None = None


FORCED = Forced()

# A model of the time of one step in the persistent form, in us: the barrier and the latencies, bytes that a program
# loads, and multiply-adds that it does. Estimates for an H100, to be replaced by measurements.
STEP = 2.5
BYTES = 60_000.0
WORK: dict[str, float] = {"ieee": 80_000.0, "tf32": 900_000.0, "tf32x3": 300_000.0, "half": 1_800_000.0}
# 32-bit registers of a thread that both operands may take: with the weight held, and without.
HELD, LOADED = 128, 48
# Bytes of shared memory that are left for sums over warps and changes of layout.
SPARE = 24 * 1024
ROWS, COLUMNS = (16, 32, 64), (16, 32, 64, 128)


@lru_cache(maxsize=512)
def tuning(
    batch_size: int,
    hidden_size: int,
    terms: int,
    slots: int,
    itemsize: int,
    precision: Precision,
    processors: int,
    shared: int,
) -> Tile:
    """The tile for one kernel and size, by the model above.

    Args:
        batch_size: B.
        hidden_size: H.
        terms: length of the product's sums: H forward, gates * H backward.
        slots: columns of the product for each hidden unit: 4, or 1 backward.
        itemsize: bytes of an element.
        precision: of float32 products; it does not matter for others.
        processors: the card's multiprocessors; the programs that wait for each other must all be resident.
        shared: bytes of shared memory that a program may have.
    """
    best: tuple[float, Tile] | None = None
    for rows in ROWS:
        for columns in COLUMNS:
            tile = make_tile(rows, columns, terms, slots, itemsize, precision, shared)
            row_blocks, unit_blocks = tile.programs(batch_size, hidden_size)
            if unit_blocks > processors:
                continue
            launches = -(-row_blocks // (processors // unit_blocks))
            loaded = (rows + (0 if tile.hold else columns)) * terms * itemsize
            work = rows * columns * terms / WORK[precision if itemsize == 4 else "half"]
            cost = launches * (STEP + loaded / BYTES + work)
            if best is None or cost < best[0]:
                best = cost, tile
    return best[1] if best else make_tile(64, 64, terms, slots, itemsize, precision, shared)


def make_tile(
    rows: int,
    columns: int,
    terms: int,
    slots: int,
    itemsize: int,
    precision: Precision,
    shared: int,
    warps: int | None = None,
    hold: bool | None = None,
) -> Tile:
    """The tile with so many rows and columns of the product; see `tuning` for the rest. None: the rule decides."""
    exact, threefold = (itemsize == 4 and precision == name for name in ("ieee", "tf32x3"))
    depth = _power(max(terms, 16))
    # Words of 32 bits of both operands for a depth of one; tf32x3 splits each number into two.
    words = (rows + columns) * itemsize / 4 * (2 if threefold else 1)
    if warps is None:
        warps = 4 if rows * columns <= 1024 and words * depth <= LOADED * 128 else 8
    room = (shared - SPARE) // ((rows + columns * (2 if threefold else 1)) * itemsize)
    fits = not exact and words * depth <= HELD * 32 * warps and depth <= room
    hold = fits and hold is not False
    if exact:
        # Products without tensor cores keep all their terms in registers.
        depth = min(depth, 32 * warps)
    # Two stages of a pipeline stand in shared memory at once.
    while not hold and depth > 16 * warps and (words * depth > LOADED * 32 * warps or 2 * depth > room):
        depth //= 2
    stages = 1 if depth >= terms else 2
    return Tile(rows, columns // slots, depth, max(1, min(warps, depth // 16)), warps, stages, hold)


def _power(number: int) -> int:
    """The smallest power of two that is not below the number."""
    return 1 << (number - 1).bit_length()


def precision() -> Precision:
    """How float32 products are taken: as torch's own."""
    if FORCED.precision is not None:
        return FORCED.precision
    try:
        return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    except RuntimeError:  # torch refuses to tell where its old and new settings were mixed
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


@lru_cache(maxsize=16)
def limits(device: torch.device) -> tuple[int, int]:
    """Multiprocessors of a card and bytes of shared memory for a program; those of an H100 in the interpreter."""
    if device.type != "cuda":
        return 132, 227 * 1024
    properties = torch.cuda.get_device_properties(device)
    # 99 KiB is the least that any card from Ampere on has.
    return properties.multi_processor_count, getattr(properties, "shared_memory_per_block_optin", 99 * 1024)


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


def shared(given: Tensors, packing: Packing) -> dict[str, Any]:
    """Arguments of every kernel, forward and backward."""
    offsets, lengths = layout(packing, given["h0"].device)
    return {
        "offsets": offsets,
        "lengths": lengths,
        "mask_recurrent": given.get("mask_recurrent"),
        "steps": len(packing.batch_sizes),
        "FULL": packing.is_full,
        "PRECISION": precision(),
    }


def forward_tile(state: Tensor, slots: int) -> Tile:
    """The tile for a forward kernel: state (B, H), and columns of the product for each unit."""
    B, H = state.shape
    return FORCED.forward or tuning(B, H, H, slots, state.element_size(), precision(), *limits(state.device))


def backward_tile(state: Tensor, terms: int) -> Tile:
    """The tile for a backward kernel: state (B, H), and columns of the gates' buffer."""
    B, H = state.shape
    return FORCED.backward or tuning(B, H, terms, 1, state.element_size(), precision(), *limits(state.device))


def project(given: Tensors, bias: Tensor | None) -> Tensor:
    """The input's part of every step's sums, one GEMM: (N, G)."""
    x, weight = given["x"], given["weight_ih"]
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def before_buffer(given: Tensors, packing: Packing, rows: int) -> Tensor | None:
    """(N, H) for what W_hh was multiplied with; None where the history of the states holds just that."""
    if packing.is_full and "mask_recurrent" not in given:
        return None
    return given["h0"].new_empty(rows, given["h0"].size(1))


def run(kernel: Any, given: dict[str, Any], steps: int, tile: Tile, batch_size: int, hidden_size: int) -> None:
    """Run `steps` steps of a kernel on the arguments `given`, in one launch where the card holds all programs."""
    device = given["weight"].device
    row_blocks, unit_blocks = tile.programs(batch_size, hidden_size)
    together = limits(device)[0] // unit_blocks
    mode = FORCED.mode or ("stepwise" if interpreted() else "persistent")
    given = {
        **given,
        "B": batch_size,
        "H": hidden_size,
        "BM": tile.rows,
        "BN": tile.units,
        "BK": tile.depth,
        "SPLIT": tile.split,
        # A pipeline copies to shared memory, and only in pieces of 16 bytes does it pass L1, which may be out of date.
        "STAGES": 1 if hidden_size % 16 else tile.stages,
        "num_warps": tile.warps,
        # The loop over the product's terms names its own; the loop over time must not be pipelined.
        "num_stages": 1,
    }
    with _on(device):
        if mode == "persistent" and together:
            _persistent(kernel, given, steps, tile, row_blocks, unit_blocks, together)
        else:
            _stepwise(kernel, given, steps, row_blocks * unit_blocks)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _persistent(
    kernel: Any, given: dict[str, Any], steps: int, tile: Tile, row_blocks: int, unit_blocks: int, together: int
) -> None:
    """One launch for all steps and as many row blocks as are resident together; row blocks never meet."""
    counters = torch.zeros(row_blocks * 32, dtype=torch.int32, device=given["weight"].device)
    options = {} if interpreted() else {"launch_cooperative_grid": True}
    for row_block in range(0, row_blocks, together):
        programs = min(together, row_blocks - row_block) * unit_blocks
        kernel[(programs,)](
            **given,
            **options,
            counters=counters,
            first=0,
            end=steps,
            row_block0=row_block,
            PERSISTENT=True,
            HOLD=tile.hold,
        )


def _stepwise(kernel: Any, given: dict[str, Any], steps: int, programs: int) -> None:
    """One launch a step."""
    # No program waits, so any pointer serves as the counters.
    given = {**given, "counters": given["weight"], "row_block0": 0, "PERSISTENT": False, "HOLD": False}
    compiled = kernel[(programs,)](**given, first=0, end=1)
    launch = _bound(kernel, compiled, given, programs) if compiled is not None and steps > 1 else None
    for step in range(1, steps):
        if launch is None:
            kernel[(programs,)](**given, first=step, end=step + 1)
        else:
            launch(step)


def _bound(kernel: Any, compiled: Any, given: dict[str, Any], programs: int) -> Callable[[int], None]:
    """Launch a compiled kernel for one step, without looking it up again."""
    names = list(kernel.arg_names)
    values = [given.get(name) for name in names]
    first, end = names.index("first"), names.index("end")
    start = compiled[(programs, 1, 1)]

    def launch(step: int) -> None:
        values[first], values[end] = step, step + 1
        start(*values)

    return launch


def weight_gradients(
    given: Tensors, delta_x: Tensor, delta_h: Tensor, before: Tensor, needed: frozenset[str]
) -> Tensors:
    """One GEMM for each gradient, over all steps.

    Args:
        delta_x, delta_h: (N, G), gradients of W_ih x and of W_hh h.
        before: (N, H), what W_hh was multiplied with.
    """
    result: Tensors = {}
    if "x" in needed:
        result["x"] = torch.mm(delta_x, given["weight_ih"])
    if "weight_ih" in needed:
        result["weight_ih"] = torch.mm(delta_x.t(), given["x"])
    if "weight_hh" in needed:
        result["weight_hh"] = torch.mm(delta_h.t(), before)
    if "bias_ih" in needed or "bias_hh" in needed:
        result["bias_hh"] = delta_h.sum(0)
        result["bias_ih"] = result["bias_hh"] if delta_x is delta_h else delta_x.sum(0)
    return result
