"""`seqkit lessons`: every number of the exact lessons, and what is printed and written of them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkit.errors import UserError
from seqkit.lessons import LESSONS, find_lesson
from seqkit.lessons.base import Block, check_page

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]

EXACT = ("memory", "gates", "gradients")
"""The other lessons train models: tests/test_trained_lessons.py."""


@pytest.fixture(scope="module")
def computed() -> dict[str, list[Block]]:
    return {name: LESSONS[name].blocks() for name in EXACT}


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_step_by_step() -> None:
    from seqkit.lessons import memory

    moments = memory.run(((1.0, 1.0), (1.0, 1.0), (2.0, 2.0)))
    assert [moment.memory for moment in moments] == [(0, 0), (2, 2), (6, 6)]
    assert [moment.hidden for moment in moments] == [(2, 2), (6, 6), (16, 16)]
    assert [moment.output for moment in moments] == [(4, 4), (12, 12), (32, 32)]
    assert tuple(moment.input for moment in moments) == memory.INPUTS


def by_hand(inputs: Any) -> list[tuple[float, float]]:
    """The outputs of the network whose weights are all 1, without any module."""
    unit, outputs = 0.0, []
    for first, second in inputs:
        unit = first + second + 2 * unit
        outputs.append((2 * unit, 2 * unit))
    return outputs


def test_memory_in_every_order() -> None:
    from seqkit.lessons import memory

    runs = memory.orders(memory.INPUTS)
    assert len(runs) == 3
    assert len({moments[-1].output for moments in runs}) == 3
    for moments in runs:
        assert [moment.output for moment in moments] == by_hand([moment.input for moment in moments])
    without = memory.run(memory.INPUTS, remembers=False)
    assert without[0].output == without[1].output == (4, 4)


# --- gates ------------------------------------------------------------------------------------------------------------


def test_gates_memory_and_output() -> None:
    from seqkit.lessons import gates

    values = gates.run(
        ((1, 0, 0), (3, 1, 0), (2, 0, 0), (4, 1, 0), (2, 0, 0), (1, 0, 1), (3, -1, 0), (6, 1, 0), (1, 0, 1))
    )
    assert values == gates.run()
    assert values["memory before"] == pytest.approx([0, 0, 3, 3, 7, 7, 7, 0, 6], abs=1e-3)
    assert values["output"] == pytest.approx([0, 0, 0, 0, 0, 7, 0, 0, 6], abs=1e-3)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_every_gate_is_what_its_formula_says() -> None:
    from seqkit.lessons import gates

    values, memory = gates.run(), 0.0
    for step, (x1, x2, x3) in enumerate(gates.INPUTS):
        opened = {name: values[f"{name} gate"][step] for name in ("input", "forget", "output")}
        wanted = {"input": 100 * x2 - 10, "forget": 100 * x2 + 10, "output": 100 * x3 - 10}
        assert opened == pytest.approx({name: sigmoid(value) for name, value in wanted.items()})
        assert values["candidate"][step] == x1
        assert values["memory before"][step] == pytest.approx(memory)
        memory = opened["forget"] * memory + opened["input"] * x1
        assert values["memory after"][step] == pytest.approx(memory)
        assert values["output"][step] == pytest.approx(opened["output"] * memory)


def test_the_formulas_shown_are_those_of_the_weights(computed: dict[str, list[Block]]) -> None:
    text = "\n".join(LESSONS["gates"].lines(computed["gates"]))
    for formula in ("sigmoid(100 x2 - 10)", "sigmoid(100 x2 + 10)", "sigmoid(100 x3 - 10)"):
        assert formula in text


# --- gradients --------------------------------------------------------------------------------------------------------


def test_a_weight_to_the_power_of_a_thousand() -> None:
    from seqkit.lessons import gradients

    results = {weight: gradients.power(weight) for weight in (1.0, 1.01, 0.99, 0.01)}
    assert tuple(results) == gradients.WEIGHTS
    assert results[1.0].output == results[1.0].jacobian == 1
    assert results[1.01].output == pytest.approx(20_000, rel=0.05)
    assert results[1.01].jacobian == pytest.approx(20_000, rel=0.05)
    assert results[0.99].output == pytest.approx(0, abs=1e-4)
    assert results[0.01].output == results[0.01].jacobian == 0
    for weight, result in results.items():
        assert result.output == pytest.approx(weight**999)
        assert result.slope == pytest.approx(999 * weight**998)
        assert result.jacobian == pytest.approx(weight**1000)


@pytest.mark.parametrize("weight", [1.0, 1.01, 0.99, 0.01])
def test_the_jacobians_of_a_linear_network_stretch_by_the_weight(weight: float) -> None:
    from seqkit.lessons import gradients

    rnn, x = gradients.many_units(weight, "identity"), gradients.inputs(gradients.UNITS)
    sizes = gradients.norms(gradients.step_by_step(rnn, x))
    assert sizes == pytest.approx([weight**step for step in range(1, 1001)])
    whole = torch.linalg.matrix_norm(gradients.end_to_end(rnn, x), 2).item()
    assert whole == pytest.approx(weight**1000, rel=1e-9, abs=1e-300)


def test_the_product_of_the_jacobians_is_that_of_all_steps_at_once() -> None:
    from seqkit.lessons import gradients

    rnn, x = gradients.many_units(1.01, "tanh"), gradients.inputs(gradients.UNITS, 50)
    steps = gradients.step_by_step(rnn, x)
    product = torch.linalg.multi_dot(list(steps.flip(0)))
    torch.testing.assert_close(product, gradients.end_to_end(rnn, x), rtol=1e-9, atol=1e-12)
    hidden = rnn.trace(x).records[0]["h"].detach()
    formula = (1 - hidden.square()).unsqueeze(2) * rnn.get_parameter("weight_hh_l0")
    torch.testing.assert_close(steps, formula.detach())


@pytest.mark.parametrize("bias", [0.0, 2.0, 5.0, 10.0])
def test_the_carousel_turns_by_the_forget_gate(bias: float) -> None:
    from seqkit.lessons import gradients

    x = torch.zeros(1000, 1, dtype=torch.float64)
    jacobian = gradients.end_to_end(gradients.carousel(bias), x, part=1).item()
    assert jacobian == pytest.approx(sigmoid(bias) ** 1000)
    assert jacobian > 0.95 or bias < 10


def test_the_loss_is_flat_on_one_side_and_a_wall_on_the_other() -> None:
    from seqkit.lessons import cliff

    weights = [0.9, 0.97, 1.0, 1.01, 1.03]
    values, slopes = cliff.losses(weights)
    assert values == pytest.approx([(weight**99 - 1) ** 2 for weight in weights])
    assert slopes == pytest.approx([2 * (weight**99 - 1) * 99 * weight**98 for weight in weights])
    assert abs(slopes[0]) < 0.01
    assert slopes[-1] > 60_000


def test_a_run_without_clipping_fails_and_one_with_it_arrives() -> None:
    from seqkit.lessons import cliff

    plain, failure = cliff.train(None)
    assert [update.weight for update in plain[:2]] == pytest.approx([1.03, 1.03 - cliff.RATE * plain[0].norm])
    assert "loss is inf" in failure
    assert len(plain) == 2
    clipped, none = cliff.train(cliff.CLIP)
    assert (none, len(clipped)) == ("", cliff.UPDATES)
    assert clipped[0] == plain[0]
    lengths = [abs(new.weight - old.weight) for old, new in pairwise(clipped)]
    assert max(lengths) == pytest.approx(cliff.RATE * cliff.CLIP, rel=1e-4)
    assert clipped[-1].weight == pytest.approx(1, abs=1e-9)
    assert clipped[-1].loss < 1e-12


# --- lines and pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_a_lesson_fits_a_terminal_of_any_encoding(computed: dict[str, list[Block]], name: str) -> None:
    lines = LESSONS[name].lines(computed[name])
    assert len(lines) > 30
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() for line in lines)


VOID = {"meta"}


class Outline(HTMLParser):
    """Tags that are open, ids, and addresses of anything that is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", EXACT)
def test_a_page_stands_alone(computed: dict[str, list[Block]], tmp_path: Path, name: str) -> None:
    file = tmp_path / "page.html"
    LESSONS[name].write_page(file, computed[name])
    text = file.read_text("utf-8")
    outline = Outline()
    outline.feed(text)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    assert all(address.startswith("#") and address[1:] in outline.ids for address in outline.loaded)
    assert not {"script", "link", "img", "iframe"} & set(outline.tags)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(outline.ids)
    assert text.count("<svg") == {"memory": 0, "gates": 0, "gradients": 4}[name]
    LESSONS[name].write_page(file, computed[name])
    assert file.read_text("utf-8") == text  # the same bytes each time


def test_all_lessons_are_listed(cli: Cli, tmp_path: Path) -> None:
    lines = cli(tmp_path, "lessons").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == list(LESSONS)
    assert all(len(line.split()) > 5 for line in lines)


def test_a_lesson_is_printed_and_written(cli: Cli, tmp_path: Path) -> None:
    done = cli(tmp_path, "lessons", "memory", "--to", "memory.html")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "(16, 16)  (32, 32)" in text
    assert text.endswith("\npage: memory.html\n")
    assert "(32, 32)" in (tmp_path / "memory.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["memori"], "lessons: no lesson 'memori'; did you mean 'memory'?"),
        (["memory", "--to", "memory.pdf"], "--to memory.pdf: expected the name of an HTML file, such as memory.html"),
        (["memory", "--to", "none/memory.html"], "--to none/memory.html: no folder none"),
        (["memory", "--to", "folder.html"], "--to folder.html: is a folder"),
        (["--to", "memory.html"], "--to memory.html: which lesson?"),
    ],
)
def test_a_mistake_is_one_error(cli: Cli, tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "folder.html").mkdir()
    done = cli(tmp_path, "lessons", *arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert says in line


@pytest.mark.parametrize(("module", "extra"), [("jinja2", "html"), ("matplotlib", "plot")])
def test_a_missing_extra_is_said_before_the_lesson_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install {module}, or pip install '\.\[{extra}\]'"):
        check_page(tmp_path / "page.html")
    assert find_lesson("memory", LESSONS).lines([])  # what is printed needs neither


def test_the_list_imports_nothing_heavy() -> None:
    code = "import sys, seqkit.cli\ntry:\n    seqkit.cli.main(['lessons'])\nexcept SystemExit:\n    pass\n"
    heavy = "print([name for name in ('torch', 'numpy', 'matplotlib', 'jinja2', 'seqkit.run') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
