"""`RNN`, `LSTM` and `GRU`: `Recurrent` with the exact signatures and return shapes of torch's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkit.nn.recurrent import BackendName, Recurrent

Device = torch.device | str | None


class _OneTensorState(Recurrent):
    """A `Recurrent` whose state is one tensor, passed and returned without its tuple."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Tensor]:
        """Run over time; the state is one tensor, not a tuple.

        Args:
            input: (T, B, I), with batch_first (B, T, I), unbatched (T, I), or a `PackedSequence`.
            hx: initial state (num_layers * num_directions, B, H), without B if unbatched; None: zero, or learned.
            lengths: (B,) integers in [0, T]; see `Recurrent.forward`.

        Returns:
            output shaped like the input with `output_size` features, and the final state, shaped like hx.
        """
        output, (state,) = self._run(input, _in_tuple(hx), lengths)
        return output, state

    def step(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run one step of all layers; the state is one tensor, not a tuple.

        Args:
            input: (B, I), or unbatched (I,).
            hx: the state before (num_layers, B, H), without B if unbatched; None: zero, or learned.

        Returns:
            output (B, F), or (F,), and the state, shaped like hx.
        """
        output, (state,) = super().step(input, _in_tuple(hx))
        return output, state


class RNN(_OneTensorState):
    """Run an RNN over time: a drop-in for `torch.nn.RNN`, with its constructor, parameter names, shapes and results.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, and so of the output, H.
        num_layers: number of stacked layers.
        nonlinearity: the function f.
        bias: whether the cell has bias vectors b_ih and b_hh.
        batch_first: input and output are (B, T, F) instead of (T, B, F). States are never batch first.
        dropout: rate of the dropout on the output of every layer but the last, drawn per element.
        bidirectional: also run each sequence backwards and concatenate the outputs.
        device, dtype: of the parameters.
        layer_norm: layer normalisation inside the cell: f(LN(W_ih x + W_hh h) * gain + b_ih + b_hh) (Ba et al. 2016,
            eq. 4; epsilon 1e-5).
        zoneout: probability with which a unit keeps its old value, drawn per step; evaluation uses the expectation
            (Krueger et al. 2016).
        recurrent_dropout: rate of the dropout on the h that enters W_hh, one mask per sequence (Gal & Ghahramani 2016,
            eq. 7).
        weight_drop: rate of the dropout on the entries of W_hh, one mask per sequence for the whole batch (Merity et
            al. 2017).
        init: how the weights start: "torch" (uniform, as in torch.nn), "orthogonal" (W_hh orthogonal, W_ih Glorot) or
            "irnn" (W_hh the identity; needs relu; Le et al. 2015).
        locked_dropout: rate of a dropout at the same place as `dropout` with one mask per sequence, held over all steps
            (Gal & Ghahramani 2016).
        residual: every layer but the first adds its input (before dropout) to its output (He et al. 2016).
        learn_initial_state: the state that a sequence starts from is a parameter (`initial_h_l0`, ...), not zero.
        checkpoint_chunks: with n > 1, a layer keeps only the states at n points in time and recomputes the rest in the
            backward pass (Chen et al. 2016): less memory on long sequences for about a third more time.
        backend: what computes: "reference" (step loop under autograd), "fused" (hand-derived backward), "vendor" (the
            kernels of oneDNN, cuDNN or ATen, plain cells only), "triton" (one launch for all steps, NVIDIA cards only)
            or "auto" (the fastest that is correct; `backend_for` tells which).

    Forward: `(input, hx=None, *, lengths=None) -> (output, h_n)`, h_n (num_layers * num_directions, B, H).

    Raises:
        TypeError, ValueError: an argument of the wrong type or outside its range; the message starts with its name.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu", "identity"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_drop: float = 0.0,
        init: Literal["torch", "orthogonal", "irnn"] = "torch",
        locked_dropout: float = 0.0,
        residual: bool = False,
        learn_initial_state: bool = False,
        checkpoint_chunks: int = 1,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            "rnn", input_size, hidden_size, num_layers, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, locked_dropout=locked_dropout, residual=residual,
            learn_initial_state=learn_initial_state, checkpoint_chunks=checkpoint_chunks, backend=backend,
            device=device, dtype=dtype, bias=bias, layer_norm=layer_norm, zoneout=zoneout,
            recurrent_dropout=recurrent_dropout, weight_drop=weight_drop, init=init, nonlinearity=nonlinearity,
        )  # fmt: skip
        self.bias = bias

    @property
    def nonlinearity(self) -> str:
        """Return the nonlinearity of the cells."""
        return str(self.cell_at(0).nonlinearity)


class GRU(_OneTensorState):
    """Run a GRU over time: a drop-in for `torch.nn.GRU`, with its constructor, parameter names, shapes and results.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, and so of the output, H.
        num_layers: number of stacked layers.
        bias: whether the cell has bias vectors b_ih and b_hh.
        batch_first: input and output are (B, T, F) instead of (T, B, F). States are never batch first.
        dropout: rate of the dropout on the output of every layer but the last, drawn per element.
        bidirectional: also run each sequence backwards and concatenate the outputs.
        device, dtype: of the parameters.
        layer_norm: layer normalisation of W_ih x and W_hh h, each over the 2H features of (r, z) together and the H of
            n, times a gain; the biases are added after (Ba et al. 2016, supplement; epsilon 1e-5).
        zoneout: probability with which a unit keeps its old value, drawn per step; evaluation uses the expectation
            (Krueger et al. 2016).
        recurrent_dropout: rate of the dropout inside the recurrence, at the place that `recurrent_dropout_kind` says.
        recurrent_dropout_kind: where it acts. "gal": on the h that enters W_hh, one mask per sequence (Gal & Ghahramani
            2016); "semeniuta": on the candidate n, one mask per step (Semeniuta et al. 2016).
        weight_drop: rate of the dropout on the entries of W_hh, one mask per sequence for the whole batch (Merity et
            al. 2017).
        init: how the weights start: "torch" (uniform, as in torch.nn) or "orthogonal" (W_hh orthogonal, W_ih Glorot).
        locked_dropout: rate of a dropout at the same place as `dropout` with one mask per sequence, held over all steps
            (Gal & Ghahramani 2016).
        residual: every layer but the first adds its input (before dropout) to its output (He et al. 2016).
        learn_initial_state: the state that a sequence starts from is a parameter (`initial_h_l0`, ...), not zero.
        checkpoint_chunks: with n > 1, a layer keeps only the states at n points in time and recomputes the rest in the
            backward pass (Chen et al. 2016): less memory on long sequences for about a third more time.
        backend: what computes: "reference" (step loop under autograd), "fused" (hand-derived backward), "vendor" (the
            kernels of oneDNN, cuDNN or ATen, plain cells only), "triton" (one launch for all steps, NVIDIA cards only)
            or "auto" (the fastest that is correct; `backend_for` tells which).

    Forward: `(input, hx=None, *, lengths=None) -> (output, h_n)`, h_n (num_layers * num_directions, B, H).

    Raises:
        TypeError, ValueError: an argument of the wrong type or outside its range; the message starts with its name.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_kind: Literal["gal", "semeniuta"] = "gal",
        weight_drop: float = 0.0,
        init: Literal["torch", "orthogonal"] = "torch",
        locked_dropout: float = 0.0,
        residual: bool = False,
        learn_initial_state: bool = False,
        checkpoint_chunks: int = 1,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            "gru", input_size, hidden_size, num_layers, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, locked_dropout=locked_dropout, residual=residual,
            learn_initial_state=learn_initial_state, checkpoint_chunks=checkpoint_chunks, backend=backend,
            device=device, dtype=dtype, bias=bias, layer_norm=layer_norm, zoneout=zoneout,
            recurrent_dropout=recurrent_dropout, weight_drop=weight_drop, init=init,
            recurrent_dropout_kind=recurrent_dropout_kind,
        )  # fmt: skip
        self.bias = bias


class LSTM(Recurrent):
    """Run an LSTM over time: a drop-in for `torch.nn.LSTM`, with its constructor, parameter names, shapes and results.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the memory, and of the output unless `proj_size` says otherwise, H.
        num_layers: number of stacked layers.
        bias: whether the cell has bias vectors b_ih and b_hh.
        batch_first: input and output are (B, T, F) instead of (T, B, F). States are never batch first.
        dropout: rate of the dropout on the output of every layer but the last, drawn per element.
        bidirectional: also run each sequence backwards and concatenate the outputs.
        proj_size: features of the output after a projection, h' = W_hr (o * tanh(c')) (Sak et al. 2014); 0: none.
        device, dtype: of the parameters.
        peephole: the gates also see the memory: i and f see p * c, o sees p * c' (Gers & Schmidhuber 2000);
            `weight_peephole` holds the vectors in the order (i, f, o), or (f, o) if coupled.
        coupled: one gate for input and forgetting, i = 1 - f; the weights then hold the gates (f, g, o) only (Greff et
            al. 2017, "CIFG").
        layer_norm: layer normalisation inside the cell: LN(W_ih x) * gain + LN(W_hh h) * gain + biases, each over all
            gates together, and h' = o * tanh(LN(c')) (Ba et al. 2016, eq. 20 to 22; epsilon 1e-5).
        zoneout: probability with which a unit of h keeps its old value, drawn per step; evaluation uses the expectation
            (Krueger et al. 2016, eq. 4).
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
        locked_dropout: rate of a dropout at the same place as `dropout` with one mask per sequence, held over all steps
            (Gal & Ghahramani 2016).
        residual: every layer but the first adds its input (before dropout) to its output (He et al. 2016).
        learn_initial_state: the state that a sequence starts from is a parameter (`initial_h_l0`, ...), not zero.
        checkpoint_chunks: with n > 1, a layer keeps only the states at n points in time and recomputes the rest in the
            backward pass (Chen et al. 2016): less memory on long sequences for about a third more time.
        backend: what computes: "reference" (step loop under autograd), "fused" (hand-derived backward), "vendor" (the
            kernels of oneDNN, cuDNN or ATen, plain cells only), "triton" (one launch for all steps, NVIDIA cards only)
            or "auto" (the fastest that is correct; `backend_for` tells which).

    Forward: `(input, hx=None, *, lengths=None) -> (output, (h_n, c_n))`, h_n (num_layers * num_directions, B,
    H or proj_size) and c_n (num_layers * num_directions, B, H).

    Raises:
        TypeError, ValueError: an argument of the wrong type or outside its range; the message starts with its name.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
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
        locked_dropout: float = 0.0,
        residual: bool = False,
        learn_initial_state: bool = False,
        checkpoint_chunks: int = 1,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            "lstm", input_size, hidden_size, num_layers, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, locked_dropout=locked_dropout, residual=residual,
            learn_initial_state=learn_initial_state, checkpoint_chunks=checkpoint_chunks, backend=backend,
            device=device, dtype=dtype, bias=bias, layer_norm=layer_norm, zoneout=zoneout,
            recurrent_dropout=recurrent_dropout, weight_drop=weight_drop, init=init,
            recurrent_dropout_kind=recurrent_dropout_kind, proj_size=proj_size, peephole=peephole, coupled=coupled,
            zoneout_cell=zoneout_cell, cell_clip=cell_clip, forget_bias=forget_bias, cell_activation=cell_activation,
            output_activation=output_activation,
        )  # fmt: skip
        self.bias = bias
        self.proj_size = proj_size


def _in_tuple(hx: Any) -> tuple[Tensor] | None:
    """Return a state of one tensor as `Recurrent` takes it."""
    if hx is not None and not isinstance(hx, Tensor):
        raise RuntimeError(f"hx must be a tensor, got a {type(hx).__name__}")
    return None if hx is None else (hx,)
