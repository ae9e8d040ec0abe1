"""The road of `torch.compile`, `torch.export` and `torch.jit.trace`: one opaque operator per layer and direction.

A step loop would be unrolled by the compiler, and lengths would break the graph, so a whole scan is one operator,
`seqkit::scan`, on the padded layout. Its backward, `seqkit::scan_backward`, runs the forward scan again, since the
sizes of what it would have to keep depend on the lengths.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # as torch.compiler.disable, which imports the compiler at once
from torch.nn.utils.rnn import PackedSequence

from seqkit.nn.backends import by_loop, by_operator
from seqkit.nn.backends.triton import operator_kernel
from seqkit.nn.cell import Cell, State
from seqkit.nn.checks import exporting_onnx, tracing
from seqkit.nn.kernels.gru import GRUKernel
from seqkit.nn.kernels.kernel import Kernel, Tensors
from seqkit.nn.kernels.lstm import LSTMKernel
from seqkit.nn.kernels.packing import Packing, check_lengths
from seqkit.nn.kernels.rnn import RNNKernel
from seqkit.nn.network import Network, prepare
from seqkit.nn.sending import send

KERNELS: dict[str, type[Kernel]] = {"lstm": LSTMKernel, "gru": GRUKernel, "rnn": RNNKernel}
AVAILABLE = hasattr(torch.library, "custom_op")  # torch 2.4 and later


class Operator(NamedTuple):
    """What the operator needs to know of a cell: a text to make its kernel from, and the weights it does not take.

    A text, not a number in a table of this process: exported programs and the compiler's cache on disk name the kernel
    in other processes, where the number would be another kernel's.

    `left_out` is None where the kernel does the input projection itself.
    """

    text: str
    left_out: tuple[str, ...] | None


def describe(cell: Cell) -> Operator | None:
    """Return the operator's view of a cell, or None if the cell has no kernel or this torch no custom operators."""
    kernel: Any = cell.kernel()
    names = [name for name, kind in KERNELS.items() if type(kernel) is kind]
    if not names or not AVAILABLE:
        return None
    text = json.dumps([names[0], asdict(kernel)])
    return Operator(text, kernel.projection_weights if kernel.takes_projected else None)


def must_run_outside(network: Network, input: Any, lengths: Any) -> str | None:
    """Return which part of a call `torch.compile` cannot take; None where it can take the call.

    The steps of such a call are known from the data alone, and no operator serves it.
    """
    if not torch.compiler.is_compiling():
        return None
    if isinstance(input, PackedSequence):
        return "a PackedSequence"
    if not AVAILABLE:
        return f"a {network.name} in a torch without custom operators"
    if lengths is None or not isinstance(input, Tensor):
        return None
    if not by_operator(network, input) and not by_loop(network, input):
        return f"lengths for a {network.name} on the step loop"
    return None


@_disable_dynamo
def _between(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def outside(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function as it is, between two graphs: `torch.compile` breaks its graph here.

    Raises:
        RuntimeError: `torch.export` is at work, which wants one graph.
    """
    if not torch.compiler.is_dynamo_compiling():
        raise RuntimeError(
            f"torch.export cannot take {what}: how many steps there are is known from the data alone, and no operator "
            "serves it"
        )
    return _between(function, *arguments)


@lru_cache(maxsize=256)
def _kernel(text: str) -> Kernel:
    name, options = json.loads(text)
    return KERNELS[name](**options)


def _gather(names: str, reverse: bool, lengths: Tensor | None, tensors: list[Tensor]) -> tuple[Tensors, Packing]:
    """Return the operator's padded arguments in the packed layout that kernels take."""
    named = dict(zip(names.split(","), tensors, strict=True))
    source = "projected" if "projected" in named else "x"
    steps, batch = named[source].shape[:2]
    if lengths is None:
        packing = Packing.full(steps, batch)
    else:
        packing = Packing.from_lengths(check_lengths(lengths, batch, steps), steps, named[source].device)
    x_NI = packing.pack(named[source])
    named[source] = (packing.flip(x_NI) if reverse else x_NI).contiguous()
    for name, value in named.items():
        if name in ("h0", "c0"):
            named[name] = packing.sort(value).contiguous()
        elif name.startswith("mask_") and name != "mask_recurrent":
            named[name] = value[: x_NI.size(0)]  # drawn for T * B rows; any N of them are as random
    return named, packing


def _scan(
    kernel: str, names: str, reverse: bool, lengths: Tensor | None, output_size: int, tensors: list[Tensor]
) -> list[Tensor]:
    named, packing = _gather(names, reverse, lengths, tensors)
    states = [named[name] for name in ("h0", "c0") if name in named]
    if not packing.batch_sizes:
        return [_no_outputs(named, packing, output_size), *(packing.unsort(state).clone() for state in states)]
    (out_NH, *finals), _ = operator_kernel(_kernel(kernel), named["h0"]).forward(named, packing, False)
    out_NH = packing.flip(out_NH) if reverse else out_NH
    return [packing.unpack(out_NH).clone(), *(packing.unsort(final).clone() for final in finals)]


def _no_outputs(named: Tensors, packing: Packing, output_size: int) -> Tensor:
    """Return outputs (T, B, output_size) where no sequence has a step."""
    return named["h0"].new_zeros(packing.num_steps, packing.batch_size, output_size)


def _scan_backward(
    kernel: str,
    names: str,
    needed: str,
    reverse: bool,
    lengths: Tensor | None,
    grads: list[Tensor],
    tensors: list[Tensor],
) -> list[Tensor]:
    named, packing = _gather(names, reverse, lengths, tensors)
    wanted = needed.split(",")
    d_TBH, *d_states = grads
    sorted_states = [packing.sort(grad).contiguous() for grad in d_states]
    result: Tensors = dict(zip(("h0", "c0"), sorted_states, strict=False))
    if packing.batch_sizes:
        d_NH = packing.pack(d_TBH)
        form = operator_kernel(_kernel(kernel), named["h0"])
        _, saved = form.forward(named, packing, True)
        d_NH = packing.flip(d_NH) if reverse else d_NH
        result = form.backward(named, saved, packing, [d_NH, *sorted_states], frozenset(wanted))
    gradients = []
    for name, tensor in zip(names.split(","), tensors, strict=True):
        if name not in wanted:
            continue
        value = result.get(name)
        if value is not None and name in ("x", "projected"):
            value = packing.unpack(packing.flip(value) if reverse else value)
        elif value is not None and name in ("h0", "c0"):
            value = packing.unsort(value)
        gradients.append(
            torch.zeros_like(tensor) if value is None else value.clone(memory_format=torch.contiguous_format)
        )
    return gradients


def _held(x: Tensor, dim: int, size: int, what: str) -> Tensor:
    if x.size(dim) != size:
        raise RuntimeError(
            f"this trace of a {what} holds a loop of {size} steps, and the input has {x.size(dim)}; use torch.export, "
            "or trace again"
        )
    return x.clone()


def _register() -> None:
    held = torch.library.custom_op("seqkit::held", _held, mutates_args=())
    held.register_fake(lambda x, dim, size, what: torch.empty_like(x))
    held.register_autograd(lambda ctx, grad: (grad, None, None, None))
    scan = torch.library.custom_op("seqkit::scan", _scan, mutates_args=())
    scan_backward = torch.library.custom_op("seqkit::scan_backward", _scan_backward, mutates_args=())

    @scan.register_fake
    def _(
        kernel: str, names: str, reverse: bool, lengths: Tensor | None, output_size: int, tensors: list[Tensor]
    ) -> list[Tensor]:
        named = dict(zip(names.split(","), tensors, strict=True))
        steps, batch = named["projected" if "projected" in named else "x"].shape[:2]
        states = [torch.empty_like(named[name]) for name in ("h0", "c0") if name in named]
        return [named["h0"].new_empty(steps, batch, output_size), *states]

    @scan_backward.register_fake
    def _(
        kernel: str,
        names: str,
        needed: str,
        reverse: bool,
        lengths: Tensor | None,
        grads: list[Tensor],
        tensors: list[Tensor],
    ) -> list[Tensor]:
        wanted = needed.split(",")
        return [
            torch.empty_like(tensor, memory_format=torch.contiguous_format)
            for name, tensor in zip(names.split(","), tensors, strict=True)
            if name in wanted
        ]

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.kernel, ctx.names, ctx.reverse, lengths, _, tensors = inputs
        ctx.wanted = [tensor.requires_grad for tensor in tensors]
        ctx.has_lengths = lengths is not None
        ctx.save_for_backward(*([lengths] if ctx.has_lengths else []), *tensors)

    def backward(ctx: Any, grads: list[Tensor]) -> Any:
        lengths, tensors = None, list(ctx.saved_tensors)
        if ctx.has_lengths:
            lengths, *tensors = tensors
        needed = [name for name, want in zip(ctx.names.split(","), ctx.wanted, strict=True) if want]
        gradients = iter(
            torch.ops.seqkit.scan_backward(
                ctx.kernel, ctx.names, ",".join(needed), ctx.reverse, lengths, list(grads), tensors
            )
        )
        return None, None, None, None, None, [next(gradients) if want else None for want in ctx.wanted]

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "a compiled recurrent module has no second derivative (create_graph=True); the same module without "
            "torch.compile, or with backend='reference', has one"
        )

    scan.register_autograd(backward, setup_context=setup)
    scan_backward.register_autograd(refuse)


if AVAILABLE:
    _register()


def held(x: Tensor, dim: int, what: str) -> Tensor:
    """Return x itself; in a trace, which unrolls loops over `dim`, with a check that its size is still the same."""
    if not (AVAILABLE and tracing()):
        return x
    if exporting_onnx():
        raise RuntimeError(f"torch.onnx.export(..., dynamo=False) cannot take the loop of a {what}; pass dynamo=True")
    same: Tensor = torch.ops.seqkit.held(x, dim, int(x.size(dim)), what)
    return same


def compiled_direction(
    network: Network, index: int, x_RI: Tensor, packing: Packing, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Run one layer in one direction as one operator: rows (T * B, F), states (B, size) in the caller's order."""
    cell = network.cells[index]
    operator: Operator | None = cell.operator
    assert operator is not None
    shape = (packing.num_steps, packing.batch_size)
    # A list of T sizes would bind the compiled graph to one T.
    batch_sizes = [packing.batch_size, x_RI.size(0) - packing.batch_size]
    prepared = prepare(cell, network.weights(index), x_RI, batch_sizes)
    tensors: Tensors = dict(prepared.weights)
    if operator.left_out is not None:
        tensors = {name: value for name, value in tensors.items() if name not in operator.left_out}
        if lengths is not None:
            # Outside the operator the projection sees the padding, and its gradient 0 times what lies there.
            steps = torch.arange(packing.num_steps, device=x_RI.device).unsqueeze(1)
            valid = (steps < send(lengths, x_RI.device)).view(-1, 1)
            x_RI = torch.where(valid, x_RI, 0.0)
        projected_RP = cell.project(x_RI, prepared)
        tensors["projected"] = projected_RP.view(*shape, projected_RP.size(-1))
    else:
        tensors["x"] = x_RI.view(*shape, x_RI.size(-1))
    tensors.update({f"{name}0": part for name, part in zip(cell.state_names, state, strict=True)})
    for masks in (prepared.sequence_masks, prepared.step_masks):
        tensors.update({f"mask_{name}": mask for name, mask in masks.items()})
    reverse = index % network.num_directions == 1
    output, *final = torch.ops.seqkit.scan(
        operator.text, ",".join(tensors), reverse, lengths, cell.output_size, list(tensors.values())
    )
    return output.flatten(0, 1), tuple(final)
