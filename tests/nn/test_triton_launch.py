"""What is kept between launches of a Triton kernel, on a kernel that is none: this needs no Triton and no card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.triton import launch


class Recorder:
    """Stands for a kernel: counts compilations, and keeps what each launch was given."""

    def __init__(self) -> None:
        self.compiled: list[tuple[Any, ...]] = []
        self.launched: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        def compile_and_launch(*arguments: Any, **options: Any) -> dict[Any, Callable[..., None]]:
            self.compiled.append((grid, arguments, options))
            return {(*grid, 1, 1): lambda *found: self.launched.append(found)}

        return compile_and_launch


CPU = torch.device("cpu")


def start(kernel: Recorder, pointers: list[torch.Tensor | None], **changed: Any) -> None:
    given = {"floats": (0.5,), "counts": (3, 2), "constants": (8, True, False), "warps": 4, "programs": 6, **changed}
    launched = launch.Launch(
        kernel, CPU, pointers, given["floats"], given["counts"], given["constants"], given["warps"]
    )
    launched(given["programs"], 0, 3, 0)


def test_one_compilation_for_arguments_of_one_kind() -> None:
    kernel = Recorder()
    for _ in range(3):
        start(kernel, [torch.zeros(8), None, torch.zeros(8, dtype=torch.int32)])
    assert len(kernel.compiled) == 1
    assert len(kernel.launched) == 2


def test_later_launches_take_their_own_values() -> None:
    kernel, first, second = Recorder(), torch.zeros(8), torch.ones(8)
    start(kernel, [first, None])
    start(kernel, [second, None], floats=(0.25,), counts=(7, 5))
    assert kernel.launched == [(second.data_ptr(), None, 0.25, 0, 3, 0, 7, 5, 8, True, False)]


@pytest.mark.parametrize(
    ("pointers", "changed"),
    [
        ([torch.zeros(9)[1:], None], {}),
        ([torch.zeros(8), torch.zeros(8)], {}),
        ([None, torch.zeros(8)], {}),
        ([torch.zeros(8, dtype=torch.float16), None], {}),
        ([torch.zeros(8), None], {"constants": (16, True, False)}),
        ([torch.zeros(8), None], {"constants": (8, False, False)}),
        ([torch.zeros(8), None], {"warps": 8}),
        ([torch.zeros(8), None], {"programs": 12}),
        ([torch.zeros(8), None], {"counts": (3, 2**31)}),
    ],
    ids=["misaligned", "one more", "one less", "dtype", "constant", "stepwise", "warps", "programs", "wide"],
)
def test_whatever_triton_compiles_for_takes_another_entry(
    pointers: list[torch.Tensor | None], changed: dict[str, Any]
) -> None:
    kernel = Recorder()
    start(kernel, [torch.zeros(8), None])
    for _ in range(2):
        start(kernel, pointers, **changed)
    assert len(kernel.compiled) == 2
    assert len(kernel.launched) == 1


def test_another_device_and_another_kernel_take_another_entry() -> None:
    kernel, other = Recorder(), Recorder()
    start(kernel, [torch.zeros(8)])
    start(other, [torch.zeros(8)])
    assert len(other.compiled) == 1
    device = torch.device("cuda", 1)
    launch.Launch(kernel, device, [torch.zeros(8)], (0.5,), (3, 2), (8, True, False), 4)(6, 0, 3, 0)
    assert len(kernel.compiled) == 2


def test_a_misaligned_mask_of_a_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that begins at an odd address, as a cut of the masks of a stretch may, through `run`."""
    monkeypatch.setattr(launch.FORCED, "mode", "persistent")
    kernel, state, packing = Recorder(), torch.zeros(4, 16), Packing.full(2, 4)
    plan = launch.forward_plan(state, 4)
    for mask in (torch.zeros(8, 16), torch.zeros(129)[1:].view(8, 16)) * 2:
        launch.run(kernel, plan, packing, state, 2, [state, mask], (0.0,), ())
    assert len(kernel.compiled) == 2
    assert len(kernel.launched) == 2


def test_counters_are_zeros() -> None:
    assert not launch.zeros(CPU, 40).any()
