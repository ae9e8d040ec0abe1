"""The translation task: text sides, filters, scores, prediction, resume, fine-tuning, tying, averaging."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import seqkit
import seqkit.training
from seqkit.errors import Stopped, UserError
from seqkit.run import average, compare, counted, evaluate, load, load_translator, read_config, resume, train
from seqkit.tasks.translation.task import TranslationTask

WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "fünf": "five", "sechs": "six"}


def corpus(rows: int, seed: int) -> list[tuple[str, str]]:
    """Numbers translated word by word and reversed."""
    generator = random.Random(seed)
    drawn = [generator.choices(list(WORDS), k=generator.randint(1, 5)) for _ in range(rows)]
    return [(" ".join(words), " ".join(WORDS[word] for word in reversed(words))) for words in drawn]


def write_pairs(folder: Path, name: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    found = {}
    for side, ending in enumerate(("de", "en")):
        path = folder / f"{name}.{ending}"
        path.write_text("".join(pair[side] + "\n" for pair in pairs), "utf-8")
        found[("source", "target")[side]] = str(path)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pairs")
    sizes = {"train": 400, "dev": 40, "test": 40}
    parts = {name: write_pairs(folder, name, corpus(rows, len(name))) for name, rows in sizes.items()}
    return {**parts, "batch_size": 20}


def tree(data: dict[str, Any], **sections: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "task": "translation",
        "data": data,
        "model": {
            "source": {"size": 16},
            "target": {"size": 16},
            "encoder": {"cell": "gru", "hidden_size": 16, "bidirectional": True},
            "decoder": {"cell": "gru", "hidden_size": 32, "attention": "general"},
        },
        "training": {"epochs": 1, "optimizer": {"lr": 0.01}, "samples": 1},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section} if isinstance(section, dict) else section
    return base


def model(**sections: Any) -> dict[str, Any]:
    """The model section with changes to its parts."""
    base = tree({})["model"]
    return {name: {**base.get(name, {}), **part} if isinstance(part, dict) else part for name, part in sections.items()}


def decoder(**options: Any) -> dict[str, Any]:
    return {**tree({})["model"], **model(decoder=options)}


def task_for(config: dict[str, Any]) -> TranslationTask:
    return TranslationTask.create(read_config(config)[0])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    training = {"epochs": 12, "optimizer": {"lr": 0.01}, "keep_best": 3}
    return train(tree(data, name="base", training=training), root=tmp_path_factory.mktemp("runs")).folder


def test_it_learns_and_a_run_folder_needs_nothing_else(trained: Path, tmp_path: Path) -> None:
    scores = json.loads((trained / "scores.json").read_text())
    assert scores["test"]["bleu"] > 80
    assert scores["test"]["perplexity"] == pytest.approx(math.exp(scores["test"]["loss"]))
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained, moved)
    shutil.rmtree(moved / "checkpoints")
    found = seqkit.load(moved).predict(["zwei drei", " ", "", "sechs"])
    assert [one.text for one in found] == ["three two", "", "", "six"]
    assert found[0].tokens == ["three", "two"]
    assert len(found[0].log_probs) == 3
    assert found[0].score == pytest.approx(sum(found[0].log_probs))
    assert found[0].finished


def test_samples_of_dev_are_logged_beside_the_scores(trained: Path) -> None:
    log = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    dev = [record for record in log if record["split"] == "dev"]
    samples = [record for record in log if record["split"] == "sample"]
    assert len(dev) == len(samples) + 1 == 13 or len(dev) == len(samples) == 12
    assert set(samples[-1]) == {"split", "step", "source", "reference", "output"}
    assert samples[-1]["reference"] == " ".join(WORDS[word] for word in reversed(samples[-1]["source"].split()))


def test_scores_are_sacrebleus_on_what_predict_gives(trained: Path, data: dict[str, Any]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    scores, lines = evaluate(trained, ter=True)
    pairs = corpus(40, len("test"))
    outputs = [one.text for one in load(trained).predict([source for source, _ in pairs])]
    references = [[target for _, target in pairs]]
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(outputs, references).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(outputs, references).score)
    assert scores["ter"] == pytest.approx(sacrebleu.corpus_ter(outputs, references).score)
    assert any("case:mixed" in line and "tok:13a" in line for line in lines)
    given = data["test"]
    again, _ = evaluate(trained, given["source"], reference=given["target"])
    assert again == {name: value for name, value in scores.items() if name != "ter"}
    with pytest.raises(UserError, match="reference: give the sources"):
        evaluate(trained, reference=given["target"])


def test_the_loss_is_that_of_a_plain_loop(data: dict[str, Any]) -> None:
    """Every target token's negative log-likelihood by `step`, one sentence at a time."""
    task = task_for(tree(data, training={"label_smoothing": 0.1, "epochs": 1}))
    task.model.double().eval()
    pairs, total, count = task.splits["dev"], 0.0, 0
    with torch.no_grad():
        for row in range(len(pairs)):
            source = torch.tensor(pairs.source[row].tolist())
            state, memory = task.model.encode(source[None], torch.tensor([len(source)]))
            before = 2
            for token in [*pairs.target[row].tolist(), 3]:
                logits, state, _ = task.model.step(torch.tensor([[before]]), state, memory)
                total -= float(torch.log_softmax(logits[0, 0], 0)[token])
                before, count = token, count + 1
        assert task._loss(pairs) == pytest.approx(total / count, rel=1e-6)
        batch = next(iter(task.batches(0)))
        loss = task.loss(batch, None)[0]["loss"]
    assert loss.weight == batch.tokens == int((batch.targets != 0).sum()) == task.weights(batch)["loss"]
    assert (batch.inputs[:, 0] == 2).all()
    assert (batch.targets.gather(1, batch.lengths[:, None] - 1) == 3).all()


def test_batches_hold_every_pair_once_and_start_anywhere(data: dict[str, Any]) -> None:
    task = task_for(tree(data, training={"scheduled_sampling": 0.4, "scheduled_sampling_warmup": 2}))
    for epoch, rate in ((0, 0.0), (1, 0.2), (2, 0.4), (7, 0.4)):
        batches = list(task.batches(epoch))
        assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(400))
        assert {batch.own_inputs for batch in batches} == {rate}
        later = list(task.batches(epoch, 5))
        assert [batch.rows.tolist() for batch in later] == [batch.rows.tolist() for batch in batches[5:]]
    assert [batch.rows.tolist() for batch in task.batches(0)] != [batch.rows.tolist() for batch in task.batches(1)]


def test_predictions_do_not_depend_on_the_batch(trained: Path) -> None:
    task = load_translator(trained, beam_size=3)
    texts = [source for source, _ in corpus(30, 9)]
    together = [one.text for one in task.predict(texts)]
    assert together == [task.predict([text])[0].text for text in texts]


def test_sampling_depends_on_the_seed_and_the_place_alone(trained: Path) -> None:
    texts = [source for source, _ in corpus(20, 9)]

    def drawn(seed: int, batch_size: int, cut: int) -> list[str]:
        options = {"seed": seed, "batch_size": batch_size}
        task = load_translator(trained, sample=True, temperature=2.0, **options)
        return [one.text for one in task.predict(texts[:cut]) + task.predict(texts[cut:])]

    assert drawn(1, 64, 7) == drawn(1, 3, 12) != drawn(2, 64, 7)


def test_resuming_a_killed_run_gives_the_same_bits(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"epochs": 2, "ema": 0.9, "scheduled_sampling": 0.3, "label_smoothing": 0.1, "checkpoint_every": 7}
    parts = model(decoder={"tie": "target", "output_dropout": 0.1}, source={"size": 16, "word_dropout": 0.1})
    config = tree(data, training=training, model={**tree(data)["model"], **parts})
    whole = train({**config, "name": "whole"}, root=tmp_path).folder
    calls, original = [0], TranslationTask.loss

    def killed(self: TranslationTask, batch: Any, carry: Any) -> Any:
        calls[0] += 1
        if calls[0] == 26:  # in the second epoch, after the checkpoint of step 21
            raise InterruptedError("killed")
        return original(self, batch, carry)

    with monkeypatch.context() as patch:
        patch.setattr(TranslationTask, "loss", killed)
        with pytest.raises(Stopped, match="killed"):
            train({**config, "name": "cut"}, root=tmp_path)
    resume(tmp_path / "cut")
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        {"tokenizer": "char"},
        {"tokenizer": "bpe", "vocab_size": 60, "joint": True},
        {"source": {"tokenizer": "unigram", "vocab_size": 40}, "target": {"tokenizer": "char"}, "normalize": "nfkc"},
        {"split": "spaces", "source": {"add_eos": True}},
    ],
)
def test_every_kind_of_token_on_either_side(data: dict[str, Any], tmp_path: Path, text: dict[str, Any]) -> None:
    run = train(tree(data, text=text, training={"epochs": 2}), root=tmp_path)
    task = load(run.folder)
    assert isinstance(task, TranslationTask)
    source, target = corpus(1, 3)[0]
    assert task.source.decode(task.source.encode([source])[0]) == source
    ids = task.target.encode([target])[0]
    from seqkit.text.joining import join_tokens

    assert join_tokens([task.target.vocabulary[index] for index in ids], task.target) == target
    assert (task.source.fingerprint == task.target.fingerprint) == bool(text.get("joint"))
    assert isinstance(task.predict(["eins"])[0].text, str)


@pytest.mark.parametrize("tie", ["target", "all"])
def test_tied_weights_are_saved_once_and_stay_tied(data: dict[str, Any], tmp_path: Path, tie: str) -> None:
    config = tree(data, text={"joint": tie == "all"}, model=decoder(tie=tie), training={"ema": 0.9, "keep_best": 2})
    config["training"].update(epochs=2)
    folder = train({**config, "name": "tied"}, root=tmp_path).folder
    for path in (folder / "model.safetensors", next(folder.glob("checkpoints/*/model.safetensors"))):
        with safe_open(path, framework="pt") as file:
            aliases = json.loads(file.metadata()["aliases"])
        assert len(aliases) == (2 if tie == "all" else 1)
    parts = load(folder).model
    assert parts.decoder.output.weight is parts.decoder.embedding.table.weight  # type: ignore[union-attr]
    mean = average(folder)
    with safe_open(mean.folder / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["aliases"]) == aliases
    with pytest.raises(UserError, match=r"decoder\.tie 'all' needs one vocabulary"):
        read_config(tree(data, model=decoder(tie="all")))


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "none", "feed_context": True},
        {"attention": "bahdanau", "input_feeding": True, "cell": "lstm"},
        {"attention": "multi_head", "heads": 2, "output": "deep", "num_layers": 2, "attention_layer": 1},
    ],
)
def test_models_are_described_by_their_arguments(data: dict[str, Any], tmp_path: Path, options: dict[str, Any]) -> None:
    run = train(tree(data, model=decoder(**options), training={"epochs": 1}), root=tmp_path)
    assert load(run.folder).predict(["eins zwei"])[0].tokens is not None


def test_a_users_own_cell_decodes(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine_decoder.py").write_text("from seqkit.nn import CELLS\nclass MyCell(CELLS['gru']):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = train(tree(data, model=decoder(cell="mine_decoder:MyCell")), root=tmp_path)
    assert load(run.folder, trust=True).predict(["eins"])[0].score is not None


# --- what is left out, and what is refused ------------------------------------------------------------------------


def pairs_task(folder: Path, pairs: list[tuple[str, str]], **sections: Any) -> TranslationTask:
    where = {"train": write_pairs(folder, "own", pairs), **sections.pop("data", {})}
    return task_for(tree(where, training={"metric": "loss"}, **sections))


def test_filters_count_what_they_leave_out_of_training_only(data: dict[str, Any], tmp_path: Path) -> None:
    pairs = [*corpus(10, 1), ("eins " * 7, "one"), ("eins", "one " * 9), ("eins zwei", "one " * 6)]
    filters = {"max_source_length": 6, "max_target_length": 8, "max_ratio": 2.5}
    dev = write_pairs(tmp_path, "dev", pairs)
    task = pairs_task(tmp_path, pairs, data={**filters, "dev": dev})
    lines = "\n".join(task.report())
    assert len(task.splits["train"]) == 10
    assert len(task.splits["dev"]) == 13
    for reason, row in (("source longer than data.max_source_length 6", 11), ("max_target_length 8", 12), ("2.5", 13)):
        assert f"{reason}: 1 (the first is {dev['source'].replace('dev', 'own')} + " in lines
        assert f".en:{row})" in lines
    assert sorted(row for batch in task.batches(0) for row in batch.rows.tolist()) == list(range(10))
    with pytest.raises(UserError, match=r"no pair is left to learn from; source longer than data\.max_source_length 6"):
        pairs_task(tmp_path, pairs[10:11], data=filters)


def test_targets_of_unknown_words_only_are_reported(tmp_path: Path) -> None:
    text = {"target": {"min_frequency": 2}}
    task = pairs_task(tmp_path, [*corpus(30, 1), ("drei", "zzz yyy")], text=text)
    assert len(task.splits["train"]) == 30
    assert "left out, target of unknown words only: 1 (the first is" in "\n".join(task.report())


def test_a_line_of_a_hundred_thousand_tokens(trained: Path, data: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    long = "eins " * 100_000
    task = pairs_task(tmp_path, [*corpus(30, 1), (long, "one")])
    assert len(task.splits["train"]) == 30
    dev = write_pairs(tmp_path, "dev", [("eins", "one"), ("eins", long)])
    with pytest.raises(
        UserError, match=r"dev\.en:2: a target of 100,000 tokens is not a sentence \(the limit is 5,000\)"
    ):
        pairs_task(tmp_path, corpus(30, 1), data={"dev": dev})
    found = load_translator(trained, max_length=5).predict(["zwei drei", long])
    assert found[0].text == "three two"
    assert len(found[1].tokens) <= 5
    assert "cut to the first 5,000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {"target": {"add_eos": True}}}, "target: <bos> and <eos> are added by the decoder"),
        ({"text": {"joint": True, "source": {"tokenizer": "char"}}}, "joint: one vocabulary"),
        ({"text": {"lowercas": True}}, r"text\.lowercas: unknown key; did you mean 'lowercase'"),
        ({"text": {"target": {"max_length": 3}}}, r"target: max_length would teach cut sentences"),
        ({"training": {"dev_limit": 0}}, "dev_limit: bleu needs decoded sentences"),
        ({"training": {"scheduled_sampling_warmup": 3}}, "scheduled_sampling_warmup needs scheduled_sampling"),
        (
            {"training": {"metric": "accuracy"}},
            r"training\.metric: unknown metric 'accuracy'; known: loss, perplexity, bleu, chrf \(",
        ),
        ({"decoding": {"beam_size": 0}}, "beam_size: must be at least 1"),
        ({"decoding": {"beam_size": 2, "n_best": 3}}, "n_best: 3 is above beam_size, 2"),
        ({"decoding": {"min_length": 9, "max_length": 3}}, "min_length: 9 is above max_length, 3"),
        (
            {"decoding": {"coverage_penalty": 0.2}, "model": decoder(attention="none")},
            r"decoding\.coverage_penalty needs an attention",
        ),
        ({"decoding": {"beam": 3}}, r"decoding\.beam: unknown key"),
        (
            {"model": decoder(attention="luong")},
            r"model\.decoder\.attention: unknown attention 'luong'; known: none, bahdanau",
        ),
        ({"model": decoder(bidirectional=True)}, r"model\.decoder\.bidirectional: unknown key"),
        ({"model": {**tree({})["model"], "bridge": "copy", "decoder": {"hidden_size": 7}}}, "bridge 'copy'"),
        ({"data": {"dev": None}, "training": {"early_stopping": {}}}, r"early_stopping needs data\.dev"),
    ],
)
def test_mistakes_are_found_before_any_data_is_read(changes: dict[str, Any], message: str) -> None:
    nowhere = {"source": "nowhere.de", "target": "nowhere.en"}
    with pytest.raises(UserError, match=message):
        read_config(tree({"train": nowhere, "dev": nowhere, **changes.pop("data", {})}, **changes))


def test_without_decoding_dev_has_no_bleu(data: dict[str, Any], tmp_path: Path) -> None:
    run = train(tree(data, training={"metric": "perplexity", "dev_limit": 0}), root=tmp_path)
    assert set(run.dev) == {"loss", "perplexity"}
    assert set(run.test) == {"loss", "perplexity", "bleu", "chrf"}


# --- several runs ---------------------------------------------------------------------------------------------------


def test_fine_tuning_keeps_the_vocabularies_or_matches_rows_by_word(
    trained: Path, data: dict[str, Any], tmp_path: Path
) -> None:
    config = tree(data, init={"run": str(trained)}, training={"epochs": 1, "optimizer": {"lr": 1e-9}})
    run = train({**config, "name": "tuned"}, root=tmp_path)
    assert run.dev["bleu"] == pytest.approx(json.loads((trained / "scores.json").read_text())["dev"]["bleu"], abs=3)
    other = task_for({**config, "text": {"target": {"vocab_size": 7}}})
    assert len(other.target) == 7
    rows = other.rows()
    for name, weight in other.model.state_dict().items():
        if name in rows:
            assert len(rows[name].names) == len(weight)
    assert {"decoder.output.weight", "decoder.embedding.table.weight"} <= set(rows)


def test_a_prefix_beyond_the_limit_is_refused_with_one_line(trained: Path) -> None:
    task = load_translator(trained, max_length=2, prefix="three two three")
    with pytest.raises(UserError, match=r"prefix: it has 3 tokens.* no more than 2"):
        task.predict(["zwei drei"])


def test_an_ensemble_of_one_run_twice_is_that_run(trained: Path, data: dict[str, Any], tmp_path: Path) -> None:
    texts = [source for source, _ in corpus(10, 5)]
    alone = load_translator(trained, beam_size=3)
    together = load_translator(trained, [trained], beam_size=3)
    for one, other in zip(alone.predict(texts), together.predict(texts), strict=True):
        assert one.text == other.text
        assert one.score == pytest.approx(other.score, abs=1e-4)
    char = train(tree(data, name="char", text={"source": {"tokenizer": "char"}}), root=tmp_path).folder
    mixed = load_translator(trained, [char], attention=True)
    assert mixed.predict(["eins"])[0].attention is None
    bpe = train(tree(data, name="bpe", text={"tokenizer": "bpe", "vocab_size": 50}), root=tmp_path).folder
    with pytest.raises(UserError, match=r"base and .*bpe have different target vocabularies \(11 and 38 entries\)"):
        load_translator(trained, [bpe])


def test_average_of_the_best_is_the_mean_and_is_scored(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    made = average(tmp_path / "run", best=2, name="mean")
    assert made.folder == tmp_path / "mean"
    log = [json.loads(line) for line in (trained / "metrics.jsonl").read_text("utf-8").splitlines()]
    dev = [record for record in log if record["split"] == "dev"]
    best = sorted(dev, key=lambda record: (record["bleu"], -record["loss"], record["step"]), reverse=True)
    assert made.steps == [record["step"] for record in best[:2]]  # of three that were kept
    states = [load_weights_of(tmp_path / f"run/checkpoints/step-{step:08d}/model.safetensors") for step in made.steps]
    mean = load_weights_of(made.folder / "model.safetensors")
    for name, value in mean.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)
    assert counted(made.before) == json.loads((trained / "scores.json").read_text())["dev"]
    assert load(made.folder).predict(["eins"])[0].text == "one"
    with pytest.raises(UserError, match="there is no training to resume"):
        resume(made.folder)
    with pytest.raises(UserError, match="has 3 of its best checkpoints, 9 are needed"):
        average(trained, best=9, name="nine")
    with pytest.raises(UserError, match="exists already"):
        average(tmp_path / "run", name="mean")
    kept = [record["step"] for record in best[:3]]
    damaged = next(step for step in kept if step != max(record["step"] for record in dev))
    path = tmp_path / f"run/checkpoints/step-{damaged:08d}/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert average(tmp_path / "run", best=2, name="rest").steps == [step for step in kept if step != damaged]


def load_weights_of(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_compare_two_runs(trained: Path, data: dict[str, Any], tmp_path: Path) -> None:
    poor = train(tree(data, name="poor"), root=tmp_path).folder
    lines = compare(poor, trained)
    text = "\n".join(lines)
    assert "bs:1000" in text
    assert "p = 0.001" in text
    assert str(trained) in text
    with pytest.raises(UserError, match="two systems with different names"):
        compare(trained, trained)
    elsewhere = train(tree({**data, "test": data["dev"]}, name="other"), root=tmp_path).folder
    with pytest.raises(UserError, match="tested on different data"):
        compare(trained, elsewhere)


@pytest.mark.parametrize("damage", ["model.safetensors", "tokenizer.source.json", "tokenizer.target.json"])
def test_half_written_runs_are_refused_with_one_line(trained: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / damage).write_bytes((trained / damage).read_bytes()[:100])
    with pytest.raises(UserError, match="run"):
        load(tmp_path / "run")
