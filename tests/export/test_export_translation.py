"""Translation out of Python: the graphs, and the script's search beside `seqkit.decoding`."""

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
from tokenizers import Tokenizer as HF

import seqkit.export.scripts.exported as shared
import seqkit.export.scripts.translation as script
from seqkit import run
from seqkit.decoding import Search
from seqkit.decoding.constraints import NoUnknown
from seqkit.errors import UserError
from seqkit.export import Graph
from seqkit.export.evaluate import evaluate
from seqkit.export.graphs import Runner, write_graph
from seqkit.export.translation import TranslationExporter, joining
from seqkit.models import Decoder, Embedding, Encoder, Seq2Seq
from seqkit.nn import Cell, Recurrent
from seqkit.tasks.translation.decoding import Translator
from seqkit.text import TextConfig, Tokenizer
from seqkit.text.joining import join_tokens

Exported = Callable[[str], tuple[Path, Path]]
Alone = Callable[..., subprocess.CompletedProcess[bytes]]

SENTENCES = [
    "the old man sleeps .",
    'She said: "no", and (slowly) left...',
    "The dog's ball; the players' field/yard costs $20.50!",
    "a well-known man isn't here, is he?",
    "你好 world 世界, a ￭ b￮c  d",
    "one two three four five six seven eight nine ten",
    "zebra",
]


class Own(Cell):
    """A cell of a user's own, with a submodule and a state of two parts."""

    state_names = ("h", "sum")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.inputs = torch.nn.Linear(input_size, hidden_size)

    def project(self, x: Any, prepared: Any) -> Any:
        return self.inputs(x)

    def step(self, projected: Any, state: Any, prepared: Any) -> Any:
        h = torch.tanh(projected + 0.5 * state[1])
        return (h, 0.7 * state[1] + h), {}


BOTH = {"bidirectional": True}
MARKED, PLAIN = {"mark_joined": True}, {"mark_joined": False}
PIECES, CHARACTERS = {"tokenizer": "bpe", "vocab_size": 90}, {"tokenizer": "char"}
# Encoder, decoder, bridge, text of the source and of the target, search.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "general": (BOTH, {"attention": "general"}, "linear", {}, MARKED, {}),
    "fed": (BOTH, {"attention": "bahdanau", "input_feeding": True}, "linear", PLAIN, MARKED, {"beam_size": 4}),
    "gnmt": (
        {"cell": "gru", "num_layers": 2, **BOTH},
        {"num_layers": 3, "attention": "multi_head", "heads": 2, "attention_layer": 1, "residual": True},
        "mean",
        MARKED,
        PIECES,
        {"beam_size": 3, "length_penalty": 1.0, "coverage_penalty": 0.3, "no_repeat_ngram": 2},
    ),
    "context": ({"cell": "rnn"}, {"attention": "none", "feed_context": True}, "zero", PIECES, PLAIN, {"beam_size": 2}),
    "norm": (
        {"layer_norm": True},
        {"attention": "dot", "layer_norm": True, "cell_clip": 0.5, "peephole": True, "output": "deep"},
        "copy",
        CHARACTERS,
        CHARACTERS,
        {"beam_size": 5, "length_penalty": 0.6, "length_penalty_kind": "average", "max_ratio": 0.5, "min_length": 4},
    ),
    "own": (
        {"cell": Own},
        {"cell": Own, "attention": "scaled_dot", "attention_size": 4, "input_feeding": True, "tie": "target"},
        "linear",
        {"add_bos": True, "add_eos": True},
        {"split": "spaces", "mark_joined": False},
        {"beam_size": 2, "min_ratio": 0.9, "constraints": [NoUnknown()]},
    ),
    "jordan": (
        {"cell": "jordan"},
        {"cell": "jordan", "attention": "concat"},
        "linear",
        {"max_length": 4},
        MARKED,
        {"max_length": 6, "allow_unknown": False},
    ),
    "wide": (
        {},
        {"attention": "none"},
        "linear",
        {},
        PIECES,
        {"beam_size": 120, "max_length": 5, "min_length": 3, "no_repeat_ngram": 1},
    ),
}


def build(name: str) -> Any:
    """A task of random weights, as far as an exporter looks at it."""
    torch.manual_seed(len(name))
    encoder, decoder, bridge, reads, writes, rules = CASES[name]
    source, target = (Tokenizer.train(SENTENCES[:-1], TextConfig(**text)) for text in (reads, writes))
    recurrent = Recurrent(**{"cell": "lstm", "input_size": 6, "hidden_size": 8, "batch_first": True, **encoder})
    reader = Encoder(Embedding(len(source), 6), recurrent)
    model = Seq2Seq(
        reader, Decoder(Embedding(len(target), 6), reader.output_size, **{"hidden_size": 8, **decoder}), bridge
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.7)
    model.eval()
    translator = Translator([(model, source)], target, Search(**rules))
    translator.copy_unknown = decoder["attention"] != "none" and "allow_unknown" not in rules
    return SimpleNamespace(model=model, source=source, target=target, translator=translator)


class InTorch:
    """What the script takes for a session of ONNX Runtime."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.graph.inputs]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.graph.outputs]

    def run(self, _: None, inputs: dict[str, Any]) -> list[Any]:
        assert set(inputs) == set(self.graph.inputs)
        with torch.no_grad():
            return [
                part.numpy() for part in self.graph.module(*(torch.tensor(inputs[name]) for name in self.graph.inputs))
            ]


@pytest.mark.parametrize("name", CASES)
def test_the_script_searches_as_seqkit_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, exporter = build(name), TranslationExporter()
    graphs = [InTorch(graph) for graph in exporter.graphs(task).values()]
    settings = json.loads(json.dumps(exporter.settings(task)))
    task.source.save(tmp_path / "tokenizer.source.json")
    task.target.save(tmp_path / "tokenizer.target.json")
    saved = {path.name: HF.from_file(str(path)) for path in tmp_path.glob("tokenizer.*.json")}
    exported = SimpleNamespace(settings=settings, graphs=graphs, tokenizer=saved.__getitem__)
    monkeypatch.setattr(script, "Exported", lambda folder: exported)
    texts = [*SENTENCES, "", " \t", "zebra, unknown qqq (xyz)", "a " * 70]
    found = script.Predictor(tmp_path)(texts)
    for got, want in zip(found, task.translator(texts), strict=True):
        assert (got["translation"], got["tokens"], got["finished"]) == (want.text, want.tokens, want.finished)
        np.testing.assert_allclose(got["log_probs"], want.log_probs, rtol=0, atol=1e-5)
        assert got["score"] == (want.score if want.score is None else pytest.approx(want.score, abs=1e-4))
    assert any(not one["finished"] for one in found) or name != "norm"
    assert len({one["translation"] for one in found}) > 3


@pytest.mark.parametrize("text", SENTENCES)
def test_words_without_marks_are_joined_as_in_seqkit(text: str) -> None:
    for config in (TextConfig(), TextConfig(split="spaces", split_chinese=False)):
        tokenizer = Tokenizer.train(SENTENCES, config)
        patterns = joining(tokenizer.config)["words"]
        tokens = tokenizer.tokens(text)
        assert shared.join_words(tokens, patterns) == join_tokens(tokens, tokenizer)


class Together(torch.nn.Module):
    """Encoder and step of several models in one graph: most of an export's time is the exporter's own."""

    def __init__(self, tasks: list[Any]) -> None:
        super().__init__()
        graphs = [list(TranslationExporter().graphs(task).values()) for task in tasks]
        self.parts = torch.nn.ModuleList(part.module for pair in graphs for part in pair)

    def forward(self, tokens: Any, lengths: Any, last: Any) -> list[Any]:
        found = []
        for encoder, step in zip(self.parts[::2], self.parts[1::2], strict=True):
            parts = encoder(tokens, lengths)
            found += [*parts, *step(last, *parts)]
        return found


def test_the_graphs_compute_what_the_models_compute(tmp_path: Path, operators_once: None) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is an extra of the tests")
    pytest.importorskip("onnxscript", reason="onnxscript is an extra of the tests")
    module = Together([build(name) for name in ("gnmt", "norm", "own")]).eval()

    def batch(rows: int, steps: int) -> list[torch.Tensor]:
        lengths = torch.randint(0, steps + 1, (rows,))
        return [torch.randint(4, 20, (rows, steps)), lengths, torch.randint(4, 20, (rows, 1))]

    sizes = {"tokens": {0: "sentences", 1: "source"}, "lengths": {0: "sentences"}, "last": {0: "sentences"}}
    inputs = dict(zip(sizes, batch(2, 7), strict=True))
    with torch.no_grad():
        count = len(module(*inputs.values()))
    write_graph(Graph(module, inputs, sizes, [f"out{number}" for number in range(count)]), tmp_path / "all.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "all.onnx").graph.node)
    # One a layer and direction; of layer norm and the own cell those of the encoder alone: a step needs no Scan.
    assert {kind: kinds[kind] for kind in ("LSTM", "GRU", "RNN", "Scan")} == {"LSTM": 3, "GRU": 4, "RNN": 0, "Scan": 2}
    runner = Runner(tmp_path / "all.onnx")
    for rows, steps in [(1, 1), (3, 5), (2, 9), (5, 2), *[(4, 6)] * 20]:
        given = batch(rows, steps)
        with torch.no_grad():
            for got, want in zip(runner(**dict(zip(sizes, given, strict=True))), module(*given), strict=True):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


RUN = "2026-11-options/translation-feeding-finished"


def test_an_exported_run_translates_without_torch(exported: Exported, alone: Alone) -> None:
    folder, made = exported(RUN)
    task = run.load_translator(folder, device="cpu")
    texts = [
        "the old man sleeps .",
        "",
        "  ",
        "I see the dog , which sleeps .",
        "x" * 90,
        "zebra ünknown 中文 \x1c a\u2028b",
    ] * 9
    found = alone(made, text="\n".join(texts).encode() + b"\n")
    assert found.stderr == b""
    assert found.stdout.decode().split("\n")[:-1] == [task.format(one, "text") for one in task.predict(texts)]
    rows = alone(made, "--format", "jsonl", text="\n".join(texts).encode()).stdout.decode().split("\n")[:-1]
    for got, one in zip(map(json.loads, rows), task.predict(texts), strict=True):
        want = json.loads(task.format(one, "jsonl"))
        assert got == {**want, "score": got["score"], "log_probs": got["log_probs"]}
        np.testing.assert_allclose(got["log_probs"], want["log_probs"], rtol=0, atol=2e-5)
    assert alone(made, "--format", "xml").returncode == 2


def test_an_exported_run_is_scored_the_same(exported: Exported) -> None:
    folder, made = exported(RUN)
    for name, value in run.evaluate(folder, device="cpu")[0].items():
        assert evaluate(made)[0][name] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ({"sample": True}, "decoding.sample"),
        ({"n_best": 2, "beam_size": 2}, "decoding.n_best"),
        ({"constraints": [type("NoRhyme", (NoUnknown,), {})()]}, "decoding.constraints"),
    ],
)
def test_what_stays_in_seqkit_is_refused(rules: dict[str, Any], key: str) -> None:
    task = build("general")
    task.translator.search = Search(**rules)
    with pytest.raises(UserError, match="stays in") as caught:
        TranslationExporter().graphs(task)
    assert str(caught.value).startswith(key)
