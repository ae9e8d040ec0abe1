"""The global random generators: seeding them, saving them, putting them back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqkit import distributed
from seqkit.training.devices import is_available, known_kinds, module_of


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator: torch's, the present devices', numpy's and Python's."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        **device_random(),
        "torch": torch.get_rng_state(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), gauss),
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    set_device_random(state)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


def seed_all(seed: int) -> None:
    """Seed every global random generator."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def own_seed(seed: int, step: int = 0) -> int:
    """Return the seed of this process's random generators: masks of dropout differ between processes.

    Args:
        seed: of the run, which the first process has at the start.
        step: where training goes on with another number of processes than it had.
    """
    if distributed.rank() == step == 0:
        return seed
    return int(np.random.SeedSequence([seed, distributed.rank(), step]).generate_state(1, np.uint64)[0] >> 1)


def random_states() -> dict[str, Any]:
    """Return the states of the random generators of all processes."""
    return random_state() if distributed.world() == 1 else {"processes": distributed.gather(random_state())}


def set_random_states(saved: Mapping[str, Any], seed: int, step: int) -> None:
    """Put back what `random_states` returned; with another number of processes the generators get new seeds.

    Args:
        saved: at `step`.
        seed: of the run.
        step: updates made.
    """
    states = saved.get("processes", [saved])
    if len(states) == distributed.world():
        set_random_state(states[distributed.rank()])
    else:
        seed_all(own_seed(seed, step))


def device_random() -> dict[str, list[Tensor]]:
    """Return the random generator of the present device of each kind: other devices belong to other processes, and
    those of the next machine may be fewer. A kind that keeps no generator of its own is left out."""
    found: dict[str, list[Tensor]] = {"cuda": []}
    for kind in known_kinds()[1:]:
        if is_available(kind) and hasattr(module_of(kind), "get_rng_state"):
            found[kind] = [module_of(kind).get_rng_state()]
    return found


def set_device_random(states: Mapping[str, list[Tensor]]) -> None:
    """Put back what `device_random` returned, for those kinds that are here."""
    for kind in known_kinds()[1:]:
        if states.get(kind) and is_available(kind) and hasattr(module_of(kind), "set_rng_state"):
            module_of(kind).set_rng_state(states[kind][0])


@contextmanager
def kept_random(device: torch.device) -> Iterator[None]:
    """Put the random generators of torch (the CPU's and this device's), numpy and Python back when the block ends."""
    module = module_of(device.type)
    own = device.type != "cpu" and hasattr(module, "get_rng_state")
    indexed = (device,) if device.type != "mps" else ()
    before = torch.get_rng_state(), module.get_rng_state(*indexed) if own else None
    others = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(others[0])
        random.setstate(others[1])
        if before[1] is not None:
            module.set_rng_state(before[1], *indexed)
