# mypy: ignore-errors
# ruff: noqa: SIM108 (Triton compiles an if over constants by branch, other forms as values)
"""Triton kernels of the LSTM: one body for one step a launch and for all steps in one launch.

Rows of packed buffers: at step t the gates' rows begin at offset[t + 1] - B, the states before the step at offset[t]
and those after it at offset[t + 1] of a history buffer (B + N, H), whose first B rows are the initial states.
"""

import triton
import triton.language as tl

from seqkit.nn.fused.triton.blocks import (
    activate,
    arrive,
    in_four,
    leave,
    lengths_of,
    load_fresh,
    load_tile,
    load_weight,
    offset_of,
    product,
    sigmoid,
    slope,
    steps_of_block,
    store_tile,
    wait,
)


@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def lstm_forward(
    gates,  # (N, GATES H): W_ih x + b_ih, which the activated gates replace if SAVE
    h0,  # (B, H)
    c0,
    hidden,  # (B + N, H), out
    memory,  # out: (B + N, H) in float32 if SAVE; else (B, H), carried from launch to launch, or None if PERSISTENT
    final_h,  # (B, H), out
    final_c,
    weight,  # (GATES H, H)
    bias,  # (GATES H,), b_hh, or None
    peephole,  # ((GATES - 1) H,) or None
    mask_recurrent,  # (b_0, H) or None
    mask_update,  # (N, H) or None
    mask_zoneout,  # (N, H) or None, where the rate stands in
    mask_cell,
    offsets,
    lengths,
    counters,  # zeros, 32 for each row block
    zoneout,
    zoneout_cell,
    clip,
    first,
    end,
    row_block0,
    steps,
    B,
    H: tl.constexpr,
    PERSISTENT: tl.constexpr,
    FULL: tl.constexpr,
    GATES: tl.constexpr,
    CELL: tl.constexpr,
    OUTPUT: tl.constexpr,
    CLIP: tl.constexpr,
    ZONEOUT: tl.constexpr,
    ZONEOUT_CELL: tl.constexpr,
    SAVE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All steps of the LSTM from `first` to `end`, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    row_block = row_block0 + tl.program_id(0) // unit_blocks
    first_unit = (tl.program_id(0) % unit_blocks) * BN
    rows = row_block * BM + tl.arange(0, BM)
    units = first_unit + tl.arange(0, BN)
    columns = tl.arange(0, 4 * BN)
    slot = columns % 4 - (4 - GATES)
    valid = (first_unit + columns // 4 < H) & (slot >= 0)
    columns = slot * H + first_unit + columns // 4
    lives = lengths_of(lengths, rows, steps, B, FULL)
    stop = tl.minimum(end, steps_of_block(lengths, row_block * BM, steps, FULL))
    if PERSISTENT:
        counter = counters + row_block * 32
    tile = rows[:, None] * H + units[None, :]
    gate_tile = rows[:, None] * (GATES * H) + units[None, :]
    unit_mask = (units < H)[None, :]

    if first == 0:
        given = (rows < B)[:, None] & unit_mask
        c = load_tile(c0, tile, given)
        if not FULL:
            empty = (lives == 0)[:, None] & unit_mask
            store_tile(final_h, tile, load_tile(h0, tile, empty), empty)
            store_tile(final_c, tile, c, empty)
        if SAVE:
            store_tile(hidden, tile, load_tile(h0, tile, given), given)
            store_tile(memory, tile, c, given)
    else:
        mask = (lives > first)[:, None] & unit_mask
        if SAVE:
            c = load_tile(memory + offset_of(offsets, first, B, FULL) * H, tile, mask)
        elif PERSISTENT:
            c = tl.zeros((BM, BN), dtype=tl.float32)
        else:
            c = load_tile(memory, tile, mask)
    if bias is not None:
        if GATES == 4:
            b_i = load_tile(bias, units, units < H)[None, :]
        b_f = load_tile(bias + (GATES - 3) * H, units, units < H)[None, :]
        b_g = load_tile(bias + (GATES - 2) * H, units, units < H)[None, :]
        b_o = load_tile(bias + (GATES - 1) * H, units, units < H)[None, :]
    if peephole is not None:
        if GATES == 4:
            p_i = load_tile(peephole, units, units < H)[None, :]
        p_f = load_tile(peephole + (GATES - 3) * H, units, units < H)[None, :]
        p_o = load_tile(peephole + (GATES - 2) * H, units, units < H)[None, :]
    if HOLD:
        held = load_weight(weight, columns, valid, 0, H, BK, SPLIT, 0)
    else:
        held = 0

    for t in tl.range(first, stop, num_stages=1):
        before = offset_of(offsets, t, B, FULL)
        after = offset_of(offsets, t + 1, B, FULL)
        alive = lives > t
        mask = alive[:, None] & unit_mask
        step_gates = gates + (after - B) * (GATES * H)
        # What does not depend on the other programs is asked for before waiting for them.
        if GATES == 4:
            s_i = load_tile(step_gates, gate_tile, mask)
        s_f = load_tile(step_gates + (GATES - 3) * H, gate_tile, mask)
        s_g = load_tile(step_gates + (GATES - 2) * H, gate_tile, mask)
        s_o = load_tile(step_gates + (GATES - 1) * H, gate_tile, mask)
        if bias is not None:
            if GATES == 4:
                s_i += b_i
            s_f += b_f
            s_g += b_g
            s_o += b_o
        old = tl.where(t == 0, h0, hidden + before * H)
        if PERSISTENT:
            wait(counter, (t - first) * unit_blocks)
        total = product(
            old, mask_recurrent, rows, alive, weight, columns, valid, held, H,
            BM, 4 * BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        a_i, a_f, a_g, a_o = in_four(total, BM, BN)
        s_f += a_f
        if peephole is not None:
            s_f += p_f * c
        f = sigmoid(s_f)
        if GATES == 4:
            s_i += a_i
            if peephole is not None:
                s_i += p_i * c
            i = sigmoid(s_i)
        else:
            i = 1.0 - f
        g = activate(s_g + a_g, CELL)
        if mask_update is not None:
            new = f * c + i * (g * load_tile(mask_update + (after - B) * H, tile, mask))
        else:
            new = f * c + i * g
        if CLIP:
            new = tl.minimum(tl.maximum(new, -clip), clip)
        s_o += a_o
        if peephole is not None:
            s_o += p_o * new
        o = sigmoid(s_o)
        h = o * activate(new, OUTPUT)
        if ZONEOUT:
            if mask_zoneout is not None:
                keep = load_tile(mask_zoneout + (after - B) * H, tile, mask)
            else:
                keep = zoneout
            h += keep * (load_fresh(old, tile, mask) - h)
        if ZONEOUT_CELL:
            if mask_cell is not None:
                keep_c = load_tile(mask_cell + (after - B) * H, tile, mask)
            else:
                keep_c = zoneout_cell
            c = new + keep_c * (c - new)
        else:
            c = new
        store_tile(hidden + after * H, tile, h, mask)
        if PERSISTENT:
            arrive(counter)
        # The rest is of no interest to the other programs.
        if SAVE:
            if GATES == 4:
                store_tile(step_gates, gate_tile, i, mask)
            store_tile(step_gates + (GATES - 3) * H, gate_tile, f, mask)
            store_tile(step_gates + (GATES - 2) * H, gate_tile, g, mask)
            store_tile(step_gates + (GATES - 1) * H, gate_tile, o, mask)
            store_tile(memory + after * H, tile, c, mask)
        elif not PERSISTENT:
            store_tile(memory, tile, c, mask)
        last = (lives == t + 1)[:, None] & unit_mask
        store_tile(final_h, tile, h, last)
        store_tile(final_c, tile, c, last)
    if PERSISTENT:
        leave(counter, unit_blocks)


@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def lstm_backward(
    gates,  # (N, GATES H), activated
    hidden,  # (B + N, H)
    memory,  # (B + N, H), float32
    delta,  # (N, GATES H), out: gradients of the sums
    before_rows,  # (N, H), out: what W_hh was multiplied with, or None if `hidden` is that
    weight,  # W_hh, (GATES H, H), if HOLD; else its transpose, (H, GATES H)
    grad_output,  # (N, H) or None
    grad_h,  # (B, H) or None, of the final states
    grad_c,
    grad_h0,  # (B, H), out
    grad_c0,
    flow_c,  # (B, H), float32: what reaches the memory, carried from launch to launch; None if PERSISTENT
    flow_h,  # (B, H), float32: what zoneout passes on, likewise
    grad_peephole,  # (row blocks, GATES - 1, H), float32, zeros; or None
    peephole,
    mask_recurrent,
    mask_update,
    mask_zoneout,
    mask_cell,
    offsets,
    lengths,
    counters,
    zoneout,
    zoneout_cell,
    clip,
    first,  # counts steps backwards: 0 is the last step, `steps` stands for the initial state
    end,
    row_block0,
    steps,
    B,
    H: tl.constexpr,
    PERSISTENT: tl.constexpr,
    FULL: tl.constexpr,
    GATES: tl.constexpr,
    CELL: tl.constexpr,
    OUTPUT: tl.constexpr,
    CLIP: tl.constexpr,
    ZONEOUT: tl.constexpr,
    ZONEOUT_CELL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through the steps of the LSTM, for one row block and one unit block."""
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
    gate_tile = rows[:, None] * (GATES * H) + units[None, :]
    unit_mask = valid[None, :]

    if peephole is not None:
        if GATES == 4:
            p_i = load_tile(peephole, units, valid)[None, :]
        p_f = load_tile(peephole + (GATES - 3) * H, units, valid)[None, :]
        p_o = load_tile(peephole + (GATES - 2) * H, units, valid)[None, :]
        sums = grad_peephole + row_block * ((GATES - 1) * H)
    if HOLD:
        held = load_weight(weight, units, valid, 0, GATES * H, BK, SPLIT, H)
    else:
        held = 0
    dc = tl.zeros((BM, BN), dtype=tl.float32)
    carried = tl.zeros((BM, BN), dtype=tl.float32)
    if not PERSISTENT:
        passed = (lives > steps - first)[:, None] & unit_mask
        dc = load_tile(flow_c, tile, passed)
        if ZONEOUT:
            carried = load_tile(flow_h, tile, passed)

    for s in tl.range(start, end, num_stages=1):
        t = steps - 1 - s
        # At t = -1, which stands for the initial state, nothing is loaded or stored but the gradients of h0 and c0.
        before = offset_of(offsets, tl.maximum(t, 0), B, FULL)
        after = offset_of(offsets, t + 1, B, FULL)
        mask = ((lives > t) & (t >= 0))[:, None] & unit_mask
        ends = (lives == t + 1)[:, None] & unit_mask
        step_gates = gates + (after - B) * (GATES * H)
        step_delta = delta + (after - B) * (GATES * H)
        f = load_tile(step_gates + (GATES - 3) * H, gate_tile, mask)
        g = load_tile(step_gates + (GATES - 2) * H, gate_tile, mask)
        o = load_tile(step_gates + (GATES - 1) * H, gate_tile, mask)
        if GATES == 4:
            i = load_tile(step_gates, gate_tile, mask)
        else:
            i = 1.0 - f
        c = load_tile(memory + before * H, tile, mask)
        if mask_update is not None:
            update = load_tile(mask_update + (after - B) * H, tile, mask)
            candidate = g * update
        else:
            candidate = g
        dh = tl.zeros((BM, BN), dtype=tl.float32)
        if grad_output is not None:
            dh += load_tile(grad_output + (after - B) * H, tile, mask)
        if grad_h is not None:
            dh += load_tile(grad_h, tile, ends)
        if grad_c is not None:
            dc = tl.where(ends, load_tile(grad_c, tile, ends), dc)
        raw = f * c + i * candidate
        new = raw
        if CLIP:
            new = tl.minimum(tl.maximum(raw, -clip), clip)
        shown = activate(new, OUTPUT)
        if before_rows is not None:
            h = load_tile(hidden + before * H, tile, mask)
            if mask_recurrent is not None:
                h *= load_tile(mask_recurrent, tile, mask)
            store_tile(before_rows + (after - B) * H, tile, h, mask)
        if PERSISTENT:
            wait(counter, (s - start) * unit_blocks)
        passed_rows = lives > t + 1
        total = product(
            step_delta + (offset_of(offsets, t + 2, B, FULL) - after) * (GATES * H), None, rows, passed_rows,
            weight, units, valid, held, GATES * H,
            BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        if mask_recurrent is not None:
            total *= load_tile(mask_recurrent, tile, passed_rows[:, None] & unit_mask)
        dh += total
        if ZONEOUT:
            dh += carried
        initial = (t < 0) & (rows < B)[:, None] & unit_mask
        store_tile(grad_h0, tile, dh, initial)
        store_tile(grad_c0, tile, dc, initial)
        if ZONEOUT:
            if mask_zoneout is not None:
                keep = load_tile(mask_zoneout + (after - B) * H, tile, mask)
            else:
                keep = zoneout
            carried = dh * keep
            dh -= carried
        if ZONEOUT_CELL:
            if mask_cell is not None:
                keep_c = load_tile(mask_cell + (after - B) * H, tile, mask)
            else:
                keep_c = zoneout_cell
            kept = dc * keep_c
            dc -= kept
        d_o = dh * shown * o * (1.0 - o)
        dc += dh * o * slope(shown, OUTPUT)
        if peephole is not None:
            dc += d_o * p_o
        if CLIP:
            dc = tl.where(tl.abs(raw) <= clip, dc, 0.0)
        if GATES == 4:
            d_i = dc * candidate * i * (1.0 - i)
            d_f = dc * c * f * (1.0 - f)
            store_tile(step_delta, gate_tile, d_i, mask)
        else:
            d_f = dc * (c - candidate) * f * (1.0 - f)
        d_g = dc * i * slope(g, CELL)
        if mask_update is not None:
            d_g *= update
        store_tile(step_delta + (GATES - 3) * H, gate_tile, d_f, mask)
        store_tile(step_delta + (GATES - 2) * H, gate_tile, d_g, mask)
        store_tile(step_delta + (GATES - 1) * H, gate_tile, d_o, mask)
        if PERSISTENT:
            arrive(counter)
        dc *= f
        if peephole is not None:
            # Rows that are masked have g = o = c = 0, but their i or f may not be, so each product is masked.
            if GATES == 4:
                dc += d_i * p_i
                add_to(sums, units, valid, tl.where(mask, d_i * c, 0.0))
            dc += d_f * p_f
            add_to(sums + (GATES - 3) * H, units, valid, tl.where(mask, d_f * c, 0.0))
            add_to(sums + (GATES - 2) * H, units, valid, tl.where(mask, d_o * new, 0.0))
        if ZONEOUT_CELL:
            dc += kept
    if PERSISTENT:
        leave(counter, unit_blocks)
    else:
        held_rows = (rows < B)[:, None] & unit_mask
        store_tile(flow_c, tile, dc, held_rows)
        if ZONEOUT:
            store_tile(flow_h, tile, carried, held_rows)


@triton.jit
def add_to(sums, units, valid, values):
    """Add the sum over the rows of values (BM, BN) to sums, which no other program touches."""
    old = tl.load(sums + units, mask=valid, other=0.0)
    tl.store(sums + units, old + tl.sum(values, 0), mask=valid)
