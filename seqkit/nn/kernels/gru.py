"""Fused kernel of the GRU with layer norm, zoneout and both kinds of recurrent dropout."""

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
    history,
    last,
    mask_rows,
    previous,
    split,
    step_views,
    tanh_,
)
from seqkit.nn.kernels.norm import StepNorm, StepNormBackward
from seqkit.nn.kernels.output_grads import Incoming, weight_gradients
from seqkit.nn.kernels.packing import Packing


@dataclass(frozen=True)
class GRUKernel(Kernel):
    """See `seqkit.nn.GRUCell` for the equations.

    Buffers: `gates` (N, 3H) holds r, z and the recurrent part of n's sum, m = W_hn h + b_hn; `news` (N, H) holds n.
    """

    layer_norm: bool
    zoneout: float

    projection_weights = ("weight_ih", "norm_ih", "bias_ih")

    @property
    def takes_projected(self) -> bool:
        return self.layer_norm

    def _drive(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Return what each step adds to W_hh h, (N, 3H) for r, z, m or (N, 2H) if normed; and n's input part (N, H)."""
        H = tensors["h0"].size(1)
        bias_hh = tensors.get("bias_hh")
        if self.layer_norm:
            pair, entering = tensors["projected"].split_with_sizes([2 * H, H], 1)
            return pair, entering
        x, weight, bias = tensors["x"], tensors["weight_ih"], tensors.get("bias_ih")
        drive = x.new_empty(x.size(0), 3 * H)
        if bias is None or bias_hh is None:
            drive[:, : 2 * H] = product(x, weight[: 2 * H])
            drive[:, 2 * H :] = 0
            return drive, product(x, weight[2 * H :])
        drive[:, : 2 * H] = product(x, weight[: 2 * H], (bias + bias_hh)[: 2 * H])
        drive[:, 2 * H :] = bias_hh[2 * H :]
        return drive, product(x, weight[2 * H :], bias[2 * H :])

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        h = tensors["h0"]
        H = h.size(1)
        drive, entering = self._drive(tensors)
        gates, news = drive, entering
        if self.layer_norm:
            # The projection is not ours to write into; without a backward the buffers of one step serve all.
            rows = drive.size(0) if save else packing.batch_sizes[0]
            gates, news = drive.new_empty(rows, 3 * H), drive.new_empty(rows, H)
        recurrent = StepProduct(tensors["weight_hh"], packing.first_rows, len(packing.batch_sizes))
        norms = self._norms(tensors, "all" if save else "nothing")
        buffer, states = history(h, drive.size(0))
        keeps, mask, update = self._masks(tensors, packing)
        views = zip(
            split(drive, packing),
            split(entering, packing),
            step_views(gates[:, : 2 * H], packing),
            step_views(gates[:, 2 * H :], packing),
            step_views(news, packing),
            split(states, packing),
            strict=True,
        )
        for t, (rows, first, rz, m, n, new) in enumerate(views):
            h = h[: rows.size(0)]
            h_in = h if mask is None else h * mask[: rows.size(0)]
            if norms:
                total = recurrent.times(h_in)
                torch.add(rows, norms[0].forward(total[:, : 2 * H].contiguous()), out=rz).sigmoid_()
                m.copy_(norms[1].forward(total[:, 2 * H :].contiguous()))
            else:
                total = recurrent.plus_rows(h_in, rows)
                torch.sigmoid(total[:, : 2 * H], out=rz)
                m.copy_(total[:, 2 * H :])
            tanh_(torch.addcmul(first, rz[:, :H], m, out=n), n, exact=self.layer_norm)
            torch.lerp(n * update[t] if update else n, h, rz[:, H:], out=new)
            if keeps:
                torch.lerp(new, h, keeps[t], out=new)
            h = new
        saved = {"buffer": buffer, "gates": gates, "news": news} if save else {}
        for norm in norms if save else ():
            saved.update(norm.saved())
        return [states, last(buffer, packing)], saved

    def _norms(self, tensors: Tensors, keep: str) -> list[StepNorm]:
        if not self.layer_norm:
            return []
        cut = 2 * tensors["h0"].size(1)
        gain, bias = tensors["norm_hh"], tensors.get("bias_hh")
        return [
            StepNorm("pair", gain[:cut], None if bias is None else bias[:cut], keep=keep),
            StepNorm("new", gain[cut:], None if bias is None else bias[cut:], keep=keep),
        ]

    def _masks(self, tensors: Tensors, packing: Packing) -> tuple[list[Tensor], Tensor | None, list[Tensor]]:
        scalar = tensors["h0"].new_full((1, 1), self.zoneout)
        keeps = mask_rows(tensors.get("mask_zoneout", scalar), packing) if self.zoneout else []
        return keeps, tensors.get("mask_recurrent"), mask_rows(tensors.get("mask_update"), packing)

    def _factors(self, tensors: Tensors, saved: Tensors, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives with respect to h': of the sums of (r, z, m), (N, 3H); of n's sum; and of h through z."""
        H = before.size(1)
        gates, news = saved["gates"], saved["news"]
        r, z, m = gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H :]
        kept = tensors.get("mask_zoneout", self.zoneout)
        update = tensors.get("mask_update")
        carry = (1 - z).mul_(1 - kept)  # the share of n in h', until the last line turns it into h's share
        shown = news if update is None else news * update
        d_new, factors = torch.empty_like(news), torch.empty_like(gates)
        SLOPES["tanh"](carry if update is None else carry * update, news, d_new)
        SLOPES["sigmoid"](torch.sub(before, shown, out=factors[:, :H]).mul_(1 - kept), z, factors[:, H : 2 * H])
        SLOPES["sigmoid"](torch.mul(d_new, m, out=factors[:, :H]), r, factors[:, :H])
        torch.mul(d_new, r, out=factors[:, 2 * H :])
        return factors, d_new, carry.neg_().add_(1)

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        before, H = previous(saved["buffer"], packing), tensors["h0"].size(1)
        factors, d_new, carry = self._factors(tensors, saved, before)
        mask = tensors.get("mask_recurrent")
        norms = (
            [
                StepNormBackward(name, gain, saved, packing)
                for name, gain in zip(("pair", "new"), tensors["norm_hh"].split_with_sizes([2 * H, H]), strict=True)
            ]
            if self.layer_norm
            else []
        )
        back = StepProduct(tensors["weight_hh"].t(), packing.first_rows, len(packing.batch_sizes))
        incoming = Incoming(grads[0], grads[1], tensors["h0"], packing)
        pieces, news, carries = (split(part, packing) for part in (factors, d_new, carry))
        deltas = list(pieces)
        for t in range(len(pieces) - 1, -1, -1):
            dh, delta = incoming.flow, pieces[t]
            size = dh.size(0)
            delta.view(size, 3, H).mul_(dh.unsqueeze(1))
            news[t].mul_(dh)
            if norms:
                pair = norms[0].backward(t, delta[:, : 2 * H].contiguous())
                deltas[t] = delta = torch.cat([pair, norms[1].backward(t, delta[:, 2 * H :].contiguous())], 1)
            carried = carries[t].mul_(dh)
            if mask is None:
                incoming.put(t, back, delta, carried)
            else:
                incoming.add(t, carried.addcmul_(back.times(delta), mask[:size]))
        return {
            **self._gradients(
                tensors, packing, factors, d_new, torch.cat(deltas) if norms else factors, before, needed
            ),
            **self._norm_gradients(norms, factors, H),
            "h0": incoming.flow,
        }

    def _gradients(
        self,
        tensors: Tensors,
        packing: Packing,
        factors: Tensor,
        d_new: Tensor,
        delta_h: Tensor,
        before: Tensor,
        needed: frozenset[str],
    ) -> Tensors:
        cut = 2 * d_new.size(1)
        if "mask_recurrent" in tensors:
            before = before * packing.spread(tensors["mask_recurrent"])
        result = weight_gradients(tensors, factors, delta_h, before, needed - {"x", "weight_ih"})
        if "bias_hh" in tensors:
            result["bias_hh"] = factors.sum(0)
        # From here on the third block is the gradient of n's whole sum: what W_ih x and b_ih see.
        delta_x = factors if not self.layer_norm else factors.clone()
        delta_x[:, cut:] = d_new
        if self.layer_norm:
            return {**result, "projected": delta_x}
        result |= weight_gradients(tensors, delta_x, delta_h, before, needed - {"weight_hh"})
        if "bias_ih" in tensors:
            bias = result["bias_hh"]
            result["bias_ih"] = torch.cat([bias[:cut], d_new.sum(0)])
        return result

    def _norm_gradients(self, norms: list[StepNormBackward], factors: Tensor, hidden_size: int) -> Tensors:
        if not norms:
            return {}
        pair, new = factors.split_with_sizes([2 * hidden_size, hidden_size], 1)
        return {"norm_hh": torch.cat([norms[0].gain_gradient(pair), norms[1].gain_gradient(new)])}
