"""README and the pages of the manual: their code runs, their links lead somewhere, and README is short.

Left out are blocks marked long and the two set-up lines, which .ci/run executes. Trainings of the shipped
configurations are cut to three steps on little data; what else a block does, it does as written. A block whose first
line is a comment with a file's name is that file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import seqkit
from seqkit import config
from seqkit.run import read_config

ROOT = Path(__file__).parent.parent
PAGES = Path(seqkit.__file__).parent / "docs"
README = ROOT / "README.md"
ALL = {"README": README, **{path.stem: path for path in sorted(PAGES.glob("*.md"))}}
TEXT = README.read_text("utf-8")
SETUP = re.compile(r"<!-- first two commands -->.*?<!-- end -->", re.S)
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
BLOCK = re.compile(r"(<!-- long: [^>]+ -->\n)?```(bash|python|yaml)\n(.*?)```", re.S)
FILE = re.compile(r"# (\w+\.(?:py|yaml))\n")
SHORTER = ["training.epochs=null", "training.steps=3", *(f"data.{part}.limit=50" for part in ("train", "dev", "test"))]
SERVER = Path(__file__).parent / "fork_server.py"


def prose(text: str) -> str:
    """A page without its code and comments."""
    return FENCE.sub("", re.sub(r"<!--.*?-->", "", text, flags=re.S))


# --- README -----------------------------------------------------------------------------------------------------------


def test_the_first_block_is_the_two_set_up_lines() -> None:
    match = SETUP.search(TEXT)
    assert match
    lines = [line for line in match.group().splitlines() if line.startswith("pip ")]
    assert lines == [
        "pip install . && seqkit train configs/sentiment/quickstart.yaml",
        "pip install '.[test]' && pytest",
    ]
    assert TEXT.index(match.group()) == TEXT.index("<!--")


def test_readme_is_short() -> None:
    assert len(prose(TEXT).split()) <= 1000


# --- all pages --------------------------------------------------------------------------------------------------------


def test_what_blocks_install_are_extras_of_the_project() -> None:
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    texts = [path.read_text("utf-8") for path in ALL.values()]
    groups = [group for text in texts for group in re.findall(r"pip install '\.\[([^]]+)\]'", text)]
    named = {name for group in groups for name in group.split(",")}
    assert "translation" in named
    assert named <= set(extras)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ALL)
def test_links_lead_somewhere(name: str) -> None:
    text = prose(ALL[name].read_text("utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if link.startswith("https://"):
            continue
        target, _, place = link.partition("#")
        file = (ALL[name].parent / target).resolve() if target else ALL[name]
        assert file.exists(), link
        if place:
            headings = re.findall(r"^#+ (.*)$", prose(file.read_text("utf-8")), re.M)
            assert place in map(anchor, headings), link


CONFIGS = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "configs").rglob("*.yaml"))}


@pytest.mark.parametrize("name", [*ALL, *CONFIGS])
def test_files_that_a_page_or_a_configuration_names_exist(name: str) -> None:
    text = {**ALL, **CONFIGS}[name].read_text("utf-8")
    named = re.findall(r"\b(?:configs|scripts|tests|seqkit)/[\w/.-]*\w", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("name", [name for name in ALL if name != "README"])
def test_a_page_begins_with_title_and_summary_and_fits_a_terminal(name: str) -> None:
    title, blank, summary, after, *_ = ALL[name].read_text("utf-8").split("\n")
    assert title.startswith("# ")
    assert len(summary) <= 60
    assert blank == after == ""
    lines = [line for line in prose(ALL[name].read_text("utf-8")).splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 80] == []


def schema_keys(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys below a node of a JSON Schema."""
    node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    for option in (*node.get("anyOf", ()), *node.get("allOf", ())):
        yield from schema_keys(schema, option, prefix)
    for name, child in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from schema_keys(schema, child, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def all_keys() -> set[str]:
    """Every key of the configurations of the four tasks."""
    names = ("sentiment/quickstart", "translation/quickstart", "slots/travel", "slots/travel-window")
    names += ("language_model/quickstart",)
    schemas = [type(read_config(ROOT / f"configs/{name}.yaml")[0]).model_json_schema() for name in names]
    return {key for schema in schemas for key in schema_keys(schema, schema)}


@pytest.mark.parametrize("name", ALL)
def test_keys_that_a_page_names_exist(all_keys: set[str], name: str) -> None:
    sections = "data|text|model|training|init|lora|decoding|scoring"
    named = re.findall(rf"`((?:{sections})\.(?!safetensors|onnx)[a-z_.]+)", prose(ALL[name].read_text("utf-8")))
    assert [key for key in named if key not in all_keys] == []


def keys_of(tree: Any, known: set[str], before: str = "") -> Iterator[str]:
    """Dotted keys of a tree, down to those whose values the schema leaves open."""
    for key, value in tree.items():
        yield (path := before + key)
        if isinstance(value, dict) and any(other.startswith(path + ".") for other in known):
            yield from keys_of(value, known, path + ".")


FRAGMENTS = [
    (name, code)
    for name, path in ALL.items()
    for language, code in re.findall(r"```(yaml)\n(.*?)```", path.read_text("utf-8"), re.S)
    if not FILE.match(code)
]


@pytest.mark.parametrize(("name", "code"), FRAGMENTS)
def test_keys_of_a_fragment_of_yaml_exist(all_keys: set[str], tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "fragment.yaml").write_text(code, "utf-8")
    tree = config.read(tmp_path / "fragment.yaml").tree
    assert [key for key in keys_of(tree, all_keys) if key not in all_keys] == []


def test_readme_links_to_every_page() -> None:
    assert set(re.findall(r"\(seqkit/docs/([\w-]+)\.md\)", TEXT)) == set(ALL) - {"README"}


# --- code -------------------------------------------------------------------------------------------------------------

Shell = Callable[[Path, str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """`shell(folder, script)`: what bash does there, where `seqkit` and `python` fork from a process that waits.

    The command may not be installed where the tests run from a checkout; what is to be installed is.
    """
    place = tempfile.TemporaryDirectory()  # not pytest's: the path of a socket has at most 100 characters
    socket = Path(place.name) / "socket"
    server = subprocess.Popen([sys.executable, SERVER, socket], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    call = f'"{sys.executable}" -S -E "{SERVER}" "{socket}"'
    head = f"""set -e
pip() {{ echo "pip $*"; }}
seqkit() {{
  case "$1 $2" in "train configs/"*) set -- "$@" {" ".join(SHORTER)} ;; esac
  {call} seqkit "$@"
}}
python() {{ if [ "$1" = -c ]; then {call} python "$2"; else "{sys.executable}" "$@"; fi; }}
"""

    def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", head + script], cwd=folder, capture_output=True, text=True, timeout=300)

    yield run
    server.kill()
    server.communicate()
    place.cleanup()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the first set-up line leaves it, with a shorter training."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    command = [sys.executable, "-m", "seqkit", "train", "configs/sentiment/quickstart.yaml", *SHORTER]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def blocks(text: str) -> Iterator[tuple[str, str, bool]]:
    """Language and code of each block, and whether it is marked long."""
    for long, language, code in BLOCK.findall(SETUP.sub("", text)):
        yield language, code, bool(long)


@pytest.mark.parametrize("name", [name for name in ALL if [*blocks(ALL[name].read_text("utf-8"))]])
def test_blocks_run(home: Path, tmp_path: Path, shell: Shell, name: str) -> None:
    folder = tmp_path / "home"
    shutil.copytree(home, folder)
    for language, code, long in blocks(ALL[name].read_text("utf-8")):
        file = FILE.match(code)
        if file:
            (folder / file[1]).write_text(code, "utf-8")
        elif language != "yaml" and not long:
            quoted = code.replace("'", "'\\''")
            done = shell(folder, f"python -c '{quoted}'" if language == "python" else code)
            assert done.returncode == 0, code + done.stdout + done.stderr
            assert done.stdout, code
