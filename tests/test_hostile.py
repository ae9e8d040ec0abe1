"""Input from strangers: bombs, lies, paths that lead out; a clear error for each, and nothing is executed."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seqkit
from seqkit import run
from seqkit.cli import entry
from seqkit.cli.app import _groups
from seqkit.config import read as read_yaml
from seqkit.data.formats import read
from seqkit.data.readers import BadRow, Column
from seqkit.data.source import SourceConfig
from seqkit.data.sources import open_source
from seqkit.decoding import Search
from seqkit.errors import UserError
from seqkit.files import LONGEST_LINE
from seqkit.run.doctor import doctor
from seqkit.text import TextConfig, Tokenizer, load_vectors
from seqkit.training import RunFolder
from seqkit.training.checkpoint import Checkpoints, load_weights
from seqkit.training.reservation import reserve
from seqkit.training.run_folder import check_name

PACKAGE = Path(seqkit.__file__).parent
SCRIPTS = Path(__file__).parent.parent / "scripts"
BOUNDED = settings(derandomize=True, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- nothing is executed --------------------------------------------------------------------------------------------

CALLS = {"eval", "exec", "__import__", "compile", "os.system", "os.popen", "yaml.unsafe_load"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def offences(tree: ast.AST) -> Iterator[str]:
    """Calls and imports that could execute what a file holds."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom) and names != ["UnpicklingError"]:  # which is there to be caught
                names = [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in CALLS or keywords.get("shell") == "True" or keywords.get("trust_remote_code") == "True":
            yield name
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            yield f"{name} without allow_pickle=False"
        if name in ("yaml.load", "yaml.compose", "yaml.load_all") and ast.unparse(node.args[1]) != "_Loader":
            yield f"{name} with another loader"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_can_execute_what_a_file_holds(path: Path) -> None:
    assert list(offences(ast.parse(path.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    ["import pickle", "eval(x)", "torch.load(p)", "yaml.load(t, yaml.Loader)", "run(c, shell=True)", "os.system(x)"],
)
def test_the_check_above_finds_what_it_is_for(code: str) -> None:
    assert list(offences(ast.parse(code)))


# --- configurations -------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
SMALL = "task: sentiment\ndata: {train: a.tsv}\nmodel: {encoder: {hidden_size: 3}}\n"

YAML: list[tuple[str, str]] = [
    (LAUGHS, "more than 20,000 values; is there an alias"),
    ("a: &a [*a]", "deeper than 50 levels"),
    ("a: &a {b: *a}", "deeper than 50 levels"),
    ("a: " + "[" * 60 + "]" * 60, "deeper than 50 levels"),
    ("[" * 2000, "nested too deeply"),
    ("name: !!python/object/apply:os.system [ls]", "is refused; a configuration is plain data"),
    ("name: !!python/name:os.system x", "is refused"),
    ("name: !!set {a, b}", "the tag !!set is refused"),
    ("name: !!timestamp x", "the tag !!timestamp is refused"),
    ("name: !mine x", "the tag !mine is refused"),
    ("seed: !!int x", "'x' is not a YAML int"),
    ("seed: !!bool x", "'x' is not a YAML bool"),
    ("seed: " + "9" * 5000, "is not a YAML int of 64 bits"),
    ("training: {epochs: 9223372036854775808}", "training.epochs: '9223372036854775808' is not a YAML int of 64 bits"),
    ('name: "\\0"', "holds a NUL"),
    ('name: "\\ud800"', "half of a surrogate pair"),
    ('"\\ud800": 3', "half of a surrogate pair"),
    ("model: {encoder: {cell: 'os:kill'}}", "model.encoder.cell: 'os:kill' is not a class derived from seqkit.nn.Cell"),
    ("model: {encoder: {cell: 'subprocess:Popen'}}", "is not a class derived from seqkit.nn.Cell"),
    ("model: {encoder: {cell: ':x'}}", "unknown cell ':x'"),
    ("task: ':x'", "unknown task ':x'"),
    ("task: .x:y", "unknown task '.x:y'"),
    ("task: a..b:c", "unknown task"),
    ("model: {encoder: {hidden_size: 1000000000000}}", "hidden_size must be at most 16,777,216"),
    ("model: {encoder: {hidden_size: 3, num_layers: 1000000000}}", "num_layers must be at most 1,000"),
    ("model: {embedding: {size: 1000000000}, encoder: {hidden_size: 3}}", "size must be at most 1,000,000"),
    ("name: ../../x", "is not a plain name"),
    ("name: " + "漢" * 90, "is not a plain name"),
    ("base: loop.yaml", "cannot be read"),
    ("base: /dev/zero", "this is a pipe, a device or a socket; expected a YAML file"),
    ("base: .", "this is a directory"),
    ("base: missing.yaml", "no such file"),
    ("base: chain0.yaml", "a chain of more than 20 files"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), YAML, ids=range(len(YAML)))
def test_a_configuration_from_a_stranger(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    given_keys = {line.split(":")[0] for line in text.splitlines()}
    rest = [line for line in SMALL.splitlines() if line.split(":")[0] not in given_keys]
    path.write_text("\n".join([text, *rest] if "[[" not in text else [text]), "utf-8")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for number in range(30):
        (tmp_path / f"chain{number}.yaml").write_text(f"base: chain{number + 1}.yaml\n")
    with pytest.raises(UserError, match=message):
        run.read_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".".join("a" * 60) + "=1", "more than 50 keys"),
        ("a=" + "x" * (1 << 20) + "y", "put it into a file"),
        ("a=[!!python/object/apply:os.getcwd []]", "command line: a.0: the tag"),
        ("a=[&b [*b, *b]]", "more than|deeper than"),
        ("a={b: 1, b: 2}", "command line: a.b: this key is given twice"),
        ("a=\udcff", "a NUL, or half of a surrogate pair"),
        # Whatever does not begin as YAML, or does not end as such, is a text as typed.
        ("name=!!python/object/apply:os.getcwd []", r"name: .*!!python/object/apply:os.getcwd \[\]"),
        ("seed=[&b [x], *b, *c]", r"seed: input should be a valid integer, got '\[&b \[x\], \*b, \*c\]'"),
    ],
)
def test_overrides_are_read_as_strictly_as_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(SMALL)
    with pytest.raises(UserError, match=message):
        run.read_config(tmp_path / "x.yaml", [text])


def test_trees_from_python_may_be_deep_and_large_too() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(UserError, match="nested too deeply"):
        run.read_config({"task": "sentiment", "data": deep})
    with pytest.raises(UserError, match="data: "):
        run.read_config({"task": "sentiment", "data": 10**5000})


# --- data files and vectors -----------------------------------------------------------------------------------------


def bomb(byte: bytes, megabytes: int) -> bytes:
    """gzip that expands to so much: members may follow each other."""
    return gzip.compress(byte * 2**20, 9) * megabytes


@pytest.mark.parametrize(
    ("form", "byte"), [("text", b"a"), ("csv", b'"'), ("jsonl", b"["), ("conll", b"a"), ("tsv", b"\0")]
)
def test_a_gzip_bomb_is_refused_before_it_is_in_memory(tmp_path: Path, form: str, byte: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(bomb(byte, 2048))
    column = Column("tokens", list) if form == "conll" else Column("text", str)
    with pytest.raises(UserError, match=rf"{path}:1: a line of more than {LONGEST_LINE:,} bytes"):
        list(read(path, form, [column]))


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'text\n"' + (b"a" * 999 + b"\n") * (LONGEST_LINE // 1000 + 1))
    (line, row), *others = read(tmp_path / "x.csv", "csv", [Column("text", str)])
    assert (line, row) == (2, BadRow("a quoted field is never closed"))
    assert len(others) == LONGEST_LINE // 1000
    assert all(row == ["a" * 999] for _, row in others)


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("jsonl", b'{"text": ' + b"[" * 3_000, "nested too deeply|not valid JSON"),
        ("jsonl", b'{"text": [' + b"[]," * (1 << 20) + b"[]]}", "more than 1,048,576 brackets"),
        ("jsonl", b'{"text": ' + b"9" * 5000 + b"}", "not valid JSON"),
        ("jsonl", b'{"text": "\\ud800"}', "half of a surrogate pair"),
        ("jsonl", json.dumps({"-" * 500_000: 1}).encode(), "no key 'text'"),
        ("tsv", b"text\nx\0y", "a NUL byte"),
    ],
    ids=range(6),
)
def test_a_hostile_line_is_a_bad_line(tmp_path: Path, form: str, data: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(data)
    ((_, row),) = read(tmp_path / "x", form, [Column("text", str)])
    assert isinstance(row, BadRow)
    assert message.split("|")[0] in row.message or message.split("|")[-1] in row.message
    assert len(row.message) < 500


def test_a_conll_file_without_blank_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.conll").write_bytes(b"a O\n" * 100_001)
    with pytest.raises(UserError, match=r"x.conll:1: a sentence of more than 100,000 tokens"):
        list(read(tmp_path / "x.conll", "conll", [Column("tokens", list)]))
    with pytest.raises(UserError, match="no column"):
        list(read(tmp_path / "x.conll", "conll", [Column("9" * 5000, list)]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"9" * 5000 + b" 5\nthe 1 2 3 4 5\n", "1:|2:"),
        (b"999999999999 999999999999\nthe 1 2\n", r"2: 2 numbers; expected|vectors of 999,999,999,999 numbers"),
        (b"the" + b" 1" * 70_000 + b"\n", "vectors of 70,000 numbers; the most is 65,536"),
        (b"the 3e38 -3e38\nof 1 1\n", "are not word vectors"),
        (b"the nan 1\n", "'nan' is not a finite number"),
        (bomb(b"1 ", 2048), "a line of more than"),
    ],
    ids=range(6),
)
def test_vectors_that_lie(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.vec").write_bytes(data)
    with pytest.raises(UserError, match=message):
        load_vectors(tmp_path / "x.vec", ["<pad>", "the", "of", *"abcdefghijklmnop"])


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "~nobody_of_that_name/x", "x" * 5000])
def test_names_that_no_file_can_have(name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: open_source(SourceConfig(path=name), {"text": str}, "train"),
        lambda: load_vectors(name, ["a"]),
        lambda: RunFolder.open(name),
        lambda: read_yaml(name),
        lambda: Tokenizer.load(name),
        lambda: Tokenizer.train(["a"], TextConfig(stop_words=name)),
    ]
    for call in calls:
        with pytest.raises(UserError):
            call()


def test_stop_words_of_any_length(tmp_path: Path) -> None:
    (tmp_path / "stop.txt").write_text("a" * 5000 + "\n" + "a" * 4999 + "b\n")
    with pytest.raises(UserError, match=r"stop.txt:1: a word of 5,000 characters"):
        Tokenizer.train(["one two"], TextConfig(stop_words=str(tmp_path / "stop.txt")))


def test_a_device_is_no_file_of_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a regular file"):
        Tokenizer.train(["one two"], TextConfig(stop_words="/dev/zero"))
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="not a regular file"):
        Tokenizer.load(tmp_path / "pipe.json")


# --- lines to predict -----------------------------------------------------------------------------------------------


def test_a_line_without_end_is_refused_on_standard_input() -> None:
    with pytest.raises(UserError, match="x:2: a line of more than"):
        list(_groups(io.BytesIO(b"one\n" + b"a" * (LONGEST_LINE + 2)), "x"))


def test_long_lines_come_in_small_groups() -> None:
    line = b"a" * (LONGEST_LINE // 4) + b"\n"
    assert max(len(lines) for lines in _groups(io.BytesIO(line * 20), "x")) <= 4


def test_control_characters_of_a_file_do_not_reach_the_terminal(
    cli: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text('task: sentiment\n"\\x1b]0;owned\\x07": 3\n')
    done = cli(tmp_path, "config", "check", "x.yaml")
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr
    assert rb"\x1b]0;owned\x07: unknown key" in done.stderr


def test_memory_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: Exception) -> None:
        raise error

    for error in (MemoryError(), RuntimeError("cannot allocate 5 bytes\nframe #1")):
        assert entry._guarded(lambda error=error: fail(error)) == 1  # type: ignore[misc]
        captured = capsys.readouterr().err
        assert captured.startswith("seqkit: not enough memory")
        assert captured.count("\n") == 1


@pytest.mark.parametrize("name", ["beam_size", "n_best"])
def test_more_hypotheses_than_memory_can_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: must be at most 10,000"):
        Search(**{"beam_size": 10_000, name: 10**9})


# --- run folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "/tmp/x", "a\0", "a\n", ".hidden", "漢" * 70, "\ud800", "x" * 101, "a\\b"]
)
def test_a_run_name_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not a plain name"):
        check_name(name)
    with pytest.raises(UserError, match="is not a plain name"):
        reserve(name, "x", root=tmp_path / "runs")


@given(st.text(st.sampled_from("a.-_/\\~漢 é\0\n1"), max_size=8))
@BOUNDED
def test_a_name_that_is_allowed_is_a_folder_of_that_name(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    try:
        check_name(name)
    except UserError:
        return
    root = tmp_path_factory.mktemp("names")
    (root / name).mkdir()
    assert [path.name for path in root.iterdir()] == [name]


@pytest.fixture(scope="module")
def fuzzers() -> Iterator[tuple[ModuleType, ModuleType]]:
    """scripts/fuzz/run.py and its targets."""
    sys.path.insert(0, str(SCRIPTS))
    import fuzz.run
    import fuzz.targets

    yield fuzz.run, fuzz.targets
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the fuzzer keeps its tiny runs."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture
def folder(fuzzers: tuple[ModuleType, ModuleType], home: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    from fuzz.parts import make_run

    return Path(shutil.copytree(make_run(home, "sentiment"), tmp_path / "copy"))


DEEP = b"[" * 200_000
FILES: list[tuple[str, bytes, str]] = [
    ("run.json", DEEP, "run.json is missing or damaged"),
    ("run.json", b"9" * 6000, "run.json is missing or damaged"),
    ("run.json", b'{"format": "1"}', "run format 1"),
    ("classes.json", DEEP, "classes.json is missing or damaged"),
    ("classes.json", b"3", "classes.json is missing or damaged"),
    ("classes.json", b"[]", "classes.json is missing or damaged"),
    ("tokenizer.json", DEEP, "damaged tokenizer file"),
    ("tokenizer.json", b'{"format": "seqkit.tokenizer", "version": 1}', "damaged tokenizer file"),
    ("model.safetensors", (2**62).to_bytes(8, "little") + b"{}", "damaged weights file"),
    ("model.safetensors", b"", "damaged weights file"),
    ("config.yaml", LAUGHS.encode(), "more than 20,000 values"),
]


@pytest.mark.parametrize(("name", "data", "message"), FILES, ids=range(len(FILES)))
def test_a_run_folder_from_a_stranger(folder: Path, name: str, data: bytes, message: str) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        run.load(folder)


def test_a_model_too_large_for_its_weights_is_refused(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("hidden_size: 4", "hidden_size: 5"))
    with pytest.raises(UserError, match=r"does not fit config.yaml") as caught:
        run.load(folder)
    assert str(caught.value).isprintable()  # one line, no tabs of torch's
    (folder / "config.yaml").write_text(text.replace("hidden_size: 4", "hidden_size: 16000000"))
    with pytest.raises(UserError, match="cannot be built"):
        run.load(folder)


def weights_with(path: Path, **changes: Any) -> Path:
    """A safetensors file whose header is changed."""
    header = {"__metadata__": {"aliases": "{}"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps({**header, **changes}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**40]}},
        {"a": {"dtype": "X", "shape": [2], "data_offsets": [0, 8]}},
        *(
            {"__metadata__": {"aliases": text}}
            for text in ("[", "3", '["ab"]', '{"b": "c"}', '{"b": []}', "[" * 100_000)
        ),
    ],
    ids=range(9),
)
def test_weights_files_that_lie(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="damaged weights file"):
        load_weights(weights_with(tmp_path / "x.safetensors", **changes))


def test_weights_files_that_do_not_lie(tmp_path: Path) -> None:
    assert set(load_weights(weights_with(tmp_path / "x.safetensors", __metadata__={"aliases": '{"b": "a"}'}))) == {
        "a",
        "b",
    }


def signed(step: Path, name: str, data: bytes) -> None:
    """Put a file into a checkpoint, and its checksum into the manifest."""
    (step / name).write_bytes(data)
    manifest = json.loads((step / "manifest.json").read_text())
    (step / "manifest.json").write_text(json.dumps({**manifest, name: hashlib.sha256(data).hexdigest()}))


def test_a_manifest_names_files_of_its_folder_only(folder: Path) -> None:
    checkpoints = Checkpoints(folder / "checkpoints")
    (step,) = checkpoints.steps()
    manifest = json.loads((checkpoints.path(step) / "manifest.json").read_text())
    for name in ("/dev/zero", "../../run.json", "a\0", ".."):
        changed = {**manifest, name: hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()}
        (checkpoints.path(step) / "manifest.json").write_text(json.dumps(changed))
        assert not Checkpoints(folder / "checkpoints").is_whole(step)
        assert not all(check.good for check in doctor(folder).checks)
    (checkpoints.path(step) / "manifest.json").write_text(json.dumps(manifest))
    assert Checkpoints(folder / "checkpoints").is_whole(step)


@pytest.mark.parametrize(
    "tree", [b"{}", b"3", b"null", DEEP, b'{"items": 3}', b'{"items": [[[], 1]]}', b'{"tensor": "no"}', b'{"os": []}']
)
def test_a_trainer_state_that_is_none(folder: Path, tree: bytes) -> None:
    signed(next((folder / "checkpoints").glob("step-*")), "trainer.json", tree)
    with pytest.raises(UserError, match=r"damaged checkpoint|does not fit"):
        run.resume(folder)
    with pytest.raises(UserError, match=r"damaged checkpoint|no list of the best"):
        run.average(folder)


# --- the fuzzer -----------------------------------------------------------------------------------------------------

# How many inputs fit into a few seconds: those of run folders build a model each.
EXECUTIONS = {"config": 40, "readers": 200, "vectors": 200, "checkpoint": 25, "predict": 60, "names": 200}


@pytest.mark.parametrize("name", EXECUTIONS)
def test_random_inputs_are_accepted_or_refused(
    fuzzers: tuple[ModuleType, ModuleType], home: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fuzz, targets = fuzzers
    runner = fuzz.Runner(targets.make(name, home), lambda call: call())
    fuzz.run_random(runner, 1e9, EXECUTIONS[name], seed=1)
    assert not runner.findings, capsys.readouterr().out
    assert runner.refused
    assert runner.refused < runner.executions


PLANTED = """
import subprocess, sys
sys.path.insert(0, {scripts!r})
import fuzz.run as fuzz
fuzz.SECONDS = 0.2
def spin(_):
    while True: pass
def leak(_):
    bytearray(2 * 10**9)
def defect(_):
    raise KeyError("x")
def outside(_):
    open({outside!r}, "w").close()
def program(_):
    subprocess.run(["true"])
def unpickle(_):
    import pickle
    pickle.loads(b"cos\\ngetcwd\\n.")
def fine(_):
    open({inside!r}, "w").close()
def refused(_):
    raise fuzz.Runner(fine, None).refusals[0]("no")
guard = fuzz.Guard({home!r})
runner = fuzz.Runner(fine, guard)
guard.limit_memory()
for target in (spin, leak, defect, outside, program, unpickle, fine, refused):
    before = len(runner.findings)
    runner.target = target
    runner(b"")
    print("RESULT", target.__name__, len(runner.findings) - before)
"""


def test_the_fuzzer_finds_what_is_planted(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    names = {"scripts": str(SCRIPTS), "home": str(tmp_path / "home"), "outside": str(tmp_path / "x")}
    code = PLANTED.format(**names, inside=str(tmp_path / "home" / "x"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    found = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT"))
    assert found == {
        **dict.fromkeys(("spin", "leak", "defect", "outside", "program", "unpickle"), "1"),
        **dict.fromkeys(("fine", "refused"), "0"),
    }, done.stdout + done.stderr
