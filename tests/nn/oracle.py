"""Independent oracle: each sequence alone, one plain loop from the papers' equations, no code shared with seqkit.nn.

`recorded` holds, per layer-direction, what `prepare` drew; everything else is computed here.
"""

from __future__ import annotations

import torch

ACT = {
    "tanh": torch.tanh,
    "relu": lambda v: v * (v > 0),
    "sigmoid": lambda v: 1 / (1 + torch.exp(-v)),
    "identity": lambda v: v,
}
SIG = ACT["sigmoid"]


def norm(v, gain, bias=None):
    mean = v.mean()
    scaled = (v - mean) / torch.sqrt(((v - mean) ** 2).mean() + 1e-5) * gain
    return scaled if bias is None else scaled + bias


def mix(new, old, keep):
    return keep * old + (1 - keep) * new


def lstm_step(o, w, x, h, c, m):
    """o: options; w: weights; m: masks of this step."""
    size = c.numel()
    bias = w["bias_ih"] + w["bias_hh"] if "bias_ih" in w else 0
    from_x, from_h = w["weight_ih"] @ x, w["weight_hh"] @ (h * m.get("recurrent", 1))
    if o.get("layer_norm"):
        from_x, from_h = norm(from_x, w["norm_ih"]), norm(from_h, w["norm_hh"])
    a = from_x + from_h + bias
    p = w.get("weight_peephole")
    if o.get("coupled"):
        af, ag, ao = a[:size], a[size : 2 * size], a[2 * size :]
        f = SIG(af + (p[:size] * c if p is not None else 0))
        i = 1 - f
    else:
        ai, af, ag, ao = (a[k * size : (k + 1) * size] for k in range(4))
        i = SIG(ai + (p[:size] * c if p is not None else 0))
        f = SIG(af + (p[size : 2 * size] * c if p is not None else 0))
    g = ACT[o.get("cell_activation", "tanh")](ag)
    new = f * c + i * g * m.get("update", 1)
    if o.get("cell_clip") is not None:
        new = torch.clamp(new, -o["cell_clip"], o["cell_clip"])
    out = SIG(ao + (p[-size:] * new if p is not None else 0))
    shown = norm(new, w["norm_cell"], w.get("norm_cell_bias")) if o.get("layer_norm") else new
    y = out * ACT[o.get("output_activation", "tanh")](shown)
    if "weight_hr" in w:
        y = w["weight_hr"] @ y
    return mix(y, h, m.get("zoneout", o.get("zoneout", 0))), mix(
        new, c, m.get("zoneout_cell", o.get("zoneout_cell", 0))
    )


def gru_step(o, w, x, h, m):
    size = h.numel()
    zero = torch.zeros(3 * size, dtype=x.dtype)
    bi, bh = w.get("bias_ih", zero), w.get("bias_hh", zero)
    from_x, from_h = w["weight_ih"] @ x, w["weight_hh"] @ (h * m.get("recurrent", 1))
    if o.get("layer_norm"):
        gi, gh, cut = w["norm_ih"], w["norm_hh"], 2 * size
        from_x = torch.cat([norm(from_x[:cut], gi[:cut]), norm(from_x[cut:], gi[cut:])])
        from_h = torch.cat([norm(from_h[:cut], gh[:cut]), norm(from_h[cut:], gh[cut:])])
    from_x, from_h = from_x + bi, from_h + bh
    r = SIG(from_x[:size] + from_h[:size])
    z = SIG(from_x[size : 2 * size] + from_h[size : 2 * size])
    n = torch.tanh(from_x[2 * size :] + r * from_h[2 * size :])
    return (mix((1 - z) * n * m.get("update", 1) + z * h, h, m.get("zoneout", o.get("zoneout", 0))),)


def rnn_step(o, w, x, h, m):
    a = w["weight_ih"] @ x + w["weight_hh"] @ (h * m.get("recurrent", 1))
    if o.get("layer_norm"):
        a = norm(a, w["norm"])
    if "bias_ih" in w:
        a = a + w["bias_ih"] + w["bias_hh"]
    return (mix(ACT[o.get("nonlinearity", "tanh")](a), h, m.get("zoneout", o.get("zoneout", 0))),)


def jordan_step(o, w, x, y, h, m):
    a = w["weight_ih"] @ x + w["weight_hh"] @ (y * m.get("recurrent", 1))
    out = 0
    if "bias_ih" in w:
        a, out = a + w["bias_ih"] + w["bias_hh"], w["bias_ho"]
    h = ACT[o.get("nonlinearity", "tanh")](a)
    return ACT[o.get("output_activation", "identity")](w["weight_ho"] @ h + out), h


STEPS = {"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step, "jordan": jordan_step}


def run(kind, options, weights, recorded, xs, states, lengths, *, layers, directions, residual=False):
    """xs (T, B, I); states: one tuple of (B, size) per layer-direction; -> outputs (T, B, F), finals as states."""
    steps, batch = xs.shape[:2]
    # Rows of the packed layout: sequences by falling length, ties in the caller's order.
    order = sorted(range(batch), key=lambda b: -lengths[b])
    alive = [sum(1 for one in lengths if one > t) for t in range(steps)]
    data = [[xs[t, b] for t in range(lengths[b])] for b in range(batch)]
    finals = []
    for layer in range(layers):
        results = []
        for direction in range(directions):
            index = layer * directions + direction
            outs, ends = [], []
            for b in range(batch):
                state = tuple(part[b] for part in states[index])
                sequence = data[b][::-1] if direction else data[b]
                produced = []
                for t, x in enumerate(sequence):
                    row = order.index(b)
                    masks = {k: v[row] for k, v in recorded[index].sequence_masks.items()}
                    masks |= {k: v[sum(alive[:t]) + row] for k, v in recorded[index].step_masks.items()}
                    state = STEPS[kind](options, {**weights[index], **dropped(recorded[index])}, x, *state, masks)
                    produced.append(state[0])
                outs.append(produced[::-1] if direction else produced)
                ends.append(state)
            results.append(outs)
            finals.append(tuple(torch.stack(parts) for parts in zip(*ends, strict=True)))
        joined = [
            [torch.cat([results[d][b][t] for d in range(directions)]) for t in range(lengths[b])] for b in range(batch)
        ]
        if residual and layer:
            joined = [[new + old for new, old in zip(*pair, strict=True)] for pair in zip(joined, data, strict=True)]
        data = joined
    width = sum(part[0].size(-1) for part in finals[-directions:])
    zero = torch.zeros(width, dtype=xs.dtype)
    rows = [[data[b][t] if t < lengths[b] else zero for b in range(batch)] for t in range(steps)]
    return torch.stack([torch.stack(row) for row in rows]), finals


def dropped(prepared):
    """The recurrent weight after weight drop, as drawn."""
    return {"weight_hh": prepared.weights["weight_hh"]}
