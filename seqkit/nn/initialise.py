"""Initialisation of recurrent weights, and the plain activations that cells name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from seqkit.nn.checks import check_choice

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


INITS = ("torch", "orthogonal", "irnn")
"""Ways of `initialise`."""


def initialise(weights: Mapping[str, Tensor], hidden_size: int, init: str, *, fan: int | None = None) -> None:
    """Fill the parameters of one cell in place.

    "torch": uniform in +-1/sqrt(hidden_size), drawn in torch's order, so that one seed gives torch's weights.
    "orthogonal": every gate's recurrent block orthogonal (Saxe et al. 2014), input weights Glorot uniform
    (Glorot & Bengio 2010), biases zero. "irnn": recurrent identity, input weights N(0, 0.001), biases zero
    (Le et al. 2015). Gains of layer normalisation are one and peepholes are treated like biases.
    """
    check_choice("init", init, INITS)
    bound = 1.0 / math.sqrt(fan or hidden_size)
    with torch.no_grad():
        for name, weight in weights.items():
            if name.startswith("norm"):
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            elif init == "torch":
                weight.uniform_(-bound, bound)
            elif weight.dim() < 2:
                weight.zero_()
            elif name == "weight_hh" and init == "irnn":
                nn.init.eye_(weight)
            elif name == "weight_hh":
                for block in torch.split(weight, hidden_size):
                    nn.init.orthogonal_(block)
            elif init == "irnn":
                weight.normal_(0.0, 0.001)
            else:
                for block in torch.split(weight, hidden_size):
                    nn.init.xavier_uniform_(block)


@torch.no_grad()
def refill(module: nn.Module, names: Mapping[str, str], reset: Callable[[Mapping[str, Tensor]], None]) -> None:
    """Initialise weights of a module by `reset`, which fills tensors in place.

    A parametrized weight (weight norm, an adapter) gets parameters with which it is what `reset` made.

    Args:
        names: under which name `reset` knows each weight -> its name in the module.

    Raises:
        RuntimeError: a weight that a hook makes at every call, or a parametrization without `right_inverse`.
    """
    filled: dict[str, Tensor] = {}
    for name, attribute in names.items():
        parameter = module._parameters.get(attribute)
        if parameter is None and not parametrize.is_parametrized(module, attribute):
            raise RuntimeError(
                f"{attribute} is made anew by a hook (pruning, weight norm of the old kind) and cannot be initialised; "
                "remove that first"
            )
        filled[name] = getattr(module, attribute).clone() if parameter is None else parameter
    reset(filled)
    for name, attribute in names.items():
        if attribute not in module._parameters:
            setattr(module, attribute, filled[name])
