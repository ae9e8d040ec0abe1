"""Language models out of Python: scores, greedy continuations, and the distribution of what is sampled."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer as HF

import seqkit.export.scripts.language_model as script
from seqkit import run
from seqkit.decoding.selection import draw
from seqkit.export.evaluate import evaluate
from seqkit.export.language_model import LanguageModelExporter
from seqkit.models import Embedding, Encoder, LanguageModel
from seqkit.nn import Recurrent
from seqkit.tasks.language_model.predictions import Sampler, score_lines
from seqkit.text import TextConfig, Tokenizer

Exported = Callable[[str], tuple[Path, Path]]
Alone = Callable[..., subprocess.CompletedProcess[bytes]]

RUN = "2026-11-options/language_model-adaptive-finished"
TEXTS = [
    "a well-known film (in colour) isn't here, is he?",
    'She said: "no", and left...',
    "你好 world 世界 ￭ b￮c  d",
    "zebra ünknown",
    "a",
]
# Text, recurrent module, softmax.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "marked": ({"mark_joined": True}, {"num_layers": 2, "residual": True}, {}),
    "plain": ({}, {"cell": "gru", "layer_norm": True}, {"tie": False}),
    "pieces": ({"tokenizer": "bpe", "vocab_size": 80}, {"proj_size": 4, "learn_initial_state": True}, {}),
    "characters": (
        {"tokenizer": "char"},
        {"cell": "jordan"},
        {"tie": False, "adaptive_cutoffs": [10, 20], "adaptive_div": 2},
    ),
}


def predictor(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A task of random weights, as far as an exporter looks at it, and the script's predictor on its graph in torch."""
    torch.manual_seed(len(name))
    text, recurrent, softmax = CASES[name]
    tokenizer = Tokenizer.train(TEXTS[:3], TextConfig(**text))
    layers = Recurrent(**{"cell": "lstm", "input_size": 6, "hidden_size": 8, "batch_first": True, **recurrent})
    model = LanguageModel(Encoder(Embedding(len(tokenizer), 6), layers), **softmax).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.7)
    task = SimpleNamespace(model=model, tokenizer=tokenizer, config=SimpleNamespace(seed=3))
    (graph,) = LanguageModelExporter().graphs(task).values()

    def compute(_: None, inputs: dict[str, Any]) -> list[Any]:
        with torch.no_grad():
            return [part.numpy() for part in graph.module(*(torch.tensor(inputs[name]) for name in graph.inputs))]

    faces = [SimpleNamespace(name=name, shape=list(value.shape)) for name, value in graph.inputs.items()]
    after = [SimpleNamespace(name=name) for name in graph.outputs]
    session = SimpleNamespace(get_inputs=lambda: faces, get_outputs=lambda: after, run=compute)
    settings = json.loads(json.dumps(LanguageModelExporter().settings(task)))
    tokenizer.save(folder / "tokenizer.json")
    saved = HF.from_file(str(folder / "tokenizer.json"))
    exported = SimpleNamespace(settings=settings, graphs=[session], tokenizer=lambda: saved)
    monkeypatch.setattr(script, "Exported", lambda folder: exported)
    return task, script.Predictor(folder)


@pytest.mark.parametrize("name", CASES)
def test_the_script_scores_and_continues_as_seqkit_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, predict = predictor(name, tmp_path, monkeypatch)
    monkeypatch.setattr(script, "VALUES", 500)  # windows of a few steps
    texts = [*TEXTS, "", " \t", "a film " * 40]
    for got, want in zip(predict(texts), score_lines(task.model, task.tokenizer, texts), strict=True):
        known = {key: value for key, value in vars(want).items() if value is not None}
        assert {key: value for key, value in got.items() if value is not None} == pytest.approx(known, rel=1e-5)
    wanted = Sampler(task.model, task.tokenizer, top_k=1, max_length=12)(texts)
    found = predict.continued(texts, np.random.default_rng(0), max_length=12, temperature=1.0, top_k=1, top_p=1.0)
    for got, one in zip(found, wanted, strict=True):
        assert got == {**vars(one), "log_probs": got["log_probs"]}
        np.testing.assert_allclose(got["log_probs"], one.log_probs, rtol=0, atol=1e-5)
    assert len({one["text"] for one in found}) >= 6


HOW = [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.5, 4, 1.0), (1.0, 0, 0.7), (1.3, 5, 0.8)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), HOW)
def test_a_draw_by_the_same_numbers_is_seqkits(temperature: float, top_k: int, top_p: float) -> None:
    log_probs = torch.log_softmax(torch.randn(500, 9, generator=torch.Generator().manual_seed(0)) * 2, 1)
    log_probs[:, 3] = -torch.inf
    uniform = np.random.default_rng(0).random(500)
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    want = draw(log_probs[:, None], torch.from_numpy(uniform)[:, None], **how)[:, 0]
    assert script.draw(log_probs.numpy(), uniform, **how).tolist() == want.tolist()


def test_a_part_of_the_state_that_the_graph_does_not_read_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, predict = predictor("marked", tmp_path, monkeypatch)
    tokens = np.array([[3, 5]])
    _, whole = predict.step(tokens, predict.start(1))
    predict.sizes.pop("h")  # as `get_inputs` would lack it
    run, given = predict.model.run, predict.start(1)
    assert list(given) == ["c"]
    monkeypatch.setattr(predict.model, "run", lambda _, inputs: run(_, {"h": np.zeros_like(given["c"]), **inputs}))
    _, state = predict.step(tokens, given)
    assert list(state) == ["c"]
    np.testing.assert_array_equal(state["c"], whole["c"])


def test_what_is_sampled_has_the_models_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token after a prompt, and the second after that: chi-square against the model's own probabilities."""
    task, predict = predictor("marked", tmp_path, monkeypatch)
    how = {"max_length": 2, "temperature": 1.4, "top_k": 12, "top_p": 1.0}
    found = predict.continued(["a film"] * 4000, np.random.default_rng(5), **how)
    assert found == predict.continued(["a film"] * 4000, np.random.default_rng(5), **how)
    counts = Counter((one["tokens"] + ["<eos>"])[0] for one in found)
    ids = torch.tensor([[task.tokenizer.eos_id, *task.tokenizer.encode(["a film"])[0]]])
    with torch.no_grad():
        scores = task.model.scores(task.model(ids).features[0, -1]) / how["temperature"]
    scores[[0, 1, 2]] = -torch.inf
    best = scores.topk(how["top_k"])
    expected = torch.softmax(best.values.double(), 0) * 4000
    observed = [counts.pop(task.tokenizer.vocabulary[number], 0) for number in best.indices.tolist()]
    assert not counts
    assert stats.chisquare(observed, expected.numpy()).pvalue > 0.01


def test_an_exported_run_scores_and_continues_without_torch(exported: Exported, alone: Alone) -> None:
    folder, made = exported(RUN)
    texts = ["the film is dull .", "", "  ", "warm and witty", "x" * 60, "a\u2028b \x1c c"] * 5
    text = "\n".join(texts).encode()
    task = run.load_predictor(folder, device="cpu")
    found = alone(made, text=text)
    assert (found.returncode, found.stderr) == (0, b"")
    for got, one in zip(found.stdout.decode().split("\n"), task.predict(texts), strict=False):
        want = task.format(one, "text")
        assert [float(part) for part in got.split()] == pytest.approx([float(part) for part in want.split()], abs=2e-4)
    greedy = run.load_predictor(folder, device="cpu", options=["sample=true", "top_k=1", "max_length=9"])
    found = alone(made, "--sample", "--top-k", "1", "--max-length", "9", text=text)
    assert found.stdout.decode().split("\n")[:-1] == [greedy.format(one, "text") for one in greedy.predict(texts)]
    rows = alone(made, "--format", "jsonl", text=text).stdout.decode().split("\n")[:-1]
    assert [json.loads(row)["tokens"] for row in rows] == [one.tokens for one in task.predict(texts)]
    for wrong in (["--top-k", "2"], ["--sample", "--top-p", "0"], ["--sample", "--seed", "-1"]):
        assert alone(made, *wrong).returncode == 2


def test_an_exported_run_has_the_same_perplexity(exported: Exported) -> None:
    folder, made = exported(RUN)
    for name, value in run.evaluate(folder, device="cpu")[0].items():
        assert evaluate(made)[0][name] == pytest.approx(value, rel=1e-5)
