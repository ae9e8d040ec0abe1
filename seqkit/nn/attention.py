"""Attention: what to read from a memory of S vectors, given Q queries.

All kinds have the same two calls. `keys, values = attention.project(memory)` runs once per sentence; then
`context, weights = attention(query, keys, values, padding)` serves one step of a decoder or all steps at once.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from seqkit.nn.checks import check_size, from_table
from seqkit.nn.kernels.additive import additive_scores
from seqkit.nn.kernels.attention_step import AdditiveReader, DotReader, Reader
from seqkit.nn.kernels.kernel import Tensors
from seqkit.nn.linear import Linear
from seqkit.nn.sending import send


class Attention(nn.Module):
    """Base of every kind: weights = softmax(score(query, key)) over the source, context = sum of weights * values.

    A subclass writes `scores`, and `project` where the keys are not the memory itself.

    Args:
        query_size: features of a query, A.
        memory_size: features of a vector of the memory, M.

    Class attributes:
        reader: reads for one step after another with a hand-derived backward; see `kernel`. It is not inherited: a
            subclass may compute something else.

    Attributes:
        context_size: features of a context, C; M unless a subclass says otherwise.

    Raises:
        TypeError, ValueError: a size that is not a positive int; the message starts with its name.
    """

    reader: type[Reader] | None = None

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.query_size = check_size("query_size", query_size)
        self.memory_size = check_size("memory_size", memory_size)
        self.context_size = memory_size

    def project(self, memory: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute what depends on the source alone, once per sentence.

        Args:
            memory: (B, S, M).
            padding: (B, S) bool; with it, NaN or infinity on padding cannot reach the gradients of weights.

        Returns:
            keys (B, S, ...) and values (B, S, ...).
        """
        memory = cleared(memory, padding)
        return memory, memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Score the memory: query (B, Q, A), keys (B, S, ...) from `project` -> unnormalised weights (B, Q, S)."""
        raise NotImplementedError(f"{type(self).__name__} must define scores(query, keys)")

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None, clean: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Read from the memory.

        Args:
            query: (B, Q, A).
            keys, values: (B, S, ...) each, from `project`.
            padding: (B, S) bool, True where the source has ended. A source of length 0 gives a context of zeros. None:
                all are S long; only the classes in `ATTENTIONS` are asked so.
            clean: keys and values are finite on the padding, as `project(memory, padding)` makes them. Set it when the
                same memory is read at every step: copies of it cost more than the attention itself.

        Returns:
            context (B, Q, C) and weights (B, Q, S), which are zero on padding and sum to 1 elsewhere.
        """
        if not clean:
            keys, values = cleared(keys, padding), cleared(values, padding)
        weights = masked_softmax(self.scores(query, keys), None if padding is None else padding.unsqueeze(1))
        return torch.bmm(weights, values), weights

    def kernel(self) -> tuple[type[Reader], Tensors] | None:
        """Return the class's `reader` and the weights that it takes, by name.

        Return None where the class has no reader, or a part was replaced by a module that may compute something else.
        """
        reader: type[Reader] | None = vars(type(self)).get("reader")
        if reader is None:
            return None
        weights: Tensors = {}
        for name in (name for name in ("query", "score", "output") if hasattr(self, name)):
            part = getattr(self, name)
            if type_before_parametrizations(part) in (Linear, nn.Linear) and part.bias is None:
                part = part.weight
            if not isinstance(part, Tensor):
                return None
            weights[name] = part
        return reader, weights

    def extra_repr(self) -> str:
        return f"query_size={self.query_size}, memory_size={self.memory_size}"


def padding_mask(lengths: Tensor, steps: int, device: torch.device | None = None) -> Tensor:
    """Mark padding.

    Args:
        lengths: (B,) int64.
        steps: T.
        device: of the result; None: where the lengths lie.

    Returns:
        (B, T) bool, True on padding.
    """
    lengths = lengths if device is None else send(lengths, device)
    return torch.arange(steps, device=lengths.device) >= lengths.unsqueeze(1)


def cleared(memory: Tensor, padding: Tensor | None) -> Tensor:
    """Return the memory with zeros on its padding: a weight of 0 times NaN or infinity would be NaN.

    Args:
        memory: (B, S, F), or (B, heads, S, F).
        padding: (B, S) bool; None: there is none.
    """
    if padding is None:
        return memory
    where = padding.unsqueeze(-1)
    return memory.masked_fill(where if memory.dim() == 3 else where.unsqueeze(1), 0.0)


def masked_softmax(scores: Tensor, padding: Tensor | None) -> Tensor:
    """Compute the softmax over the last dimension of scores (..., S), zero where `padding` (broadcast to it) is True.

    Where everything is padding the result is zero, not NaN. None: there is no padding.
    """
    if padding is None:
        return torch.softmax(scores, dim=-1)
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(padding, lowest), dim=-1).masked_fill(padding, 0.0)


class AdditiveAttention(Attention):
    """score = v . tanh(W q + U k) (Bahdanau et al. 2015, appendix A.1.2).

    Luong et al. 2015, eq. 8, `concat`, is the same function: W_a [q; k] = W q + U k.

    Args:
        query_size, memory_size: see `Attention`.
        size: features inside the tanh.
    """

    reader = AdditiveReader

    def __init__(self, query_size: int, memory_size: int, size: int) -> None:
        super().__init__(query_size, memory_size)
        check_size("size", size)
        self.query = Linear(query_size, size, bias=False)
        self.key = Linear(memory_size, size)
        self.score = nn.Parameter(torch.empty(size))
        nn.init.uniform_(self.score, -1 / math.sqrt(size), 1 / math.sqrt(size))

    def project(self, memory: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        memory = cleared(memory, padding)
        return self.key(memory), memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return additive_scores(self.query(query), keys, self.score)


class DotAttention(Attention):
    """score = q . k (Luong et al. 2015, eq. 8, `dot`); query and memory have the same size.

    Raises:
        ValueError: the sizes differ.
    """

    reader = DotReader

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__(query_size, memory_size)
        if query_size != memory_size:
            raise ValueError(
                f"query_size {query_size} and memory_size {memory_size} must be equal for attention 'dot'; "
                "'general' takes any sizes"
            )

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return torch.bmm(query, keys.transpose(1, 2))


class GeneralAttention(Attention):
    """score = q . W k (Luong et al. 2015, eq. 8, `general`)."""

    reader = DotReader

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__(query_size, memory_size)
        self.key = Linear(memory_size, query_size, bias=False)

    def project(self, memory: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        memory = cleared(memory, padding)
        return self.key(memory), memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return torch.bmm(query, keys.transpose(1, 2))


class ScaledDotAttention(Attention):
    """score = W q . U k / sqrt(size) (Vaswani et al. 2017, eq. 1, with one head that reads the memory as it is).

    Args:
        query_size, memory_size: see `Attention`.
        size: features of W q and U k.
    """

    reader = DotReader

    def __init__(self, query_size: int, memory_size: int, size: int) -> None:
        super().__init__(query_size, memory_size)
        check_size("size", size)
        self.scale = size**-0.5
        self.query = Linear(query_size, size, bias=False)
        self.key = Linear(memory_size, size, bias=False)

    def project(self, memory: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        memory = cleared(memory, padding)
        return self.key(memory) * self.scale, memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return torch.bmm(self.query(query), keys.transpose(1, 2))


class MultiHeadAttention(Attention):
    """concat(head_1, ..., head_h) W_O, each head a scaled dot product (Vaswani et al. 2017, section 3.2.2).

    The weights that come out are the mean over the heads.

    Args:
        query_size, memory_size: see `Attention`.
        size: features of queries, keys and values, all heads together; also of the context.
        heads: h, a divisor of `size`.

    Raises:
        ValueError: `heads` does not divide `size`.
    """

    reader = DotReader

    def __init__(self, query_size: int, memory_size: int, size: int, heads: int) -> None:
        super().__init__(query_size, memory_size)
        check_size("size", size)
        if size % check_size("heads", heads):
            raise ValueError(f"heads must divide size, got {heads} heads and size {size}")
        self.heads = heads
        self.context_size = size
        self.scale = (size // heads) ** -0.5
        self.query = Linear(query_size, size, bias=False)
        self.key = Linear(memory_size, size, bias=False)
        self.value = Linear(memory_size, size, bias=False)
        self.output = Linear(size, size, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, size) to (B, heads, N, size / heads)."""
        return x.view(*x.shape[:2], self.heads, x.size(2) // self.heads).transpose(1, 2)

    def project(self, memory: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        memory = cleared(memory, padding)
        return self._split(self.key(memory) * self.scale).contiguous(), self._split(self.value(memory)).contiguous()

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None, clean: bool = False
    ) -> tuple[Tensor, Tensor]:
        if not clean:
            keys, values = cleared(keys, padding), cleared(values, padding)
        scores = torch.matmul(self._split(self.query(query)), keys.transpose(2, 3))  # (B, h, Q, S)
        weights = masked_softmax(scores, None if padding is None else padding[:, None, None])
        context = torch.matmul(weights, values).transpose(1, 2).flatten(2)
        read: Tensor = self.output(context)
        return read, weights.mean(1)


ATTENTIONS: dict[str, type[Attention]] = {
    "bahdanau": AdditiveAttention,
    "dot": DotAttention,
    "general": GeneralAttention,
    "concat": AdditiveAttention,
    "scaled_dot": ScaledDotAttention,
    "multi_head": MultiHeadAttention,
}


def make_attention(
    kind: str | Callable[..., Attention], query_size: int, memory_size: int, *, size: int = 0, heads: int = 1
) -> Attention:
    """Build an attention by name.

    Args:
        kind: a name in `ATTENTIONS`, or an `Attention` class; `dot`, `general` and `concat` are the scores of Luong et
            al. 2015, and `concat` is the additive score of `bahdanau`.
        query_size: features of a query, A.
        memory_size: features of a vector of the memory, M.
        size: features inside a kind that has an argument `size` (`bahdanau`, `concat`, `scaled_dot`, `multi_head`);
            0: `query_size`.
        heads: number of heads of a kind that has an argument `heads` (`multi_head`).

    Returns:
        the module.

    Raises:
        ValueError: an unknown kind, or an argument that the kind has no use for.
    """
    make = from_table("kind", kind, ATTENTIONS)
    known = inspect.signature(make).parameters
    for name, value, unused in (("size", size, 0), ("heads", heads, 1)):
        if value != unused and name not in known:
            raise ValueError(f"{name} has no meaning for attention {kind!r}, got {value}")
    options = {"size": size or query_size, "heads": heads}
    return make(query_size, memory_size, **{name: options[name] for name in options if name in known})
