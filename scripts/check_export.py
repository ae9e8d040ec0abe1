"""Check ONNX export: every cell, variant, number of layers and direction against ONNX Runtime on random ragged batches.

    python scripts/check_export.py [--batches 1000] [--only lstm] [--sample 10] [--out FILE]

Each network is exported with open steps, sequences and lengths and initial states as inputs. Outputs and final states
must be within 1e-5 of the module's, and each layer and direction must be one node. The exit status is 1 if one is not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

import seqkit.nn as snn

BOUND = 1e-5
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


class Ragged(torch.nn.Module):
    """A network with everything that it takes as inputs, and everything that it returns as outputs."""

    def __init__(self, network: snn.Recurrent) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        output, final = self.network(x, state, lengths=lengths)
        return (output, *final)

    def batch(self, steps: int, rows: int) -> tuple[Tensor, ...]:
        """A random input (T, B, I), lengths from 0 to T, and states."""
        count = len(self.network.cells)
        states = [torch.randn(count, rows, size) for size in self.network.state_sizes]
        return torch.randn(steps, rows, INPUT), torch.randint(0, steps + 1, (rows,)), *states


def check(cell: str, options: dict[str, Any], batches: int) -> dict[str, Any]:
    """Export one network and compare it: the largest difference, and what nodes there are."""
    torch.manual_seed(0)
    model = Ragged(snn.Recurrent(cell, INPUT, HIDDEN, **options)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.3)
    given = model.batch(4, 3)
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 1: free}, {0: free}, tuple({1: free} for _ in given[2:]))
    program = torch.onnx.export(model, given, dynamo=True, verbose=False, dynamic_shapes=shapes)
    kinds = Counter(node.op_type for node in program.model_proto.graph.node)
    session = ort.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    worst = 0.0
    for _ in range(batches):
        batch = model.batch(random.randint(1, 30), random.randint(1, 9))
        found = session.run(None, dict(zip(names, (part.numpy() for part in batch), strict=True)))
        with torch.no_grad():
            wanted = model(*batch)
        worst = max(worst, *(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, wanted, strict=True)))
    kind = "Scan" if cell not in NODES or any(options.get(name) for name in SCANS) else NODES[cell]
    recurrent = {name: kinds[name] for name in ("LSTM", "GRU", "RNN", "Scan") if kinds[name]}
    good = worst <= BOUND and recurrent == {kind: len(model.network.cells)}
    return {"cell": cell, **options, "difference": worst, "nodes": recurrent, "all_nodes": kinds.total(), "good": good}


def main() -> int:
    """Check, print a line for each network, and write all as JSON where a file is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=1000, help="of each network")
    parser.add_argument("--only", choices=sorted(VARIANTS), help="one cell")
    parser.add_argument("--sample", type=int, help="so many of the networks, drawn at random")
    parser.add_argument("--out", type=Path, help="results as JSON")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # the exporter's own
    logging.disable(logging.WARNING)
    random.seed(0)
    cells = [given.only] if given.only else sorted(VARIANTS)
    every = [(cell, {**one, **shape}) for cell in cells for one in VARIANTS[cell] for shape in SHAPES]
    results = []
    for cell, options in random.sample(every, min(given.sample or len(every), len(every))):
        results.append(check(cell, options, given.batches))
        print(json.dumps(results[-1]), flush=True)
    wrong = [result for result in results if not result["good"]]
    worst = max(result["difference"] for result in results)
    print(f"{len(results)} networks, {given.batches} batches each: largest difference {worst:.1e}, {len(wrong)} wrong")
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
