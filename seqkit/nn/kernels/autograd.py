"""The autograd function around a fused kernel, and its double backward through the reference graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import batched
from seqkit.nn.kernels.kernel import Kernel, Tensors
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.reference import reference_scan


class Call:
    """What a scan is besides tensors. Its tensors come as one flat sequence, in the order of its own."""

    def forward(self, tensors: Sequence[Tensor], save: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Return the results, and what `backward` needs if `save`; no autograd graph is recorded inside."""
        raise NotImplementedError

    def backward(
        self,
        tensors: Sequence[Tensor],
        saved: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Return the gradient of each tensor that is wanted, from the gradients of the results."""
        raise NotImplementedError

    def reference(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the same results under autograd."""
        raise NotImplementedError


@dataclass
class KernelCall(Call):
    """One cell in one direction on a kernel: its layout, and the tensors' names in order."""

    cell: Cell
    kernel: Kernel
    packing: Packing
    names: tuple[str, ...]
    saved_names: tuple[str, ...] = field(default=())

    def named(self, tensors: Sequence[Tensor]) -> Tensors:
        """Return the tensors by name."""
        return dict(zip(self.names, tensors, strict=True))

    def forward(self, tensors: Sequence[Tensor], save: bool) -> tuple[list[Tensor], list[Tensor]]:
        results, saved = self.kernel.forward(self.named(tensors), self.packing, save)
        self.saved_names = tuple(saved)
        return results, list(saved.values())

    def backward(
        self,
        tensors: Sequence[Tensor],
        saved: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        buffers = dict(zip(self.saved_names, saved, strict=True))
        needed = frozenset(name for name, want in zip(self.names, wanted, strict=True) if want)
        gradients = self.kernel.backward(self.named(tensors), buffers, self.packing, grads, needed)
        return [gradients[name] if name in needed else None for name in self.names]

    def reference(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        inputs = self.named(tensors)
        sequence_masks: Tensors = {}
        step_masks: Tensors = {}
        for name, mask in inputs.items():
            if name.startswith("mask_"):
                # A mask per sequence has B rows, one per step has N; they are told apart by name, not by size.
                kind = sequence_masks if name == "mask_recurrent" else step_masks
                kind[name.removeprefix("mask_")] = mask
        prepared = Prepared(inputs, sequence_masks, step_masks)
        drive = inputs["projected"] if "projected" in inputs else self.cell.project(inputs["x"], prepared)
        state = tuple(inputs[f"{name}0"] for name in self.cell.state_names)
        outputs, final = reference_scan(self.cell, drive, self.packing.batch_sizes, state, prepared)
        return outputs, *final


class FusedScan(torch.autograd.Function):
    """(call, *tensors) -> the call's results."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        save = any(ctx.needs_input_grad)
        results, saved = call.forward(tensors, save)
        ctx.call = call
        ctx.set_materialize_grads(False)
        if save:
            ctx.save_for_backward(*tensors, *saved)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        wanted = ctx.needs_input_grad[1:]
        # Read once: checkpointing recomputes at the first access and refuses a second.
        everything = ctx.saved_tensors
        tensors, saved = everything[: len(wanted)], everything[len(wanted) :]
        if all(grad is None for grad in grads):
            return None, *(None for _ in wanted)
        if torch.is_grad_enabled() or batched(*grads):
            # create_graph=True: the derivative must itself be differentiable, so it goes through the step loop. So it
            # does for many gradients at once (vmap), which kernels that write in place cannot take.
            return None, *through_graph(call.reference, tensors, wanted, grads)
        return None, *call.backward(tensors, saved, grads, wanted)


def scanned(call: Call, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the call's results, recorded for autograd only where something asks for a gradient."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return tuple(FusedScan.apply(call, *tensors))  # type: ignore[no-untyped-call]
    results, _ = call.forward(tensors, False)
    return tuple(results)


def through_graph(
    function: Callable[[Sequence[Tensor]], tuple[Tensor, ...]],
    tensors: Sequence[Tensor],
    wanted: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients of `function(tensors)` by autograd, differentiable themselves where grad mode is on."""
    twice = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, so that the gradients are taken with respect to this call's inputs and not to what they came from.
        inputs = [tensor.view_as(tensor) if want else tensor for tensor, want in zip(tensors, wanted, strict=True)]
        results = function(inputs)
    pairs = [(result, grad) for result, grad in zip(results, grads, strict=True) if grad is not None]
    asked = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
    gradients = iter(
        torch.autograd.grad(
            [pair[0] for pair in pairs], asked, [pair[1] for pair in pairs], create_graph=twice, allow_unused=True
        )
    )
    return [next(gradients) if want else None for want in wanted]


def kernel_scan(
    cell: Cell, kernel: Kernel, x_NI: Tensor, packing: Packing, state: State, prepared: Prepared
) -> tuple[Tensor, State]:
    """Run a cell on a kernel, on packed rows (N, F); see `reference_scan` for what comes out."""
    tensors: Tensors = dict(prepared.weights)
    if kernel.takes_projected:
        tensors = {name: value for name, value in tensors.items() if name not in kernel.projection_weights}
        tensors["projected"] = cell.project(x_NI, prepared)
    else:
        tensors["x"] = x_NI.contiguous()
    # oneDNN misreads operands with gaps without a complaint.
    tensors |= {f"{name}0": part.contiguous() for name, part in zip(cell.state_names, state, strict=True)}
    for masks in (prepared.sequence_masks, prepared.step_masks):
        tensors |= {f"mask_{name}": mask for name, mask in masks.items()}
    outputs, *final = scanned(KernelCall(cell, kernel, packing, tuple(tensors)), list(tensors.values()))
    return outputs, tuple(final)
