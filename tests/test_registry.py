"""Fields that name a row of a table or `package.module:Name`: what they take, keep, write and refuse."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field, ValidationError

from seqkit.config import Names, OneOf, Section, Untrusted, WithOptions, arguments, dump, from_mapping, maker, read
from seqkit.config.registry import options_of
from seqkit.errors import Option, UserError


class Shape:
    """Base of a kind."""

    def __init__(self, size: int) -> None:
        self.size = size


class Round(Shape):
    """One without options."""


class Square(Shape):
    """One with an option."""

    def __init__(self, size: int, *, corners: float = 4.0) -> None:
        super().__init__(size)
        self.corners = corners


def half(step: int, *, rate: float = 0.5) -> float:
    """A function of a table of functions."""
    return step * rate


SHAPES: dict[str, Any] = {"round": Round, "square": f"{__name__}:Square"}
RATES: dict[str, Callable[..., float]] = {"half": half}


class RateConfig(Section):
    """A section whose name chooses."""

    name: Annotated[str, OneOf("rate", RATES, Callable)] = "half"
    warmup: int = Field(default=0, ge=0)


class Drawing(Section):
    """A schema with each form."""

    shape: Annotated[str, OneOf("shape", SHAPES, Shape, supplied=("size",), also=("none",))] = "none"
    plain: Annotated[str, OneOf("shape", SHAPES, Shape)] = "round"
    several: list[Annotated[str, OneOf("shape", SHAPES, Shape, supplied=("size",))]] = ["round"]
    rate: Annotated[RateConfig, WithOptions(("step",))] = RateConfig()


MINE = """
from __future__ import annotations
from typing import TYPE_CHECKING
from tests_registry_base import Shape
if TYPE_CHECKING:
    from nowhere import Nothing
class Mine(Shape):
    def __init__(self, size, *, width: int, tall: bool = False):
        super().__init__(size)
        self.width, self.tall = width, tall
class Odd(Shape):
    def __init__(self, size, *, width: Nothing = 3):
        super().__init__(size)
        self.width = width
class Other: pass
class Bare(Shape):
    def __init__(self): pass
def third(step, *, rate: float = 1 / 3, warmup: int = 5) -> float:
    return step * rate + warmup + 0.5
number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setitem(sys.modules, "tests_registry_base", sys.modules[__name__])
    names = Names(folders=(tmp_path,))
    with names.rule():
        yield names


def check(**tree: Any) -> Drawing:
    return from_mapping(tree).check(Drawing)


def test_names_of_a_table_stay_plain_text(mine: Names) -> None:
    config = check(shape="square", plain="round", several=["square", {"name": "round"}], rate="half")
    assert type(config.shape) is type(config.several[1]) is str
    assert maker(config.shape, SHAPES) is Square
    assert maker(config.rate, RATES, RateConfig)(4) == 2.0
    assert type(config.rate.name) is str
    assert config.model_dump() == {**Drawing().model_dump(), "shape": "square", "several": ["square", "round"],
                                   "rate": {"name": "half", "warmup": 0, "rate": 0.5}}  # fmt: skip


def test_names_of_the_users_know_what_they_stand_for(mine: Names) -> None:
    config = check(
        shape={"name": "mine:Mine", "width": 3},
        plain="mine:Mine",
        several=["mine:Odd"],
        rate={"name": "mine:third", "rate": 2.0, "warmup": 1},
    )
    made = maker(config.shape, SHAPES)(5)
    assert (made.size, made.width, made.tall) == (5, 3, False)
    assert made.__class__ is maker(config.plain, SHAPES)
    assert maker(config.several[0], SHAPES)(1).width == 3
    assert config.rate.warmup == 1  # a key of the section is the section's
    assert maker(config.rate, RATES, RateConfig)(4) == 4 * 2.0 + 5 + 0.5
    section = arguments(config)
    assert section["shape"](2).width == 3
    assert section["several"][0](2).size == 2
    text = dump(config)
    assert "shape:\n  name: mine:Mine\n  width: 3\n  tall: false\n" in text
    assert "plain: mine:Mine\n" in text
    assert "rate:\n  name: mine:third\n  warmup: 1\n  rate: 2.0\n" in text
    again = from_mapping(config.model_dump(mode="json")).check(Drawing)
    assert again.model_dump() == config.model_dump()
    assert maker(copy.deepcopy(config).shape, SHAPES)(1).width == 3
    with Names().rule():  # values that have been checked are not looked up again
        assert from_mapping(config.model_dump(exclude={"rate"})).check(Drawing).shape == config.shape


def test_an_option_of_a_table_s_own(mine: Names) -> None:
    config = check(shape={"name": "square", "corners": 3.0})
    assert maker(config.shape, SHAPES)(1).corners == 3.0
    assert dump(config).startswith("shape:\n  name: square\n  corners: 3.0\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shape: rund", r":1: shape: unknown shape 'rund'; did you mean 'round'\? \(or package\.module:Class\)$"),
        ("shape: x", r":1: shape: unknown shape 'x'; known: none, round, square \(or package\.module:Class\)$"),
        ("several: [round, rund]", r":1: several\.1: unknown shape 'rund'; did you mean 'round'\?"),
        ("plain: none", r":1: plain: unknown shape 'none'; known: round, square"),
        ("plain: {name: round}", ":1: plain: input should be a valid string"),
        ("shape: 3", ":1: shape: input should be a valid string, got 3"),
        ("shape: mine:Other", r":1: shape: 'mine:Other' is not a class derived from .*\.Shape$"),
        ("plain: mine:Bare", r":1: plain: 'mine:Bare': its constructor must take size first \(too many positional arg"),
        ("shape: mine:Nine", r":1: shape: 'mine:Nine': the module .* has no 'Nine'; did you mean 'Mine'\?"),
        ("shape:\n  name: mine:Mine\n  width: x", ":3: shape.width: input should be a valid integer, got 'x'"),
        ("shape: mine:Mine", r":1: shape\.width: this key is required"),
        ("shape: {name: mine:Mine, width: 1, tal: true}", r":1: shape\.tal: unknown key; did you mean 'tall'\?"),
        ("shape: {name: round, width: 1}", r":1: shape\.width: unknown key; known here: none"),
        ("shape: {name: mine:Mine, width: 1, size: 2}", r":1: shape\.size: unknown key"),
        ("rate: haf", r":1: rate: unknown rate 'haf'; did you mean 'half'\? \(or package\.module:Name\)$"),
        ("rate:\n  name: mine:number", r":2: rate\.name: 'mine:number' is no function or class$"),
        ("rate: {name: mine:third, rat: 1}", r":1: rate\.rat: unknown key; did you mean 'rate'\?"),
        ("rate: {warmup: -1}", r":1: rate\.warmup: input should be greater"),
        ("rate: 3", r":1: rate: expected a section"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line_and_key(mine: Names, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=message) as error:
        read(path).check(Drawing)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "tree",
    [
        {"shape": {"name": "mine:Mine", "width": 1}},
        {"several": ["mine:Mine"]},
        {"rate": "mine:third"},
        {"rate": {"name": "mine:third", "rate": 2.0}},
    ],
)
def test_what_a_run_folder_names_is_not_imported(mine: Names, tmp_path: Path, tree: dict[str, Any]) -> None:
    (tmp_path / "mine.py").write_text("raise RuntimeError('imported')\n")
    with (
        Names(folders=(tmp_path,), runs=(tmp_path / "run",)).rule(),
        pytest.raises(Untrusted, match=rf"config: {next(iter(tree))}\S*: a run folder names") as error,
    ):
        from_mapping({**tree, "plain": "rund"}).check(Drawing)
    assert Option("trust", "True") in error.value.parts


def test_the_schema_lists_the_names_and_lets_in_the_users_own() -> None:
    properties = Drawing.model_json_schema()["properties"]
    names = {"enum": ["none", "round", "square"], "type": "string"}
    assert properties["shape"]["anyOf"][0] == names
    assert properties["shape"]["anyOf"][2]["properties"] == {"name": {"anyOf": properties["shape"]["anyOf"][:2]}}
    assert len(properties["plain"]["anyOf"]) == 2
    assert properties["several"]["items"]["anyOf"][0]["enum"] == ["round", "square"]
    assert properties["rate"]["anyOf"][1]["additionalProperties"] is True


def test_arguments_that_no_file_can_give_keep_their_defaults() -> None:
    class Odd(Shape):
        def __init__(self, size: int, table: torch.Tensor | None = None, rate: float = 1.0) -> None: ...

    class Needs(Shape):
        def __init__(self, size: int, table: torch.Tensor) -> None: ...

    assert list(options_of(Odd, ("size",)).model_fields) == ["rate"]
    with pytest.raises(ValidationError, match="table"):
        options_of(Needs, ("size",)).model_validate({})


def test_a_mapping_with_a_name_replaces_the_name_of_a_base(mine: Names, tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("shape: round\nrate: half\n")
    path = tmp_path / "high.yaml"
    path.write_text("base: low.yaml\nshape: {name: mine:Mine, width: 2}\nrate: {name: half, warmup: 4}\n")
    config = read(path).check(Drawing)
    assert arguments(config)["shape"](1).width == 2
    assert config.rate.warmup == 4
