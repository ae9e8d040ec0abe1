"""Low-rank adapters: a frozen weight W computes as W + (alpha / rank) B A, and only A and B are trained.

Hu et al. 2022 ("LoRA"), eq. 3. An adapter hangs on the weight itself (`torch.nn.utils.parametrize`) and not on a
product with it, so that every road of this package takes it: a backend, a compiler, a packed batch or a cell of one's
own reads the weight as it always does, once a call. Where something reads it more often, at every step of a decoder,
say, `with torch.nn.utils.parametrize.cached():` around the call computes it once.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from seqkit.nn.checks import autocast_enabled, check_probability, check_size, did_you_mean
from seqkit.nn.crf import CRF

PLACE = ".parametrizations."  # where torch keeps what a parametrized weight is made of


class Adapter(nn.Module):
    """W (M, K) -> W + (alpha / rank) B A with A (rank, K), B (M, rank); a parametrization of W.

    A weight that stacks the gates of a cell, such as W_hh (4H, H), has one adapter for the whole stack: the gates share
    A, each has rows of B to itself.

    A starts uniform in +-1/sqrt(K), as in the authors' code, and B at zero, so that at first nothing is changed.

    Args:
        weight: gives shape, device and dtype.
        rank: of B A.
        alpha: see above.
        dropout: probability with which a feature of the adapter's input is left out, in training. The paper draws it
            for each vector; here it is drawn once a call, for a product with the sum W + B A leaves no other way.
    """

    alpha: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.dropout = dropout
        self.lora_a = nn.Parameter(weight.new_empty(rank, columns).uniform_(-1, 1).div_(math.sqrt(columns)))
        self.lora_b = nn.Parameter(weight.new_zeros(rows, rank))
        # In the state dict, so that it can be merged without the model.
        self.register_buffer("alpha", weight.new_tensor(alpha))

    def forward(self, weight: Tensor) -> Tensor:
        """(M, K) -> (M, K)."""
        a: Tensor = self.lora_a
        if self.training and self.dropout:
            a = a * F.dropout(a.new_ones(a.size(1)), self.dropout)
        device = weight.device.type
        if not autocast_enabled(device):
            return _adapted(weight, a, self.lora_b, self.alpha)
        with torch.autocast(device, enabled=False):  # the sum shall not be rounded; the products that take it may be
            return _adapted(weight, a, self.lora_b, self.alpha)

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the W with which the sum is `value`: for assignments to the adapted weight."""
        return _adapted(value, self.lora_a, self.lora_b, -self.alpha)

    def extra_repr(self) -> str:
        return f"rank={self.lora_a.size(0)}, alpha={self.alpha.item():g}, dropout={self.dropout}"


def check_numbers(rank: int, alpha: float, dropout: float) -> None:
    """Refuse what no adapter can be made with; see `add_lora`.

    Raises:
        ValueError, TypeError: the message starts with the argument's name.
    """
    check_size("rank", rank)
    check_probability("dropout", dropout)
    if isinstance(alpha, bool) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, got {alpha}")


def _adapted(weight: Tensor, a: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
    return torch.addmm(weight, b * (alpha / a.size(0)), a)


@dataclass(frozen=True)
class Adapted:
    """What `add_lora` did.

    Attributes:
        rank: of the adapters.
        names: the weights that have one.
        left_out: weights that a pattern matches and that have none, with the reason.
        trained: the parameters that are left to train.
        total: all there are, adapters not counted.
    """

    rank: int
    names: list[str]
    left_out: dict[str, str]
    trained: int
    total: int

    def lines(self) -> list[str]:
        """Return a report, line by line."""
        share = f"{self.trained:,} of {self.total:,} parameters train ({self.trained / self.total:.1%})"
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(name)
        first = f"rank {self.rank} on {len(self.names)} weight{'s' * (len(self.names) > 1)}; {share}"
        return [first] + [f"left out {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def add_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    on: Sequence[str] = ("*",),
    train: Sequence[str] = (),
) -> Adapted:
    """Freeze a model and put adapters on the weights of its recurrent and linear layers.

    Before the first update the model computes what it did, bit for bit. Its state dict holds an adapted weight as
    `MODULE.parametrizations.NAME.original`, with `.0.lora_a`, `.0.lora_b` and `.0.alpha`; `merged` has the plain names.

    Args:
        model: changed in place. Its parameters get `requires_grad=False`, but for those that `train` names.
        rank: rank of each adapter, at least 1 and below both sides of the weight.
        alpha: an adapter is multiplied by alpha / rank before it is added to its weight.
        dropout: probability with which a feature of an adapter's input is left out, in training, drawn once a call.
        on: name patterns, as in a shell, of the weights that get an adapter (`encoder.recurrent.weight_*`): weights of
            any cell, your own included, and of linear layers wherever they are. Embedding tables, tied weights and
            weights that are parametrized already get none.
        train: name patterns of the parameters that are trained whole instead, such as a new output layer.

    Returns:
        what was done.

    Raises:
        ValueError: a bad number; a pattern that matches nothing, or nothing that can have an adapter; adapters are
            there already. The message starts with the argument's name.
        TypeError: a rank that is not an int.
    """
    check_numbers(rank, alpha, dropout)
    if not on:
        raise ValueError("on: names no pattern; give at least one")
    if next(_adapters(model), None) is not None:
        raise ValueError("model: it has adapters already; merge_lora(model) makes them part of its weights")
    places, trained = _places(model), _trained(model, train)
    reasons = {name: _refusal(model, name, places[name][0], rank) for name in places}
    chosen, left_out = [], {}
    for pattern in on:
        matches = [name for name in places if fnmatch.fnmatchcase(name, pattern) and name not in trained]
        fit = [name for name in matches if not reasons[name]]
        if not fit:
            raise ValueError(f"on: {_nothing(pattern, matches, places, reasons)}")
        chosen += fit
        left_out.update({name: reasons[name] for name in matches if reasons[name]})
    total = sum(value.numel() for value in model.parameters())
    for name, value in model.named_parameters(remove_duplicate=False):
        value.requires_grad_(name in trained)
    names = [name for name in places if name in set(chosen)]
    for name in names:
        module, attribute = places[name]
        adapter = Adapter(getattr(module, attribute), rank, alpha, dropout).train(module.training)
        parametrize.register_parametrization(module, attribute, adapter)
    count = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return Adapted(rank, names, left_out, count, total)


def _places(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """All matrices of a model by name, each with its module and its name there."""
    places = {}
    for prefix, module in model.named_modules():
        for name, value in module.named_parameters(recurse=False):
            if value.dim() == 2:
                places[f"{prefix}.{name}".lstrip(".")] = (module, name)
    return places


def _trained(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the parameters that are trained whole, with all names of those that have several."""
    named = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in named):
            raise ValueError(f"train: {pattern!r} matches no parameter{_hint(pattern, named)}")
    wanted = [value for name, value in named.items() if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    return {name for name, value in named.items() if any(value is match for match in wanted)}


def _refusal(model: nn.Module, name: str, module: nn.Module, rank: int) -> str:
    """Return why a matrix can have no adapter; empty where it can."""
    value = model.get_parameter(name)
    named = model.named_parameters(remove_duplicate=False)
    others = [other for other, same in named if same is value and other != name]
    if others:
        return f"tied to {', '.join(others)}, which an adapter would untie"
    if PLACE in f".{name}" or parametrize.is_parametrized(module):
        return "its module is parametrized already (torch.nn.utils.parametrize.remove_parametrizations ends that)"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "an embedding table, of which a batch reads a few rows; an adapter would compute all of them"
    if isinstance(module, CRF):
        return "scores of a CRF, which are no projection"
    if rank >= min(value.shape):
        shape = " x ".join(map(str, value.shape))
        return f"rank {rank} is not below the sides of its {shape}; a smaller rank, or `train` for the whole weight"
    return ""


def _nothing(pattern: str, matches: Sequence[str], places: Mapping[str, object], reasons: Mapping[str, str]) -> str:
    if matches:
        first = {reasons[name]: name for name in reversed(matches)}  # a weight for each reason
        why = "; ".join(f"{name}: {reason}" for reason, name in reversed(first.items()))
        return f"{pattern!r} matches no weight that can have an adapter; {why}"
    known = [name for name in places if not reasons[name]]
    if any(fnmatch.fnmatchcase(name, pattern) for name in places):
        return f"{pattern!r} matches weights that `train` names only"
    return f"{pattern!r} matches no matrix{_hint(pattern, known)}"


def _hint(pattern: str, names: Sequence[str] | Mapping[str, object]) -> str:
    return did_you_mean(pattern, names, 0.5) or f"; there are: {', '.join(names)}"


def _adapters(model: nn.Module) -> Iterator[tuple[nn.Module, str, Adapter]]:
    """Each adapted weight: its module, its name there, and the adapter."""
    for module in model.modules():
        if not parametrize.is_parametrized(module):
            continue
        for name, chain in module.parametrizations.items():  # type: ignore[operator,union-attr]
            if isinstance(chain[-1], Adapter):
                yield module, name, chain[-1]


@torch.no_grad()
def merge_lora(model: nn.Module) -> nn.Module:
    """Add the adapters to the weights, in place: a plain model again, which computes the same.

    Which parameters are frozen stays as it is. A model without adapters is left alone.

    Args:
        model: changed in place.

    Returns:
        the model.
    """
    adapted: dict[nn.Module, dict[str, nn.Parameter]] = {}
    for module, name, adapter in _adapters(model):
        adapter.eval()
        value = getattr(module, name)
        adapted.setdefault(module, {})[name] = module.parametrizations[name].original  # type: ignore[index,union-attr]
        adapted[module][name].copy_(value)
    for module, weights in adapted.items():
        # Not `remove_parametrizations`, which takes the property from a class that deep copies of the module share.
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, weight in weights.items():
            module.register_parameter(name, weight)
    return model


@torch.no_grad()
def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the state dict of an adapted model into the state dict of the plain model that computes the same.

    Args:
        state: names as `add_lora` says; one without adapters comes back as it is.
    """
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        head, place, tail = name.rpartition("parametrizations.")
        weight, _, part = tail.partition(".")
        prefix = f"{head}{place}{weight}.0."
        if not place or f"{prefix}lora_a" not in state:
            plain[name] = value
        elif part == "original":
            plain[head + weight] = _adapted(value, *(state[prefix + key] for key in ("lora_a", "lora_b", "alpha")))
    return plain
