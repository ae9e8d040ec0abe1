# mypy: ignore-errors
"""Triton kernels of the Elman cell, there and back; see `lstm_forward.py` for the layout of the buffers."""

import triton
import triton.language as tl

from seqkit.nn.kernels.triton.blocks import (
    activate,
    arrive,
    hold_weight,
    leave,
    load_fresh,
    load_tile,
    meet,
    own_part,
    product,
    slope,
    store_tile,
    wait,
)
from seqkit.nn.kernels.triton.norms import get_moments, get_sums, load_scale, put_moments, put_pair, store_scale
from seqkit.nn.kernels.triton.parts import (
    begin,
    factor,
    flowing,
    incoming,
    returned,
    row_of,
    step_back,
    step_there,
    store_entered,
    zoned,
)


# Long by its parameters, each on a line with its shape: Triton compiles one function for a launch, and a launch takes
# tensors and numbers, not an object that holds them. The parts of a step are functions above and in `parts.py`.
@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def rnn_forward(
    sums,  # (N, H): W_ih x + b_ih, without the bias if PARTS; the activation replaces it if KEEP
    h0,  # (B, H)
    hidden,  # (B + N, H), out
    final_h,  # (B, H), out
    weight,  # (H, H)
    bias,  # (H,), b_hh, or b_ih + b_hh if PARTS; or None
    normed,  # (N, H), out if PARTS and SAVE: LN(W_ih x + W_hh h)
    scales,  # (N,), float32, likewise: 1 / sqrt(variance)
    told,  # scratch if PARTS: (row blocks * BM, 4, PARTS), float32
    gain,  # (H,) if PARTS
    mask_recurrent,  # (b_0, H) or None
    mask_zoneout,  # (N, H) or None, where the rate stands in
    offsets, lengths, counters,
    zoneout,
    first,
    end, row_block0, steps, B, H: tl.constexpr, PERSISTENT: tl.constexpr, FULL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ZONEOUT: tl.constexpr,
    PARTS: tl.constexpr,  # if not 0, there is layer norm: see `norms.py`; only if PERSISTENT
    SAVE: tl.constexpr,
    KEEP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Run all steps of the Elman cell from `first` to `end`, for one row block and one unit block.

    h' = f(W_ih x + W_hh h + b), or f(LN(W_ih x + W_hh h) * gain + b), as in `seqkit.nn.RNNCell`.
    """
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    PHASES: tl.constexpr = 2 if PARTS > 0 else 1
    row_block, rows, unit_block, units, lives, longest = own_part(row_block0, lengths, steps, B, H, FULL, BM, BN)
    stop = tl.minimum(end, longest)
    tile = rows[:, None] * H + units[None, :]
    unit_mask = (units < H)[None, :]
    counter = counters + row_block * 32 if PERSISTENT else row_block
    if first == 0:
        begin(h0, hidden, final_h, tile, rows, lives, B, unit_mask, FULL, SAVE)
    held = hold_weight(weight, units, units < H, H, BK, SPLIT, HOLD, 0)
    for t in tl.range(first, stop, num_stages=1):
        place, alive, old = step_there(t, offsets, h0, hidden, lives, B, H, FULL)
        mask = alive[:, None] & unit_mask
        total = load_tile(sums + place * H, tile, mask)
        met = (t - first) * (PHASES * unit_blocks)
        if PERSISTENT:
            wait(counter, met)
        total += product(
            old, mask_recurrent, rows, alive, weight, units, units < H, held, H,
            BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        if PARTS > 0:
            spot = (rows, alive, unit_block, units, place, mask)
            put_moments(told, 0, spot, total, units < H, PARTS)
            meet((counter, met + unit_blocks))
            mean, scale = get_moments(told, 0, spot, 1, H, BN, PARTS)
            total = (total - mean) * scale
            if SAVE:
                store_tile(normed + place * H, tile, total, mask)
                store_scale(scales, spot, scale)
            total *= row_of(gain, units, units < H)
        if bias is not None:
            total += row_of(bias, units, units < H)
        active = activate(total, ACTIVATION)
        h = active
        if ZONEOUT:
            h += factor(mask_zoneout, zoneout, place * H, tile, mask) * (load_fresh(old, tile, mask) - h)
        store_tile(hidden + (place + B) * H, tile, h, mask)
        if PERSISTENT:
            arrive(counter)
        if KEEP:
            store_tile(sums + place * H, tile, active, mask)
        store_tile(final_h, tile, h, (lives == t + 1)[:, None] & unit_mask)
    if PERSISTENT:
        leave(counter, unit_blocks)


# Long by its parameters, each on a line with its shape: Triton compiles one function for a launch, and a launch takes
# tensors and numbers, not an object that holds them. The parts of a step are functions above and in `parts.py`.
@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def rnn_backward(
    active,  # (N, H): the activation at each step
    hidden,  # (B + N, H)
    normed,  # (N, H), LN(W_ih x + W_hh h), if PARTS
    scales,  # (N,), float32, likewise: 1 / sqrt(variance)
    told,  # scratch if PARTS: (row blocks * BM, 4, PARTS), float32
    delta,  # (N, H), out: gradients of W_ih x + W_hh h
    delta_n,  # (N, H), out if PARTS: gradients of LN(W_ih x + W_hh h) * gain + b
    before_rows,  # (N, H), out: what W_hh was multiplied with, or None if `hidden` is that
    weight,  # W_hh, (H, H), if HOLD; else its transpose
    grad_output,  # (N, H) or None
    grad_h,  # (B, H) or None, of the final state
    grad_h0,  # (B, H), out
    bias_sums,  # (row blocks, 2, H), float32, out: delta, added up, twice; or None
    flow_h,  # (B, H), float32: what zoneout passes on, carried from launch to launch; None if PERSISTENT
    gain,
    mask_recurrent,
    mask_zoneout,
    offsets, lengths, counters,
    zoneout,
    first,  # counts steps backwards: 0 is the last step, `steps` stands for the initial state
    end, row_block0, steps, B, H: tl.constexpr, PERSISTENT: tl.constexpr, FULL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ZONEOUT: tl.constexpr,
    PARTS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Back through the steps of the Elman cell, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    PHASES: tl.constexpr = 2 if PARTS > 0 else 1
    row_block, rows, unit_block, units, lives, longest = own_part(row_block0, lengths, steps, B, H, FULL, BM, BN)
    start = tl.maximum(first, steps - longest)
    tile = rows[:, None] * H + units[None, :]
    unit_mask = (units < H)[None, :]
    counter = counters + row_block * 32 if PERSISTENT else row_block
    held = hold_weight(weight, units, units < H, H, BK, SPLIT, HOLD, H)
    carried = flowing(flow_h, tile, (lives > steps - first)[:, None] & unit_mask)
    b = tl.zeros((BM, BN), dtype=tl.float32)
    for s in tl.range(start, end, num_stages=1):
        t = steps - 1 - s
        place, states, alive, mask, ends = step_back(t, offsets, lives, B, unit_mask, H, FULL)
        rate = slope(load_tile(active + place * H, tile, mask), ACTIVATION)
        dh = incoming(grad_output, grad_h, place * H, tile, mask, ends) + carried
        store_entered(before_rows, place * H, hidden + states, mask_recurrent, tile, mask)
        met = (s - start) * (PHASES * unit_blocks)
        if PERSISTENT:
            wait(counter, met)
        dh += returned(
            delta, offsets, t, rows, lives, B, mask_recurrent, tile, unit_mask, weight,
            units, held, H, H, FULL, BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        store_tile(grad_h0, tile, dh, (t < 0) & (rows < B)[:, None] & unit_mask)
        carried, dh = zoned(dh, mask_zoneout, zoneout, place * H, tile, mask, ZONEOUT)
        grad = dh * rate
        if PARTS > 0:
            store_tile(delta_n + place * H, tile, grad, mask)
            value = load_tile(normed + place * H, tile, mask)
            grad = tl.where(mask, grad * row_of(gain, units, units < H), 0.0)
            spot = (rows, alive, unit_block, units, place, mask)
            put_pair(told, 0, spot, tl.sum(grad, 1), tl.sum(grad * value, 1), PARTS)
            meet((counter, met + unit_blocks))
            mean, along = get_sums(told, 0, spot, 1, H, BN, PARTS)
            grad = (grad - mean - value * along) * load_scale(scales, spot)
        store_tile(delta + place * H, tile, grad, mask)
        if bias_sums is not None:
            b += tl.where(mask, grad, 0.0)
        if PERSISTENT:
            arrive(counter)
    if PERSISTENT:
        leave(counter, unit_blocks)
        if bias_sums is not None:
            own_sums = bias_sums + row_block * (2 * H)
            store_tile(own_sums, units, tl.sum(b, 0), units < H)
            store_tile(own_sums + H, units, tl.sum(b, 0), units < H)
    else:
        store_tile(flow_h, tile, carried, (rows < B)[:, None] & unit_mask)
