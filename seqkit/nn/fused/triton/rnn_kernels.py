# mypy: ignore-errors
# ruff: noqa: SIM108 (Triton compiles an if over constants by branch, other forms as values)
"""Triton kernels of the Elman cell; see `lstm_kernels.py` for the layout of the buffers."""

import triton
import triton.language as tl

from seqkit.nn.fused.triton.blocks import (
    activate,
    arrive,
    leave,
    lengths_of,
    load_fresh,
    load_tile,
    load_weight,
    offset_of,
    product,
    slope,
    steps_of_block,
    store_tile,
    wait,
)


@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def rnn_forward(
    sums,  # (N, H): W_ih x + b_ih, which the activation replaces if KEEP
    h0,  # (B, H)
    hidden,  # (B + N, H), out
    final_h,  # (B, H), out
    weight,  # (H, H)
    bias,  # (H,), b_hh, or None
    mask_recurrent,  # (b_0, H) or None
    mask_zoneout,  # (N, H) or None, where the rate stands in
    offsets,
    lengths,
    counters,
    zoneout,
    first,
    end,
    row_block0,
    steps,
    B,
    H: tl.constexpr,
    PERSISTENT: tl.constexpr,
    FULL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ZONEOUT: tl.constexpr,
    SAVE: tl.constexpr,
    KEEP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All steps of the Elman cell from `first` to `end`, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    row_block = row_block0 + tl.program_id(0) // unit_blocks
    rows = row_block * BM + tl.arange(0, BM)
    units = (tl.program_id(0) % unit_blocks) * BN + tl.arange(0, BN)
    valid = units < H
    lives = lengths_of(lengths, rows, steps, B, FULL)
    stop = tl.minimum(end, steps_of_block(lengths, row_block * BM, steps, FULL))
    if PERSISTENT:
        counter = counters + row_block * 32
    tile = rows[:, None] * H + units[None, :]
    unit_mask = valid[None, :]

    if first == 0:
        given = (rows < B)[:, None] & unit_mask
        start = load_tile(h0, tile, given)
        if not FULL:
            store_tile(final_h, tile, start, (lives == 0)[:, None] & unit_mask)
        if SAVE:
            store_tile(hidden, tile, start, given)
    if bias is not None:
        b = load_tile(bias, units, valid)[None, :]
    if HOLD:
        held = load_weight(weight, units, valid, 0, H, BK, SPLIT, 0)
    else:
        held = 0

    for t in tl.range(first, stop, num_stages=1):
        before = offset_of(offsets, t, B, FULL)
        after = offset_of(offsets, t + 1, B, FULL)
        alive = lives > t
        mask = alive[:, None] & unit_mask
        total = load_tile(sums + (after - B) * H, tile, mask)
        if bias is not None:
            total += b
        old = tl.where(t == 0, h0, hidden + before * H)
        if PERSISTENT:
            wait(counter, (t - first) * unit_blocks)
        total += product(
            old, mask_recurrent, rows, alive, weight, units, valid, held, H,
            BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        active = activate(total, ACTIVATION)
        h = active
        if ZONEOUT:
            if mask_zoneout is not None:
                keep = load_tile(mask_zoneout + (after - B) * H, tile, mask)
            else:
                keep = zoneout
            h += keep * (load_fresh(old, tile, mask) - h)
        store_tile(hidden + after * H, tile, h, mask)
        if PERSISTENT:
            arrive(counter)
        if KEEP:
            store_tile(sums + (after - B) * H, tile, active, mask)
        store_tile(final_h, tile, h, (lives == t + 1)[:, None] & unit_mask)
    if PERSISTENT:
        leave(counter, unit_blocks)


@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def rnn_backward(
    active,  # (N, H): the activation at each step
    hidden,  # (B + N, H)
    delta,  # (N, H), out: gradients of the sums
    before_rows,  # (N, H), out: what W_hh was multiplied with, or None if `hidden` is that
    weight,  # W_hh, (H, H), if HOLD; else its transpose
    grad_output,  # (N, H) or None
    grad_h,  # (B, H) or None, of the final state
    grad_h0,  # (B, H), out
    flow_h,  # (B, H), float32: what zoneout passes on, carried from launch to launch; None if PERSISTENT
    mask_recurrent,
    mask_zoneout,
    offsets,
    lengths,
    counters,
    zoneout,
    first,  # counts steps backwards: 0 is the last step, `steps` stands for the initial state
    end,
    row_block0,
    steps,
    B,
    H: tl.constexpr,
    PERSISTENT: tl.constexpr,
    FULL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ZONEOUT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through the steps of the Elman cell, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    row_block = row_block0 + tl.program_id(0) // unit_blocks
    rows = row_block * BM + tl.arange(0, BM)
    units = (tl.program_id(0) % unit_blocks) * BN + tl.arange(0, BN)
    valid = units < H
    lives = lengths_of(lengths, rows, steps, B, FULL)
    start = tl.maximum(first, steps - steps_of_block(lengths, row_block * BM, steps, FULL))
    if PERSISTENT:
        counter = counters + row_block * 32
    tile = rows[:, None] * H + units[None, :]
    unit_mask = valid[None, :]

    if HOLD:
        held = load_weight(weight, units, valid, 0, H, BK, SPLIT, H)
    else:
        held = 0
    carried = tl.zeros((BM, BN), dtype=tl.float32)
    if ZONEOUT and not PERSISTENT:
        carried = load_tile(flow_h, tile, (lives > steps - first)[:, None] & unit_mask)

    for s in tl.range(start, end, num_stages=1):
        t = steps - 1 - s
        # At t = -1, which stands for the initial state, nothing is loaded or stored but the gradient of h0.
        after = offset_of(offsets, t + 1, B, FULL)
        mask = ((lives > t) & (t >= 0))[:, None] & unit_mask
        rate = slope(load_tile(active + (after - B) * H, tile, mask), ACTIVATION)
        dh = tl.zeros((BM, BN), dtype=tl.float32)
        if ZONEOUT:
            dh += carried
        if grad_output is not None:
            dh += load_tile(grad_output + (after - B) * H, tile, mask)
        if grad_h is not None:
            dh += load_tile(grad_h, tile, (lives == t + 1)[:, None] & unit_mask)
        if before_rows is not None:
            h = load_tile(hidden + offset_of(offsets, tl.maximum(t, 0), B, FULL) * H, tile, mask)
            if mask_recurrent is not None:
                h *= load_tile(mask_recurrent, tile, mask)
            store_tile(before_rows + (after - B) * H, tile, h, mask)
        if PERSISTENT:
            wait(counter, (s - start) * unit_blocks)
        passed_rows = lives > t + 1
        total = product(
            delta + (offset_of(offsets, t + 2, B, FULL) - B) * H, None, rows, passed_rows,
            weight, units, valid, held, H,
            BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        if mask_recurrent is not None:
            total *= load_tile(mask_recurrent, tile, passed_rows[:, None] & unit_mask)
        dh += total
        store_tile(grad_h0, tile, dh, (t < 0) & (rows < B)[:, None] & unit_mask)
        if ZONEOUT:
            if mask_zoneout is not None:
                keep = load_tile(mask_zoneout + (after - B) * H, tile, mask)
            else:
                keep = zoneout
            carried = dh * keep
            dh -= carried
        store_tile(delta + (after - B) * H, tile, dh * rate, mask)
        if PERSISTENT:
            arrive(counter)
    if PERSISTENT:
        leave(counter, unit_blocks)
    elif ZONEOUT:
        store_tile(flow_h, tile, carried, (rows < B)[:, None] & unit_mask)
