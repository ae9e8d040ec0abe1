"""Which backend runs a call, and why: `choose` is the one place that every road asks, `BACKENDS` the table it reads."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkit.nn.backends.backend import Backend, Route
from seqkit.nn.backends.fused import Fused
from seqkit.nn.backends.reference import Reference
from seqkit.nn.backends.triton import Triton
from seqkit.nn.backends.vendor import Vendor, recorded_whole
from seqkit.nn.cell import Cell, Prepared, State
from seqkit.nn.checks import check_choice, dtype_name, exporting_onnx, tracing, transformed
from seqkit.nn.exported_loops import loops_exported
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.network import Network

BACKENDS: dict[str, Backend] = {
    "vendor": Vendor(),
    "triton": Triton(),
    "fused": Fused(),
    "reference": Reference(),
}
"""Name -> backend, in the order in which `auto` asks them."""


def backend_named(name: str) -> Backend:
    """Return the backend of a name.

    Raises:
        ValueError: there is none.
    """
    return BACKENDS[check_choice("backend", name, tuple(BACKENDS))]


def choose(network: Network, x: Tensor, packing: Packing, *, open_lengths: bool = False) -> Route:
    """Pick how a call runs.

    Args:
        x: the input, padded or packed, in the dtype that is computed with.
        open_lengths: for a compiler, x holds all rows of the padded layout and the lengths come as a tensor.

    Raises:
        RuntimeError: the backend that was asked for cannot run this call.
        ValueError: there is no such backend.
    """
    backend = network.backend
    if exporting_onnx():
        return Route("reference", "one node of ONNX for each layer and direction", onnx=True)
    if by_loop(network, x) and (open_lengths or not isinstance(packing.num_steps, int)):
        return Route("reference", "one loop for each layer and direction inside torch.export", loop=True)
    if backend == "reference":
        return Route("reference", "asked for")
    if not open_lengths and (route := recorded_whole(network, x, packing)) is not None:
        return route
    if x.is_complex():
        if backend != "auto":
            raise RuntimeError(
                f"backend {backend!r} computes with real numbers, and the input is {dtype_name(x)}; "
                "take 'auto' or 'reference'"
            )
        return Route("reference", "complex numbers, whose gradients only the step loop has")
    traced = tracing()
    if traced or torch.compiler.is_compiling():
        if by_operator(network, x):
            return Route(
                "fused",
                "one operator for each layer and direction (on a CUDA device it may be Triton's)",
                operator=True,
            )
        if traced:
            return Route("reference", "inside torch.jit.trace, which can record the step loop alone")
    if packing.first_rows == 0:
        return Route("reference", "no sequence has a step")
    if transformed():
        return Route("reference", "inside torch.func or forward-mode differentiation, which need the step loop")
    return _of_table(network, x, packing)


def _of_table(network: Network, x: Tensor, packing: Packing) -> Route:
    """Return the route on the backend that is asked for, or for `auto` on the first that takes the call."""
    name, reason, bare = network.backend, "", False
    for cell in network.cells:
        if not cell.has_kernel:
            reason, bare = f"{type(cell).__name__} has no fused kernel", True
            break
    if name != "auto":
        backend = backend_named(name)
        if bare and backend.needs_kernel:
            return Route("reference", reason)
        route = backend.route(network, x, packing, "asked for")
        if isinstance(route, str):
            raise RuntimeError(f"backend {name!r} cannot run this call: {route}; take 'auto' or 'fused'")
        return route
    for backend in BACKENDS.values():
        if bare and backend.needs_kernel:
            continue
        route = backend.route(network, x, packing, reason)
        if not isinstance(route, str):
            return route
        reason = route or reason
    raise AssertionError("the step loop takes every call")


def by_operator(network: Network, x: Tensor) -> bool:
    """Return whether a compiler, exporter or `torch.jit.trace` looks at a call, and an operator takes its lengths."""
    if exporting_onnx():
        return True
    return (
        (torch.compiler.is_compiling() or tracing())
        and network.backend != "reference"
        and not x.is_complex()
        and all(cell.operator is not None for cell in network.cells)
    )


def by_loop(network: Network, x: Tensor) -> bool:
    """Return whether `torch.export` looks at a call, no operator serves it, and a loop of torch's own does."""
    return loops_exported() and not exporting_onnx() and not by_operator(network, x)


def scan(
    backend: str, cell: Cell, rows: Tensor, packing: Packing, state: State, prepared: Prepared
) -> tuple[Tensor, State]:
    """Run one cell in one direction on the backend of a name; see `Backend.scan`."""
    return backend_named(backend).scan(cell, rows, packing, state, prepared)
