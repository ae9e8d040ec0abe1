"""The sentiment task: data reports, bad data, weights of classes, scores, prediction, fine-tuning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import seqkit
from seqkit.errors import UserError
from seqkit.run import counted, evaluate, load, read_config, resume, train
from seqkit.tasks.sentiment.metrics import METRICS, Outcome, classification_report
from seqkit.tasks.sentiment.task import SentimentTask
from seqkit.training.scores import measured


def tree(folder: Path, **sections: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "task": "sentiment",
        "data": {"train": str(folder / "sst2/train.tsv"), "dev": str(folder / "sst2/dev.tsv"), "batch_size": 16},
        "model": {"embedding": {"size": 12}, "encoder": {"hidden_size": 10}, "pooling": "max"},
        "training": {"epochs": 2, "optimizer": {"lr": 0.02}},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section} if isinstance(section, dict) else section
    return base


@pytest.fixture(scope="module")
def trained(generated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    config = tree(generated_data, name="base", training={"epochs": 8, "optimizer": {"lr": 0.02}})
    config["data"]["test"] = str(generated_data / "sst2/test.tsv")
    return train(config, root=root).folder


def write(folder: Path, text: str, name: str = "own.tsv") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_it_learns_and_a_run_folder_needs_nothing_else(trained: Path, tmp_path: Path) -> None:
    scores = json.loads((trained / "scores.json").read_text())
    assert scores["test"]["accuracy"] > 0.9
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained, moved)
    shutil.rmtree(moved / "checkpoints")
    found = seqkit.load(moved).predict(["superb warm", "awful bland", " ", ""])
    assert [one.label for one in found] == ["positive", "negative", None, None]
    assert sum(found[0].probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_evaluate_agrees_with_training_and_with_the_predictions(trained: Path, generated_data: Path) -> None:
    scores, lines = evaluate(trained)
    assert counted(scores) == json.loads((trained / "scores.json").read_text())["test"]
    rows = [line.split("\t") for line in (generated_data / "sst2/test.tsv").read_text().splitlines()[1:]]
    found = load(trained).predict([text for _, text in rows])
    correct = sum(one.label == label for one, (label, _) in zip(found, rows, strict=True))
    assert scores["accuracy"] == pytest.approx(correct / len(rows))
    again, _ = evaluate(trained, str(generated_data / "sst2/test.tsv"))
    assert again == scores
    assert any("positive" in line for line in lines)


def test_predictions_do_not_depend_on_the_batch(trained: Path) -> None:
    task = load(trained)
    texts = ["superb", "the film was awful and dull with no warm scene of note", "quite bland", "a"]
    together = task.predict(texts)
    for text, one in zip(texts, together, strict=True):
        alone = task.predict([text])[0]
        assert alone.label == one.label
        for name, value in alone.probabilities.items():
            assert value == pytest.approx(one.probabilities[name], abs=1e-6)


def test_same_seed_same_weights_with_every_kind_of_dropout(generated_data: Path, tmp_path: Path) -> None:
    config = tree(
        generated_data,
        model={
            "embedding": {
                "size": 12,
                "embedding_dropout": 0.1,
                "locked_dropout": 0.1,
                "dropout": 0.1,
                "word_dropout": 0.1,
            },
            "encoder": {
                "hidden_size": 10,
                "num_layers": 2,
                "dropout": 0.2,
                "weight_drop": 0.2,
                "zoneout": 0.1,
                "recurrent_dropout": 0.1,
            },
            "dropout": 0.3,
        },
    )
    runs = [
        train({**config, "seed": seed, "name": name}, root=tmp_path) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    weights = [(run.folder / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] != weights[2]


def test_a_run_killed_after_an_epoch_resumes_to_the_same_weights(generated_data: Path, tmp_path: Path) -> None:
    config = tree(generated_data, training={"epochs": 3, "ema": 0.9})
    whole = train({**config, "name": "whole"}, root=tmp_path).folder
    cut = train({**config, "name": "cut"}, root=tmp_path).folder
    # What is left of a run that was killed in its third epoch: the checkpoints of the first two.
    for path in cut.glob("checkpoints/step-*"):
        shutil.rmtree(path)
    shorter = train({**config, "training": {**config["training"], "epochs": 2}, "name": "short"}, root=tmp_path).folder
    for path in shorter.glob("checkpoints/step-*"):
        shutil.copytree(path, cut / "checkpoints" / path.name)
    resume(cut)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_resuming_on_other_data_is_refused(generated_data: Path, tmp_path: Path) -> None:
    rows = "label\ttext\n" + "a\tx y\nb\tz w\n" * 4
    config = tree(generated_data, data={"train": str(write(tmp_path, rows)), "dev": None}, training={"metric": "loss"})
    folder = train(config, root=tmp_path / "runs").folder
    resume(folder)
    write(tmp_path, rows + "a\tx\n")
    with pytest.raises(UserError, match="not the one that this run was started with"):
        resume(folder)


def test_resume_without_a_checkpoint_starts_from_the_pretrained_vectors(generated_data: Path, tmp_path: Path) -> None:
    vectors = {"size": 100, "vectors": str(generated_data / "glove.6b.100d.subset.txt.gz")}
    config = tree(generated_data, model={"embedding": vectors, "encoder": {"hidden_size": 4}}, training={"epochs": 1})
    folder = train(config, root=tmp_path).folder
    weights = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    (folder / "model.safetensors").unlink()
    resume(folder)
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    "training", [{"early_stopping": {"patience": 1}}, {"schedule": "plateau"}, {"keep_best": 2, "average_best": True}]
)
def test_options_that_need_dev_say_so(generated_data: Path, training: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"needs data\.dev"):
        read_config(tree(generated_data, data={"dev": None}, training=training))


def test_a_mistake_found_late_leaves_the_old_run_alone(trained: Path, generated_data: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "base")
    bad = {"optimizer": {"lr_factors": {"nothing*": 0.1}}}
    with pytest.raises(UserError, match="matches no trained parameter"):
        train(tree(generated_data, name="base", training=bad), root=tmp_path, overwrite=True)
    assert load(tmp_path / "base").predict(["superb"])[0].label == "positive"
    train(tree(generated_data, name="base", training={"epochs": 1}), root=tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def task_for(config: dict[str, Any]) -> SentimentTask:
    made = read_config(config)[0]
    return SentimentTask.create(made)  # type: ignore[arg-type]


def test_class_weights_weigh_the_loss(generated_data: Path, tmp_path: Path) -> None:
    path = write(tmp_path, "label\ttext\n" + "a\tx y\n" * 6 + "b\tz w\n" * 2)
    config = tree(generated_data, data={"train": str(path), "dev": None}, training={"metric": "loss"})
    plain = task_for(config)
    balanced = task_for({**config, "training": {"metric": "loss", "class_weights": "balanced"}})
    named = task_for({**config, "training": {"metric": "loss", "class_weights": {"a": 3.0, "b": 0.5}}})
    for task, weight in ((plain, [1, 1]), (balanced, [8 / 12, 2.0]), (named, [3.0, 0.5])):
        task.model.eval()
        batch = next(iter(task.batches(0)))
        loss = task.loss(batch, None)[0]["loss"]
        logits = task.model(batch.ids, batch.lengths).double()
        w = torch.tensor(weight)[batch.labels]
        expected = -(w * torch.log_softmax(logits, 1)[range(8), batch.labels]).sum()
        assert loss.sum.item() == pytest.approx(expected.item(), rel=1e-5)
        assert loss.weight == pytest.approx(float(w.sum()))
    with pytest.raises(UserError, match="no weight for b"):
        task_for({**config, "training": {"metric": "loss", "class_weights": {"a": 3.0}}})
    with pytest.raises(UserError, match="no class 'aa'"):
        task_for({**config, "training": {"metric": "loss", "class_weights": {"aa": 3.0, "b": 1.0}}})


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
def test_adversarial_loss_is_that_of_the_shifted_texts(generated_data: Path, backend: str) -> None:
    """Against a plain computation on copies of the vectors, one text at a time."""
    config = tree(
        generated_data,
        model={"embedding": {"size": 12}, "encoder": {"hidden_size": 10, "backend": backend, "bidirectional": True}},
        training={"adversarial": 0.05},
    )
    task = task_for(config)
    task.model.double()
    batch = next(iter(task.batches(0)))
    loss = task.loss(batch, None)[0]["loss"].sum
    model = task.model
    expected = 0.0
    for row, length in enumerate(batch.lengths.tolist()):
        vectors = model.encoder.embedding.table.weight[batch.ids[row, :length]].detach()

        def score(x: torch.Tensor, row: int = row) -> torch.Tensor:
            output, state = model.encoder.recurrent(x[None], lengths=torch.tensor([len(x)]))
            logits = model.output(model.pooling(output, torch.cat(list(state[0][-2:]), 1), torch.tensor([len(x)])))
            return torch.nn.functional.cross_entropy(logits, batch.labels[row : row + 1])

        x = vectors.clone().requires_grad_()
        plain = score(x)
        (gradient,) = torch.autograd.grad(plain, x)
        moved = score(vectors + 0.05 * vectors.norm() * gradient / gradient.norm())
        expected += (plain.item() + moved.item()) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_scores_equal_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = torch.randn(200, 3), torch.randint(0, 3, (200,))
    labels[:90] = 1
    guess = logits.argmax(1)
    losses = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    outcome = Outcome(labels.numpy(), guess.numpy(), losses.numpy(), 3)
    scores = measured(outcome, METRICS)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, guess))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(labels, guess, average="macro"))
    assert scores["loss"] == pytest.approx(metrics.log_loss(labels, torch.softmax(logits.double(), 1)), rel=1e-6)
    report = "\n".join(classification_report(outcome, ["x", "y", "z"]))
    for row in metrics.confusion_matrix(labels, guess):
        assert " ".join(map(str, row)) in report


def test_the_report_names_balance_lengths_and_coverage(generated_data: Path, tmp_path: Path) -> None:
    dev = write(tmp_path, "label\ttext\npositive\tzzz superb\n", "dev.tsv")
    lines = "\n".join(task_for(tree(generated_data, data={"dev": str(dev)})).report())
    assert "train: 120 texts (negative 50.0%, positive 50.0%)" in lines
    assert "50.0% of tokens in the vocabulary" in lines


@pytest.mark.parametrize(
    ("train_rows", "dev_rows", "message"),
    [
        ("a\tx\nb\ty\n", "c\tx\n", r"dev\.tsv:2: unknown label 'c'"),
        ("good\tx\nbad\ty\n", "goood\tx\n", "did you mean 'good'"),
        ("a\tx\na\ty\n", "a\tx\n", "only one class, 'a'"),
        ("a\tx\nb\t  \n", "a\tx\n", r"train\.tsv:3: nothing is left of this training text"),
        ("a\tx\nb\n", "a\tx\n", r"train\.tsv:3: "),
        ("a\tx\n\ty\n", "a\tx\n", r"'' is not a valid label"),
    ],
)
def test_bad_data_is_one_clear_line(
    generated_data: Path, tmp_path: Path, train_rows: str, dev_rows: str, message: str
) -> None:
    data = {
        "train": str(write(tmp_path, "label\ttext\n" + train_rows, "train.tsv")),
        "dev": str(write(tmp_path, "label\ttext\n" + dev_rows, "dev.tsv")),
    }
    with pytest.raises(UserError, match=message) as caught:
        train(tree(generated_data, data=data), root=tmp_path / "runs")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_line_of_ten_megabytes(trained: Path, generated_data: Path, tmp_path: Path, capsys: Any) -> None:
    long = "superb film " * 900_000
    path = write(tmp_path, f"label\ttext\npositive\tsuperb\nnegative\t{long}\n")
    config = tree(generated_data, data={"train": str(path), "dev": None}, training={"metric": "loss"})
    with pytest.raises(UserError, match=r"own\.tsv:3: a text of 1,800,000 tokens; give text\.max_length"):
        task_for(config)
    assert task_for({**config, "text": {"max_length": 9}}).splits["train"].ids.lengths.tolist() == [1, 9]
    assert load(trained).predict([long])[0].label == "positive"
    assert "cut to the first 50,000" in capsys.readouterr().err


def test_vectors_are_loaded_and_their_width_is_checked(generated_data: Path, tmp_path: Path) -> None:
    vectors = str(generated_data / "glove.6b.100d.subset.txt.gz")
    task = task_for(
        tree(generated_data, model={"embedding": {"size": 100, "vectors": vectors}, "encoder": {"hidden_size": 4}})
    )
    row = task.tokenizer.vocabulary.index("superb")
    first = task.model.encoder.embedding.table.weight[row].detach()
    assert first.std().item() == pytest.approx(0.4, rel=0.3)
    assert any("words found" in line for line in task.report())
    wider = {"size": 100, "vectors": vectors, "vectors_norm": 10.0, "vectors_vocabulary": True}
    task = task_for(
        tree(
            generated_data,
            data={"train": str(write(tmp_path, "label\ttext\na\tx\nb\ty\n")), "dev": None},
            text={"min_frequency": 2},
            model={"embedding": wider, "encoder": {"hidden_size": 4}},
        )
    )
    assert "superb" in task.tokenizer.vocabulary
    assert "x" not in task.tokenizer.vocabulary
    lengths = task.model.encoder.embedding.table.weight.detach().norm(dim=1)
    torch.testing.assert_close(lengths[1:], torch.full((len(lengths) - 1,), 10.0))
    assert lengths[0] == 0
    with pytest.raises(UserError, match="vectors_norm needs vectors"):
        read_config(tree(generated_data, model={"embedding": {"vectors_norm": 1.0}, "encoder": {"hidden_size": 4}}))
    with pytest.raises(UserError, match="100"):
        task_for(
            tree(generated_data, model={"embedding": {"size": 50, "vectors": vectors}, "encoder": {"hidden_size": 4}})
        )


def test_fine_tuning_takes_what_matches_and_reports_the_rest(
    trained: Path, generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = {part: str(generated_data / f"sst3/{part}.tsv") for part in ("train", "dev")}
    config = tree(
        generated_data, data=three, init={"run": str(trained)}, training={"epochs": 1, "optimizer": {"lr": 1e-9}}
    )
    run = train({**config, "name": "tuned"}, root=tmp_path)
    text = capsys.readouterr().err
    assert "output.weight: 2 of 3 rows found by name, 1 new" in text
    old, new = load(trained), load(run.folder)
    assert old.tokenizer.vocabulary == new.tokenizer.vocabulary  # type: ignore[attr-defined]
    for name, value in old.model.state_dict().items():
        if name.startswith("encoder"):
            torch.testing.assert_close(new.model.state_dict()[name], value, atol=1e-4, rtol=0)
    # With a text section the vocabulary is new, and known words keep their vectors.
    other = task_for({**config, "text": {"vocab_size": 10}})
    assert len(other.tokenizer) == 10
    assert list(other.rows()["encoder.embedding.table.weight"].names) == other.tokenizer.vocabulary


def test_init_from_something_else_is_refused(generated_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        train(tree(generated_data, init={"run": str(tmp_path / "nothing")}), root=tmp_path)


@pytest.mark.parametrize("damage", ["model.safetensors", "tokenizer.json", "classes.json", "config.yaml", "run.json"])
@pytest.mark.parametrize("how", ["remove", "truncate"])
def test_half_written_runs_are_refused_with_one_line(trained: Path, tmp_path: Path, damage: str, how: str) -> None:
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / damage
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(UserError, match=r"run"):
        load(tmp_path / "run")


def test_a_users_own_cell_and_task_are_found_by_name(
    generated_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine_cells.py").write_text(
        "from seqkit.nn import CELLS\nfrom seqkit.tasks.sentiment.task import SentimentTask\n"
        "class MyCell(CELLS['gru']):\n    pass\n"
        "class MyTask(SentimentTask):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tree(
        generated_data, model={"encoder": {"cell": "mine_cells:MyCell", "hidden_size": 4}}, training={"epochs": 1}
    )
    run = train({**config, "task": "mine_cells:MyTask"}, root=tmp_path)
    assert type(load(run.folder, trust=True)).__name__ == "MyTask"
    with pytest.raises(UserError, match="peephole: unknown key"):
        read_config(
            tree(generated_data, model={"encoder": {"cell": "mine_cells:MyCell", "hidden_size": 4, "peephole": True}})
        )


@pytest.mark.parametrize(
    "text", [{"tokenizer": "bpe", "vocab_size": 80}, {"tokenizer": "unigram", "vocab_size": 60}, {"tokenizer": "char"}]
)
def test_it_trains_on_every_kind_of_token(generated_data: Path, tmp_path: Path, text: dict[str, Any]) -> None:
    config = tree(generated_data, text=text, data={"batch_size": 300, "batch_by": "tokens"})
    config["training"] = {"epochs": 8, "optimizer": {"lr": 0.02}}
    run = train(config, root=tmp_path)
    assert run.dev["accuracy"] > 0.7
    assert load(run.folder).predict(["superb warm lovely witty bright"])[0].label == "positive"


def test_chinese_is_split_into_characters(generated_data: Path, tmp_path: Path) -> None:
    rows = "good\t你好世界很好\nbad\t世界不好\n" * 8
    path = write(tmp_path, "label\ttext\n" + rows)
    config = tree(generated_data, data={"train": str(path), "dev": str(path), "batch_size": 4}, training={"epochs": 10})
    run = train(config, root=tmp_path)
    assert run.dev["accuracy"] == 1.0
    assert load(run.folder).tokenizer.tokens("你好世界") == ["你", "好", "世", "界"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_it_trains_on_both_backends(generated_data: Path, tmp_path: Path, backend: str) -> None:
    config = tree(generated_data, model={"embedding": {"size": 12}, "encoder": {"hidden_size": 10, "backend": backend}})
    config["training"] = {"epochs": 6, "optimizer": {"lr": 0.02}}
    assert train(config, root=tmp_path).dev["accuracy"] > 0.85
