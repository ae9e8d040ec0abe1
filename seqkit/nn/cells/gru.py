"""The gated recurrent unit (Cho et al. 2014) in the form of cuDNN and torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.nn.cell import DROPOUT_KINDS, Cell, Prepared, State, gated_masks, keep_mask, zone
from seqkit.nn.cells.rnn import dropped_weights
from seqkit.nn.checks import check_choice, check_flag, check_probability
from seqkit.nn.initialise import initialise
from seqkit.nn.kernels.gru import GRUKernel


class GRUCell(Cell):
    """GRU cell with torch's gate order (r, z, n). Drop-in for `torch.nn.GRUCell`.

    r = s(W_ir x + b_ir + W_hr h + b_hr), z = s(W_iz x + b_iz + W_hz h + b_hz),
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn)), h' = (1 - z) * n + z * h (Cho et al. 2014).

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, and so of the output, H.
        bias: whether the cell has bias vectors b_ih and b_hh.
        device, dtype: of the parameters.
        layer_norm: layer normalisation of W_ih x and W_hh h, each over the 2H features of (r, z) together and the H of
            n, times a gain; the biases are added after (Ba et al. 2016, supplement; epsilon 1e-5).
        zoneout: probability with which a unit keeps its old value, drawn per step; evaluation uses the
            expectation (Krueger et al. 2016).
        recurrent_dropout: rate of the dropout inside the recurrence, at the place that `recurrent_dropout_kind` says.
        recurrent_dropout_kind: where it acts. "gal": on the h that enters W_hh, one mask per sequence (Gal & Ghahramani
            2016); "semeniuta": on the candidate n, one mask per step (Semeniuta et al. 2016).
        weight_drop: rate of the dropout on the entries of W_hh, one mask per sequence for the whole batch (Merity et
            al. 2017).
        init: how the weights start: "torch" (uniform, as in torch.nn) or "orthogonal" (W_hh orthogonal, W_ih Glorot).

    Forward: `(input, h=None) -> h'` with input (B, I) or (I,), h (B, H) or (H,).

    Raises:
        TypeError, ValueError: an argument of the wrong type or outside its range; the message starts with its name.
    """

    flat = True
    fixed = (*Cell.fixed, "bias", "layer_norm")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_kind: Literal["gal", "semeniuta"] = "gal",
        weight_drop: float = 0.0,
        init: Literal["torch", "orthogonal"] = "torch",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.bias = check_flag("bias", bias)
        self.layer_norm = check_flag("layer_norm", layer_norm)
        self.zoneout = check_probability("zoneout", zoneout)
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self.recurrent_dropout_kind = check_choice("recurrent_dropout_kind", recurrent_dropout_kind, DROPOUT_KINDS)
        self.weight_drop = check_probability("weight_drop", weight_drop)
        self.init = check_choice("init", init, ("torch", "orthogonal"))
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.declare("weight_ih", 3 * hidden_size, input_size, **where)
        self.declare("weight_hh", 3 * hidden_size, hidden_size, **where)
        if bias:
            self.declare("bias_ih", 3 * hidden_size, **where)
            self.declare("bias_hh", 3 * hidden_size, **where)
        if layer_norm:
            self.declare("norm_ih", 3 * hidden_size, **where)
            self.declare("norm_hh", 3 * hidden_size, **where)
        self.reset_parameters()

    def reset(self, weights: Mapping[str, Tensor]) -> None:
        initialise(weights, self.hidden_size, self.init)

    def prepare(self, weights: Mapping[str, Tensor], batch_sizes: Sequence[int]) -> Prepared:
        weights = dropped_weights(weights, self.weight_drop, self.training)
        if not self.training:
            return Prepared(weights)
        like, kind = weights["weight_hh"], self.recurrent_dropout_kind
        sequence_masks, step_masks = gated_masks(self, like, batch_sizes, kind, self.recurrent_dropout)
        if self.zoneout:
            step_masks["zoneout"] = keep_mask(like, sum(batch_sizes), self.hidden_size, self.zoneout)
        return Prepared(weights, sequence_masks, step_masks)

    def project(self, x: Tensor, prepared: Prepared) -> Tensor:
        weights = prepared.weights
        if not self.layer_norm:
            return F.linear(x, weights["weight_ih"], weights.get("bias_ih"))
        normed = self.normalise(F.linear(x, weights["weight_ih"]), weights["norm_ih"])
        return normed + weights["bias_ih"] if self.bias else normed

    def normalise(self, total: Tensor, gain: Tensor) -> Tensor:
        """Normalise (r, z) together and n alone: total (b, 3H), gain (3H,) -> (b, 3H)."""
        sizes = [2 * self.hidden_size, self.hidden_size]
        pairs = zip(total.split_with_sizes(sizes, -1), gain.split_with_sizes(sizes), strict=True)
        return torch.cat([F.layer_norm(part, (part.size(-1),), weight) for part, weight in pairs], -1)

    def step(self, projected: Tensor, state: State, prepared: Prepared) -> tuple[State, dict[str, Tensor]]:
        (h,) = state
        weights, mask = prepared.weights, prepared.mask("recurrent")
        h_in = h if mask is None else h * mask
        if self.layer_norm:
            recurrent = self.normalise(F.linear(h_in, weights["weight_hh"]), weights["norm_hh"])
            recurrent = recurrent + weights["bias_hh"] if self.bias else recurrent
        else:
            recurrent = F.linear(h_in, weights["weight_hh"], weights.get("bias_hh"))
        x_r, x_z, x_n = projected.chunk(3, -1)
        h_r, h_z, h_n = recurrent.chunk(3, -1)
        r = torch.sigmoid(x_r + h_r)
        z = torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        update = prepared.mask("update")
        new = zone(n if update is None else n * update, h, z)
        if self.zoneout:
            keep = prepared.mask("zoneout")
            new = zone(new, h, self.zoneout if keep is None else keep)
        return (new,), {"reset": r, "update": z, "new": n}

    def keeps(self, gates: Mapping[str, Tensor]) -> Tensor | None:
        if type(self).step is not GRUCell.step:
            return None
        return gates["update"] + self.zoneout * (1 - gates["update"])

    def kernel(self) -> GRUKernel | None:
        # A subclass with other mathematics must not run on this kernel.
        if type(self).step is not GRUCell.step or type(self).project is not GRUCell.project:
            return None
        return GRUKernel(self.layer_norm, self.zoneout)

    def vendor_mode(self) -> str | None:
        varied = self.layer_norm or self.zoneout or (self.training and self.recurrent_dropout)
        return None if self.kernel() is None or varied else "GRU"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step: input (B, I) or (I,), hx None or h (B, H) or (H,) -> h' of the same shape."""
        return self.run(input, None if hx is None else (hx,))[0]
