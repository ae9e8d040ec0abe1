"""Options of the LSTM's fused kernel, which its forward and its backward scan both read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from seqkit.nn.kernels.kernel import Kernel, Tensors, mask_rows
from seqkit.nn.kernels.packing import Packing


@dataclass(frozen=True)
class LSTMOptions(Kernel):
    """See `seqkit.nn.LSTMCell` for the equations; without arguments, torch's LSTM.

    Gates lie in the order (o, i, f, g), or (o, f, g) if coupled: the sigmoids are neighbours, and so are those gates
    whose gradient comes from the memory.
    """

    proj_size: int = 0
    peephole: bool = False
    coupled: bool = False
    layer_norm: bool = False
    zoneout: float = 0.0
    zoneout_cell: float = 0.0
    cell_clip: float | None = None
    cell_activation: str = "tanh"
    output_activation: str = "tanh"

    projection_weights = ("weight_ih", "norm_ih", "bias_ih", "bias_hh")

    @property
    def takes_projected(self) -> bool:
        return self.layer_norm

    @property
    def order(self) -> tuple[int, ...]:
        """Return the position of each of our gate blocks in torch's order (i, f, g, o), or (f, g, o) if coupled."""
        return (2, 0, 1) if self.coupled else (3, 0, 1, 2)

    @cached_property
    def is_plain(self) -> bool:
        """Return whether a step is torch's LSTM."""
        return self == type(self)()

    @cached_property
    def is_plain_projected(self) -> bool:
        """Return whether a step is torch's LSTM, with or without a projection."""
        return self == type(self)(proj_size=self.proj_size)

    def masks(self, tensors: Tensors, packing: Packing) -> dict[str, list[Tensor]]:
        """Zoneout and update masks as one piece for each step; a rate stands in where evaluation drew no mask."""
        result = {"update": mask_rows(tensors.get("mask_update"), packing)}
        for name, rate, state in (("zoneout", self.zoneout, "h0"), ("zoneout_cell", self.zoneout_cell, "c0")):
            scalar = tensors[state].new_full((1, 1), rate)
            result[name] = mask_rows(tensors.get(f"mask_{name}", scalar), packing) if rate else []
        return result
