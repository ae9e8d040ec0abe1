# mypy: ignore-errors
# ruff: noqa: SIM108 (Triton compiles an if over constants by branch, other forms as values)
"""Triton kernel of the way back through the LSTM; see `lstm_forward.py` for the layout of the buffers.

The equations are those of `kernels/lstm_backward.py`.
"""

import triton
import triton.language as tl

from seqkit.nn.kernels.triton.blocks import (
    activate,
    arrive,
    hold_weight,
    leave,
    load_tile,
    meet,
    own_part,
    slope,
    store_tile,
    wait,
)
from seqkit.nn.kernels.triton.lstm_forward import new_memory
from seqkit.nn.kernels.triton.norms import get_sums, load_scale, put_pair
from seqkit.nn.kernels.triton.parts import (
    add_four,
    add_to,
    factor,
    flowing,
    incoming,
    load_four,
    returned,
    row_of,
    step_back,
    store_entered,
    store_four,
    store_twice,
    zero_four,
    zoned,
)


@triton.jit
def activated(gates, tile, mask, H: tl.constexpr, GATES: tl.constexpr):
    """i, f, g, o of a step; i = 1 - f if the gates are coupled."""
    i, f, g, o = load_four(gates, tile, mask, H, GATES)
    if GATES == 3:
        i = 1.0 - f
    return i, f, g, o


@triton.jit
def shown_memory(new, normed, gain, bias, place, tile, mask, units, H: tl.constexpr, OUTPUT: tl.constexpr):
    """OUTPUT(c'), or OUTPUT(LN(c') * gain + bias) where there is layer norm; and LN(c')."""
    value = new
    seen = new
    if normed is not None:
        value = load_tile(normed + place * H, tile, mask)
        seen = value * row_of(gain, units, units < H)
        if bias is not None:
            seen += row_of(bias, units, units < H)
    return activate(seen, OUTPUT), value


@triton.jit
def back_through_output(
    dh, dc, o, shown, value, raw, clip, peephole,
    norm,  # (where the gradient of LN(c') * gain + bias goes, LN's scale, its gain, scratch), if PARTS
    spot, tile, meeting,
    H: tl.constexpr, GATES: tl.constexpr, OUTPUT: tl.constexpr, CLIP: tl.constexpr, PARTS: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """From h' = o OUTPUT(c'), or o OUTPUT(LN(c') * gain + bias): the gradients of o's sum and of c' before its clip."""
    _, _, _, units, place, mask = spot
    delta_c, scales, gain, told = norm
    d_o = dh * shown * o * (1.0 - o)
    to_memory = dh * o * slope(shown, OUTPUT)
    if PARTS > 0:
        store_tile(delta_c + place * H, tile, to_memory, mask)
        grad = to_memory * row_of(gain, units, units < H)
        put_pair(told, 1, spot, tl.sum(grad, 1), tl.sum(grad * value, 1), PARTS)
        meet(meeting)
        mean, along = get_sums(told, 1, spot, 1, H, BN, PARTS)
        to_memory = (grad - mean - value * along) * load_scale(scales, spot)
    dc += to_memory
    if peephole is not None:
        dc += d_o * row_of(peephole + (GATES - 2) * H, units, units < H)
    if CLIP:
        dc = tl.where(tl.abs(raw) <= clip, dc, 0.0)
    return d_o, dc


@triton.jit
def back_through_gates(dc, i, f, g, c, update, GATES: tl.constexpr, CELL: tl.constexpr):
    """From c' = f c + i (g update): the gradients of the sums of i, f and g."""
    candidate = g * update
    d_i = dc * candidate * i * (1.0 - i)
    if GATES == 4:
        d_f = dc * c * f * (1.0 - f)
    else:
        d_f = dc * (c - candidate) * f * (1.0 - f)
    return d_i, d_f, dc * i * update * slope(g, CELL)


@triton.jit
def back_through_norm(
    d_i, d_f, d_g, d_o, delta_h, norm, spot, gate_tile, meeting,
    H: tl.constexpr, GATES: tl.constexpr, PARTS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of W_hh h from those of LN(W_hh h) * gain, over all gates together. `norm`: LN(W_hh h),
    its scale, its gain, scratch."""
    _, _, _, units, place, mask = spot
    normed, scales, gain, told = norm
    g_i, g_f, g_g, g_o = load_four(gain, units, units < H, H, GATES)
    d_i, d_f, d_g, d_o = d_i * g_i[None, :], d_f * g_f[None, :], d_g * g_g[None, :], d_o * g_o[None, :]
    n_i, n_f, n_g, n_o = load_four(normed + place * (GATES * H), gate_tile, mask, H, GATES)
    grad = d_f + d_g + d_o
    along = d_f * n_f + d_g * n_g + d_o * n_o
    if GATES == 4:
        grad += d_i
        along += d_i * n_i
    put_pair(told, 0, spot, tl.sum(grad, 1), tl.sum(along, 1), PARTS)
    meet(meeting)
    mean, along = get_sums(told, 0, spot, GATES, H, BN, PARTS)
    scale = load_scale(scales, spot)
    store_four(
        delta_h + place * (GATES * H), gate_tile, mask,
        (d_i - mean - n_i * along) * scale, (d_f - mean - n_f * along) * scale,
        (d_g - mean - n_g * along) * scale, (d_o - mean - n_o * along) * scale, H, GATES,
    )  # fmt: skip


@triton.jit
def back_through_peepholes(
    dc, d_i, d_f, d_o, c, new, peephole, sums, row_block, units, mask, H: tl.constexpr, GATES: tl.constexpr
):
    """Adds what reaches the old memory through the peepholes of i and f; their own gradients are added to
    those of the row block in `sums`."""
    if peephole is not None:
        sums += row_block * ((GATES - 1) * H)
        # Rows that are masked have g = o = c = 0, but their i or f may not be, so each product is masked.
        if GATES == 4:
            dc += d_i * row_of(peephole, units, units < H)
            add_to(sums, units, units < H, tl.where(mask, d_i * c, 0.0))
        dc += d_f * row_of(peephole + (GATES - 3) * H, units, units < H)
        add_to(sums + (GATES - 3) * H, units, units < H, tl.where(mask, d_f * c, 0.0))
        add_to(sums + (GATES - 2) * H, units, units < H, tl.where(mask, d_o * new, 0.0))
    return dc


# Long by its parameters, each on a line with its shape: Triton compiles one function for a launch, and a launch takes
# tensors and numbers, not an object that holds them. The parts of a step are functions above and in `parts.py`.
@triton.jit(do_not_specialize=["first", "end", "row_block0", "steps", "B"])
def lstm_backward(
    gates,  # (N, GATES H), activated
    hidden,  # (B + N, H)
    memory,  # (B + N, H), float32
    normed,  # (N, GATES H), LN(W_hh h), if PARTS
    scales,  # (N,), float32, likewise: 1 / sqrt(variance)
    normed_c,  # (N, H), likewise: LN(c')
    scales_c,  # (N,)
    told,  # scratch if PARTS: (row blocks * BM, 4, PARTS), float32
    delta,  # (N, GATES H), out: gradients of the sums
    delta_h,  # (N, GATES H), out if PARTS: gradients of W_hh h, which else are those of the sums
    delta_c,  # (N, H), out if PARTS: gradients of LN(c') * gain + bias
    before_rows,  # (N, H), out: what W_hh was multiplied with, or None if `hidden` is that
    weight,  # W_hh, (GATES H, H), if HOLD; else its transpose, (H, GATES H)
    grad_output,  # (N, H) or None
    grad_h,  # (B, H) or None, of the final states
    grad_c,
    grad_h0,  # (B, H), out
    grad_c0,
    flow_c,  # (B, H), float32: what reaches the memory, carried from launch to launch; None if PERSISTENT
    flow_h,  # (B, H), float32: what zoneout passes on, likewise
    bias_sums,  # (row blocks, 2, GATES H), float32, out: the sums' gradients, added up, twice; or None
    grad_peephole,  # (row blocks, GATES - 1, H), float32, zeros; or None
    gain,
    gain_c,
    bias_c,
    peephole,
    mask_recurrent,
    mask_update,
    mask_zoneout,
    mask_cell,
    offsets, lengths, counters,
    zoneout, zoneout_cell, clip,
    first,  # counts steps backwards: 0 is the last step, `steps` stands for the initial state
    end, row_block0, steps, B, H: tl.constexpr, PERSISTENT: tl.constexpr, FULL: tl.constexpr,
    GATES: tl.constexpr, CELL: tl.constexpr, OUTPUT: tl.constexpr,
    CLIP: tl.constexpr, ZONEOUT: tl.constexpr, ZONEOUT_CELL: tl.constexpr,
    PARTS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    HOLD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Back through the steps of the LSTM, for one row block and one unit block."""
    unit_blocks: tl.constexpr = (H + BN - 1) // BN
    PHASES: tl.constexpr = 3 if PARTS > 0 else 1
    row_block, rows, unit_block, units, lives, longest = own_part(row_block0, lengths, steps, B, H, FULL, BM, BN)
    start = tl.maximum(first, steps - longest)
    tile = rows[:, None] * H + units[None, :]
    gate_tile = rows[:, None] * (GATES * H) + units[None, :]
    unit_mask = (units < H)[None, :]
    counter = counters + row_block * 32 if PERSISTENT else row_block
    held = hold_weight(weight, units, units < H, GATES * H, BK, SPLIT, HOLD, H)
    dc = flowing(flow_c, tile, (lives > steps - first)[:, None] & unit_mask)
    carried = flowing(flow_h, tile, (lives > steps - first)[:, None] & unit_mask)
    b_i, b_f, b_g, b_o = zero_four(tile)
    for s in tl.range(start, end, num_stages=1):
        t = steps - 1 - s
        place, states, alive, mask, ends = step_back(t, offsets, lives, B, unit_mask, H, FULL)
        i, f, g, o = activated(gates + place * (GATES * H), gate_tile, mask, H, GATES)
        c = load_tile(memory + states, tile, mask)
        update = factor(mask_update, 1.0, place * H, tile, mask)
        raw, new = new_memory(f, i, g * update, c, clip, CLIP)
        shown, value = shown_memory(new, normed_c, gain_c, bias_c, place, tile, mask, units, H, OUTPUT)
        dh = incoming(grad_output, grad_h, place * H, tile, mask, ends) + carried
        dc += incoming(None, grad_c, 0, tile, mask, ends)
        store_entered(before_rows, place * H, hidden + states, mask_recurrent, tile, mask)
        met = (s - start) * (PHASES * unit_blocks)
        if PERSISTENT:
            wait(counter, met)
        dh += returned(
            delta_h if PARTS > 0 else delta, offsets, t, rows, lives, B, mask_recurrent, tile, unit_mask, weight,
            units, held, H, GATES * H, FULL, BM, BN, BK, SPLIT, STAGES, HOLD, PRECISION,
        )  # fmt: skip
        store_tile(grad_h0, tile, dh, (t < 0) & (rows < B)[:, None] & unit_mask)
        store_tile(grad_c0, tile, dc, (t < 0) & (rows < B)[:, None] & unit_mask)
        carried, dh = zoned(dh, mask_zoneout, zoneout, place * H, tile, mask, ZONEOUT)
        kept, dc = zoned(dc, mask_cell, zoneout_cell, place * H, tile, mask, ZONEOUT_CELL)
        spot = (rows, alive, unit_block, units, place, mask)
        d_o, dc = back_through_output(
            dh, dc, o, shown, value, raw, clip, peephole, (delta_c, scales_c, gain_c, told), spot, tile,
            (counter, met + unit_blocks), H, GATES, OUTPUT, CLIP, PARTS, BN,
        )  # fmt: skip
        d_i, d_f, d_g = back_through_gates(dc, i, f, g, c, update, GATES, CELL)
        store_four(delta + place * (GATES * H), gate_tile, mask, d_i, d_f, d_g, d_o, H, GATES)
        if PARTS > 0:
            back_through_norm(
                d_i, d_f, d_g, d_o, delta_h, (normed, scales, gain, told), spot, gate_tile,
                (counter, met + 2 * unit_blocks), H, GATES, PARTS, BN,
            )  # fmt: skip
        if PERSISTENT:
            arrive(counter)
        b_i, b_f, b_g, b_o = add_four(bias_sums, mask, b_i, b_f, b_g, b_o, d_i, d_f, d_g, d_o)
        dc = kept + back_through_peepholes(
            dc * f, d_i, d_f, d_o, c, new, peephole, grad_peephole, row_block, units, mask, H, GATES
        )  # fmt: skip
    if PERSISTENT:
        leave(counter, unit_blocks)
        store_twice(bias_sums, row_block, units, b_i, b_f, b_g, b_o, H, GATES)
    else:
        store_tile(flow_c, tile, dc, (rows < B)[:, None] & unit_mask)
        store_tile(flow_h, tile, carried, (rows < B)[:, None] & unit_mask)
