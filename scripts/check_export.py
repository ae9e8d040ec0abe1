"""Check ONNX export: every cell, variant, number of layers and direction against ONNX Runtime on random ragged batches.

    python scripts/check_export.py [--batches 1000] [--only lstm] [--scans] [--sample 3] [--out FILE]

Networks are exported with open steps, sequences and lengths and initial states as inputs, those of one variant in one
graph. A copy of the module in float64 says what is true. Two differences may be at most 1e-5 and 3 times the module's
own error (its largest difference from float64): ONNX Runtime from the module, and ONNX Runtime from float64. Each layer
and direction must be one node. The exit status is 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import Tensor

import seqkit.nn as snn

BOUND, TIMES = 1e-5, 3
INPUT, HIDDEN = 5, 6
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "lstm": [
        {},
        {"bias": False},
        {"peephole": True},
        {"coupled": True},
        {"peephole": True, "coupled": True},
        {"cell_activation": "relu", "output_activation": "sigmoid"},
        {"cell_activation": "sigmoid", "output_activation": "identity"},
        {"layer_norm": True},
        {"proj_size": 3},
        {"cell_clip": 0.5},
        {"zoneout": 0.3, "zoneout_cell": 0.4},
        {"peephole": True, "coupled": True, "layer_norm": True, "proj_size": 3, "zoneout": 0.2, "cell_clip": 0.5},
    ],
    "gru": [{}, {"bias": False}, {"layer_norm": True}, {"zoneout": 0.3}],
    "rnn": [
        {},
        {"bias": False},
        {"nonlinearity": "relu"},
        {"nonlinearity": "identity"},
        {"layer_norm": True},
        {"zoneout": 0.3},
    ],
    "jordan": [{}, {"output_size": 3, "output_activation": "tanh"}],
}
SHAPES: list[dict[str, Any]] = [
    {"num_layers": layers, "bidirectional": both, **({"residual": True} if residual else {})}
    for layers, both, residual in itertools.product((1, 2, 3), (False, True), (False, True))
    if layers > 1 or not residual
]
NODES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
SCANS = ("layer_norm", "proj_size", "cell_clip", "zoneout")


def node_of(cell: str, options: dict[str, Any]) -> str:
    """The node that each layer and direction must become."""
    return "Scan" if cell not in NODES or any(options.get(name) for name in SCANS) else NODES[cell]


class Ragged(torch.nn.Module):
    """Networks of one cell with everything that they take as inputs, and everything that they return as outputs."""

    def __init__(self, cell: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(snn.Recurrent(cell, INPUT, HIDDEN, **options, **shape) for shape in SHAPES)
        for weight in self.parameters():
            torch.nn.init.normal_(weight, 0.0, 0.3)

    def forward(self, x: Tensor, lengths: Tensor, *state: Tensor) -> list[Tensor]:
        results = []
        for network in self.networks:
            count = len(network.cells)
            output, final = network(x, tuple(part[:count] for part in state), lengths=lengths)
            results += [output, *final]
        return results

    def batch(self, steps: int, rows: int) -> tuple[Tensor, ...]:
        """A random input (T, B, I), lengths from 0 to T, and states."""
        most = max(len(network.cells) for network in self.networks)
        states = [torch.randn(most, rows, size) for size in self.networks[0].state_sizes]
        return torch.randn(steps, rows, INPUT), torch.randint(0, steps + 1, (rows,)), *states


def expected(model: Ragged, batches: list[tuple[Tensor, ...]]) -> Iterator[list[Tensor]]:
    """What the module makes of each batch: from one call with all their rows, since sequences do not mix."""
    dtype = next(model.parameters()).dtype
    steps = max(len(batch[0]) for batch in batches)
    x = torch.cat([F.pad(batch[0], (0, 0, 0, 0, 0, steps - len(batch[0]))) for batch in batches], 1)
    lengths = torch.cat([batch[1] for batch in batches])
    states = [torch.cat(parts, 1) for parts in zip(*(batch[2:] for batch in batches), strict=True)]
    with torch.no_grad():
        results = model(x.to(dtype), lengths, *(state.to(dtype) for state in states))
    counts = [len(batch[1]) for batch in batches]
    per_network = 1 + len(states)
    cut = [value.split(counts, 1) for value in results]
    for number, batch in enumerate(batches):
        mine = [parts[number] for parts in cut]
        yield [part[: len(batch[0])] if place % per_network == 0 else part for place, part in enumerate(mine)]


def recurrent_nodes(graph: Any, outputs: list[str]) -> dict[str, int]:
    """Count the recurrent nodes that some outputs of a graph depend on."""
    makers = {name: node for node in graph.node for name in node.output}
    seen, waiting = {}, list(outputs)
    while waiting:
        node = makers.pop(waiting.pop(), None)
        if node is not None:
            seen[id(node)] = node.op_type
            waiting += node.input
    return {kind: count for kind, count in Counter(seen.values()).items() if kind in ("LSTM", "GRU", "RNN", "Scan")}


def check(cell: str, options: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Export the networks of a cell and compare them: the largest differences, and what nodes there are."""
    torch.manual_seed(0)
    model = Ragged(cell, options).eval()
    given = model.batch(4, 3)
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 1: free}, {0: free}, tuple({1: free} for _ in given[2:]))
    graph = torch.onnx.export(model, given, dynamo=True, verbose=False, dynamic_shapes=shapes).model_proto
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = 1  # small operators: more threads only wait for each other
    session = ort.InferenceSession(graph.SerializeToString(), session_options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    batches = [model.batch(random.randint(1, 30), random.randint(1, 9)) for _ in range(count)]
    worst = np.zeros((3, len(graph.graph.output)))
    wanted = zip(expected(model, batches), expected(copy.deepcopy(model).double(), batches), strict=True)
    for batch, (near, true) in zip(batches, wanted, strict=True):
        found = session.run(None, dict(zip(names, (part.numpy() for part in batch), strict=True)))
        here = [
            (largest(one, module), largest(one, exact), largest(module, exact))
            for one, module, exact in zip(map(torch.from_numpy, found), near, true, strict=True)
        ]
        worst = np.maximum(worst, np.array(here).T)
    kind, per_network = node_of(cell, options), 1 + len(given[2:])
    outputs, results = [value.name for value in graph.graph.output], []
    for number, (network, shape) in enumerate(zip(model.networks, SHAPES, strict=True)):
        mine = slice(number * per_network, (number + 1) * per_network)
        difference, onnx_error, error = worst[:, mine].max(1).tolist()
        nodes = recurrent_nodes(graph.graph, outputs[mine])
        near = max(difference, onnx_error) <= BOUND + TIMES * error
        numbers = {"difference": difference, "error": error, "onnx_error": onnx_error}
        good = near and nodes == {kind: len(network.cells)}
        results.append({"cell": cell, **options, **shape, **numbers, "nodes": nodes, "good": good})
    return results


def largest(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference."""
    return float((one.double() - other.double()).abs().max())


def main() -> int:
    """Check, print a line for each network, and write all as JSON where a file is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=1000, help="of each network")
    parser.add_argument("--only", choices=sorted(VARIANTS), help="one cell")
    parser.add_argument("--scans", action="store_true", help="only what becomes Scan")
    parser.add_argument("--sample", type=int, help="so many of the variants, drawn at random")
    parser.add_argument("--out", type=Path, help="results as JSON")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # the exporter's own
    logging.disable(logging.WARNING)
    random.seed(0)
    cells = [given.only] if given.only else sorted(VARIANTS)
    every = [(cell, options) for cell in cells for options in VARIANTS[cell]]
    every = [one for one in every if not given.scans or node_of(*one) == "Scan"]
    results = []
    for cell, options in random.sample(every, min(given.sample or len(every), len(every))):
        for result in check(cell, options, given.batches):
            results.append(result)
            print(json.dumps(result), flush=True)
    wrong = [result for result in results if not result["good"]]
    worst = {name: max(result[name] for result in results) for name in ("difference", "error", "onnx_error")}
    over = sum(result["difference"] > BOUND for result in results)
    print(
        f"{len(results)} networks, {given.batches} batches each: ONNX Runtime differs from the module by at most "
        f"{worst['difference']:.1e} ({over} by more than {BOUND}), from float64 by {worst['onnx_error']:.1e}; the "
        f"module from float64 by {worst['error']:.1e}; {len(wrong)} wrong"
    )
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
