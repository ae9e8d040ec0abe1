"""Loops of any number of steps inside an exported program: torch's `scan`, which ONNX has as `Scan`.

`torch.export` writes a Python loop step by step and fixes their number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import exporting, exporting_onnx
from seqkit.nn.kernels.crf import Chain, closing, differentiable_chain, finite, time_first
from seqkit.nn.kernels.packing import Packing, length_vector, steps_within
from seqkit.nn.kernels.stack import Stack, fed_step
from seqkit.nn.network import Network, prepare

MIN_TORCH = (2, 13)
"""The first torch whose exporter is known to take what is written here."""
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


def loops_exported() -> bool:
    """Return whether an exporter looks at this call that takes loops."""
    return exporting() and TORCH >= MIN_TORCH


def prepare_direction(network: Network, index: int, rows: Tensor, packing: Packing) -> tuple[Cell, Prepared]:
    """Return the cell of a layer-direction and its weights.

    Raises:
        RuntimeError: dropout masks are drawn, which an exported loop has no place for.
    """
    cell = network.cells[index]
    prepared = prepare(cell, network.weights(index), rows, [packing.batch_size, rows.size(0) - packing.batch_size])
    drop = getattr(cell, "weight_drop", 0.0) if cell.training else 0.0
    if drop or prepared.sequence_masks or prepared.step_masks:
        raise RuntimeError(draws(network.name))
    return cell, prepared


def draws(name: str) -> str:
    """Say that a module draws masks."""
    return (
        f"this {name} draws dropout masks in training mode, which an exported graph has no place for; call eval() first"
    )


def loop_direction(
    network: Network, index: int, rows: Tensor, packing: Packing, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """One layer in one direction as one loop: rows (T * B, F), states (B, size) in the caller's order.

    States pass through the padding, so that the reverse direction may begin there.
    """
    cell, prepared = prepare_direction(network, index, rows, packing)
    shape = (packing.num_steps, packing.batch_size)
    projected = cell.project(rows, prepared)
    inputs = [projected.view(*shape, projected.size(-1))]
    if lengths is not None:
        inputs.append(steps_within(lengths, inputs[0]))
    reverse = index % network.num_directions == 1
    if reverse:
        inputs = [value.flip(0) for value in inputs]

    def step(before: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        after, _ = cell.step(now[0], tuple(before), prepared)
        return _kept(after, before, after[:1], now[1:])

    final, (output,) = _scan(step, state, inputs)
    output = output.flip(0) if reverse else output
    return output.reshape(-1, output.size(-1)), tuple(final)


def _kept(
    after: Sequence[Tensor], before: Sequence[Tensor], outputs: Sequence[Tensor], valid: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """States (..., B, size) that stay on padding, and outputs that are zero there; `valid` is [] or [(B, 1)]."""
    if not valid:
        return [part.clone() for part in after], [part.clone() for part in outputs]
    states = [torch.where(valid[0], new, old) for new, old in zip(after, before, strict=True)]
    return states, [torch.where(valid[0], output, 0.0) for output in outputs]


def _scan(
    step: Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]],
    first: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """`step(states, inputs of a step) -> (states, outputs)` over time.

    None of the tensors that a step takes and returns may share memory with another.
    """
    from torch._higher_order_ops import scan  # imports the compiler

    first, inputs = [part.clone() for part in first], list(inputs)
    inner = None if torch.compiler.is_dynamo_compiling() else _inner_scan()
    if inner is None:
        final, outputs = scan(step, first, inputs)
        return list(final), list(outputs)
    # `scan` by itself has dynamo read the step, to find the tensors that are not among its arguments: 0.5 s a loop.
    scan_op, untraced = inner
    closed = _closure(step, first, inputs, untraced)
    operands = [*first, *inputs, *closed]
    if exporting_onnx():  # whose passes would write the loop's derivative too, and drop it
        _warn_of_one_row(inputs[0].size(1))
        operands = [value.detach() for value in operands]
    ends = len(first), len(first) + len(inputs)

    def flat(*parts: Tensor) -> list[Tensor]:
        with _Swapped(closed, parts[ends[1] :]):
            after, outputs = step(list(parts[: ends[0]]), list(parts[ends[0] : ends[1]]))
        return [*after, *outputs]

    results = list(scan_op(flat, operands[: ends[0]], operands[ends[0] : ends[1]], tuple(operands[ends[1] :])))
    return results[: ends[0]], results[ends[0] :]


def _warn_of_one_row(rows: Any) -> None:
    """Warn if the number of rows is open, and the example has one: torch may take it for a size that never changes."""
    if isinstance(rows, torch.SymInt) and getattr(rows.node, "hint", None) == 1:
        warnings.warn(
            "the example of this export has a batch of one, which may fix the batch size; give two sequences or more",
            stacklevel=2,
        )


def _inner_scan() -> tuple[Callable[..., Any], Callable[[], Any]] | None:
    """Return torch's operator behind `scan`, and what keeps calls out of an export; None: this torch lacks them."""
    try:
        from torch._higher_order_ops.scan import scan_op
        from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
    except ImportError:  # names of its own, which a later torch may move
        return None
    return scan_op, disable_proxy_modes_tracing


def _closure(
    step: Callable[..., Any], first: list[Tensor], inputs: list[Tensor], untraced: Callable[[], Any]
) -> list[Tensor]:
    """Return the tensors that a step reads besides its arguments, in the order of their first use."""
    with untraced():
        now = [part[0] for part in inputs]
        with _Reads([*first, *now]) as reads:
            step(first, now)
    return list(reads.closed.values())


class _Reads(TorchFunctionMode):
    """Note in `closed`, by their ids, the tensors that no operation made and that are not among the arguments."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.made, self.closed = {id(value): value for value in arguments}, dict[int, Tensor]()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and id(value) not in self.made:
                self.closed[id(value)] = value
        result = function(*args, **(kwargs or {}))
        self.made.update((id(value), value) for value in tree_leaves(result) if isinstance(value, Tensor))
        return result


class _Swapped(TorchFunctionMode):
    """Put `others` into every operation in the place of `tensors`."""

    def __init__(self, tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        super().__init__()
        self.others = {id(one): other for one, other in zip(tensors, others, strict=True)}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Tensor, lambda value: self.others.get(id(value), value), (args, kwargs or {}))
        return function(*args, **kwargs)


def _forward_loop(chain: Chain, join: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
    """Score the ways that lead to each tag, those of one step after another joined by `join(scores, dim)`.

    Returns:
        the last scores (B, K), and for each step the scores before it (T, B, K), of which the first mean nothing.
    """
    begins = torch.arange(chain.valid.size(0), device=chain.valid.device).view(-1, 1, 1) == 0

    def forward(before: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (earlier,), (emission, valid, first) = before, now
        moved = join(earlier.unsqueeze(2) + chain.transitions, 1) + emission
        score = torch.where(first, chain.start + emission, torch.where(valid, moved, earlier))
        return [score], [earlier.clone()]

    zero = torch.zeros_like(chain.emissions[0])
    (last,), (before,) = _scan(forward, [zero], [chain.emissions, chain.valid, begins.expand_as(chain.valid)])
    return last, before


def best_path_loop(
    emissions: Tensor, lengths: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """`seqkit.nn.kernels.crf.best_path` with two loops: forward over the scores, and back along the best path."""
    chain = time_first(emissions, lengths, transitions, start, end)
    score, before = _forward_loop(chain, torch.amax)
    best, last = (score + chain.end).max(1)
    into, flags = chain.transitions.T.contiguous(), chain.valid.squeeze(2)

    def back(before: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (tag,), (earlier, valid) = before, now  # what the first step leads back to is never looked at
        return [torch.where(valid, (earlier + into[tag]).argmax(1), tag)], [tag.clone()]

    _, (path,) = _scan(back, [last], [before.flip(0), flags.flip(0)])
    return torch.where(flags, path.flip(0), 0).T.contiguous(), torch.where(flags[0], best, 0.0)


def log_partition_loop(emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor) -> Tensor:
    """`seqkit.nn.kernels.crf.differentiable_log_partition` in one loop."""
    chain = differentiable_chain(emissions, lengths, *finite(transitions, start, end))
    last, _ = _forward_loop(chain, torch.logsumexp)
    return closing(last, chain.end, chain.valid[0].squeeze(1))


def marginals_loop(emissions: Tensor, lengths: Tensor, transitions: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Compute the probability (T, B, K) of each tag at each step in two loops, 0 on padding."""
    chain = time_first(emissions, lengths, *finite(transitions, start, end))
    last, before = _forward_loop(chain, torch.logsumexp)

    def back(states: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (alpha, beta), (earlier, emission, valid) = states, now
        behind = torch.logsumexp(chain.transitions + (emission + beta).unsqueeze(1), 2)
        return [earlier.clone(), torch.where(valid, behind, beta)], [alpha + beta]

    inputs = [part.flip(0) for part in (before, chain.emissions, chain.valid)]
    _, (through,) = _scan(back, [last, chain.end.expand_as(last)], inputs)
    total = closing(last, chain.end, chain.valid[0].squeeze(1))
    # No legal path: not a number, as the other roads have it.
    total = torch.where(total > -torch.inf, total, torch.nan).unsqueeze(1)
    return torch.where(chain.valid, (through.flip(0) - total).exp(), 0.0)


def fed_loop(
    stack: Stack,
    input: Tensor,
    lengths: Tensor | Sequence[int] | None,
    state: State,
    memory: tuple[Tensor, ...],
    prepared: Sequence[Prepared],
    cells: Sequence[Cell],
    read: Callable[..., tuple[Tensor, Tensor]],
    combine: Callable[[Tensor, Tensor | None, Tensor], Tensor],
    feed_size: int,
) -> tuple[Tensor, Tensor]:
    """`seqkit.nn.kernels.stack.step_loop` in one loop, without dropout.

    Args:
        input: (B, T, E).
        lengths: (B,); None: all are T.
        state: the first state, each (L, B, size).
        stack, memory, prepared, cells, read, combine, feed_size: see `FedSteps` and `step_loop`.

    Returns:
        features (B, T, F) and weights (B, T, S), zero past a length.
    """
    inputs = [input.transpose(0, 1)]
    if lengths is not None:
        inputs.append(steps_within(length_vector(lengths), inputs[0]))
    masks = [None] * len(cells)

    def step(before: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        fed, *parts = before
        layers = list(zip(*(part.unbind(0) for part in parts), strict=True))
        features, weights, layers = fed_step(stack, cells, prepared, masks, read, combine, now[0], fed, layers, memory)
        after = [features, *(torch.stack(each) for each in zip(*layers, strict=True))]
        return _kept(after, before, [features, weights], now[1:])

    first = [input.new_zeros(input.size(0), feed_size), *state]
    _, (features, weights) = _scan(step, first, inputs)
    return features.transpose(0, 1), weights.transpose(0, 1)
