"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000) and its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.nn.cell import DROPOUT_KINDS, Cell, Prepared, State, gated_masks, keep_mask, zone
from seqkit.nn.cells.rnn import dropped_weights
from seqkit.nn.checks import check_choice, check_flag, check_probability
from seqkit.nn.initialise import ACTIVATIONS, initialise
from seqkit.nn.kernels.lstm import LSTMKernel


class LSTMCell(Cell):
    """LSTM cell with torch's gate order (i, f, g, o). Drop-in for `torch.nn.LSTMCell`.

    i = s(W_ii x + b_ii + W_hi h + b_hi), f and o likewise, g = tanh(W_ig x + b_ig + W_hg h + b_hg),
    c' = f * c + i * g, h' = o * tanh(c') (Gers et al. 2000).

    Args:
        input_size: features of the input, I.
        hidden_size: features of the memory, and of the output unless `proj_size` says otherwise, H.
        bias: whether the cell has bias vectors b_ih and b_hh.
        device, dtype: of the parameters.
        proj_size: features of the output after a projection, h' = W_hr (o * tanh(c')) (Sak et al. 2014); 0: none.
        peephole: the gates also see the memory: i and f see p * c, o sees p * c' (Gers & Schmidhuber 2000);
            `weight_peephole` holds the vectors in the order (i, f, o), or (f, o) if coupled.
        coupled: one gate for input and forgetting, i = 1 - f; the weights then hold the gates (f, g, o) only (Greff et
            al. 2017, "CIFG").
        layer_norm: layer normalisation inside the cell: LN(W_ih x) * gain + LN(W_hh h) * gain + biases, each over all
            gates together, and h' = o * tanh(LN(c')) (Ba et al. 2016, eq. 20 to 22; epsilon 1e-5).
        zoneout: probability with which a unit of h keeps its old value, drawn per step; evaluation uses the
            expectation (Krueger et al. 2016, eq. 4).
        zoneout_cell: probability with which a unit of the memory c keeps its old value, as `zoneout` for h.
        recurrent_dropout: rate of the dropout inside the recurrence, at the place that `recurrent_dropout_kind` says.
        recurrent_dropout_kind: where it acts. "gal": on the h that enters W_hh, one mask per sequence (Gal & Ghahramani
            2016); "semeniuta": on the candidate g, one mask per step (Semeniuta et al. 2016).
        weight_drop: rate of the dropout on the entries of W_hh, one mask per sequence for the whole batch (Merity et
            al. 2017).
        cell_clip: bound of the memory: c' is clipped to [-cell_clip, cell_clip] (Sak et al. 2014); None (null in YAML):
            no clipping. The gradient passes at the bound itself and is 0 beyond it.
        forget_bias: value that the forget gate's bias, b_if + b_hf, starts from (Jozefowicz et al. 2015: 1); None (null
            in YAML): as `init` says.
        init: how the weights start: "torch" (uniform, as in torch.nn) or "orthogonal" (W_hh orthogonal, W_ih Glorot).
        cell_activation: function of the candidate g; tanh in the paper.
        output_activation: function of c' (or of LN(c')) in h'; tanh in the paper.

    Forward: `(input, (h, c)=None) -> (h', c')` with input (B, I) or (I,), h (B, H or proj_size), c (B, H).

    Raises:
        TypeError, ValueError: an argument of the wrong type or outside its range; the message starts with its name.
    """

    flat = True
    fixed = (*Cell.fixed, "bias", "proj_size", "peephole", "coupled", "layer_norm")
    state_names = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: int = 0,
        peephole: bool = False,
        coupled: bool = False,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_kind: Literal["gal", "semeniuta"] = "gal",
        weight_drop: float = 0.0,
        cell_clip: float | None = None,
        forget_bias: float | None = None,
        init: Literal["torch", "orthogonal"] = "torch",
        cell_activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh",
        output_activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh",
    ) -> None:
        outputs = check_proj_size(proj_size, hidden_size) or hidden_size
        super().__init__(input_size, hidden_size, state_sizes=(outputs, hidden_size))
        self.proj_size = proj_size
        self.bias = check_flag("bias", bias)
        self.peephole = check_flag("peephole", peephole)
        self.coupled = check_flag("coupled", coupled)
        self.layer_norm = check_flag("layer_norm", layer_norm)
        self.zoneout = check_probability("zoneout", zoneout)
        self.zoneout_cell = check_probability("zoneout_cell", zoneout_cell)
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self.recurrent_dropout_kind = check_choice("recurrent_dropout_kind", recurrent_dropout_kind, DROPOUT_KINDS)
        self.weight_drop = check_probability("weight_drop", weight_drop)
        if cell_clip is not None and not cell_clip > 0:
            raise ValueError(f"cell_clip must be positive or None, got {cell_clip!r}")
        self.cell_clip = cell_clip
        if forget_bias is not None and not bias:
            raise ValueError("forget_bias needs bias=True")
        self.forget_bias = forget_bias
        self.init = check_choice("init", init, ("torch", "orthogonal"))
        self.cell_activation = check_choice("cell_activation", cell_activation, tuple(ACTIVATIONS))
        self.output_activation = check_choice("output_activation", output_activation, tuple(ACTIVATIONS))
        self._declare(outputs, {"device": device, "dtype": dtype})
        self.reset_parameters()

    def _declare(self, outputs: int, where: dict[str, Any]) -> None:
        hidden_size, gates = self.hidden_size, 3 if self.coupled else 4
        self.declare("weight_ih", gates * hidden_size, self.input_size, **where)
        self.declare("weight_hh", gates * hidden_size, outputs, **where)
        if self.bias:
            self.declare("bias_ih", gates * hidden_size, **where)
            self.declare("bias_hh", gates * hidden_size, **where)
        if self.proj_size:
            self.declare("weight_hr", outputs, hidden_size, **where)
        if self.peephole:
            self.declare("weight_peephole", (gates - 1) * hidden_size, **where)
        if self.layer_norm:
            self.declare("norm_ih", gates * hidden_size, **where)
            self.declare("norm_hh", gates * hidden_size, **where)
            self.declare("norm_cell", hidden_size, **where)
            if self.bias:
                self.declare("norm_cell_bias", hidden_size, **where)

    def reset(self, weights: Mapping[str, Tensor]) -> None:
        initialise(weights, self.hidden_size, self.init)
        if self.forget_bias is not None:
            first = 0 if self.coupled else self.hidden_size
            with torch.no_grad():
                weights["bias_ih"][first : first + self.hidden_size] = self.forget_bias
                weights["bias_hh"][first : first + self.hidden_size] = 0.0

    def prepare(self, weights: Mapping[str, Tensor], batch_sizes: Sequence[int]) -> Prepared:
        weights = dropped_weights(weights, self.weight_drop, self.training)
        if not self.training:
            return Prepared(weights)
        like, kind = weights["weight_hh"], self.recurrent_dropout_kind
        sequence_masks, step_masks = gated_masks(self, like, batch_sizes, kind, self.recurrent_dropout)
        if self.zoneout:
            step_masks["zoneout"] = keep_mask(like, sum(batch_sizes), self.output_size, self.zoneout)
        if self.zoneout_cell:
            step_masks["zoneout_cell"] = keep_mask(like, sum(batch_sizes), self.hidden_size, self.zoneout_cell)
        return Prepared(weights, sequence_masks, step_masks)

    def project(self, x: Tensor, prepared: Prepared) -> Tensor:
        weights = prepared.weights
        bias = weights["bias_ih"] + weights["bias_hh"] if self.bias else None
        if not self.layer_norm:
            return F.linear(x, weights["weight_ih"], bias)
        total = F.linear(x, weights["weight_ih"])
        return F.layer_norm(total, (total.size(-1),), weights["norm_ih"], bias)

    def step(self, projected: Tensor, state: State, prepared: Prepared) -> tuple[State, dict[str, Tensor]]:
        h, c = state
        weights, mask = prepared.weights, prepared.mask("recurrent")
        recurrent = F.linear(h if mask is None else h * mask, weights["weight_hh"])
        if self.layer_norm:
            recurrent = F.layer_norm(recurrent, (recurrent.size(-1),), weights["norm_hh"])
        *a_i, a_f, a_g, a_o = (projected + recurrent).chunk(3 if self.coupled else 4, -1)
        if self.peephole:
            *p_i, p_f, p_o = torch.split(weights["weight_peephole"], self.hidden_size)
            a_i = [a_i[0] + p_i[0] * c] if a_i else []
            a_f = a_f + p_f * c
        f = torch.sigmoid(a_f)
        i = torch.sigmoid(a_i[0]) if a_i else 1 - f
        g = ACTIVATIONS[self.cell_activation](a_g)
        update = prepared.mask("update")
        new_c = f * c + i * (g if update is None else g * update)
        if self.cell_clip is not None:
            new_c = _clipped(new_c, self.cell_clip)
        o = torch.sigmoid(a_o + p_o * new_c if self.peephole else a_o)
        shown = new_c
        if self.layer_norm:
            shown = F.layer_norm(new_c, (self.hidden_size,), weights["norm_cell"], weights.get("norm_cell_bias"))
        new_h = o * ACTIVATIONS[self.output_activation](shown)
        if self.proj_size:
            new_h = F.linear(new_h, weights["weight_hr"])
        if self.zoneout:
            keep = prepared.mask("zoneout")
            new_h = zone(new_h, h, self.zoneout if keep is None else keep)
        if self.zoneout_cell:
            keep = prepared.mask("zoneout_cell")
            new_c = zone(new_c, c, self.zoneout_cell if keep is None else keep)
        return (new_h, new_c), {"input": i, "forget": f, "cell": g, "output": o}

    def keeps(self, gates: Mapping[str, Tensor]) -> Tensor | None:
        if type(self).step is not LSTMCell.step or self.cell_clip is not None:  # what is clipped is no sum any more
            return None
        return gates["forget"] + self.zoneout_cell * (1 - gates["forget"])

    def kernel(self) -> LSTMKernel | None:
        # A subclass with other mathematics must not run on this kernel.
        if type(self).step is not LSTMCell.step or type(self).project is not LSTMCell.project:
            return None
        return _kernel(
            self.proj_size,
            self.peephole,
            self.coupled,
            self.layer_norm,
            self.zoneout,
            self.zoneout_cell,
            self.cell_clip,
            self.cell_activation,
            self.output_activation,
        )

    def vendor_mode(self) -> str | None:
        kernel = self.kernel()
        if kernel is None or not kernel.is_plain or (self.training and self.recurrent_dropout):
            return None
        return "LSTM"

    def cudnn_mode(self) -> str | None:
        kernel = self.kernel()
        if kernel is None or not kernel.is_plain_projected or (self.training and self.recurrent_dropout):
            return None
        return "LSTM"

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Run one step: input (B, I) or (I,), hx None or (h, c), each (B, size) or (size,) -> (h', c')."""
        h, c = self.run(input, hx)
        return h, c


@lru_cache(maxsize=64)  # made anew it would cost 10 us a call
def _kernel(*options: Any) -> LSTMKernel:
    return LSTMKernel(*options)


def _clipped(memory: Tensor, bound: float) -> Tensor:
    """Return the memory within [-bound, bound]; not torch.clamp, whose gradient at the bound itself depends on its
    version."""
    return torch.where(memory.abs() > bound, torch.sign(memory) * bound, memory)


def check_proj_size(proj_size: Any, hidden_size: Any) -> int:
    """Return `proj_size` if it is an int in [0, hidden_size); raise TypeError or ValueError otherwise."""
    if isinstance(proj_size, bool) or not isinstance(proj_size, int):
        raise TypeError(f"proj_size must be an int, got {proj_size!r}")
    if proj_size < 0:
        raise ValueError(f"proj_size must not be negative, got {proj_size} (0 means no projection)")
    if isinstance(hidden_size, int) and 0 < hidden_size <= proj_size:
        raise ValueError(f"proj_size must be smaller than hidden_size {hidden_size}, got {proj_size}")
    return proj_size
