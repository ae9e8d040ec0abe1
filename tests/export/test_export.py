"""`seqkit export` from a shell: what it makes, what it refuses, and what doctor says of a folder."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkit import export, run
from seqkit.errors import UserError
from seqkit.export.files import SETTINGS, describe_files, new_folder
from seqkit.export.table import find_exporter
from seqkit.export.wire import check_size
from seqkit.tasks import RunTask

onnx = pytest.importorskip("onnx", reason="onnx is an extra of the tests")

FIXTURES = Path(__file__).parent.parent / "fixtures"
SCRIPTS = ("predict.py", "exported.py")
RUN = "2026-11-options/slots-window-killed"
Exported = Callable[[str], tuple[Path, Path]]
Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """A copy of an exported folder, beside a copy of its run."""
    source, made = exported(RUN)
    shutil.copytree(source, tmp_path / "run")
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def signed(folder: Path) -> None:
    """Digests that fit: what a stranger who changes a file would write."""
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    (folder / SETTINGS).unlink()
    settings["files"] = describe_files(folder)
    (folder / SETTINGS).write_text(json.dumps(settings), "utf-8")


def problems(folder: Path) -> dict[str, str]:
    return {check.file: check.says for check in export.doctor(folder).checks if not check.good}


def test_the_command_makes_a_folder_and_replaces_it_only_when_told(cli: Cli, folder: Path) -> None:
    before = (folder / "settings.json").stat().st_ino
    done = cli(folder.parent, "export", "run", "--to", "made")
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "seqkit: made: this exists already; replace it with --overwrite, or choose another folder with --to\n"
    )
    done = cli(folder.parent, "export", "run", "--to", "run")
    assert done.stderr.decode() == "seqkit: run: this exists already; choose another folder with --to\n"
    done = cli(folder.parent, "export", "run", "--to", "run", "--overwrite")
    assert b"run: this is not an exported folder; --overwrite does not touch it" in done.stderr
    assert (folder / "settings.json").stat().st_ino == before
    done = cli(folder.parent, "export", "run", "--to", "made", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == ["exported: made", "try it: python made/predict.py FILE"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.onnx", "crf.npy", "labels.json", *SCRIPTS, "settings.json", "tokenizer.json"}
    assert (folder / "settings.json").stat().st_ino != before
    assert {path.name for path in folder.parent.iterdir()} == {"run", "made"}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made"

    def fail() -> None:
        with new_folder(path) as new:
            (new / "part").touch()
            raise RuntimeError

    for before in ([], ["made"]):  # nothing, or an empty folder that a user has made
        with pytest.raises(RuntimeError):
            fail()
        assert [one.name for one in tmp_path.rglob("*")] == before
        path.mkdir(exist_ok=True)
    with new_folder(path) as new:
        (new / "whole").touch()
        assert not any(path.iterdir())
    assert {one.name for one in tmp_path.rglob("*")} == {"made", "whole"}
    (tmp_path / "link").symlink_to(path)
    (path / "whole").unlink()
    with pytest.raises(UserError, match="link: this exists already; choose another"), new_folder(tmp_path / "link"):
        pass


def test_a_run_is_named_by_where_it_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`seqkit export .` in a run folder: beside it."""

    class Enough(Exception):
        pass

    def stop(target: Path, **how: Any) -> None:
        raise Enough(target)

    monkeypatch.setattr("seqkit.export.make.new_folder", stop)
    (folder.parent / "run/checkpoints").mkdir(exist_ok=True)
    for place, name in (("run", "."), ("run/checkpoints", ".."), (".", "run"), (".", "run/")):
        monkeypatch.chdir(folder.parent / place)
        with pytest.raises(Enough) as caught:
            export.export(name)
        assert caught.value.args[0].absolute() == folder.parent / "run-onnx"


def test_commands_know_an_exported_folder(cli: Cli, folder: Path) -> None:
    want = cli(folder.parent, "evaluate", "run", "--format", "json").stdout
    scores = json.loads(cli(folder.parent, "evaluate", "made", "--format", "json").stdout)
    assert scores == pytest.approx(json.loads(want), rel=1e-5)
    assert cli(folder.parent, "evaluate", "made", "--help-options").returncode == 0
    done = cli(folder.parent, "doctor", "made")
    assert (done.returncode, done.stdout.decode().splitlines()[-1]) == (0, "the exported folder is whole")
    for arguments, message in (
        (["predict", "made"], "made: an exported folder; it is used with its predict.py, `seqkit evaluate`"),
        (["evaluate", "made", "--device", "cuda"], "an exported folder is scored on the CPU"),
        (["evaluate", "made", "--beam"], "--beam: neither a flag of this command nor an option of this run"),
        (["evaluate", "made", "text.lowercase=true"], "a trained run keeps its model and vocabulary"),
        (["export", "nowhere"], "nowhere: no such run folder"),
    ):
        done = cli(folder.parent, *arguments)
        (line,) = done.stderr.decode().splitlines()
        assert (done.returncode, message in line) == (2, True), line


def test_int8_tells_sizes_and_scores_on_dev(cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "2026-11/sentiment-finished", tmp_path / "run")
    done = cli(tmp_path, "export", "run", "--int8", "--to", "small")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0, lines
    assert lines[0].startswith("model.onnx: ")
    assert "1 LSTM" in lines[0]
    assert [line.partition(": ")[0] for line in lines[1:]] == ["dev, run", "dev, int8"]
    assert all("of 20 examples" in line for line in lines[1:])
    assert problems(tmp_path / "small") == {}
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "small/model.onnx")).graph.node}
    assert "DynamicQuantizeLSTM" in kinds
    scores, _ = export.evaluate(tmp_path / "small")
    assert scores["loss"] == pytest.approx(run.evaluate(tmp_path / "run")[0]["loss"], abs=0.05)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_cell_of_the_users_own_that_no_graph_can_hold_is_named(
    folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "odds.py").write_text(
        "import torch\nfrom seqkit.nn import RNNCell\n\n\nclass Odd(RNNCell):\n"
        "    def kernel(self):\n        return None\n\n"
        "    def step(self, projected, state, prepared):\n"
        "        new, gates = super().step(projected, state, prepared)\n"
        "        return (new if float(projected.detach().sum()) > 0 else state), gates\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tree = {
        "task": "sentiment",
        "name": "odd",
        "device": "cpu",
        "data": {"train": {"path": "builtin:reviews", "limit": 20}},
        "model": {"embedding": {"size": 4}, "encoder": {"cell": "odds:Odd", "hidden_size": 4}},
        "training": {"steps": 1, "metric": "loss"},
    }
    run.train(tree)
    with pytest.raises(UserError, match=r"odds:Odd"):
        export.export("runs/odd")
    with pytest.raises(UserError) as caught:
        export.export("runs/odd", trust=True)
    assert "no graph of ONNX can hold this model; code of your own: model.encoder.cell: odds:Odd (" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in Path("runs").iterdir()] == ["odd"]


def test_a_missing_exporter_is_named(folder: Path, monkeypatch: Any) -> None:
    source = folder.parent / "run"
    monkeypatch.setattr("seqkit.export.graphs.MIN_TORCH", (99, 1))
    with pytest.raises(UserError, match=r"export needs torch 99\.1 or later, got 2\."):
        export.export(source)
    monkeypatch.undo()
    original = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxscript":
            raise ImportError("No module named 'onnxscript'")
        return original(name, *rest)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(
        UserError, match=r"this needs onnxscript: pip install onnxscript, or pip install '\.\[export\]'"
    ):
        export.export(source)


def test_a_task_without_exporter_is_refused() -> None:
    class Mine(RunTask):
        kind = "parsing"

    with pytest.raises(UserError, match=r"no exporter for tasks of the kind 'parsing' \(there are those for .*slots"):
        find_exporter(Mine)


def test_a_tokenizer_that_is_python_is_refused(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "2026-11/sentiment-finished", tmp_path / "run")
    task: Any = run.load(tmp_path / "run", device="cpu")
    task.tokenizer.config = task.tokenizer.config.model_copy(update={"tokenizer": "torchtext:moses"})
    with pytest.raises(UserError, match=r"text\.tokenizer: torchtext:moses is Python code"):
        find_exporter(type(task)).graphs(task)


# --- doctor -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "crf.npy", "labels.json", *SCRIPTS])
def test_a_damaged_or_missing_file_is_told(folder: Path, name: str) -> None:
    assert problems(folder) == {}
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert problems(folder)[name] == "the digest differs from settings.json"
    with pytest.raises(UserError, match=rf"damaged: {name} \(the digest differs"):
        export.evaluate(folder)
    (folder / name).write_bytes(data[:-1])
    assert "were written" in problems(folder)[name]
    (folder / name).unlink()
    assert problems(folder)[name] == "missing"


def test_predict_py_names_a_file_that_it_cannot_read(folder: Path, alone: Any) -> None:
    done = alone(folder, "missing.txt")
    assert (done.returncode, done.stderr.decode()) == (2, "missing.txt: No such file or directory\n")


def test_predict_py_says_that_a_file_is_damaged(folder: Path, alone: Any) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1])
    done = alone(folder, text=b"a\n")
    (line,) = done.stderr.decode().splitlines()
    assert (done.returncode, line) == (2, f"{folder}: model.onnx is damaged; export the run again")
    (folder / "model.onnx").write_bytes(b"x" * ((folder / "model.onnx").stat().st_size + 1))
    done = alone(folder, text=b"a\n")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", b"{"), ("crf.npy", b"x"), ("labels.json", b"["), ("model.onnx", b"x"), (SETTINGS, b"{}")],
)
def test_predict_py_names_a_file_that_no_library_can_read(folder: Path, name: str, content: bytes) -> None:
    import seqkit.export.scripts.tags as script  # it imports `exported` from where conftest says

    script.Predictor(folder)
    (folder / name).write_bytes(content.ljust((folder / name).stat().st_size))
    with pytest.raises(ValueError, match=rf"made: {name} is damaged \(.+\); export the run again"):
        script.Predictor(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        script.Predictor(folder)


def outside(model: Any, location: str, offset: str = "0", length: str = "4") -> None:
    tensor = model.graph.initializer.add(name="evil", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize(
    ("location", "offset", "length", "message"),
    [
        ("../run/model.safetensors", "0", "4", "no file of this export"),
        ("/etc/passwd", "0", "4", "no file of this export"),
        ("labels.json", "0", "999999", "lie beyond the end of labels.json"),
        ("labels.json", "-8", "4", "lie beyond the end of labels.json"),
    ],
)
def test_weights_outside_the_folder_are_refused(
    folder: Path, location: str, offset: str, length: str, message: str
) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    outside(model, location, offset, length)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    signed(folder)
    assert message in problems(folder)["model.onnx"]


def varint(number: int) -> bytes:
    return b"" if number < 0 else bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x3a" + varint(1 << 17) + b"\x0a\x00" * (1 << 16), "beside the weights"),  # empty nodes
        (b"\x3a" + varint((1 << 17) + 4) + b"\x6a" + varint(1 << 17) + b"\x00" * (1 << 17), "beside the weights"),
        (b"\x3a\x09\x0a\x00", "it ends within a field"),
        (b"\x3a\x05\x2a" + varint(1 << 28), "it ends within a field"),
        (b"\x3f" * 20, "wire type 7"),
        (b"\x38" + b"\x80" * 20, "more than 64 bits"),
        (b"", "it is empty"),
    ],
)
def test_what_would_take_much_memory_is_not_parsed(
    folder: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqkit.export.wire._MOST", 1 << 16)
    monkeypatch.setattr(onnx, "load", lambda *given, **named: pytest.fail("parsed"))
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        check_size(folder / "model.onnx")
    signed(folder)
    assert message in problems(folder)["model.onnx"]


def test_sizes_that_a_stranger_writes_take_no_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    settings["config"]["model"]["embedding"]["size"] = settings["config"]["model"]["encoder"]["hidden_size"] = 1_000_000
    (folder / SETTINGS).write_text(json.dumps(settings), "utf-8")
    assert problems(folder) == {}
    monkeypatch.setattr("seqkit.export.files._MOST_BYTES", 100)
    assert problems(folder)["labels.json"].endswith("bytes; at most 100 are read")
    (folder / "model.onnx").rename(folder / "moved")
    (folder / "model.onnx").symlink_to(folder / "moved")
    assert problems(folder)["model.onnx"] == "not a regular file"


@pytest.mark.parametrize("values", [np.zeros((2, 5, 3), np.float64), np.zeros((1, 5, 3), np.float32), None])
def test_scores_of_tags_that_do_not_fit_are_named(folder: Path, values: Any) -> None:
    np.save(folder / "crf.npy", values, allow_pickle=True)
    signed(folder)
    with pytest.raises(UserError, match=r"crf\.npy: expected an array of float32 \(2, "):
        export.evaluate(folder)


def test_a_graph_that_is_none_and_a_foreign_script_are_told(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no graph")
    for name in SCRIPTS:
        (folder / name).write_text("print('hello')\n")
    (folder / "notes.txt").write_text("mine")
    signed_before = problems(folder)
    assert set(signed_before) == {"model.onnx", *SCRIPTS}
    (folder / "notes.txt").unlink()
    signed(folder)
    (folder / "notes.txt").write_text("mine")
    found = problems(folder)
    for name in SCRIPTS:
        assert found[name] == "not the script that this seqkit ships: read it before you run it"
    assert found["model.onnx"].startswith("not ")
    others = {check.file: check for check in export.doctor(folder).checks}["(other files)"]
    assert (others.good, others.seen) == (True, False)
    assert "notes.txt" in others.says


def test_what_predict_py_might_import_is_told(folder: Path) -> None:
    (folder / "numpy.py").write_text("print('evil')\n")
    (folder / "torch.abi3.so").touch()
    signed(folder)
    for name, file in (("json", "__init__.py"), ("notes", "a.txt"), ("__pycache__", "exported.cpython-311.pyc")):
        (folder / name).mkdir()
        (folder / name / file).touch()
    found = problems(folder)
    assert found.keys() == {"numpy.py", "torch.abi3.so", "json"}
    assert set(found.values()) == {"not of an export: predict.py may import it in place of a library"}
    checks = {check.file: check for check in export.doctor(folder).checks}
    assert not checks["__pycache__"].seen
    assert checks["(other files)"].says.endswith("not checked: notes")


def test_scripts_that_settings_do_not_list_are_looked_at(folder: Path) -> None:
    (folder / "predict.py").unlink()
    (folder / "exported.py").unlink()
    signed(folder)
    assert problems(folder) == dict.fromkeys(SCRIPTS, "missing")
    os.mkfifo(folder / "predict.py")  # to read it would wait for ever
    (folder / "exported.py").write_text("print('hello')\n")
    found = problems(folder)
    assert "not a regular file" in found["predict.py"]
    assert found["exported.py"] == "not the script that this seqkit ships: read it before you run it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "newer seqkit"),
        ({"format": 1}, "an earlier seqkit (format 1, this one reads 2): its predict.py still works; for anything"),
        ({"files": {str(number): {"bytes": 1, "sha256": ""} for number in range(1001)}}, "missing or damaged"),
        ({"predict": []}, "lacks what predict.py needs to know"),
        ({"graphs": {"model.onnx": {"inputs": [], "outputs": [1], "threads": 1}}}, "names of inputs and outputs"),
        ({"format": "1"}, "missing or damaged"),
        ({"files": {"../x": {"bytes": 1, "sha256": ""}}, "graphs": {}}, "not the plain name of a file"),
        ({"files": {"\ud800": {"bytes": 1, "sha256": ""}}, "graphs": {}}, "not the plain name of a file"),
        ({"files": {"\x1b[2J": {"bytes": 1, "sha256": ""}}, "graphs": {}}, "not the plain name of a file"),
        ({"files": {"x": 1}}, "missing or damaged"),
        ({"graphs": {"other.onnx": {}}}, "lacks its size or digest"),
    ],
)
def test_damaged_settings_are_one_message(folder: Path, change: dict[str, Any], message: str) -> None:
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    (folder / SETTINGS).write_text(json.dumps({**settings, **change}), "utf-8")
    assert message in problems(folder)[SETTINGS]
    with pytest.raises(UserError, match=r"settings\.json"):
        export.evaluate(folder)


def test_doctor_imports_nothing_that_settings_name(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    settings["config"]["task"] = "evil:Task"
    (folder / SETTINGS).write_text(json.dumps(settings), "utf-8")
    checks = {check.file: check for check in export.doctor(folder).checks}
    assert not checks["(configuration)"].seen
    with pytest.raises(UserError, match="evil"):
        export.evaluate(folder)


def test_an_empty_input_never_reaches_onnx_runtime(folder: Path) -> None:
    from seqkit.export.graphs import Runner

    with pytest.raises(ValueError, match="ids is empty"):
        Runner(folder / "model.onnx")(ids=np.zeros((0, 3), np.int64), lengths=np.zeros(0, np.int64))
