"""`seqkit doctor`: what it says of this machine, and that it finds every damage and names the file."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqkit.nn import CELLS, Recurrent
from seqkit.run import environment, train
from seqkit.run.doctor import doctor
from seqkit.training.checkpoint import load_weights, save_weights

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def home(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of two checkpoints."""
    folder = tmp_path_factory.mktemp("home")
    parts = {part: str(generated_data / "sst2" / f"{part}.tsv") for part in ("train", "dev", "test")}
    tree = {
        "task": "sentiment",
        "name": "first",
        "data": {**parts, "batch_size": 16},
        "model": {"embedding": {"size": 6}, "encoder": {"hidden_size": 7}},
        "training": {"epochs": 2, "log_every": 2, "keep_best": 2},
    }
    train(tree, root=folder / "runs")
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home / "runs/first", tmp_path / "copy")
    return tmp_path / "copy"


def test_a_whole_run(cli: Cli, home: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (home / "runs").rglob("*"))
    done = cli(home, "doctor", "runs/first")
    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert text.endswith("the run folder is whole\n")
    assert "PROBLEM" not in text
    for part in (f"torch {torch.__version__}", "lstm", "data cache: ", "goes on after step 16", "test accuracy"):
        assert part in text
    assert sorted((path, path.stat().st_mtime_ns) for path in (home / "runs").rglob("*")) == before  # nothing changed


def test_json(cli: Cli, home: Path) -> None:
    found = json.loads(cli(home, "doctor", "runs/first", "--format", "json").stdout)
    assert found["good"] is True
    assert found["run"] == "runs/first"
    files = {check["file"] for check in found["checks"] if check["good"]}
    assert files >= {"run.json", "config.yaml", "model.safetensors", "metrics.jsonl", "checkpoints/step-00000016"}
    assert found["machine"]["threads"]["torch"] == torch.get_num_threads()
    alone = json.loads(cli(home, "doctor", "--format", "json").stdout)
    assert alone["run"] is None
    assert alone["machine"]["packages"] == found["machine"]["packages"]


def test_no_such_run_is_the_users_mistake(cli: Cli, home: Path) -> None:
    done = cli(home, "doctor", "runs/frist")
    assert done.returncode == 2
    assert b"runs/frist: no such run folder; did you mean 'runs/first'?" in done.stderr


def cut(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: int(len(data) * share)])

    return damage


def flip(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[-9] ^= 64
        (run / name).write_bytes(bytes(data))

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def change(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return damage


def not_a_number(run: Path) -> None:
    weights = load_weights(run / "model.safetensors")
    weights["output.bias"][0] = torch.nan
    save_weights(run / "model.safetensors", weights)


def one_less(run: Path) -> None:
    weights = load_weights(run / "model.safetensors")
    del weights["output.bias"]
    save_weights(run / "model.safetensors", weights)


def torn(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')


LAST = "checkpoints/step-00000016"


@pytest.mark.parametrize(
    ("damage", "file", "says"),
    [
        (cut("model.safetensors"), "model.safetensors", "damaged weights file"),
        (flip("model.safetensors"), "model.safetensors", "these weights differ from step"),
        (not_a_number, "model.safetensors", "not finite in output.bias"),
        (one_less, "model.safetensors", "which they were saved from: output.bias"),
        (remove("model.safetensors"), "model.safetensors", "no such file"),
        (change("config.yaml", "hidden_size: 7", "hidden_size: 8"), "model.safetensors", "size mismatch"),
        (change("config.yaml", "hidden_size: 7", "hiden_size: 7"), "config.yaml", "unknown key"),
        (remove("config.yaml"), "config.yaml", "no such file"),
        (remove("run.json"), "run.json", "missing"),
        (cut("run.json"), "run.json", ""),
        (remove("tokenizer.json"), "(what the model needs)", "tokenizer.json"),
        (cut("tokenizer.json"), "(what the model needs)", "tokenizer.json: damaged"),
        (remove("classes.json"), "(what the model needs)", "classes.json is missing"),
        (flip(f"{LAST}/model.safetensors"), f"{LAST}/model.safetensors", "checksum"),
        (cut(f"{LAST}/trainer.safetensors"), f"{LAST}/trainer.safetensors", "checksum"),
        (remove(f"{LAST}/trainer.json"), f"{LAST}/trainer.json", "missing"),
        (remove(f"{LAST}/manifest.json"), f"{LAST}/manifest.json", "missing"),
        (cut(f"{LAST}/manifest.json"), f"{LAST}/manifest.json", "cannot be read"),
        (change(f"{LAST}/manifest.json", "trainer.json", "trainer.jsn"), f"{LAST}/trainer.jsn", "missing"),
        (torn, "metrics.jsonl", "is torn or not a JSON object (past the last checkpoint: `seqkit resume` cuts it off)"),
        (cut("metrics.jsonl", 0.7), "metrics.jsonl", "torn"),
        (change("metrics.jsonl", '{"split"', '["split"'), "metrics.jsonl", "line 1 is torn or not a JSON object"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "metrics.jsonl", "0 bytes; there were"),
        (remove("metrics.jsonl"), "metrics.jsonl", "missing"),
        (cut("timing.jsonl", 0.4), "timing.jsonl", "torn"),
        (cut("scores.json"), "scores.json", ""),
    ],
)
def test_damage_is_found_and_the_file_named(
    damage: Callable[[Path], None], file: str, says: str, run: Path, cli: Cli
) -> None:
    damage(run)
    done = cli(run.parent, "doctor", "copy")
    problems = [line.split("PROBLEM", 1)[1] for line in done.stdout.decode().splitlines() if "PROBLEM" in line]
    assert done.returncode == 1
    assert any(line.split("  ")[1] == file and says in line for line in problems), problems


def test_a_run_that_was_stopped_is_no_problem(run: Path) -> None:
    (run / "scores.json").unlink()
    shutil.rmtree(run / LAST)
    report = doctor(run)
    assert [check for check in report.checks if not check.good] == []
    shutil.rmtree(run / "checkpoints")  # the run is for use only
    report = doctor(run)
    assert report.good
    assert any("none is whole; `seqkit resume` would start over" in line for line in report.lines())


def test_a_mean_of_checkpoints_differs_from_each_and_is_no_problem(run: Path) -> None:
    weights = {name: value + 0.5 for name, value in load_weights(run / "model.safetensors").items()}
    save_weights(run / "model.safetensors", weights)
    assert not doctor(run).good
    scores = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**scores, "averaged": True}))
    assert doctor(run).good


def test_the_backends_are_those_that_calls_take() -> None:
    rows = {row["cell"]: row for row in environment.backends()}
    assert set(rows) == set(CELLS)
    x = torch.zeros(environment.STEPS, environment.ROWS, environment.SIZE)
    for name, row in rows.items():
        assert Recurrent(name, environment.SIZE, environment.SIZE).backend_for(x).name == row["training"]
    assert rows["jordan"]["training"] == "reference"


def test_every_device_has_a_name_and_what_is_known_of_its_memory() -> None:
    found = environment.machine()
    cpu = found["devices"][0]
    assert cpu["name"]
    found["devices"] = [cpu, *({"device": "cuda:0", "name": "A card", "memory": size} for size in (3 << 29, None))]
    rows = [line for line in environment.lines(found) if line.startswith(("cpu", "cuda"))]
    assert rows[0] == f"cpu: {cpu['name']} ({cpu['cores']} cores for this process)"
    assert rows[1:] == ["cuda:0: A card (1.5 GiB)", "cuda:0: A card (memory unknown)"]


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("sacrebleu", "tqdm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.9.9rc1+cu" if name == "torch" else known(name)

    assert doctor().good
    monkeypatch.setattr(importlib.metadata, "version", version)
    report = doctor()
    assert not report.good
    text = "\n".join(report.lines())
    assert "not installed: sacrebleu (pip install sacrebleu)" in text
    assert "PROBLEM: torch 1.9.9rc1+cu; needed: 2.3 or later" in text
    assert "PROBLEM: tqdm is missing; needed: 4.66 or later" in text
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name != "sacrebleu" else version(name))
    assert doctor().good  # an extra is a choice


@pytest.mark.parametrize(
    ("one", "other"), [("2.10.0", "2.9"), ("2.3", "2.3"), ("2.3.1+cpu", "2.3"), ("1.26.0rc1", "1.26")]
)
def test_versions_are_numbers_and_no_text(one: str, other: str) -> None:
    assert environment.at_least(one, other)
    assert not environment.at_least("1.8.5", "1.26")
    assert not environment.at_least("one of mine", "1.26")


def test_the_tables_are_those_of_the_project_file() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]

    def table(lines: list[str]) -> dict[str, str]:
        return dict(line.partition(";")[0].split(">=") for line in lines)

    assert table(project["dependencies"]) == environment.CORE
    extras = project["optional-dependencies"]
    assert {name: table(extras[name]) for name in environment.EXTRAS} == environment.EXTRAS
    assert set(extras) - set(environment.EXTRAS) <= {"test", "dev", "torchtext"}
