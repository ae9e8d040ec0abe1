# mypy: ignore-errors
# ruff: noqa: SIM108 (Triton compiles an if over constants by branch, other forms as values)
"""What all Triton kernels share: the product with the recurrent weight, the barrier between steps, activations.

Names: a program owns the rows of one row block (BM packed rows) and the units of one unit block (BN hidden units).
"""

import triton
import triton.language as tl

from seqkit.nn.kernels.triton.support import interpreted


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """tanh as 2 sigmoid(2x) - 1, and where that would lose the digits of a small result x plus a polynomial of x^2."""
    near = x * x < 0.390625
    small = tl.where(near, x, 0.0)
    square = small * small
    series = -5.70498872745e-3 * square + 2.06390887954e-2  # Moshier's tanhf (Cephes)
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    return tl.where(near, series * square * small + small, 2.0 * sigmoid(2.0 * x) - 1.0)


@triton.jit
def activate(x, NAME: tl.constexpr):
    """The activation called NAME."""
    if NAME == "tanh":
        value = tanh(x)
    elif NAME == "sigmoid":
        value = sigmoid(x)
    elif NAME == "relu":
        value = tl.maximum(x, 0.0)
    else:
        value = x
    return value


@triton.jit
def slope(value, NAME: tl.constexpr):
    """Derivative of the activation called NAME, from its value."""
    if NAME == "tanh":
        result = 1.0 - value * value
    elif NAME == "sigmoid":
        result = value * (1.0 - value)
    elif NAME == "relu":
        result = tl.where(value > 0.0, 1.0, 0.0)
    else:
        result = value * 0.0 + 1.0
    return result


@triton.jit
def offset_of(offsets, t, B, FULL: tl.constexpr):
    """Row in a history buffer (B + N, size) where the states before step t begin, as int64."""
    if FULL:
        result = t * B.to(tl.int64)
    else:
        result = tl.load(offsets + t).to(tl.int64)
    return result


@triton.jit
def own_part(
    row_block0, lengths, steps, B, H: tl.constexpr, FULL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """What this program makes: its row block and rows (BM,), its unit block and units (BN,).

    Also the length of each row, -1 for rows past the batch, and of the first row, which is the block's longest.
    """
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    row_block = row_block0 + tl.program_id(0) // unit_blocks
    unit_block = tl.program_id(0) % unit_blocks
    rows = row_block * BM + tl.arange(0, BM)
    if FULL:
        lives = tl.where(rows < B, steps, -1)
        longest = steps
    else:
        lives = tl.load(lengths + rows, mask=rows < B, other=-1)
        longest = tl.load(lengths + row_block * BM)
    return row_block, rows, unit_block, unit_block * BN + tl.arange(0, BN), lives, longest


# Whether one thread of a program asks for the others' arrivals, which keeps the counters free for those who arrive;
# else all do. The interpreter knows no assembly.
ONE_ASKS = tl.constexpr(not interpreted())


@triton.jit
def wait(counter, target):
    """Until all programs of the row block have arrived `target` times in all."""
    # Relaxed: an acquire would empty the L1 cache of the weights. What the others wrote is read past L1.
    if ONE_ASKS:
        tl.inline_asm_elementwise(
            """
            {
                .reg .pred waits;
                .reg .b32 found;
                mov.u32 found, %tid.x;
                setp.ne.u32 waits, found, 0;
                @waits bra done;
            again:
                ld.relaxed.gpu.global.s32 found, [$1];
                setp.lt.s32 waits, found, $2;
                @waits bra again;
            done:
                mov.u32 $0, 0;
            }
            """,
            "=r,l,r",
            [counter, target],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        while tl.load(counter, volatile=True) < target:
            pass
    tl.debug_barrier()


@triton.jit
def arrive(counter):
    """Make everything this program wrote visible to the others, and say so."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def leave(counter, programs):
    """The last program of a row block to get here sets the counters back to zero, for the next launch.

    A program that gets here waits no more, so the last one is alone with the counters.
    """
    tl.debug_barrier()
    if tl.atomic_add(counter + 1, 1, sem="acq_rel", scope="gpu") == programs - 1:
        tl.store(counter, 0)
        tl.store(counter + 1, 0)


@triton.jit
def meet(meeting):
    """Go on when all programs of the row block have got here: (counter, all arrivals until then)."""
    counter, target = meeting
    arrive(counter)
    wait(counter, target)


@triton.jit
def load_weight(
    weight, columns, valid, k0, K: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, WIDTH: tl.constexpr
):
    """Part of the weight (columns, K) as (BK, N), or (SPLIT, BK / SPLIT, N).

    In memory it is (columns, K) if WIDTH is 0; else it is (K, WIDTH), of which `columns` are columns.
    """
    if SPLIT == 1:
        k = k0 + tl.arange(0, BK)[:, None]
        column = columns[None, :]
        mask = valid[None, :] & (k < K)
    else:
        DEPTH: tl.constexpr = BK // SPLIT
        k = k0 + tl.arange(0, SPLIT)[:, None, None] * DEPTH + tl.arange(0, DEPTH)[None, :, None]
        column = columns[None, None, :]
        mask = valid[None, None, :] & (k < K)
    if WIDTH == 0:
        result = tl.load(weight + column * K + k, mask=mask, other=0.0)
    else:
        result = tl.load(weight + k * WIDTH + column, mask=mask, other=0.0)
    return result


@triton.jit
def hold_weight(
    weight, columns, valid,
    K: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, HOLD: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The whole weight of a program, which it keeps for all steps, if HOLD; see `load_weight`."""
    if HOLD:
        held = load_weight(weight, columns, valid, 0, K, BK, SPLIT, WIDTH)
    else:
        held = 0
    return held


@triton.jit
def load_rows(source, rows, alive, k0, K: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr):
    """Rows of source (., K), read past the L1 cache: (BM, BK), or (SPLIT, BM, BK / SPLIT)."""
    if SPLIT == 1:
        k = k0 + tl.arange(0, BK)
        result = tl.load(
            source + rows[:, None] * K + k[None, :],
            mask=alive[:, None] & (k < K)[None, :],
            other=0.0,
            cache_modifier=".cg",
        )
    else:
        DEPTH: tl.constexpr = BK // SPLIT
        k = k0 + tl.arange(0, SPLIT)[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
        result = tl.load(
            source + rows[None, :, None] * K + k[:, None, :],
            mask=alive[None, :, None] & (k < K)[:, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
    return result


@triton.jit
def load_masked(source, mask, rows, alive, k0, K: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr):
    """`load_rows` of the source, times those of the mask if there is one."""
    result = load_rows(source, rows, alive, k0, K, BK, SPLIT)
    if mask is not None:
        result = result * load_rows(mask, rows, alive, k0, K, BK, SPLIT)
    return result


@triton.jit
def sum_of_parts(total, SPLIT: tl.constexpr, BM: tl.constexpr, N: tl.constexpr):
    """The sum over the first axis of (SPLIT, BM, N)."""
    # As `tl.sum`, but the threads share the result, where that gives all of it to each warp.
    parts = tl.permute(total, (1, 2, 0))
    if SPLIT >= 8:
        left, right = tl.split(tl.reshape(parts, (BM, N, SPLIT // 2, 2)))
        parts = left + right
        left, right = tl.split(tl.reshape(parts, (BM, N, SPLIT // 4, 2)))
        parts = left + right
        left, right = tl.split(tl.reshape(parts, (BM, N, 2)))
    elif SPLIT == 4:
        left, right = tl.split(tl.reshape(parts, (BM, N, 2, 2)))
        parts = left + right
        left, right = tl.split(tl.reshape(parts, (BM, N, 2)))
    else:
        left, right = tl.split(parts)
    return left + right


@triton.jit
def product(
    source,  # the first row of a step in (., K)
    mask,  # (., K), multiplied into the source's rows, or None
    rows,  # (BM,)
    alive,  # (BM,), rows that exist at the step
    weight,  # (M, K)
    columns,  # (N,), rows of the weight
    valid,  # (N,), which of these exist
    held,  # the weight's tile, if HOLD
    K: tl.constexpr, BM: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """source (BM, K) times the transpose of the weight's rows: (BM, N) in float32.

    SPLIT cuts K into as many parts, one for each warp, whose sums are joined at the end.
    """
    if SPLIT == 1:
        total = tl.zeros((BM, N), dtype=tl.float32)
    else:
        total = tl.zeros((SPLIT, BM, N), dtype=tl.float32)
    if HOLD:
        left = load_masked(source, mask, rows, alive, 0, K, BK, SPLIT)
        total = tl.dot(left, held, total, input_precision=PRECISION)
    elif STAGES > 1:
        for k0 in tl.range(0, K, BK, num_stages=STAGES):
            left = load_masked(source, mask, rows, alive, k0, K, BK, SPLIT)
            right = load_weight(weight, columns, valid, k0, K, BK, SPLIT, 0)
            total = tl.dot(left, right, total, input_precision=PRECISION)
    else:
        # Each piece is on its way while the one before it is multiplied.
        left = load_masked(source, mask, rows, alive, 0, K, BK, SPLIT)
        right = load_weight(weight, columns, valid, 0, K, BK, SPLIT, 0)
        for k0 in tl.range(BK, K, BK, num_stages=1):
            next_left = load_masked(source, mask, rows, alive, k0, K, BK, SPLIT)
            next_right = load_weight(weight, columns, valid, k0, K, BK, SPLIT, 0)
            total = tl.dot(left, right, total, input_precision=PRECISION)
            left = next_left
            right = next_right
        total = tl.dot(left, right, total, input_precision=PRECISION)
    if SPLIT > 1:
        total = sum_of_parts(total, SPLIT, BM, N)
    return total


@triton.jit
def load_tile(pointer, offset, mask):
    """A tile as float32, zero where masked."""
    return tl.load(pointer + offset, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_fresh(pointer, offset, mask):
    """`load_tile` past the L1 cache, for what a kernel has written itself."""
    return tl.load(pointer + offset, mask=mask, other=0.0, cache_modifier=".cg").to(tl.float32)


@triton.jit
def store_tile(pointer, offset, value, mask):
    """A float32 tile in the pointer's dtype."""
    tl.store(pointer + offset, value.to(pointer.dtype.element_ty), mask=mask)
