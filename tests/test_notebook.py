"""A notebook that is run: what each object shows, where lines go, and the bar."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

FIXTURES = Path(__file__).parent / "fixtures"

CELLS = {
    "train": """
import seqkit
run = seqkit.train({
    "task": "sentiment", "name": "small", "device": "cpu",
    "data": {"train": {"path": "builtin:reviews", "limit": 64}, "dev": {"path": "builtin:reviews", "limit": 16}},
    "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}}, "training": {"epochs": 2, "log_every": 1},
})
run""",
    "curves": "axes = run.plot(); print(type(axes).__name__, len(axes.lines), axes.get_ylabel())",
    "model": "model = seqkit.load(run.folder, 'cpu'); model",
    "prediction": "model.predict(['the film is <b>dull</b> .'])[0]",
    "explanation": "model.explain(['the film is <b>dull</b> .'])[0]",
    "trace": "model.trace('the film is <b>dull</b> .')",
    "tagging": f"""
tagger = seqkit.load({str(FIXTURES / "2026-11/slots-finished")!r}, 'cpu')
tagger.predict(['Find the superb film.'])[0]""",
    "translation": f"""
translator = seqkit.load({str(FIXTURES / "2026-11/translation-finished")!r}, 'cpu')
translator.adjust(attention=True)
translation = translator.predict(['the film was dull'])[0]
translation""",
    "line": f"""
writer = seqkit.load({str(FIXTURES / "2026-11/language_model-finished")!r}, 'cpu')
line = writer.predict(['the film was dull'])[0]
line""",
    "continuation": "writer.adjust(sample=True, max_length=5); writer.predict(['the film'])[0]",
    "plots": """
plots = [model.trace('a dull film').plot(), model.explain(['a dull film'])[0].plot(), translation.plot(),
         model.predict(['a dull film'])[0].plot()]
print([type(axes).__name__ for axes in plots])""",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in CELLS.values()])
    root = str(Path(__file__).parents[1])
    variables = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    path, kept = folder / "notebook.ipynb", {**os.environ, **variables}
    nbformat.write(notebook, path)
    # In a process of its own: the client starts threads and an event loop, and warns of what they do.
    code = (
        "import sys, nbformat, nbclient; book = nbformat.read(sys.argv[1], 4); "
        "nbclient.NotebookClient(book, timeout=300, kernel_name='python3').execute(); nbformat.write(book, sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=folder, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(path, 4).cells
    return {name: cell.outputs for name, cell in zip(CELLS, cells, strict=True)}


def html_of(outputs: dict[str, list[Any]], name: str) -> str:
    found = [one.data["text/html"] for one in outputs[name] if "text/html" in one.get("data", {})]
    assert found, [one.get("text", one) for one in outputs[name]]
    return str(found[-1])


def printed(outputs: dict[str, list[Any]], name: str, stream: str) -> str:
    return "".join(one.text for one in outputs[name] if one.output_type == "stream" and one.name == stream)


def test_lines_go_to_standard_output_and_a_bar_is_shown(outputs: dict[str, list[Any]]) -> None:
    lines = printed(outputs, "train", "stdout")
    assert "run folder: runs/small" in lines
    assert "dev: loss" in lines
    assert printed(outputs, "train", "stderr") == ""
    pytest.importorskip("ipywidgets")
    assert any("application/vnd.jupyter.widget-view+json" in one.get("data", {}) for one in outputs["train"])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("train", ["Run folder: runs/small", "accuracy", "<svg", "train loss"]),
        ("model", ["A sentiment model", "encoder.embedding", "4, 4, batch_first=True"]),
        ("prediction", ["The label is", "positive", "negative"]),
        ("explanation", ["Integrated gradients", "Occlusion", "dull"]),
        ("trace", ["data-gates", "forget", "still in the final state", "application/json"]),
        ("tagging", ["<mark>", "<small>", "The intent is", "film"]),
        ("translation", ["Attention", "Score", 'class="matrix"']),
        ("line", ["perplexity of a token"]),
        ("continuation", ["the film", "less probable"]),
    ],
)
def test_each_object_shows_itself(outputs: dict[str, list[Any]], name: str, parts: list[str]) -> None:
    html = html_of(outputs, name)
    for part in parts:
        assert part in html
    assert html.startswith('<div class="seqkit"><style>.seqkit {')
    assert "<b>dull" not in html
    assert html.count("<script>") == (name == "trace")  # ours, where there is something to click


def test_plots_are_axes(outputs: dict[str, list[Any]]) -> None:
    assert printed(outputs, "curves", "stdout").split() == ["Axes", "2", "loss"]
    assert printed(outputs, "plots", "stdout").strip() == str(["Axes"] * 4)


def test_a_notebook_without_jinja_shows_the_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from seqkit import drawing
    from seqkit.tasks.explain import Explanation

    assert drawing.notebook(lambda: ["x"]) is not None
    assert Explanation("")._repr_html_() is not None
    monkeypatch.setitem(sys.modules, "markupsafe", None)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    drawing.html._templates.cache_clear()
    capsys.readouterr()
    assert Explanation("")._repr_html_() is None
    assert re.fullmatch(r"shown as text: .*jinja2.*pip install.*\n", capsys.readouterr().err)


def test_a_defect_breaks_no_cell_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from seqkit import drawing

    assert drawing.notebook(lambda: [str([][1])]) is None
    assert capsys.readouterr().err == "shown as text: IndexError: list index out of range\n"
