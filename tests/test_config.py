"""The YAML loader: places in errors, inheritance, overrides, types."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from seqkit.config import Section, dump, from_mapping, from_signature, override, read
from seqkit.errors import UserError, listed, nearest, require


class Encoder(Section):
    hidden_size: int = 8
    dropout: float = 0.0
    kind: Literal["lstm", "gru"] = "lstm"


class Model(Section):
    encoder: Encoder = Encoder()
    names: list[str] = []


class Top(Section):
    task: str
    lr: float = 1e-3
    on: bool = False
    model: Model = Model()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problem(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        read(path, overrides).check(Top)
    return str(caught.value)


def test_unknown_key_names_file_line_path_and_the_nearest_key(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "task: a\n# comment\nmodel:\n  encoder:\n    hiden_size: 3\n")
    assert problem(path) == f"{path}:5: model.encoder.hiden_size: unknown key; did you mean 'hidden_size'?"


def test_an_error_about_one_key_has_that_key_as_data(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "task: a\nmodel:\n  encoder:\n    hiden_size: 3\n")
    with pytest.raises(UserError) as caught:
        read(path).check(Top)
    assert caught.value.key == "model.encoder.hiden_size"
    assert caught.value.message == ("unknown key; did you mean 'hidden_size'?",)
    with pytest.raises(UserError) as caught:
        read(path, ["lr=fast", "model.encoder={dropout: x}"]).check(Top)
    assert (caught.value.key, str(caught.value).count("\n")) == ("", 1)  # two mistakes


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lr: fast", "x.yaml:2: lr: "),
        ("on: no", "x.yaml:2: on: "),
        ("lr: '1'", "x.yaml:2: lr: "),
        ("model: {encoder: {hidden_size: 2.5}}", "x.yaml:2: model.encoder.hidden_size: "),
        ("model: {encoder: {hidden_size: true}}", "x.yaml:2: model.encoder.hidden_size: "),
        ("model: {encoder: {kind: lst}}", "did you mean 'lstm'?"),
        ("model: {names: [a, 3]}", "x.yaml:2: model.names.1: "),
        ("model: 3", "x.yaml:2: model: "),
        ("task: b", "x.yaml:2: task: this key is already on line 1"),
        ("bad: [", "not valid YAML"),
        ("? [a]\n: 3", "a key must be a plain word"),
    ],
)
def test_wrong_values_name_their_line(tmp_path: Path, line: str, expected: str) -> None:
    assert expected in problem(write(tmp_path, "x.yaml", f"task: a\n{line}\n"))


def test_what_is_no_yaml_is_one_line_in_the_words_of_the_problem(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "task: a\nbad: [\n")
    assert problem(path) == f"{path}:3: not valid YAML: expected the node content, but found '<stream end>'"


def test_every_mistake_is_listed_and_a_missing_key_is_named(tmp_path: Path) -> None:
    lines = problem(write(tmp_path, "x.yaml", "lr: x\non: 3\n")).splitlines()
    assert len(lines) == 3
    assert any("task: this key is required" in line for line in lines)


def test_numbers_are_yaml_1_2(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "task: no\nlr: 1e-3\nmodel: {encoder: {hidden_size: 010}}\n")
    top = read(path).check(Top)
    assert (top.task, top.lr, top.model.encoder.hidden_size) == ("no", 1e-3, 10)


def test_base_then_file_then_command_line(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", "task: low\nlr: 1\nmodel: {encoder: {hidden_size: 1, dropout: 0.1}, names: [a, b]}\n")
    write(tmp_path, "mid.yaml", "base: low.yaml\nmodel: {encoder: {hidden_size: 2}}\n")
    path = write(tmp_path, "top.yaml", "base: mid.yaml\ntask: top\nmodel: {names: [c]}\n")
    top = read(path, ["model.encoder.dropout=0.3", "on=true"]).check(Top)
    assert top == Top(task="top", lr=1, on=True, model=Model(encoder=Encoder(hidden_size=2, dropout=0.3), names=["c"]))
    assert problem(path, "model.encoder.dropuot=1").startswith("command line: model.encoder.dropuot: unknown key")
    assert problem(path, "model.encodr.dropout=1").startswith("command line: model.encodr: unknown key")
    write(tmp_path, "low.yaml", "task: low\nlr: x\n")
    assert problem(path).startswith(f"{tmp_path / 'low.yaml'}:2: lr: ")


# What is laid over what, and the place of whichever is wrong.
LOW = "# the base\n\ntask: low\nmodel:\n  encoder:\n    hidden_size: 1\n    dropout: 0.5\n  names:\n    - a\n    - b\n"


@pytest.mark.parametrize(
    ("low", "high", "typed", "place"),
    [
        # of two files, the one that says the wrong thing
        ("hidden_size: x", "task: high", (), "low.yaml:6: model.encoder.hidden_size: "),
        ("hidden_size: 2", "model: {encoder: {hidden_size: x}}", (), "high.yaml:3: model.encoder.hidden_size: "),
        ("hidden_size: x", "model: {encoder: {dropout: 0.1}}", (), "low.yaml:6: model.encoder.hidden_size: "),
        ("- 3", "task: high", (), "low.yaml:9: model.names.0: "),
        ("- b\n    - 3", "task: high", (), "low.yaml:10: model.names.1: "),
        ("- 3", "model: {names: [c, 4]}", (), "high.yaml:3: model.names.1: "),
        ("- 3", "model:\n  names:\n    - c\n    - 4", (), "high.yaml:6: model.names.1: "),
        ("model:", "model: 3", (), "high.yaml:3: model: "),
        ("encoder:", "model:\n  encoder:\n    - 3", (), "high.yaml:4: model.encoder: "),
        # the command line over both
        ("hidden_size: x", "task: high", ("model.encoder.hidden_size=y",), "command line: model.encoder.hidden_size: "),
        ("hidden_size: x", "task: high", ("model.encoder.dropout=0.1",), "low.yaml:6: model.encoder.hidden_size: "),
        ("- a", "task: high", ("model.names=[a, 3]",), "command line: model.names.1: "),
        ("- 3", "task: high", ("task=b",), "low.yaml:9: model.names.0: "),
        ("- a", "task: high", ("model.encoder={dropout: x}",), "command line: model.encoder.dropout: "),
        ("- a", "task: high", ("model.encoder={kind: [1]}",), "command line: model.encoder.kind: "),
        # null over a base: what is null is not what the base says
        ("hidden_size: 1", "model: {encoder: null}", (), "high.yaml:3: model.encoder: "),
        ("hidden_size: 1", "model: {encoder: {hidden_size: null}}", (), "high.yaml:3: model.encoder.hidden_size: "),
        ("hidden_size: 1", "task: high\nlr: null", (), "high.yaml:4: lr: "),
        ("hidden_size: 1", "task: high", ("model.names=null",), "command line: model.names: "),
        ("dropout: 0.5", "task: high", ("model.encoder.dropout=",), "command line: model.encoder.dropout: "),
    ],
)
def test_a_mistake_has_the_place_where_it_was_written(
    tmp_path: Path, low: str, high: str, typed: tuple[str, ...], place: str
) -> None:
    first = low.split("\n")[0]
    own = next((line for line in LOW.splitlines() if line.strip().split(" ")[0] == first.split(" ")[0]), "    - a")
    text = LOW.replace(own + "\n", own[: len(own) - len(own.lstrip())] + low + "\n", 1)
    write(tmp_path, "low.yaml", text)
    found = problem(write(tmp_path, "high.yaml", f"# over it\nbase: low.yaml\n{high}\n"), *typed)
    assert found.removeprefix(f"{tmp_path}/").startswith(place), found
    assert len(found.splitlines()) == 1


def test_null_over_a_base_takes_what_the_base_says_away(tmp_path: Path) -> None:
    class Optional(Section):
        encoder: Encoder | None = Encoder()
        names: list[str] | None = []

    write(tmp_path, "low.yaml", "encoder: {hidden_size: 3}\nnames: [a]\n")
    path = write(tmp_path, "high.yaml", "base: low.yaml\nencoder: null\n")
    assert read(path).check(Optional) == Optional(encoder=None, names=["a"])
    assert read(path, ["names=null"]).check(Optional) == Optional(encoder=None, names=None)
    # and a key below null makes the section anew, from its defaults
    assert read(path, ["encoder.dropout=0.5"]).check(Optional).encoder == Encoder(dropout=0.5)
    over = write(tmp_path, "over.yaml", "base: high.yaml\nencoder: {dropout: 0.5}\n")
    assert read(over).check(Optional).encoder == Encoder(dropout=0.5)


def test_a_list_is_replaced_whole_and_forgets_the_places_of_the_longer_one(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", LOW)
    path = write(tmp_path, "high.yaml", "base: low.yaml\nmodel:\n  names: []\n")
    assert read(path).check(Top).model.names == []
    found = read(path, ["model.names=[x]"])
    assert found.place(("model", "names", "1")) == "command line"
    assert read(path).place(("model", "names", "1")) == f"{path}:3"

    class Pair(Section):
        left: int
        right: int

    class Holder(Section):
        pair: Pair

    write(tmp_path, "low.yaml", "pair:\n  left: 1\n  right: 2\n")
    path = write(tmp_path, "high.yaml", "base: low.yaml\n")
    with pytest.raises(UserError, match=r"^command line: pair\.right: this key is required$"):
        read(path, ["pair={left: 3}"]).check(Holder)


def test_a_circle_of_bases_is_an_error(tmp_path: Path) -> None:
    """It names the file that leads back, the last of the chain."""
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    write(tmp_path, "b.yaml", "base: c.yaml\n")
    path = write(tmp_path, "c.yaml", "base: a.yaml\n")
    assert problem(path).endswith("base: this file is its own base, through b.yaml")


def test_a_file_that_is_no_mapping_is_told_at_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "list.yaml", "# a comment\n\n- task\n- data\n")
    assert problem(path) == f"{path}:3: expected keys and values at the top level"


def test_names_are_listed_in_one_line_of_bounded_length() -> None:
    assert listed(["a", "b c", "d\ne"]) == "a, b c, d e"
    assert listed(map(str, range(30)), most=3) == "0, 1, 2 and 27 more"
    assert listed(["x" * 6] * 5, length=20) == "xxxxxx, xxxxxx and 3 more"  # 8 characters each, with what parts them
    assert listed(["y" * 50], length=10) == "yyyyyyy..."


@pytest.mark.parametrize("text", ["lr", "=3", "a..b=1", ".a=1"])
def test_overrides_must_be_key_value(tmp_path: Path, text: str) -> None:
    assert "KEY=VALUE" in problem(write(tmp_path, "x.yaml", "task: a\n"), text)


def test_a_short_form_is_not_lost_when_a_key_below_it_is_set(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", "task: a\nmodel: x\n")
    assert "low.yaml:2: model: has the short form 'x'" in problem(tmp_path / "low.yaml", "model.names=[b]")
    path = write(tmp_path, "x.yaml", "base: low.yaml\nmodel: {names: [b]}\n")
    assert f"{path}:2: model: the base has the short form 'x' here" in problem(path)


def test_a_dict_is_not_changed_by_overrides() -> None:
    tree = {"task": "a", "model": {"names": ["b"]}}
    override(from_mapping(tree), ["model.names=[]"])
    assert tree["model"] == {"names": ["b"]}


def test_an_override_through_a_number_is_an_error(tmp_path: Path) -> None:
    assert "lr is not a section" in problem(write(tmp_path, "x.yaml", "task: a\nlr: 3\n"), "lr.deep=1")


def test_files_that_are_no_yaml_files(tmp_path: Path) -> None:
    write(tmp_path, "quickstart.yaml", "task: a\n")
    assert "no such file; did you mean" in problem(tmp_path / "quikstart.yaml")
    assert "a directory" in problem(tmp_path)
    assert "empty" in problem(write(tmp_path, "e.yaml", ""))
    assert "expected keys and values" in problem(write(tmp_path, "l.yaml", "- a\n"))
    (tmp_path / "b.yaml").write_bytes(b"task: \xff\n")
    assert "not UTF-8" in problem(tmp_path / "b.yaml")
    assert "x.yaml:2: not valid YAML" in problem(
        write(tmp_path, "x.yaml", "task: !!python/object:os.system {}\na: ]\n")
    )


def test_python_tags_are_never_executed(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "task: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError):
        read(path).check(Top)


def test_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "x.yaml", "task: ${SEQKIT_TEST}/b\n")
    assert f"{path}:1: task: the environment variable SEQKIT_TEST is not set" in problem(path)
    monkeypatch.setenv("SEQKIT_TEST", "/a")
    assert read(path).check(Top).task == "/a/b"


def test_a_bom_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbftask: a\r\nlr: 2\r\n")
    assert read(path).check(Top).lr == 2


def test_schema_from_signature_takes_names_types_and_defaults() -> None:
    def build(size: int, *, rate: float = 0.5, kind: Literal["a", "b"] = "a", device: str | None = None) -> None: ...

    schema = from_signature("Built", build, skip=("device",), extra_one=(int, 7))
    document = from_mapping({"size": 3})
    override(document, ["rate=0.25"])
    assert document.check(schema).model_dump() == {"extra_one": 7, "size": 3, "rate": 0.25, "kind": "a"}
    with pytest.raises(UserError, match="device: unknown key"):
        from_mapping({"size": 3, "device": "x"}).check(schema)
    with pytest.raises(UserError, match="size: this key is required"):
        from_mapping({}).check(schema)


def test_constructor_errors_point_at_the_argument(tmp_path: Path) -> None:
    from pydantic import model_validator

    class Built(Section):
        size: int

        @model_validator(mode="after")
        def check(self) -> Built:
            if self.size < 1:
                raise ValueError(f"size must be positive, got {self.size}")
            return self

    class Outer(Section):
        built: Built

    path = write(tmp_path, "x.yaml", "built:\n\n  size: -5\n")
    with pytest.raises(UserError) as caught:
        read(path).check(Outer)
    assert str(caught.value) == f"{path}:3: built.size: size must be positive, got -5"


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))  # the others are refused
scalars = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1) | texts | st.booleans()


@given(st.dictionaries(st.text("abcdef", min_size=1), scalars))
@example({"a": "1e3", "b": "010", "c": "no", "d": "true", "e": "2024-01-01", "f": "", "g": "~", "h": 1e-5})
def test_dump_and_read_agree(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]) -> None:
    class Any_(Section):
        tree: dict[str, bool | int | float | str]

    path = tmp_path_factory.mktemp("dump") / "x.yaml"
    path.write_text(dump(Any_(tree=tree)), encoding="utf-8")  # type: ignore[arg-type]
    assert read(path).check(Any_).tree == tree


@given(st.text())
def test_any_text_is_a_tree_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(UserError):
        assert isinstance(read(path).tree, dict)


def test_our_loader_agrees_with_pyyaml_on_plain_trees(tmp_path: Path) -> None:
    text = "a: {b: [1, 2.5, x], c: true}\nd: null\ne: |\n  two\n  lines\nf: &anchor {g: 1}\nh: *anchor\n"
    assert read(write(tmp_path, "x.yaml", text)).tree == yaml.safe_load(text)


def test_nearest_and_require() -> None:
    assert nearest("hiden", ["hidden", "other"]) == "; did you mean 'hidden'?"
    assert nearest("zzz", ["hidden"]) == ""
    with pytest.raises(UserError, match=r"needs no_such: pip install no_such, or pip install '\.\[plot\]' in a"):
        require("no_such.module_here", "plot")
    with pytest.raises(UserError, match="this needs tensorboard: pip install tensorboard,"):
        require("torch.utils.no_such_board", "tensorboard", "tensorboard")


class Typed(Section):
    text: str | None = None
    source: str | dict[str, str] | None = None
    number: int = 0
    rate: float = 0.0
    flag: bool = False
    names: list[str] = []


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("text=42", "42"),
        ("text=1.50", "1.50"),
        ("text=true", "true"),
        ("text=2026-11-27", "2026-11-27"),
        ("text=null", None),
        ("text='null'", "null"),
        ("text=", None),
        ("text=<<", "<<"),
        ("text=- a", "- a"),
        ("source=data/tr #2.tsv", "data/tr #2.tsv"),
        ("source=[x].tsv", "[x].tsv"),
        ("source=a: b.tsv", "a: b.tsv"),
        ("source=*x", "*x"),
        ("source={de: a.de}", {"de": "a.de"}),
        ("source={de: a.de} # b", "{de: a.de} # b"),
        ("number=3", 3),
        ("rate=1e-3", 1e-3),
        ("flag=true", True),
        ("names=[a, 'b # c']", ["a", "b # c"]),
    ],
)
def test_what_is_typed_is_text_unless_it_is_yaml_to_its_end(typed: str, read: object) -> None:
    document = from_mapping({})
    override(document, [typed])
    assert getattr(document.check(Typed), typed.partition("=")[0]) == read


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$"), min_size=1))
def test_any_text_that_does_not_begin_as_yaml_is_taken_as_typed(text: str) -> None:
    assume(text.strip() and text.strip()[0] not in "{[\"'" and text.strip().lower() not in ("null", "~"))
    document = from_mapping({})
    override(document, ["text=" + text])
    assert document.check(Typed).text == text


def test_a_number_where_a_number_is_wanted_stays_one_after_a_text_was_put_back() -> None:
    document = from_mapping({})
    override(document, ["text=1", "number=1", "number=2", "text=07"])
    checked = document.check(Typed)
    assert (checked.text, checked.number) == ("07", 2)


def test_thousands_of_mistakes_are_counted_not_listed() -> None:
    class Weights(Section):
        weights: dict[str, float] = {}

    with pytest.raises(UserError) as caught:
        from_mapping({"weights": {f"class{number}": "x" for number in range(3000)}}).check(Weights)
    lines = str(caught.value).splitlines()
    assert len(lines) == 51
    assert "weights.class0: " in lines[0]
    assert lines[-1] == "... and 2,950 more mistakes"


def test_fifty_mistakes_are_all_listed() -> None:
    class Weights(Section):
        weights: dict[str, float] = {}

    for number, last in ((50, "weights.class49: "), (51, "... and 1 more mistakes")):
        with pytest.raises(UserError) as caught:
            from_mapping({"weights": {f"class{key}": "x" for key in range(number)}}).check(Weights)
        lines = str(caught.value).splitlines()
        assert len(lines) == number
        assert last in lines[-1]


@pytest.mark.parametrize("later", ["text=[a]", "text={a: b}"])
def test_what_was_typed_before_does_not_come_back(later: str) -> None:
    """A number that was typed first is no text for a list that was typed after it."""
    document = from_mapping({})
    override(document, ["text=1", later])
    with pytest.raises(UserError, match=r"^command line: text: input should be a valid string, got "):
        document.check(Typed)

    class Outer(Section):
        inner: Typed = Typed()

    document = from_mapping({})
    override(document, ["inner.text=1", "inner={text: [a]}"])
    with pytest.raises(UserError, match=r"^command line: inner\.text: input should be a valid string, got "):
        document.check(Outer)


def test_text_that_is_typed_keeps_its_spaces_and_a_number_does_not() -> None:
    document = from_mapping({})
    override(document, ["text= a b ", "number= 3 ", "rate= .5", "flag= True "])
    checked = document.check(Typed)
    assert (checked.text, checked.number, checked.rate, checked.flag) == (" a b ", 3, 0.5, True)


@pytest.mark.parametrize(
    ("written", "value"),
    [(".5", 0.5), ("5.", 5.0), ("-.5e2", -50.0), ("+1E3", 1000.0), ("1e-3", 1e-3), ("True", True), ("FALSE", False)],
)
def test_every_form_of_a_number_and_a_truth_value(tmp_path: Path, written: str, value: float) -> None:
    tree = read(write(tmp_path, "x.yaml", f"a: {written}\n")).tree
    assert (tree["a"], type(tree["a"])) == (value, type(value))


def test_infinity_and_nan_are_numbers_and_refused_as_such(tmp_path: Path) -> None:
    for written in (".inf", "-.INF", ".NaN"):
        found = problem(write(tmp_path, "x.yaml", f"task: a\nlr: {written}\n"))
        assert "x.yaml:2: lr: input should be a finite number" in found


def test_a_bad_scalar_and_a_tag_are_told_at_their_line(tmp_path: Path) -> None:
    for text, place in (
        ("task: a\nmodel:\n  names: [x, !mine y]\n", "x.yaml:3: model.names.1: the tag !mine"),
        ("task: a\nmodel: !mine {}\n", "x.yaml:2: model: the tag !mine"),
        ("task: a\nmodel:\n  names: !mine []\n", "x.yaml:3: model.names: the tag !mine"),
        ("task: a\nlr: !!float x\n", "x.yaml:2: lr: 'x' is not a YAML float"),
        ("task: a\nbase: [b.yaml]\n", "x.yaml:2: base: expected the path of a YAML file"),
    ):
        assert place in problem(write(tmp_path, "x.yaml", text))


def test_limits_are_allowed_and_one_more_is_not(tmp_path: Path) -> None:
    deep = ".".join(["a"] * 50)
    document = from_mapping({})
    override(document, [f"{deep}=1", "b=" + "x" * (1 << 18)])
    assert len(document.tree["b"]) == 1 << 18
    for text in (f"a.{deep}=1", "b=" + "x" * ((1 << 18) + 1)):
        with pytest.raises(UserError, match=r"more than 50 keys|put it into a file"):
            override(from_mapping({}), [text])
    size = (1 << 18) - len("a: \n")
    assert len(read(write(tmp_path, "x.yaml", f"a: {'x' * size}\n")).tree["a"]) == size
    assert "more than 262,144 bytes" in problem(write(tmp_path, "x.yaml", f"a: {'x' * (size + 1)}\n"))
    most = 20_000 - 2  # beside the mapping and the list
    assert len(read(write(tmp_path, "x.yaml", f"a: [{'1,' * most}]\n")).tree["a"]) == most
    assert "more than 20,000 values" in problem(write(tmp_path, "x.yaml", f"a: [{'1,' * (most + 1)}]\n"))
    assert read(write(tmp_path, "x.yaml", f"a: {'[' * 49}1{']' * 49}\n")).tree
    assert "deeper than 50 levels" in problem(write(tmp_path, "x.yaml", f"a: {'[' * 50}1{']' * 50}\n"))
    for number in range(20):
        write(tmp_path, f"chain{number}.yaml", f"base: chain{number + 1}.yaml\n")
    write(tmp_path, "chain20.yaml", "task: a\n")
    assert read(tmp_path / "chain0.yaml").check(Top).task == "a"
    write(tmp_path, "longer.yaml", "base: chain0.yaml\n")
    assert "a chain of more than 20 files" in problem(tmp_path / "longer.yaml")


def test_a_configuration_is_written_in_the_order_of_its_keys_and_in_its_own_letters() -> None:
    text = dump(Top(task="é", model=Model(names=["ü"])))
    assert text.splitlines()[0] == "task: é"
    assert [line.partition(":")[0] for line in text.splitlines() if line[0].isalpha()] == ["task", "lr", "on", "model"]
    assert "- ü" in text
    assert f"task: {'a long name ' * 8}b\n" in dump(Top(task="a long name " * 8 + "b", model=Model(names=[])))


def test_a_key_of_an_override_has_at_most_fifty_parts() -> None:
    document = from_mapping({})
    override(document, [".".join(["a"] * 50) + "=1"])
    tree: object = document.tree
    for _ in range(50):
        assert isinstance(tree, dict)
        tree = tree["a"]
    assert tree == 1
    with pytest.raises(UserError, match="more than 50 keys"):
        override(from_mapping({}), [".".join(["a"] * 51) + "=1"])


@pytest.mark.parametrize("char", [0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0])
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(char: int) -> None:
    for text in (f"text=a{chr(char)}", f"a{chr(char)}=1"):
        with pytest.raises(UserError, match="holds a NUL, or half of a surrogate pair"):
            override(from_mapping({}), [text])


def test_an_error_of_a_file_below_names_all_files_it_was_read_from(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", "task: a\n")
    write(tmp_path, "mid.yaml", "base: low.yaml\n")
    path = write(tmp_path, "top.yaml", "base: mid.yaml\n")
    assert read(path).files == (path, tmp_path / "mid.yaml", tmp_path / "low.yaml")
