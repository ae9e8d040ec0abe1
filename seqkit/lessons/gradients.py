"""Gradients: the same weight at every step, to the power of a thousand; the loss cliff, and clipping."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from seqkit.drawing import Line, number
from seqkit.lessons.base import Block, Chart, Heading, Table, Text
from seqkit.lessons.cliff import cliff_blocks
from seqkit.lessons.weights import set_weights
from seqkit.nn import LSTM, RNN, Recurrent

WEIGHTS = (1.0, 1.01, 0.99, 0.01)
FORGET_BIASES = (0.0, 2.0, 5.0, 10.0)
STEPS = 1000
UNITS = 8
_DOUBLE = torch.float64


class Power(NamedTuple):
    """What is left of an input of 1 after many steps with one recurrent weight.

    Attributes:
        weight: w.
        output: of the last step.
        slope: the derivative of the output with respect to w.
        jacobian: the derivative of the last hidden state with respect to the state before the first step.
    """

    weight: float
    output: float
    slope: float
    jacobian: float


def one_unit(weight: float) -> RNN:
    """Make a linear RNN of one unit: h' = w h + x."""
    rnn = RNN(1, 1, nonlinearity="identity", bias=False, dtype=_DOUBLE)
    set_weights(rnn, weight_ih_l0=1, weight_hh_l0=weight)
    return rnn


def power(weight: float, steps: int = STEPS) -> Power:
    """Run a linear RNN of one unit on the sequence 1, 0, 0, ..., and differentiate its last output."""
    rnn = one_unit(weight)
    x = torch.zeros(steps, 1, dtype=_DOUBLE)
    x[0] = 1.0
    start = torch.zeros(1, 1, dtype=_DOUBLE, requires_grad=True)
    output, _ = rnn(x, start)
    jacobian, slope = torch.autograd.grad(output[-1, 0], (start, rnn.get_parameter("weight_hh_l0")))
    return Power(weight, output[-1, 0].item(), slope.item(), jacobian.item())


def many_units(weight: float, nonlinearity: str) -> RNN:
    """Make an RNN whose recurrent matrix is `weight` times a random orthogonal one: a rotation, scaled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rnn = RNN(UNITS, UNITS, nonlinearity=nonlinearity, init="orthogonal", dtype=_DOUBLE)  # type: ignore[arg-type]
    set_weights(rnn, weight_hh_l0=weight * rnn.get_parameter("weight_hh_l0"))
    return rnn


def inputs(size: int, steps: int = STEPS) -> Tensor:
    """Draw a random sequence, the same one at each call: (T, size), with standard deviation 0.1."""
    return 0.1 * torch.randn(steps, size, dtype=_DOUBLE, generator=torch.Generator().manual_seed(1))


def end_to_end(module: Recurrent, x: Tensor, part: int = 0) -> Tensor:
    """Differentiate a final state with respect to the initial one, through all steps at once.

    Args:
        module: of one layer.
        x: its input, (T, input_size).
        part: which state: 0 is h, of an LSTM 1 is the memory c.

    Returns:
        (H, H): row i holds the derivatives of unit i.
    """
    start = [torch.zeros(1, size, dtype=x.dtype, requires_grad=True) for size in module.state_sizes]
    _, state = Recurrent.forward(module, x, tuple(start))
    return _rows(state[part][0], start[part])[:, 0]


def step_by_step(module: Recurrent, x: Tensor, part: int = 0) -> Tensor:
    """Differentiate each step's state with respect to the state before it.

    Returns:
        (T, H, H): their product, the last on the left, is what `end_to_end` returns where no other state carries
        anything on.
    """
    record = module.trace(x).records[0]
    states = [record[name].detach() for name in module.cell_at(0).state_names]
    before = [torch.cat([torch.zeros_like(state[:1]), state[:-1]])[None].requires_grad_() for state in states]
    # All steps side by side: a batch of T sequences that are one step long.
    _, after = Recurrent.forward(module, x[None], tuple(before))
    return _rows(after[part][0].T, before[part])[:, 0].transpose(0, 1)


def _rows(values: Tensor, wanted: Tensor) -> Tensor:
    """Return the gradients of several values, or of the sums of their rows, stacked."""
    sums = values.reshape(len(values), -1).sum(1)
    return torch.stack([torch.autograd.grad(value, wanted, retain_graph=True)[0] for value in sums])


def norms(steps: Tensor) -> list[float]:
    """Multiply step Jacobians (T, H, H) up, and return the largest singular value of the product after each step."""
    product, products = torch.eye(steps.size(-1), dtype=steps.dtype), []
    for step in steps:
        product = step @ product
        products.append(product)
    return [float(value) for value in torch.linalg.matrix_norm(torch.stack(products), 2)]


def carousel(forget_bias: float) -> LSTM:
    """Make an LSTM of one cell whose gates are the same at each step: the forget gate is sigmoid(`forget_bias`)."""
    lstm = LSTM(1, 1, forget_bias=forget_bias, dtype=_DOUBLE)
    set_weights(lstm, weight_ih_l0=0, weight_hh_l0=0)
    return lstm


def blocks() -> list[Block]:
    """Compute the lesson."""
    return [
        *_one_weight(),
        *_real_network(),
        *_carousel(),
        *cliff_blocks(),
        Heading("What to remember"),
        Text(
            "Through time, a gradient is a product with as many factors as there are steps. Factors below 1 make it "
            "vanish: the network cannot learn from what is far back; an LSTM with an open forget gate can. Factors "
            "above 1 make it explode: one update destroys the weights; clipping (`training.clip_norm`, on by default) "
            "makes the update small and keeps its direction."
        ),
    ]


def _one_weight() -> list[Block]:
    powers = [power(weight) for weight in WEIGHTS]
    rows = [(number(one.weight), number(one.output), number(one.slope), number(one.jacobian)) for one in powers]
    biggest = max(powers, key=lambda one: one.output)
    return [
        Text(
            "Training changes each weight by its gradient, which says how much the loss changes when the weight does. "
            "A recurrent network uses the same weights at every step, so a weight acts many times on the way from an "
            "early input to a late output."
        ),
        Text(
            "Take the smallest recurrent network: one unit, one recurrent weight w, no bias, no activation function: "
            f"h' = w h + x. It reads a 1 and then {STEPS - 1} zeros. At each step the "
            f"memory is multiplied by w, so the last output is w to the power of {STEPS - 1}."
        ),
        Table(
            ("w", f"output {STEPS:,}", "its slope in w", f"dh{STEPS} / dh0"),
            rows,
            f"The last output, its derivative with respect to w, and the derivative of the last hidden state with "
            f"respect to the state before the first step, by backpropagation through {STEPS:,} steps. 0: too small "
            "for a number of double precision.",
        ),
        Text(
            f"A change of w by 0.01, from 1 to 1.01, turns an output of 1 into {number(biggest.output)}: the gradient "
            "explodes. With 0.99 next to nothing is left, with 0.01 nothing at all: the gradient vanishes, and nothing "
            "tells the network which way to change w. No learning rate fits both."
        ),
    ]


def _real_network() -> list[Block]:
    curves, rows = [], []
    for weight in (1.0, 1.01, 0.99):
        for bend, kind in (("identity", "linear"), ("tanh", "tanh")):
            rnn, x = many_units(weight, bend), inputs(UNITS)
            sizes = norms(step_by_step(rnn, x))
            whole = float(torch.linalg.matrix_norm(end_to_end(rnn, x), 2))
            rows.append((f"{kind}, w = {number(weight)}", number(sizes[99]), number(sizes[-1]), number(whole)))
            if bend == "identity" or weight == 1.01:
                curves.append(Line(f"{kind}, w = {number(weight)}", range(1, STEPS + 1), sizes))
    return [
        Heading("The same in a real network"),
        Text(
            f"Now {UNITS} hidden units and random inputs. The derivative of one hidden state with respect to the one "
            "before is a matrix, the Jacobian; over many steps, the Jacobians are multiplied. The recurrent matrix "
            "here is w times a rotation, so that w says by how much each step stretches. The number w to the power of "
            f"{STEPS:,} comes back. With tanh, whose slope is below 1 wherever its input is not 0, the product "
            "shrinks even where w is 1 or a little more."
        ),
        Table(
            ("network", "100 steps", f"{STEPS:,} steps", "at once"),
            rows,
            "By how much the Jacobian stretches at most (its largest singular value): the product of the Jacobians of "
            f"all steps, and beside it, as a check, one backpropagation through {STEPS:,} steps at once.",
        ),
        Chart(
            curves,
            "steps",
            "stretch of the Jacobian",
            "The product of the Jacobians over time, on a logarithmic axis: a straight line is a factor at each step.",
            log=True,
            y_range=(1e-9, 1e6),
        ),
    ]


def _carousel() -> list[Block]:
    rows, curves = [], []
    x = torch.zeros(STEPS, 1, dtype=_DOUBLE)
    for bias in FORGET_BIASES:
        lstm = carousel(bias)
        gates = lstm.trace(x).records[0]["forget"][:, 0].detach()
        products = torch.cumprod(gates, 0).tolist()
        whole = end_to_end(lstm, x, part=1).item()
        rows.append((number(bias), f"{gates[0].item():.5f}", number(products[99]), number(products[-1]), number(whole)))
        curves.append(Line(f"bias {number(bias)}", range(1, STEPS + 1), products))
    return [
        Heading("The LSTM's way out: the error carousel"),
        Text(
            "The memory of an LSTM passes through no matrix and no activation function: memory = forget gate * memory "
            "before + what is written. Its derivative with respect to the memory before is the forget gate alone. A "
            "gate that stays open hands the gradient on almost unchanged, which its inventors called the constant "
            "error carousel; and where the input says so, the gate can shut."
        ),
        Table(
            ("forget bias", "forget gate", "100 steps", f"{STEPS:,} steps", "at once"),
            rows,
            f"The product of the forget gates of an LSTM cell, and beside it the derivative of memory {STEPS:,} with "
            "respect to memory 0, by backpropagation: the two are equal.",
        ),
        Chart(
            curves,
            "steps",
            "derivative of the memory",
            "How much of the gradient is left, by the bias of the forget gate, on a logarithmic axis.",
            log=True,
            y_range=(1e-9, 10),
        ),
        Text(
            "So the forget gate's bias should not start too low: `forget_bias` sets it, in "
            "`seqkit.nn.LSTM` and in the encoder of a configuration."
        ),
    ]
