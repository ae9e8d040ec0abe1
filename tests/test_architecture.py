"""The house rules that a machine can check: who imports whom, how long a file and a function may be."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqkit
import seqkit.nn

PACKAGE = Path(seqkit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Room -> (rooms of seqkit it may import, third parties at the top of a file, third parties inside functions).
TABLE: dict[str, tuple[set[str], set[str], set[str]]] = {
    "_version": (set(), set(), set()),
    "__init__": ({"_version"}, set(), {"run", "report"}),
    "__main__": ({"cli"}, set(), set()),
    "nn": (set(), {"torch"}, set()),
    "decoding": (set(), {"torch"}, set()),
    "models": ({"nn"}, {"torch"}, set()),
    "errors": (set(), set(), set()),
    "files": (set(), set(), set()),
    "console": ({"errors"}, {"tqdm"}, set()),
    "distributed": ({"errors", "console"}, {"torch"}, set()),
    "config": ({"errors"}, {"pydantic", "pydantic_core", "yaml"}, set()),
    "text": ({"config", "errors", "files"}, {"tokenizers", "numpy", "torch", "pydantic"}, {"torchtext"}),
    "data": (
        {"config", "text", "files", "errors", "console", "distributed"},
        {"torch", "numpy", "pydantic"},
        {"datasets", "huggingface_hub", "pyarrow", "torchdata", "torchtext"},
    ),
    "training": (
        {"config", "files", "errors", "console", "distributed", "data"},
        {"torch", "numpy", "safetensors", "pydantic"},
        {"tensorboard"},
    ),
    "tasks": (
        {
            "config",
            "files",
            "errors",
            "console",
            "distributed",
            "text",
            "data",
            "models",
            "decoding",
            "training",
            "nn",
            "drawing",
        },
        {"torch", "numpy", "pydantic"},
        {"sacrebleu", "matplotlib", "pyarrow"},
    ),
    "run": (
        {"config", "files", "errors", "console", "distributed", "nn", "data", "tasks", "training", "drawing"},
        {"torch", "packaging"},
        set(),
    ),
    "drawing": ({"console", "errors"}, set(), {"numpy"}),
    "lessons": (
        {"config", "nn", "data", "tasks", "training", "run", "drawing", "files", "errors", "console"},
        {"torch"},
        set(),
    ),
    "serve": (
        {"config", "console", "drawing", "errors", "report", "run", "tasks", "training"},
        {"pydantic"},
        {"starlette", "uvicorn"},
    ),
    "report": (
        {"config", "files", "errors", "console", "distributed", "training", "tasks", "run", "drawing"},
        {"torch", "numpy"},
        set(),
    ),
    "export": (
        {"config", "nn", "models", "decoding", "text", "training", "tasks", "run", "files", "errors", "console"},
        {"torch", "numpy"},
        {"onnx", "onnxruntime"},
    ),
    "cli": (
        {"run", "report", "lessons", "export", "serve", "drawing", "config", "files", "errors", "console"},
        {"typer"},
        {"distributed", "training"},
    ),
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Imported modules, and whether inside a function; imports for type checkers are passed over."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = [f"seqkit.{alias.name}" for alias in node.names] if node.module == "seqkit" else [node.module or ""]
            yield from ((name, inside) for name in names)
        else:
            yield from imports(node, inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    own = room(path)
    rooms, top, lazy = TABLE[own]
    for name, inside in imports(ast.parse(path.read_text("utf-8"))):
        parts = name.split(".")
        if parts[0] == "seqkit":
            if len(parts) == 1 or parts[1] == "_version":
                continue
            assert parts[1] in rooms | {own} | (lazy if inside else set()), f"{own} imports {name}"
        elif parts[0] not in sys.stdlib_module_names:
            # Triton's decorators stand at the top of a file; files with kernels are imported only inside functions.
            kernels = {"triton"} if path.is_relative_to(PACKAGE / "nn/kernels/triton") else set()
            # Scripts that are copied out of the package; nothing imports them.
            copied = path.is_relative_to(PACKAGE / "export/scripts")
            alone = {"onnxruntime", "tokenizers", "exported"} if copied else set()
            assert parts[0] in top | kernels | alone | (lazy if inside else set()), f"{own} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("*.py")), ids=lambda path: path.name)
def test_models_take_public_names_of_nn_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seqkit.nn"):
            assert node.module == "seqkit.nn"
            assert {alias.name for alias in node.names} <= set(seqkit.nn.__all__)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("seqkit.nn") for alias in node.names)


def name_of(path: Path) -> str:
    return ".".join(("seqkit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The modules of seqkit that a file imports, wherever the import stands; a package is its `__init__`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module or "" for name in full}
    return names & MODULES.keys()


IMPORTED = {name: imported(path) for name, path in MODULES.items()}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach each other, larger than one (and a module that imports itself)."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        waiting, seen = [start], set()
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        reached[start] = seen
    return {frozenset(one for one in reached[name] if name in reached[one]) for name in graph if name in reached[name]}


def borrowed(path: Path) -> set[str]:
    """The names that a file has from other files of seqkit."""
    found = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in found for alias in node.names if "seqkit" in (node.module or "")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_name_is_imported_from_where_it_is_defined(path: Path) -> None:
    """Or from the `__init__` of a package, which lists what is public."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        source = MODULES.get(node.module or "") if isinstance(node, ast.ImportFrom) else None
        if source is not None and source.name != "__init__.py":
            others = {alias.name for alias in node.names} & borrowed(source)  # type: ignore[attr-defined]
            assert not others, f"{node.module} has {others} from elsewhere"  # type: ignore[attr-defined]


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == {frozenset("abc"), frozenset("de")}


def test_no_module_imports_in_a_circle() -> None:
    assert not circles(IMPORTED)


def test_nothing_inside_imports_the_package_itself() -> None:
    for name, others in IMPORTED.items():
        assert "seqkit" not in others, f"{name} imports seqkit"
        assert not (name.startswith("seqkit.nn") and "seqkit.nn" in others), f"{name} imports the face of its own room"


# The floors of nn, from the ground up: what a file imports from nn lies on its own floor or below.
FLOORS: list[set[str]] = [
    {"aten_step", "checks", "sending", "state", "initialise", "cell"},
    {"kernels"},
    {"cells"},
    {
        "agreement",
        "aten",
        "backends",
        "cudnn",
        "custom_op",
        "direct",
        "dropout",
        "exported_loops",
        "layers",
        "layout",
        "network",
        "onnx",
        "trace",
    },
    {"recurrent"},
]


def floor(name: str) -> int:
    return next((floor for floor, names in enumerate(FLOORS) if name.split(".")[2] in names), len(FLOORS))


def test_arrows_inside_nn_point_down() -> None:
    inside = {name: others for name, others in IMPORTED.items() if name.startswith("seqkit.nn.")}
    assert {part for names in FLOORS for part in names} <= {name.split(".")[2] for name in inside}
    arrows = {(name, other) for name, others in inside.items() for other in others if floor(other) > floor(name)}
    assert not arrows


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 500  # of a class; files are cut by meaning, not by length
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # A signature is no logic: a face of many arguments may list them one to a line.
            assert (node.end_lineno or 0) - node.body[0].lineno < 60, f"{node.name} is long"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "no module docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_nn_models_and_decoding_need_torch_alone() -> None:
    blocked = {name for _, top, lazy in TABLE.values() for name in top | lazy} - {"torch", "numpy", "run"}
    code = f"""
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {sorted(blocked | {"typer", "tqdm", "pydantic"})!r}:
                    raise ImportError("blocked: " + name)
        sys.meta_path.insert(0, Block())
        import seqkit.nn, seqkit.models, seqkit.decoding
        import torch
        print(seqkit.nn.LSTM(2, 3)(torch.zeros(4, 1, 2))[0].shape)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([4, 1, 3])" in done.stdout


def test_importing_seqkit_and_its_tasks_does_not_import_slow_libraries() -> None:
    slow = ("datasets", "pandas", "pyarrow", "torchmetrics", "sacrebleu", "matplotlib", "sklearn", "torch._dynamo")
    tasks = "seqkit.run, seqkit.tasks.sentiment.task, seqkit.tasks.translation.task, seqkit.tasks.language_model.task"
    code = f"import sys, {tasks}; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
