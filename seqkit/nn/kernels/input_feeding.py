"""Input feeding with a hand-derived backward: a stack of cells, attention and attentional vector, step after step.

`feed_scan` computes what `step_loop` defines. The part of a step that depends on the
embedded token alone is one product before the loop; each cell is one product a step, [input, h] times both its weights;
the gradients of all weights are products over all steps after the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqkit.nn.checks import autocast_dtype, batched
from seqkit.nn.kernels.attention_step import Reader
from seqkit.nn.kernels.gemm import outer, product, step_product
from seqkit.nn.kernels.kernel import SLOPES, Tensors, split, tanh_
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.pointwise import CellSteps
from seqkit.nn.kernels.stack import FedSteps, Stack

CellFactory = Callable[[int, Packing], CellSteps]


@dataclass
class Plan:
    """What a call is besides tensors; it outlives the call, and so holds none.

    Tensors come by name: "rows" (N, E); for layer l "weight_ih.l", "weight_hh.l", maybe "bias_ih.l" and "bias_hh.l",
    "state0.l", "state1.l", ... (b_0, H), "mask_recurrent.l" (b_0, H), and for l > 0 "mask_input.l" (N, H); those
    of the `Reader`; "combine_weight" (F, H + C) or (F, H + C + E), maybe "combine_bias".

    Attributes:
        stack, packing: see `FedSteps`.
        cells: makes the steps of each layer's cell.
        states: tensors in a cell's state.
        names: of the tensors, in order.
        low: products of the weights may round their operands to bfloat16; see `product`.
    """

    stack: Stack
    packing: Packing
    cells: Sequence[CellFactory]
    reader: type[Reader]
    states: int
    names: tuple[str, ...]
    low: bool = False
    saved_names: tuple[str, ...] = field(default=())

    def named(self, tensors: Sequence[Tensor]) -> Tensors:
        """Return the tensors by name."""
        return dict(zip(self.names, tensors, strict=True))


class _Layer:
    """One cell of the stack: its weights, what enters its products, and its steps."""

    def __init__(self, plan: Plan, tensors: Tensors, number: int) -> None:
        self.plan, self.tensors, self.number = plan, tensors, number
        by_input, by_state = tensors[f"weight_ih.{number}"], tensors[f"weight_hh.{number}"]
        self.H = by_state.size(1)
        self.steps = plan.cells[number](self.H, plan.packing)
        # The first layer's columns for the embedded token belong to the product before the loop.
        self.before = tensors["rows"].size(1) if number == 0 else 0
        self.outside = self.steps.by_input(by_input[:, : self.before]) if self.before else None
        inside = self.steps.by_input(by_input[:, self.before :])
        self.inputs = inside.size(1)
        self.weight = torch.cat([inside, self.steps.by_state(by_state)], 1)
        self.mask = tensors.get(f"mask_recurrent.{number}")
        self.has_bias = f"bias_ih.{number}" in tensors

    def start(self) -> None:
        """Before the forward loop."""
        plan, tensors, number, steps = self.plan, self.tensors, self.number, self.steps
        rows, bias = tensors["rows"], None
        if self.has_bias:
            bias = steps.by_input(tensors[f"bias_ih.{number}"]) + steps.by_state(tensors[f"bias_hh.{number}"])
            bias = steps.scaled(bias)
        if self.outside is not None:
            sums = product(rows, steps.scaled(self.outside), bias, low=plan.low)
        else:
            sums = rows.new_zeros(rows.size(0), self.weight.size(0))
            sums = sums if bias is None else sums.add_(bias)
        self.state: tuple[Tensor, ...] = tuple(tensors[f"state{k}.{number}"] for k in range(plan.states))
        steps.start(sums, self.state)
        sizes = plan.packing.batch_sizes
        self.forth = step_product(steps.scaled(self.weight), sizes[0], len(sizes), low=plan.low)
        self.joined = rows.new_empty(rows.size(0), self.inputs + self.H)
        self.pieces = split(self.joined, plan.packing)

    def forward(self, t: int, parts: Sequence[Tensor]) -> Tensor:
        """Return the output (b, H) for what enters beside the embedded token."""
        rows = self.pieces[t]
        size = rows.size(0)
        if size != self.state[0].size(0):
            self.state = tuple(part[:size] for part in self.state)
        h = self.state[0]
        torch.cat([*parts, h if self.mask is None else h * self.mask[:size]], 1, out=rows)
        sums = self.steps.rows[t]
        self.state = self.steps.forward(t, self.forth.plus_rows(rows, sums, out=sums), self.state)
        return self.state[0]

    def saved(self) -> Tensors:
        return {f"{name}.{self.number}": value for name, value in {**self.steps.saved(), "joined": self.joined}.items()}

    def rewind(self, saved: Tensors) -> None:
        """Before the backward loop."""
        end, number = f".{self.number}", self.number
        mine = {name.removesuffix(end): value for name, value in saved.items() if name.endswith(end)}
        self.joined = mine.pop("joined")
        self.steps.rewind(mine)
        sizes = self.plan.packing.batch_sizes
        self.back = step_product(self.weight.t(), sizes[0], len(sizes), low=self.plan.low)
        self.grads = [torch.zeros_like(self.tensors[f"state{k}.{number}"]) for k in range(self.plan.states)]

    def backward(self, t: int, d_output: Tensor) -> Tensor:
        """From the gradient of the output (b, H) to the gradient of what entered beside the embedded token."""
        size = d_output.size(0)
        grads = [grad[:size] for grad in self.grads]
        grads[0].add_(d_output)
        entered = self.back.times(self.steps.backward(t, grads))
        d_h = entered[:, self.inputs :]
        grads[0].add_(d_h) if self.mask is None else grads[0].addcmul_(d_h, self.mask[:size])
        return entered[:, : self.inputs]

    def gradients(self) -> Tensors:
        """After the backward loop."""
        steps, number, delta, cut = self.steps, self.number, self.steps.delta, self.before + self.inputs
        left = [self.tensors["rows"]] if self.before else []
        both = outer(delta, *left, self.joined, low=self.plan.low)
        grads = {
            f"weight_ih.{number}": steps.from_input(both[:, :cut]),
            f"weight_hh.{number}": steps.from_state(both[:, cut:]),
            **{f"state{k}.{number}": grad for k, grad in enumerate(self.grads)},
        }
        if self.has_bias:
            total = delta.sum(0)
            grads[f"bias_ih.{number}"] = steps.from_input(total)
            grads[f"bias_hh.{number}"] = steps.from_state(total)
        if self.outside is not None:
            grads["rows"] = product(delta, self.outside.t(), low=self.plan.low)
        return grads


class _Loop:
    """One call: the forward loop, or the backward loop on what that has saved."""

    def __init__(self, plan: Plan, tensors: Tensors) -> None:
        self.plan, self.tensors, self.packing = plan, tensors, plan.packing
        self.layers = [_Layer(plan, tensors, number) for number in range(len(plan.cells))]
        self.reader = plan.reader(tensors, plan.packing, low=plan.low)
        self.masks = [
            split(tensors[name], plan.packing) if (name := f"mask_input.{number}") in tensors else None
            for number in range(len(plan.cells))
        ]
        self.H = self.layers[-1].H
        # A deep output layer has columns for the embedded token, last.
        weight, cut = tensors["combine_weight"], self.H + self.reader.context_size
        self.inside, self.outside = weight[:, :cut], weight[:, cut:]

    def forward(self) -> tuple[Tensor, Tensor, Tensors]:
        """Return vectors (N, F), weights (N, S) and the buffers for the backward loop."""
        plan, reader = self.plan, self.reader
        rows, sizes = self.tensors["rows"], plan.packing.batch_sizes
        for layer in self.layers:
            layer.start()
        reader.start()
        vectors = self._outside()
        forth = step_product(self.inside, sizes[0], len(sizes), low=plan.low)
        both = rows.new_empty(rows.size(0), self.inside.size(1))
        # The query's layer is the last one, as a rule, and then its output is in `both` already.
        queries = both[:, : self.H] if self._reads_last else rows.new_empty(rows.size(0), self.H)
        fed = rows.new_zeros(sizes[0], vectors.size(1))
        steps = zip(*(split(part, plan.packing) for part in (vectors, both, queries)), strict=True)
        for t, (vector, together, query) in enumerate(steps):
            torch.cat(self._through(t, fed[: sizes[t]], query), 1, out=together)
            fed = tanh_(forth.plus_rows(together, vector, out=vector), vector)
        saved = {"vectors": vectors, "both": both, "queries": queries, **reader.saved()}
        for layer in self.layers:
            saved |= layer.saved()
        return vectors, reader.mean_weights(), saved

    def _through(self, t: int, x: Tensor, query: Tensor) -> tuple[Tensor, ...]:
        """Run all layers of step t on what was fed (b, F): the top output and the context; notes the query."""

        def layer(number: int, parts: list[Tensor]) -> Tensor:
            mask = self.masks[number]
            if mask is not None:
                parts[0] = parts[0] * mask[t]
            return self.layers[number].forward(t, parts)

        def read(x: Tensor) -> tuple[Tensor, None]:
            if not self._reads_last:
                query.copy_(x)
            return self.reader.forward(t, x), None

        return self.plan.stack.through(x, None, layer, read)[:2]  # type: ignore[return-value]

    @property
    def _reads_last(self) -> bool:
        return self.plan.stack.attention_layer == len(self.layers)

    def _outside(self) -> Tensor:
        """Return the part of the sums of all attentional vectors that is known before the loop: (N, F)."""
        rows, bias = self.tensors["rows"], self.tensors.get("combine_bias")
        if self.outside.size(1):
            return product(rows, self.outside, bias, low=self.plan.low)
        sums = rows.new_zeros(rows.size(0), self.outside.size(0))
        return sums if bias is None else sums.add_(bias)

    def backward(self, saved: Tensors, d_vectors: Tensor | None, d_weights: Tensor | None) -> Tensors:
        """From the gradients of the vectors (N, F) and of the weights (N, S) to all gradients by name."""
        packing, vectors = self.packing, saved["vectors"]
        for layer in self.layers:
            layer.rewind(saved)
        self.reader.rewind(saved)
        delta = torch.empty_like(vectors)
        SLOPES["tanh"](vectors.new_ones(1, 1).expand_as(vectors), vectors, delta)
        back = step_product(self.inside.t(), packing.first_rows, len(packing.batch_sizes), low=self.plan.low)
        # The gradient that the next step has for the vector it was fed; zero at the last step.
        fed = vectors.new_zeros(packing.batch_sizes[0], vectors.size(1))
        from_vectors, from_weights = (
            None if part is None else split(part.contiguous(), packing) for part in (d_vectors, d_weights)
        )
        pieces = split(delta, packing)
        for t in range(len(pieces) - 1, -1, -1):
            piece, here = pieces[t], fed[: pieces[t].size(0)]
            piece.mul_(here if from_vectors is None else here.add_(from_vectors[t]))
            self._step_back(t, back.times(piece), None if from_weights is None else from_weights[t], here)
        return self._gradients(saved, delta)

    def _step_back(self, t: int, d_both: Tensor, d_weights: Tensor | None, d_fed: Tensor) -> None:
        """Through the layers and the attention of step t; writes the gradient of what was fed to it."""
        plan, H = self.plan, self.H
        dx, d_context = d_both[:, :H], d_both[:, H:]
        for number in range(len(self.layers) - 1, -1, -1):
            if number + 1 == plan.stack.attention_layer:
                dx = dx + self.reader.backward(t, d_context, d_weights)
            entered = self.layers[number].backward(t, dx)
            if number == 0:
                d_fed.copy_(entered)
                return
            if number >= plan.stack.attention_layer:
                d_context = d_context + entered[:, H:]
            mask, below = self.masks[number], entered[:, :H]
            below = below if mask is None else below * mask[t]
            dx = below + dx if plan.stack.residual else below

    def _gradients(self, saved: Tensors, delta: Tensor) -> Tensors:
        """All that is summed over the steps; delta (N, F) is the gradient of the sums of the attentional vectors."""
        rows, deep = self.tensors["rows"], self.outside.size(1) > 0
        grads = self.reader.gradients(saved["queries"])
        grads["combine_weight"] = outer(delta, saved["both"], *([rows] if deep else []), low=self.plan.low)
        grads["combine_bias"] = delta.sum(0)
        for layer in self.layers:
            grads |= layer.gradients()
        if deep:
            grads["rows"] = grads["rows"].add_(product(delta, self.outside.t(), low=self.plan.low))
        return grads


class FeedScan(torch.autograd.Function):
    """(plan, *tensors) -> (vectors (N, F), weights (N, S)); see `feed_scan`. No second derivative."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        vectors, weights, saved = _Loop(plan, plan.named(tensors)).forward()
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        if any(ctx.needs_input_grad):
            plan.saved_names = tuple(saved)
            ctx.save_for_backward(*tensors, *saved.values())
        return vectors, weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # `once_differentiable` would drop the second derivative's share without a word in many cases.
            raise RuntimeError(
                "input feeding with a hand-derived backward has no second derivative (create_graph=True); "
                "a decoder with backend='reference' has one"
            )
        if batched(*grads):
            raise RuntimeError(
                "input feeding with a hand-derived backward takes one gradient at a time (vectorize=True and "
                "is_grads_batched=True give many); a decoder with backend='reference' takes many"
            )
        plan: Plan = ctx.plan
        everything = ctx.saved_tensors
        tensors, wanted = everything[: len(plan.names)], ctx.needs_input_grad[1:]
        if all(grad is None for grad in grads):
            return None, *(None for _ in wanted)
        saved = dict(zip(plan.saved_names, everything[len(plan.names) :], strict=True))
        # A backward pass inside autocast would round what is float32 here.
        with torch.autocast("cpu", enabled=False) if plan.low else nullcontext():
            by_name = _Loop(plan, plan.named(tensors)).backward(saved, *grads)
        return None, *(by_name[name] if want else None for name, want in zip(plan.names, wanted, strict=True))


def feed_scan(
    call: FedSteps,
    cells: Sequence[CellFactory],
    reader: type[Reader],
    reader_weights: Tensors,
    combine_weight: Tensor,
    combine_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run the loop. Where it `rounds`, the features are bfloat16, and all the rest but products is float32.

    Args:
        cells: makes the steps of each layer's cell.
        reader, reader_weights: the attention's.
        combine_weight, combine_bias: (F, H + C) or, with the input, (F, H + C + E); (F,).

    Returns:
        features (N, F), and the attention's weights (N, S), the mean over heads.
    """
    tensors: Tensors = dict(zip(("keys", "values", "padding"), call.memory, strict=True))
    tensors |= {"rows": call.rows, "combine_weight": combine_weight, **reader_weights}
    if combine_bias is not None:
        tensors["combine_bias"] = combine_bias
    for number, (state, ready, mask) in enumerate(zip(call.states, call.prepared, call.masks, strict=True)):
        here = {**ready.weights, **{f"mask_{name}": value for name, value in ready.sequence_masks.items()}}
        here |= {f"state{place}": part for place, part in enumerate(state)}
        if mask is not None:
            here["mask_input"] = mask
        tensors |= {f"{name}.{number}": value for name, value in here.items()}
    low = rounds(call.rows)
    plan = Plan(call.stack, call.packing, cells, reader, len(call.states[0]), tuple(tensors), low)
    if not low:
        return FeedScan.apply(plan, *(tensor.contiguous() for tensor in tensors.values()))  # type: ignore[no-any-return, no-untyped-call]
    wide = [tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors.values()]
    with torch.autocast("cpu", enabled=False):
        features, weights = FeedScan.apply(plan, *(tensor.contiguous() for tensor in wide))  # type: ignore[no-untyped-call]
    return features.bfloat16(), weights


def rounds(rows: Tensor) -> bool:
    """Return whether the products of a call on these rows are to be in bfloat16: autocast says so, on the CPU."""
    return rows.is_cpu and autocast_dtype(rows) == torch.bfloat16
