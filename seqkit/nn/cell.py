"""The cell contract: one step of mathematics, and what `Recurrent` needs to know to run it over time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.nn.aten_step import aten_step
from seqkit.nn.checks import autocast_dtype, check_choice, check_goes_with, check_size, transformed
from seqkit.nn.initialise import refill

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Prepared:
    """What a cell fixes once per sequence: effective weights and sampled masks.

    Rows are ordered as in the packed layout of `PackedSequence`: sequences sorted by falling length, and at step t
    only the first b_t rows are alive. B is the batch size and N the sum of all b_t.

    Attributes:
        weights: the cell's parameters by name, after weight drop.
        sequence_masks: masks held for the whole sequence, each (B, size).
        step_masks: masks drawn at every step, each (N, size).
    """

    weights: Mapping[str, Tensor]
    sequence_masks: Mapping[str, Tensor] = field(default_factory=dict)
    step_masks: Mapping[str, Tensor] = field(default_factory=dict)

    def mask(self, name: str) -> Tensor | None:
        """Return the mask called `name`, or None if none was sampled (evaluation, or a rate of zero)."""
        drawn = self.step_masks.get(name)
        return self.sequence_masks.get(name) if drawn is None else drawn

    def cut(self, first: int, end: int) -> Prepared:
        """Return the part that belongs to the packed rows [first, end)."""
        return replace(self, step_masks={name: mask[first:end] for name, mask in self.step_masks.items()})

    def split(self, batch_sizes: Sequence[int]) -> list[Prepared]:
        """Return one `Prepared` per step, its masks cut to the rows alive then; `batch_sizes` has their number."""
        if not self.sequence_masks and not self.step_masks:
            return [self] * len(batch_sizes)
        cut = {name: mask.split_with_sizes(list(batch_sizes)) for name, mask in self.step_masks.items()}
        return [
            replace(
                self,
                sequence_masks={name: mask[:size] for name, mask in self.sequence_masks.items()},
                step_masks={name: pieces[t] for name, pieces in cut.items()},
            )
            for t, size in enumerate(batch_sizes)
        ]


class Cell(nn.Module):
    """Base class of every cell; subclass it, write `step`, and `Recurrent` gives it time, layers, directions, lengths.

    A subclass takes `input_size` and `hidden_size` (and its own keywords), and overrides `step` and usually
    `project`. Nothing else is required; parameters may be plain `nn.Parameter`s or whole submodules.

    Class attributes:
        state_names: the names of the state's tensors; the first is the output.
        flat: True if `Recurrent` shall hold the parameters itself under torch's names (`weight_ih_l0`,
            `weight_ih_l0_reverse`, ...). The cell must then read its parameters from `prepared.weights` only.
        fixed: options that decide which parameters there are; setting one to another value later is refused. All
            others may be changed at any time, and hold from the next call on.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        state_sizes: features of each state tensor; by default H for every name in `state_names`.

    Raises:
        TypeError, ValueError: a size that is not a positive int.
    """

    state_names: tuple[str, ...] = ("h",)
    flat: bool = False
    fixed: tuple[str, ...] = ("input_size", "hidden_size", "state_sizes")
    # What `watch` keeps.
    operator: Any = None
    has_kernel: bool = False
    # ATen's name of the cell if one step in its present mode is ATen's; None: it is not; "": not asked since a change.
    _single: str | None = ""

    def __init__(self, input_size: int, hidden_size: int, *, state_sizes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.state_sizes = tuple(state_sizes or [hidden_size] * len(self.state_names))
        self.weight_names: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training" and self.__dict__.get(name) is value:  # `eval()` before each prediction changes nothing
            return
        if name in self.fixed and self.__dict__.get(name, value) != value:
            raise AttributeError(
                f"{name} of a {type(self).__name__} decides which parameters it has and cannot be changed from "
                f"{self.__dict__[name]!r} to {value!r}; make a new module"
            )
        super().__setattr__(name, value)
        self.__dict__["_single"] = ""
        if "_describe" in self.__dict__ and name not in ("training", "operator", "has_kernel", "_describe"):
            self.watch(self._describe)

    def watch(self, describe: Callable[[Cell], Any]) -> None:
        """Keep `operator = describe(self)` and `has_kernel` up to date, whatever option is changed from here on.

        They cost too much to be made at every call, and a compiler could not look inside.
        """
        self._describe = describe
        self.operator, self.has_kernel = describe(self), self.kernel() is not None

    @property
    def output_size(self) -> int:
        """Return the features of the output, which is `state[0]`."""
        return self.state_sizes[0]

    def declare(
        self, name: str, *shape: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Register an uninitialised parameter of the given shape, to be found in `prepared.weights[name]`.

        Args:
            name: of the parameter.
            *shape: of the parameter.
            device, dtype: of the parameter.
        """
        self.register_parameter(name, nn.Parameter(torch.empty(*shape, device=device, dtype=dtype)))
        self.weight_names = (*self.weight_names, name)

    def lift(self) -> dict[str, nn.Parameter]:
        """Hand the declared parameters over to a `Recurrent` (only for `flat` cells); the cell keeps their names.

        Returns:
            name -> parameter.
        """
        lifted = {name: self._parameters.pop(name) for name in self.weight_names}
        return {name: value for name, value in lifted.items() if value is not None}

    def weights(self) -> dict[str, Tensor]:
        """Return the declared parameters by name; parametrizations are applied."""
        return {name: getattr(self, name) for name in self.weight_names}

    def reset(self, weights: Mapping[str, Tensor]) -> None:
        """Initialise `weights`, the declared parameters by name, in place. A cell of submodules has nothing to do."""

    def reset_parameters(self) -> None:
        """Initialise the cell's own parameters."""
        refill(self, {name: name for name in self.weight_names}, self.reset)

    def prepare(self, weights: Mapping[str, Tensor], batch_sizes: Sequence[int]) -> Prepared:
        """Fix weights and sample masks for one sequence; runs once per layer, direction and call.

        Args:
            weights: the parameters by name (see `flat`).
            batch_sizes: rows alive at each step; their sum is N. `batch_sizes[0]` is the largest. (While a compiler
                traces, the sizes after the first come as one number, so that T stays open.)

        Returns:
            the effective weights and the masks.
        """
        return Prepared(weights)

    def project(self, x: Tensor, prepared: Prepared) -> Tensor:
        """Compute the part of the step that depends on the input alone, for all steps at once.

        Args:
            x: (N, I) packed rows.
            prepared: from `prepare`.

        Returns:
            (N, P), with a P of the cell's choice.
        """
        return x

    def step(self, projected: Tensor, state: State, prepared: Prepared) -> tuple[State, dict[str, Tensor]]:
        """Compute one step. It must be pure: no change in place, no randomness (which belongs to `prepare`).

        Args:
            projected: (b, P), the rows of `project` at this step.
            state: the state before it, each tensor (b, size).
            prepared: from `prepare`, cut to the b rows alive.

        Returns:
            the new state and the gates by name, each (b, size).
        """
        raise NotImplementedError(f"{type(self).__name__} must define step(projected, state, prepared)")

    def keeps(self, gates: Mapping[str, Tensor]) -> Tensor | None:
        """Tell how much of its old memory, the last tensor of the state, the new one holds as it was.

        It says what is left of a step after many others: with m' = k * m + w, where k is what this returns, the product
        of the later k is the share of w in the last memory. Evaluation mode is meant.

        Args:
            gates: the gates that `step` returned and the new state, by name, each (..., size).

        Returns:
            k (..., size), or None for a cell that carries nothing over as it was, such as a vanilla one.
        """
        return None

    def kernel(self) -> Any:
        """Return the `seqkit.nn.kernels.kernel.Kernel` that computes exactly this cell, or None if there is none."""
        return None

    def vendor_mode(self) -> str | None:
        """Return ATen's name of this cell in its present mode: "LSTM", "GRU", "RNN_TANH", "RNN_RELU" or None."""
        return None

    def cudnn_mode(self) -> str | None:
        """Return cuDNN's name of this cell: cuDNN computes more kinds of cells than ATen does well on the CPU."""
        return self.vendor_mode()

    def initial_state(self, batch_size: int, like: Tensor) -> State:
        """Return zeros, each (batch_size, size), with the device and dtype of the tensor `like` (any shape)."""
        return tuple(like.new_zeros(batch_size, size) for size in self.state_sizes)

    def run(self, x: Tensor, state: State | None) -> State:
        """Run one step on the cell's own parameters.

        Args:
            x: (B, I) or (I,).
            state: each tensor (B, size) or (size,); None: `initial_state`.

        Returns:
            the new state, shaped alike.

        Raises:
            TypeError, ValueError, RuntimeError: x or a state that does not fit, as torch's cells raise them.
        """
        # A plain cell is ATen's function, which takes half the time of a step from single operators.
        mode = None if torch.compiler.is_compiling() else self.single_mode()
        if mode is not None and (new := self._aten_step(mode, x, state)) is not None:
            return new
        self._check(x, state)
        batched = x.dim() == 2
        rows = x if batched else x.unsqueeze(0)
        prepared = self.prepare(self.weights(), [rows.size(0)])
        projected = self.project(rows, prepared)
        if state is None:
            state = self.initial_state(rows.size(0), projected)
        elif not batched:
            state = tuple(part.unsqueeze(0) for part in state)
        new, _ = self.step(projected, state, prepared)
        return new if batched else tuple(part.squeeze(0) for part in new)

    def single_mode(self) -> str | None:
        """Return ATen's name of the cell if its step is exactly ATen's now, no mask drawn, else None."""
        if self._single != "":
            return self._single
        family = next(kind for kind in type(self).__mro__ if "step" in kind.__dict__)
        redefined = any(getattr(type(self), name) is not getattr(family, name) for name in ("prepare", "initial_state"))
        rate: float = getattr(self, "weight_drop", 0.0)
        mode = None if redefined or (self.training and rate) else self.vendor_mode()
        self.__dict__["_single"] = mode
        return mode

    def _aten_step(self, mode: str, x: Tensor, state: State | None) -> State | None:
        """Run ATen's step: see `run`; None where the arguments need a closer look."""
        try:
            batched = x.dim() == 2
            # vmap has no rule for ATen's cells, and autocast leaves their results in float32.
            if (not batched and x.dim() != 1) or transformed() or autocast_dtype(x) is not None:
                return None
            rows = x if batched else x.unsqueeze(0)
            if state is None:
                state = self.initial_state(rows.size(0), rows)
            elif not batched:
                state = tuple(part.unsqueeze(0) for part in state)
            plain = self._parameters  # a look there takes a quarter of the time of an attribute of a module
            if not all(name in plain for name in self.weight_names):
                return None  # parametrized: reading may draw a mask, and the long way would read again
            weights: Any = [plain[name] for name in self.weight_names]
            new = aten_step(mode, weights, rows, state)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            self._check(x, state)
            raise
        return new if batched or new is None else tuple(part.squeeze(0) for part in new)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Run one step: input (B, I) or (I,), hx None or the state, each (B, size) or (size,) -> the new state."""
        return self.run(input, hx)

    def extra_repr(self) -> str:
        """Return what `print` shows: the sizes, and the options that are not the constructor's defaults."""
        parts = [str(self.input_size), str(self.hidden_size)]
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name in ("input_size", "hidden_size", "device", "dtype") or parameter.default is parameter.empty:
                continue
            value = getattr(self, name, parameter.default)
            plain = isinstance(value, (bool, int, float, str))  # a user's cell may keep anything under the name
            default = self.hidden_size if name == "output_size" and not parameter.default else parameter.default
            if plain and value != default:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts)

    def _check(self, x: Tensor, state: State | None) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f"input must be a Tensor, got {type(x).__name__}")
        if x.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {x.dim()}D instead")
        if x.size(-1) != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {x.size(-1)} expected {self.input_size}")
        parameter = next(self.parameters(), None)
        if parameter is not None:
            check_goes_with("input", x, parameter, RuntimeError)
        if state is None:
            return
        if len(state) != len(self.state_sizes):
            raise ValueError(f"hx must hold {len(self.state_sizes)} tensors {self.state_names}, got {len(state)}")
        for label, part, size in zip(self.state_names, state, self.state_sizes, strict=True):
            if not isinstance(part, Tensor):
                raise TypeError(f"hx ({label}) must be a Tensor, got {type(part).__name__}")
            if part.dim() not in (1, 2):
                raise ValueError(f"{name}: Expected hx ({label}) to be 1D or 2D, got {part.dim()}D instead")
            if part.shape != (*x.shape[:-1], size):
                raise RuntimeError(f"hx ({label}) must have shape {(*x.shape[:-1], size)}, got {tuple(part.shape)}")
            if parameter is not None:
                check_goes_with(f"hx ({label})", part, parameter, RuntimeError)


def _real(like: Tensor) -> torch.dtype:
    """Return the dtype of a mask: bernoulli_ takes no complex numbers (and dynamo no `to_real`)."""
    return like.dtype.to_real() if like.is_complex() else like.dtype


def drop_mask(like: Tensor, rows: int, size: int, rate: float) -> Tensor:
    """Draw an inverted-dropout mask (rows, size): 0 with probability `rate`, else 1 / (1 - rate)."""
    mask = torch.empty(rows, size, dtype=_real(like), device=like.device)
    return mask.zero_() if rate == 1 else mask.bernoulli_(1 - rate).div_(1 - rate)


DROPOUT_KINDS = ("gal", "semeniuta")
"""Kinds of recurrent dropout of gated cells."""


def gated_masks(
    cell: Cell, like: Tensor, batch_sizes: Sequence[int], kind: str, rate: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw the masks of a gated cell's recurrent dropout: of the sequence ("recurrent") and of its steps ("update")."""
    if not rate:
        return {}, {}
    # The kind may have been changed since the cell was made.
    if check_choice("recurrent_dropout_kind", kind, DROPOUT_KINDS) == "gal":
        return {"recurrent": drop_mask(like, batch_sizes[0], cell.output_size, rate)}, {}
    return {}, {"update": drop_mask(like, sum(batch_sizes), cell.hidden_size, rate)}


def dropped(value: Tensor, rate: float) -> Tensor:
    """Apply inverted dropout, drawn for each element; torch's own takes no complex numbers."""
    if not value.is_complex():
        return F.dropout(value, rate)
    return value * F.dropout(torch.ones_like(value, dtype=_real(value)), rate)


def keep_mask(like: Tensor, rows: int, size: int, rate: float) -> Tensor:
    """Draw a zoneout mask (rows, size): 1 (keep the old value) with probability `rate`, else 0."""
    return torch.empty(rows, size, dtype=_real(like), device=like.device).bernoulli_(rate)


def zone(new: Tensor, old: Tensor, keep: Tensor | float) -> Tensor:
    """Apply zoneout: `old` where keep is 1, `new` where it is 0, and their mean weighted by keep in between."""
    return new + keep * (old - new)
