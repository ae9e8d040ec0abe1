"""How the work of a step is cut into tiles, by a model of its time, and how float32 products are taken."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch

Precision = Literal["ieee", "tf32", "tf32x3"]


class Tile(NamedTuple):
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

# A model of the time of one step in the persistent form, in us: the barrier and the latencies, what each warp and each
# further piece of the product adds, bytes that a program loads, and its multiply-adds. Fitted to an H100 (torch 2.11,
# Triton 3.6): LSTM, B = 32, H = 256, tf32x3, forward, H terms, the weight held:
#
# | rows x columns, warps | 16 x 16, 4 | 16 x 16, 8 | 16 x 32, 8 | 32 x 16, 8 |
# |---|---|---|---|---|
# | us a step | 5.8 | 6.7 | 8.5 | 9.7 |
#
# backward, 4 H terms, 16 x 8: 4 warps in 8 pieces 10 to 12, 8 warps in 4 pieces 9.2; of 7.7 forward and 11.5 backward
# with tf32x3, tf32 saves 1 and 3, bfloat16 2 and 3, and ieee adds 14 backward. These times hold some of the host's, and
# the kernels have lost exchanges since: what counts is the order of the tiles. `scripts/device/tune.py` measures anew.
STEP, WARP, PIECE = 2.0, 0.2, 0.4
BYTES = 90_000.0
WORK: dict[str, float] = {"ieee": 12_000.0, "tf32": 75_000.0, "tf32x3": 30_000.0, "half": 100_000.0}
# 32-bit registers of a thread that both operands may take: with the weight held, and without.
HELD, LOADED = 128, 48
# Bytes of shared memory that are left for sums over warps and changes of layout.
SPARE = 24 * 1024
ROWS, COLUMNS, WARPS = (16, 32, 64), (8, 16, 32, 64, 128), (4, 8)


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
    """Return the tile for one kernel and size, by the model above.

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
    for rows, columns, warps in itertools.product(ROWS, COLUMNS, WARPS):
        if columns // slots < 4:
            continue
        tile = make_tile(rows, columns, terms, slots, itemsize, precision, shared, warps)
        row_blocks, unit_blocks = tile.programs(batch_size, hidden_size)
        if unit_blocks > processors:
            continue
        launches = -(-row_blocks // (processors // unit_blocks))
        cost = launches * step_time(tile, terms, slots, itemsize, precision)
        if best is None or cost < best[0]:
            best = cost, tile
    return best[1] if best else make_tile(64, 64, terms, slots, itemsize, precision, shared, 8)


def step_time(tile: Tile, terms: int, slots: int, itemsize: int, precision: Precision) -> float:
    """Predict the time (us) of a step of one kernel by the model above; see `tuning` for the arguments."""
    columns = tile.units * slots
    loaded = (tile.rows + (0 if tile.hold else columns)) * terms * itemsize
    work = tile.rows * columns * terms / WORK[precision if itemsize == 4 else "half"]
    return STEP + WARP * tile.warps + PIECE * (-(-terms // tile.depth) - 1) + loaded / BYTES + work


def make_tile(
    rows: int,
    columns: int,
    terms: int,
    slots: int,
    itemsize: int,
    precision: Precision,
    shared: int,
    warps: int,
    hold: bool | None = None,
) -> Tile:
    """Return the tile with these rows and columns of the product; see `tuning` for the rest. hold=None: if it fits."""
    exact, threefold = (itemsize == 4 and precision == name for name in ("ieee", "tf32x3"))
    depth = _power(max(terms, 16))
    # Words of 32 bits of both operands for a depth of one; tf32x3 splits each number into two.
    words = (rows + columns) * itemsize / 4 * (2 if threefold else 1)
    room = (shared - SPARE) // ((rows + columns * (2 if threefold else 1)) * itemsize)
    fits = not exact and words * depth <= HELD * 32 * warps and depth <= room
    hold = fits and hold is not False
    if exact:
        # Products without tensor cores keep all their terms in registers.
        depth = min(depth, (32 if rows * columns < 512 else 16 if rows * columns < 2048 else 8) * warps)
    # Two stages of a pipeline stand in shared memory at once.
    while not hold and depth > 32 and (words * depth > LOADED * 32 * warps or 2 * depth > room):
        depth //= 2
    split = max(1, min(warps, depth // 16))
    # Triton pipelines no products of three dimensions, which those cut into parts are.
    stages = 1 if depth >= terms or split > 1 else 2
    return Tile(rows, columns // slots, depth, split, warps, stages, hold)


def _power(number: int) -> int:
    """Return the smallest power of two that is not below the number."""
    return 1 << (number - 1).bit_length()


def precision() -> Precision:
    """Return how float32 products are computed: in TF32 where torch may, else in three TF32 products, as exact as IEEE.

    "tf32x3" has the error of "ieee" to two digits (3e-7 of a gradient's norm), on tensor cores; "ieee" itself
    can be forced.
    """
    if FORCED.precision is not None:
        return FORCED.precision
    try:
        allowed = torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # torch refuses to tell where its old and new settings were mixed
        allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else "tf32x3"


@lru_cache(maxsize=16)
def limits(device: torch.device) -> tuple[int, int]:
    """Multiprocessors of a card and bytes of shared memory for a program; those of an H100 in the interpreter."""
    if device.type != "cuda":
        return 132, 227 * 1024
    properties = torch.cuda.get_device_properties(device)
    # 99 KiB is the least that any card from Ampere on has.
    return properties.multi_processor_count, getattr(properties, "shared_memory_per_block_optin", 99 * 1024)
