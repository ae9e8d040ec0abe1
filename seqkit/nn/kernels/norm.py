"""Layer normalisation inside a scan, one step at a time, with the gain's gradient as one sum over all steps."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkit.nn.kernels.malloc import keep_freed_blocks
from seqkit.nn.kernels.packing import Packing

EPSILON = 1e-5


class StepNorm:
    """LN(total) * gain + bias at every step (Ba et al. 2016).

    Args:
        name: under which `saved` names what the backward needs.
        keep: what is kept for it: "all", or "scale" where the caller has the totals (N, F) anyway, or "nothing".
    """

    def __init__(self, name: str, gain: Tensor, bias: Tensor | None = None, *, keep: str = "all") -> None:
        self.name, self.gain, self.bias, self.keep = name, gain, bias, keep
        self.shape = [gain.numel()]
        keep_freed_blocks()  # every step makes and frees its totals and what they are normalised to
        self.totals: list[Tensor] = []
        self.means: list[Tensor] = []
        self.scales: list[Tensor] = []

    def forward(self, total: Tensor) -> Tensor:
        """(b, F) to (b, F)."""
        normed, mean, scale = torch.native_layer_norm(total, self.shape, self.gain, self.bias, EPSILON)
        if self.keep == "all":
            self.totals.append(total)
        if self.keep != "nothing":
            self.means.append(mean)
            self.scales.append(scale)
        return normed

    def saved(self) -> dict[str, Tensor]:
        """Return the buffers of all steps by name."""
        parts = {"totals": self.totals, "means": self.means, "scales": self.scales}
        return {f"{self.name}.{key}": torch.cat(values) for key, values in parts.items() if values}


class StepNormBackward:
    """The backward of `StepNorm`, from its saved buffers; `totals` (N, F) where it did not keep them."""

    def __init__(
        self, name: str, gain: Tensor, saved: dict[str, Tensor], packing: Packing, totals: Tensor | None = None
    ) -> None:
        self.gain, self.shape = gain, [gain.numel()]
        totals = saved[f"{name}.totals"] if totals is None else totals
        self.whole = [totals, saved[f"{name}.means"], saved[f"{name}.scales"]]
        self.steps = list(zip(*(part.split_with_sizes(packing.batch_sizes) for part in self.whole), strict=True))

    def backward(self, t: int, grad: Tensor) -> Tensor:
        """Return the gradient (b, F) of the input of step t."""
        total, mean, scale = self.steps[t]
        only_input = [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(  # type: ignore[no-any-return]
            grad, total, self.shape, mean, scale, self.gain, None, only_input
        )[0]

    def gain_gradient(self, grads: Tensor) -> Tensor:
        """From the gradients of all outputs (N, F) the gradient of the gain, (F,)."""
        totals, means, scales = self.whole
        return (totals - means).mul_(scales).mul_(grads).sum(0)
