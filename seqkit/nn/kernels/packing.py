"""Variable lengths: the packed layout in which every scan runs, and the way there and back.

Packed layout: sequences sorted by falling length; the rows alive at step t are the first b_t sequences; all steps
laid one after another give (N, F) with N = sum of b_t. It is the layout of `torch.nn.utils.rnn.PackedSequence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkit.nn.sending import send, send_together


@dataclass(frozen=True)
class Packing:
    """How (T, B, F) and the packed layout (N, F) map to each other.

    Attributes:
        sizes: b_t for every step that has a row; None for full batches, where it is [B] * T, so that a compiler may
            leave T open.
        batch_size: B, which exceeds b_0 where sequences of length 0 exist.
        num_steps: T of the padded layout.
        order: (B,) the sequence at each packed row, or None if that is the identity.
        restore: (B,) the inverse of `order`, or None.
        positions: (N,) row of the flattened (T * B) padded layout for each packed row; None if they coincide.
    """

    sizes: list[int] | None
    batch_size: int
    num_steps: int
    order: Tensor | None = None
    restore: Tensor | None = None
    positions: Tensor | None = None

    @classmethod
    def full(cls, num_steps: int, batch_size: int) -> Packing:
        """Every sequence has all T steps."""
        return cls(None, batch_size, num_steps)

    @classmethod
    def from_lengths(cls, lengths: Tensor, num_steps: int, device: torch.device) -> Packing:
        """From checked integer lengths (B,), each in [0, num_steps]; those on the CPU need not be read back."""
        lengths = lengths.detach().to("cpu", torch.long)
        batch_size = lengths.numel()
        if batch_size == 0 or bool((lengths == num_steps).all()):
            return cls.full(num_steps, batch_size)
        falling, order = torch.sort(lengths, descending=True, stable=True)
        steps = _range(int(falling[0])).unsqueeze(1)
        living = steps < falling  # (steps, B)
        positions = (steps * batch_size + order).masked_select(living)
        sizes: list[int] = living.sum(1).tolist()
        if bool((order == _range(batch_size)).all()):
            return cls(sizes, batch_size, num_steps, positions=send(positions, device))
        return cls(sizes, batch_size, num_steps, *send_together([order, torch.argsort(order), positions], device))

    @classmethod
    def from_packed(cls, packed: PackedSequence) -> Packing:
        """From torch's own packed sequence, whose data is in this layout already."""
        sizes: list[int] = packed.batch_sizes.tolist()
        full = sizes[-1] == sizes[0]
        return cls(None if full else sizes, sizes[0], len(sizes), packed.sorted_indices, packed.unsorted_indices)

    @property
    def batch_sizes(self) -> list[int]:
        """b_t for every step that has a row."""
        if self.sizes is not None:
            return self.sizes
        # A compiler cannot look into `cached_property`, which takes a lock.
        return [self.batch_size] * self.num_steps if torch.compiler.is_compiling() else self._equal_sizes

    @cached_property
    def _equal_sizes(self) -> list[int]:
        return [self.batch_size] * self.num_steps

    @property
    def first_rows(self) -> int:
        """b_0, the number of sequences that have a step."""
        return self.batch_size if self.sizes is None else self.sizes[0] if self.sizes else 0

    @property
    def is_full(self) -> bool:
        """Return whether all sequences have all T steps."""
        return self.sizes is None

    @property
    def is_rectangle(self) -> bool:
        """Return whether all sequences that have any step have the same number of them."""
        return not self.sizes or self.sizes[-1] == self.sizes[0]

    def on(self, device: torch.device, name: str) -> Tensor:
        """One of the indices that are computed on the CPU (`rectangle`, `previous_rows`, ...), on a device: it is sent
        once, however many layers and directions ask for it."""
        if device.type == "cpu":
            return getattr(self, name)  # type: ignore[no-any-return]
        if (device, name) not in self._there:
            self._there[device, name] = send(getattr(self, name), device)
        return self._there[device, name]

    @cached_property
    def _there(self) -> dict[tuple[torch.device, str], Tensor]:
        return {}

    @cached_property
    def rectangle(self) -> Tensor:
        """(N,) where each packed row lies in (steps * b_0), the smallest padded layout in the packed order."""
        step, row = self._coordinates
        return step * self.first_rows + row

    def chunks(self, count: int) -> list[tuple[Packing, int, int]]:
        """At most `count` stretches of time of nearly equal length: layout, first row and end row of each.

        Every stretch takes and returns states of all B sequences; those that have ended pass through.
        """
        steps = len(self.batch_sizes)
        size = max(1, -(-steps // count))
        return self._cut(list(range(0, steps, size)))

    def falling(self, ratio: float, count: int) -> list[tuple[Packing, int, int]]:
        """As `chunks`, with a new stretch where the living rows fall to `ratio` of those at the stretch's start."""
        starts: list[int] = []
        rows = 0
        for t, size in enumerate(self.batch_sizes):
            if not t or (size <= ratio * rows and len(starts) < count):
                starts.append(t)
                rows = size
        return self._cut(starts)

    def _cut(self, starts: list[int]) -> list[tuple[Packing, int, int]]:
        stretches: list[tuple[Packing, int, int]] = []
        row = 0
        for first, end in zip(starts, [*starts, len(self.batch_sizes)][1:], strict=True):
            sizes = self.batch_sizes[first:end]
            full = sizes[-1] == self.batch_size
            stretches.append((Packing(None if full else sizes, self.batch_size, len(sizes)), row, row + sum(sizes)))
            row += sum(sizes)
        return stretches

    def pack(self, padded: Tensor) -> Tensor:
        """(T, B, F) -> (N, F)."""
        flat = padded.reshape(-1, padded.size(-1))
        return flat if self.positions is None else flat.index_select(0, self.positions)

    def unpack(self, packed: Tensor) -> Tensor:
        """(N, F) -> (T, B, F), zero past each length."""
        shape = (self.num_steps, self.batch_size, packed.size(-1))
        if self.is_full:
            return packed.reshape(shape)
        positions = self.on(packed.device, "rectangle") if self.positions is None else self.positions
        rows = packed.new_zeros(self.num_steps * self.batch_size, packed.size(-1))
        return rows.index_copy_(0, positions, packed).view(shape)

    def sort(self, state: Tensor) -> Tensor:
        """(..., B, F) in the caller's order -> in the order of the packed rows."""
        return state if self.order is None else state.index_select(-2, self.order)

    def unsort(self, state: Tensor) -> Tensor:
        """Return the inverse of `sort`: (..., B, F)."""
        return state if self.restore is None else state.index_select(-2, self.restore)

    def flip(self, packed: Tensor) -> Tensor:
        """Reverse every sequence within its own length: (N, F) -> (N, F); its own inverse."""
        if self.is_full:
            return packed.view(self.num_steps, self.batch_size, packed.size(-1)).flip(0).view(packed.shape)
        return packed.index_select(0, self.on(packed.device, "flipped"))

    def spread(self, mask: Tensor) -> Tensor:
        """One row per sequence, repeated at each of its steps: (B, F) -> (N, F)."""
        if self.is_full:
            return mask.expand(self.num_steps, *mask.shape).reshape(-1, mask.size(-1))
        return mask.index_select(0, self.on(mask.device, "row_numbers"))

    @cached_property
    def previous_rows(self) -> Tensor:
        """(N,) where the state before each step lies in [initial states (B); states after each step (N)]."""
        alive, (step, row) = self._alive, self._coordinates
        # The rows before step t begin at B + (start of step t - 1), and at 0 for the first step.
        starts = torch.cat([_range(1), self.batch_size + (alive.cumsum(0) - alive)[:-1]])
        return starts[step] + row

    @cached_property
    def last_rows(self) -> Tensor:
        """(B,) where each sequence's last state lies in the same layout."""
        alive, row = self._alive, _range(self.batch_size)
        lengths = torch.searchsorted(-alive, -row, right=False)
        starts = torch.cat([_range(1), self.batch_size + (alive.cumsum(0) - alive)])
        return starts[lengths] + row

    @cached_property
    def _alive(self) -> Tensor:
        return torch.tensor(self.batch_sizes, dtype=torch.long, device="cpu")

    @cached_property
    def _coordinates(self) -> tuple[Tensor, Tensor]:
        return _coordinates(self._alive)

    @property
    def row_numbers(self) -> Tensor:
        """(N,) which of the B sequences, in the packed order, each packed row belongs to."""
        return self._coordinates[1]

    @cached_property
    def flipped(self) -> Tensor:
        """(N,) the packed row that takes the place of each one where sequences are reversed."""
        alive, (step, row) = self._alive, self._coordinates
        starts = alive.cumsum(0) - alive
        # The length of row j is the number of steps with b_t > j.
        lengths = torch.searchsorted(-alive, -row, right=False)
        return starts[lengths - 1 - step] + row


def no_rows(sources: Sequence[Tensor], size: int) -> Tensor:
    """(0, size) in the dtype of `sources[0]`: the output where no sequence has a step, with gradients of zero."""
    nothing = torch.stack([value.flatten()[:0].sum().to(sources[0].dtype) for value in sources]).sum()
    return sources[0].new_zeros(0, size) + nothing


def _range(end: int) -> Tensor:
    """0 ... end - 1 on the CPU, whatever torch's default device is."""
    return torch.arange(end, device="cpu")


def _coordinates(alive: Tensor) -> tuple[Tensor, Tensor]:
    """Return step and row of each packed row, both (N,), from the rows alive at each step."""
    step = torch.repeat_interleave(_range(alive.numel()), alive)
    return step, _range(step.numel()) - (alive.cumsum(0) - alive)[step]


def steps_within(lengths: Tensor, like: Tensor) -> Tensor:
    """Return which steps of `like` (T, B, ...) are no padding, for lengths (B,): (T, B, 1) bool, on its device."""
    shape = like.size(0), like.size(1)  # not left to broadcasting, which takes an example's one step for all there are
    steps = torch.arange(like.size(0), device=like.device).unsqueeze(1)
    return (steps.expand(shape) < send(lengths, like.device).expand(shape)).unsqueeze(2)


def length_vector(lengths: Tensor | Sequence[int]) -> Tensor:
    """Return lengths as an integer tensor: on the CPU, unless they are a tensor elsewhere.

    Raises:
        TypeError: lengths that are not integers.
    """
    if isinstance(lengths, Tensor):
        vector = lengths
    else:
        # Not the array itself: torch takes no numpy array with a negative stride.
        values = lengths.tolist() if hasattr(lengths, "tolist") else lengths
        try:
            vector = torch.as_tensor(values, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"lengths must be integers, got {lengths!r}") from error
        if vector.numel() == 0:
            vector = vector.long()
    if vector.dtype not in _INTEGERS:
        raise TypeError(f"lengths must be integers, got {vector.dtype}")
    return vector.detach()


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_lengths(lengths: Tensor | Sequence[int], batch_size: int, num_steps: int) -> Tensor:
    """Return lengths as a CPU integer tensor (B,).

    Raises:
        TypeError: lengths that are not integers.
        ValueError: the wrong number of them, or one outside [0, num_steps].
    """
    vector = length_vector(lengths)
    if vector.shape != (batch_size,):
        raise ValueError(f"lengths must have shape ({batch_size},), one per sequence, got {tuple(vector.shape)}")
    vector = vector.cpu()
    if batch_size and (int(vector.min()) < 0 or int(vector.max()) > num_steps):
        wrong = vector[(vector < 0) | (vector > num_steps)][0]
        raise ValueError(f"lengths must lie between 0 and {num_steps} (the steps of the input), got {int(wrong)}")
    return vector
