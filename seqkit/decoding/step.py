"""What a model gives to the search: a step function over trees of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

NO_FLOAT64 = {"mps"}
"""Kinds of device that have no float64."""

#: tensors in tuples, lists and dictionaries, nested at will; None where there is nothing
Tree: TypeAlias = Any


class Step(NamedTuple):
    """One step for B sentences with K hypotheses each; a plain tuple in this order will do.

    Attributes:
        logits: (B, K, V) scores of the next token, normalised or not. They are copied before they are used, so that a
            model may write the next ones into the same memory.
        state: leaves (B, K, ...), one row a hypothesis.
        attention: (B, K, S) weights over the source positions in this step, or None. The tensor must stay as it is.
    """

    logits: Tensor
    state: Tree
    attention: Tensor | None


#: `step(tokens, state, memory)` with the last tokens (B, K) int64, state leaves (B, K, ...) and memory leaves (B, ...)
StepFunction: TypeAlias = Callable[[Tensor, Tree, Tree], tuple[Tensor, Tree, Tensor | None]]


def leaves(tree: Tree) -> Iterator[Tensor]:
    """Yield the tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from leaves(part)
    elif tree is not None:
        for part in tree:
            yield from leaves(part)


def map_tree(change: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Return the same tree with every tensor changed.

    Raises:
        TypeError: it holds something else than tensors, None, tuples, lists and dictionaries.
    """
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: map_tree(change, part) for key, part in tree.items()}
    if isinstance(tree, list):
        return [map_tree(change, part) for part in tree]
    if isinstance(tree, tuple):
        parts = [map_tree(change, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    raise TypeError(f"a tree holds tensors, None, tuples, lists and dictionaries, got {type(tree).__name__}")


def select(tree: Tree, rows: Tensor) -> Tree:
    """Keep some sentences: leaves (B, ...), rows (b,) int64 -> leaves (b, ...)."""
    return map_tree(lambda leaf: leaf.index_select(0, rows), tree)


def reorder(tree: Tree, parents: Tensor) -> Tree:
    """Let every hypothesis go on from its parent: leaves (B, J, ...), parents (B, K) int64 -> leaves (B, K, ...)."""
    batch, width = parents.shape
    if batch == 1:
        row = parents[0]
        return map_tree(lambda leaf: leaf.index_select(1, row), tree)

    def gather(leaf: Tensor) -> Tensor:
        flat = leaf.flatten(0, 1).index_select(0, at)
        return flat.view(batch, width, *leaf.shape[2:])

    found = next(leaves(tree), None)
    if found is None:
        return tree
    at = (parents + torch.arange(batch, device=parents.device).unsqueeze(1) * found.size(1)).flatten()
    return map_tree(gather, tree)


def precise(device: torch.device) -> torch.dtype:
    """Return the dtype for sums that must not drift: float64, or float32 where the device lacks it."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64
