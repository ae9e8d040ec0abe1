"""Files that are whole or absent."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkit.errors import UserError
from seqkit.files import replace_file, write_text
from seqkit.training import locks
from seqkit.training.averaging import average_weights
from seqkit.training.checkpoint import Checkpoints, copy_weights, digest, load_weights, pack, save_weights, unpack
from seqkit.training.random_state import kept_random, random_state, set_random_state
from seqkit.training.run_folder import JsonLines, RunFolder

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves | st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(torch.tensor),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))  # type: ignore[arg-type]
    return one == other and type(one) is type(other)


@given(trees)
def test_pack_and_unpack_are_inverse_through_json(tree: object) -> None:
    tensors: dict[str, torch.Tensor] = {}
    assert equal(unpack(json.loads(json.dumps(pack(tree, tensors))), tensors), tree)


def test_pack_refuses_what_it_cannot_bring_back() -> None:
    with pytest.raises(TypeError, match="cannot save a set at /a"):
        pack({"a": {1}}, {})


def test_tied_weights_are_stored_once_and_come_back(tmp_path: Path) -> None:
    table = torch.randn(1000, 4)
    save_weights(tmp_path / "w", {"a": table, "b": table, "c": table[:500], "d": torch.zeros(0)})
    assert os.path.getsize(tmp_path / "w") < 1.7 * table.numel() * 4
    found = load_weights(tmp_path / "w")
    assert torch.equal(found["b"], table)
    assert torch.equal(found["c"], table[:500])
    assert set(found) == {"a", "b", "c", "d"}


def test_random_state_comes_back() -> None:
    state = random_state()
    first = (torch.rand(3), np.random.rand(3), random.random())
    tensors: dict[str, torch.Tensor] = {}
    set_random_state(unpack(pack(state, tensors), tensors))
    again = (torch.rand(3), np.random.rand(3), random.random())
    assert torch.equal(first[0], again[0])
    assert (first[1] == again[1]).all()
    assert first[2] == again[2]


def test_the_random_state_of_other_cuda_devices_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are other processes', and another machine has another number of them."""
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.arange(3))
    for name in ("get_rng_state_all", "set_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    state = random_state()
    set_random_state({**state, "cuda": [*state["cuda"], torch.zeros(3)]})  # as earlier versions wrote it
    assert [value.tolist() for value in restored] == [[0, 1, 2]]


def test_kept_random_asks_for_this_device_alone() -> None:
    before = torch.get_rng_state()
    with kept_random(torch.device("cpu")):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def saved(folder: Path, *steps: int) -> Checkpoints:
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, {"w": torch.full((200,), float(step))}, {"step": step})
    return checkpoints


def test_a_tensor_may_stand_in_a_state_twice(tmp_path: Path) -> None:
    one = torch.arange(3)
    checkpoints = saved(tmp_path)
    checkpoints.save(1, {}, {"a": one, "b": [one, one[:2]]})
    state = checkpoints.load(1)[1]
    assert [state["a"].tolist(), *(part.tolist() for part in state["b"])] == [[0, 1, 2], [0, 1, 2], [0, 1]]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / ("manifest.json" if damage == "manifest" else "model.safetensors")
    data = bytearray(path.read_bytes())
    if damage in ("remove", "manifest"):
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes(data[:-5] if damage == "truncate" else data)
    fresh = Checkpoints(tmp_path)
    assert fresh.latest() == 1
    weights, state = fresh.load(1)
    assert weights["w"][0] == 1
    assert state == {"step": 1}
    with pytest.raises(UserError, match="damaged checkpoint"):
        fresh.load(2)


@pytest.mark.parametrize("change", ["nothing listed", "one left out", "a file of another one"])
def test_a_manifest_lists_all_files_and_none_elsewhere(tmp_path: Path, change: str) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "step-00000002/manifest.json"
    listed = json.loads(path.read_text())
    other = {"../step-00000001/trainer.json": digest(tmp_path / "step-00000001/trainer.json")}
    left = {name: told for name, told in listed.items() if name != "trainer.json"}
    path.write_text(
        json.dumps({"nothing listed": {}, "one left out": left, "a file of another one": {**listed, **other}}[change])
    )
    assert Checkpoints(tmp_path).damaged() == [2]


def test_what_was_about_to_be_replaced_comes_back_only_where_nothing_has_its_name(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1, 2)
    for step, kind in ((1, "old"), (2, "tmp")):
        shutil.copytree(tmp_path / f"a/step-{step:08d}", tmp_path / f"a/.step-{step:08d}.{kind}")
    (tmp_path / "a/.step-00000001.old/trainer.json").write_text("earlier")
    os.rename(tmp_path / "a/step-00000002", tmp_path / "a/.step-00000002.old")
    Checkpoints(tmp_path / "a").recover()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["step-00000001", "step-00000002"]
    assert Checkpoints(tmp_path / "a").damaged() == []


def test_prune_keeps_what_is_named(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3)
    checkpoints.prune({2})
    assert checkpoints.steps() == [2]


def test_a_disk_limit_leaves_the_earlier_checkpoint_whole(tmp_path: Path) -> None:
    """A real limit of the operating system on the size of a file, in a process of its own."""
    saved(tmp_path, 1)
    code = f"""
import pathlib, resource, signal, sys, torch
from seqkit.training.checkpoint import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    Checkpoints(pathlib.Path({str(tmp_path)!r})).save(2, {{"w": torch.zeros(100_000)}}, {{}})
except OSError:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert Checkpoints(tmp_path).latest() == 1


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_lines_are_cut_back(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log")
    log.append({"a": 0.1})
    size = log.sync()
    log.append({"a": 2})
    log.close()
    log = JsonLines(tmp_path / "log", keep=size)
    log.append({"é": 3})
    log.close()
    assert (tmp_path / "log").read_text("utf-8") == '{"a": 0.1}\n{"é": 3}\n'


def test_a_lock_says_who_has_it_and_where(tmp_path: Path) -> None:
    """Another open file stands for another process: that is how flock counts."""
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    (tmp_path / ".model.safetensors.1.tmp").touch()
    assert not locks.is_held(tmp_path / ".lock")
    with first.locked():
        assert locks.is_held(tmp_path / ".lock")
        assert list(tmp_path.iterdir()) == [tmp_path / ".lock"]
        with first.locked():
            pass
        with pytest.raises(UserError, match=f"process {os.getpid()} is training in this folder"):
            second.lock()
        (tmp_path / ".lock").write_text("12 elsewhere")
        with pytest.raises(UserError, match="process 12 on elsewhere is training"):
            second.lock()
        (tmp_path / ".lock").write_text("")
        with pytest.raises(UserError, match="process unknown is training"):
            second.lock()
    (tmp_path / ".lock").write_text("12 elsewhere")  # of a process that has ended
    second.lock()
    second.unlock()
    assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())
    assert not locks.is_held(tmp_path / ".lock")


def test_a_lock_on_a_folder_that_was_replaced_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def slow(file: Any, how: int) -> None:
        (tmp_path / ".lock").unlink()

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(UserError, match="has just replaced this run"):
        RunFolder(tmp_path).lock()


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    def refuse(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_lockless", set())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with RunFolder(tmp_path / name).locked():
            pass
    assert capsys.readouterr().err.count("has no locks") == 1


@pytest.mark.parametrize(("content", "kept"), [(b'{"a": 1}\n{"b"', b'{"a": 1}\n'), (b'{"b"', b"")])
def test_a_log_that_lost_its_end_goes_on_at_a_new_line(
    tmp_path: Path, content: bytes, kept: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_bytes(content)
    log = JsonLines(tmp_path / "log", keep=100)
    log.append({"c": 3})
    log.close()
    assert (tmp_path / "log").read_bytes() == kept + b'{"c": 3}\n'
    assert "bytes are lost" in capsys.readouterr().err


def test_copied_and_averaged_weights_stay_tied(tmp_path: Path) -> None:
    tied, other = torch.randn(4, 2), torch.randn(4, 2)
    copied = copy_weights({"a": tied, "b": tied, "c": other, "part": tied[:2], "none": torch.zeros(0)})
    tied.zero_()
    assert copied["a"] is copied["b"]
    assert copied["a"].abs().sum() > 0
    assert copied["c"] is not copied["a"]
    torch.testing.assert_close(copied["part"], copied["a"][:2])
    for number in range(2):
        save_weights(tmp_path / str(number), {"a": copied["a"] * number, "b": copied["b"] * 0 + number, "c": other})
        weights = copied["a"] + number
        save_weights(tmp_path / f"tied{number}", {"a": weights, "b": weights})
    mean = average_weights([tmp_path / "tied0", tmp_path / "tied1"])
    assert mean["a"] is mean["b"]
    torch.testing.assert_close(mean["a"], copied["a"] + 0.5)
    mean = average_weights([tmp_path / "0", tmp_path / "1"])
    torch.testing.assert_close(mean["b"], torch.full((4, 2), 0.5))


def test_average_weights_is_the_mean(tmp_path: Path) -> None:
    states = [{"w": torch.randn(5), "n": torch.tensor([number])} for number in range(3)]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, state in zip(paths, states, strict=True):
        save_weights(path, state)
    mean = average_weights(paths)
    torch.testing.assert_close(mean["w"], torch.stack([state["w"] for state in states]).mean(0))
    assert mean["n"].tolist() == [0]
