"""Memory: the hidden layer of the step before is an input of this step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from seqkit.drawing import Step, number
from seqkit.lessons.base import Block, Heading, Numbered, Table, Text, Unrolled
from seqkit.lessons.weights import set_weights
from seqkit.nn import RNN, Linear

INPUTS = ((1.0, 1.0), (1.0, 1.0), (2.0, 2.0))

Vector = tuple[float, ...]


class Moment(NamedTuple):
    """One step of the network: what it saw, what it remembered, and what it made of both."""

    input: Vector
    memory: Vector
    hidden: Vector
    output: Vector


def run(inputs: Sequence[Vector], *, remembers: bool = True) -> list[Moment]:
    """Run the network whose weights are all 1, without bias and nonlinearity, from the memory (0, 0).

    Args:
        inputs: two numbers for each step.
        remembers: False: the weights from the memory are 0.
    """
    rnn, output = RNN(2, 2, nonlinearity="identity", bias=False), Linear(2, 2, bias=False)
    set_weights(rnn, weight_ih_l0=1, weight_hh_l0=1 if remembers else 0)
    set_weights(output, weight=1)
    with torch.no_grad():
        hidden = rnn.trace(torch.tensor(inputs)).records[0]["h"]  # (T, 2)
        memory = torch.cat([torch.zeros(1, 2), hidden[:-1]])
        rows = zip(inputs, *map(_vectors, (memory, hidden, output(hidden))), strict=True)
    return [Moment(*row) for row in rows]


def _vectors(rows: Tensor) -> list[Vector]:
    return [tuple(row) for row in rows.tolist()]


def orders(inputs: Sequence[Vector]) -> list[list[Moment]]:
    """Run the network on the inputs in each order that there is, the given one first."""
    different = dict.fromkeys(permutations(inputs))
    return [run(order) for order in different]


def blocks() -> list[Block]:
    """Compute the lesson."""
    moments = run(INPUTS)
    return [
        *_introduction(),
        Unrolled(
            [_panel(place, moment) for place, moment in enumerate(moments, 1)],
            "The network unrolled in time: it is one network with one set of weights, drawn once for each step. What "
            "the hidden layer computes in a step (in orange) is the memory of the next step.",
        ),
        Heading("Step by step"),
        Numbered([_sentence(moment) for moment in moments]),
        *_same_input(moments),
        *_order(),
        Heading("What to remember"),
        Text(
            "A recurrent network reads a sequence one item at a time with the same weights at each step. All that it "
            "knows of the past is its memory. Here the weights were set by hand; in training, they are learned, so "
            "that the memory keeps what the task needs. Next: `seqkit lessons gates`."
        ),
    ]


def _introduction() -> list[Block]:
    return [
        Text(
            'In "arrive in Taipei", the word Taipei is a destination; in "leave Taipei", it is where the journey '
            "begins. A network that sees one word at a time gives the same word the same answer, whatever came before. "
            "It needs a memory."
        ),
        Text(
            "A recurrent network has one. At each step, the hidden layer sees the input of this step and the memory, "
            "which holds the hidden layer's own output of the step before. At the first step, there was no step "
            "before, and the memory is (0, 0)."
        ),
        Text(
            "The network below has two inputs, two hidden units and two outputs. Every weight is 1, there are no "
            "biases and no activation functions, so that you can check each number in your head: a hidden unit adds up "
            "both inputs and both numbers in memory, and an output unit adds up both hidden units."
        ),
    ]


def _same_input(moments: Sequence[Moment]) -> list[Block]:
    rows = [("with memory", *(_shown(moment.output) for moment in moments))]
    rows += [("without memory", *(_shown(moment.output) for moment in run(INPUTS, remembers=False)))]
    return [
        Heading("The same input, another output"),
        Text(
            f"The first two inputs are both {_shown(moments[0].input)}, but the outputs are "
            f"{_shown(moments[0].output)} and {_shown(moments[1].output)}: at the second step, the memory is no longer "
            "empty. If the weights from the memory are set to 0, the network is an ordinary feed-forward network, and "
            "equal inputs get equal outputs:"
        ),
        Table(
            ("outputs", *(f"step {place}: {_shown(moment.input)}" for place, moment in enumerate(moments, 1))),
            rows,
            "Outputs for the same three inputs (in the header), with the memory and without it.",
        ),
    ]


def _order() -> list[Block]:
    rows = [
        (" ".join(_shown(moment.input) for moment in moments), *(_shown(moment.output) for moment in moments))
        for moments in orders(INPUTS)
    ]
    return [
        Heading("Order matters"),
        Text(
            "The memory is empty again at the beginning of each sequence. The three inputs in another order give "
            "other outputs, at the last step, too: what came early has passed through the hidden layer more often "
            "than what came late. A sum of all words would not notice."
        ),
        Table(("inputs", "output 1", "output 2", "output 3"), rows, "The same inputs in every order that there is."),
    ]


def _panel(place: int, moment: Moment) -> Step:
    layers = [("input", moment.input), ("hidden", moment.hidden), ("output", moment.output)]
    shown = [(name, _shown(value)) for name, value in layers]
    return Step(f"step {place}", shown, ("memory", _shown(moment.memory)), "hidden")


def _sentence(moment: Moment) -> str:
    terms = " + ".join(number(value) for value in (*moment.input, *moment.memory))
    outputs = " + ".join(map(number, moment.hidden))
    return (
        f"The input is {_shown(moment.input)}, the memory {_shown(moment.memory)}. Each hidden unit is "
        f"{terms} = {number(moment.hidden[0])}, each output {outputs} = {number(moment.output[0])}. The memory becomes "
        f"{_shown(moment.hidden)}."
    )


def _shown(vector: Vector) -> str:
    return f"({', '.join(map(number, vector))})"
