"""Variants: what is fed back, how deep, in which direction, and through which gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqkit.console import bar
from seqkit.drawing import Line
from seqkit.lessons.base import Block, Chart, Heading, HeatMap, Numbered, Table, Text
from seqkit.lessons.small_tasks import Draw, accuracy, count_draw, gap_draw, learn, shifted_draw
from seqkit.lessons.weights import set_weights
from seqkit.nn import GRU, LSTM, RNN, Recurrent

SEQUENCE = (1.0, 0.0, 2.0, 0.0)
UNITS = 24
GAPS = (5, 10, 20, 40, 80)
SEEDS = (2,)
LONGEST = 8  # lengths of gaps, up to the longest, that a test takes
_DOUBLE = torch.float64
_OPEN = 40.0  # the sigmoid of it is 1 in double precision


class Reader(nn.Module):
    """A recurrent module and an output layer.

    Args:
        recurrent: reads (T, B, I).
        outputs: how many logits; 0: the module's own outputs are the logits, as in a Jordan network.
    """

    def __init__(self, recurrent: Recurrent, outputs: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.output = nn.Linear(recurrent.output_size, outputs) if outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, I) -> logits (T, B, K)."""
        logits: Tensor = self.output(self.recurrent(x)[0])
        return logits


NETWORKS: dict[str, Callable[[int, int], Reader]] = {
    "Elman": lambda inputs, outputs: Reader(RNN(inputs, UNITS), outputs),
    "Jordan": lambda inputs, outputs: Reader(Recurrent("jordan", inputs, UNITS, output_size=outputs), 0),
    "Elman, 2 layers": lambda inputs, outputs: Reader(RNN(inputs, UNITS, num_layers=2), outputs),
    "Elman, both ways": lambda inputs, outputs: Reader(RNN(inputs, UNITS // 2, bidirectional=True), outputs),
    "GRU": lambda inputs, outputs: Reader(GRU(inputs, UNITS), outputs),
    "LSTM": lambda inputs, outputs: Reader(LSTM(inputs, UNITS, forget_bias=1.0), outputs),
    "peephole LSTM": lambda inputs, outputs: Reader(LSTM(inputs, UNITS, peephole=True, forget_bias=1.0), outputs),
}
"""Name -> (features of the input, classes) -> the network, of 24 hidden units in all."""
WITH_GAPS = ("Elman", "GRU", "LSTM", "peephole LSTM")


class Exercise(NamedTuple):
    """What the networks are trained on.

    Attributes:
        symbols: how many kinds the input has.
        answers: how many kinds the output has; guessing is right once in as many.
        practice: makes the batches of training.
        tests: makes those on which accuracy is measured, by the name of the column.
    """

    symbols: int
    answers: int
    practice: Draw
    tests: Mapping[str, Draw]


EXERCISES = (
    Exercise(3, 2, count_draw(20), {"count 20": count_draw(20, 20), "count 80": count_draw(80, 80)}),
    Exercise(4, 4, shifted_draw(20, 4, 4), {"copy": shifted_draw(20, 4, 4)}),
    Exercise(4, 4, shifted_draw(20, 4, -1), {"look ahead": shifted_draw(20, 4, -1)}),
)


def same_sequence(inputs: Sequence[float] = SEQUENCE) -> dict[str, list[float]]:
    """Run a sequence through one network of each kind, with weights set by hand; a number for each step."""
    x = torch.tensor(inputs, dtype=_DOUBLE).unsqueeze(1)
    plain: dict[str, Any] = {"nonlinearity": "identity", "bias": False, "dtype": _DOUBLE}
    elman, deep, both = RNN(1, 1, **plain), RNN(1, 1, num_layers=2, **plain), RNN(1, 1, bidirectional=True, **plain)
    jordan = Recurrent("jordan", 1, 1, nonlinearity="identity", bias=False, dtype=_DOUBLE)
    set_weights(elman, weight_ih_l0=1, weight_hh_l0=0.5)
    set_weights(deep, weight_ih_l0=1, weight_hh_l0=0.5, weight_ih_l1=1, weight_hh_l1=0.5)
    set_weights(both, weight_ih_l0=1, weight_hh_l0=0.5, weight_ih_l0_reverse=1, weight_hh_l0_reverse=0.5)
    set_weights(jordan, weight_ih_l0=1, weight_hh_l0=0.5, weight_ho_l0=-1)
    gru = GRU(1, 1, bias=False, dtype=_DOUBLE)
    set_weights(gru, weight_ih_l0=[[0.0], [0.0], [1.0]], weight_hh_l0=0)
    with torch.no_grad():
        outputs = {
            "Elman": elman(x)[0][:, 0],
            "Jordan": jordan(x)[0][:, 0],
            "2 layers": deep(x)[0][:, 0],
            "backward": both(x)[0][:, 1],
            "GRU": gru(x)[0][:, 0],
            "LSTM": summing_lstm(peephole=False)(x)[0][:, 0],
            "peephole": summing_lstm(peephole=True)(x)[0][:, 0],
        }
    return {"input": list(inputs), **{name: values.tolist() for name, values in outputs.items()}}


def summing_lstm(*, peephole: bool) -> LSTM:
    """Make an LSTM that adds up its inputs; with peepholes it shows the sum only where the sum is above 2."""
    options: dict[str, Any] = {"cell_activation": "identity", "output_activation": "identity", "dtype": _DOUBLE}
    lstm = LSTM(1, 1, peephole=peephole, **options)
    shown = -200.0 if peephole else _OPEN
    set_weights(lstm, weight_ih_l0=[[0.0], [0.0], [1.0], [0.0]], weight_hh_l0=0, bias_hh_l0=0)
    set_weights(lstm, bias_ih_l0=[_OPEN, _OPEN, 0.0, shown])
    if peephole:
        set_weights(lstm, weight_peephole_l0=[0.0, 0.0, 100.0])
    return lstm


def exercise(name: str, what: Exercise, *, updates: int = 400, seed: int = 1) -> dict[str, float]:
    """Train a network on an exercise, and return its accuracy on each test."""
    task = learn(
        lambda: NETWORKS[name](what.symbols, what.answers), what.practice, what.symbols,
        updates=updates, rate=1e-2, seed=seed,
    )  # fmt: skip
    return {column: accuracy(task, draw) for column, draw in what.tests.items()}


def remembers(name: str, gap: int, *, updates: int = 500, seeds: Sequence[int] = SEEDS) -> float:
    """Train a network to remember the first symbol over gaps up to `gap`; return its accuracy on the longest of them.

    It is the mean over `LONGEST` lengths: a state may turn in circles, so that a single length tells nothing.

    Args:
        name: of the network.
        gap: how many other symbols come between.
        updates: of each training.
        seeds: of the trainings, whose accuracies are averaged.
    """
    practice, tests = gap_draw(4, gap, 1), [gap_draw(4, one) for one in range(max(1, gap - LONGEST + 1), gap + 1)]
    tasks = [learn(lambda: NETWORKS[name](9, 4), practice, 9, updates=updates, rate=1e-2, seed=seed) for seed in seeds]
    return mean(accuracy(task, test) for task in tasks for test in tests)


def blocks() -> list[Block]:
    """Compute the lesson."""
    total = len(NETWORKS) * len(EXERCISES) + len(WITH_GAPS) * len(GAPS)
    with bar(total, unit="training") as shown:
        learned: dict[str, dict[str, float]] = {name: {} for name in NETWORKS}
        for name in NETWORKS:
            for what in EXERCISES:
                learned[name] |= exercise(name, what)
                shown.update()
        kept: dict[str, list[float]] = {name: [] for name in WITH_GAPS}
        for name in WITH_GAPS:
            for gap in GAPS:
                kept[name].append(remembers(name, gap))
                shown.update()
    return [*_one_sequence(), *_exercises(learned), *_gaps(kept), *_conclusion()]


def _one_sequence() -> list[Block]:
    values = same_sequence()
    return [
        Text(
            "A recurrent network hands something on from each step to the next. The kinds of networks differ in what "
            "that is, how many layers do it, in which direction, and whether gates decide."
        ),
        Heading("The same sequence through each"),
        Numbered(
            [
                "Elman: the hidden layer is fed back, h' = x + h / 2 here.",
                "Jordan: the output is fed back, h' = x + y / 2 and y' = -h'.",
                "2 layers: a second Elman layer reads the first one's outputs.",
                "backward: an Elman layer that reads from the end; a bidirectional network has one beside the first.",
                "GRU: a gate mixes old and new, h' = h / 2 + tanh(x) / 2 here.",
                "LSTM: gates open, so that its memory adds up; the output is the memory.",
                "peephole: the gates of an LSTM see its memory, too. Here the output gate opens where the sum is above "
                "2. Without a peephole, a gate that is shut hides the memory from the gates as well.",
            ]
        ),
        HeatMap(
            [str(place) for place in range(1, len(SEQUENCE) + 1)],
            {name: [round(value, 3) for value in row] for name, row in values.items()},
            "Outputs for the inputs in the first row, rounded to three decimals. The darker a colour, the larger "
            "the number within its row: purple is positive, orange negative.",
        ),
    ]


def _exercises(learned: Mapping[str, Mapping[str, float]]) -> list[Block]:
    columns = list(next(iter(learned.values())))
    guessing = [f"{1 / what.answers:.2f}" for what in EXERCISES for _ in what.tests]
    rows = [(name, *(f"{found[column]:.2f}" for column in columns)) for name, found in learned.items()]
    return [
        Heading("What each can learn"),
        Text(
            f"Now networks of {UNITS} hidden units are trained, 400 updates each. Counting: were there more 1s or more "
            "0s? They are trained on up to 20 symbols and tested on 20 and on 80. Copying: at each step, give the "
            "symbol of 4 steps before. Looking ahead: at each step, give the symbol that comes next, of random ones."
        ),
        Table(
            ("network", *columns),
            [*rows, ("guessing", *guessing)],
            "The share of right answers on new sequences.",
        ),
        Text(
            "Nothing that reads from left to right can look ahead: only the bidirectional network does. A Jordan "
            "network hands on its answers alone, so it copies badly: to answer later, it would have to answer "
            "something else now. On sequences longer than those of training, the gated networks count best: the "
            "memory of an LSTM is a sum, while tanh squeezes what an Elman network counts."
        ),
    ]


def _gaps(kept: Mapping[str, Sequence[float]]) -> list[Block]:
    lines = [Line(name, GAPS, values) for name, values in kept.items()]
    rows = [(name, *(f"{value:.2f}" for value in values)) for name, values in kept.items()]
    return [
        Heading("Long gaps"),
        Text(
            "Read a symbol, then others that do not matter, and say at the end which symbol came first. Each network "
            "is trained on gaps of every length up to the one in the table, for 500 updates, and tested on the "
            f"{LONGEST} longest of them."
        ),
        Chart(
            lines,
            "gap (symbols)",
            "share of right answers",
            "How often the first symbol is remembered, by the longest gap; guessing gives 0.25.",
            y_range=(0, 1.05),
        ),
        Table(("network", *(f"gap {gap}" for gap in GAPS)), rows, "The same in numbers."),
    ]


def _conclusion() -> list[Block]:
    return [
        Heading("What to remember"),
        Text(
            "Gates carry a memory over long gaps, as the lesson `gradients` explains; a second direction knows what "
            "comes later; what is fed back bounds what can be remembered. In `seqkit.nn` all of them are one class, "
            "`Recurrent`, around cells by name: `rnn`, `jordan`, `gru`, `lstm` (with `peephole=True`). Next: "
            "`seqkit lessons keywords`."
        ),
    ]
