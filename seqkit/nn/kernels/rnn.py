"""Fused kernel of the Elman cell: h' = f(W_ih x + W_hh h + b) with layer norm, zoneout and recurrent dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.nn.kernels.gemm import StepProduct, product
from seqkit.nn.kernels.kernel import (
    SLOPES,
    Kernel,
    Tensors,
    apply_,
    history,
    last,
    mask_rows,
    previous,
    split,
)
from seqkit.nn.kernels.norm import StepNorm, StepNormBackward
from seqkit.nn.kernels.output_grads import Incoming, weight_gradients
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.tuning import MIN_EXPM1


@dataclass(frozen=True)
class RNNKernel(Kernel):
    """See `seqkit.nn.RNNCell` for the equations. `zoneout` is the rate where no mask is given (evaluation)."""

    nonlinearity: str
    layer_norm: bool
    zoneout: float

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        bias = tensors["bias_ih"] + tensors["bias_hh"] if "bias_ih" in tensors else None
        drive = product(tensors["x"], tensors["weight_ih"], None if self.layer_norm else bias)
        recurrent = StepProduct(tensors["weight_hh"], packing.first_rows, len(packing.batch_sizes))
        norm = StepNorm("norm", tensors["norm"], bias, keep="all" if save else "nothing") if self.layer_norm else None
        buffer, states = history(tensors["h0"], drive.size(0))
        keeps, mask, h = self._keeps(tensors, packing), tensors.get("mask_recurrent"), tensors["h0"]
        # Zoned units hide the activation, which backward needs: it replaces the sum, unless that is needed too.
        active = states if not keeps else torch.empty_like(drive) if norm else drive
        # A step is so short that for more elements it would cost 6 to 13% of an inference.
        exact = self.layer_norm and tensors["h0"].numel() < MIN_EXPM1
        steps = zip(split(drive, packing), split(states, packing), split(active, packing), strict=True)
        for t, (rows, new, value) in enumerate(steps):
            h = h[: rows.size(0)]
            total = recurrent.plus_rows(h if mask is None else h * mask[: rows.size(0)], rows, out=rows)
            source = total if norm is None else norm.forward(total)
            apply_(self.nonlinearity, source, value, exact=exact)
            h = torch.lerp(value, h, keeps[t], out=new) if keeps else new
        saved = {"buffer": buffer, "active": active, **(norm.saved() if norm else {})} if save else {}
        return [states, last(buffer, packing)], saved

    def _keeps(self, tensors: Tensors, packing: Packing) -> list[Tensor]:
        h0 = tensors["h0"]
        scalar = h0.new_full((1, 1), self.zoneout)
        return mask_rows(tensors.get("mask_zoneout", scalar), packing) if self.zoneout else []

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        active, mask, keeps = saved["active"], tensors.get("mask_recurrent"), self._keeps(tensors, packing)
        slopes = torch.empty_like(active)
        kept = tensors.get("mask_zoneout", active.new_full((1, 1), self.zoneout))
        SLOPES[self.nonlinearity]((1 - kept).expand_as(active), active, slopes)
        norm = StepNormBackward("norm", tensors["norm"], saved, packing) if self.layer_norm else None
        back = StepProduct(tensors["weight_hh"].t(), packing.first_rows, len(packing.batch_sizes))
        incoming = Incoming(grads[0], grads[1], tensors["h0"], packing)
        pieces = split(slopes, packing)
        deltas = list(pieces)
        for t in range(len(pieces) - 1, -1, -1):
            dh = incoming.flow
            delta = pieces[t].mul_(dh)
            if norm is not None:
                deltas[t] = delta = norm.backward(t, delta)
            carried = dh * keeps[t] if keeps else None
            if mask is None:
                incoming.put(t, back, delta, carried)
            else:
                through = back.times(delta) * mask[: delta.size(0)]
                incoming.add(t, through if carried is None else through.add_(carried))
        delta = slopes if norm is None else torch.cat(deltas)
        before = previous(saved["buffer"], packing)
        result = weight_gradients(
            tensors, delta, delta, before if mask is None else before * packing.spread(mask), needed
        )
        if "bias_ih" in tensors:
            result["bias_ih"] = result["bias_hh"] = slopes.sum(0)
        if norm is not None:
            result["norm"] = norm.gain_gradient(slopes)
        return {**result, "h0": incoming.flow}
