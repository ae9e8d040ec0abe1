"""The reference scan: one cell, one direction, step by step under autograd; it defines what other backends compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkit.nn.cell import Cell, Prepared, State


def reference_scan(
    cell: Cell, projected_NP: Tensor, batch_sizes: Sequence[int], state: State, prepared: Prepared
) -> tuple[Tensor, State]:
    """Run `cell.step` over packed rows.

    Args:
        projected_NP: the output of `cell.project`.
        batch_sizes: rows alive at each step, non-increasing; at least one step.
        state: each (B, size), B >= batch_sizes[0]; rows beyond batch_sizes[0] pass through.

    Returns:
        outputs (N, output_size) and the state after each sequence's last valid step, each (B, size).
    """
    outputs, final, _ = traced_scan(cell, projected_NP, batch_sizes, state, prepared, trace=False)
    return outputs, final


def traced_scan(
    cell: Cell,
    projected_NP: Tensor,
    batch_sizes: Sequence[int],
    state: State,
    prepared: Prepared,
    *,
    trace: bool = True,
) -> tuple[Tensor, State, dict[str, Tensor]]:
    """`reference_scan` that also returns every named gate and state, each (N, size), if `trace`."""
    outputs: list[Tensor] = []
    finished: list[State] = []
    records: dict[str, list[Tensor]] = {}
    steps = zip(batch_sizes, projected_NP.split_with_sizes(list(batch_sizes)), prepared.split(batch_sizes), strict=True)
    for size, rows, at_step in steps:
        if size < state[0].size(0):
            finished.append(tuple(part[size:] for part in state))
            state = tuple(part[:size] for part in state)
        state, gates = cell.step(rows, state, at_step)
        outputs.append(state[0])
        if trace:
            for name, value in {**gates, **dict(zip(cell.state_names, state, strict=True))}.items():
                records.setdefault(name, []).append(value)
    finished.append(state)
    # Sequences end from the back of the batch, so the pieces join in reverse.
    final = tuple(torch.cat(parts[::-1]) if len(parts) > 1 else parts[0] for parts in zip(*finished, strict=True))
    return torch.cat(outputs), final, {name: torch.cat(values) for name, values in records.items()}
