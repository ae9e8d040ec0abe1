# mypy: ignore-errors
"""Triton kernels of the GRU, there and back; see `lstm_forward.py` for the layout of the buffers."""

import triton
import triton.language as tl

from seqkit.nn.kernels.triton.blocks import (
    arrive,
    hold_weight,
    leave,
    load_tile,
    meet,
    offset_of,
    own_part,
    product,
    sigmoid,
    store_tile,
    tanh,
    wait,
)
from seqkit.nn.kernels.triton.norms import get_moments, get_sums, load_scale, put_moments, put_pair, store_scale
from seqkit.nn.kernels.triton.parts import (
    add_four,
    begin,
    factor,
    flowing,
    four_columns,
    in_four,
    incoming,
    load_four,
    returned,
    step_back,
    step_there,
    store_entered,
    store_four,
    store_sums,
    zero_four,
    zoned,
)


@triton.jit
def gru_sums(
    h, mask_recurrent, weight, held, bias,
    norm,  # (where LN's result and its scales, of r and z and of n, go if SAVE, its gain, scratch), if PARTS
    spot,  # see `norms.py`
    gate_tile, meeting,
    H: tl.constexpr, PARTS: tl.constexpr, SAVE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W_hh (h * mask) + b_hh of r, z and n; if PARTS, LN(W_hh (h * mask)) * gain + b_hh, over r and z together and over
    n alone."""
    rows, alive, unit_block, units, place, mask = spot
    normed, scales, scales_n, gain, told = norm
    columns, valid = four_columns(unit_block, H, 3, BN)
    total = product(
        h, mask_recurrent, rows, alive, weight, columns, valid, held, H,
        BM, 4 * BN, BK, SPLIT, STAGES, HOLD, PRECISION,
    )  # fmt: skip
    if PARTS > 0:
        is_n = tl.arange(0, 4 * BN) % 4 == 3
        put_moments(told, 0, spot, total, valid & (is_n == 0), PARTS)
        put_moments(told, 1, spot, total, valid & is_n, PARTS)
        meet(meeting)
        mean, scale = get_moments(told, 0, spot, 2, H, BN, PARTS)
        mean_n, scale_n = get_moments(told, 1, spot, 1, H, BN, PARTS)
        total = tl.where(is_n[None, :], (total - mean_n) * scale_n, (total - mean) * scale)
    _, a_r, a_z, m = in_four(total, BM, BN)
    if PARTS > 0:
        if SAVE:
            store_four(normed + place * (3 * H), gate_tile, mask, a_r, a_r, a_z, m, H, 3)
            store_scale(scales, spot, scale)
            store_scale(scales_n, spot, scale_n)
        _, g_r, g_z, g_n = load_four(gain, units, units < H, H, 3)
        a_r, a_z, m = a_r * g_r[None, :], a_z * g_z[None, :], m * g_n[None, :]
    if bias is not None:
        _, b_r, b_z, b_n = load_four(bias, units, units < H, H, 3)
        a_r, a_z, m = a_r + b_r[None, :], a_z + b_z[None, :], m + b_n[None, :]
    return a_r, a_z, m


@triton.jit
def gru_step(s_r, s_z, s_n, m, h, update):
    """r = s(s_r), z = s(s_z), n = tanh(s_n + r m), h' = (1 - z) n update + z h, as in `seqkit.nn.GRUCell`."""
    r = sigmoid(s_r)
    z = sigmoid(s_z)
    n = tanh(s_n + r * m)
    return r, z, n, n * update + z * (h - n * update)


# Long by its parameters, each on a line with its shape: Triton compiles one function for a launch, and a launch takes
# tensors and numbers, not an object that holds them. The parts of a step are functions above and in `parts.py`.
@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def gru_forward(
    sums,  # (N, 3H): W_ih x + b_ih, or its norm
    gates,  # (N, 3H), out if SAVE: r, z and n; may be `sums`
    inner,  # (N, H), out if SAVE: the recurrent part of n's sum, m; or None
    h0,  # (B, H)
    hidden,  # (B + N, H), out
    final_h,  # (B, H), out
    weight,  # (3H, H)
    bias,  # (3H,), b_hh, or None
    normed,  # (N, 3H), out if PARTS and SAVE: LN(W_hh h)
    scales,  # (N,), float32, likewise: 1 / sqrt(variance) of r and z
    scales_n,  # (N,), of n
    told,  # scratch if PARTS: (row blocks * BM, 4, PARTS), float32
    gain,  # (3H,) if PARTS
    mask_recurrent,  # (b_0, H) or None
    mask_update,  # (N, H) or None
    mask_zoneout,  # (N, H) or None, where the rate stands in
    offsets, lengths, counters,
    zoneout,
    first,
    end, row_block0, steps, B, H: tl.constexpr, PERSISTENT: tl.constexpr, FULL: tl.constexpr,
    ZONEOUT: tl.constexpr,
    PARTS: tl.constexpr,  # if not 0, there is layer norm: see `norms.py`; only if PERSISTENT
    SAVE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Run all steps of the GRU from `first` to `end`, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    PHASES: tl.constexpr = 2 if PARTS > 0 else 1
    row_block, rows, unit_block, units, lives, longest = own_part(row_block0, lengths, steps, B, H, FULL, BM, BN)
    columns, valid = four_columns(unit_block, H, 3, BN)
    stop = tl.minimum(end, longest)
    tile = rows[:, None] * H + units[None, :]
    gate_tile = rows[:, None] * (3 * H) + units[None, :]
    unit_mask = (units < H)[None, :]
    counter = counters + row_block * 32 if PERSISTENT else row_block
    if first == 0:
        h = begin(h0, hidden, final_h, tile, rows, lives, B, unit_mask, FULL, SAVE)
    else:
        states = hidden + offset_of(offsets, first, B, FULL) * H
        h = load_tile(states, tile, (lives > first)[:, None] & unit_mask)
    held = hold_weight(weight, columns, valid, H, BK, SPLIT, HOLD, 0)
    for t in tl.range(first, stop, num_stages=1):
        place, alive, old = step_there(t, offsets, h0, hidden, lives, B, H, FULL)
        mask = alive[:, None] & unit_mask
        _, s_r, s_z, s_n = load_four(sums + place * (3 * H), gate_tile, mask, H, 3)
        update = factor(mask_update, 1.0, place * H, tile, mask)
        met = (t - first) * (PHASES * unit_blocks)
        if PERSISTENT:
            wait(counter, met)
        spot = (rows, alive, unit_block, units, place, mask)
        a_r, a_z, m = gru_sums(
            old, mask_recurrent, weight, held, bias, (normed, scales, scales_n, gain, told), spot, gate_tile,
            (counter, met + unit_blocks), H, PARTS, SAVE, BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        r, z, n, new = gru_step(s_r + a_r, s_z + a_z, s_n, m, h, update)
        if ZONEOUT:
            new += factor(mask_zoneout, zoneout, place * H, tile, mask) * (h - new)
        store_tile(hidden + (place + B) * H, tile, new, mask)
        if PERSISTENT:
            arrive(counter)
        # As the product will read it: rounded to the buffer's dtype.
        h = new.to(hidden.dtype.element_ty).to(tl.float32)
        if SAVE:
            store_four(gates + place * (3 * H), gate_tile, mask, r, r, z, n, H, 3)
            store_tile(inner + place * H, tile, m, mask)
        store_tile(final_h, tile, new, (lives == t + 1)[:, None] & unit_mask)
    if PERSISTENT:
        leave(counter, unit_blocks)


@triton.jit
def back_through_gru(dh, r, z, n, m, h, update):
    """From h' = (1 - z) n update + z h, n = tanh(s_n + r m): the gradients of the sums of r, z and n, and of h by z."""
    d_n = dh * (1.0 - z) * update * (1.0 - n * n)
    d_z = dh * (h - n * update) * z * (1.0 - z)
    d_r = d_n * m * r * (1.0 - r)
    return d_r, d_z, d_n, dh * z


@triton.jit
def back_through_gru_norm(
    d_r, d_z, d_m, norm, spot, gate_tile, meeting, H: tl.constexpr, PARTS: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """From the gradients of LN(W_hh h) * gain + b_hh those of W_hh h, for r, z and n. `norm`: LN(W_hh h),
    its scales, its gain, scratch."""
    _, _, _, units, place, mask = spot
    normed, scales, scales_n, gain, told = norm
    _, g_r, g_z, g_n = load_four(gain, units, units < H, H, 3)
    d_r, d_z, d_m = d_r * g_r[None, :], d_z * g_z[None, :], d_m * g_n[None, :]
    _, n_r, n_z, n_n = load_four(normed + place * (3 * H), gate_tile, mask, H, 3)
    put_pair(told, 0, spot, tl.sum(d_r + d_z, 1), tl.sum(d_r * n_r + d_z * n_z, 1), PARTS)
    put_pair(told, 1, spot, tl.sum(d_m, 1), tl.sum(d_m * n_n, 1), PARTS)
    meet(meeting)
    mean, along = get_sums(told, 0, spot, 2, H, BN, PARTS)
    mean_n, along_n = get_sums(told, 1, spot, 1, H, BN, PARTS)
    scale = load_scale(scales, spot)
    scale_n = load_scale(scales_n, spot)
    return (
        (d_r - mean - n_r * along) * scale,
        (d_z - mean - n_z * along) * scale,
        (d_m - mean_n - n_n * along_n) * scale_n,
    )


# Long by its parameters, each on a line with its shape: Triton compiles one function for a launch, and a launch takes
# tensors and numbers, not an object that holds them. The parts of a step are functions above and in `parts.py`.
@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def gru_backward(
    gates,  # (N, 3H): r, z, n
    inner,  # (N, H): m
    hidden,  # (B + N, H)
    normed,  # (N, 3H), LN(W_hh h), if PARTS
    scales,  # (N,), float32, likewise: 1 / sqrt(variance) of r and z
    scales_n,  # (N,), of n
    told,  # scratch if PARTS: (row blocks * BM, 4, PARTS), float32
    delta_h,  # (N, 3H), out: gradients of W_hh h
    delta_x,  # (N, 3H), out: gradients of the sums of r, z and n
    delta_m,  # (N, H), out if PARTS: gradients of m
    before_rows,  # (N, H), out: what W_hh was multiplied with, or None if `hidden` is that
    weight,  # W_hh, (3H, H), if HOLD; else its transpose, (H, 3H)
    grad_output,  # (N, H) or None
    grad_h,  # (B, H) or None, of the final state
    grad_h0,  # (B, H), out
    bias_sums,  # (row blocks, 2, 3H), float32, out: delta_x and delta_h, added up; or None
    flow_h,  # (B, H), float32: what passes on beside the product, carried from launch to launch; None if PERSISTENT
    gain,
    mask_recurrent,
    mask_update,
    mask_zoneout,
    offsets, lengths, counters,
    zoneout,
    first,  # counts steps backwards: 0 is the last step, `steps` stands for the initial state
    end, row_block0, steps, B, H: tl.constexpr, PERSISTENT: tl.constexpr, FULL: tl.constexpr,
    ZONEOUT: tl.constexpr,
    PARTS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Back through the steps of the GRU, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    PHASES: tl.constexpr = 2 if PARTS > 0 else 1
    row_block, rows, unit_block, units, lives, longest = own_part(row_block0, lengths, steps, B, H, FULL, BM, BN)
    start = tl.maximum(first, steps - longest)
    tile = rows[:, None] * H + units[None, :]
    gate_tile = rows[:, None] * (3 * H) + units[None, :]
    unit_mask = (units < H)[None, :]
    counter = counters + row_block * 32 if PERSISTENT else row_block
    held = hold_weight(weight, units, units < H, 3 * H, BK, SPLIT, HOLD, H)
    carried = flowing(flow_h, tile, (lives > steps - first)[:, None] & unit_mask)
    b_r, b_z, b_n, b_m = zero_four(tile)
    for s in tl.range(start, end, num_stages=1):
        t = steps - 1 - s
        place, states, alive, mask, ends = step_back(t, offsets, lives, B, unit_mask, H, FULL)
        _, r, z, n = load_four(gates + place * (3 * H), gate_tile, mask, H, 3)
        m = load_tile(inner + place * H, tile, mask)
        h = load_tile(hidden + states, tile, mask)
        update = factor(mask_update, 1.0, place * H, tile, mask)
        dh = incoming(grad_output, grad_h, place * H, tile, mask, ends) + carried
        store_entered(before_rows, place * H, hidden + states, mask_recurrent, tile, mask)
        met = (s - start) * (PHASES * unit_blocks)
        if PERSISTENT:
            wait(counter, met)
        dh += returned(
            delta_h, offsets, t, rows, lives, B, mask_recurrent, tile, unit_mask, weight,
            units, held, H, 3 * H, FULL, BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        store_tile(grad_h0, tile, dh, (t < 0) & (rows < B)[:, None] & unit_mask)
        kept, dh = zoned(dh, mask_zoneout, zoneout, place * H, tile, mask, ZONEOUT)
        d_r, d_z, d_n, by_z = back_through_gru(dh, r, z, n, m, h, update)
        carried = kept + by_z
        store_four(delta_x + place * (3 * H), gate_tile, mask, d_r, d_r, d_z, d_n, H, 3)
        d_m = d_n * r
        b_r, b_z, b_n, b_m = add_four(bias_sums, mask, b_r, b_z, b_n, b_m, d_r, d_z, d_n, d_m)
        if PARTS > 0:
            store_tile(delta_m + place * H, tile, d_m, mask)
            spot = (rows, alive, unit_block, units, place, mask)
            norm = (normed, scales, scales_n, gain, told)
            meeting = (counter, met + unit_blocks)
            d_r, d_z, d_m = back_through_gru_norm(d_r, d_z, d_m, norm, spot, gate_tile, meeting, H, PARTS, BN)
        store_four(delta_h + place * (3 * H), gate_tile, mask, d_r, d_r, d_z, d_m, H, 3)
        if PERSISTENT:
            arrive(counter)
    if PERSISTENT:
        leave(counter, unit_blocks)
        if bias_sums is not None:
            own_sums = bias_sums + row_block * (6 * H)
            store_sums(own_sums, units, units < H, b_r, b_r, b_z, b_n, H, 3)
            store_sums(own_sums + 3 * H, units, units < H, b_r, b_r, b_z, b_m, H, 3)
    else:
        store_tile(flow_h, tile, carried, (rows < B)[:, None] & unit_mask)
