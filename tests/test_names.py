"""`package.module:Name` in a configuration: who may name a module, where it is looked for, and what is never run."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
import yaml

import seqkit
from seqkit import run
from seqkit.cli.app import app
from seqkit.config import Names, resolve
from seqkit.errors import UserError
from seqkit.nn import CELLS, Cell
from seqkit.run.doctor import doctor

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
PACKAGE = Path(seqkit.__file__).parent
MINE = "from seqkit.nn import CELLS\nclass MyCell(CELLS['gru']):\n    pass\n"
TASK = "from seqkit.tasks.sentiment.task import SentimentTask\nclass MyTask(SentimentTask):\n    pass\n"


@pytest.fixture(autouse=True)
def _same_modules() -> Iterator[None]:
    """What one test imports is not there in the next."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("seqkit.", "torch", "numpy")) or name.startswith("seqkit.config.beside."):
            del sys.modules[name]


def write_yaml(path: Path, data: Path, **changes: Any) -> Path:
    sources = {part: str(data / "sst2" / f"{part}.tsv") for part in ("train", "dev")}
    tree = {
        "task": "sentiment",
        "data": {**sources, "batch_size": 60},
        "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4, "cell": changes.pop("cell", "lstm")}},
        "training": {"epochs": 2, "keep_best": 2},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**tree, **changes}), "utf-8")
    return path


# --- a run folder from a stranger -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_run(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    return run.train(write_yaml(folder / "a.yaml", generated_data), "name=x", root=folder).folder


EVIL = "from pathlib import Path\nPath(__file__).with_name('was-run').touch()\n" + MINE + TASK
PLACES = {  # how a run's configuration may name what lies in its folder, and what run.json may say
    "module": ("evil:{}", {"evil": "{run}"}),
    "package": ("x.evil:{}", {"x.evil": "{run}/.."}),
    "below": ("inner.evil:{}", {"inner.evil": "{run}"}),
    "linked": ("evil:{}", {"evil": "{run}/../link"}),
}
COMMANDS = {
    "predict": "predict {run}",
    "evaluate": "evaluate {run} seed=2",
    "translate": "translate {run}",
    "compare": "compare {run} {plain}",
    "average": "average {run}",
    "resume": "resume {run}",
    "train": "train {run}/config.yaml name=new",
    "base": "train {mine}/base.yaml name=new",
    "init": "train {mine}/a.yaml name=new init.run={run}",
    "seeds": "train {run}/config.yaml name=new --seeds 2",
    "check": "config check {run}/config.yaml",
    "show": "config show {run}/config.yaml",
    "schema": "config schema {run}/config.yaml",
    "explain": "config explain {run}/config.yaml model.encoder",
}


@pytest.mark.parametrize("trust", [False, True], ids=["no trust", "trust"])
@pytest.mark.parametrize(
    ("place", "key"), [("module", "cell"), ("package", "task"), ("below", "cell"), ("linked", "task")]
)
def test_nothing_that_lies_in_a_run_folder_is_ever_imported(
    cli: Cli, plain_run: Path, generated_data: Path, tmp_path: Path, place: str, key: str, trust: bool
) -> None:
    name, modules = PLACES[place]
    name = name.format("MyCell" if key == "cell" else "MyTask")
    folder = tmp_path / "x"
    shutil.copytree(plain_run, folder)
    (tmp_path / "link").symlink_to(folder)
    (folder / "inner").mkdir()
    for path in (folder / "evil.py", folder / "inner" / "evil.py", folder / "__init__.py"):
        path.write_text(EVIL)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    (tree["model"]["encoder"] if key == "cell" else tree)[key] = name
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    about = json.loads((folder / "run.json").read_text())
    recorded = {module: where.format(run=folder) for module, where in modules.items()}
    (folder / "run.json").write_text(json.dumps({**about, "config": tree, "modules": recorded}))
    mine = write_yaml(tmp_path / "mine" / "a.yaml", generated_data).parent
    (mine / "base.yaml").write_text("base: ../x/config.yaml\n")
    words = {"run": folder, "plain": plain_run, "mine": mine}
    here = tmp_path if place == "package" else folder
    for command in COMMANDS.values():
        done = cli(here, *command.format(**words).split(), *(["--trust"] if trust else []), text="a film\n")
        assert done.returncode == 2, done.stderr
        assert ("cannot import" if trust else "say so with --trust") in done.stderr.decode(), (command, done.stderr)
    for cwd in (tmp_path, folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd)
            patch.syspath_prepend(str(cwd))  # as a script there has it
            with pytest.raises(UserError, match="cannot import" if trust else "trust=True"):
                seqkit.load(folder, trust=trust)
            assert doctor(folder).good
    assert "not checked" in cli(tmp_path, "doctor", str(folder)).stdout.decode()
    (folder / "run.json").unlink()
    doctor(folder)
    assert list(tmp_path.rglob("was-run")) == []


def test_every_command_that_opens_a_run_can_be_told_to_trust_it() -> None:
    group: Any = typer.main.get_command(app)
    commands = {**group.commands, **group.commands["config"].commands}
    for name, command in commands.items():
        parameters = {parameter.name for parameter in command.params}
        assert ("trust" in parameters) == (name not in ("doctor", "config", "docs", "runs")), name


def test_one_place_imports_what_a_configuration_names() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        words = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
        found = words & {"import_module", "exec_module", "spec_from_file_location", "run_path", "run_module"}
        # `require` gets names of libraries that stand in the code.
        assert not found or path.relative_to(PACKAGE).as_posix() in ("config/names.py", "errors.py"), path


# --- code of one's own ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_run(cli: Cli, generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/mine in a folder, trained from settings/a.yaml with settings/own.py beside it."""
    folder = tmp_path_factory.mktemp("own")
    write_yaml(folder / "settings" / "a.yaml", generated_data, cell="own:MyCell", task="own:MyTask", name="mine")
    code = "from tools import TASK_NAME\nfrom .tools import GRU as MyCell\n" + TASK
    (folder / "settings" / "own.py").write_text(code)
    (folder / "settings" / "tools.py").write_text("from seqkit.nn import GRUCell as GRU\nTASK_NAME = 'own'\n")
    done = cli(folder, "train", "settings/a.yaml")
    assert done.returncode == 0, done.stderr
    last = done.stdout.decode().splitlines()[-1]
    assert last.startswith("try it: echo ")
    assert last.endswith(" | seqkit predict runs/mine --trust")
    return folder / "runs" / "mine"


OWN = {
    "predict": ("predict {run}", b"a film\n"),
    "evaluate": ("evaluate {run}", b""),
    "average": ("average {run} --to {name}-average", b""),
    "resume": ("resume {run} training.epochs=3", b""),
    "init": ("train {data}/a.yaml init.run={run} name={name}-init", b""),
    "show": ("config show {run}/config.yaml", b""),
    "schema": ("config schema {run}/config.yaml", b""),
    "explain": ("config explain {run}/config.yaml model.encoder", b""),
}


@pytest.mark.parametrize("command", OWN)
def test_with_trust_a_run_finds_its_code_where_it_was_trained(
    cli: Cli, own_run: Path, generated_data: Path, tmp_path: Path, command: str
) -> None:
    write_yaml(tmp_path / "a.yaml", generated_data)
    shutil.copytree(own_run, tmp_path / "runs" / "copy")
    line, text = OWN[command]
    words = line.format(run=tmp_path / "runs" / "copy", data=tmp_path, name=f"of-{command}").split()
    refused = cli(tmp_path, *words, text=text)
    assert refused.returncode == 2
    assert b"task: a run folder names 'own:MyTask' here" in refused.stderr
    done = cli(tmp_path, *words, "--trust", text=text)
    assert done.returncode == 0, done.stderr


def test_a_run_that_lost_its_run_json_is_a_run_of_a_stranger(own_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own_run, tmp_path / "r"))
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="a run folder names 'own:MyTask' here"):
        run.read_config(folder / "config.yaml")


def test_doctor_says_what_it_does_not_look_into(own_run: Path) -> None:
    report = doctor(own_run)
    assert report.good
    unseen = [line for line in report.lines() if "not checked" in line]
    assert [line.split()[0] for line in unseen] == ["unknown", "unknown"]
    assert [one.file for one in report.checks if not one.seen] == ["config.yaml", "(what the model needs)"]
    assert report.lines()[-1] == "the run folder is whole in everything that was checked"
    assert "trust" not in unseen[0]  # doctor has no such option


def test_runs_of_ones_own_file_go_on_without_trust(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(own_run.parent.parent / "settings", home)
    command = ("train", "a.yaml", "name=s", "training.epochs=1", "--seeds", "2")
    assert cli(home, *command).returncode == 0
    again = cli(home, *command)
    assert again.returncode == 0, again.stderr
    assert b"continuing it" in again.stderr


def test_runs_of_earlier_versions_look_in_the_working_folder(
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have not recorded where their code was."""
    shutil.copytree(own_run, tmp_path / "old")
    about = json.loads((tmp_path / "old" / "run.json").read_text())
    modules = about.pop("modules")
    assert modules == {"own": str(own_run.parent.parent / "settings")}
    (tmp_path / "old" / "run.json").write_text(json.dumps(about))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no module 'own' is installed.*the working folder"):
        seqkit.load("old", trust=True)
    for name in ("own.py", "tools.py"):
        shutil.copy(own_run.parent.parent / "settings" / name, tmp_path)
    task = seqkit.load("old", trust=True)
    assert sys.modules[type(task).__module__].__file__ == str(tmp_path / "own.py")


# --- where a module is looked for -----------------------------------------------------------------------------------


def thing(folder: Path, module: str = "mine", more: str = "") -> Path:
    """A module whose class says where it is."""
    path = folder / (module.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{more}\nclass Own(dict):\n    place = {folder.name!r}\n")
    return path


def look_up(name: str, **settings: Any) -> Any:
    with Names(**settings).rule():
        return resolve("key", name, dict, {})


def test_the_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("installed", "yaml", "base", "recorded", "here")]
    for folder in places:
        for module in ("mine", "pack.age.mine"):
            thing(folder, module)
    monkeypatch.chdir(tmp_path / "here")
    settings = {"folders": (places[1], places[2]), "recorded": dict.fromkeys(("mine", "pack.age.mine"), str(places[3]))}
    for module in ("mine", "pack.age.mine"):
        for first in places:
            if first.name == "installed":
                monkeypatch.syspath_prepend(str(first))
            assert look_up(f"{module}:Own", **settings).place == first.name
            (first / (module.replace(".", "/") + ".py")).unlink()
            sys.path[:] = [entry for entry in sys.path if entry != str(first)]
            sys.modules.pop(module, None)
        with pytest.raises(
            UserError, match=r"key: cannot import '.*': no module .*mine' is installed, and there is no"
        ):
            look_up(f"{module}:Own", **settings)


@pytest.mark.parametrize("entry", ["", "here"])
def test_the_working_folder_on_the_path_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    thing(tmp_path / "here")
    thing(tmp_path / "yaml")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [str(tmp_path / entry) if entry else "", *sys.path])
    assert look_up("mine:Own", folders=(tmp_path / "yaml",)).place == "yaml"
    assert look_up("mine:Own").place == "here"
    # A folder on the path that has the same name does not hide what is elsewhere.
    thing(tmp_path / "here", "pack.other")
    thing(tmp_path / "yaml", "pack.age.mine")
    assert look_up("pack.age.mine:Own", folders=(tmp_path / "yaml",)).place == "yaml"
    assert look_up("pack.other:Own", folders=(tmp_path / "yaml",)).place == "here"


def test_classes_of_a_script_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script: Any = ModuleType("scripted")  # as Python makes `__main__` of a script
    script.Own, script.__file__ = type("Own", (dict,), {}), str(tmp_path / "scripted.py")
    monkeypatch.setitem(sys.modules, "scripted", script)
    assert look_up("scripted:Own") is script.Own
    with pytest.raises(UserError, match="cannot import"):
        look_up("scripted:Own", runs=(tmp_path,), trust=True)


def test_what_lies_beside_a_file_shadows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "json", "yaml", "torch"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    thing(tmp_path, more="import http.client, json, yaml, torch\nassert http.client.HTTPConnection and torch.Tensor")
    before = list(sys.path)
    assert look_up("mine:Own", folders=(tmp_path,)).place == tmp_path.name
    assert sys.path == before
    assert "mine" not in sys.modules
    import http.server

    assert http.server
    with pytest.raises(UserError, match=r"key: 'http:Own': the module \(.*http.__init__\.py\) has no 'Own'"):
        look_up("http:Own", folders=(tmp_path,))


def test_files_of_a_folder_see_each_other(tmp_path: Path) -> None:
    ways: list[tuple[str, Callable[[Any], object]]] = [
        ("from .pack import side", lambda module: module.side.value),
        ("from pack import side", lambda module: module.side.value),
        ("from pack.side import value", lambda module: module.value),
        ("import pack.side", lambda module: module.pack.side.value),
        ("import pack.side as other", lambda module: module.other.value),
        ("import json, pack.side as other", lambda module: module.json and module.other.value),
        ("def late():\n    from pack import side\n    return side\nlate()", lambda module: module.late().value),
    ]
    for number, (way, get) in enumerate(ways):
        folder = tmp_path / str(number)
        thing(folder, more=f"import os.path, sys\n{way}")
        (folder / "pack").mkdir()
        (folder / "pack" / "__init__.py").write_text("")
        (folder / "pack" / "side.py").write_text(f"import sys\nvalue = {number}\n")
        found = sys.modules[look_up("mine:Own", folders=(folder,)).__module__]
        assert get(found) == number, way
    assert "pack" not in sys.modules
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_file_is_one_module_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thing(tmp_path / "one")
    thing(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("one")
    one = look_up("mine:Own", folders=(tmp_path / "one",))
    assert one is look_up("mine:Own", folders=(Path("one"),)) is look_up("mine:Own", folders=(tmp_path / "link",))
    assert one is not look_up("mine:Own", folders=(tmp_path / "two",))
    assert pickle.loads(pickle.dumps(one)) is one
    sys.path.insert(0, str(tmp_path / "two"))  # of a script there; monkeypatch's own chdir leaves the path alone
    try:
        monkeypatch.chdir(tmp_path / "two")
        import mine  # type: ignore[import-not-found]

        assert look_up("mine:Own") is mine.Own
        thing(tmp_path / "two", "pack.age.other")
        assert look_up("pack.age.other:Own").__module__ == "pack.age.other"  # what `import` finds
    finally:
        sys.path.remove(str(tmp_path / "two"))


def test_another_process_can_import_it(tmp_path: Path) -> None:
    (tmp_path / "a_b-c.d é").mkdir()
    (tmp_path / "a_b-c.d é" / "mine.py").write_text("from side import kept\nclass Own(dict):\n    kept = kept\n")
    (tmp_path / "a_b-c.d é" / "side.py").write_text("kept = 3\n")
    with Names(folders=(tmp_path / "a_b-c.d é",)).rule():
        own: Any = resolve("key", "mine:Own", dict, {})
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).kept)"
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(own(a=1)), capture_output=True, env=env)
    assert done.stdout == b"3\n", done.stderr


@pytest.mark.parametrize("way", ["console script", "python -m"])
def test_both_ways_to_start_find_the_same(tmp_path: Path, generated_data: Path, way: str) -> None:
    """The working folder is looked in last, and a file there is not taken for a library."""
    (tmp_path / "own.py").write_text(MINE)
    (tmp_path / "yaml.py").write_text("raise RuntimeError('imported')\n")
    write_yaml(tmp_path / "settings" / "a.yaml", generated_data, cell="own:MyCell")
    start = [sys.executable, *(["bin/seqkit"] if way == "console script" else ["-m", "seqkit"])]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "seqkit").write_text("from seqkit.cli import main\nmain()\n")  # what pip makes of the entry
    done = subprocess.run(
        [*start, "config", "check", "settings/a.yaml"],
        cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"settings/a.yaml: valid\n"), done.stderr


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("x = 1\nunknown\n", "mine:Own", r"key: cannot import 'mine:Own': .*mine\.py:2: NameError: name 'unknown'"),
        ("x = 1\n\nx = = 2\n", "mine:Own", r"mine\.py:3: SyntaxError: invalid syntax"),
        ("import nowhere_to_be_found\n", "mine:Own", r"mine\.py:1: ModuleNotFoundError: No module named 'nowhere"),
        ("raise SystemExit(3)\n", "mine:Own", r"mine\.py:1: SystemExit: 3"),
        ("def f():\n    import json\n    json.loads('{')\nf()\n", "mine:Own", r"mine\.py:3: JSONDecodeError"),
        ("class Owm: pass\n", "mine:Own", r"the module \(.*mine\.py\) has no 'Own'; did you mean 'Owm'\?"),
        ("class Own: pass\n", "mine:Own", r"'mine:Own' is not a class derived from builtins\.dict"),
        ("Own = 3\n", "mine:Own", "is not a class derived from"),
        ("", "mime:Own", r"no module 'mime' is installed, and there is no mime\.py beside the YAML file \(.*'mine'\?"),
        ("", "seqkit.config.beside.x.mine:Own", "does not name modules of seqkit.config.beside"),
        ("x = '\0'\n", "mine:Own", r"mine\.py:1: SyntaxError: source code"),
        ("from side import x\n", "mine:Own", r"side\.py:2: ZeroDivisionError: division by zero$"),
        (
            "import os, json.no\n",
            "mine:Own",
            r"mine\.py:1: ModuleNotFoundError: No module named 'json.no'",
        ),
        ("", "lstn", r"key: unknown key 'lstn'; known: lstm_of_mine, gru \(or package\.module:Class\)$"),
        ("", "lstm_of_mime", r"key: unknown key 'lstm_of_mime'; did you mean 'lstm_of_mine'\? \(or package"),
        ("", "mine:", "unknown key 'mine:'"),
        ("", ":Own", "unknown key ':Own'"),
        ("", "a b:Own", "unknown key 'a b:Own'"),
        ("", "mine:Own.Inner", r"unknown key 'mine:Own\.Inner'"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key_and_the_place(
    tmp_path: Path, code: str, name: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "side.py").write_text("# beside it\nx = 1 / 0\n")
    with pytest.raises(UserError, match=message) as error, Names(folders=(tmp_path,)).rule():
        resolve("key", name, dict, {"lstm_of_mine": dict, "gru": dict})
    assert "\n" not in str(error.value)


def test_the_line_of_the_configuration_is_named(tmp_path: Path, generated_data: Path) -> None:
    path = write_yaml(tmp_path / "a.yaml", generated_data, cell="own:MyCel")
    (tmp_path / "own.py").write_text(MINE)
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "cell:" in text)
    with pytest.raises(UserError, match=rf"a\.yaml:{line}: model\.encoder\.cell: .*did you mean 'MyCell'"):
        run.read_config(path)
    with pytest.raises(UserError, match=r"command line: model\.encoder\.cell: unknown cell 'grru'; did you mean 'gru'"):
        run.read_config(path, ["model.encoder.cell=grru"])


def test_names_in_a_table_are_resolved_without_trust() -> None:
    with Names(runs=(Path("x"),)).rule():
        assert resolve("cell", "gru", Cell, CELLS) is CELLS["gru"]
