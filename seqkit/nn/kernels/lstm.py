"""Fused kernel of the LSTM with every variant: the forward scan. Its backward is in `lstm_backward.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.nn.kernels.gemm import StepProduct, product
from seqkit.nn.kernels.kernel import (
    Tensors,
    apply_,
    blocks,
    history,
    last,
    quick,
    reaches,
    split,
    tanh_,
)
from seqkit.nn.kernels.lstm_backward import LSTMBackward
from seqkit.nn.kernels.lstm_options import LSTMOptions
from seqkit.nn.kernels.norm import StepNorm
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.tuning import MIN_REACH


@dataclass(frozen=True)
class LSTMKernel(LSTMOptions):
    """The LSTM; see `LSTMOptions`."""

    def forward(self, tensors: Tensors, packing: Packing, save: bool) -> tuple[list[Tensor], Tensors]:
        H, order = tensors["c0"].size(1), self.order
        plain = self.is_plain and "mask_recurrent" not in tensors and "mask_update" not in tensors
        scale = 2.0 if plain and quick(tensors["c0"]) else 1.0
        if self.layer_norm:
            gates = torch.cat([tensors["projected"].chunk(len(order), 1)[index] for index in order], 1)
        else:
            bias = tensors["bias_ih"] + tensors["bias_hh"] if "bias_ih" in tensors else None
            bias = None if bias is None else self._arrange(bias, H, scale)
            gates = product(tensors["x"], self._arrange(tensors["weight_ih"], H, scale), bias)
        if scale != 1 and not reaches(gates[:, -H:], scale * MIN_REACH):
            gates[:, -H:] *= 1 / scale
            scale = 1.0
        weight, sizes = self._arrange(tensors["weight_hh"], H, scale), packing.batch_sizes
        recurrent = StepProduct(weight, sizes[0], len(sizes))
        hidden, outputs = history(tensors["h0"], gates.size(0))
        if plain:
            memory = _plain_scan(tensors, packing, save, gates, recurrent, outputs, doubled=scale != 1)
            saved = {"gates": gates, "hidden": hidden, "memory": memory} if save else {}
        else:
            steps = _VariantScan(self, tensors, packing, gates, recurrent, outputs, save=save)
            memory = steps.run()
            saved = {"gates": gates, "hidden": hidden, "memory": memory, **steps.saved()} if save else {}
        final_c = last(memory, packing) if save or not plain else memory
        return [outputs, last(hidden, packing), final_c], saved

    def _arrange(self, weight: Tensor, size: int, scale: float) -> Tensor:
        """Return the gate blocks in our order, those of g scaled."""
        parts = torch.split(weight, size)
        *first, g = (parts[index] for index in self.order)
        return torch.cat([*first, g if scale == 1 else g * scale])

    def backward(
        self, tensors: Tensors, saved: Tensors, packing: Packing, grads: Sequence[Tensor | None], needed: frozenset[str]
    ) -> Tensors:
        return LSTMBackward(self, tensors, saved, packing).run(grads, needed)


PLAIN = LSTMKernel()


def _plain_scan(
    tensors: Tensors,
    packing: Packing,
    save: bool,
    gates: Tensor,
    recurrent: StepProduct,
    outputs: Tensor,
    *,
    doubled: bool,
) -> Tensor:
    """Run torch's LSTM in few calls a step. Returns the memory's history (B + N, H), or only c_n if not `save`.

    Where the rows of the weights that belong to g come doubled, one sigmoid serves all: tanh(x) = 2 sigmoid(2x) - 1.
    It errs by float32's precision at 1, so this is for float32 and where some g is not small; see `tanh_`.
    """
    h, c = tensors["h0"], tensors["c0"]
    H = c.size(1)
    if save:
        memory, cells = history(c, gates.size(0))
        news = split(cells, packing)
    else:
        # In place: rows of ended sequences are left alone, so this is the final state at the end.
        memory = c.clone()
        news = [memory[:size] for size in packing.batch_sizes]
        c = memory
    o_s, i_s, f_s, g_s = (split(part, packing) for part in torch.split(gates, H, 1))
    shown, minus_one = torch.empty_like(tensors["c0"]), tensors["c0"].new_full((), -1.0)
    sigmoids = split(gates[:, :-H], packing)
    steps = zip(split(gates, packing), sigmoids, o_s, i_s, f_s, g_s, news, split(outputs, packing), strict=True)
    for rows, oif, o, i, f, g, new_c, new_h in steps:
        size = rows.size(0)
        if size != h.size(0):
            h, c, shown = h[:size], c[:size], shown[:size]
        total = recurrent.plus_rows(h, rows, out=rows)
        if doubled:
            torch.sigmoid(total, out=rows)
            torch.add(minus_one, g, alpha=2, out=g)
        else:
            torch.sigmoid(total[:, :-H], out=oif)
            tanh_(total[:, -H:], g)
        torch.mul(f, c, out=new_c).addcmul_(i, g)
        torch.mul(o, tanh_(new_c, shown), out=new_h)
        h, c = new_h, new_c
    return memory


class _VariantScan:
    """The forward scan with any mixture of variants."""

    def __init__(
        self,
        kernel: LSTMKernel,
        tensors: Tensors,
        packing: Packing,
        gates: Tensor,
        recurrent: StepProduct,
        outputs: Tensor,
        *,
        save: bool,
    ) -> None:
        self.kernel, self.tensors, self.packing, self.recurrent = kernel, tensors, packing, recurrent
        H = self.H = tensors["c0"].size(1)
        self.split_gates = [split(part, packing) for part in torch.split(gates, H, 1)]
        self.whole, self.outputs = split(gates, packing), split(outputs, packing)
        # The gates that see c before the step: (i, f), or f alone.
        self.inner = split(gates[:, H:-H], packing)
        self.sigmoids = split(gates[:, :-H], packing)
        self.masks = kernel.masks(tensors, packing)
        self.memory, cells = history(tensors["c0"], gates.size(0))
        self.cells = split(cells, packing)
        # Zoneout hides the new memory, which backward needs, so it gets a buffer of its own.
        self.fresh = torch.empty_like(cells) if kernel.zoneout_cell else cells
        self.fresh_steps = split(self.fresh, packing)
        self.norm_h: StepNorm | None = None
        if kernel.layer_norm:
            gain, bias = blocks(tensors["norm_hh"], H, kernel.order), tensors.get("norm_cell_bias")
            self.norm_h = StepNorm("norm_hh", gain, keep="all" if save else "nothing")
            # Its input is the new memory, which is kept anyway; of its result the activation is kept, as `shown`.
            self.norm_c = StepNorm("norm_cell", tensors["norm_cell"], bias, keep="scale" if save else "nothing")
        self.unprojected = gates.new_empty(tensors["c0"].shape)
        self.shown = torch.empty_like(cells) if kernel.layer_norm and save else None
        self.shown_steps = None if self.shown is None else split(self.shown, packing)
        if kernel.proj_size:
            self.projection = StepProduct(tensors["weight_hr"], packing.first_rows, len(packing.batch_sizes))
        if kernel.peephole:
            self.peeps = tensors["weight_peephole"].view(-1, H)

    def run(self) -> Tensor:
        """Run all steps; returns the memory's history (B + N, H)."""
        h, c, mask = self.tensors["h0"], self.tensors["c0"], self.tensors.get("mask_recurrent")
        for t, rows in enumerate(self.whole):
            size = rows.size(0)
            h, c = h[:size], c[:size]
            h_in = h if mask is None else h * mask[:size]
            if self.norm_h is None:
                total = self.recurrent.plus_rows(h_in, rows, out=rows)
            else:
                total = rows.add_(self.norm_h.forward(self.recurrent.times(h_in)))
            c = self._memory(t, total, c)
            h = self._output(t, h)
        return self.memory

    def _memory(self, t: int, total: Tensor, c: Tensor) -> Tensor:
        kernel, H, size = self.kernel, self.H, total.size(0)
        f, g = self.split_gates[-2][t], self.split_gates[-1][t]
        if kernel.peephole:
            inner = total[:, H:-H]
            torch.unflatten(inner, 1, (-1, H)).addcmul_(self.peeps[:-1], c.unsqueeze(1))
            torch.sigmoid(inner, out=self.inner[t])
            self.split_gates[0][t].copy_(total[:, :H])
        else:
            torch.sigmoid(total[:, :-H], out=self.sigmoids[t])
        apply_(kernel.cell_activation, total[:, -H:], g, exact=kernel.layer_norm)
        if self.masks["update"]:
            g = g * self.masks["update"][t]
        new = self.fresh_steps[t]
        if kernel.coupled:
            torch.lerp(g, c, f, out=new)
        else:
            torch.mul(f, c, out=new).addcmul_(self.split_gates[1][t], g)
        if kernel.cell_clip is not None:
            new.clamp_(-kernel.cell_clip, kernel.cell_clip)
        if kernel.peephole:
            self.split_gates[0][t].addcmul_(new, self.peeps[-1].expand(size, H)).sigmoid_()
        if self.masks["zoneout_cell"]:
            return torch.lerp(new, c, self.masks["zoneout_cell"][t].expand_as(c), out=self.cells[t])
        return new

    def _output(self, t: int, h: Tensor) -> Tensor:
        kernel, new = self.kernel, self.fresh_steps[t]
        o, out = self.split_gates[0][t], self.outputs[t]
        scratch = self.unprojected[: new.size(0)]
        shown = scratch if self.shown_steps is None else self.shown_steps[t]
        source = new if self.norm_h is None else self.norm_c.forward(new)
        apply_(kernel.output_activation, source, shown, exact=kernel.layer_norm)
        if kernel.proj_size:
            out.copy_(self.projection.times(torch.mul(shown, o, out=scratch)))
        else:
            torch.mul(o, shown, out=out)
        if self.masks["zoneout"]:
            torch.lerp(out, h, self.masks["zoneout"][t].expand_as(h), out=out)
        return out

    def saved(self) -> Tensors:
        """Return the buffers beyond the plain ones."""
        result: Tensors = {"fresh": self.fresh} if self.kernel.zoneout_cell else {}
        if self.norm_h is not None and self.shown is not None:
            result |= {**self.norm_h.saved(), **self.norm_c.saved(), "shown": self.shown}
        return result
