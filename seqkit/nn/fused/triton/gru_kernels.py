# mypy: ignore-errors
# ruff: noqa: SIM108 (Triton compiles an if over constants by branch, other forms as values)
"""Triton kernels of the GRU; see `lstm_kernels.py` for the layout of the buffers."""

import triton
import triton.language as tl

from seqkit.nn.fused.triton.blocks import (
    arrive,
    in_four,
    leave,
    lengths_of,
    load_tile,
    load_weight,
    offset_of,
    product,
    sigmoid,
    steps_of_block,
    store_tile,
    tanh,
    wait,
)


@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def gru_forward(
    gates,  # (N, 3H): W_ih x + b_ih, which r, z and n replace if SAVE
    inner,  # (N, H), out if SAVE: the recurrent part of n's sum, W_hn h + b_hn; or None
    h0,  # (B, H)
    hidden,  # (B + N, H), out
    final_h,  # (B, H), out
    weight,  # (3H, H)
    bias,  # (3H,), b_hh, or None
    mask_recurrent,  # (b_0, H) or None
    mask_update,  # (N, H) or None
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
    ZONEOUT: tl.constexpr,
    SAVE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All steps of the GRU from `first` to `end`, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    row_block = row_block0 + tl.program_id(0) // unit_blocks
    first_unit = (tl.program_id(0) % unit_blocks) * BN
    rows = row_block * BM + tl.arange(0, BM)
    units = first_unit + tl.arange(0, BN)
    # Four slots for each unit, of which the last is empty.
    columns = tl.arange(0, 4 * BN)
    slot = columns % 4
    valid = (first_unit + columns // 4 < H) & (slot < 3)
    columns = slot * H + first_unit + columns // 4
    lives = lengths_of(lengths, rows, steps, B, FULL)
    stop = tl.minimum(end, steps_of_block(lengths, row_block * BM, steps, FULL))
    if PERSISTENT:
        counter = counters + row_block * 32
    tile = rows[:, None] * H + units[None, :]
    gate_tile = rows[:, None] * (3 * H) + units[None, :]
    unit_mask = (units < H)[None, :]

    if first == 0:
        given = (rows < B)[:, None] & unit_mask
        h = load_tile(h0, tile, given)
        if not FULL:
            store_tile(final_h, tile, h, (lives == 0)[:, None] & unit_mask)
        if SAVE:
            store_tile(hidden, tile, h, given)
    else:
        mask = (lives > first)[:, None] & unit_mask
        h = load_tile(hidden + offset_of(offsets, first, B, FULL) * H, tile, mask)
    if bias is not None:
        b_r = load_tile(bias, units, units < H)[None, :]
        b_z = load_tile(bias + H, units, units < H)[None, :]
        b_m = load_tile(bias + 2 * H, units, units < H)[None, :]
    if HOLD:
        held = load_weight(weight, columns, valid, 0, H, BK, SPLIT, 0)
    else:
        held = 0

    for t in tl.range(first, stop, num_stages=1):
        before = offset_of(offsets, t, B, FULL)
        after = offset_of(offsets, t + 1, B, FULL)
        alive = lives > t
        mask = alive[:, None] & unit_mask
        step_gates = gates + (after - B) * (3 * H)
        s_r = load_tile(step_gates, gate_tile, mask)
        s_z = load_tile(step_gates + H, gate_tile, mask)
        s_n = load_tile(step_gates + 2 * H, gate_tile, mask)
        old = tl.where(t == 0, h0, hidden + before * H)
        if PERSISTENT:
            wait(counter, (t - first) * unit_blocks)
        total = product(
            old, mask_recurrent, rows, alive, weight, columns, valid, held, H,
            BM, 4 * BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        a_r, a_z, m, _ = in_four(total, BM, BN)
        if bias is not None:
            a_r += b_r
            a_z += b_z
            m += b_m
        r = sigmoid(s_r + a_r)
        z = sigmoid(s_z + a_z)
        n = tanh(s_n + r * m)
        if mask_update is not None:
            candidate = n * load_tile(mask_update + (after - B) * H, tile, mask)
        else:
            candidate = n
        new = candidate + z * (h - candidate)
        if ZONEOUT:
            if mask_zoneout is not None:
                keep = load_tile(mask_zoneout + (after - B) * H, tile, mask)
            else:
                keep = zoneout
            new += keep * (h - new)
        store_tile(hidden + after * H, tile, new, mask)
        if PERSISTENT:
            arrive(counter)
        # As the product will read it: rounded to the buffer's dtype.
        h = new.to(hidden.dtype.element_ty).to(tl.float32)
        if SAVE:
            store_tile(step_gates, gate_tile, r, mask)
            store_tile(step_gates + H, gate_tile, z, mask)
            store_tile(step_gates + 2 * H, gate_tile, n, mask)
            store_tile(inner + (after - B) * H, tile, m, mask)
        store_tile(final_h, tile, new, (lives == t + 1)[:, None] & unit_mask)
    if PERSISTENT:
        leave(counter, unit_blocks)


@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def gru_backward(
    gates,  # (N, 3H): r, z, n
    inner,  # (N, H)
    hidden,  # (B + N, H)
    delta_h,  # (N, 3H), out: gradients of the sums of r and z and of `inner`
    delta_x,  # (N, 3H), out: gradients of the sums of r, z and n
    before_rows,  # (N, H), out: what W_hh was multiplied with, or None if `hidden` is that
    weight,  # W_hh, (3H, H), if HOLD; else its transpose, (H, 3H)
    grad_output,  # (N, H) or None
    grad_h,  # (B, H) or None, of the final state
    grad_h0,  # (B, H), out
    flow_h,  # (B, H), float32: what passes on beside the product, carried from launch to launch; None if PERSISTENT
    mask_recurrent,
    mask_update,
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
    ZONEOUT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through the steps of the GRU, for one row block and one unit block."""
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
    gate_tile = rows[:, None] * (3 * H) + units[None, :]
    unit_mask = valid[None, :]

    if HOLD:
        held = load_weight(weight, units, valid, 0, 3 * H, BK, SPLIT, H)
    else:
        held = 0
    carried = tl.zeros((BM, BN), dtype=tl.float32)
    if not PERSISTENT:
        carried = load_tile(flow_h, tile, (lives > steps - first)[:, None] & unit_mask)

    for s in tl.range(start, end, num_stages=1):
        t = steps - 1 - s
        # At t = -1, which stands for the initial state, nothing is loaded or stored but the gradient of h0.
        before = offset_of(offsets, tl.maximum(t, 0), B, FULL)
        after = offset_of(offsets, t + 1, B, FULL)
        mask = ((lives > t) & (t >= 0))[:, None] & unit_mask
        step_gates = gates + (after - B) * (3 * H)
        step_delta = delta_h + (after - B) * (3 * H)
        r = load_tile(step_gates, gate_tile, mask)
        z = load_tile(step_gates + H, gate_tile, mask)
        n = load_tile(step_gates + 2 * H, gate_tile, mask)
        m = load_tile(inner + (after - B) * H, tile, mask)
        h = load_tile(hidden + before * H, tile, mask)
        dh = carried
        if grad_output is not None:
            dh += load_tile(grad_output + (after - B) * H, tile, mask)
        if grad_h is not None:
            dh += load_tile(grad_h, tile, (lives == t + 1)[:, None] & unit_mask)
        candidate = n
        share = 1.0 - n * n
        if mask_update is not None:
            update = load_tile(mask_update + (after - B) * H, tile, mask)
            candidate *= update
            share *= update
        if before_rows is not None:
            if mask_recurrent is not None:
                entered = h * load_tile(mask_recurrent, tile, mask)
            else:
                entered = h
            store_tile(before_rows + (after - B) * H, tile, entered, mask)
        if PERSISTENT:
            wait(counter, (s - start) * unit_blocks)
        passed_rows = lives > t + 1
        total = product(
            step_delta + (offset_of(offsets, t + 2, B, FULL) - after) * (3 * H), None, rows, passed_rows,
            weight, units, valid, held, 3 * H,
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
            kept = dh * keep
            d_new = dh - kept
            carried = kept + d_new * z
        else:
            d_new = dh
            carried = dh * z
        d_n = d_new * (1.0 - z) * share
        d_z = d_new * (h - candidate) * z * (1.0 - z)
        d_r = d_n * m * r * (1.0 - r)
        store_tile(step_delta, gate_tile, d_r, mask)
        store_tile(step_delta + H, gate_tile, d_z, mask)
        store_tile(step_delta + 2 * H, gate_tile, d_n * r, mask)
        if PERSISTENT:
            arrive(counter)
        step_delta_x = delta_x + (after - B) * (3 * H)
        store_tile(step_delta_x, gate_tile, d_r, mask)
        store_tile(step_delta_x + H, gate_tile, d_z, mask)
        store_tile(step_delta_x + 2 * H, gate_tile, d_n, mask)
    if PERSISTENT:
        leave(counter, unit_blocks)
    else:
        store_tile(flow_h, tile, carried, (rows < B)[:, None] & unit_mask)
