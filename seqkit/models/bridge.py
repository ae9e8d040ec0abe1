"""Bridge: from the encoder's final states to the decoder's first ones, whatever their layers, directions and cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqkit.nn import Linear, Recurrent, State, padding_mask


class Bridge(nn.Module):
    """Make the decoder's initial state; the base of every bridge, a subclass writes `forward`.

    The decoder's layer l of L goes with the encoder's layer l + (L_enc - L), so that the top layers meet; where that
    is below the first, with the first.

    Args:
        encoder: the recurrent module whose final state is taken.
        state_names: names of the decoder's state tensors, in order, such as ("h", "c").
        state_sizes: features of each of them.
        num_layers: layers of the decoder, L.

    Class attributes:
        reads_source: the state depends on the source.

    Attributes:
        layers: the encoder's layer for each layer of the decoder.
    """

    reads_source = True

    def __init__(
        self, encoder: Recurrent, state_names: tuple[str, ...], state_sizes: tuple[int, ...], num_layers: int
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.num_directions = encoder.num_directions
        self.state_sizes = tuple(state_sizes)
        top = encoder.num_layers - num_layers
        self.layers = [max(0, top + layer) for layer in range(num_layers)]

    def forward(self, output: Tensor, state: State, lengths: Tensor) -> State:
        """Make the first state.

        Args:
            output: (B, S, F) of the encoder, zero past each length.
            state: the encoder's final state, each (num_layers * num_directions, B, size).
            lengths: (B,) of the source.

        Returns:
            the decoder's state, each (L, B, size).
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(output, state, lengths)")

    def wide(self, state: State) -> list[Tensor]:
        """Return the encoder's state with forward and backward side by side: each (layers, B, directions * size)."""
        return [
            part.view(part.size(0) // self.num_directions, self.num_directions, *part.shape[1:])
            .transpose(1, 2)
            .flatten(2)
            for part in state
        ]


class CopyBridge(Bridge):
    """Each state tensor is the encoder's tensor of the same name (h, c, ...) in that layer, both directions of it.

    Raises:
        ValueError: it cannot be exact: the decoder has more layers, other sizes, or a state that the encoder lacks.
    """

    def __init__(
        self, encoder: Recurrent, state_names: tuple[str, ...], state_sizes: tuple[int, ...], num_layers: int
    ) -> None:
        super().__init__(encoder, state_names, state_sizes, num_layers)
        self.places = self._places(encoder, state_names)

    def _places(self, encoder: Recurrent, names: tuple[str, ...]) -> list[int]:
        """Return, for each tensor of the decoder's state, its place in the encoder's."""
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
        wide = self.wide(state)
        return tuple(wide[place][self.layers[0] :] for place in self.places)  # the layers at the top


class LinearBridge(Bridge):
    """tanh(W s + b), s all state tensors of that layer in both directions concatenated, a W for each layer."""

    def __init__(
        self, encoder: Recurrent, state_names: tuple[str, ...], state_sizes: tuple[int, ...], num_layers: int
    ) -> None:
        super().__init__(encoder, state_names, state_sizes, num_layers)
        size = self._input_size(encoder)
        self.maps = nn.ModuleList([Linear(size, sum(state_sizes)) for _ in range(num_layers)])

    def _input_size(self, encoder: Recurrent) -> int:
        return encoder.num_directions * sum(encoder.state_sizes)

    def _inputs(self, output: Tensor, state: State, lengths: Tensor) -> list[Tensor]:
        """(B, input size) for each layer of the decoder."""
        every = torch.cat(self.wide(state), 2)
        return [every[layer] for layer in self.layers]

    def forward(self, output: Tensor, state: State, lengths: Tensor) -> State:
        inputs = self._inputs(output, state, lengths)
        rows = [torch.tanh(layer(one)) for layer, one in zip(self.maps, inputs, strict=True)]
        return torch.stack(rows).split_with_sizes(list(self.state_sizes), 2)


class MeanBridge(LinearBridge):
    """tanh(W m + b), m the mean of the encoder's outputs over the source, zero for an empty source.

    As in Nematus (Sennrich et al. 2017, eq. 1).
    """

    def _input_size(self, encoder: Recurrent) -> int:
        return encoder.output_size

    def _inputs(self, output: Tensor, state: State, lengths: Tensor) -> list[Tensor]:
        padding = padding_mask(lengths, output.size(1), output.device).unsqueeze(2)
        mean = output.masked_fill(padding, 0.0).sum(1) / lengths.clamp(min=1).unsqueeze(1).to(output)
        return [mean] * self.num_layers


class ZeroBridge(Bridge):
    """Zeros."""

    reads_source = False

    def forward(self, output: Tensor, state: State, lengths: Tensor) -> State:
        return tuple(output.new_zeros(self.num_layers, output.size(0), size) for size in self.state_sizes)


BRIDGES: dict[str, type[Bridge]] = {"copy": CopyBridge, "linear": LinearBridge, "zero": ZeroBridge, "mean": MeanBridge}
