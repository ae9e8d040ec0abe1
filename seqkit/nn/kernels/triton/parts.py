# mypy: ignore-errors
# ruff: noqa: SIM108 (Triton compiles an if over constants by branch, other forms as values)
"""Pieces of a step that the LSTM, the GRU and the Elman cell have in common: gates, masks, first and last states.

Names: `tile` (BM, BN) are the places of a program's part in a step's rows (., H), and `mask` which of these exist.
A buffer of gates is (., GATES H), one block of H columns for each gate. Where four tiles stand for three gates, the
first is not used.
"""

import triton
import triton.language as tl

from seqkit.nn.kernels.triton.blocks import load_tile, offset_of, product, store_tile


@triton.jit
def four_columns(unit_block, H: tl.constexpr, GATES: tl.constexpr, BN: tl.constexpr):
    """Rows of W_hh (4 BN,) for the units of a block, four slots for each unit, and which of these exist."""
    place = tl.arange(0, 4 * BN)
    gate = place % 4 - (4 - GATES)
    unit = unit_block * BN + place // 4
    return gate * H + unit, (unit < H) & (gate >= 0)


@triton.jit
def in_four(total, BM: tl.constexpr, BN: tl.constexpr):
    """(BM, 4 BN), whose columns are four slots for each unit, as four tiles (BM, BN)."""
    even, odd = tl.split(tl.reshape(total, (BM, BN, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def load_four(gates, tile, mask, H: tl.constexpr, GATES: tl.constexpr):
    """The gates' blocks of a buffer (., GATES H) or of a vector, as four tiles."""
    second = load_tile(gates + (GATES - 3) * H, tile, mask)
    third = load_tile(gates + (GATES - 2) * H, tile, mask)
    fourth = load_tile(gates + (GATES - 1) * H, tile, mask)
    if GATES == 4:
        first = load_tile(gates, tile, mask)
    else:
        first = second
    return first, second, third, fourth


@triton.jit
def load_sums(sums, bias, tile, mask, units, valid, H: tl.constexpr, GATES: tl.constexpr):
    """The input's part of the gates' sums, and the bias if there is one, as four tiles."""
    first, second, third, fourth = load_four(sums, tile, mask, H, GATES)
    if bias is not None:
        b_first, b_second, b_third, b_fourth = load_four(bias, units, valid, H, GATES)
        first, second = first + b_first[None, :], second + b_second[None, :]
        third, fourth = third + b_third[None, :], fourth + b_fourth[None, :]
    return first, second, third, fourth


@triton.jit
def store_four(gates, tile, mask, first, second, third, fourth, H: tl.constexpr, GATES: tl.constexpr):
    """Write four tiles as the gates' blocks of a buffer (., GATES H)."""
    if GATES == 4:
        store_tile(gates, tile, first, mask)
    store_tile(gates + (GATES - 3) * H, tile, second, mask)
    store_tile(gates + (GATES - 2) * H, tile, third, mask)
    store_tile(gates + (GATES - 1) * H, tile, fourth, mask)


@triton.jit
def row_of(vector, units, valid):
    """A vector's part for the units of a program, as a row (1, BN)."""
    return load_tile(vector, units, valid)[None, :]


@triton.jit
def step_there(t, offsets, h0, hidden, lives, B, H: tl.constexpr, FULL: tl.constexpr):
    """Of step t: the row of its gates, the rows alive (BM,), and where the states before it begin."""
    old = tl.where(t == 0, h0, hidden + offset_of(offsets, t, B, FULL) * H)
    return offset_of(offsets, t + 1, B, FULL) - B, lives > t, old


@triton.jit
def step_back(t, offsets, lives, B, unit_mask, H: tl.constexpr, FULL: tl.constexpr):
    """Of step t: the row of its gates, where the states before it begin in their history, the rows alive (BM,), and
    the tiles' masks of these and of those that end. At t = -1, which stands for the initial state, none is alive."""
    alive = (lives > t) & (t >= 0)
    states = offset_of(offsets, tl.maximum(t, 0), B, FULL) * H
    ends = (lives == t + 1)[:, None] & unit_mask
    return offset_of(offsets, t + 1, B, FULL) - B, states, alive, alive[:, None] & unit_mask, ends


@triton.jit
def factor(drawn, otherwise, place, tile, mask):
    """A drawn mask's tile from row `place` on, or the number that stands for it where none was drawn."""
    if drawn is not None:
        result = load_tile(drawn + place, tile, mask)
    else:
        result = otherwise
    return result


@triton.jit
def begin(initial, history, final, tile, rows, lives, B, unit_mask, FULL: tl.constexpr, SAVE: tl.constexpr):
    """The initial state's tile. If SAVE it opens the history; for sequences without steps it is the final state."""
    valid = (rows < B)[:, None] & unit_mask
    value = load_tile(initial, tile, valid)
    if not FULL:
        store_tile(final, tile, value, (lives == 0)[:, None] & unit_mask)
    if SAVE:
        store_tile(history, tile, value, valid)
    return value


@triton.jit
def incoming(grad_output, grad_final, place, tile, mask, ends):
    """The gradient that a step's state gets from outside: its output's, and for rows that end, the final state's."""
    result = tl.zeros(tile.shape, dtype=tl.float32)
    if grad_output is not None:
        result += load_tile(grad_output + place, tile, mask)
    if grad_final is not None:
        result += load_tile(grad_final, tile, ends)
    return result


@triton.jit
def zoned(grad, drawn, rate, place, tile, mask, ZONEOUT: tl.constexpr):
    """The shares of a state's gradient that belong to the old state, which zoneout kept, and to the new one."""
    kept = tl.zeros(tile.shape, dtype=tl.float32)
    if ZONEOUT:
        kept = grad * factor(drawn, rate, place, tile, mask)
        grad -= kept
    return kept, grad


@triton.jit
def flowing(flow, tile, mask):
    """A float32 tile that the last launch left in `flow`, or zeros where all steps are one launch."""
    if flow is not None:
        result = load_tile(flow, tile, mask)
    else:
        result = tl.zeros(tile.shape, dtype=tl.float32)
    return result


@triton.jit
def store_entered(before_rows, place, states, mask_recurrent, tile, mask):
    """Write what W_hh was multiplied with at a step, the state times its dropout mask, if a buffer is given for it."""
    if before_rows is not None:
        h = load_tile(states, tile, mask) * factor(mask_recurrent, 1.0, 0, tile, mask)
        store_tile(before_rows + place, tile, h, mask)


@triton.jit
def returned(
    delta,  # (N, K), gradients of the sums
    offsets, t, rows, lives, B, mask_recurrent, tile, unit_mask, weight, units, held,
    H: tl.constexpr, K: tl.constexpr, FULL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    SPLIT: tl.constexpr, STAGES: tl.constexpr, HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the sums of step t + 1 send back to the states before them, (delta W_hh) * mask: (BM, BN)."""
    alive = lives > t + 1
    total = product(
        delta + (offset_of(offsets, t + 2, B, FULL) - B) * K, None, rows, alive, weight, units, units < H, held, K,
        BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
    )  # fmt: skip
    return total * factor(mask_recurrent, 1.0, 0, tile, alive[:, None] & unit_mask)


@triton.jit
def zero_four(tile):
    """Four tiles of zeros."""
    zero = tl.zeros(tile.shape, dtype=tl.float32)
    return zero, zero, zero, zero


@triton.jit
def add_four(sums, mask, a, b, c, d, first, second, third, fourth):
    """Add a step's four tiles to the first four where they exist, if there is a place for the sums in the end."""
    if sums is not None:
        a, b = a + tl.where(mask, first, 0.0), b + tl.where(mask, second, 0.0)
        c, d = c + tl.where(mask, third, 0.0), d + tl.where(mask, fourth, 0.0)
    return a, b, c, d


@triton.jit
def store_sums(sums, units, valid, a, b, c, d, H: tl.constexpr, GATES: tl.constexpr):
    """Write the sums over the rows of four tiles as the gates' blocks of a vector."""
    store_four(sums, units, valid, tl.sum(a, 0), tl.sum(b, 0), tl.sum(c, 0), tl.sum(d, 0), H, GATES)


@triton.jit
def store_twice(sums, row_block, units, a, b, c, d, H: tl.constexpr, GATES: tl.constexpr):
    """`store_sums` for both biases, which have the same gradient, into (row blocks, 2, GATES H)."""
    if sums is not None:
        own = sums + row_block * (2 * GATES * H)
        store_sums(own, units, units < H, a, b, c, d, H, GATES)
        store_sums(own + GATES * H, units, units < H, a, b, c, d, H, GATES)


@triton.jit
def add_to(sums, units, valid, values):
    """Add the sum over the rows of values (BM, BN) to sums, which no other program touches."""
    old = tl.load(sums + units, mask=valid, other=0.0)
    tl.store(sums + units, old + tl.sum(values, 0), mask=valid)
