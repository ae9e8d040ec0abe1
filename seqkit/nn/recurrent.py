"""`Recurrent`: any cell times layers, directions, lengths, and the dropout between layers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from seqkit.nn.backends import BACKENDS, backend_named
from seqkit.nn.backends.backend import Choice
from seqkit.nn.cell import Prepared
from seqkit.nn.cells import Cell, State, build_cell, resolve_cell
from seqkit.nn.checks import (
    check_choice,
    check_flag,
    check_probability,
    check_size,
    exporting_onnx,
)
from seqkit.nn.custom_op import describe, must_run_outside, outside
from seqkit.nn.direct import Plain, is_full, run_plain, step_plain
from seqkit.nn.initialise import refill
from seqkit.nn.layers import over_layers, route_of, run_layers
from seqkit.nn.layout import enter, lowered
from seqkit.nn.network import Network, prepare
from seqkit.nn.onnx import check_exportable
from seqkit.nn.trace import Recorder, Trace

FIXED = ("input_size", "hidden_size", "num_layers", "bidirectional", "num_directions", "output_size")
CHOICES = ("auto", *BACKENDS)
if TYPE_CHECKING:
    BackendName = str
else:
    BackendName = Literal[CHOICES]  # the choices of YAML files are made from it


class Recurrent(nn.Module):
    """Run any cell over time, layers, directions and sequences of different lengths.

    Args:
        cell: a name in `CELLS`, a `Cell` class, or a factory
            `(input_size, hidden_size, **cell_options) -> Cell`.
        input_size: features of the input, I.
        hidden_size: features of the state of each layer and direction, H.
        num_layers: number of stacked layers.
        batch_first: input and output are (B, T, F) instead of (T, B, F). States are never batch first.
        dropout: rate of the dropout on the output of every layer but the last, drawn per element.
        bidirectional: also run each sequence backwards and concatenate the outputs.
        locked_dropout: rate of a dropout at the same place as `dropout` with one mask per sequence, held over all steps
            (Gal & Ghahramani 2016).
        residual: every layer but the first adds its input (before dropout) to its output (He et al. 2016).
        learn_initial_state: the state that a sequence starts from is a parameter (`initial_h_l0`, ...), not zero.
        checkpoint_chunks: with n > 1, a layer keeps only the states at n points in time and recomputes the rest in
            the backward pass (Chen et al. 2016): less memory on long sequences for about a third more time.
        backend: what computes: "reference" (step loop under autograd), "fused" (hand-derived backward), "vendor" (the
            kernels of oneDNN, cuDNN or ATen, plain cells only), "triton" (one launch for all steps, NVIDIA cards only)
            or "auto" (the fastest that is correct; `backend_for` tells which).
        device, dtype: of the parameters.
        **cell_options: keywords of the cell, such as `bias`, `peephole`, `zoneout`; see its class.

    Forward: `(input, hx=None, *, lengths=None) -> (output, state)`; see `forward`.

    Raises:
        TypeError, ValueError: at construction, for an unknown option or a bad value; the message starts with the
            argument's name.
    """

    def __init__(
        self,
        cell: str | Callable[..., Cell],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        locked_dropout: float = 0.0,
        residual: bool = False,
        learn_initial_state: bool = False,
        checkpoint_chunks: int = 1,
        backend: BackendName = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **cell_options: Any,
    ) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers, 1000)
        self.batch_first = check_flag("batch_first", batch_first)
        self.dropout = check_probability("dropout", dropout)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.locked_dropout = check_probability("locked_dropout", locked_dropout)
        self.residual = check_flag("residual", residual)
        self.learn_initial_state = check_flag("learn_initial_state", learn_initial_state)
        self.checkpoint_chunks = check_size("checkpoint_chunks", checkpoint_chunks)
        self.backend = check_choice("backend", backend, ("auto", *BACKENDS))
        self._check_layers()
        self.num_directions = 2 if bidirectional else 1
        factory = resolve_cell(cell)
        cells, size = [], input_size
        for _ in range(num_layers):
            layer = [
                build_cell(factory, size, hidden_size, cell_options, device, dtype) for _ in range(self.num_directions)
            ]
            size = sum(built.output_size for built in layer)
            cells += layer
        self.output_size = size
        self._check_backend(cells)
        self._adopt(cells, device, dtype)
        for built in cells:
            built.watch(describe)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training" and self.__dict__.get(name) is value:
            return
        if "cells" in self.__dict__.get("_modules", ()):
            self._refuse(name, value)
            if name == "qconfig":
                self._say_unquantised()
        super().__setattr__(name, value)
        self.__dict__.pop("_plan", None)

    def __getstate__(self) -> dict[str, Any]:
        # A saved module must not name a class that is ours alone; the plan is made again at the next call.
        return {name: value for name, value in self.__dict__.items() if name != "_plan"}

    def _refuse(self, name: str, value: Any) -> None:
        """Raise AttributeError where setting an attribute would have no effect."""
        if isinstance(value, (Tensor, nn.Module)):
            return
        if name in FIXED and self.__dict__.get(name, value) != value:
            raise AttributeError(
                f"{name} decides which parameters there are and cannot be changed from {getattr(self, name)!r} to "
                f"{value!r}; make a new module"
            )
        cell = self.cell_at(0)
        if name in self.__dict__ or name not in cell.__dict__ or name not in inspect.signature(type(cell)).parameters:
            return
        if value != getattr(cell, name):
            raise AttributeError(
                f"{name} is an option of the cells, so set it there: for cell in module.cells: cell.{name} = {value!r}"
            )

    def _say_unquantised(self) -> None:
        """Warn where torch's quantiser, which gives every module a `qconfig`, is about to pass this one by."""
        kind = type(self).__name__
        warnings.warn(
            f"torch.ao.quantization leaves {kind} of seqkit.nn in floating point; quantise "
            "seqkit.nn.to_torch(model), which makes torch.nn's modules of plain cells, or export to ONNX",
            UserWarning,
            stacklevel=3,
        )

    def _check_backend(self, cells: list[Cell]) -> None:
        if self.backend != "auto" and (why := backend_named(self.backend).unfit(cells)) is not None:
            raise ValueError(f"backend {self.backend!r} {why}")

    def _check_layers(self) -> None:
        if self.num_layers > 1:
            return
        for name in ("residual", "locked_dropout"):
            if getattr(self, name):
                raise ValueError(f"{name} acts between layers and needs num_layers >= 2, got num_layers=1")
        if self.dropout:
            warnings.warn(
                f"dropout acts on all layers but the last, so dropout={self.dropout} with num_layers=1 does nothing",
                UserWarning,
                stacklevel=4,
            )

    def _adopt(self, cells: list[Cell], device: Any, dtype: Any) -> None:
        """Hold the cells; take over the parameters of flat ones, so that they carry torch's names."""
        self.cells = nn.ModuleList(cells)
        self._full_names = [
            [(name, name + self.suffix(index)) for name in cell.weight_names] for index, cell in enumerate(cells)
        ]
        for index, cell in enumerate(cells):
            if cell.flat:
                for name, value in cell.lift().items():
                    self.register_parameter(name + self.suffix(index), value)
        if self.learn_initial_state:
            for index, cell in enumerate(cells):
                for name, size in zip(cell.state_names, cell.state_sizes, strict=True):
                    value = nn.Parameter(torch.zeros(size, device=device, dtype=dtype))
                    self.register_parameter(f"initial_{name}{self.suffix(index)}", value)

    def suffix(self, index: int) -> str:
        """Return what torch appends to the parameter names of layer-direction `index`: `_l0`, `_l0_reverse`, ..."""
        layer, direction = divmod(index, self.num_directions)
        return f"_l{layer}_reverse" if direction else f"_l{layer}"

    def _weights(self, index: int) -> dict[str, Tensor]:
        cell = self.cell_at(index)
        if not cell.flat:
            return cell.weights()
        plain = self._parameters  # a look there takes a quarter of the time of an attribute of a module
        return {
            name: plain[full] if full in plain else getattr(self, full)  # type: ignore[misc]
            for name, full in self._full_names[index]
        }

    def cell_at(self, index: int) -> Cell:
        """Return the cell of layer `index // num_directions`, direction `index % num_directions`."""
        # Not self.cells[index]: that takes 2 us, which several uses a call make felt at small sizes.
        return self._modules["cells"]._modules[str(index)]  # type: ignore[union-attr,return-value]

    def _learned_state(self) -> list[list[Tensor]]:
        names, suffixes = self.cell_at(0).state_names, [self.suffix(index) for index in range(len(self.cells))]
        return [[getattr(self, f"initial_{name}{suffix}") for suffix in suffixes] for name in names]

    def network(self) -> Network:
        """Return the options, cells and weights of this moment, for one call."""
        # Past the attribute, as in `cell_at`.
        cells: list[Cell] = list(self._modules["cells"]._modules.values())  # type: ignore[union-attr,arg-type]
        # The module's own parameters first: walking all submodules takes longer than all else here.
        example = next(iter(self._parameters.values()), None)
        return Network(
            type(self).__name__,
            cells,
            self._weights,
            self.parameters,
            next(self.parameters(), None) if example is None else example,
            self._learned_state if self.learn_initial_state else None,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.num_directions,
            self.batch_first,
            self.backend,
            self.training,
            self.dropout,
            self.locked_dropout,
            self.residual,
            self.checkpoint_chunks,
        )

    def _plain(self) -> tuple[Plain, list[Tensor]] | None:
        """Return what ATen can run in one call, with its weights of this moment, or None if it cannot."""
        plain: Plain | None = self.__dict__.get("_plan")
        cells: Any = self._modules["cells"]._modules.values()  # type: ignore[union-attr]
        first = next(iter(BACKENDS))  # a row may be put before the others at any time
        if plain is None or plain.first != first or any(cell._single != plain.mode for cell in cells):
            plain = self.__dict__["_plan"] = self._make_plan(cells, first)
        if plain.mode is None:
            return None
        held = self._parameters
        try:
            return plain, [held[name] for name in plain.names]  # type: ignore[misc]
        except KeyError:  # parametrized: reading may draw a mask, and the long way would read again
            return None

    def _make_plan(self, cells: Sequence[Cell], first: str) -> Plain:
        mode, *others = dict.fromkeys([cell.single_mode() for cell in cells])
        backend = first if self.backend == "auto" else self.backend
        fits = backend == "vendor" and not (self.locked_dropout and self.training)
        if others or not fits or self.residual or self.learn_initial_state or self.checkpoint_chunks > 1:
            mode = None
        if mode is None:
            return Plain(None, first=first)
        names = [full for pairs in self._full_names for _, full in pairs]
        return Plain(
            mode, names, self.num_layers, self.bidirectional, self.batch_first, self.training, self.dropout,
            self.input_size, self.state_sizes, "bias_ih" in self.cell_at(0).weight_names, self.backend == "vendor",
            len(cells) == 1, first,
        )  # fmt: skip

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Return the parameters of flat cells, one list per layer and direction, as in torch."""
        return [list(self._weights(index).values()) for index in range(len(self.cells))]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Return the features of each tensor of the state."""
        return self.cell_at(0).state_sizes

    def flatten_parameters(self) -> None:
        """Do nothing: the method exists so that code written for torch runs."""

    def reset_parameters(self) -> None:
        """Initialise all parameters again."""
        for index in range(len(self.cells)):
            cell = self.cell_at(index)
            if cell.flat:
                refill(self, dict(self._full_names[index]), cell.reset)
            else:
                cell.reset_parameters()
        for name, value in self.named_parameters(recurse=False):
            if name.startswith("initial_"):
                nn.init.zeros_(value)

    def forward(
        self, input: Tensor | PackedSequence, hx: Any = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> Any:
        """Run over time.

        Args:
            input: (T, B, I), with batch_first (B, T, I), unbatched (T, I), or a `PackedSequence`.
            hx: tuple of initial states, each (num_layers * num_directions, B, size), without B if unbatched; None:
                zero, or learned.
            lengths: (B,) integers in [0, T]. Outputs past a length are zero, the final state follows the last
                valid step, the reverse direction starts there, and with length 0 the state passes through.

        Returns:
            output shaped like the input with `output_size` features, and the tuple of final states, shaped like hx.

        Raises:
            ValueError: wrong rank or dtype, lengths out of range.
            TypeError: lengths that are not integers, or an input that is not a tensor.
            RuntimeError: wrong feature size, device, or a state that does not fit. (Where torch has such an error, its
                type is taken.)
        """
        output, state = self._run(input, hx, lengths)
        return output, state

    def step(self, input: Tensor, hx: Any = None) -> Any:
        """Run one step of all layers, for input that comes a step at a time.

        The same as `forward` on one step, without its axis of time, and faster.

        Args:
            input: (B, I), or unbatched (I,).
            hx: the state that `step` or `forward` returned, as `forward` takes it; None: zero, or learned.

        Returns:
            output (B, F), or (F,), and the tuple of states, shaped like hx.

        Raises:
            ValueError: a bidirectional module, whose reverse direction begins at the last step; wrong rank.
            RuntimeError, TypeError: see `forward`.

        Example:
            >>> state = None
            >>> for x in stream:
            ...     output, state = lstm.step(x, state)
        """
        if not torch.compiler.is_compiling() and (plain := self._plain()) is not None and plain[0].single:
            result = step_plain(*plain, input, hx)
            if result is not None:
                return result
        if self.bidirectional:
            raise ValueError(f"{type(self).__name__}.step needs bidirectional=False: the reverse direction begins last")
        if isinstance(input, Tensor) and input.dim() not in (1, 2):
            raise ValueError(f"{type(self).__name__}.step: expected input of 1 or 2 dimensions, got {input.dim()}")
        time = 1 if self.batch_first and isinstance(input, Tensor) and input.dim() == 2 else 0
        output, state = self._run(input.unsqueeze(time), hx, None)
        return output.squeeze(time), state

    def _slow_forward(self, *input: Any, **kwargs: Any) -> Any:
        """`forward` while torch.jit.trace records; the old exporter gives keyword-only arguments by position."""
        if exporting_onnx():
            check_exportable(self.network(), input[0] if input else None)
        return super()._slow_forward(*input, **kwargs)  # type: ignore[no-untyped-call]

    def _run(self, input: Any, hx: Any, lengths: Any) -> tuple[Any, State]:
        if not torch.compiler.is_compiling() and (plain := self._plain()) is not None:
            full = lengths is None or is_full(lengths, input, self.batch_first)
            result = run_plain(*plain, input, hx) if full else None
            if result is not None:
                return result
        network = self.network()
        if exporting_onnx():
            check_exportable(network, input)
        if (what := must_run_outside(network, input, lengths)) is not None:
            return outside(what, self._run, input, hx, lengths)  # type: ignore[no-any-return]
        entered = enter(network, input, hx, lengths)
        low = lowered(network, entered)
        if low is None:
            return run_layers(network, entered)
        with torch.autocast(entered.x.device.type, enabled=False):
            return run_layers(network, low)

    def prepare(self, index: int, rows: Tensor, batch_sizes: Sequence[int]) -> Prepared:
        """Fix the weights and sample the masks of one layer-direction for a call.

        Args:
            index: of the layer-direction.
            rows: packed (N, F); gives the dtype.
            batch_sizes: rows alive at each step.

        Returns:
            weights and masks; see `Cell.prepare`.
        """
        return prepare(self.cell_at(index), self._weights(index), rows, batch_sizes)

    def trace(
        self, input: Tensor | PackedSequence, hx: Any = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> Trace:
        """Run on the reference backend and keep every gate and state of every step.

        Args:
            input, hx, lengths: as in `forward`, input (T, B, I), (B, T, I), (T, I) or packed.

        Returns:
            output, final state and records by name; see `Trace`.
        """
        network = self.network()
        entered = enter(network, input, hx, lengths)
        recorder = Recorder(network, entered)
        output, state = over_layers(network, entered, recorder)
        return Trace(output, state, recorder.records)

    def backend_for(
        self, input: Tensor | PackedSequence, hx: Any = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> Choice:
        """Return the backend that `forward` would take for these arguments in this place, and why.

        Inside `torch.compile` and `torch.jit.trace` it tells what the compiled or traced call takes.

        Args:
            input, hx, lengths: as in `forward`, input (T, B, I), (B, T, I), (T, I) or packed.
        """
        network = self.network()
        if (what := must_run_outside(network, input, lengths)) is not None:
            return outside(what, partial(self.backend_for, lengths=lengths), input, hx)  # type: ignore[no-any-return]
        entered = enter(network, input, hx, lengths)
        route = route_of(network, lowered(network, entered) or entered)
        return Choice(route.name, route.reason)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = inspect.signature(Recurrent.__init__).parameters
        for name, parameter in defaults.items():
            if name in ("self", "device", "dtype") or parameter.default is parameter.empty:
                continue
            if getattr(self, name) != parameter.default:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts)
