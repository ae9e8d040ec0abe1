# mypy: ignore-errors
# ruff: noqa: SIM108 (Triton compiles an if over constants by branch, other forms as values)
"""Triton kernel of the LSTM's scan: one body for one step a launch and for all steps in one launch.

Rows of packed buffers: at step t the gates' rows begin at offset[t + 1] - B, the states before the step at offset[t]
and those after it at offset[t + 1] of a history buffer (B + N, H), whose first B rows are the initial states.
"""

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
    offset_of,
    own_part,
    product,
    sigmoid,
    store_tile,
    wait,
)
from seqkit.nn.kernels.triton.norms import get_moments, put_moments, store_scale
from seqkit.nn.kernels.triton.parts import (
    begin,
    factor,
    four_columns,
    in_four,
    load_four,
    load_sums,
    row_of,
    step_there,
    store_four,
)


@triton.jit
def first_memory(
    h0, c0, hidden, memory, final_h, final_c, offsets, first, tile, rows, lives, B, unit_mask,
    H: tl.constexpr, PERSISTENT: tl.constexpr, FULL: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """The memory before step `first`. At step 0 both initial states are passed on, see `begin`."""
    if first == 0:
        begin(h0, hidden, final_h, tile, rows, lives, B, unit_mask, FULL, SAVE)
        c = begin(c0, memory, final_c, tile, rows, lives, B, unit_mask, FULL, SAVE)
    else:
        mask = (lives > first)[:, None] & unit_mask
        if SAVE:
            c = load_tile(memory + offset_of(offsets, first, B, FULL) * H, tile, mask)
        elif PERSISTENT:  # which begins at step 0
            c = tl.zeros(tile.shape, dtype=tl.float32)
        else:
            c = load_tile(memory, tile, mask)
    return c


@triton.jit
def new_memory(f, i, candidate, c, clip, CLIP: tl.constexpr):
    """f c + i candidate, as it is and clipped."""
    raw = f * c + i * candidate
    if CLIP:
        new = tl.minimum(tl.maximum(raw, -clip), clip)
    else:
        new = raw
    return raw, new


@triton.jit
def lstm_step(
    s_i, s_f, s_g, s_o, c, update, clip, peephole, units,
    H: tl.constexpr, GATES: tl.constexpr, CELL: tl.constexpr, CLIP: tl.constexpr,
):  # fmt: skip
    """From the gates' sums: f = s(s_f + p_f c), i = s(s_i + p_i c) or 1 - f, g = CELL(s_g), c' = f c + i g update,
    o = s(s_o + p_o c'), as in `seqkit.nn.LSTMCell`; returns i, f, g, o, c'."""
    if peephole is not None:
        s_i += row_of(peephole, units, units < H) * c
        s_f += row_of(peephole + (GATES - 3) * H, units, units < H) * c
    f = sigmoid(s_f)
    if GATES == 4:
        i = sigmoid(s_i)
    else:
        i = 1.0 - f
    g = activate(s_g, CELL)
    _, new = new_memory(f, i, g * update, c, clip, CLIP)
    if peephole is not None:
        s_o += row_of(peephole + (GATES - 2) * H, units, units < H) * new
    return i, f, g, sigmoid(s_o), new


@triton.jit
def recurrent_sums(
    h, mask_recurrent, weight, held,
    norm,  # (where LN's result and its scale go if SAVE, its gain, scratch), if PARTS
    spot,  # see `norms.py`
    gate_tile, meeting,
    H: tl.constexpr, GATES: tl.constexpr, PARTS: tl.constexpr, SAVE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W_hh (h * mask) as four tiles; if PARTS, LN(W_hh (h * mask)) * gain over all gates together."""
    rows, alive, unit_block, units, place, mask = spot
    normed, scales, gain, told = norm
    columns, valid = four_columns(unit_block, H, GATES, BN)
    total = product(
        h, mask_recurrent, rows, alive, weight, columns, valid, held, H,
        BM, 4 * BN, BK, SPLIT, STAGES, HOLD, PRECISION,
    )  # fmt: skip
    if PARTS > 0:
        put_moments(told, 0, spot, total, valid, PARTS)
        meet(meeting)
        mean, scale = get_moments(told, 0, spot, GATES, H, BN, PARTS)
        total = (total - mean) * scale
    a_i, a_f, a_g, a_o = in_four(total, BM, BN)
    if PARTS > 0:
        if SAVE:
            store_four(normed + place * (GATES * H), gate_tile, mask, a_i, a_f, a_g, a_o, H, GATES)
            store_scale(scales, spot, scale)
        g_i, g_f, g_g, g_o = load_four(gain, units, units < H, H, GATES)
        a_i, a_f, a_g, a_o = a_i * g_i[None, :], a_f * g_f[None, :], a_g * g_g[None, :], a_o * g_o[None, :]
    return a_i, a_f, a_g, a_o


@triton.jit
def normed_memory(
    new, norm, bias, spot, tile, meeting, H: tl.constexpr, PARTS: tl.constexpr, SAVE: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """LN(c') * gain + bias, with `norm` as in `recurrent_sums`."""
    _, _, _, units, place, mask = spot
    normed, scales, gain, told = norm
    put_moments(told, 1, spot, new, units < H, PARTS)
    meet(meeting)
    mean, scale = get_moments(told, 1, spot, 1, H, BN, PARTS)
    value = (new - mean) * scale
    if SAVE:
        store_tile(normed + place * H, tile, value, mask)
        store_scale(scales, spot, scale)
    value *= row_of(gain, units, units < H)
    if bias is not None:
        value += row_of(bias, units, units < H)
    return value


# Long by its parameters, each on a line with its shape: Triton compiles one function for a launch, and a launch takes
# tensors and numbers, not an object that holds them. The parts of a step are functions above and in `parts.py`.
@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def lstm_forward(
    sums,  # (N, GATES H): W_ih x + b_ih, or all but LN(W_hh h) * gain if PARTS
    gates,  # (N, GATES H), out if SAVE: the activated gates; may be `sums`
    h0,  # (B, H)
    c0,
    hidden,  # (B + N, H), out
    memory,  # out: (B + N, H) in float32 if SAVE; else (B, H), carried from launch to launch, or None if PERSISTENT
    final_h,  # (B, H), out
    final_c,
    weight,  # (GATES H, H)
    bias,  # (GATES H,), b_hh, or None
    normed,  # (N, GATES H), out if PARTS and SAVE: LN(W_hh h)
    scales,  # (N,), float32, likewise: 1 / sqrt(variance)
    normed_c,  # (N, H), likewise: LN(c')
    scales_c,  # (N,)
    told,  # scratch if PARTS: (row blocks * BM, 4, PARTS), float32
    gain,  # (GATES H,), of LN(W_hh h), if PARTS
    gain_c,  # (H,), of LN(c')
    bias_c,  # (H,) or None
    peephole,  # ((GATES - 1) H,) or None
    mask_recurrent,  # (b_0, H) or None
    mask_update,  # (N, H) or None
    mask_zoneout,  # (N, H) or None, where the rate stands in
    mask_cell,
    offsets, lengths,
    counters,  # zeros, 32 for each row block
    zoneout, zoneout_cell, clip,
    first,
    end, row_block0, steps, B, H: tl.constexpr, PERSISTENT: tl.constexpr, FULL: tl.constexpr,
    GATES: tl.constexpr, CELL: tl.constexpr, OUTPUT: tl.constexpr,
    CLIP: tl.constexpr, ZONEOUT: tl.constexpr, ZONEOUT_CELL: tl.constexpr,
    PARTS: tl.constexpr,  # if not 0, there is layer norm: see `norms.py`; only if PERSISTENT
    SAVE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Run all steps of the LSTM from `first` to `end`, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    PHASES: tl.constexpr = 3 if PARTS > 0 else 1
    row_block, rows, unit_block, units, lives, longest = own_part(row_block0, lengths, steps, B, H, FULL, BM, BN)
    columns, valid = four_columns(unit_block, H, GATES, BN)
    stop = tl.minimum(end, longest)
    tile = rows[:, None] * H + units[None, :]
    gate_tile = rows[:, None] * (GATES * H) + units[None, :]
    unit_mask = (units < H)[None, :]
    counter = counters + row_block * 32 if PERSISTENT else row_block
    c = first_memory(
        h0, c0, hidden, memory, final_h, final_c, offsets, first, tile, rows, lives, B, unit_mask,
        H, PERSISTENT, FULL, SAVE,
    )  # fmt: skip
    held = hold_weight(weight, columns, valid, H, BK, SPLIT, HOLD, 0)
    for t in tl.range(first, stop, num_stages=1):
        place, alive, old = step_there(t, offsets, h0, hidden, lives, B, H, FULL)
        mask = alive[:, None] & unit_mask
        # What does not depend on the other programs is asked for before waiting for them.
        sums_of_step = sums + place * (GATES * H)
        s_i, s_f, s_g, s_o = load_sums(sums_of_step, bias, gate_tile, mask, units, units < H, H, GATES)
        update = factor(mask_update, 1.0, place * H, tile, mask)
        met = (t - first) * (PHASES * unit_blocks)
        if PERSISTENT:
            wait(counter, met)
        spot = (rows, alive, unit_block, units, place, mask)
        a_i, a_f, a_g, a_o = recurrent_sums(
            old, mask_recurrent, weight, held, (normed, scales, gain, told), spot, gate_tile,
            (counter, met + unit_blocks), H, GATES, PARTS, SAVE, BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        i, f, g, o, new = lstm_step(
            s_i + a_i, s_f + a_f, s_g + a_g, s_o + a_o, c, update, clip, peephole, units, H, GATES, CELL, CLIP
        )
        seen = new
        if PARTS > 0:
            norm_c = (normed_c, scales_c, gain_c, told)
            seen = normed_memory(new, norm_c, bias_c, spot, tile, (counter, met + 2 * unit_blocks), H, PARTS, SAVE, BN)
        h = o * activate(seen, OUTPUT)
        if ZONEOUT:
            h += factor(mask_zoneout, zoneout, place * H, tile, mask) * (load_fresh(old, tile, mask) - h)
        store_tile(hidden + (place + B) * H, tile, h, mask)
        if PERSISTENT:
            arrive(counter)
        # The rest is of no interest to the other programs.
        if ZONEOUT_CELL:
            new += factor(mask_cell, zoneout_cell, place * H, tile, mask) * (c - new)
        c = new
        if SAVE:
            store_four(gates + place * (GATES * H), gate_tile, mask, i, f, g, o, H, GATES)
        if SAVE or not PERSISTENT:
            store_tile(memory + ((place + B) * H if SAVE else 0), tile, c, mask)
        store_tile(final_h, tile, h, (lives == t + 1)[:, None] & unit_mask)
        store_tile(final_c, tile, c, (lives == t + 1)[:, None] & unit_mask)
    if PERSISTENT:
        leave(counter, unit_blocks)
