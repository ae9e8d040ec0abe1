"""Gates: a hand-set LSTM that stores, keeps, erases and shows one number."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seqkit.drawing import number
from seqkit.lessons.base import Block, Heading, HeatMap, Numbered, Table, Text
from seqkit.lessons.weights import set_weights
from seqkit.nn import LSTM

INPUTS = ((1, 0, 0), (3, 1, 0), (2, 0, 0), (4, 1, 0), (2, 0, 0), (1, 0, 1), (3, -1, 0), (6, 1, 0), (1, 0, 1))

# Of each gate, in the order of the LSTM's rows: weights of x1, x2, x3, and bias.
WEIGHTS = {
    "input gate": (0, 100, 0, -10),
    "forget gate": (0, 100, 0, 10),
    "candidate": (1, 0, 0, 0),
    "output gate": (0, 0, 100, -10),
}

GATES = tuple(name for name in WEIGHTS if name != "candidate")


def build() -> LSTM:
    """Make the LSTM of one cell: its gates see the input alone, its candidate and its output are linear."""
    lstm = LSTM(3, 1, dtype=torch.float64, cell_activation="identity", output_activation="identity")
    weights, biases = zip(*((row[:3], row[3]) for row in WEIGHTS.values()), strict=True)
    set_weights(lstm, weight_ih_l0=weights, bias_ih_l0=biases, weight_hh_l0=0, bias_hh_l0=0)
    return lstm


def run(inputs: Sequence[Sequence[float]] = INPUTS) -> dict[str, list[float]]:
    """Run the LSTM, and return each input, gate and state by name, a number for each step."""
    x = torch.tensor(inputs, dtype=torch.float64)
    with torch.no_grad():
        record = {name: value[:, 0].tolist() for name, value in build().trace(x).records[0].items()}
    columns = {f"x{place + 1}": x[:, place].tolist() for place in range(3)}
    names = {"input": "input gate", "forget": "forget gate", "cell": "candidate", "output": "output gate"}
    columns |= {shown: record[name] for name, shown in names.items()}
    return {**columns, "memory before": [0.0, *record["c"][:-1]], "memory after": record["c"], "output": record["h"]}


def blocks() -> list[Block]:
    """Compute the lesson."""
    values = run()
    times = [str(place + 1) for place in range(len(INPUTS))]
    return [
        *_introduction(),
        Heading("The sequence"),
        HeatMap(
            times,
            {name: [round(value, 2) for value in row] for name, row in values.items() if name not in GATES},
            "Steps in time, rounded to two decimals. The darker a colour, the larger the number within its row: purple "
            "is positive, orange negative. The output is 0 until x3 asks for the memory.",
        ),
        Heading("What happened"),
        Numbered(_story(values)),
        Heading("Every gate at every step"),
        HeatMap(
            times,
            {name: values[name] for name in GATES},
            "The three gates, from 0 (shut, pale) to 1 (open, dark blue), to three digits.",
            shares=True,
        ),
        *_sigmoids(values),
        Heading("What to remember"),
        Text(
            "The memory of an LSTM changes by a sum, old * forget gate + new * input gate, and each gate is a small "
            "network that looks at the input (in a trained LSTM at the output of the step before, too) to decide. So "
            "it can keep a number for as long as it takes. Next: `seqkit lessons gradients`."
        ),
    ]


def _introduction() -> list[Block]:
    deeds = {
        "candidate": "what would be written",
        "input gate": "open where x2 = 1: the candidate is written",
        "forget gate": "open unless x2 = -1: shut, it erases",
        "output gate": "open where x3 = 1: the memory is shown",
    }
    rules = [(name, _formula(name), deed) for name, deed in deeds.items()]
    return [
        Text(
            "The memory of a plain recurrent network is overwritten at every step. A long short-term memory (LSTM) "
            "has gates instead, numbers between 0 and 1 that say how much passes: the input gate lets the new value "
            "in, the forget gate lets the old memory stay, the output gate lets the memory out. (The forget gate is "
            "open when it does not forget.)"
        ),
        Text("`memory = forget gate * memory before + input gate * candidate`"),
        Text("`output = output gate * memory`"),
        Text(
            "This LSTM has one cell and three inputs. Its weights are set by hand, so that x1 is the value, x2 the "
            "order to store (1) or to erase (-1), and x3 the order to show:"
        ),
        Table(("part", "formula", "what it does"), rules, "The four parts of the cell, with the weights set by hand."),
        Text(
            "Usually the candidate and the memory on its way out are squashed by tanh; here they are left as they "
            "are, so that the numbers stay readable."
        ),
    ]


def _formula(part: str) -> str:
    """The weights of a part as a formula."""
    *weights, bias = WEIGHTS[part]
    terms = [f"{weight} x{place}" for place, weight in enumerate(weights, 1) if weight]
    text = " + ".join([*terms, *([str(bias)] if bias else [])]).replace("+ -", "- ").removeprefix("1 ")
    return f"sigmoid({text})" if part in GATES else text


def _story(values: dict[str, list[float]]) -> list[str]:
    """What each step does to the memory, read from the gates."""
    lines = []
    for place, (x1, x2, x3) in enumerate(INPUTS):
        before, after = (round(values[f"memory {when}"][place], 2) for when in ("before", "after"))
        wrote, kept = values["input gate"][place] > 0.5, values["forget gate"][place] > 0.5
        if wrote:
            deed = f"the input gate opens, {number(x1)} is added: {number(before)} becomes {number(after)}"
        elif kept:
            deed = f"the input gate is shut, {number(x1)} is ignored, the memory stays {number(after)}"
        else:
            deed = f"the forget gate shuts, the memory is erased: {number(before)} becomes {number(after)}"
        if values["output gate"][place] > 0.5:
            deed += f"; the output gate opens and shows {number(round(values['output'][place], 2))}"
        lines.append(f"x = ({x1}, {x2}, {x3}): {deed}.")
    return lines


def _sigmoids(values: dict[str, list[float]]) -> list[Block]:
    shut, open_ = min(values["output gate"]), min(gate for gate in values["forget gate"] if gate > 0.5)
    left = values["memory after"][5]
    return [
        Text(
            f"A gate is a sigmoid, and a sigmoid is never quite 0 or 1. Shut, the output gate is {shut:.7f}; open, "
            f"the forget gate is {open_:.7f} where x2 = 0. So the memory leaks a little: at step 6 it is {left:.5f}, "
            "which the table rounds."
        )
    ]
