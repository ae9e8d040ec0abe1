"""`init:` from every task to every task, from torch models, and what happens to vocabularies and rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seqkit.errors import UserError
from seqkit.run import load, read_config, resume, train
from seqkit.run.config_files import open_run
from seqkit.tasks.init_weights import SOURCE_TABLE, TARGET_TABLE, given_by_run
from seqkit.text import Tokenizer

TASKS = ("language_model", "sentiment", "slots", "translation")
PAIRS = [(first, second) for first in TASKS for second in TASKS]
ENCODER = {"cell": "lstm", "hidden_size": 12}
STILL = {"steps": 1, "metric": "loss", "optimizer": {"name": "sgd", "lr": 1e-30}}  # moves no weight


def tree(folder: Path, task: str, **sections: Any) -> dict[str, Any]:
    """A small configuration of a task, whose encoder has the same shape in all of them."""
    embedding = {"size": 12, "init_std": 0.5}
    data: dict[str, Any] = {"train": str(folder / "sst2/train.tsv")}
    model: dict[str, Any] = {"embedding": embedding, "encoder": ENCODER}
    if task == "language_model":
        data = {"train": str(folder / "multi30k/train.de"), "format": "text", "batch_size": 4, "bptt": 9}
    elif task == "slots":
        data["train"] = str(folder / "snips/train.jsonl")
    elif task == "translation":
        data["train"] = {
            side: str(folder / f"multi30k/train.{end}") for side, end in {"source": "de", "target": "en"}.items()
        }
        model = {
            "source": embedding,
            "target": embedding,
            "encoder": ENCODER,
            "decoder": {**ENCODER, "attention": "general"},
        }
    base: dict[str, Any] = {"task": task, "data": data, "model": model, "training": STILL}
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section} if isinstance(section, dict) else section
    return base


@pytest.fixture(scope="module")
def runs(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each task, after a step that moved its weights."""
    root = tmp_path_factory.mktemp("runs")
    learned = {"optimizer": {"name": "adam", "lr": 0.01}}
    made = {task: tree(generated_data, task, name=task, seed=7, training={**STILL, **learned}) for task in TASKS}
    return {task: train(config, root=root).folder for task, config in made.items()}


def words(folder: Path, side: str = "source") -> list[str]:
    """The vocabulary of a run, of its one or its source tokenizer."""
    one, two = folder / "tokenizer.json", folder / f"tokenizer.{side}.json"
    return Tokenizer.load(one if one.exists() else two).vocabulary


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder).model.state_dict()


# --- from task to task ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [(*pair, None) for pair in PAIRS] + [(TASKS[number - 1], TASKS[number], {"vocab_size": 15}) for number in range(4)],
)
def test_every_task_starts_from_every_task(
    first: str,
    second: str,
    text: dict[str, Any] | None,
    runs: dict[str, Path],
    generated_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tree(generated_data, second, init={"run": str(runs[first])}, seed=3)
    if text is not None:
        config["text"] = text
    made = train(config, root=tmp_path).folder
    shown = capsys.readouterr().err
    old, new = weights(runs[first]), weights(made)
    there, here = words(runs[first]), words(made)
    if text is None:
        assert here == there
        assert f"init: kept {runs[first]}" in shown
    else:
        assert here != there
    shared = [word for word in here[1:] if word in there]  # padding is no word: tied, its row has a gradient
    assert len(shared) > 4
    for word in shared:
        assert torch.equal(new[SOURCE_TABLE][here.index(word)], old[SOURCE_TABLE][there.index(word)])
    taken = [name for name in new if name.startswith("encoder.recurrent.")]
    assert len(taken) == 4
    assert all(torch.equal(new[name], old[name]) for name in taken)
    report = "".join(line for line in shown.splitlines() if line.startswith("init:"))
    assert all(name in report for name in {*old, *new})
    if second == "translation" and first != second and text is None:
        assert f"init: {runs[first]} has no vocabulary for {TARGET_TABLE}; a new one is made" in shown


def test_a_language_model_becomes_both_sides_of_a_translation(
    runs: dict[str, Path], generated_data: Path, tmp_path: Path
) -> None:
    places = {
        "encoder.embedding": ["encoder.embedding", "decoder.embedding"],
        "encoder.recurrent.": ["encoder.recurrent.", "decoder.lower."],
        "token_scores": "decoder.output",
    }
    config = tree(generated_data, "translation", init={"run": str(runs["language_model"]), "map": places})
    made = train(config, root=tmp_path).folder
    old, new = weights(runs["language_model"]), weights(made)
    for side in ("source", "target"):
        assert words(made, side) == words(runs["language_model"])
    assert torch.equal(new[TARGET_TABLE], old[SOURCE_TABLE])
    assert torch.equal(new[SOURCE_TABLE], old[SOURCE_TABLE])
    assert torch.equal(new["decoder.output.weight"], old["token_scores.weight"])
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        assert torch.equal(new[f"decoder.lower.{name}"], old[f"encoder.recurrent.{name}"])


def test_the_decoder_of_a_translation_becomes_a_language_model_with_its_words(
    runs: dict[str, Path], generated_data: Path, tmp_path: Path
) -> None:
    places = {"decoder.embedding": "encoder.embedding", "decoder.lower": "encoder.recurrent"}
    config = tree(generated_data, "language_model", init={"run": str(runs["translation"]), "map": places})
    made = train(config, root=tmp_path).folder
    assert words(made) == words(runs["translation"], "target")
    assert torch.equal(weights(made)[SOURCE_TABLE][1:], weights(runs["translation"])[TARGET_TABLE][1:])


def test_without_the_embedding_its_vocabulary_is_not_kept(
    runs: dict[str, Path], generated_data: Path, tmp_path: Path
) -> None:
    init = {"run": str(runs["slots"]), "leave": "encoder.embedding*"}
    made = train(tree(generated_data, "sentiment", init=init), root=tmp_path).folder
    plain = train(tree(generated_data, "sentiment"), root=tmp_path).folder
    assert words(made) == words(plain) != words(runs["slots"])
    old, new = weights(runs["slots"]), weights(made)
    assert torch.equal(new[SOURCE_TABLE], weights(plain)[SOURCE_TABLE])
    assert torch.equal(new["encoder.recurrent.weight_hh_l0"], old["encoder.recurrent.weight_hh_l0"])


def test_new_classes_stay_as_made_and_known_ones_keep_theirs(
    runs: dict[str, Path], generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": str(generated_data / "sst3/train.tsv")}
    made = train(tree(generated_data, "sentiment", data=data, init={"run": str(runs["sentiment"])}), root=tmp_path)
    old, new = weights(runs["sentiment"]), weights(made.folder)
    assert torch.equal(new["output.weight"][[0, 2]], old["output.weight"])  # negative, neutral, positive
    assert "output.weight: 2 of 3 rows found by name, 1 new (newly initialised)" in capsys.readouterr().err
    fresh = train(
        tree(generated_data, "sentiment", data=data, init={"run": str(runs["sentiment"]), "leave": "output.*"}),
        root=tmp_path,
    )
    assert torch.equal(weights(fresh.folder)["output.weight"][1], new["output.weight"][1])


def test_new_words_start_from_the_mean_or_from_the_file(
    runs: dict[str, Path], generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.tsv"
    file.write_text("label\ttext\nnegative\tzebra film dull\npositive\tlynx film superb\n", "utf-8")
    vectors = tmp_path / "vectors.txt"
    vectors.write_text(
        "".join(f"{word} {' '.join([str(number)] * 12)}\n" for number, word in enumerate(["film", "zebra"], 1))
    )
    config = tree(generated_data, "sentiment", data={"train": str(file)}, init={"run": str(runs["sentiment"])}, text={})
    config["model"] = {**config["model"], "embedding": {"size": 12, "vectors": str(vectors)}}
    made = train(config, root=tmp_path).folder
    here, there = words(made), words(runs["sentiment"])
    new, old = weights(made)[SOURCE_TABLE], weights(runs["sentiment"])[SOURCE_TABLE]
    assert torch.equal(new[here.index("film")], old[there.index("film")])
    assert new[here.index("zebra")].tolist() == [2.0] * 12
    known = [there.index(word) for word in here[1:] if word in there]
    torch.testing.assert_close(new[here.index("lynx")], old[known].mean(0))
    assert not new[0].any()
    how = "7 of 9 rows found by name, 2 new (1 with a pretrained vector, 1 the mean of those found)"
    assert f"{SOURCE_TABLE}: {how}" in capsys.readouterr().err


def test_the_earlier_run_does_not_move_the_seed(runs: dict[str, Path]) -> None:
    before = torch.get_rng_state()
    given_by_run(*open_run(runs["slots"]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_that_had_saved_nothing_starts_the_same_again(
    runs: dict[str, Path], generated_data: Path, tmp_path: Path
) -> None:
    learned = {"steps": 2, "metric": "loss"}
    config = tree(generated_data, "sentiment", init={"run": str(runs["language_model"])}, training={})
    config["training"] = learned
    made = train({**config, "name": "made"}, root=tmp_path).folder
    whole = weights(made)
    shutil.rmtree(made / "checkpoints")
    (made / "checkpoints").mkdir()
    (made / "model.safetensors").unlink()
    again = weights(resume(made).folder)
    assert all(torch.equal(again[name], value) for name, value in whole.items())


# --- from torch -----------------------------------------------------------------------------------------------------


class Foreign(nn.Module):
    """Somebody else's model."""

    def __init__(self, kind: type[nn.RNNBase], size: int, **options: Any) -> None:
        super().__init__()
        self.emb = nn.Embedding(len(FOREIGN), size)
        self.rnn = kind(size, 6, batch_first=True, **options)
        self.fc = nn.Linear(9, 2)


FOREIGN = ["<pad>", "<unk>", "film", "superb", "dull", "nowhere"]


@pytest.mark.parametrize(
    ("kind", "options", "cell"),
    [
        (nn.LSTM, {}, {"cell": "lstm"}),
        (nn.LSTM, {"proj_size": 4, "bidirectional": True}, {"cell": "lstm", "proj_size": 4, "bidirectional": True}),
        (nn.LSTM, {"num_layers": 2, "bias": False}, {"cell": "lstm", "num_layers": 2, "bias": False}),
        (nn.GRU, {"num_layers": 2, "bidirectional": True}, {"cell": "gru", "num_layers": 2, "bidirectional": True}),
        (nn.RNN, {"nonlinearity": "relu"}, {"cell": "rnn", "nonlinearity": "relu"}),
        (nn.RNN, {"bias": False}, {"cell": "rnn", "bias": False}),
    ],
)
def test_a_torch_model_computes_the_same_here(
    kind: type[nn.RNNBase], options: dict[str, Any], cell: dict[str, Any], generated_data: Path, tmp_path: Path
) -> None:
    theirs = Foreign(kind, 5, **options)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pt")
    (tmp_path / "words.txt").write_text("\n".join(FOREIGN) + "\n", "utf-8")
    init = {
        "torch": str(tmp_path / "theirs.pt"),
        "map": {"rnn.": "encoder.recurrent.", "emb.weight": SOURCE_TABLE},
        "vocabulary": str(tmp_path / "words.txt"),
    }
    model = {"embedding": {"size": 5}, "encoder": {"hidden_size": 6, **cell}}
    config = tree(generated_data, "sentiment", init=init)
    config["model"] = model
    task: Any = load(train(config, root=tmp_path).folder)
    sentences = ["film superb film", "dull", "superb dull film superb"]
    lengths = torch.tensor([3, 1, 4])
    ids = [torch.tensor(row) for row in task.tokenizer.encode(sentences)]
    numbers = [torch.tensor([FOREIGN.index(word) for word in text.split()]) for text in sentences]
    with torch.no_grad():
        output, state = task.model.encoder(nn.utils.rnn.pad_sequence(ids, True), lengths)
        packed = nn.utils.rnn.pack_padded_sequence(
            theirs.emb(nn.utils.rnn.pad_sequence(numbers, True)), lengths, batch_first=True, enforce_sorted=False
        )
        wanted, final = theirs.rnn(packed)
        torch.testing.assert_close(output, nn.utils.rnn.pad_packed_sequence(wanted, True)[0])
        torch.testing.assert_close(state[0], final[0] if isinstance(final, tuple) else final)


def test_a_bare_module_and_a_classifier_head(
    generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(nn.LSTM(12, 12).state_dict(), tmp_path / "bare.pt")
    init: dict[str, Any] = {"torch": str(tmp_path / "bare.pt"), "map": {"": "encoder.recurrent"}}
    train(tree(generated_data, "slots", init=init), root=tmp_path)
    assert "init: loaded 4 weights: encoder.recurrent.weight_ih_l0 (there weight_ih_l0)" in capsys.readouterr().err
    torch.save({"fc": nn.Linear(12, 2).weight}, tmp_path / "head.pt")
    init = {"torch": str(tmp_path / "head.pt"), "map": {"fc": "output.weight"}}
    train(tree(generated_data, "sentiment", init=init), root=tmp_path)
    assert "resized output.weight (there fc): all 2 rows in their order, as" in capsys.readouterr().err


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({}, "init: give one of run .* and torch"),
        ({"run": "a", "torch": "b"}, "init: give one of run .* and torch"),
        ({"run": "a", "vocabulary": "words.txt"}, r"init.*vocabulary: belongs to init.torch"),
        ({"run": "a", "map": {"x": []}}, "maps to nothing"),
        ({"run": "a", "new_rows": "zero"}, r"init\.new_rows: expected 'mean' or 'fresh'"),
        ({"run": "a", "layers": 3}, r"init\.layers: unknown key"),
    ],
)
def test_bad_sections_stop_before_anything_is_read(generated_data: Path, init: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(tree(generated_data, "sentiment", init=init))


def check_refused(config: dict[str, Any], root: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(config, root=root / "refused")
    assert "\n" not in str(caught.value)
    assert not (root / "refused").exists()


@pytest.mark.parametrize(
    ("second", "model", "init", "message"),
    [
        (
            "sentiment",
            {"embedding": {"size": 9}},
            {},
            r"encoder\.embedding\.table\.weight holds vectors of 12 numbers there, of 9 here; init\.leave",
        ),
        ("sentiment", {"encoder": {"hidden_size": 5}}, {"take": "encoder.rec*"}, r"weight_ih_l0 is \(48, 12\) there"),
        ("sentiment", {}, {"take": ["outputs.*"]}, r"init\.take: 'outputs\.\*' matches no weight; did you mean 'outp"),
        ("sentiment", {}, {"take": ["output.*"]}, r"init\.take: 'output\.\*' matches no weight that both sides have"),
        (
            "slots",
            {"encoder": {"hidden_size": 5}},
            {"leave": "encoder.embedding*"},
            r"language_model has nothing that this model could take; it has: encoder\.embedding",
        ),
        ("sentiment", {}, {"leave": ["embedding"]}, r"init\.leave: 'embedding' matches no weight"),
        ("slots", {}, {"map": {"encode": "x"}}, r"init\.map: 'encode' is not a weight there; did you mean 'encoder'"),
    ],
)
def test_what_does_not_fit_is_refused_with_one_line(
    second: str,
    model: dict[str, Any],
    init: dict[str, Any],
    message: str,
    runs: dict[str, Path],
    generated_data: Path,
    tmp_path: Path,
) -> None:
    config = tree(generated_data, second, model=model, init={"run": str(runs["language_model"]), **init})
    check_refused(config, tmp_path, message)


def test_runs_that_are_none(runs: dict[str, Path], generated_data: Path, tmp_path: Path) -> None:
    def start(path: Path) -> dict[str, Any]:
        return tree(generated_data, "sentiment", init={"run": str(path)})

    check_refused(start(tmp_path / "nothing"), tmp_path, r"init\.run: .*no such run folder")
    check_refused(start(runs["slots"] / "run.json"), tmp_path, r"run\.json: this is a file; expected a run folder")
    shutil.copytree(runs["slots"], tmp_path / "run")
    (tmp_path / "run/model.safetensors").write_bytes(b"12345678")
    check_refused(start(tmp_path / "run"), tmp_path, "damaged weights file")
    (tmp_path / "run/model.safetensors").unlink()
    check_refused(start(tmp_path / "run"), tmp_path, "stopped before its first checkpoint")
    shutil.copy(runs["slots"] / "model.safetensors", tmp_path / "run")
    shutil.copy(runs["translation"] / "tokenizer.source.json", tmp_path / "run/tokenizer.json")
    check_refused(start(tmp_path / "run"), tmp_path, "damaged")


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"run": "nothing"}, r"init\.run: nothing: no such run"),
        ({"torch": "nothing.pt"}, r"init\.torch: nothing\.pt: no such file"),
        ({"torch": "weights.pt", "vocabulary": "nothing.txt"}, r"init\.vocabulary: nothing\.txt: cannot be read"),
    ],
)
def test_a_wrong_path_is_found_before_any_data_is_read(
    init: dict[str, str], message: str, generated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1)}, "weights.pt")
    config = tree(generated_data, "sentiment", init=init, data={"train": "no-data.tsv"})
    check_refused(config, tmp_path, message)


def test_tokens_that_are_no_words_are_no_start_for_a_tagger(generated_data: Path, tmp_path: Path) -> None:
    first = train(tree(generated_data, "sentiment", text={"tokenizer": "char"}), root=tmp_path).folder
    config = tree(generated_data, "slots", init={"run": str(first)})
    check_refused(config, tmp_path, r"init\.run: .*: text\.tokenizer: every token has a tag.*give a text section")
    new = {"vectors": "x", "vectors_vocabulary": True, "size": 12}
    with pytest.raises(UserError, match=r"model\.embedding\.vectors_vocabulary makes a new vocabulary"):
        read_config(tree(generated_data, "slots", init={"run": str(first)}, model={"embedding": new}))


def test_torch_files_that_do_not_fit(generated_data: Path, tmp_path: Path) -> None:
    def start(**init: Any) -> dict[str, Any]:
        return tree(generated_data, "sentiment", init={"torch": str(tmp_path / "theirs.pt"), **init})

    table = {"emb.weight": SOURCE_TABLE}
    rnn = {"rnn": "encoder.recurrent"}
    torch.save(Foreign(nn.LSTM, 12), tmp_path / "theirs.pt")
    check_refused(start(map=rnn), tmp_path, r"theirs\.pt: holds Python objects \(.*Foreign\); they are never loaded")
    torch.save(Foreign(nn.LSTM, 12).state_dict(), tmp_path / "theirs.pt")
    check_refused(start(), tmp_path, r"theirs\.pt has nothing that this model could take; it has: emb\.weight")
    check_refused(start(map=rnn), tmp_path, r"weight_ih_l0 \(there rnn\.weight_ih_l0\) is \(24, 12\) there, \(48, 12\)")
    check_refused(
        start(map={"rnn": "encoder.recurent"}), tmp_path, "'encoder.recurent.weight_ih_l0' is not a weight here"
    )
    check_refused(start(map=table), tmp_path, "its words are unknown: give init.vocabulary")
    (tmp_path / "words.txt").write_text("film\nsuperb\n", "utf-8")
    vocabulary = str(tmp_path / "words.txt")
    check_refused(start(map=table, vocabulary=vocabulary), tmp_path, "2 words, but emb.weight in .* has 6 rows")
