"""The language model task: streams with carried state, losses, scores, resuming, sampling, transfer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import seqkit
from seqkit.errors import UserError
from seqkit.run import counted, evaluate, load, load_predictor, read_config, resume, train
from seqkit.tasks.language_model.task import LanguageModelTask
from seqkit.text import Tokenizer


def tree(folder: Path, **sections: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "task": "language_model",
        "data": {
            "train": str(folder / "multi30k/train.en"),
            "dev": str(folder / "multi30k/dev.en"),
            "format": "text",
            "batch_size": 4,
            "bptt": 9,
        },
        "model": {"embedding": {"size": 12, "init_std": 0.1}, "encoder": {"hidden_size": 12}},
        "training": {"epochs": 2, "optimizer": {"lr": 0.02}},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section} if isinstance(section, dict) else section
    return base


AWD = {
    "embedding": {"size": 12, "init_std": 0.1, "embedding_dropout": 0.1, "locked_dropout": 0.2},
    "encoder": {"hidden_size": 14, "num_layers": 2, "weight_drop": 0.2, "locked_dropout": 0.2},
    "output_dropout": 0.2,
}


def task_for(config: dict[str, Any]) -> LanguageModelTask:
    made = read_config(config)[0]
    return LanguageModelTask.create(made)  # type: ignore[arg-type]


def write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def trained(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tree(generated_data, name="lm", data={"test": str(generated_data / "multi30k/test.en")})
    config["training"]["epochs"] = 6
    return train(config, root=tmp_path_factory.mktemp("runs")).folder


def test_it_learns_and_a_run_folder_needs_nothing_else(trained: Path, tmp_path: Path) -> None:
    scores = json.loads((trained / "scores.json").read_text())
    assert 4 < scores["test"]["perplexity"] < 20  # of 22 words and marks, nearly evenly drawn
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained, moved)
    shutil.rmtree(moved / "checkpoints")
    found = seqkit.load(moved).predict(["eht mlif.", "mlif eht eht .", " "])
    assert found[0].log_prob > found[1].log_prob
    assert found[2].log_prob is None


# --- streams and losses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "jordan"])
@pytest.mark.parametrize("variable", [True, False])
def test_windows_with_carried_state_add_up_to_one_long_pass(generated_data: Path, cell: str, variable: bool) -> None:
    model = {"encoder": {"cell": cell, "hidden_size": 12, "num_layers": 2, "learn_initial_state": True}}
    task = task_for(tree(generated_data, data={"variable_bptt": variable}, model=model))
    task.model.double().eval()
    with torch.no_grad():
        for value in task.model.encoder.recurrent.parameters():
            value.add_(torch.randn_like(value) * 0.2)
        batches, carry, total = list(task.batches(3)), None, 0.0
        for batch in batches:
            losses, carry = task.loss(batch, carry)
            total += losses["nll"].sum.item()
        inputs = torch.cat([batch.inputs for batch in batches], 1)
        targets = torch.cat([batch.targets for batch in batches], 1)
        logits = task.model.scores(task.model(inputs).features)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    assert total == pytest.approx(expected, rel=1e-12)
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    text = "".join((generated_data / "multi30k/train.en").read_text("utf-8").splitlines(keepends=True))
    ids = [number for row in task.tokenizer.encode(text.splitlines()) for number in [*row, task.tokenizer.eos_id]]
    assert targets.flatten().tolist() == ids[: targets.numel()]
    assert len(ids) - targets.numel() < 4
    assert inputs[0, 0] == task.tokenizer.eos_id


def test_the_state_is_carried_without_its_history(generated_data: Path) -> None:
    task = task_for(tree(generated_data))
    first, second = list(task.batches(0))[:2]
    _, carry = task.loss(first, None)
    assert all(not part.requires_grad for part in carry)
    assert all(part.shape == (1, 4, 12) for part in carry)
    fresh = task.loss(second, None)[0]["nll"].sum.item()
    assert task.loss(second, carry)[0]["nll"].sum.item() != pytest.approx(fresh, rel=1e-4)


def test_every_token_weighs_alike_in_an_epoch(generated_data: Path) -> None:
    """The trainer's mean over windows of coefficient * sum / weight is the mean over tokens."""
    task = task_for(tree(generated_data))
    batches = list(task.batches(0))
    assert len({batch.targets.size(1) for batch in batches}) > 2
    factors = [task.loss(batch, None)[0]["nll"].coefficient / batch.targets.size(1) for batch in batches]
    assert factors == pytest.approx([factors[0]] * len(batches))
    assert sum(batch.factor for batch in batches) / len(batches) == pytest.approx(1)


def test_ar_and_tar_against_plain_loops(generated_data: Path) -> None:
    task = task_for(tree(generated_data, model={"output_dropout": 0.4}, training={"ar": 2.0, "tar": 1.5}))
    task.model.double()
    batch = next(iter(task.batches(0)))
    torch.manual_seed(5)
    losses, _ = task.loss(batch, None)
    torch.manual_seed(5)
    with torch.no_grad():
        read = task.model(batch.inputs)
    streams, steps, size = read.output.shape
    ar = tar = 0.0
    for stream in range(streams):
        for step in range(steps):
            ar += sum(float(value) ** 2 for value in read.dropped[stream, step]) / size
            if step + 1 < steps:
                here, then = read.output[stream, step], read.output[stream, step + 1]
                tar += sum((float(b) - float(a)) ** 2 for a, b in zip(here, then, strict=True)) / size
    assert losses["ar"].sum.item() == pytest.approx(ar, rel=1e-5)
    assert losses["tar"].sum.item() == pytest.approx(tar, rel=1e-5)
    assert (losses["ar"].weight, losses["tar"].weight) == (streams * steps, streams * (steps - 1))
    assert losses["ar"].coefficient == pytest.approx(2.0 * batch.factor)
    assert losses["tar"].coefficient == pytest.approx(1.5 * batch.factor)
    assert task.weights(batch) == {name: loss.weight for name, loss in losses.items()}


@pytest.mark.parametrize("streams", [1, 3])
def test_scores_are_those_of_one_pass_over_the_text(generated_data: Path, streams: int) -> None:
    task = task_for(tree(generated_data, data={"eval_batch_size": streams}))
    task.model.double().eval()
    with torch.no_grad():
        for value in task.model.parameters():
            value.mul_(4)  # so that a token more or less in the state shows
    lines = (generated_data / "multi30k/dev.en").read_text("utf-8").splitlines()
    ids = [number for row in task.tokenizer.encode(lines) for number in [*row, task.tokenizer.eos_id]]
    length = len(ids) // streams
    assert streams == 1 or len(ids) % streams  # so that something is left over
    total = 0.0
    with torch.no_grad():
        for stream in range(streams):
            end = len(ids) if stream == streams - 1 else (stream + 1) * length
            tokens = torch.tensor([[task.tokenizer.eos_id, *ids][stream * length : end + 1]])
            logits = task.model.scores(task.model(tokens[:, :-1]).features)[0]
            total += float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
        found = task.evaluate()
    characters = sum(len(line) + 1 for line in lines)
    assert found["loss"] == pytest.approx(total / len(ids), rel=1e-10)
    assert found["perplexity"] == pytest.approx(math.exp(total / len(ids)), rel=1e-10)
    assert found["bits_per_character"] == pytest.approx(total / math.log(2) / characters, rel=1e-10)


def test_a_shuffled_epoch_has_the_same_lines_in_another_order(generated_data: Path) -> None:
    task = task_for(tree(generated_data, data={"shuffle": True, "batch_size": 1}))
    eos = task.tokenizer.eos_id

    def lines(epoch: int) -> list[list[int]]:
        found: list[list[int]] = [[]]
        for batch in task.batches(epoch):
            for token in batch.targets[0].tolist():
                found[-1].append(token)
                if token == eos:
                    found.append([])
        return found

    assert lines(0) == lines(0)
    assert lines(0) != lines(1)
    assert sorted(lines(0)) == sorted(lines(1))


def test_several_files_are_one_text(generated_data: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x y\n\nz\n")
    (tmp_path / "b.tsv").write_text("label\ttext\na\tx w\n")
    data = {"train": str(tmp_path / "a.txt"), "extra": [str(tmp_path / "b.tsv")], "dev": None, "format": "auto"}
    task = task_for(tree(tmp_path, data={**data, "batch_size": 1}))
    tokens = torch.cat([batch.targets[0] for batch in task.batches(0)])
    names = [task.tokenizer.vocabulary[number] for number in tokens]
    assert names == ["x", "y", "<eos>", "z", "<eos>", "x", "w", "<eos>"]
    assert task.splits["train"].characters == len("x y\nz\nx w\n")


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [{"ema": 0.9}, {"accumulate": 2}], ids=str)
def test_a_run_killed_in_mid_epoch_resumes_to_the_same_weights(
    generated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    training = {"epochs": 2, "checkpoint_every": 3, "ar": 1.0, "tar": 1.0, **extra}
    config = tree(generated_data, model=AWD, training=training, data={"shuffle": True})
    whole = train({**config, "name": "whole"}, root=tmp_path).folder
    calls, real = [], LanguageModelTask.loss

    def killed(task: LanguageModelTask, batch: Any, carry: Any) -> Any:
        calls.append(carry)
        if len(calls) == 18:
            raise KeyboardInterrupt
        return real(task, batch, carry)

    monkeypatch.setattr(LanguageModelTask, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train({**config, "name": "cut"}, root=tmp_path)
    monkeypatch.undo()
    resume(tmp_path / "cut")
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes()


def test_every_feature_together_trains(generated_data: Path, tmp_path: Path) -> None:
    config = tree(
        generated_data,
        model={**AWD, "tie": False, "adaptive_cutoffs": [5, 9], "adaptive_div": 2.0},
        training={"epochs": 1, "ar": 2.0, "tar": 1.0, "metric": "bits_per_character", "keep_best": 2},
    )
    run = train(config, root=tmp_path)
    assert math.isfinite(run.dev["loss"])
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "nll", "ar", "tar"} <= set(log[0])
    with torch.random.fork_rng():
        assert load(run.folder).predict(["eht mlif."])[0].log_prob < 0


@pytest.mark.parametrize("text", [{"tokenizer": "char"}, {"tokenizer": "bpe", "vocab_size": 60}], ids=str)
def test_characters_and_pieces(generated_data: Path, tmp_path: Path, text: dict[str, Any]) -> None:
    folder = train(tree(generated_data, text=text, training={"epochs": 1}), root=tmp_path).folder
    scores, _ = evaluate(folder)
    tokens = task_for(tree(generated_data, text=text)).splits["dev"]
    bits = scores["loss"] / math.log(2) * tokens.tokens / tokens.characters
    assert scores["bits_per_character"] == pytest.approx(bits)
    task = load_predictor(folder, sample=True, max_length=5)
    for found in task.predict(["eht mlif", "a"]):
        assert found.text.startswith(("eht mlif", "a"))
        assert len(found.tokens) <= 5


def test_evaluate_reads_a_file(trained: Path, generated_data: Path) -> None:
    scores, lines = evaluate(trained)
    assert counted(scores) == json.loads((trained / "scores.json").read_text())["test"]
    assert evaluate(trained, str(generated_data / "multi30k/test.en"))[0] == scores
    assert "80 lines" in lines[0]


# --- lines ----------------------------------------------------------------------------------------------------------


def test_a_line_is_scored_as_a_text_of_its_own(trained: Path, tmp_path: Path) -> None:
    task = load(trained)
    lines = ["eht mlif.", "mraw", "dna eht yrots saw etiuq llud."]
    together = task.predict(lines)
    for line, found in zip(lines, together, strict=True):
        scores, _ = evaluate(trained, write(tmp_path / "one.txt", line + "\n"))
        assert found.perplexity == pytest.approx(scores["perplexity"], rel=1e-5)
        assert found.bits_per_character == pytest.approx(scores["bits_per_character"], rel=1e-5)
        assert found.log_prob == pytest.approx(-scores["loss"] * found.tokens, rel=1e-5)
        assert task.format(found, "text") == f"{found.log_prob:.4f}\t{found.perplexity:.4f}"
        assert json.loads(task.format(found, "jsonl"))["tokens"] == len(task.tokenizer.encode([line])[0]) + 1  # type: ignore[attr-defined]
    assert task.format(task.predict([""])[0], "text") == ""


def test_samples_continue_the_prompt_and_depend_on_the_seed_and_the_line_alone(trained: Path) -> None:
    prompts = ["eht", "", "dna eht  Yrots zebra", "eht"]

    def sample(texts: list[str], **options: Any) -> list[Any]:
        return list(load_predictor(trained, sample=True, **options).predict(texts))

    found = sample(prompts, seed=4)
    assert [one.text for one in found] == [one.text for one in sample(prompts, seed=4)]
    assert [one.text for one in found] != [one.text for one in sample(prompts, seed=5)]
    assert found[0].text == sample(prompts[:1], seed=4)[0].text
    assert found[0].text != found[3].text
    task = load_predictor(trained, sample=True, seed=4)
    assert [task.predict([prompt])[0].text for prompt in prompts] == [one.text for one in found]
    for prompt, one in zip(prompts, found, strict=True):
        assert one.text.startswith(" ".join(prompt.split()))
        assert "<unk>" not in one.tokens
        assert len(one.log_probs) == len(one.tokens) + one.finished
    short = sample(["eht"] * 3, max_length=2, temperature=0.01)
    assert all(len(one.tokens) <= 2 for one in short)
    greedy = sample(["eht"] * 2, top_k=1, max_length=6)
    assert greedy[0].text == greedy[1].text


def test_log_probs_of_samples_are_those_of_the_line(trained: Path) -> None:
    task = load_predictor(trained, sample=True, seed=2)
    found = next(one for one in task.predict([""] * 20) if one.finished)
    line = load(trained).predict([found.text])[0]
    assert sum(found.log_probs) == pytest.approx(line.log_prob, rel=1e-4)


def test_sampling_options_are_checked(trained: Path, generated_data: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"top_k": 3}, "top_k: only sampling has it"),
        ({"sample": True, "top_p": 2.0}, "top_p: must be at most 1"),
        ({"sample": True, "temperature": 0.0}, "temperature: must be above 0"),
        ({"sample": True, "max_length": 0}, "max_length: must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            load_predictor(trained, **options)  # type: ignore[arg-type]
    config: dict[str, Any] = {"task": "sentiment", "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}}}
    config |= {"data": {"train": str(generated_data / "sst2/train.tsv")}, "training": {"metric": "loss", "epochs": 1}}
    other = train(config, root=tmp_path).folder
    with pytest.raises(UserError, match=r"^sample: this is a sentiment run"):
        load_predictor(other, sample=True)


# --- transfer -------------------------------------------------------------------------------------------------------


def test_a_classifier_starts_from_a_language_model(generated_data: Path, tmp_path: Path) -> None:
    model = {"embedding": {"size": 12, "init_std": 0.1}, "encoder": {"hidden_size": 12, "num_layers": 2}}
    data = {"train": str(generated_data / "sst2/train.tsv"), "dev": None, "format": "tsv"}
    first = train(tree(generated_data, data=data, model=model, training={"epochs": 1}), root=tmp_path).folder
    config: dict[str, Any] = {
        "task": "sentiment",
        "name": "feelings",
        "data": {"train": str(generated_data / "sst2/train.tsv")},
        "model": model,
        "training": {"metric": "loss", "steps": 1, "optimizer": {"lr": 1e-9}},
        "init": {"run": str(first)},
    }
    second = train(config, root=tmp_path).folder
    before, after = (load(folder).model.state_dict() for folder in (first, second))
    taken = [name for name in after if name.startswith("encoder.")]
    assert len(taken) == 9
    for name in taken:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    assert load(second).tokenizer.fingerprint == load(first).tokenizer.fingerprint  # type: ignore[attr-defined]


def test_words_keep_their_vectors_in_another_vocabulary(generated_data: Path, tmp_path: Path) -> None:
    still = {"steps": 1, "optimizer": {"lr": 1e-9}}
    first = train(tree(generated_data, model={"tie": False}, training={"epochs": 1}), root=tmp_path).folder
    own = write(tmp_path / "own.txt", "eht zebra mlif\n" * 9)
    config = tree(generated_data, data={"train": own, "dev": None, "format": "auto"}, model={"tie": False}, text={})
    second = train({**config, "training": still, "init": {"run": str(first)}}, root=tmp_path).folder
    here, there = (Tokenizer.load(path / "tokenizer.json").vocabulary for path in (second, first))
    new, old = (load(path).model.state_dict() for path in (second, first))
    for name in ("encoder.embedding.table.weight", "token_scores.weight", "token_scores.bias"):
        for word in ("eht", "mlif", "<eos>"):
            torch.testing.assert_close(new[name][here.index(word)], old[name][there.index(word)], atol=1e-6, rtol=0)
    assert "zebra" in here
    assert "zebra" not in there


def test_clusters_of_another_vocabulary_are_made_anew(generated_data: Path, tmp_path: Path) -> None:
    model = {"tie": False, "adaptive_cutoffs": [6], "adaptive_div": 2.0}
    runs: list[Path] = []
    for text in ("a b c d\n", "w x y z\n", "w x y z\n"):  # of one size
        data = {"train": write(tmp_path / "own.txt", text * 4), "dev": None, "format": "auto"}
        config = tree(generated_data, data=data, model=model, text={}, seed=len(runs))
        config["training"] = {"steps": 1, "optimizer": {"lr": 1e-9}}
        init = {"init": {"run": str(runs[-1])}} if runs else {}
        runs.append(train({**config, **init}, root=tmp_path / "runs").folder)
    weights = [load(run).model.state_dict()["adaptive.head.weight"] for run in runs]
    assert not torch.allclose(weights[0], weights[1], atol=1e-3)
    torch.testing.assert_close(weights[1], weights[2], atol=1e-6, rtol=0)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"text": {"add_eos": True}}, r"text\.add_eos: a language model reads whole lines"),
        ({"text": {"max_length": 5}}, r"text\.max_length"),
        ({"model": {"encoder": {"hidden_size": 4, "bidirectional": True}}}, "bidirectional: unknown key"),
        ({"model": {"adaptive_cutoffs": [5]}}, "set tie to false"),
        ({"model": {"adaptive_cutoffs": [5], "tie": False}, "text": {"tokenizer": "bpe"}}, "in order of frequency"),
        ({"data": {"batch_by": "tokens"}}, "batch_by: unknown key"),
        ({"data": {"bptt": 0}}, r"data\.bptt"),
        ({"data": {"dev": None}, "training": {"schedule": "plateau"}}, r"needs data\.dev"),
        ({"training": {"metric": "accuracy"}}, r"training\.metric"),
        ({"training": {"metric_mode": "max"}}, r"training\.metric_mode"),
    ],
)
def test_bad_settings_stop_before_data_is_read(generated_data: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(tree(generated_data, **sections))


def test_of_a_metric_of_ones_own_more_may_be_better(generated_data: Path) -> None:
    training = {"metric": "seqkit.tasks.language_model.metrics:bits_per_character", "metric_mode": "max"}
    config, _ = read_config(tree(generated_data, training=training))
    assert config.training.more_is_better


@pytest.mark.parametrize(
    ("text", "sections", "message"),
    [
        ("a b c\n", {}, "4 tokens cannot be cut into data.batch_size 4"),
        (" \n\n", {}, "no token to train"),
        (
            "a b c d e f\n" * 3,
            {"model": {"tie": False, "adaptive_cutoffs": [11]}},
            r"model\.adaptive_cutoffs: adaptive_cutoffs must rise",
        ),
    ],
)
def test_bad_texts(generated_data: Path, tmp_path: Path, text: str, sections: dict[str, Any], message: str) -> None:
    data = {"train": write(tmp_path / "own.txt", text), "dev": None, "format": "auto"}
    with pytest.raises(UserError, match=message):
        task_for(tree(generated_data, data=data, **sections))


def test_a_run_whose_tokenizer_cuts_is_no_start(generated_data: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"task": "sentiment", "model": {"embedding": {"size": 4}, "encoder": {"hidden_size": 4}}}
    config |= {"data": {"train": str(generated_data / "sst2/train.tsv")}, "text": {"max_length": 9}}
    first = train({**config, "training": {"metric": "loss", "steps": 1}}, root=tmp_path).folder
    with pytest.raises(UserError, match=r"text\.max_length.*give a text section"):
        task_for(tree(generated_data, init={"run": str(first)}))


def test_a_loss_that_is_not_finite_shows_the_text(generated_data: Path) -> None:
    task = task_for(tree(generated_data))
    shown = task.describe(next(iter(task.batches(0))))
    assert shown[0].startswith("stream 1 from token 1: ")
    assert len(shown) == 4
