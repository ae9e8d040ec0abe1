"""Weights from elsewhere: names, patterns, maps, rows by name, and files that others wrote."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from seqkit.errors import UserError
from seqkit.training.torch_weights import read_state_dict, read_words
from seqkit.training.transfer import Given, Rows, Transfer, transfer_weights
from seqkit.training.weight_map import Choice


def net(rows: int = 3, size: int = 2) -> nn.ModuleDict:
    return nn.ModuleDict({"table": nn.Embedding(rows, size), "core": nn.Linear(2, 2), "out": nn.Linear(2, 5)})


def words(*names: str, **more: Any) -> Rows:
    return Rows(names, words=True, **more)


def take(model: nn.Module, weights: dict[str, torch.Tensor], **choice: Any) -> Transfer:
    return transfer_weights(model, Given("elsewhere", weights), None, Choice(**choice))


# --- rows by name ---------------------------------------------------------------------------------------------------


def test_rows_are_matched_by_name_and_everything_is_reported() -> None:
    model = net(4)
    given = {
        "table.weight": torch.tensor([[0.5, 0.5], [1, 1], [2, 2]]),
        "core.weight": torch.full((2, 2), 7.0),
        "out.weight": torch.zeros(4, 2),
        "gone": torch.zeros(1),
    }
    rows = {"table.weight": words("<pad>", "a", "new", "b")}
    theirs = {"table.weight": words("<pad>", "b", "a")}
    report = transfer_weights(model, Given("run", given, theirs), rows)
    assert model.state_dict()["table.weight"].tolist() == [
        [0.5, 0.5],
        [2, 2],
        [1.5, 1.5],
        [1, 1],
    ]  # new: the mean of a and b
    assert model.state_dict()["core.weight"].eq(7).all()
    assert report.loaded == ["core.weight"]
    assert report.resized == {"table.weight": "3 of 4 rows found by name, 1 new (1 the mean of those found)"}
    assert report.new == ["core.bias", "out.bias"]
    assert report.left_out == {"out.weight": "out.weight is (4, 2) there, (5, 2) here"}
    assert report.unused == {"gone": "not in this model"}
    text = "\n".join(report.lines())
    for name in [*model.state_dict(), "gone"]:
        assert name in text
    kept = net(4)
    before = kept.state_dict()["table.weight"][2].tolist()
    report = transfer_weights(kept, Given("run", given, theirs), rows, Choice(new_rows="fresh"))
    assert kept.state_dict()["table.weight"][2].tolist() == before
    assert "1 newly initialised" in report.resized["table.weight"]


def test_padding_is_no_word_that_is_new() -> None:
    model = nn.Embedding(3, 2, padding_idx=0)
    theirs = {"weight": words("a", "b")}
    report = transfer_weights(
        model, Given("run", {"weight": torch.ones(2, 2)}, theirs), {"weight": words("<pad>", "new", "b")}
    )
    assert model.weight.tolist() == [[0, 0], [1, 1], [1, 1]]
    assert report.resized == {"weight": "1 of 3 rows found by name, 2 new (1 the mean of those found)"}


def test_the_same_shape_with_other_words_is_not_taken_row_by_row() -> None:
    model = net()
    theirs = {"table.weight": words("c", "b", "a")}
    weights = {"table.weight": torch.arange(6.0).view(3, 2)}
    transfer_weights(model, Given("run", weights, theirs), {"table.weight": words("a", "b", "c")})
    assert model.state_dict()["table.weight"].tolist() == [[4, 5], [2, 3], [0, 1]]


@settings(deadline=None)
@drawn(
    here=st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1),
    there=st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1),
    filled=st.sets(st.sampled_from("abcdefgh")),
    mean=st.booleans(),
)
def test_any_two_vocabularies(here: list[str], there: list[str], filled: set[str], mean: bool) -> None:
    model = nn.Embedding(len(here) + 1, 3)
    before = {name: model.weight[row].tolist() for row, name in enumerate(here, 1)}
    weights = torch.randn(len(there) + 1, 3)
    mask = torch.tensor([False, *(name in filled for name in here)])
    rows = {"weight": words("<pad>", *here, filled=mask)}
    given = Given("run", {"weight": weights}, {"weight": words("<pad>", *there)})
    transfer_weights(model, given, rows, Choice(new_rows="mean" if mean else "fresh"))
    shared = [name for name in here if name in there]
    middle = torch.stack([weights[there.index(name) + 1].double() for name in shared]).mean(0) if shared else None
    assert model.weight[0].tolist() == weights[0].tolist()
    for row, name in enumerate(here, 1):
        if name in there:
            assert model.weight[row].tolist() == weights[there.index(name) + 1].tolist()
        elif name in filled or not mean or middle is None:
            assert model.weight[row].tolist() == before[name]
        else:
            torch.testing.assert_close(model.weight[row].double(), middle, atol=1e-6, rtol=0)


def test_a_matrix_from_tag_to_tag_is_matched_in_both_dimensions() -> None:
    model = nn.ParameterDict({"moves": nn.Parameter(torch.zeros(3, 3))})
    weights = {"moves": torch.arange(4.0).view(2, 2) + 1}
    given = Given("run", weights, {"moves": Rows(("O", "B"), dims=2)})
    report = transfer_weights(model, given, {"moves": Rows(("B", "new", "O"), dims=2)})
    assert model["moves"].tolist() == [[4, 0, 3], [0, 0, 0], [2, 0, 1]]
    assert report.resized == {"moves": "2 of 3 rows found by name, 1 new (newly initialised)"}


def test_tied_weights_are_taken_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 2)
            self.scores = nn.Linear(2, 3)
            self.scores.weight = self.table.weight

    names = {"table.weight": words("p", "a", "b"), "scores.weight": words("p", "a", "b")}
    one, other = torch.randn(3, 2), torch.randn(3, 2)
    model = Tied()
    report = transfer_weights(model, Given("run", {"table.weight": one, "scores.weight": other}, names), names)
    assert torch.equal(model.table.weight, one)
    assert report.left_out == {"scores.weight": "tied here with table.weight"}
    report = transfer_weights(model, Given("run", {"scores.weight": other}, names), names)
    assert torch.equal(model.table.weight, other)
    assert report.tied == {"table.weight": "scores.weight"}
    assert report.new == ["scores.bias"]
    report = transfer_weights(model, Given("run", {"table.weight": one, "scores.weight": one.clone()}, names), names)
    assert report.tied == {"scores.weight": "table.weight"}


# --- patterns and maps ----------------------------------------------------------------------------------------------


def test_take_and_leave_choose_by_the_names_here() -> None:
    weights = {name: torch.ones_like(value) for name, value in net().state_dict().items()}
    model = net()
    report = take(model, weights, take=["core.*", "out.*"], leave=["*.bias"])
    assert report.loaded == ["core.weight", "out.weight"]
    assert report.left_out == {
        "table.weight": "not in init.take",
        "core.bias": "in init.leave",
        "out.bias": "in init.leave",
    }
    assert not model.state_dict()["table.weight"].eq(1).any()


def test_a_map_goes_by_whole_words_and_the_longest_entry_holds() -> None:
    weights = {"rnn.weight": torch.ones(2, 2), "rnn.bias": torch.ones(2), "rnn2.bias": torch.zeros(2)}
    for entry in ("rnn", "rnn."):
        report = take(net(), weights, map={entry: ["core."]})
        assert report.loaded == ["core.weight", "core.bias"]
        assert report.renamed == {"core.weight": "rnn.weight", "core.bias": "rnn.bias"}
        assert report.unused == {"rnn2.bias": "not in this model"}
        assert "core.weight (there rnn.weight)" in report.lines()[0]
    model = net()
    report = take(model, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, map={"": ["core"]})
    assert report.loaded == ["core.weight", "core.bias"]
    longer = {"rnn": ["core"], "rnn.bias": ["out.bias"]}
    report = take(model, {"rnn.weight": torch.ones(2, 2), "rnn.bias": torch.full((5,), 2.0)}, map=longer)
    assert report.loaded == ["core.weight", "out.bias"]


def test_one_weight_may_go_to_two_places_and_a_mapped_one_goes_before_its_namesake() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    own = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    report = take(model, own, map={"a": ["a", "b"]})
    assert torch.equal(model.state_dict()["b.weight"], own["a.weight"])
    assert torch.equal(model.state_dict()["a.weight"], own["a.weight"])
    why = "its place is taken by what init.map says"
    assert report.unused == {"b.weight": why, "b.bias": why}
    rest = {"a.weight": own["a.weight"], "a.gone": torch.ones(1)}
    assert take(model, rest, map={"a": ["b"]}).unused == {
        "a.gone": "sent by init.map to names that are not in this model"
    }


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"take": ["coer.*"]}, r"init\.take: 'coer\.\*' matches no weight; did you mean 'core\.\*'"),
        ({"leave": ["zzzz"]}, r"init\.leave: 'zzzz' matches no weight; the names are: table\.weight, core"),
        ({"take": ["out.*"]}, r"init\.take: 'out\.\*' matches no weight that both sides have"),
        ({"map": {"cor": ["core"]}}, r"init\.map: 'cor' is not a weight there; did you mean 'core'"),
        (
            {"map": {"core": ["cord"]}},
            r"init\.map: 'core' -> 'cord': 'cord\.weight' is not a weight here; did you mean",
        ),
        ({"map": {"core": ["core"], "gone": ["core"]}}, r"init\.map: both 'core\.weight' and 'gone\.weight' would"),
    ],
)
def test_what_would_be_ignored_is_an_error(choice: dict[str, Any], message: str) -> None:
    weights = {name: torch.ones(2, 2) for name in ("core.weight", "gone.weight")}
    with pytest.raises(UserError, match=message):
        take(net(), weights, **choice)


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_what_was_asked_for_by_name_must_fit() -> None:
    weights = {"core.weight": torch.ones(2, 3), "core.bias": torch.ones(2)}
    report = take(net(), weights)
    assert report.left_out == {"core.weight": "core.weight is (2, 3) there, (2, 2) here"}
    for choice in ({"take": ["core.*"]}, {"map": {"core": ["core"]}}):
        with pytest.raises(UserError, match=r"core\.weight is \(2, 3\) there, \(2, 2\) here; init\.leave: \['core"):
            take(net(), weights, **choice)
    assert take(net(), weights, take=["core.*"], leave=["core.weight"]).loaded == ["core.bias"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"other": torch.ones(1)},
            r"elsewhere has nothing that this model could take; it has: other; this model has: table",
        ),
        ({"core.bias": torch.tensor([1.0, torch.nan])}, r"elsewhere: core\.bias holds numbers .* NaN or infinite"),
        ({"core.bias": torch.tensor([1, 2])}, "nothing that this model could take"),
        ({}, "nothing that this model could take"),
    ],
)
def test_nothing_in_common(weights: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        take(net(), weights)


def test_vectors_of_another_width_and_numbers_that_are_not_finite() -> None:
    rows = {"table.weight": words("p", "a", "b")}
    weights = {"core.weight": torch.ones(2, 2), "table.weight": torch.ones(3, 7)}
    with pytest.raises(UserError, match=r"table\.weight holds vectors of 7 numbers there, of 2 here; init\.leave"):
        transfer_weights(net(), Given("run", weights, rows), rows)
    weights = {"core.weight": torch.full((2, 2), torch.inf), "core.bias": torch.ones(2)}
    with pytest.raises(UserError, match=r"core\.weight holds numbers there that are NaN or infinite"):
        take(net(), weights, take=["core.*"])


def test_words_of_unknown_names_are_not_taken_and_a_vocabulary_must_fit() -> None:
    rows = {"table.weight": words("p", "a", "b"), "out.bias": Rows(tuple("vwxyz"))}
    weights = {"table.weight": torch.ones(3, 2), "core.bias": torch.ones(2), "out.bias": torch.ones(5)}
    with pytest.raises(UserError, match=r"its words are unknown: give init\.vocabulary"):
        transfer_weights(net(), Given("x.pt", weights), rows)
    with pytest.raises(UserError, match=r"init\.vocabulary: 2 words, but table\.weight in x\.pt has 3 rows"):
        transfer_weights(net(), Given("x.pt", weights, words=["a", "b"]), rows)
    model = net()
    report = transfer_weights(model, Given("x.pt", weights, words=["b", "q", "a"]), rows)
    assert "2 of 3 rows found by name" in report.resized["table.weight"]
    assert report.resized["out.bias"] == "all 5 rows in their order, as their source does not name them"
    with pytest.raises(UserError, match=r"init\.vocabulary: nothing is taken from x\.pt whose rows are words"):
        transfer_weights(net(), Given("x.pt", {"core.bias": torch.ones(2)}, words=["a"]), rows)


# --- files ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same(tmp_path: Path) -> None:
    state = nn.LSTM(2, 3).state_dict()
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    torch.save({"model": state}, tmp_path / "model.pt")
    torch.save({**state, "epoch": 3}, tmp_path / "mixed.pt")
    save_file(dict(state), tmp_path / "safe.bin")
    notes = {}
    for path in tmp_path.iterdir():
        found, notes[path.name] = read_state_dict(path)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], value) for name, value in state.items())
    assert "the state dict under 'state_dict' is used" in notes["nested.pt"]
    assert "the state dict under 'model' is used" in notes["model.pt"]
    assert "passed over, no tensors: epoch" in notes["mixed.pt"]
    assert notes["zip.pt"] == notes["safe.bin"] == ""


class Trap:
    """Runs something when it is unpickled the careless way."""

    def __reduce__(self) -> Any:
        return exec, ("import seqkit; seqkit.trapped = True",)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    import seqkit

    torch.save({"a": torch.ones(1), "b": Trap()}, tmp_path / "zip.pt")
    torch.save({"b": Trap()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"b": Trap()}))
    torch.save(nn.LSTM(2, 3), tmp_path / "module.pt")
    for name in ("zip.pt", "old.pt", "plain.pkl", "module.pt"):
        with pytest.raises(UserError, match=r"holds Python objects.*torch\.save\(model\.state_dict\(\)") as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    assert not hasattr(seqkit, "trapped")


def test_files_that_are_none(tmp_path: Path) -> None:
    state = nn.LSTM(2, 3).state_dict()
    whole = tmp_path / "whole.pt"
    torch.save(state, whole)
    safe = tmp_path / "whole.safetensors"
    save_file(dict(state), safe)
    data = whole.read_bytes()
    cases: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "the file is empty"),
        "cut.pt": (data[: len(data) // 2], "damaged"),
        "head.pt": (data[:4], "damaged"),
        "cut.safetensors": (safe.read_bytes()[:100], "damaged"),
        "text.txt": (b"hello, these are no weights", "damaged"),
        "short.pkl": (b"\x80\x02", "damaged|Python objects"),
    }
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "sparse.pt")
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*({message})"):
            read_state_dict(tmp_path / name)
    with pytest.raises(UserError, match="holds a Tensor, not a state dict"):
        read_state_dict(tmp_path / "tensor.pt")
    with pytest.raises(UserError, match=r"no tensor at the top, nor under state_dict or .* it has: epoch"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(UserError, match="a is sparse"):
        read_state_dict(tmp_path / "sparse.pt")
    with pytest.raises(UserError, match=r"no such file; did you mean '.*whole\.pt'"):
        read_state_dict(tmp_path / "whol.pt")
    with pytest.raises(UserError, match="this is a directory"):
        read_state_dict(tmp_path)


def test_vocabulary_files(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("<pad>\r\nä\r\n\r\nlast".encode())
    assert read_words(path) == ["<pad>", "ä", "", "last"]
    path.write_bytes(b"a\nb\na\n")
    with pytest.raises(UserError, match=r"words\.txt:3: 'a' is on line 1 already"):
        read_words(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_words(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_words(tmp_path / "none.txt")
