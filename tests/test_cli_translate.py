"""`seqkit translate`, and the other commands on translation runs, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
COMMAND = [sys.executable, "-m", "seqkit"]
CONFIG = """
task: translation
data:
  train: {source: %s/multi30k/train.de, target: %s/multi30k/train.en}
  dev: {source: %s/multi30k/dev.de, target: %s/multi30k/dev.en}
  test: {source: %s/multi30k/test.de, target: %s/multi30k/test.en}
  batch_size: 8
model:
  source: {size: 16}
  target: {size: 16}
  encoder: {cell: gru, hidden_size: 16, bidirectional: true}
  decoder: {cell: gru, hidden_size: 24, attention: dot}
training: {epochs: 4, optimizer: {lr: 0.02}, keep_best: 2, samples: 0}
"""
SENTIMENT = """
task: sentiment
data: {train: %s/sst2/train.tsv, dev: %s/sst2/dev.tsv}
model: {embedding: {size: 4}, encoder: {hidden_size: 4}}
training: {epochs: 2, keep_best: 2}
"""


@pytest.fixture(scope="module")
def home(cli: Cli, generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two translation runs of other vocabularies and one of sentiment."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "c.yaml").write_text(CONFIG.replace("attention: dot", "attention: general") % ((generated_data,) * 6))
    (folder / "s.yaml").write_text(SENTIMENT % ((generated_data,) * 2))
    done = cli(folder, "train", "c.yaml", "name=first")
    assert done.returncode == 0, done.stderr.decode()
    assert b"| seqkit translate runs/first" in done.stdout
    for arguments in (
        ("c.yaml", "name=second", "text.tokenizer=char", "training.epochs=1"),
        ("c.yaml", "name=blind", "model.decoder.attention=none", "training.epochs=1"),
        ("s.yaml", "name=feelings"),
    ):
        assert cli(folder, "train", *arguments).returncode == 0
    (folder / "in.txt").write_bytes(b"\xef\xbb\xbfthe film.\r\n\n  \nsuperb story was quite warm.\nand")
    return folder


def test_a_line_for_each_line_in_order(cli: Cli, home: Path) -> None:
    done = cli(home, "translate", "runs/first", "in.txt", "beam_size=3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().split("\n")
    assert len(lines) == 6
    assert lines[1:3] == ["", ""]
    assert lines[5] == ""
    again = cli(home, "translate", "runs/first", "beam_size=3", text=(home / "in.txt").read_bytes())
    assert again.stdout == done.stdout
    many = cli(home, "translate", "runs/first", "beam_size=3", text="the film.\n\nand\n" * 40).stdout.decode()
    assert many.split("\n")[:-1] == [lines[0], "", lines[4]] * 40
    assert cli(home, "predict", "runs/first", "in.txt").stdout.count(b"\n") == 5


def test_n_best_lists_and_json(cli: Cli, home: Path) -> None:
    shown = cli(home, "translate", "runs/first", "in.txt", "beam_size=4", "n_best=3").stdout.decode()
    rows = [line.split(" ||| ") for line in shown.splitlines()]
    assert [row[0] for row in rows] == ["0"] * 3 + ["1", "2"] + ["3"] * 3 + ["4"] * 3
    scores = [float(row[2]) for row in rows if row[0] == "3"]
    assert scores == sorted(scores, reverse=True)
    arguments = ("beam_size=4", "n_best=3", "--format", "jsonl", "--alignments")
    found = [
        json.loads(line) for line in cli(home, "translate", "runs/first", "in.txt", *arguments).stdout.splitlines()
    ]
    assert len(found) == 5
    assert [one["translation"] for one in found[3]["n_best"]] == [row[1] for row in rows if row[0] == "3"]
    assert found[1]["translation"] == ""
    assert found[1]["score"] is None
    best = found[3]
    assert best["score"] == pytest.approx(sum(best["log_probs"]), abs=1e-4)
    assert len(best["log_probs"]) == len(best["tokens"]) + best["finished"]
    assert best["source_tokens"] == ["superb", "story", "was", "quite", "warm", "."]
    assert [place for _, place in best["alignment"]] == list(range(len(best["tokens"])))
    assert all(0 <= place < 6 for place, _ in best["alignment"])


def test_options_reach_the_search(cli: Cli, home: Path) -> None:
    def lengths(*options: str) -> list[int]:
        done = cli(home, "translate", "runs/first", "--format", "jsonl", *options, text="a film was quite warm.\n" * 2)
        assert done.returncode == 0, done.stderr
        return [len(json.loads(line)["tokens"]) for line in done.stdout.splitlines()]

    assert lengths("max_length=2") == [2, 2]
    assert lengths("min_length=9", "max_length=9") == [9, 9]
    assert lengths("max_ratio=0.5") == [3, 3]
    assert min(lengths("min_ratio=2")) >= 12
    prefixed = cli(home, "translate", "runs/first", "--prefix", "mlif dna", text="the film.\n").stdout.decode()
    assert prefixed.startswith("mlif dna")
    sampled = [
        cli(home, "translate", "runs/first", "sample=true", "temperature=3", f"seed={seed}", text="the film.\n").stdout
        for seed in ("1", "1", "2")
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    refused = cli(home, "translate", "runs/first", "seed=1", text="the film.\n")
    assert refused.returncode == 2
    assert b"seed: only sampling has it (sample=true)" in refused.stderr
    fewer = cli(home, "translate", "runs/first", "allow_unknown=false", "length_penalty=1", "beam_size=2", text="a\n")
    assert fewer.returncode == 0
    copied = cli(home, "translate", "runs/first", "replace_unknown=true", "min_length=30", text="Zebra\n").stdout
    assert b"<unk>" not in copied


def test_a_picture_of_the_attention(cli: Cli, home: Path) -> None:
    pytest.importorskip("matplotlib")
    done = cli(home, "translate", "runs/first", "in.txt", "--plot", "attention.png")
    assert done.returncode == 0, done.stderr
    assert (home / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_it_answers_before_its_input_ends(home: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "translate", "runs/first"], cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"the film.\n")
        process.stdin.flush()
        assert process.stdout.readline().strip()
        process.stdin.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["beam_size=0"], "beam_size: must be at least 1, got 0"),
        (["n_best=4", "beam_size=3"], "n_best: 4 is above beam_size, 3"),
        (["min_length=5", "max_length=3"], "min_length: 5 is above max_length, 3"),
        (["min_ratio=2", "max_ratio=1"], "min_ratio: 2.0 is above max_ratio, 1.0"),
        (["temperature=0.5"], "temperature: applies to sampling only"),
        (["sample=true", "top_p=1.5"], "top_p: must be at most 1"),
        (["--prefix", "zebra"], "--prefix: 'zebra' holds a word that the target vocabulary lacks"),
        (["--ensemble", "runs/second"], "runs/first and runs/second have different target vocabularies"),
        (["--ensemble", "runs/feelings"], "runs/feelings: this is a sentiment run, not a translation run"),
        (["--ensemble", "runs/frist"], "no such run folder; did you mean 'runs/first'"),
        (["--plot", "attention.nonsense"], "attention.nonsense: cannot be written"),
        (["--batch-size", "0"], "--batch-size"),
        (["gone.txt"], "gone.txt: cannot be read"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(cli: Cli, home: Path, arguments: list[str], message: str) -> None:
    done = cli(home, "translate", "runs/first", *arguments, text="the film.\n")
    text = done.stderr.decode()
    assert done.returncode == 2, text
    assert message in text
    assert "Traceback" not in text


def test_runs_of_another_kind_are_named(cli: Cli, home: Path) -> None:
    done = cli(home, "translate", "runs/feelings", text="a\n")
    assert done.returncode == 2
    message = "this is a sentiment run, not a translation run; `seqkit predict runs/feelings` uses it"
    assert done.stderr.decode() == f"seqkit: runs/feelings: {message}\n"
    done = cli(home, "compare", "runs/first", "runs/feelings")
    assert b"runs/feelings: this is a sentiment run" in done.stderr
    done = cli(home, "evaluate", "runs/feelings", "ter=true")
    assert b"ter: this is a sentiment run (runs/feelings), which has no such option" in done.stderr
    for option in ("--alignments", "replace_unknown=true"):
        done = cli(home, "translate", "runs/blind", option, text="a film.\n")
        assert done.returncode == 2
        assert b"attention" in done.stderr


def test_invalid_utf8_names_the_line_and_loses_nothing_before_it(cli: Cli, home: Path) -> None:
    done = cli(home, "translate", "runs/first", text=b"the film.\nand\nwarm\n\xff\n")
    assert done.returncode == 2
    assert b"standard input:4: not UTF-8" in done.stderr
    assert done.stdout.count(b"\n") == 3


def test_evaluate_takes_settings_and_files(cli: Cli, home: Path, generated_data: Path) -> None:
    done = cli(home, "evaluate", "runs/first", "--format", "json")
    assert json.loads(done.stdout) == json.loads((home / "runs/first/scores.json").read_text())["test"]
    files = [str(generated_data / f"multi30k/test.{end}") for end in ("de", "en")]
    again = cli(home, "evaluate", "runs/first", "--format", "json", "--data", files[0], f"reference={files[1]}")
    assert json.loads(again.stdout) == json.loads(done.stdout)
    shown = cli(home, "evaluate", "runs/first", "decoding.max_length=1", "ter=true").stdout.decode()
    assert "tok:13a" in shown
    assert "TER|" in shown
    done = cli(home, "evaluate", "runs/first", "model.decoder.hidden_size=3")
    assert done.returncode == 2
    assert b"a trained run keeps its model" in done.stderr


def test_compare_and_average(cli: Cli, home: Path) -> None:
    done = cli(home, "compare", "runs/blind", "runs/first")
    assert done.returncode == 0, done.stderr
    assert b"p = 0." in done.stdout
    done = cli(home, "average", "runs/first", "--best", "2", "--to", "mean")
    assert done.returncode == 0, done.stderr
    assert b"run folder: runs/mean" in done.stdout
    assert done.stdout.count(b"bleu") == 2
    assert cli(home, "translate", "runs/mean", text="the film.\n").stdout.strip()
    done = cli(home, "average", "runs/feelings")  # any kind of run
    assert b"run folder: runs/feelings-average" in done.stdout
    assert cli(home, "predict", "runs/feelings-average", text="superb\n").stdout.strip() in (b"positive", b"negative")
    taken = cli(home, "average", "runs/feelings")  # what it advises is an option that it has
    assert taken.returncode == 2
    assert b"choose another name: --to NAME" in taken.stderr
    assert not any(word in taken.stderr for word in (b"--overwrite", b"name=", b"resume"))
    assert cli(home, "average", "runs/feelings", "--to", "another").returncode == 0
    done = cli(home, "average", "runs/second")
    assert done.returncode == 2
    assert b"training.keep_best=5 (with dev data) keeps more" in done.stderr


def test_the_road_to_the_first_sentence_imports_nothing_slow(home: Path) -> None:
    slow = ("datasets", "pyarrow", "pandas", "sacrebleu", "matplotlib", "torchmetrics", "torch._dynamo")
    code = (
        "import sys\nfrom seqkit.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print([name for name in {slow} if name in sys.modules])\n"
    )
    arguments = [sys.executable, "-c", code, "translate", "runs/first", "in.txt", "beam_size=5"]
    done = subprocess.run(arguments, cwd=home, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[-1] == "[]"


def test_what_a_run_needs_is_asked_before_any_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after an epoch, whose weights would be lost."""
    from seqkit import run
    from seqkit.errors import UserError
    from seqkit.tasks.translation.task import TranslationTask

    def none(*args: object, **options: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    monkeypatch.setattr(TranslationTask, "create", none)
    cell = {"cell": "gru", "hidden_size": 4}
    model = {"source": {"size": 4}, "target": {"size": 4}, "encoder": cell, "decoder": cell}
    tree = {"task": "translation", "data": {"train": "builtin:phrases"}, "model": model}
    with pytest.raises(
        UserError, match=r"this needs sacrebleu: pip install sacrebleu, or pip install '\.\[translation\]'"
    ):
        run.train(tree, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_ending_that_cannot_be_drawn_is_refused_before_anything_is_translated(cli: Cli, home: Path) -> None:
    pytest.importorskip("matplotlib")
    done = cli(home, "translate", "runs/first", "--plot", "attention.nonsense", text="a\n")
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"expected the ending .png, .pdf or .svg, got '.nonsense'" in done.stderr
