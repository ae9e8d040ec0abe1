# mypy: ignore-errors
"""Layer normalisation of rows that are spread over the programs of a row block (Ba et al. 2016, eq. 3 and 4).

Every program tells the others two numbers for each of its rows, meets them, and joins the numbers of all. A row has
room for two such pairs (planes), each (2, PARTS), where PARTS is a power of two that covers the unit blocks.

A `spot` is where a program stands at a step: its rows (BM,), which of them are alive, its unit block, its units (BN,),
the row at which the step's gates begin, and the mask of its tile (BM, BN).
"""

import triton
import triton.language as tl

from seqkit.nn.kernels.triton.blocks import load_fresh


@triton.jit
def put_pair(told, plane, spot, first, second, PARTS: tl.constexpr):
    """Tell the others two numbers of each row, each (BM,)."""
    rows, _, unit_block, _, _, _ = spot
    place = told + (rows * 4 + plane * 2) * PARTS + unit_block
    tl.store(place, first)
    tl.store(place + PARTS, second)


@triton.jit
def get_pairs(told, plane, spot, unit_blocks, PARTS: tl.constexpr):
    """What all programs told: two tiles (BM, PARTS), with zeros beyond the last program."""
    rows, _, _, _, _, _ = spot
    part = tl.arange(0, PARTS)[None, :]
    place = (rows * 4 + plane * 2)[:, None] * PARTS + part
    valid = (part < unit_blocks) & (rows >= 0)[:, None]
    return load_fresh(told, place, valid), load_fresh(told + PARTS, place, valid)


@triton.jit
def put_moments(told, plane, spot, x, chosen, PARTS: tl.constexpr):
    """Tell mean and sum of squared differences from it over the chosen columns (N,) of x (BM, N)."""
    mean = tl.sum(tl.where(chosen[None, :], x, 0.0), 1) / tl.sum(chosen.to(tl.float32), 0)
    centred = tl.where(chosen[None, :], x - mean[:, None], 0.0)
    put_pair(told, plane, spot, mean, tl.sum(centred * centred, 1), PARTS)


@triton.jit
def get_moments(told, plane, spot, TIMES: tl.constexpr, H: tl.constexpr, BN: tl.constexpr, PARTS: tl.constexpr):
    """Mean and 1 / sqrt(variance + 1e-5) of each row, each (BM, 1), over TIMES columns for each unit.

    The parts are joined as in Chan, Golub & LeVeque 1983, eq. 2.1: no squares of large means are subtracted.
    """
    means, squares = get_pairs(told, plane, spot, (H + BN - 1) // BN, PARTS)
    left = H - tl.arange(0, PARTS) * BN
    counts = (TIMES * tl.minimum(tl.maximum(left, 0), BN)).to(tl.float32)[None, :]
    mean = (tl.sum(counts * means, 1) / (TIMES * H))[:, None]
    off = means - mean
    variance = (tl.sum(squares + counts * off * off, 1) / (TIMES * H))[:, None]
    return mean, 1.0 / tl.sqrt_rn(variance + 1e-5)


@triton.jit
def get_sums(told, plane, spot, TIMES: tl.constexpr, H: tl.constexpr, BN: tl.constexpr, PARTS: tl.constexpr):
    """Means of what two tiles summed to in all programs, each (BM, 1), over TIMES columns for each unit."""
    first, second = get_pairs(told, plane, spot, (H + BN - 1) // BN, PARTS)
    return (tl.sum(first, 1) / (TIMES * H))[:, None], (tl.sum(second, 1) / (TIMES * H))[:, None]


@triton.jit
def store_scale(scales, spot, scale):
    """Write 1 / sqrt(variance) of a step's rows, once for all programs."""
    rows, alive, unit_block, _, place, _ = spot
    tl.store(scales + place + rows, tl.reshape(scale, rows.shape), mask=alive & (unit_block == 0))


@triton.jit
def load_scale(scales, spot):
    """1 / sqrt(variance) of a step's rows, (BM, 1)."""
    rows, alive, _, _, place, _ = spot
    return tl.load(scales + place + rows, mask=alive, other=0.0)[:, None]
