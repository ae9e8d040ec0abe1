"""The command line as a user types it; in a process of its own where signals, pipes or the clock of input matter."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from seqkit.cli.app import app

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
COMMAND = [sys.executable, "-m", "seqkit"]
CONFIG = """
task: sentiment
data: {train: %s/sst2/train.tsv, dev: %s/sst2/dev.tsv, test: %s/sst2/test.tsv, batch_size: 16}
model: {embedding: {size: 8}, encoder: {hidden_size: 8}, pooling: max}
training: {epochs: 3, optimizer: {lr: 0.02}}
"""


@pytest.fixture(scope="module")
def home(cli: Cli, generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a config and a finished run."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "c.yaml").write_text(CONFIG % ((generated_data,) * 3))
    done = cli(folder, "train", "c.yaml", "name=first")
    assert done.returncode == 0, done.stderr.decode()
    assert b"test: loss" in done.stdout
    assert b"run folder: runs/first" in done.stdout
    assert b"seqkit predict runs/first" in done.stdout
    return folder


def test_predict_gives_a_line_for_each_line(cli: Cli, home: Path) -> None:
    done = cli(home, "predict", "runs/first", text="superb warm film\r\n\n  \nawful dull\nno newline at the end")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().split("\n")
    assert lines[1:3] == ["", ""]
    assert lines[5:] == [""]
    assert {lines[0], lines[3], lines[4]} <= {"positive", "negative"}
    as_json = cli(home, "predict", "runs/first", "--format", "jsonl", text="superb\n\n").stdout.decode().splitlines()
    first = json.loads(as_json[0])
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert json.loads(as_json[1]) == {"label": None, "probabilities": {}}


def test_predict_reads_files_boms_and_very_long_lines(cli: Cli, home: Path) -> None:
    (home / "in.txt").write_bytes(b"\xef\xbb\xbfsuperb\n" + b"warm film " * 100_000 + b"\n")
    assert len(cli(home, "predict", "runs/first", "in.txt").stdout.split()) == 2


def test_predict_answers_before_its_input_ends(home: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "predict", "runs/first"], cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"superb\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() in (b"positive", b"negative")
        process.stdin.close()


def test_invalid_utf8_names_the_line_and_loses_nothing_before_it(cli: Cli, home: Path) -> None:
    done = cli(home, "predict", "runs/first", text=b"superb\nwarm\n\xff\n")
    assert done.returncode == 2
    assert b"standard input:3: not UTF-8" in done.stderr
    assert len(done.stdout.split()) == 2


def test_evaluate(cli: Cli, home: Path, generated_data: Path) -> None:
    done = cli(home, "evaluate", "runs/first", "--format", "json", "--data", str(generated_data / "sst2/test.tsv"))
    assert json.loads(done.stdout) == json.loads((home / "runs/first/scores.json").read_text())["test"]
    assert b"precision" in cli(home, "evaluate", "runs/first").stdout


def test_config_commands(cli: Cli, home: Path) -> None:
    assert cli(home, "config", "check", "c.yaml").stdout == b"c.yaml: valid\n"
    assert cli(home, "config", "check", "c.yaml", "training.epochs=0").returncode == 2
    shown = cli(home, "config", "show", "c.yaml", "training.epochs=7").stdout
    assert b"epochs: 7" in shown
    assert b"bidirectional: false" in shown
    written = cli(home, "config", "schema", "c.yaml").stdout
    assert written.startswith(b'{\n  "')
    schema = json.loads(written)
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    jsonschema.validate(yaml.safe_load((home / "c.yaml").read_text()), schema)
    with pytest.raises(jsonschema.ValidationError, match="hiden"):
        jsonschema.validate({**yaml.safe_load((home / "c.yaml").read_text()), "hiden": 1}, schema)


def test_several_seeds_print_mean_and_deviation(cli: Cli, home: Path) -> None:
    command = ["train", "c.yaml", "name=many", "training.epochs=1", "--seeds", "2"]
    done = cli(home, *command)
    assert done.returncode == 0, done.stderr
    scores = [
        json.loads((home / f"runs/many-seed{seed}/scores.json").read_text())["test"]["accuracy"] for seed in (1, 2)
    ]
    assert f"test accuracy: mean {sum(scores) / 2:.4f}".encode() in done.stdout
    assert f"standard deviation {abs(scores[0] - scores[1]) / 2**0.5:.4f}".encode() in done.stdout
    assert b"summary: runs/many-seeds.json" in done.stdout
    summary = json.loads((home / "runs/many-seeds.json").read_text())
    assert summary["runs"] == {"1": "many-seed1", "2": "many-seed2"}
    assert summary["test"]["accuracy"]["values"] == scores
    assert summary["test"]["accuracy"]["mean"] == pytest.approx(sum(scores) / 2)
    assert set(summary["dev"]) == set(summary["test"])
    again = cli(home, *command[:-1], "3")  # more seeds: those that are there are kept
    assert again.returncode == 0, again.stderr
    assert json.loads((home / "runs/many-seeds.json").read_text())["test"]["accuracy"]["values"][:2] == scores
    other = cli(home, *command, "training.optimizer.lr=0.1")
    assert other.returncode == 2
    assert b"runs/many-seed1: this run exists already" in other.stderr


def test_several_seeds_that_were_killed_go_on_by_the_same_command(cli: Cli, home: Path) -> None:
    command = [
        "train",
        "c.yaml",
        "name=S",
        "training.epochs=2",
        "training.checkpoint_every=3",
        "seed=4",
        "--seeds",
        "3",
    ]
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom seqkit.cli import main\n"
        "from seqkit.training.update import Updater\ncall = Updater.__call__\n"
        "def changed(self, window, step, *rest):\n"
        "    if step == 5 and Path('runs/S-seed5').exists(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return call(self, window, step, *rest)\n"
        "Updater.__call__ = changed\nmain(sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=home, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (home / "runs/S-seeds.json").exists()
    done = cli(home, *command)
    assert done.returncode == 0, done.stderr
    assert b"runs/S-seed5: continuing after step 3" in done.stderr
    assert sorted(path.name for path in (home / "runs").glob("*S-*")) == [
        *(f"S-seed{seed}" for seed in (4, 5, 6)),
        "S-seeds.json",
    ]
    alone = cli(home, *[text.replace("name=S", "name=alone") for text in command[:-3]], "seed=5")
    assert alone.returncode == 0, alone.stderr
    weights = [(home / f"runs/{name}/model.safetensors").read_bytes() for name in ("S-seed4", "S-seed5", "alone")]
    assert weights[0] != weights[1] == weights[2]  # each has the seed of its name
    whole = cli(home, *[text.replace("name=S", "name=whole") for text in command])
    assert whole.returncode == 0, whole.stderr
    for part in ("dev", "test"):
        summaries = [json.loads((home / f"runs/{name}-seeds.json").read_text())[part] for name in ("S", "whole")]
        assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["train", "c.yaml", "name=first"], "runs/first: this run exists already"),
        (["train", "c.yaml", "name=../x"], "not a plain name"),
        (["train", "c.yaml", "model.encoder.hiden_size=3"], "model.encoder.hiden_size: unknown key"),
        (["train", "c.yaml", "model.encoder.hidden_size=-3"], "hidden_size must be positive, got -3"),
        (["train", "c.yaml", "data.train=gone.tsv"], "gone.tsv: no such file"),
        (["train", "c.yaml", "data.train=."], "directory"),
        (["train", "c.yaml", "model.embedding.vectors=c.yaml"], "c.yaml:"),
        (["train", "c.yaml", "training.metric=acuracy"], "did you mean 'accuracy'?"),
        (["predict", "runs/frist"], "runs/frist: no such run folder; did you mean 'runs/first'?"),
        (["predict", "runs/first", "gone.txt"], "gone.txt: cannot be read"),
        (["evaluate", "runs/first", "--data", "gone.tsv"], "gone.tsv: no such file"),
        (["resume", "runs"], "not a run folder"),
        (["evaluate", "runs/first", "--data", ""], "--data: expected the path of a file"),
        (["train", "c.yaml", "seed=99999999999999999999"], "seed: "),
        (["train", "c.yaml", "name=" + "x" * 300], "not a plain name"),
        (["train", "c.yaml", "training.optimizer.lr=.inf"], "training.optimizer.lr: "),
        (["predict"], "RUN"),
        (["trian"], "trian"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(cli: Cli, home: Path, arguments: list[str], message: str) -> None:
    done = cli(home, *arguments)
    text = done.stderr.decode()
    assert done.returncode == 2, text
    assert message in text
    assert "Traceback" not in text


def test_a_device_that_is_absent(cli: Cli, home: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = cli(home, "train", "c.yaml", "device=cuda")
    assert done.returncode == 2
    assert b"no CUDA device" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_resume(cli: Cli, home: Path, number: signal.Signals, code: int) -> None:
    name = f"stopped{code}"
    arguments = ["train", "c.yaml", f"name={name}", "training.epochs=5000", "training.log_every=1"]
    with subprocess.Popen([*COMMAND, *arguments], cwd=home, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        log = home / f"runs/{name}/metrics.jsonl"
        for _ in range(600):
            if log.exists() and log.stat().st_size:
                break
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"seqkit resume runs/{name}".encode() in errors
    assert b"Traceback" not in errors
    path = home / f"runs/{name}/config.yaml"
    steps = json.loads(log.read_text().splitlines()[-1])["step"]
    path.write_text(
        path.read_text().replace("epochs: 5000", "epochs: null").replace("steps: null", f"steps: {steps + 3}")
    )
    done = cli(home, "resume", f"runs/{name}")
    assert done.returncode == 0, done.stderr
    assert json.loads(log.read_text().splitlines()[-1])["step"] == steps + 3


def test_a_closed_pipe_is_no_error(home: Path) -> None:
    (home / "many.txt").write_text("superb\n" * 5000)
    with subprocess.Popen(
        [*COMMAND, "predict", "runs/first", "many.txt"], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr
        assert b"Traceback" not in process.stderr.read()


def test_help_shows_examples(cli: Cli, home: Path) -> None:
    for command in ("train", "resume", "evaluate", "predict", "average", "translate", "compare"):
        done = cli(home, command, "--help")
        assert done.returncode == 0
        assert f"seqkit {command}".encode() in done.stdout
    import seqkit

    assert cli(home, "--version").stdout.decode().strip() == seqkit.__version__


def every_command(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield names
    for name, below in getattr(command, "commands", {}).items():
        yield from every_command(below, (*names, name))


def test_help_of_every_command_is_whole(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = list(every_command(typer.main.get_command(app)))
    assert len(found) >= 12
    for names in found:
        short, long = (cli(home, *names, flag).stdout.decode() for flag in ("-h", "--help"))
        assert short == long != ""
        assert max(map(len, short.splitlines())) <= 80
        assert not re.search(r"\.\.\.$", "".join(re.split(r"\n *Example|Usage:.*\n", short)), re.M), short
    top = cli(home, "-h").stdout.decode()
    assert top.index("  train ") < top.index("  predict ") < top.index("  doctor ")


def test_the_shell_completes_commands_and_options(home: Path) -> None:
    def complete(line: str) -> set[str]:
        code = "import sys\nsys.argv = ['seqkit']\nfrom seqkit.cli import main\nmain()"
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        environment = {**os.environ, "_SEQKIT_COMPLETE": "complete_bash", **words}
        done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, env=environment, timeout=60)
        return set(done.stdout.decode().split())

    assert complete("seqkit tra") == {"train", "translate"}
    assert "--overwrite" in complete("seqkit train --o")


def test_nothing_asks_the_network(home: Path) -> None:
    """Every connection is refused in this process; training and prediction do not notice."""
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from seqkit.cli import main\nmain(sys.argv[1:])\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    arguments = [sys.executable, "-c", code, "train", "c.yaml", "name=alone", "training.epochs=1", "--overwrite"]
    done = subprocess.run(arguments, cwd=home, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
