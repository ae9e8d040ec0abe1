"""Plain cells one step at a time, for loops in which something else happens between two steps (input feeding).

A step is one product, [input, h] (b, K + H) times both weights side by side, and a pointwise part, which is here with
its derivative. As in the scans, everything that multiplies the incoming gradient is computed for all steps at once.
Blocks of the sums ("gates") lie in an order of their own; `by_input` and `by_state` bring weights into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from seqkit.nn.kernels.gru import GRUKernel
from seqkit.nn.kernels.kernel import (
    SLOPES,
    Kernel,
    Tensors,
    apply_,
    blocks,
    history,
    previous,
    quick,
    reaches,
    split,
    tanh_,
    unblocks,
)
from seqkit.nn.kernels.lstm import PLAIN
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.rnn import RNNKernel
from seqkit.nn.kernels.tuning import MIN_REACH


class CellSteps:
    """The pointwise half of one plain cell over the steps of a packed batch.

    Forward: `start`, then `forward` for each t. Backward: `rewind` with what `saved` gave, then `backward` for each t
    from the last. States are tuples of (b_t, H); `delta` (N, G) ends as the gradient of all sums.
    """

    def __init__(self, hidden_size: int, packing: Packing) -> None:
        self.H, self.packing = hidden_size, packing
        self.delta = torch.empty(0)

    def by_input(self, weight: Tensor) -> Tensor:
        """Return rows of weight_ih (or bias_ih) in our order: (G, ...)."""
        return weight

    def by_state(self, weight: Tensor) -> Tensor:
        """Return rows of weight_hh (or bias_hh) in our order: (G, ...)."""
        return weight

    def from_input(self, grad: Tensor) -> Tensor:
        """Return the transpose of `by_input`, for gradients."""
        return grad

    def from_state(self, grad: Tensor) -> Tensor:
        """Return the transpose of `by_state`, for gradients."""
        return grad

    def scaled(self, weight: Tensor) -> Tensor:
        """Return what the forward product takes for a weight (or bias) in our order."""
        return weight

    def start(self, sums: Tensor, state: Sequence[Tensor]) -> None:
        """Take the part of the sums known beforehand, (N, G), which becomes a buffer, and the initial state."""
        self.sums = sums
        self.rows = split(sums, self.packing)
        self.hidden, outputs = history(state[0], sums.size(0))
        self.news = split(outputs, self.packing)

    def forward(self, t: int, total: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute the state after step t from the sums (b, G), which may be `rows[t]`, and the state before."""
        raise NotImplementedError

    def once(self, total: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute the state after a single step from its sums (b, G), not `scaled`, which are written over."""
        raise NotImplementedError

    def saved(self) -> Tensors:
        """Return the buffers that `rewind` wants."""
        return {"sums": self.sums, "hidden": self.hidden}

    def rewind(self, saved: Tensors) -> None:
        """Compute the factors from the saved buffers."""
        raise NotImplementedError

    def backward(self, t: int, grads: Sequence[Tensor]) -> Tensor:
        """Turn the gradients of the state after step t, each (b, H), in place into those of the state before it.

        The share of h that goes through the product is left out. Returns the gradient of the sums (b, G).
        """
        raise NotImplementedError


class RNNSteps(CellSteps):
    """h' = f(sum)."""

    def __init__(self, hidden_size: int, packing: Packing, nonlinearity: str) -> None:
        super().__init__(hidden_size, packing)
        self.nonlinearity = nonlinearity

    def forward(self, t: int, total: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (apply_(self.nonlinearity, total, self.news[t]),)

    def once(self, total: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (apply_(self.nonlinearity, total, total),)

    def saved(self) -> Tensors:
        return {"hidden": self.hidden}

    def rewind(self, saved: Tensors) -> None:
        outputs = saved["hidden"][self.packing.batch_size :]
        self.delta = torch.empty_like(outputs)
        SLOPES[self.nonlinearity](outputs.new_ones(1, 1).expand_as(outputs), outputs, self.delta)
        self.deltas = split(self.delta, self.packing)

    def backward(self, t: int, grads: Sequence[Tensor]) -> Tensor:
        delta = self.deltas[t].mul_(grads[0])
        grads[0].zero_()
        return delta


class GRUSteps(CellSteps):
    """Blocks r, z, m (the recurrent part of n's sum) and n's input part; see `seqkit.nn.GRUCell`."""

    def by_input(self, weight: Tensor) -> Tensor:
        H = self.H
        return torch.cat([weight[: 2 * H], torch.zeros_like(weight[:H]), weight[2 * H :]])

    def by_state(self, weight: Tensor) -> Tensor:
        return torch.cat([weight, torch.zeros_like(weight[: self.H])])

    def from_input(self, grad: Tensor) -> Tensor:
        H = self.H
        return torch.cat([grad[: 2 * H], grad[3 * H :]])

    def from_state(self, grad: Tensor) -> Tensor:
        return grad[: 3 * self.H]

    def start(self, sums: Tensor, state: Sequence[Tensor]) -> None:
        super().start(sums, state)
        H = self.H
        parts = (sums[:, : 2 * H], sums[:, 2 * H : 3 * H], sums[:, 3 * H :])
        self.pairs, self.inner, self.fresh = (split(part, self.packing) for part in parts)

    def forward(self, t: int, total: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        H = self.H
        pair, m, n = self.pairs[t], self.inner[t], self.fresh[t]
        if total is not self.rows[t]:
            m.copy_(total[:, 2 * H : 3 * H])
        torch.sigmoid(total[:, : 2 * H], out=pair)
        tanh_(torch.addcmul(total[:, 3 * H :], pair[:, :H], m, out=n), n)
        return (torch.lerp(n, state[0], pair[:, H:], out=self.news[t]),)

    def once(self, total: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        total.narrow(1, 0, 2 * self.H).sigmoid_()
        r, z, m, n = total.chunk(4, 1)
        return (torch.lerp(tanh_(n.addcmul_(r, m), n), state[0], z),)

    def rewind(self, saved: Tensors) -> None:
        H, sums = self.H, saved["sums"]
        r, z, m, n = (sums[:, k * H : (k + 1) * H] for k in range(4))
        delta = self.delta = torch.empty_like(sums)
        d_new = delta[:, 3 * H :]
        SLOPES["tanh"](1 - z, n, d_new)
        SLOPES["sigmoid"](previous(saved["hidden"], self.packing) - n, z, delta[:, H : 2 * H])
        SLOPES["sigmoid"](d_new * m, r, delta[:, :H])
        torch.mul(d_new, r, out=delta[:, 2 * H : 3 * H])
        self.deltas, self.keeps = split(delta, self.packing), split(z, self.packing)

    def backward(self, t: int, grads: Sequence[Tensor]) -> Tensor:
        (dh,) = grads
        delta = self.deltas[t]
        delta.view(-1, 4, self.H).mul_(dh.unsqueeze(1))
        dh.mul_(self.keeps[t])
        return delta


class LSTMSteps(CellSteps):
    """Gates in the order (o, i, f, g), g's sum doubled, since tanh(x) = 2 sigmoid(2x) - 1; see `LSTMKernel`.

    That serves where some g is not small (see `tanh_`); elsewhere the sum is halved again.
    """

    def by_input(self, weight: Tensor) -> Tensor:
        return blocks(weight, self.H, PLAIN.order)

    by_state = by_input

    def from_input(self, grad: Tensor) -> Tensor:
        return unblocks(grad, self.H, PLAIN.order)

    from_state = from_input

    def scaled(self, weight: Tensor) -> Tensor:
        result = weight.clone()
        result[3 * self.H :] *= 2
        return result

    def start(self, sums: Tensor, state: Sequence[Tensor]) -> None:
        super().start(sums, state)
        self.memory, cells = history(state[1], sums.size(0))
        self.cells = split(cells, self.packing)
        self.parts = [split(part, self.packing) for part in torch.split(sums, self.H, 1)]
        self.sigmoids = split(sums[:, : 3 * self.H], self.packing)
        self.shown, self.minus_one = torch.empty_like(state[1]), sums.new_full((), -1.0)

    def forward(self, t: int, total: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        o, i, f, g = (part[t] for part in self.parts)
        new_c = self.cells[t]
        wide = total[:, 3 * self.H :]
        if quick(total) and reaches(wide, 2 * MIN_REACH):
            torch.sigmoid(total, out=self.rows[t])
            torch.add(self.minus_one, g, alpha=2, out=g)
        else:
            torch.mul(wide, 0.5, out=g)
            torch.sigmoid(total[:, : 3 * self.H], out=self.sigmoids[t])
            tanh_(g, g)
        torch.mul(f, state[1], out=new_c).addcmul_(i, g)
        return torch.mul(o, tanh_(new_c, self.shown[: o.size(0)]), out=self.news[t]), new_c

    def once(self, total: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        total.narrow(1, 0, 3 * self.H).sigmoid_()
        o, i, f, g = total.chunk(4, 1)
        new_c = torch.mul(f, state[1]).addcmul_(i, tanh_(g, g))
        return tanh_(new_c, torch.empty_like(new_c)).mul_(o), new_c

    def saved(self) -> Tensors:
        return {"sums": self.sums, "memory": self.memory}

    def rewind(self, saved: Tensors) -> None:
        H, gates, memory = self.H, saved["sums"], saved["memory"]
        o, i, f, g = torch.split(gates, H, 1)
        fresh = memory[self.packing.batch_size :]
        shown = tanh_(fresh, torch.empty_like(fresh))
        delta = self.delta = torch.empty_like(gates)
        SLOPES["sigmoid"](shown, o, delta[:, :H])
        SLOPES["sigmoid"](g, i, delta[:, H : 2 * H])
        SLOPES["sigmoid"](previous(memory, self.packing), f, delta[:, 2 * H : 3 * H])
        SLOPES["tanh"](i, g, delta[:, 3 * H :])
        to_memory = torch.empty_like(fresh)
        SLOPES["tanh"](o, shown, to_memory)
        self.to_memory, self.forget = split(to_memory, self.packing), split(f, self.packing)
        self.deltas, self.outer = split(delta, self.packing), split(delta[:, :H], self.packing)
        self.inner = split(delta.view(-1, 4, H)[:, 1:], self.packing)

    def backward(self, t: int, grads: Sequence[Tensor]) -> Tensor:
        dh, dc = grads
        self.outer[t].mul_(dh)
        self.inner[t].mul_(dc.addcmul_(dh, self.to_memory[t]).unsqueeze(1))
        dc.mul_(self.forget[t])
        dh.zero_()
        return self.deltas[t]


def cell_steps(kernel: Kernel | None) -> Callable[[int, Packing], CellSteps] | None:
    """Makes the steps of the cell that `kernel` belongs to, or None where only its scan or its step loop will do."""
    if kernel == PLAIN:
        return LSTMSteps
    if kernel == GRUKernel(layer_norm=False, zoneout=0.0):
        return GRUSteps
    if isinstance(kernel, RNNKernel) and kernel == RNNKernel(kernel.nonlinearity, layer_norm=False, zoneout=0.0):
        nonlinearity = kernel.nonlinearity
        return lambda hidden_size, packing: RNNSteps(hidden_size, packing, nonlinearity)
    return None
