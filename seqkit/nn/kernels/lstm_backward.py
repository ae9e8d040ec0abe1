"""Fused kernel of the LSTM: the hand-derived backward scan (backpropagation through time, Werbos 1990).

With s the pre-activations, dh and dc the gradients of h' and c' at one step, and ' for the new state:
d s_o = dh * tanh(c') * o (1 - o), dc += dh * o (1 - tanh(c')^2), d s_f = dc * c * f (1 - f),
d s_i = dc * g * i (1 - i), d s_g = dc * i * (1 - g^2), dc <- dc * f, dh <- d s W_hh. All factors that do not depend on
dh and dc are computed for all steps at once; the scan multiplies them in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.nn.kernels.gemm import StepProduct, outer
from seqkit.nn.kernels.kernel import SLOPES, Tensors, apply_, blocks, previous, split, unblocks
from seqkit.nn.kernels.lstm_options import LSTMOptions
from seqkit.nn.kernels.norm import StepNormBackward
from seqkit.nn.kernels.output_grads import Incoming, weight_gradients
from seqkit.nn.kernels.packing import Packing


class LSTMBackward:
    """One backward pass; `delta` starts as the factors and ends as the gradients of the pre-activations, (N, G)."""

    def __init__(self, kernel: LSTMOptions, tensors: Tensors, saved: Tensors, packing: Packing) -> None:
        self.kernel, self.tensors, self.saved, self.packing = kernel, tensors, saved, packing
        self.H = tensors["c0"].size(1)
        self.fresh = saved.get("fresh", saved["memory"][packing.batch_size :])
        self.before = previous(saved["memory"], packing)
        self.weight = blocks(tensors["weight_hh"], self.H, kernel.order)
        self.norm_h: StepNormBackward | None = None
        if kernel.layer_norm:
            self.gain = blocks(tensors["norm_hh"], self.H, kernel.order)
            self.norm_h = StepNormBackward("norm_hh", self.gain, saved, packing)
            self.norm_c = StepNormBackward("norm_cell", tensors["norm_cell"], saved, packing, self.fresh)
        self._factors()

    def _factors(self) -> None:
        """Return everything that multiplies dh or dc, for all steps."""
        kernel, H, gates = self.kernel, self.H, self.saved["gates"]
        delta = self.delta = torch.empty_like(gates)
        o, f, g = gates[:, :H], gates[:, -2 * H : -H], gates[:, -H:]
        i = 1 - f if kernel.coupled else gates[:, H : 2 * H]
        update = self.tensors.get("mask_update")
        candidate = g if update is None else g * update
        shown = self._shown()
        rest = self._open("zoneout", kernel.zoneout)
        if rest is not None and not kernel.proj_size:
            # h' = keep h + (1 - keep) o tanh(c'), so (1 - keep) scales both roads from dh.
            o_slope, shown_o = o * rest, shown * rest
        else:
            o_slope, shown_o = o, shown
        self.to_memory = torch.empty_like(self.fresh)
        SLOPES[kernel.output_activation](o_slope, shown, self.to_memory)
        SLOPES["sigmoid"](shown_o, o, delta[:, :H])
        SLOPES["sigmoid"](self.before - candidate if kernel.coupled else self.before, f, delta[:, -2 * H : -H])
        if not kernel.coupled:
            SLOPES["sigmoid"](candidate, i, delta[:, H : 2 * H])
        SLOPES[kernel.cell_activation](i if update is None else i * update, g, delta[:, -H:])
        self.unprojected = o * shown if kernel.proj_size else None
        if kernel.cell_clip is not None:
            # From the memory before clipping: the bound itself passes the gradient on, as in the cell's own step.
            raw = torch.lerp(candidate, self.before, f) if kernel.coupled else (f * self.before).addcmul_(i, candidate)
            self.inside = split(raw.abs_() <= kernel.cell_clip, self.packing)
        if not kernel.peephole:
            del self.before  # as large as the outputs, and only peepholes need it again

    def _shown(self) -> Tensor:
        """Return the output activation of the new memory, (N, H)."""
        if "shown" in self.saved:  # where layer norm stands between the two
            return self.saved["shown"]
        return apply_(self.kernel.output_activation, self.fresh, torch.empty_like(self.fresh))

    def _open(self, name: str, rate: float) -> Tensor | float | None:
        """Return 1 - the zoneout mask (N, size), or 1 - rate in evaluation, or None without zoneout."""
        mask = self.tensors.get(f"mask_{name}")
        return None if not rate else 1 - rate if mask is None else 1 - mask

    def run(self, grads: Sequence[Tensor | None], needed: frozenset[str]) -> Tensors:
        kernel, tensors, packing = self.kernel, self.tensors, self.packing
        self.incoming = Incoming(grads[0], grads[1], tensors["h0"], packing)
        self.dc = torch.zeros_like(tensors["c0"]) if grads[2] is None else grads[2].clone()
        self.back = StepProduct(self.weight.t(), packing.first_rows, len(packing.batch_sizes))
        plain = kernel.is_plain and "mask_recurrent" not in tensors
        self._plain_scan() if plain else self._variant_scan()
        del self.to_memory
        return {**self._gradients(needed), "h0": self.incoming.flow, "c0": self.dc}

    def _plain_scan(self) -> None:
        """Make five calls a step; dc (B, H) holds c_n's gradient in the rows that are not alive yet."""
        H, packing = self.H, self.packing
        whole, to_memory = split(self.delta, packing), split(self.to_memory, packing)
        forget = split(self.saved["gates"][:, 2 * H : 3 * H], packing)
        outer = split(self.delta[:, :H], packing)
        inner = split(self.delta.view(-1, 4, H)[:, 1:], packing)
        for t in range(len(whole) - 1, -1, -1):
            dh = self.incoming.flow
            dc = self.dc[: dh.size(0)]
            outer[t].mul_(dh)
            inner[t].mul_(dc.addcmul_(dh, to_memory[t]).unsqueeze(1))
            self.incoming.put(t, self.back, whole[t])
            dc.mul_(forget[t])

    def _variant_scan(self) -> None:
        kernel, packing, H, masks = self.kernel, self.packing, self.H, self.kernel.masks(self.tensors, self.packing)
        mask = self.tensors.get("mask_recurrent")
        gates = 3 if kernel.coupled else 4
        whole, to_memory = split(self.delta, packing), split(self.to_memory, packing)
        forget = split(self.saved["gates"][:, -2 * H : -H], packing)
        outer = split(self.delta[:, :H], packing)
        inner = split(self.delta.view(-1, gates, H)[:, 1:], packing)
        self.deltas = list(whole)
        self.d_shown: list[Tensor] = []
        self.d_projected: list[Tensor] = []
        project = None
        if kernel.proj_size:
            project = StepProduct(self.tensors["weight_hr"].t(), packing.first_rows, len(packing.batch_sizes))
        for t in range(len(whole) - 1, -1, -1):
            dh = self.incoming.flow
            dc = self.dc[: dh.size(0)]
            carried = dh * masks["zoneout"][t] if masks["zoneout"] else None
            if project is not None:
                dh = dh if carried is None else dh - carried
                self.d_projected.append(dh)
                dh = project.times(dh)
            outer[t].mul_(dh)
            kept = dc * masks["zoneout_cell"][t] if masks["zoneout_cell"] else None
            self._into_memory(t, dh, dc if kept is None else dc.sub_(kept), to_memory[t], outer[t])
            inner[t].mul_(dc.unsqueeze(1))
            dc.mul_(forget[t])
            if kernel.peephole:
                peeps = self.tensors["weight_peephole"].view(-1, H)
                for gate in range(gates - 2):
                    dc.addcmul_(inner[t][:, gate], peeps[gate].expand_as(dc))
            if kept is not None:
                dc.add_(kept)
            delta = whole[t]
            if self.norm_h is not None:
                self.deltas[t] = delta = self.norm_h.backward(t, delta)
            if mask is None:
                self.incoming.put(t, self.back, delta, carried)
            else:
                through = self.back.times(delta) * mask[: delta.size(0)]
                self.incoming.add(t, through if carried is None else through.add_(carried))

    def _into_memory(self, t: int, dh: Tensor, dc: Tensor, to_memory: Tensor, d_outer: Tensor) -> None:
        """Add to dc (in place) what reaches the new memory at step t through the output."""
        if self.norm_h is not None:
            d_shown = dh * to_memory
            self.d_shown.append(d_shown)
            dc.add_(self.norm_c.backward(t, d_shown))
        else:
            dc.addcmul_(dh, to_memory)
        if self.kernel.peephole:
            dc.addcmul_(d_outer, self.tensors["weight_peephole"].view(-1, self.H)[-1].expand_as(dc))
        if self.kernel.cell_clip is not None:
            dc.mul_(self.inside[t])

    def _gradients(self, needed: frozenset[str]) -> Tensors:
        kernel, tensors, H, order = self.kernel, self.tensors, self.H, self.kernel.order
        before = previous(self.saved["hidden"], self.packing)
        if "mask_recurrent" in tensors:
            before = before * self.packing.spread(tensors["mask_recurrent"])
        delta_h = self.delta if self.norm_h is None else torch.cat(self.deltas)
        arranged = {**tensors, "weight_ih": blocks(tensors["weight_ih"], H, order)} if "x" in tensors else tensors
        result = weight_gradients(arranged, self.delta, delta_h, before, needed)
        if "bias_ih" in needed or "bias_hh" in needed:
            result["bias_ih"] = result["bias_hh"] = self.delta.sum(0)
        if self.norm_h is not None:
            result["norm_hh"] = self.norm_h.gain_gradient(self.delta)
        result = {name: value if name == "x" else unblocks(value, H, order) for name, value in result.items()}
        if self.norm_h is not None:
            d_shown = torch.cat(self.d_shown[::-1])
            result["norm_cell"] = self.norm_c.gain_gradient(d_shown)
            result["norm_cell_bias"] = d_shown.sum(0)
            result["projected"] = torch.cat(
                [self.delta.chunk(len(order), 1)[order.index(k)] for k in range(len(order))], 1
            )
        if kernel.peephole:
            inner = self.delta.view(-1, len(order), H)[:, 1:-1]
            result["weight_peephole"] = torch.cat(
                [(inner * self.before.unsqueeze(1)).sum(0).flatten(), (self.delta[:, :H] * self.fresh).sum(0)]
            )
        if self.unprojected is not None and "weight_hr" in needed:
            result["weight_hr"] = outer(torch.cat(self.d_projected[::-1]), self.unprojected)
        return result
