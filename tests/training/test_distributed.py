"""Several processes: the same losses and scores as one, resuming, signals, and what happens when one dies."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from seqkit import distributed
from seqkit.data.batching import Batches, Spare
from seqkit.errors import UserError
from seqkit.run import read_config, resume, train
from seqkit.tasks.language_model.task import LanguageModelTask
from seqkit.training import Trainer, TrainingConfig
from seqkit.training import trainer as trainer_module
from seqkit.training.checkpoint import Checkpoints, load_weights
from seqkit.training.data_parallel import own_part
from seqkit.training.devices import own_device
from seqkit.training.random_state import own_seed

SCRIPT = Path(__file__).with_name("distributed_jobs.py")


def _jobs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distributed_jobs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


jobs = _jobs()


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "TORCH_CPP_LOG_LEVEL": "ERROR"}


def records(path: Path, split: str = "train") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [record for record in found if record["split"] == split]


def losses(path: Path) -> list[float]:
    return [record["loss"] for record in records(path)]


def same_bits(one: Path, other: Path) -> None:
    """Weights, optimiser, random states, best list and logs."""
    checkpoints = [Checkpoints(folder / "checkpoints") for folder in (one, other)]
    steps = [found.steps() for found in checkpoints]
    assert steps[0] == steps[1]
    for name in ("model.safetensors", "trainer.safetensors"):
        contents = [(found.path(steps[0][-1]) / name).read_bytes() for found in checkpoints]
        assert contents[0] == contents[1], name
    states = [found.load(steps[0][-1])[1]["state"] for found in checkpoints]
    sizes = [state.pop("logs")["jsonl"] for state in states]  # the times in timing.jsonl differ
    assert states[0] == states[1]
    assert sizes[0]["metrics"] == sizes[1]["metrics"]
    for name in ("metrics.jsonl", "scores.json", "model.safetensors", "dev.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def alone(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process."""
    out = tmp_path_factory.mktemp("distributed")
    for name, config in jobs.variants(generated_data).items():
        train({**config, "name": name}, root=out / "one")
    assert jobs.stopped({**jobs.tree(generated_data, "language_model"), "name": "to-two"}, out / "one", 0) == 143
    return out


@pytest.fixture(scope="module")
def done(generated_data: Path, alone: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All runs of two processes, started as a user starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    arguments = ["main", str(generated_data), str(alone)]
    found = subprocess.run(
        command + arguments, env=environment(), capture_output=True, text=True, timeout=400, check=False
    )
    assert (alone / "codes.json").exists(), found.stderr[-5000:]
    return alone, found


@pytest.fixture(scope="module")
def two(done: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    return done[0]


@pytest.mark.parametrize("name", [*jobs.TASKS, "adversarial", "kept", "stream", "unfrozen", "windows"])
def test_two_processes_learn_what_one_learns(two: Path, name: str) -> None:
    """Batches of 13 and one of 1, tokens of different number on both sides: every token weighs the same."""
    expected = losses(two / "one" / name)
    assert losses(two / "two" / name) == pytest.approx(expected, rel=1e-5)
    assert max(expected) > 1.01 * min(expected)
    weights = [load_weights(two / run / name / "model.safetensors") for run in ("one", "two")]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)
    ours, theirs = (records(two / run / name, "dev") for run in ("one", "two"))
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert other.pop("split") == one.pop("split") == "dev"
        assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("task", jobs.TASKS)
def test_scores_of_the_same_weights_are_the_same_bits(two: Path, task: str) -> None:
    by_one = json.loads((two / "one" / task / "scores.json").read_text())["test"]
    assert json.loads((two / f"scores-{task}.json").read_text()) == by_one


@pytest.mark.parametrize("task", ["sentiment", "language_model"])
def test_same_seed_and_processes_same_bits_also_after_a_stop(two: Path, task: str) -> None:
    same_bits(two / f"two/{task}-whole", two / f"two/{task}-again")
    same_bits(two / f"two/{task}-whole", two / f"two/{task}-cut")
    assert Checkpoints(two / f"two/{task}-early/checkpoints").latest() == 11


def test_a_signal_to_one_process_stops_all_after_the_same_update(two: Path) -> None:
    codes = {"sentiment": 143, "language_model": 143, "plain": 130}
    assert json.loads((two / "codes.json").read_text()) == [codes, codes]


def test_a_mistake_is_told_once_and_stops_all(two: Path) -> None:
    taken, poisoned = json.loads((two / "told.json").read_text())
    assert [kind for kind, _ in taken] == ["UserError", "Stopped"]
    assert "this run exists already" in taken[0][1]
    assert taken[1][1] == poisoned[1][1] == ""
    # The first process tells of the examples of the second, whose loss it was.
    assert "step 3: the loss is nan" in poisoned[0][1]
    assert poisoned[0][1].count("train.tsv:") == 6


def test_the_first_process_reserves_and_leaves_nothing(two: Path) -> None:
    assert list((two / "two").glob(".*")) == []


def test_a_run_is_replaced_in_all_processes(two: Path) -> None:
    folder = two / "two/replaced"
    about = json.loads((folder / "run.json").read_text("utf-8"))
    assert about["config"]["seed"] == 2
    assert (
        Checkpoints(folder / "checkpoints").latest() == json.loads((folder / "scores.json").read_text("utf-8"))["step"]
    )


def test_each_process_has_masks_of_its_own(two: Path) -> None:
    saved = Checkpoints(two / "two/sentiment-early/checkpoints").load(11)[1]
    states = [state["torch"] for state in saved["random"]["processes"]]
    assert len(states) == 2
    assert not torch.equal(states[0], states[1])


def test_a_run_goes_on_with_another_number_of_processes(two: Path) -> None:
    """The carried states of a language model's streams are put together and shared anew."""
    expected = losses(two / "one/language_model")
    assert losses(two / "one/to-two") == pytest.approx(expected, rel=1e-5)
    assert len(losses(two / "two/to-one")) < jobs.STEPS
    resume(two / "two/to-one")
    assert losses(two / "two/to-one") == pytest.approx(expected, rel=1e-5)
    resume(two / "two/sentiment-early")
    assert len(losses(two / "two/sentiment-early")) == 20


def test_a_process_that_fails_ends_the_job_with_its_message(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert done[1].returncode == 1
    assert "UserError: this process has had enough" in done[1].stderr
    assert "another process has ended (it was killed, or its own message says why)" in done[1].stderr
    starts = len(list((done[0] / "two").iterdir())) - 2 + 1  # two are copies, and one was replaced
    assert done[1].stderr.count("run folder: ") == starts


def test_more_processes_than_examples(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {**environment(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3"}
    command = [sys.executable, str(SCRIPT), "uneven", str(tmp_path), str(tmp_path)]
    own = [{**place, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(3)]
    started = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for env in own]
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0, 0], ended
    assert [len(text) > 0 for text, _ in ended] == [True, False, False]
    jobs.uneven(tmp_path, tmp_path)
    for accumulate in (1, 2):
        one, three = (records(tmp_path / f"{world}-{accumulate}") for world in (1, 3))
        assert len(one) == len(three) == 12
        for ours, theirs in zip(one, three, strict=True):
            assert ours.pop("split") == theirs.pop("split") == "train"
            assert theirs == pytest.approx(ours, rel=1e-5)
        scores = [[record["loss"] for record in records(tmp_path / f"{w}-{accumulate}", "dev")] for w in (1, 3)]
        assert scores[1] == pytest.approx(scores[0], rel=1e-5)


# --- pieces ---------------------------------------------------------------------------------------------------------


def test_shares_hold_every_example_once() -> None:
    plan = [np.arange(size, dtype=np.int64) for size in (5, 1, 7)]
    batches = Batches(plan, lambda rows: rows.tolist(), 1)
    shares = [list(batches.share(rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert [part for part, *_ in shares] == [[0], Spare([0]), Spare([0])]
    assert sorted(row for _, rows in shares for row in rows) == list(range(7))


def test_carries_are_shared_and_joined(generated_data: Path) -> None:
    task = LanguageModelTask.create(read_config(jobs.tree(generated_data, "language_model"))[0])
    carry = tuple(torch.randn(2, 5, 3) for _ in range(2))
    for world in (1, 2, 3, 7):
        parts = [task.split_carry(carry, rank, world) for rank in range(world)]
        for whole, joined in zip(carry, task.join_carries(parts), strict=True):
            assert torch.equal(whole, joined)


def test_alone_nothing_is_changed_or_waited_for() -> None:
    assert (distributed.world(), distributed.rank(), distributed.first()) == (1, 0, True)
    assert own_seed(17) == 17
    assert distributed.spread([3, 4], lambda value: value * 2) == [6, 8]
    assert distributed.gathered([1, 2]) == [1, 2]
    batches = [1, 2]
    assert own_part(batches) is batches


def test_a_signal_that_comes_while_processes_agree_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(jobs.Uneven(), TrainingConfig(), tmp_path, device="cpu")

    def agree(number: int) -> int:
        trainer._watch.received = 15
        return number

    monkeypatch.setattr(trainer_module, "largest", agree)
    assert not trainer._received()
    assert trainer._received()


def test_batches_that_cannot_be_shared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    with pytest.raises(UserError, match=r"the list that this task's batches\(\) returns cannot be shared"):
        own_part([1, 2])
    with pytest.raises(UserError, match="process 0 of this machine has no CUDA device of its own, there are 0"):
        own_device("cuda")
    assert own_seed(5, 3) != own_seed(5, 4) != 5
    seeds = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        seeds.append(own_seed(5))
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
