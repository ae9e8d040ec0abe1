"""The order in which files are written: to the disk before they get their name, the name to the disk after that."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkit import run
from seqkit.files import read_bytes, replace_file, to_json, write_text
from seqkit.training import RunFolder, reservation
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.reservation import reserve
from seqkit.training.run_folder import JsonLines


class Disk:
    """Records what is asked of the file system below a folder, and can refuse one of the renames.

    Attributes:
        calls: ("fsync", name), ("rename", from, to) or ("delete", name), names relative to the folder.
        refuse: number of the rename that fails, counted from 1.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder.resolve()
        self.calls: list[tuple[str, ...]] = []
        self.refuse = 0
        opened: dict[int, str] = {}
        real: dict[str, Any] = {name: getattr(os, name) for name in ("open", "close", "fsync", "unlink")}

        def open_(path: Any, *arguments: Any, **named: Any) -> int:
            found: int = real["open"](path, *arguments, **named)
            if named.get("dir_fd") is None:
                opened[found] = os.fspath(path)
            return found

        def fsync(descriptor: int) -> None:
            real["fsync"](descriptor)
            there = f"/proc/self/fd/{descriptor}"  # knows what Python's own open has opened
            self.calls.append(("fsync", self.name(os.readlink(there) if os.path.exists(there) else opened[descriptor])))

        def unlink(path: Any, **named: Any) -> None:
            real["unlink"](path, **named)
            if named.get("dir_fd") is None:
                self.calls.append(("delete", self.name(path)))

        patch.setattr(os, "open", open_)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "unlink", unlink)
        for name in ("rename", "replace"):
            patch.setattr(os, name, self._renaming(getattr(os, name)))
        rmtree = shutil.rmtree

        def delete(path: Any, **named: Any) -> None:
            there = os.path.lexists(path)
            rmtree(path, **named)
            if there:
                self.calls.append(("delete", self.name(path)))

        patch.setattr(shutil, "rmtree", delete)

    def _renaming(self, real: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def rename(old: Any, new: Any) -> None:
            self.refuse -= 1
            if self.refuse == 0:
                raise OSError(errno.EIO, "refused")
            real(old, new)
            self.calls.append(("rename", self.name(old), self.name(new)))

        return rename

    def name(self, path: Any) -> str:
        found = os.path.relpath(os.path.abspath(os.fspath(path)), self.folder)
        return found.replace(str(os.getpid()), "PID")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with pytest.MonkeyPatch.context() as patch:
        yield Disk(tmp_path, patch)


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, disk: Disk) -> None:
    order = [("fsync", ".f.PID.tmp"), ("rename", ".f.PID.tmp", "f"), ("fsync", ".")]
    write_text(tmp_path / "f", "one")
    assert disk.calls == order
    disk.calls.clear()
    replace_file(tmp_path / "f", lambda path: path.write_bytes(b"two"))
    assert disk.calls == order


def test_a_log_is_on_the_disk_when_its_length_is_known(tmp_path: Path, disk: Disk) -> None:
    log = JsonLines(tmp_path / "log")
    log.append({"a": 1})
    assert disk.calls == []
    assert log.sync() == len('{"a": 1}\n')
    assert disk.calls == [("fsync", "log")]
    log.close()


def test_a_file_whose_rename_is_refused_stays_as_it_was(tmp_path: Path, disk: Disk) -> None:
    write_text(tmp_path / "f", "one")
    disk.refuse = 1
    with pytest.raises(OSError, match="refused"):
        write_text(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_is_read_up_to_its_largest_size(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"four")
    assert read_bytes(tmp_path / "f", 4) == b"four"
    with pytest.raises(OSError, match="more than 3 bytes"):
        read_bytes(tmp_path / "f", 3)


def test_json_of_a_number_that_is_not_finite_is_null_and_every_other_stays() -> None:
    inf = float("inf")
    tree = {"a": float("nan"), "b": [0.5, -inf, (1, inf)], "c": {"d": "NaN", 2.5: True}, "e": None}
    written = '{"a": null, "b": [0.5, null, [1, null]], "c": {"d": "NaN", "2.5": true}, "e": null}'
    assert to_json(tree) == written
    assert to_json({"a": "ä\u2028"}) == '{"a": "ä\\u2028"}'
    assert to_json([0.5, inf], indent=1) == "[\n 0.5,\n null\n]"
    assert to_json([0.5], indent=1) == "[\n 0.5\n]"


FILES = ["manifest.json", "model.safetensors", "trainer.json", "trainer.safetensors"]


def save(folder: Path, value: float) -> Checkpoints:
    found = Checkpoints(folder)
    found.save(7, {"w": torch.full((2,), value)}, {"value": value})
    return found


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, disk: Disk) -> None:
    new, own, old = ".step-00000007.tmp", "step-00000007", ".step-00000007.old"
    save(tmp_path, 1.0)
    flushed, rest = disk.calls[: len(FILES)], disk.calls[len(FILES) :]
    assert sorted(flushed) == [("fsync", f"{new}/{name}") for name in FILES]
    assert rest == [("fsync", new), ("rename", new, own), ("fsync", ".")]
    disk.calls.clear()
    save(tmp_path, 2.0)
    assert sorted(disk.calls[: len(FILES)]) == sorted(flushed)
    order = [("fsync", new), ("rename", own, old), ("rename", new, own), ("fsync", "."), ("delete", old)]
    assert disk.calls[len(FILES) :] == order


@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_whose_rename_is_refused_leaves_the_one_before(tmp_path: Path, disk: Disk, number: int) -> None:
    save(tmp_path, 1.0)
    disk.refuse = number
    with pytest.raises(OSError, match="refused"):
        save(tmp_path, 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    assert Checkpoints(tmp_path).load(7)[1] == {"value": 1.0}


def test_a_checkpoint_loses_its_name_before_it_is_deleted(tmp_path: Path, disk: Disk) -> None:
    found = save(tmp_path, 1.0)
    disk.calls.clear()
    found.prune(set())
    gone = ".step-00000007.gone"
    assert disk.calls == [("rename", "step-00000007", gone), ("delete", gone)]


def make(root: Path, text: str, *, overwrite: bool = False) -> None:
    """A run `r`; what it replaces goes at once."""
    with reserve("r", "kind", root=root, overwrite=overwrite) as reserved:
        with reserved.made() as made:
            write_text(made.config, text)
            made.describe({})
        if made.take_place():
            made.move(reserved.path)


def test_all_of_a_run_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, small_run: Callable[..., dict[str, Any]], disk: Disk
) -> None:
    """Not only what this test knows of: every file that is there at that moment."""
    made = run.train(small_run(), root=tmp_path)
    rename = disk.calls.index(("rename", ".r~new", "r"))
    assert disk.calls[rename + 1] == ("fsync", ".")
    early = {name for kind, name, *_ in disk.calls[:rename] if kind == "fsync"}
    named = {path.name for path in made.folder.iterdir() if path.is_file() and path.name != ".lock"}
    late = {"model.safetensors", "metrics.jsonl", "timing.jsonl", "scores.json"}  # of the training itself
    assert {f".r~new/.{name}.PID.tmp" for name in named - late} <= early
    assert ("rename", "r/.model.safetensors.PID.tmp", "r/model.safetensors") in disk.calls


@pytest.mark.parametrize("exchange", [True, False])
def test_a_run_is_replaced_by_renames_that_reach_the_disk(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    make(tmp_path, "old")
    real = reservation.exchange
    monkeypatch.setattr(reservation, "exchange", real if exchange else lambda one, other: False)
    disk.calls.clear()
    make(tmp_path, "new", overwrite=True)
    assert (tmp_path / "r/config.yaml").read_text() == "new"
    start = disk.calls.index(("fsync", ".r~new")) + 1
    last = max(number for number, call in enumerate(disk.calls) if call == ("fsync", ".r~new"))
    assert start <= last + 1
    rest = disk.calls[last + 1 :]
    if ("rename", "r", ".r~old") in rest:
        assert rest[:4] == [
            ("rename", "r", ".r~old"), ("rename", ".r~new", "r"), ("fsync", "."), ("delete", ".r~old"),
        ]  # fmt: skip
    else:
        assert exchange
        assert rest[:2] == [("fsync", "."), ("delete", ".r~new")]


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_that_cannot_be_replaced_keeps_its_name(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    make(tmp_path, "old")
    monkeypatch.setattr(reservation, "exchange", lambda one, other: False)
    with reserve("r", "kind", root=tmp_path, overwrite=True) as reserved:
        with reserved.made() as made:
            write_text(made.config, "new")
            made.describe({})
        disk.refuse = number
        with pytest.raises(OSError, match="refused"):
            made.take_place()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]
    assert RunFolder.open(tmp_path / "r").config.read_text() == "old"
