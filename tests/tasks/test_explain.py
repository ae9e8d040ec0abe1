"""Explanations: sums, planted causes, brute force, and what layers keep, against loops in float64."""

from __future__ import annotations

import copy
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkit import drawing, run
from seqkit.cli.explain_run import explain
from seqkit.drawing.gates import gate_viewer
from seqkit.errors import UserError
from seqkit.models import Embedding, Encoder, SequenceClassifier, Tagger
from seqkit.models.window import WindowEncoder
from seqkit.nn import LSTM, RNN, AttentionalRecurrent, Cell, Recurrent
from seqkit.nn.decoder_trace import trace_decoder
from seqkit.tasks.attribution import LONGEST, Problem, attribute
from seqkit.tasks.explain import Explanation
from seqkit.tasks.slots.explain import explain_tags
from seqkit.tasks.slots.predictions import Tagging
from seqkit.tasks.text_trace import TextTrace, Token, layers_of, retention

pytest.importorskip("captum")
pytest.importorskip("jinja2")

Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]
FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXTS = {
    "2026-11/sentiment-finished": "the film was dull but the story felt superb .",
    "2026-11-options/sentiment-pooled-finished": "the film was dull but the story felt superb .",
    "2026-11-options/slots-characters-finished": "Find the superb film.",
    "2026-11/slots-finished": "Find the superb film.",
    "2026-11/translation-finished": "the film was dull",
    "2026-11-options/translation-feeding-finished": "the film was dull",
    "2026-11/language_model-finished": "the film was dull",
    "2026-11-options/language_model-adaptive-finished": "the film was dull",
}


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    return {name: run.load(FIXTURES / name, "cpu") for name in TEXTS}


@pytest.fixture(scope="module")
def explained(tasks: dict[str, Any]) -> dict[str, Explanation]:
    return {name: task.explain([TEXTS[name]])[0] for name, task in tasks.items()}


# --- sums -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TEXTS if "language_model" not in name])
def test_integrated_gradients_add_up_to_the_difference_of_the_logits(
    explained: dict[str, Explanation], name: str
) -> None:
    found = explained[name].attributions
    assert len(found) == (1 if "sentiment" in name else len(found)) > 0
    for one in found:
        assert one.gradients is not None
        assert len(one.gradients) == len(one.occlusion) == len(explained[name].tokens)
        difference = one.score - one.baseline_score
        assert one.gap == pytest.approx(sum(one.gradients) - difference)
        assert abs(sum(one.gradients) - difference) <= 1e-3 * max(abs(difference), 0.1)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TEXTS if "sentiment" in name])
def test_the_scores_are_the_logits_of_predict_and_of_a_table_of_zeros(
    tasks: dict[str, Any], explained: dict[str, Explanation], name: str
) -> None:
    task, (one,) = tasks[name], explained[name].attributions
    (prediction,) = task.predict([TEXTS[name]])
    ids = torch.tensor(task.tokenizer.encode([TEXTS[name]]))
    lengths = torch.tensor([ids.size(1)])
    logits = task.model(ids, lengths)[0]
    column = task.classes.index(prediction.label)
    assert one.target == prediction.label
    assert one.score == pytest.approx(float(logits[column]), abs=1e-5)
    without = copy.deepcopy(task.model)
    torch.nn.init.zeros_(without.encoder.embedding.table.weight)
    assert one.baseline_score == pytest.approx(float(without(ids, lengths)[0, column]), abs=1e-5)


def classifier(encoder: Recurrent, *pooling: str) -> SequenceClassifier:
    torch.manual_seed(3)
    return SequenceClassifier(Encoder(Embedding(20, 6), encoder), 3, pooling=pooling or ("last",)).double().eval()


def problem(model: SequenceClassifier, ids: list[int]) -> Problem:
    row, lengths = torch.tensor([ids]), torch.tensor([len(ids)])
    return Problem(
        [model.encoder.embedding], lambda copies: model(row.expand(copies, -1), lengths.expand(copies)), len(ids)
    )


ENCODERS = {
    "plain": lambda: LSTM(6, 5, batch_first=True),
    "both ways": lambda: LSTM(6, 5, 2, batch_first=True, bidirectional=True),
    "gru": lambda: Recurrent("gru", 6, 5, batch_first=True),
    "rnn": lambda: Recurrent("rnn", 6, 5, batch_first=True),
    "variant": lambda: Recurrent("lstm", 6, 5, batch_first=True, peephole=True, proj_size=3, zoneout_cell=0.2),
}


def reference_gradients(model: SequenceClassifier, ids: list[int], target: int, steps: int = 2000) -> Tensor:
    """The integral by the midpoint rule, with torch's own gradients and torch's own LSTM."""
    table = model.encoder.embedding.table.weight.detach()
    theirs = torch.nn.LSTM(6, 5, batch_first=True).double()
    theirs.load_state_dict(model.encoder.recurrent.state_dict())
    vectors = table[torch.tensor(ids)]
    path = (torch.arange(steps, dtype=torch.float64) + 0.5)[:, None, None] / steps * vectors
    path.requires_grad_()
    output, _ = theirs(path)
    logits = model.output(output[:, -1])
    (gradients,) = torch.autograd.grad(logits[:, target].sum(), path)
    return (gradients.mean(0) * vectors).sum(1)


def test_integrated_gradients_against_the_midpoint_rule_on_torchs_lstm() -> None:
    model, ids = classifier(LSTM(6, 5, batch_first=True)), [4, 9, 4, 17]
    (found,) = attribute(problem(model, ids), [2], ["x"], gradients=True)
    assert found.gradients == pytest.approx(reference_gradients(model, ids, 2).tolist(), abs=1e-6)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_occlusion_is_brute_force_with_any_cell_and_pooling(kind: str, pooling: str) -> None:
    model, ids = classifier(ENCODERS[kind](), pooling, "mean"), [4, 9, 4, 17]
    found = attribute(problem(model, ids), [0, 2], ["a", "b"], gradients=True)
    row, lengths = torch.tensor([ids]), torch.tensor([4])
    vectors = model.encoder.embedding(row).detach()
    for column, one in zip((0, 2), found, strict=True):
        falls = []
        for place in range(4):
            shift = torch.zeros_like(vectors)
            shift[0, place] = -vectors[0, place]  # another way to a zero vector than that of the code
            with torch.no_grad():
                falls.append(float(model(row, lengths)[0, column] - model(row, lengths, shift)[0, column]))
        assert one.occlusion == pytest.approx(falls, abs=1e-12)
        assert one.gradients is not None
        assert abs(one.gap or 0.0) <= 1e-3 * max(abs(one.score - one.baseline_score), 0.1)


# --- causes -----------------------------------------------------------------------------------------------------------


def planted(kind: str, pooling: str) -> SequenceClassifier:
    """A model whose input weights see feature 0 alone, which word 7 alone has."""
    model = classifier(ENCODERS[kind](), pooling)
    with torch.no_grad():
        model.encoder.embedding.table.weight[:, 0] = 0.0
        model.encoder.embedding.table.weight[7, 0] = 2.0
        for index, cell in enumerate(model.encoder.recurrent.cells):
            if index < model.encoder.recurrent.num_directions:
                name = f"weight_ih{model.encoder.recurrent.suffix(index)}"
                getattr(model.encoder.recurrent, name)[:, 1:] = 0.0
            assert cell.flat
    return model


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_a_model_that_looks_at_one_word_points_there(kind: str, pooling: str) -> None:
    model, ids = planted(kind, pooling), [3, 5, 7, 11, 5]
    (found,) = attribute(problem(model, ids), [1], ["x"], gradients=True)
    for values in (found.gradients, found.occlusion):
        assert values is not None
        assert abs(values[2]) > 1e-4
        assert [value for place, value in enumerate(values) if place != 2] == pytest.approx([0.0] * 4, abs=1e-12)
    with torch.no_grad():
        for weight in model.encoder.recurrent.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    (changed,) = attribute(problem(model, ids), [1], ["x"], gradients=True)
    for before, after in ((found.gradients, changed.gradients), (found.occlusion, changed.occlusion)):
        assert before is not None
        assert after is not None
        size = sum(map(abs, after))
        assert abs(after[2]) < 0.9 * size  # random weights look at all words


# --- what is kept -----------------------------------------------------------------------------------------------------


CELLS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "lstm, both ways": {"num_layers": 2, "bidirectional": True},
    "lstm, zoneout": {"zoneout_cell": 0.3, "coupled": True},
    "lstm, learned": {"learn_initial_state": True, "bidirectional": True},
    "gru": {"zoneout": 0.2},
    "gru, both ways": {"bidirectional": True},
    "rnn, zoneout": {"zoneout": 0.25},
}


@pytest.mark.parametrize("name", CELLS)
def test_what_is_kept_is_the_product_of_the_gates_and_the_parts_add_up(name: str) -> None:
    torch.manual_seed(5)
    kind = name.split(",")[0]
    module = Recurrent(kind, 4, 6, batch_first=True, dtype=torch.float64, **CELLS[name]).eval()
    for part, value in module.named_parameters():
        if part.startswith("initial_"):
            torch.nn.init.normal_(value)
    trace = module.trace(torch.randn(1, 7, 4, dtype=torch.float64))
    layers = layers_of(module, [{key: value.detach() for key, value in one.items()} for one in trace.records])
    for index, layer in enumerate(layers):
        backward = index % module.num_directions == 1
        assert layer.direction == ("backward" if backward else "forward")
        order = range(6, -1, -1) if backward else range(7)
        keep = {"lstm": "forget", "gru": "update"}.get(kind)
        zoneout = module.cell_at(index).zoneout_cell if kind == "lstm" else module.cell_at(index).zoneout
        memory = "c" if kind == "lstm" else "h"
        initial = getattr(module, f"initial_{memory}{module.suffix(index)}", torch.zeros(6)).detach()
        left, parts, before = [1.0] * 6, torch.zeros(7, 6, dtype=torch.float64), initial.tolist()
        kept = [[1.0] * 6 for _ in range(7)]
        seen: list[int] = []
        for place in order:
            for unit in range(6):
                gate = float(layer.values[keep][place, unit]) if keep else 0.0
                share = gate + zoneout * (1 - gate)
                for earlier in seen:
                    kept[earlier][unit] *= share
                left[unit] *= share
                parts[place, unit] = float(layer.memory[place, unit]) - share * before[unit]
                before[unit] = float(layer.memory[place, unit])
            seen.append(place)
        assert layer.kept is not None
        assert layer.share is not None
        assert torch.allclose(layer.kept, torch.tensor(kept, dtype=torch.float64), rtol=1e-12, atol=0)
        summands = parts * torch.tensor(kept, dtype=torch.float64)
        final = trace.state[-1][index, 0].detach()
        assert torch.allclose(summands.sum(0) + torch.tensor(left) * initial, final, atol=1e-12)
        shares = (summands.abs() / summands.abs().sum(0)).mean(1)
        assert torch.allclose(layer.share, shares, atol=1e-12)
        assert float(layer.share.sum()) == pytest.approx(1.0)
        assert torch.allclose(layer.norm, layer.memory.pow(2).sum(1).sqrt())


class Leaky(Cell):
    """A cell of the user's own that says what it keeps, or does not."""

    tells = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.inner = torch.nn.Linear(input_size, hidden_size)

    def step(self, projected: Tensor, state: Any, prepared: Any) -> Any:
        leak = torch.sigmoid(self.inner(projected))
        return (leak * state[0] + 1.0,), {"leak": leak}

    def keeps(self, gates: Any) -> Tensor | None:
        return gates["leak"] if self.tells else None


def test_a_cell_of_the_users_own_has_its_gates_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Recurrent(Leaky, 3, 4, batch_first=True)
    records = [{k: v.detach() for k, v in one.items()} for one in module.trace(torch.randn(1, 5, 3)).records]
    (layer,) = layers_of(module, records)
    assert list(layer.gates) == ["leak"]
    assert layer.kept is not None
    assert torch.allclose(layer.kept[0], layer.values["leak"][1:].double().prod(0))
    monkeypatch.setattr(Leaky, "tells", False)
    (layer,) = layers_of(module, records)
    assert layer.kept is None
    assert layer.share is None
    assert layer.still() is None


def test_what_a_cell_cannot_tell_is_not_told() -> None:
    assert retention(RNN(2, 3).cell_at(0), {"h": torch.zeros(4, 3)}, backward=False) is None
    clipped = LSTM(2, 3, cell_clip=1.0).cell_at(0)
    values = {name: torch.rand(4, 3) for name in ("input", "forget", "cell", "output", "h", "c")}
    assert retention(clipped, values, backward=False) is None


# --- tasks ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", TEXTS)
def test_a_trace_holds_what_the_module_gives(tasks: dict[str, Any], name: str) -> None:
    task, text = tasks[name], TEXTS[name]
    trace = task.trace(text)
    assert len(trace.layers) == len(task.model.encoder.recurrent.cells)
    for index, layer in enumerate(trace.layers):
        cell = task.model.encoder.recurrent.cell_at(index)
        assert layer.states == cell.state_names
        assert all(value.shape[0] == len(trace.tokens) for value in layer.values.values())
    if task.kind == "sentiment":
        ids = torch.tensor(task.tokenizer.encode([text]))
        records = task.model.encoder.recurrent.trace(task.model.encoder.embedding(ids), lengths=[ids.size(1)]).records
        for layer, record in zip(trace.layers, records, strict=True):
            assert layer.values.keys() == record.keys()
            assert all(torch.equal(layer.values[key], record[key][0]) for key in record)
    assert json.loads(json.dumps(trace.to_json()))["tokens"] == [token.text for token in trace.tokens]
    for token in trace.tokens:
        assert token.text in text or token.text == "<eos>"


DECODERS: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm", "attention": "bahdanau"},
    "fed": {"cell": "lstm", "attention": "general", "input_feeding": True, "peephole": True},
    "gru, deep": {"cell": "gru", "attention": "dot", "num_layers": 3, "attention_layer": 1, "residual": True},
    "fed, deep": {"cell": "gru", "attention": "dot", "num_layers": 2, "input_feeding": True},
    "no attention": {"cell": "lstm", "attention": "none", "feed_context": True, "num_layers": 2, "output": "deep"},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_traced_is_a_loop_over_its_cells(kind: str) -> None:
    torch.manual_seed(4)
    decoder = AttentionalRecurrent(3, 5, hidden_size=5, **DECODERS[kind]).double().eval()
    inputs, source = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    state = tuple(torch.randn_like(part) for part in decoder.initial_state(2))
    memory = decoder.remember(source, torch.tensor([6, 4]), source[:, 0])
    features, final, records = trace_decoder(decoder, inputs, decoder.start(state), memory)
    whole, weights = decoder(inputs, None, state, memory)
    assert torch.allclose(features, whole, atol=1e-12)
    # A loop over the cells' own steps; what a layer reads comes from the features and weights of the whole run.
    read = None if weights is None else weights @ source
    states = [tuple(part[number] for part in state) for number in range(decoder.num_layers)]
    for t in range(4):
        fed = [whole[:, t - 1] if t else torch.zeros_like(whole[:, 0])] if decoder.input_feeding else []
        x = torch.cat([inputs[:, t], *fed, *([source[:, 0]] if decoder.feed_context else [])], 1)
        for number in range(decoder.num_layers):
            module, index = decoder.layer(number)
            cell = module.cell_at(index)
            above = number >= decoder.attention_layer and read is not None
            entered = torch.cat([x, read[:, t]], 1) if above else x
            if decoder.feed_context and number >= decoder.attention_layer:
                entered = torch.cat([x, source[:, 0]], 1)
            prepared = module.prepare(index, entered, [2])
            states[number], gates = cell.step(cell.project(entered, prepared), states[number], prepared)
            for name, value in {**gates, **dict(zip(cell.state_names, states[number], strict=True))}.items():
                assert torch.allclose(records[number][name][:, t], value, atol=1e-12), (number, name)
            x = states[number][0] + x if decoder.residual and number else states[number][0]
    for number in range(decoder.num_layers):
        assert records[number].keys() >= set(decoder.state_names)
        for part, value in zip(final, states[number], strict=True):
            assert torch.allclose(part[number], value, atol=1e-12)
    with pytest.raises(RuntimeError, match="evaluation"):
        trace_decoder(decoder.train(), inputs, decoder.start(state), memory)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TEXTS if "translation" in name])
def test_the_gates_of_a_translation_stand_under_its_words(tasks: dict[str, Any], name: str) -> None:
    task, text = tasks[name], TEXTS[name]
    (found,), trace = task.predict([text]), task.trace(text)
    decoder, vocabulary = task.model.decoder, task.target.vocabulary
    ids = [vocabulary.index(token) for token in found.tokens] + [task.target.eos_id] * found.finished
    assert len(trace.output_tokens) == len(ids) > 0
    assert [token.text for token in trace.output_tokens] == [task.target.words[number] for number in ids]
    assert [layer.title for layer in trace.output_layers] == [
        f"decoder, layer {number + 1}, forward" for number in range(decoder.num_layers)
    ]
    assert trace.layers[0].title == "encoder, layer 1, forward"
    source = torch.tensor(task.source.encode([text]))
    state, memory = task.model.encode(source, torch.tensor([source.size(1)]))
    layer, before = trace.output_layers[0], state[0][0][-1].flatten().double()
    for place, number in enumerate([task.target.bos_id, *ids[:-1]]):
        _, state, _ = task.model.step(torch.tensor([[number]]), state, memory)
        assert torch.allclose(layer.memory[place], state[0][0][-1].flatten(), atol=1e-5)
    assert layer.kept is not None
    keep = layer.values["forget" if "forget" in layer.values else "update"].double()
    assert torch.allclose(layer.kept, torch.stack([keep[place + 1 :].prod(0) for place in range(len(ids))]))
    memory = layer.memory.double()
    written = (memory - keep * torch.cat([before[None], memory[:-1]])) * layer.kept
    assert torch.allclose(written.sum(0) + before * keep.prod(0), memory[-1], atol=1e-6)
    assert layer.share is not None
    assert torch.allclose(layer.share, (written.abs() / written.abs().sum(0)).mean(1), atol=1e-6)
    said = trace.to_json()
    assert said["output_tokens"] == [token.text for token in trace.output_tokens]
    assert len(said["output_layers"]) == len(trace.output_layers)
    assert trace.html().count("data-gates") == 2
    assert any(line.startswith("decoder, layer 1") for line in trace.lines())


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TEXTS if "slots" in name])
def test_every_tag_is_explained_and_the_intent(
    tasks: dict[str, Any], explained: dict[str, Explanation], name: str
) -> None:
    task, text = tasks[name], TEXTS[name]
    (found,) = task.predict([text])
    targets = [one.target for one in explained[name].attributions]
    wanted = [f"{token}: {tag}" for token, tag in zip(found.tokens, found.tags, strict=True)]
    assert targets == [*wanted, *([] if found.intent is None else [f"intent: {found.intent}"])]
    inputs, _ = task._inputs(text)
    logits = task.model(*inputs)[0][0]
    for place, tag in enumerate(found.tags):
        one = explained[name].attributions[place]
        assert one.place == place
        assert one.score == pytest.approx(float(logits[place, task.tags.index(tag)]), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TEXTS if "translation" in name])
def test_every_token_of_a_translation_is_explained(
    tasks: dict[str, Any], explained: dict[str, Explanation], name: str
) -> None:
    task, found = tasks[name], explained[name]
    (prediction,) = task.predict([TEXTS[name]])
    assert found.answer == prediction.text
    assert len(found.attributions) == len(prediction.log_probs)
    ids, vocabulary = task.source.encode([TEXTS[name]]), task.target.vocabulary
    outputs = [vocabulary.index(token) for token in prediction.tokens] + [task.target.eos_id] * prediction.finished
    source, lengths = torch.tensor(ids), torch.tensor([len(ids[0])])
    inputs, count = torch.tensor([[task.target.bos_id, *outputs[:-1]]]), torch.tensor([len(outputs)])
    logits = task.model.decoder.output(task.model(source, lengths, inputs, count))[0]
    for place, (one, number) in enumerate(zip(found.attributions, outputs, strict=True)):
        assert one.score == pytest.approx(float(logits[place, number]), abs=1e-5)
    weights = task.model.attend(source, lengths, inputs, count)
    assert found.attention is not None
    assert torch.allclose(torch.tensor(found.attention.weights), weights[0], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TEXTS if "language_model" in name])
def test_surprises_add_up_to_the_log_probability_of_the_line(
    tasks: dict[str, Any], explained: dict[str, Explanation], name: str
) -> None:
    task, found = tasks[name], explained[name]
    (score,) = task.predict([TEXTS[name]])
    assert sum(one.bits for one in found.surprisals) == pytest.approx(-score.log_prob / math.log(2), rel=1e-5)
    assert [one.token for one in found.surprisals] == [*(token.text for token in found.tokens[1:]), "<eos>"]
    for one in found.surprisals:
        shares = [share for _, share in one.alternatives]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-6
        if one.rank <= len(shares):
            assert shares[one.rank - 1] == pytest.approx(2**-one.bits, rel=1e-5)
        else:
            assert shares[-1] >= 2**-one.bits


@pytest.mark.parametrize("name", TEXTS)
def test_an_explanation_shows_itself(explained: dict[str, Explanation], name: str) -> None:
    found = explained[name]
    assert all(token.text in "\n".join(found.lines()) for token in found.tokens)
    html = found.html()
    assert all(f">{token.text}<" in html for token in found.tokens[1:])
    assert found._repr_html_().count("<style>") == 1
    assert json.loads(json.dumps(found.to_json()))["answer"] == found.answer
    if not found.surprisals:
        assert "gap" in html
    if len(found.attributions) > 1:
        folded = html[html.index("The logits") :]
        for one in found.attributions:
            assert drawing.number(one.score) in folded
            assert f">{one.steps:,}<" in folded


@pytest.mark.parametrize("name", TEXTS)
def test_a_blank_text_has_nothing_to_explain(tasks: dict[str, Any], name: str) -> None:
    (found,) = tasks[name].explain([" \n"])
    assert (found.answer, found.tokens, found.attributions) == (None, [], [])
    assert found.lines() == ["nothing to explain: the text has no tokens"]
    assert "Nothing to explain" in found.html()
    trace = tasks[name].trace("")
    assert trace.layers == []
    assert trace.lines() == ["nothing to show: the text has no tokens"]
    assert "Nothing to show" in trace.html()


def test_mistakes_are_told(tasks: dict[str, Any]) -> None:
    task = tasks["2026-11/sentiment-finished"]
    with pytest.raises(UserError, match=f"cannot be explained.*{LONGEST:,}"):
        task.explain(["dull " * (LONGEST + 1)])
    with pytest.raises(UserError, match="method: expected one of auto, gradients, occlusion, got 'lime'"):
        task.explain(["dull"], method="lime")
    with pytest.raises(TypeError, match="one text"):
        task.explain("dull")


def test_without_captum_occlusion_is_left(tasks: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    task, text = tasks["2026-11/sentiment-finished"], TEXTS["2026-11/sentiment-finished"]
    whole = task.explain([text])[0].attributions[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)
    (found,) = task.explain([text])
    assert found.attributions[0].gradients is None
    assert found.attributions[0].occlusion == whole.occlusion
    assert any("captum" in line for line in found.lines())
    with pytest.raises(UserError, match="captum"):
        task.explain([text], method="gradients")


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_a_page(cli: Cli, tmp_path: Path) -> None:
    folder, text = str(FIXTURES / "2026-11/sentiment-finished"), "the film was <b>dull</b>"
    done = cli(tmp_path, "explain", folder, text, "--html", "why.html")
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode()
    assert "integrated gradients add up to" in printed
    assert "page: why.html" in printed
    page = (tmp_path / "why.html").read_text("utf-8")
    assert "<b>dull" not in page
    assert page.count("<script>") == 1  # ours, once
    assert "data-gates" in page
    done = cli(tmp_path, "explain", folder, text, "", "--format", "json", "--method", "occlusion")
    first, blank = map(json.loads, done.stdout.decode().splitlines())
    assert first["attributions"][0]["gradients"] is None
    assert blank["answer"] is None


def test_the_command_shows_as_many_units_as_a_trace_does() -> None:
    defaults = [inspect.signature(one).parameters["units"].default for one in (explain, TextTrace.html, gate_viewer)]
    assert len(set(defaults)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "why.txt"], "--html why.txt: expected the name of an HTML file, such as why.html"),
        (["--html", "none/why.html"], "--html none/why.html: no folder none"),
    ],
)
def test_a_page_that_cannot_be_written(cli: Cli, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = cli(tmp_path, "explain", str(FIXTURES / "2026-11/sentiment-finished"), "dull", *arguments)
    assert (done.returncode, done.stderr.decode().strip()) == (2, f"seqkit: {message}")


def test_a_window_has_no_gates_and_sees_its_neighbours_alone() -> None:
    torch.manual_seed(2)
    model = Tagger(WindowEncoder(Embedding(20, 6), window=3, hidden_size=5), 4).double().eval()
    row, lengths = torch.tensor([[4, 9, 4, 17, 6]]), torch.tensor([5])
    inputs = row, lengths, None
    found = Tagging("a b c d e", None, [], list("abcde"), ["O", "B-x", "O", "O", "I-x"])
    tokens = [Token(letter) for letter in "abcde"]
    explanation = explain_tags(model, ["O", "B-x", "I-x", "B-y"], [], found, tokens, inputs, "", True)
    assert explanation.kept == []
    for place, one in enumerate(explanation.attributions):
        assert one.gradients is not None
        for other in range(5):
            far = abs(place - other) > 1
            assert (abs(one.gradients[other]) < 1e-12) == far
            assert (abs(one.occlusion[other]) < 1e-12) == far


def test_a_longer_text_costs_batches_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = classifier(LSTM(6, 5, batch_first=True), "mean"), [3, 4, 5, 6, 7, 8] * 5
    sizes: list[int] = []
    whole = attribute(problem(model, ids), [0, 1, 2], list("abc"), gradients=True)
    handle = model.encoder.recurrent.register_forward_pre_hook(lambda _, given: sizes.append(given[0].size(0)))
    monkeypatch.setattr("seqkit.tasks.attribution._TOGETHER", 200)
    parts = attribute(problem(model, ids), [0, 1, 2], list("abc"), gradients=True)
    handle.remove()
    assert max(sizes) <= 200 // 30
    for one, other in zip(whole, parts, strict=True):
        assert one.occlusion == pytest.approx(other.occlusion, abs=1e-12)
        assert one.gradients == pytest.approx(other.gradients, abs=1e-12)
