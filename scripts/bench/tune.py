"""Measures the constants of seqkit/nn/kernels/tuning.py on this machine's CPU: each of several values at its work.

    OMP_NUM_THREADS=1 python scripts/bench/tune.py                 # everything (about 4 minutes)
    OMP_NUM_THREADS=1 python scripts/bench/tune.py MIN_WORK        # one constant
    OMP_NUM_THREADS=1 python scripts/bench/tune.py --budget 0.2    # seconds for each row

A row is one piece of work; its columns are values of the constant, the shipped one in brackets, with medians in
milliseconds. All values of a row run in turn, so that a busy machine slows them alike. A threshold also takes 0 and
infinity: it belongs where the first begins to win.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import seqkit.nn as snn
from seqkit.nn.kernels import tuning
from seqkit.nn.kernels.additive import additive_scores
from seqkit.nn.kernels.decode_step import SingleStep
from seqkit.nn.kernels.gemm import PackedLinear, StepProduct, outer, product
from seqkit.nn.kernels.kernel import tanh_

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import medians, parser_for, seconds, setting, take_turns, write

NEVER = sys.maxsize
Work = Callable[[], Any]


def put(name: str, value: float) -> None:
    """Set a constant in every file that has taken it."""
    for key, module in list(sys.modules.items()):
        if key.startswith("seqkit.nn") and hasattr(module, name):
            setattr(module, name, value)


def trained(run: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> Work:
    """Forward and backward."""

    def work() -> None:
        for leaf in leaves:
            leaf.grad = None
        run().sum().backward()  # type: ignore[no-untyped-call]

    return work


def network(kind: str, shape: tuple[int, int, int, int], training: bool, ragged: bool, **options: Any) -> Work:
    """A call of a module: training or inference on (T, B, I, H)."""
    steps, batch, features, hidden_size = shape
    module = snn.Recurrent(kind, features, hidden_size, **options).train(training)
    x = torch.randn(steps, batch, features)
    lengths = torch.randint(steps // 2, steps + 1, (batch,)) if ragged else None
    if training:
        return trained(lambda: module(x, lengths=lengths)[0], list(module.parameters()))
    return torch.no_grad()(lambda: module(x, lengths=lengths))


def step_products(name: str, blocks: int, *shapes: tuple[int, int]) -> Any:
    """A row for each (rows, units): times a weight of `blocks` times the units, under values of the constant `name`."""

    def rows() -> Iterator[tuple[str, Work]]:
        for count, size in shapes:
            x, weight = torch.randn(count, size), torch.randn(blocks * size, size)
            added, holder = torch.zeros(count, blocks * size), {}

            def work(x: Any = x, weight: Any = weight, added: Any = added, holder: dict[float, Any] = holder) -> None:
                least = StepProduct.__init__.__globals__[name]
                if least not in holder:
                    holder[least] = StepProduct(weight, x.size(0))
                holder[least].plus_rows(x, added)

            yield f"({count}, {size}) times ({size}, {blocks * size})", work

    return rows


def linears() -> Iterator[tuple[str, Work]]:
    for rows in (64, 128, 256, 832):
        layer, x = snn.Linear(768, 256), torch.randn(rows, 768, requires_grad=True)
        yield f"{rows} rows of 768 to 256, training", trained(partial(layer, x), [x, *layer.parameters()])


def products() -> Iterator[tuple[str, Work]]:
    weight = torch.randn(8_000, 256)
    for rows in (1, 5, 8, 16, 32):
        yield f"{rows} rows of 256 to 8,000", partial(product, torch.randn(rows, 256), weight)


def packed_products() -> Iterator[tuple[str, Work]]:
    for words, features, counts in (
        (5_898, 256, (1, 5)),
        (1_024, 768, (1, 5)),
        (256, 768, (1, 2, 5)),
        (256, 256, (3, 5)),
    ):
        packed = PackedLinear(torch.randn(words, features), torch.randn(words))
        for rows in counts:
            yield f"{rows} rows of {features} to {words:,}", partial(packed, torch.randn(rows, features))


def outers(*shapes: tuple[int, int, int]) -> Any:
    """A row for each (rows, M, K)."""

    def rows() -> Iterator[tuple[str, Work]]:
        for count, left, right in shapes:
            title = f"{count:,} rows, {left:,} x {right:,}"
            yield title, partial(outer, torch.randn(count, left), torch.randn(count, right))

    return rows


def tanhs(exact: bool, *sizes: int) -> Any:
    """A row for each number of elements."""

    def rows() -> Iterator[tuple[str, Work]]:
        for size in sizes:
            source = torch.randn(size)
            yield f"{size} elements", partial(tanh_, source, torch.empty_like(source), exact=exact)

    return rows


def scores() -> Iterator[tuple[str, Work]]:
    parts = [torch.randn(*shape, requires_grad=True) for shape in ((32, 26, 256), (32, 30, 256), (256,))]
    yield "32 sentences, 26 queries, 30 keys, 256 features", trained(lambda: additive_scores(*parts), parts)


def losses() -> Iterator[tuple[str, Work]]:
    for size in (6_000, 10_000):
        features, weight = torch.randn(832, 256, requires_grad=True), torch.randn(size, 256, requires_grad=True)
        targets = torch.randint(size, (832,))
        run = partial(snn.linear_cross_entropy, features, weight, None, targets)
        yield f"832 rows of 256, {size:,} words", trained(lambda run=run: run()[0].sum(), [features, weight])


def decode_steps() -> Iterator[tuple[str, Work]]:
    """`MIN_DECODE_ROWS` has a fork of its own: the cell's step, or weights arranged anew."""
    for kind, rows in (("lstm", 5), ("lstm", 32), ("lstm", 64), ("lstm", 320), ("gru", 5), ("gru", 32), ("gru", 320)):
        module = snn.Recurrent(kind, 512, 256).eval()
        cell, x = module.cell_at(0), torch.randn(rows, 512)
        state = tuple(torch.zeros(rows, size) for size in cell.state_sizes)
        prepared = module.prepare(0, x, [rows])
        single = SingleStep(cell, prepared.weights)

        def work(
            cell: Any = cell, x: Any = x, state: Any = state, prepared: Any = prepared, single: Any = single
        ) -> None:
            with torch.no_grad():
                if tuning.MIN_DECODE_ROWS == 0:
                    single(x, state)
                else:
                    cell.step(cell.project(x, prepared), state, prepared)

        yield f"{kind}, {rows} rows, 512 features, 256 units", work


def networks(training: bool, ragged: bool, kinds: str, *shapes: tuple[int, int, int, int], **options: Any) -> Any:
    """A row for each kind and shape."""

    def rows() -> Iterator[tuple[str, Work]]:
        for kind in kinds.split():
            for shape in shapes:
                what = ("training" if training else "inference") + (", ragged" if ragged else "")
                yield f"{kind} {shape} {what}", network(kind, shape, training, ragged, **options)

    return rows


STEPS = ((4, 32, 128, 128), (8, 32, 128, 128), (14, 32, 128, 128), (20, 32, 128, 128), (14, 64, 256, 256))
SMALL, MIDDLE, LARGE = (64, 16, 64, 64), (50, 32, 128, 128), (100, 64, 256, 256)
# Constant -> (values beside the shipped one, pieces of work).
CONSTANTS: dict[str, tuple[tuple[float, ...], Callable[[], Iterator[tuple[str, Work]]]]] = {
    "MIN_WORK": ((0, NEVER), step_products("MIN_WORK", 4, (32, 64), (64, 64), (8, 128), (16, 128), (8, 256))),
    "MIN_FILLED_WORK": ((0, NEVER), step_products("MIN_FILLED_WORK", 1, (20, 200), (60, 128), (31, 200), (30, 256))),
    "MIN_PACKED_WORK": ((0, NEVER), networks(True, False, "rnn gru", *STEPS, backend="fused")),
    "MIN_OUTER_WORK": ((0, NEVER), outers((160, 64, 128), (640, 64, 128), (96, 200, 400), (640, 128, 256))),
    "MIN_DECODE_WORK": ((0, NEVER), packed_products),
    "MIN_TRAINING": ((0, NEVER), linears),
    "MIN_PRODUCT_ROWS": ((0, NEVER), products),
    "PRODUCT_ROWS": ((1, 8, 128), networks(True, True, "lstm", MIDDLE, LARGE, backend="fused")),
    "STEP_ROWS": ((1, 4, 16), networks(True, True, "lstm", MIDDLE, LARGE, backend="fused")),
    "OUTER_ROWS": ((256, 1_024, 2_048, 8_192), outers((6_400, 2_048, 812))),
    "MIN_TANH": ((0, NEVER), tanhs(False, 256, 512, 1_024, 2_048, 4_096, 16_384)),
    "MIN_EXPM1": ((0, NEVER), tanhs(True, 4_096, 8_192, 16_384, 32_768)),
    "ADDITIVE_TERMS": ((65_536, 1_048_576, NEVER), scores),
    "LOGIT_ROWS": ((64, 128, 256, 832), losses),
    "MIN_DECODE_ROWS": ((0, NEVER), decode_steps),
    "LARGE_STEP": ((0, NEVER), networks(True, True, "lstm", SMALL, MIDDLE, LARGE)),
    "SMALL_STEP": ((0, NEVER), networks(False, False, "gru rnn", SMALL, MIDDLE)),
    "FEW_STEPS_GRU": ((0, NEVER), networks(True, False, "gru", *STEPS)),
    "FEW_STEPS_RNN": ((0, NEVER), networks(True, False, "rnn", *STEPS, (35, 32, 128, 128))),
    "FEW_STEPS_TRAINING": ((0, NEVER), networks(True, True, "gru rnn", *STEPS)),
    "FEW_STEPS": ((0, NEVER), networks(False, False, "gru rnn", (1, 64, 256, 256), (4, 64, 256, 256))),
    "MIN_STRETCH_ROWS": ((0, NEVER), networks(True, True, "lstm", SMALL, MIDDLE, LARGE, backend="vendor")),
    "STRETCH_FALL": ((0.5, 0.9), networks(True, True, "lstm", MIDDLE, LARGE, backend="vendor")),
}


def compared(name: str, values: list[float], work: Work, args: argparse.Namespace) -> list[float]:
    """Milliseconds of the work under each value, all in turn, at least three times."""

    def measure(value: float) -> float:
        put(name, value)
        return seconds(work)

    measures = {str(value): partial(measure, value) for value in values}
    return list(medians(take_turns(measures, args.rounds, budget=args.budget), 1e3).values())


def main() -> None:
    parser = parser_for(__doc__, rounds=1000)
    parser.add_argument("constants", nargs="*", metavar="CONSTANT", help=", ".join(CONSTANTS))
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for each row")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.constants if name not in CONSTANTS]
    if unknown:
        parser.error(f"no such constant: {', '.join(unknown)}")
    torch.manual_seed(0)
    about, rows = setting(arguments), []
    for name in arguments.constants or CONSTANTS:
        shipped: float = getattr(tuning, name)
        others, works = CONSTANTS[name]
        values = sorted({*others, shipped})
        shown = ["never" if value == NEVER else f"[{value}]" if value == shipped else str(value) for value in values]
        print(f"\n{name:50}" + "".join(f"{text:>12}" for text in shown))
        for title, work in works():
            found = compared(name, values, work, arguments)
            rows.append({"constant": name, "work": title, "values": values, "ms": found})
            print(f"{title:50}" + "".join(f"{value:12.3f}" for value in found), flush=True)
        put(name, shipped)
    write(arguments, about, rows)


if __name__ == "__main__":
    main()
