"""Devices by name, what makes them repeat themselves, and what a user reads when one fails."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seqkit import distributed, run
from seqkit.errors import Stopped, UserError
from seqkit.training import RunFolder, devices, pick_device
from seqkit.training import random_state as generators
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.random_state import kept_random, random_state, seed_all, set_random_state
from seqkit.training.trainer_state import differences, shapes


def there(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    """Pretend that there are so many devices of each kind."""
    monkeypatch.setattr(devices, "is_available", lambda kind: kind == "cpu" or counts.get(kind, 0) > 0)
    monkeypatch.setattr(devices, "count", lambda kind: counts.get(kind, 0))


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "mps", "xpu", "cuda:1", "cpu:0", "xpu:12"])
def test_names_that_are_devices(name: str) -> None:
    assert devices.check_name(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cudda", "did you mean 'cuda'"),
        ("gpu", "known: auto, cpu, cuda, mps, xpu"),
        ("CUDA", "is not a device"),
        ("cuda:", "cuda or cuda and a number, such as cuda:0"),
        ("cuda:x", "a number"),
        ("cuda0", "did you mean 'cuda'"),
        ("", "is not a device"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        devices.check_name(name)
    with pytest.raises(UserError, match=f"device: .*{message}"):
        pick_device(name)


def test_auto_takes_cuda_then_mps_then_xpu_then_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for here, expected in (("cuda mps", "cuda"), ("mps xpu", "mps"), ("xpu", "xpu"), ("", "cpu")):
        there(monkeypatch, **dict.fromkeys(here.split(), 1))
        assert pick_device("auto").type == expected


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, cuda=2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="cuda:2 was asked for, but there are 2, counted from cuda:0"):
        pick_device("cuda:2")
    for kind, message in (("mps", "no Apple GPU"), ("xpu", "no device of the kind xpu")):
        with pytest.raises(UserError, match=f"{kind} was asked for, but torch finds {message}.*use device=cpu"):
            pick_device(kind)


def test_several_processes_take_a_device_each(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, cuda=2, mps=1)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    taken: list[int] = []
    monkeypatch.setattr(devices, "module_of", lambda kind: SimpleNamespace(set_device=taken.append))
    assert pick_device("cuda") == torch.device("cuda", 1)
    assert taken == [1]
    with pytest.raises(UserError, match=r"^device: .*not on mps; use device=cpu"):
        pick_device("mps")
    with pytest.raises(UserError, match=r"^device: .*give cuda without a number"):
        pick_device("cuda:0")


def test_the_generator_of_every_kind_of_device_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """mps takes no device as an argument, and a kind without a generator is left out."""
    monkeypatch.setattr(generators, "known_kinds", lambda: ("cpu", "cuda", "mps", "own"))
    monkeypatch.setattr(generators, "is_available", lambda kind: kind in ("cpu", "mps", "own"))
    states = [torch.arange(2)]
    fake = SimpleNamespace(get_rng_state=lambda: states[-1], set_rng_state=states.append)
    monkeypatch.setattr(generators, "module_of", lambda kind: fake if kind == "mps" else SimpleNamespace())
    saved = random_state()
    assert saved["cuda"] == []
    assert saved["mps"][0].tolist() == [0, 1]
    assert "own" not in saved
    states.append(torch.arange(3))
    set_random_state(saved)
    assert states[-1].tolist() == [0, 1]
    with kept_random(torch.device("mps")):
        states.append(torch.arange(4))
    assert states[-1].tolist() == [0, 1]
    set_random_state({name: value for name, value in saved.items() if name != "mps"})  # from another kind of device
    set_random_state({**saved, "own": [torch.arange(2)]})  # a kind that had a generator where this was saved


def test_repeatable_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")

    def now() -> tuple[Any, ...]:
        cudnn = torch.backends.cudnn
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            cudnn.deterministic,
            cudnn.benchmark,
        )

    before = now()
    with devices.repeatable(False):
        assert now() == before
    with contextlib.suppress(ZeroDivisionError), devices.repeatable(True):
        assert now() == (True, False, False, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # the user's own choice
        raise ZeroDivisionError
    assert now() == before


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."),
            "not enough memory: CUDA out",
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), "not enough memory: MPS"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "not enough"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nadvice"), "the device has failed: CUDA"),
        (RuntimeError("shapes do not match"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_errors_of_the_device_are_told_from_those_of_the_program(error: Exception, trouble: str | None) -> None:
    found = devices.device_trouble(error)
    assert (found is None) == (trouble is None)
    if found is not None and trouble is not None:
        assert found.startswith(trouble)
        assert "\n" not in found


def test_shapes_of_a_batch() -> None:
    batch = [{"ids": torch.zeros(3, 4), "rest": (torch.zeros(2), None)}, SimpleNamespace(x=torch.zeros(9))]
    assert shapes(batch) == "ids 3x4, rest 2"
    assert shapes(None) == ""


YAML = """
task: sentiment
name: first
device: cpu
data:
  train: {path: "builtin:reviews", limit: 64}
  dev: {path: "builtin:reviews", limit: 16}
  batch_size: 16
model: {embedding: {size: 4}, encoder: {cell: lstm, hidden_size: 4}}
training: {steps: 12, checkpoint_every: 4, evaluate_every: 100, log_every: 1}
"""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory.\nadvice"), "cpu is out of memory .CUDA out of memory.*"),
        (RuntimeError("CUDA error: unspecified launch failure\nadvice"), "cpu has failed .CUDA error: unspec.*"),
    ],
)
def test_a_device_that_fails_in_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """One line with what to do, the last checkpoint is whole, and resume ends as the run that was never disturbed."""
    from seqkit.training.update import Updater

    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(YAML, "utf-8")
    run.train("c.yaml", "name=whole")
    original: Callable[..., Any] = Updater.__call__

    def failing(self: Updater, window: list[Any], step: int, *rest: Any) -> Any:
        if step == 6:
            raise error
        return original(self, window, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "__call__", failing)
        with pytest.raises(Stopped, match=rf"^step 7: {message}step 4 is whole: `seqkit resume runs/first`") as left:
            run.train("c.yaml")
    text = str(left.value)
    assert "advice" not in text
    if "out of memory" in text:
        assert "the batch: ids 16x" in text
        assert "smaller data.batch_size with training.accumulate raised" in text
    assert Checkpoints(RunFolder.open("runs/first").checkpoints).latest() == 4
    run.resume("runs/first")
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (Path("runs/first") / name).read_bytes() == (Path("runs/whole") / name).read_bytes()


def test_a_checkpoint_of_another_device_says_what_will_differ() -> None:
    (line,) = differences({"device": "NVIDIA H100"}, {"device": "cpu"})
    assert line.startswith("device was NVIDIA H100 and is cpu: the results may differ in their last bits")
    assert line.endswith(", and masks of dropout are drawn by another generator")


def test_bfloat16_on_a_cpu_without_instructions_for_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(YAML, "utf-8")
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    for precision, able, times in (("bf16", False, 1), ("bf16", True, 0), ("fp32", False, 0)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda able=able: able, raising=False)
        name = f"name={precision}_{able}"
        run.train("c.yaml", name, f"training.precision={precision}", "training.steps=1", "training.report=false")
        assert capsys.readouterr().err.count("float32 is faster here") == times
    assert devices.slow_bfloat16(torch.device("cuda")) is None
    monkeypatch.setattr(devices.platform, "machine", lambda: "arm64")
    assert devices.slow_bfloat16(torch.device("cpu")) is None


def test_deterministic_changes_nothing_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(YAML, "utf-8")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    weights = []
    for name, wanted in (("loose", "false"), ("strict", "true")):
        run.train("c.yaml", f"name={name}", f"training.deterministic={wanted}")
        weights.append((Path("runs") / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_seed_decides_every_global_generator_and_each_seed_another_way() -> None:
    def drawn(seed: int) -> tuple[float, float, float]:
        seed_all(seed)
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    kept = random_state()
    try:
        seeds = [0, 1, 2, 2**32 + 5, 2**61 + 7]
        found = [drawn(seed) for seed in seeds]
        assert [drawn(seed) for seed in seeds] == found
        for kind in zip(*found, strict=True):
            assert len(set(kind)) == len(seeds)
    finally:
        set_random_state(kept)


@pytest.mark.parametrize("warn_only", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_repeatable_puts_back_what_the_caller_had_chosen(before: bool, warn_only: bool) -> None:
    try:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        with devices.repeatable(True):
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled() == before
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(False)
