"""Bridge: from the encoder's final states to the decoder's first ones, whatever their layers, directions and cells."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from seqkit.models.encoder import padding_mask
from seqkit.nn import Recurrent, State
from seqkit.nn.linear import Linear

BridgeName = Literal["copy", "linear", "zero", "mean"]


class Bridge(nn.Module):
    """Make the decoder's initial state.

    The decoder's layer l of L goes with the encoder's layer l + (L_enc - L), so that the top layers meet; where that
    is below the first, with the first.

    `copy`: each state tensor is the encoder's tensor of the same name (h, c, ...) in that layer, forward and backward
    states concatenated. `linear`: tanh(W s + b), s all state tensors of that layer in both directions
    concatenated, one W for each layer of the decoder. `mean`: tanh(W m + b), m the mean of the encoder's outputs over
    the source (as in Nematus, Sennrich et al. 2017, eq. 1), zero for an empty source. `zero`: zeros.

    Args:
        kind: copy, linear, mean or zero.
        encoder: the recurrent module whose final state is taken.
        state_names: names of the decoder's state tensors, in order, such as ("h", "c").
        state_sizes: features of each of them.
        num_layers: layers of the decoder, L.

    Raises:
        ValueError: an unknown kind; or a `copy` that cannot be exact: the decoder has more layers, other sizes, or a
            state that the encoder lacks.
    """

    def __init__(
        self,
        kind: BridgeName,
        encoder: Recurrent,
        state_names: tuple[str, ...],
        state_sizes: tuple[int, ...],
        num_layers: int,
    ) -> None:
        super().__init__()
        if kind not in get_args(BridgeName):
            raise ValueError(f"bridge must be one of {', '.join(map(repr, get_args(BridgeName)))}; got {kind!r}")
        self.kind = kind
        self.num_layers = num_layers
        self.num_directions = encoder.num_directions
        self.state_sizes = tuple(state_sizes)
        top = encoder.num_layers - num_layers
        self.layers = [max(0, top + layer) for layer in range(num_layers)]  # the encoder's layer for each layer
        if kind == "copy":
            self.places = self._places(encoder, state_names)
        elif kind in ("linear", "mean"):
            size = encoder.output_size if kind == "mean" else encoder.num_directions * sum(encoder.state_sizes)
            self.maps = nn.ModuleList([Linear(size, sum(state_sizes)) for _ in range(num_layers)])

    def _places(self, encoder: Recurrent, names: tuple[str, ...]) -> list[int]:
        """For each tensor of the decoder's state, its place in the encoder's."""
        hint = "; bridge 'linear' or 'mean' takes any"
        if self.num_layers > encoder.num_layers:
            raise ValueError(
                f"bridge 'copy': the decoder has {self.num_layers} layers and the encoder {encoder.num_layers}{hint}"
            )
        known = encoder.cell_at(0).state_names
        places = []
        for name, size in zip(names, self.state_sizes, strict=True):
            if name not in known:
                raise ValueError(
                    f"bridge 'copy': the decoder's state {name!r} is not among the encoder's ({', '.join(known)}){hint}"
                )
            place = known.index(name)
            came = encoder.state_sizes[place] * self.num_directions
            if came != size:
                raise ValueError(
                    f"bridge 'copy': the encoder's state {name!r} has {came} features "
                    f"({self.num_directions} x {encoder.state_sizes[place]}) and the decoder's {size}{hint}"
                )
            places.append(place)
        return places

    def forward(self, output: Tensor, state: State, lengths: Tensor) -> State:
        """Make the first state.

        Args:
            output: (B, S, F) of the encoder, zero past each length.
            state: the encoder's final state, each (num_layers * num_directions, B, size).
            lengths: (B,) of the source.

        Returns:
            the decoder's state, each (L, B, size).

        Raises:
            ValueError: `kind` was changed to something unknown.
        """
        if self.kind == "zero":
            return tuple(output.new_zeros(self.num_layers, output.size(0), size) for size in self.state_sizes)
        # (layers, B, directions * size): forward and backward side by side.
        wide = [
            part.view(part.size(0) // self.num_directions, self.num_directions, *part.shape[1:])
            .transpose(1, 2)
            .flatten(2)
            for part in state
        ]
        if self.kind == "copy":
            return tuple(wide[place][self.layers[0] :] for place in self.places)  # the layers at the top
        if self.kind == "linear":
            every = torch.cat(wide, 2)
            inputs = [every[layer] for layer in self.layers]
        elif self.kind == "mean":
            padding = padding_mask(lengths, output.size(1), output.device).unsqueeze(2)
            mean = output.masked_fill(padding, 0.0).sum(1) / lengths.clamp(min=1).unsqueeze(1).to(output)
            inputs = [mean] * self.num_layers
        else:
            raise ValueError(f"unknown bridge {self.kind!r}")
        rows = [torch.tanh(layer(one)) for layer, one in zip(self.maps, inputs, strict=True)]
        return torch.stack(rows).split_with_sizes(list(self.state_sizes), 2)

    def extra_repr(self) -> str:
        return f"{self.kind!r}"
