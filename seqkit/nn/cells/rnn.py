"""Vanilla recurrent cells: Elman (1990) and Jordan (1986)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.nn.cell import Cell, Prepared, State, drop_mask, dropped, keep_mask, zone
from seqkit.nn.checks import check_choice, check_flag, check_probability
from seqkit.nn.initialise import ACTIVATIONS, initialise
from seqkit.nn.kernels.rnn import RNNKernel

NONLINEARITIES = ("tanh", "relu", "identity")


class RNNCell(Cell):
    """Elman cell: h' = f(W_ih x + b_ih + W_hh h + b_hh) (Elman 1990). Drop-in for `torch.nn.RNNCell`.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, and so of the output, H.
        bias: whether the cell has bias vectors b_ih and b_hh.
        nonlinearity: the function f.
        device, dtype: of the parameters.
        layer_norm: layer normalisation inside the cell: f(LN(W_ih x + W_hh h) * gain + b_ih + b_hh) (Ba et al. 2016,
            eq. 4; epsilon 1e-5).
        zoneout: probability with which a unit keeps its old value, drawn per step; evaluation uses the
            expectation (Krueger et al. 2016).
        recurrent_dropout: rate of the dropout on the h that enters W_hh, one mask per sequence (Gal & Ghahramani 2016,
            eq. 7).
        weight_drop: rate of the dropout on the entries of W_hh, one mask per sequence for the whole batch (Merity et
            al. 2017).
        init: how the weights start: "torch" (uniform, as in torch.nn), "orthogonal" (W_hh orthogonal, W_ih Glorot) or
            "irnn" (W_hh the identity; needs relu; Le et al. 2015).

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
        nonlinearity: Literal["tanh", "relu", "identity"] = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_drop: float = 0.0,
        init: Literal["torch", "orthogonal", "irnn"] = "torch",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.bias = check_flag("bias", bias)
        self.nonlinearity = check_choice("nonlinearity", nonlinearity, NONLINEARITIES)
        self.layer_norm = check_flag("layer_norm", layer_norm)
        self.zoneout = check_probability("zoneout", zoneout)
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self.weight_drop = check_probability("weight_drop", weight_drop)
        self.init = check_choice("init", init, ("torch", "orthogonal", "irnn"))
        if init == "irnn" and nonlinearity != "relu":
            raise ValueError(f"init 'irnn' needs nonlinearity 'relu', got {nonlinearity!r}")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.declare("weight_ih", hidden_size, input_size, **where)
        self.declare("weight_hh", hidden_size, hidden_size, **where)
        if bias:
            self.declare("bias_ih", hidden_size, **where)
            self.declare("bias_hh", hidden_size, **where)
        if layer_norm:
            self.declare("norm", hidden_size, **where)
        self.reset_parameters()

    def reset(self, weights: Mapping[str, Tensor]) -> None:
        initialise(weights, self.hidden_size, self.init)

    def prepare(self, weights: Mapping[str, Tensor], batch_sizes: Sequence[int]) -> Prepared:
        weights = dropped_weights(weights, self.weight_drop, self.training)
        sequence_masks, step_masks = {}, {}
        if self.training and self.recurrent_dropout:
            sequence_masks["recurrent"] = drop_mask(
                weights["weight_hh"], batch_sizes[0], self.hidden_size, self.recurrent_dropout
            )
        if self.training and self.zoneout:
            step_masks["zoneout"] = keep_mask(weights["weight_hh"], sum(batch_sizes), self.hidden_size, self.zoneout)
        return Prepared(weights, sequence_masks, step_masks)

    def project(self, x: Tensor, prepared: Prepared) -> Tensor:
        weights = prepared.weights
        # With layer normalisation the bias comes after it, so it cannot ride in the projection.
        bias = weights["bias_ih"] + weights["bias_hh"] if self.bias and not self.layer_norm else None
        return F.linear(x, weights["weight_ih"], bias)

    def step(self, projected: Tensor, state: State, prepared: Prepared) -> tuple[State, dict[str, Tensor]]:
        (h,) = state
        weights, mask = prepared.weights, prepared.mask("recurrent")
        total = projected + F.linear(h if mask is None else h * mask, weights["weight_hh"])
        if self.layer_norm:
            total = F.layer_norm(total, (self.hidden_size,), weights["norm"])
            if self.bias:
                total = total + (weights["bias_ih"] + weights["bias_hh"])
        new = ACTIVATIONS[self.nonlinearity](total)
        if self.zoneout:
            keep = prepared.mask("zoneout")
            new = zone(new, h, self.zoneout if keep is None else keep)
        return (new,), {}

    def keeps(self, gates: Mapping[str, Tensor]) -> Tensor | None:
        if type(self).step is not RNNCell.step or not self.zoneout:
            return None
        return torch.full_like(gates["h"], self.zoneout)

    def kernel(self) -> RNNKernel | None:
        # A subclass with other mathematics must not run on this kernel.
        if type(self).step is not RNNCell.step or type(self).project is not RNNCell.project:
            return None
        return RNNKernel(self.nonlinearity, self.layer_norm, self.zoneout)

    def vendor_mode(self) -> str | None:
        varied = self.layer_norm or self.zoneout or (self.training and self.recurrent_dropout)
        if self.kernel() is None or varied or self.nonlinearity == "identity":
            return None
        return f"RNN_{self.nonlinearity.upper()}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step: input (B, I) or (I,), hx None or h (B, H) or (H,) -> h' of the same shape."""
        return self.run(input, None if hx is None else (hx,))[0]


class JordanCell(Cell):
    """Jordan cell: the output, not the hidden layer, is fed back (Jordan 1986).

    h' = f(W_ih x + b_ih + W_hh y + b_hh), y' = g(W_ho h' + b_ho); the state is (y, h).

    Args:
        input_size: features of the input, I.
        hidden_size: features of the hidden layer, H.
        bias: whether the cell has bias vectors b_ih, b_hh and b_ho.
        nonlinearity: function of the hidden layer, f.
        device, dtype: of the parameters.
        output_size: features of the output layer, O; 0 means `hidden_size`.
        output_activation: function of the output layer, g.
        recurrent_dropout: rate of the dropout on the fed-back y, one mask per sequence (Gal & Ghahramani 2016).
        weight_drop: rate of the dropout on the entries of W_hh, one mask per sequence for the whole batch (Merity et
            al. 2017).
        init: how the weights start: "torch" (uniform, as in torch.nn) or "orthogonal" (W_hh orthogonal, W_ih Glorot).

    Forward: `(input, (y, h)=None) -> (y', h')`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or outside its range; the message starts with its name.
    """

    flat = True
    fixed = (*Cell.fixed, "bias")
    state_names = ("y", "h")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Literal["tanh", "relu", "identity"] = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        output_size: int = 0,
        output_activation: Literal["identity", "tanh", "sigmoid", "relu"] = "identity",
        recurrent_dropout: float = 0.0,
        weight_drop: float = 0.0,
        init: Literal["torch", "orthogonal"] = "torch",
    ) -> None:
        if isinstance(output_size, bool) or not isinstance(output_size, int):
            raise TypeError(f"output_size must be an int, got {output_size!r}")
        if output_size < 0:
            raise ValueError(f"output_size must not be negative, got {output_size}")
        outputs = output_size or hidden_size
        super().__init__(input_size, hidden_size, state_sizes=(outputs, hidden_size))
        self.bias = check_flag("bias", bias)
        self.nonlinearity = check_choice("nonlinearity", nonlinearity, NONLINEARITIES)
        self.output_activation = check_choice("output_activation", output_activation, tuple(ACTIVATIONS))
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self.weight_drop = check_probability("weight_drop", weight_drop)
        self.init = check_choice("init", init, ("torch", "orthogonal"))
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.declare("weight_ih", hidden_size, input_size, **where)
        self.declare("weight_hh", hidden_size, outputs, **where)
        if bias:
            self.declare("bias_ih", hidden_size, **where)
            self.declare("bias_hh", hidden_size, **where)
        self.declare("weight_ho", outputs, hidden_size, **where)
        if bias:
            self.declare("bias_ho", outputs, **where)
        self.reset_parameters()

    def reset(self, weights: Mapping[str, Tensor]) -> None:
        initialise(weights, self.hidden_size, self.init)

    def prepare(self, weights: Mapping[str, Tensor], batch_sizes: Sequence[int]) -> Prepared:
        weights = dropped_weights(weights, self.weight_drop, self.training)
        masks = {}
        if self.training and self.recurrent_dropout:
            masks["recurrent"] = drop_mask(
                weights["weight_hh"], batch_sizes[0], self.output_size, self.recurrent_dropout
            )
        return Prepared(weights, masks)

    def project(self, x: Tensor, prepared: Prepared) -> Tensor:
        weights = prepared.weights
        bias = weights["bias_ih"] + weights["bias_hh"] if self.bias else None
        return F.linear(x, weights["weight_ih"], bias)

    def step(self, projected: Tensor, state: State, prepared: Prepared) -> tuple[State, dict[str, Tensor]]:
        y, _ = state
        weights, mask = prepared.weights, prepared.mask("recurrent")
        fed_back = F.linear(y if mask is None else y * mask, weights["weight_hh"])
        h = ACTIVATIONS[self.nonlinearity](projected + fed_back)
        y = ACTIVATIONS[self.output_activation](F.linear(h, weights["weight_ho"], weights.get("bias_ho")))
        return (y, h), {}


def dropped_weights(weights: Mapping[str, Tensor], rate: float, training: bool) -> Mapping[str, Tensor]:
    """Return the weights with dropout on the entries of W_hh (DropConnect as in Merity et al. 2017, section 2)."""
    if not (training and rate):
        return weights
    return {**weights, "weight_hh": dropped(weights["weight_hh"], rate)}
