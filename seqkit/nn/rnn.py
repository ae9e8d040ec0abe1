"""`RNN`, `LSTM` and `GRU`: `Recurrent` with the exact signatures and return shapes of torch's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkit.nn.recurrent import Backend, Recurrent

Device = torch.device | str | None


class RNN(Recurrent):
    """Drop-in for `torch.nn.RNN`: same constructor, parameter names, shapes and results; see `Recurrent`.

    `RNNCell` and `Recurrent` explain the keyword-only arguments.
    Forward: `(input, hx=None, *, lengths=None) -> (output, h_n)`, h_n (num_layers * num_directions, B, H).
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
        backend: Backend = "auto",
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

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Tensor]:
        """As `Recurrent.forward`, with the one state tensor bare."""
        return _bare(self, input, hx, lengths)


class GRU(Recurrent):
    """Drop-in for `torch.nn.GRU`: same constructor, parameter names, shapes and results; see `Recurrent`.

    `GRUCell` and `Recurrent` explain the keyword-only arguments.
    Forward: `(input, hx=None, *, lengths=None) -> (output, h_n)`, h_n (num_layers * num_directions, B, H).
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
        backend: Backend = "auto",
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

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Tensor]:
        """As `Recurrent.forward`, with the one state tensor bare."""
        return _bare(self, input, hx, lengths)


class LSTM(Recurrent):
    """Drop-in for `torch.nn.LSTM`: same constructor, parameter names, shapes and results; see `Recurrent`.

    `LSTMCell` and `Recurrent` explain the keyword-only arguments.
    Forward: `(input, hx=None, *, lengths=None) -> (output, (h_n, c_n))`.
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
        backend: Backend = "auto",
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


def _bare(module: Recurrent, input: Any, hx: Any, lengths: Any) -> tuple[Any, Tensor]:
    """Run a module whose state is one tensor, given and returned without its tuple."""
    if hx is not None and not isinstance(hx, Tensor):
        raise RuntimeError(f"hx must be a tensor, got a {type(hx).__name__}")
    output, (state,) = Recurrent.forward(module, input, None if hx is None else (hx,), lengths=lengths)
    return output, state
