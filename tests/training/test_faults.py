"""Kills at every file operation, in this process; and some real ones, by the script that does them all."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkit import run
from seqkit.config import from_mapping
from seqkit.training import Loss, RunFolder, Task, Trainer, TrainingConfig, reservation
from seqkit.training.checkpoint import Checkpoints

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it may touch the disk, no `finally` either."""


@pytest.fixture(scope="module")
def faults() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr(os, "fsync", lambda descriptor: None)  # it takes most of the time; only a power cut needs it
        yield importlib.import_module("faults.run")
        for name in ("faults", "faults.run", "faults.injection"):
            del sys.modules[name]


def killed(faults: Any, journal: Path, call: Callable[[], object], **plan: Any) -> bool:
    """Call with an injection; whether it was killed."""
    dead: list[bool] = []

    def die() -> None:
        dead.append(True)
        raise Killed

    injection = sys.modules["faults.injection"].Injection(plan, journal, die)
    event = injection.event

    def watched(*arguments: Any) -> None:
        if dead:
            raise Killed
        event(*arguments)

    injection.event = watched
    with pytest.MonkeyPatch.context() as patch:
        injection.install(patch.setattr)
        try:
            call()
        except Killed:
            return True
    assert not dead
    return False


class Line(Task):
    """A line with dropout through generated points; its state is carried from batch to batch."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.x = torch.linspace(0, 1, 24).view(12, 2)

    def batches(self, epoch: int, start: int = 0) -> Iterable[Tensor]:
        order = torch.randperm(12, generator=torch.Generator().manual_seed(epoch))
        return list(order.split(3))[start:]

    def loss(self, batch: Tensor, carry: Any) -> tuple[dict[str, Loss], Any]:
        carry = torch.zeros(()) if carry is None else carry
        error = self.model(self.x[batch]) - self.x[batch].sum(1, keepdim=True) + carry
        return {"loss": Loss(error.pow(2).sum(), 3.0)}, (carry + error.mean().detach()) / 2

    def evaluate(self) -> dict[str, float]:
        return {"loss": float((self.model(self.x) - self.x.sum(1, keepdim=True)).pow(2).mean().detach())}


# Both save some steps twice: at an evaluation or at the end, after the checkpoint that was due.
VARIANTS: list[dict[str, Any]] = [
    {"epochs": 2, "checkpoint_every": 2, "keep_best": 2, "average_best": True, "ema": 0.9},
    {"steps": 6, "evaluate_every": 4, "checkpoint_every": 3, "metric_mode": "max"},
]


def fit(folder: Path, tree: dict[str, Any], steps: list[int] | None = None) -> None:
    config = from_mapping({"log_every": 1, "optimizer": {"lr": 0.1}, **tree}).check(TrainingConfig)
    trainer = Trainer(Line(), config, folder, device="cpu", seed=3)
    step = trainer.restore()
    if steps is not None:
        steps.append(step)
    trainer.fit()


@pytest.mark.parametrize("tree", VARIANTS)
def test_a_kill_at_any_file_operation_loses_nothing(
    faults: Any, tmp_path: Path, tree: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path / "whole", tree)
    expected = faults.results(tmp_path / "whole")
    assert not [name for name in expected if "/." in name or name.startswith(".")]
    # Of the two events of an operation, before and after it, the second leaves what the next operation finds.
    for kind, every, least in (("save", 2, 80), ("log", 1, 7), ("start", 1, 3)):
        for nth in range(1, 1000, every):
            folder, journal = tmp_path / f"{kind}{nth}", tmp_path / f"journal-{kind}{nth}"
            plan = {"kill": kind, "step": -1, "nth": nth}
            if not killed(faults, journal, lambda folder=folder: fit(folder, tree), **plan):  # type: ignore[misc]
                assert nth > least
                break
            lines = journal.read_text().splitlines()
            complete = max((int(line.split()[1]) for line in lines if line.startswith("complete")), default=0)
            resumed: list[int] = []
            fit(folder, tree, resumed)
            assert resumed[0] >= complete, lines
            assert faults.differing(expected, faults.results(folder)) == [], lines
            capsys.readouterr()


def test_a_kill_while_a_resumed_run_saves_loses_nothing(faults: Any, tmp_path: Path) -> None:
    """Twice in a row, the second time at every operation of the next save."""
    tree = VARIANTS[0]
    fit(tmp_path / "whole", tree)
    expected = faults.results(tmp_path / "whole")
    for nth in range(1, 25, 2):
        folder, journal = tmp_path / str(nth), tmp_path / f"journal-{nth}"
        for plan in ({"kill": "save", "step": 3, "nth": 12}, {"kill": "save", "step": 3, "nth": nth}):
            assert killed(faults, journal, lambda folder=folder: fit(folder, tree), **plan)  # type: ignore[misc]
        fit(folder, tree)
        assert faults.differing(expected, faults.results(folder)) == []


def test_a_kill_while_a_run_is_made_leaves_all_of_it_or_nothing(
    faults: Any, small_run: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = small_run()
    run.train(tree, root=tmp_path / "whole")
    expected = faults.results(tmp_path / "whole/r")
    whole = 0
    for nth in range(1, 1000, 8):
        root = tmp_path / str(nth)
        plan = {"kill": "start", "step": -1, "nth": nth}
        if not killed(faults, tmp_path / "j", lambda root=root: run.train(tree, root=root), **plan):  # type: ignore[misc]
            break
        if (root / "r").exists():
            run.resume(root / "r")
            whole += 1
        else:
            run.train(tree, root=root)
        assert [path.name for path in root.iterdir()] == ["r"]
        assert faults.differing(expected, faults.results(root / "r")) == []
        capsys.readouterr()
    assert 0 < whole < nth // 8


@pytest.mark.parametrize("one_step", [True, False], ids=["exchange", "two renames"])
def test_a_kill_while_a_run_is_replaced_leaves_the_old_one_or_the_new_one(
    faults: Any,
    small_run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    one_step: bool,
) -> None:
    if not one_step:
        monkeypatch.setattr(reservation, "exchange", lambda one, other: False)
    old, new = ({**small_run(), "seed": seed} for seed in (1, 2))
    expected = {}
    for number, tree in enumerate((old, new)):
        run.train(tree, root=tmp_path / f"whole{number}")
        expected[tree["seed"]] = faults.results(tmp_path / f"whole{number}/r")
    seeds: list[int] = []
    left: set[tuple[tuple[str, int], ...]] = set()  # names and sizes of what kills have left
    for nth in range(1, 1000, 2 if one_step else 7):
        root = tmp_path / str(nth)
        shutil.copytree(tmp_path / "whole0", root)
        again = lambda root=root: run.train(new, root=root, overwrite=True)  # type: ignore[misc] # noqa: E731
        if not killed(faults, tmp_path / "j", again, kill="any", step=-1, nth=nth):
            break
        found = tuple(sorted((str(path.relative_to(root)), path.lstat().st_size) for path in root.rglob("*")))
        assert run.load(root / "r") is not None
        seeds.append(RunFolder.open(root / "r").about()["config"]["seed"])
        if seeds[-1] == 1:
            assert faults.differing(expected[1], faults.results(root / "r")) == []
        run.resume(root / "r")
        assert [path.name for path in root.iterdir()] == ["r"]
        assert faults.differing(expected[seeds[-1]], faults.results(root / "r")) == []
        if found not in left:
            left.add(found)
            again()
            assert [path.name for path in root.iterdir()] == ["r"]
            assert faults.differing(expected[2], faults.results(root / "r")) == []
        capsys.readouterr()
    assert seeds == sorted(seeds)
    assert set(seeds) == {1, 2}


def test_a_kill_that_replaces_a_checkpoint_would_be_seen(faults: Any, tmp_path: Path) -> None:
    """The test above fails where a checkpoint goes before the new one has its name."""

    def forgetful(self: Checkpoints) -> None:
        return

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "recover", forgetful)
        lost = []
        for nth in range(1, 200, 2):
            folder, journal = tmp_path / str(nth), tmp_path / f"journal-{nth}"
            plan = {"kill": "save", "step": 5, "nth": nth}
            killed(faults, journal, lambda folder=folder: fit(folder, VARIANTS[1]), **plan)  # type: ignore[misc]
            lines = journal.read_text().splitlines()
            complete = max((int(line.split()[1]) for line in lines if line.startswith("complete")), default=0)
            if (Checkpoints(folder / "checkpoints").latest() or 0) < complete:
                lost.append(lines[-1])
                break
    assert lost == ["killed save before os.replace step-00000006"]


def test_real_kills_by_the_script(tmp_path: Path) -> None:
    """Three SIGKILLs, two damaged checkpoints and a second process; the script's own verdict."""
    command = [sys.executable, str(SCRIPTS / "faults/run.py"), "--tasks", "slots", "--kills", "3"]
    options = ["--faults", "kill,damaged,two", "--out", str(tmp_path / "table.md")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert len(rows) == 4
    assert all("bit for bit the run never disturbed" in row and "NOT" not in row for row in rows)
    assert "0 complete checkpoints lost" in rows[0]
