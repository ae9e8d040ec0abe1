"""seqkit.models and seqkit.decoding on the pretended accelerator: the CPU's numbers, and how often they wait.

Run by test_devices.py. A test without an assertion of its own ends in `same` (conftest.py), which makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkit.decoding import Search, ensemble
from seqkit.models import (
    CharacterEncoder,
    Decoder,
    Embedding,
    Encoder,
    LanguageModel,
    Seq2Seq,
    SequenceClassifier,
    Spelling,
    Tagger,
    WindowEncoder,
    worst_shift,
)
from seqkit.nn import ATTENTIONS, CRF, Recurrent, iob2_allowed

Same = Callable[..., None]

IDS = torch.tensor([[4, 5, 6, 7, 8], [4, 8, 0, 0, 0], [0, 0, 0, 0, 0], [5, 6, 4, 0, 0]])
LENGTHS = torch.tensor([5, 2, 0, 3])
INPUTS = torch.tensor([[2, 4, 5, 6], [2, 0, 0, 0], [2, 7, 0, 0], [2, 4, 4, 0]])
TARGETS = torch.tensor([[4, 5, 6, 3], [3, 0, 0, 0], [7, 3, 0, 0], [4, 4, 3, 0]])
STEPS = torch.tensor([4, 1, 2, 3])
WHERE = ("cpu", "device")  # where lengths lie; those on the CPU are the rule, and wait for nothing


def at(lengths: Tensor, where: str, like: Tensor) -> Tensor:
    return lengths.to(like.device) if where == "device" else lengths


def encoder(cell: str = "lstm", layers: int = 1, extra: int = 0, **options: Any) -> Encoder:
    return Encoder(
        Embedding(9, 6, word_dropout=0.1, embedding_dropout=0.1, locked_dropout=0.1, dropout=0.1, scale=2.0),
        Recurrent(cell, 6 + extra, 4, layers, batch_first=True, bidirectional=True, **options),
    )


@pytest.mark.parametrize("where", WHERE)
def test_classifier(same: Same, where: str) -> None:
    torch.manual_seed(0)
    pooling = ("last", "mean", "max", "attention")
    model = SequenceClassifier(encoder(), 3, pooling=pooling, dropout=0.2, hidden_size=5)  # type: ignore[arg-type]

    def compute(model: Any, ids: Tensor) -> Any:
        lengths = at(LENGTHS, where, ids)
        plain = model(ids, lengths)
        shift = torch.zeros(*ids.shape, 6, device=ids.device, requires_grad=True)
        moved = worst_shift(model(ids, lengths, shift).logsumexp(1).sum(), shift, shift.new_ones(4), 0.1)
        return plain, moved

    same(compute, model, IDS, tolerance=1e-4)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("output", ["crf", "softmax"])
@pytest.mark.parametrize("kind", ["recurrent", "window"])
def test_tagger(same: Same, kind: str, output: Any, where: str) -> None:
    torch.manual_seed(0)
    letters = CharacterEncoder(Encoder(Embedding(7, 3), Recurrent("gru", 3, 2, batch_first=True)), dropout=0.1)
    words: Any = WindowEncoder(Embedding(9, 6), 3, 4, extra_size=2) if kind == "window" else encoder(extra=2)
    allowed, start = iob2_allowed(["O", "B-x", "I-x"])
    model = Tagger(words, 3, 2, characters=letters, allowed=allowed, allowed_start=start, output=output, dropout=0.1)

    def compute(model: Any, ids: Tensor, tags: Tensor, spelled: Tensor, numbers: Tensor) -> Any:
        lengths = at(LENGTHS, where, ids)
        spelling = Spelling(spelled, at(torch.tensor([2, 1, 3]), where, ids), numbers)
        scores, intents = model(ids, lengths, spelling)
        return scores, intents, model.tag_loss(scores, tags, lengths), model.decode(scores, lengths)

    spelled = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    same(compute, model, IDS, IDS % 3, spelled, IDS % 3, tolerance=1e-4)


def seq2seq(cell: str = "lstm", bridge: Any = "linear", layers: int = 2, **options: Any) -> Seq2Seq:
    torch.manual_seed(0)
    size = 8 if bridge == "copy" or options.get("attention") == "dot" else 5
    decoder = Decoder(Embedding(9, 5, dropout=0.1), 8, cell, size, layers, **options)
    return Seq2Seq(encoder(cell, layers), decoder, bridge)


HEADS = {"multi_head": {"attention_size": 4, "heads": 2}}
DECODERS: dict[str, dict[str, Any]] = {
    **{kind: {"attention": kind, **HEADS.get(kind, {})} for kind in ATTENTIONS},
    **{f"fed {kind}": {"attention": kind, "input_feeding": True, **HEADS.get(kind, {})} for kind in ATTENTIONS},
    "fed, step by step": {"input_feeding": True, "backend": "reference"},
    "fed jordan": {"input_feeding": True, "cell": "jordan"},
    "fed gru": {"input_feeding": True, "cell": "gru", "recurrent_dropout": 0.2, "output": "deep"},
    "fed below": {"input_feeding": True, "attention_layer": 1, "locked_dropout": 0.2, "residual": True},
    "context": {"attention": "none", "feed_context": True, "memory_dropout": 0.2, "output_dropout": 0.2},
    "none": {"attention": "none", "bridge": "copy", "dropout": 0.2},
    "mean": {"bridge": "mean", "cell": "gru", "output": "deep"},
    "zero": {"bridge": "zero", "tie": "target", "output_bias": False},
    "GNMT": {"attention_layer": 1, "residual": True, "dropout": 0.2},
}  # fmt: skip


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind", DECODERS)
def test_seq2seq(same: Same, fake: ModuleType, kind: str, where: str) -> None:
    model = seq2seq(**DECODERS[kind])

    def loss(model: Any, source: Tensor, inputs: Tensor, targets: Tensor) -> Any:
        lengths, steps = at(LENGTHS, where, source), at(STEPS, where, source)
        return model.loss(source, lengths, inputs, targets, steps, label_smoothing=0.1)

    same(loss, model, IDS, INPUTS, TARGETS, tolerance=1e-4)
    if where == "cpu":
        there = [value.to(fake.install()) for value in (IDS, INPUTS, TARGETS)]
        model.to(fake.install())
        with fake.watched() as traffic:
            loss(model, *there)[0].backward()
        assert traffic.waits == []


@pytest.mark.parametrize("feeding", [False, True])
@pytest.mark.parametrize("sample", [False, True])
def test_scheduled_sampling_and_forced_alignment(same: Same, fake: ModuleType, sample: bool, feeding: bool) -> None:
    model = seq2seq(input_feeding=feeding).eval()

    def mixed(model: Any, source: Tensor, inputs: Tensor) -> Any:
        found = model.mix_inputs(source, LENGTHS, inputs, STEPS, 0.7, sample=sample)
        return found, model.attend(source, LENGTHS, inputs, STEPS)

    if not sample:  # a draw of another number of tokens takes other random numbers than those of the CPU
        same(mixed, model, IDS, INPUTS)
    model.to(fake.install())
    there = [value.to(fake.install()) for value in (IDS, INPUTS)]
    with fake.watched() as traffic:
        mixed(model, *there)
    assert traffic.waits == []


@pytest.mark.parametrize(
    "options",
    [
        {"tie": True, "output_dropout": 0.2},
        {"tie": False},
        {"tie": False, "adaptive_cutoffs": [4, 6], "adaptive_div": 1.5},
    ],
    ids=["tied", "plain", "adaptive"],
)
@pytest.mark.parametrize("where", WHERE)
def test_language_model(same: Same, fake: ModuleType, options: dict[str, Any], where: str) -> None:
    torch.manual_seed(0)
    # Not `auto`: oneDNN draws the masks of all layers before it runs the first.
    recurrent = Recurrent("lstm", 6, 4, 2, batch_first=True, weight_drop=0.2, dropout=0.2, backend="fused")
    model = LanguageModel(Encoder(Embedding(9, 6, init_std=0.1), recurrent), **options)

    def compute(model: Any, inputs: Tensor) -> Any:
        adaptive = where == "cpu" and model.adaptive is not None
        targets = TARGETS if adaptive else TARGETS.to(inputs.device)
        first = model(inputs)
        second = model(inputs, first.state, at(STEPS, where, inputs))
        probs = model.token_log_probs(second.features, targets)
        return model.loss(second.features, targets), second.state, probs, model.scores(first.features)

    same(compute, model, INPUTS, tolerance=1e-4)
    if where == "cpu":
        model.to(fake.install())
        there = INPUTS.to(fake.install())
        with fake.watched() as traffic:
            compute(model, there)
        # Only the targets of this test are sent as a user would: with `.to`.
        assert [place for place in traffic.waits if not place.startswith("outside")] == []


# --- decoding ---------------------------------------------------------------------------------------------------------

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam": {"beam_size": 4},
    "n-best": {"beam_size": 4, "n_best": 3, "length_penalty": 0.6, "allow_unknown": False},
    "coverage": {"beam_size": 3, "coverage_penalty": 0.2, "length_penalty": 1.0, "length_penalty_kind": "average"},
    "n-grams": {"beam_size": 3, "no_repeat_ngram": 2},
    "words": {"no_repeat_ngram": 1},
    "limits": {"beam_size": 2, "min_length": 2, "max_ratio": 1.5},
    "sampling": {"sample": True, "n_best": 2},
    "nucleus": {"sample": True, "top_p": 0.8, "top_k": 5, "temperature": 1.3},
}


def found(search: Search, device: Any, count: int = 1, **options: Any) -> Any:
    """What a search finds there: tokens, whether they are finished, and all numbers."""
    torch.manual_seed(0)
    models = [seq2seq(**kind).eval().to(device) for kind in ({}, {"cell": "gru", "input_feeding": True})[:count]]
    starts = [model.encode(IDS.to(device), LENGTHS) for model in models]
    state, memory = [state for state, _ in starts], [memory for _, memory in starts]
    result = search(
        ensemble([model.step for model in models]) if count > 1 else models[0].step,
        state if count > 1 else state[0],
        memory if count > 1 else memory[0],
        source_lengths=LENGTHS,
        seeds=[1, 2, 3, 4] if search.sample else None,
        keep_attention=True,
        **options,
    )
    flat = [one for some in result for one in some]
    return (
        [(one.tokens, one.finished) for one in flat],
        [torch.tensor([one.score, *one.log_probs]) for one in flat],
        [one.attention for one in flat],
    )


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("prefix", [None, [[4, 7], [], [5], [7]]])
@pytest.mark.parametrize("kind", SEARCHES)
def test_search(fake: ModuleType, kind: str, prefix: Any, count: int) -> None:
    options = {"max_length": 8, **SEARCHES[kind]}
    there, here = (found(Search(**options), device, count, prefix=prefix) for device in (fake.install(), "cpu"))
    assert there[0] == here[0]
    for one, other in zip(there[1] + there[2], here[1] + here[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_step_of_decoding_waits_once(fake: ModuleType, kind: str) -> None:
    """Counted by the steps that longer outputs take more: what a search does once is no matter here."""
    device = fake.install()
    counts = []
    for length in (8, 24):
        limits = {"min_length": length, "max_length": length, "no_repeat_ngram": 0}
        options = {name: value for name, value in SEARCHES[kind].items() if name != "max_ratio"}
        if "no_repeat_ngram" in options:  # with few words, outputs that repeat nothing are short
            limits = {"min_length": length, "max_length": length, "no_repeat_ngram": 12}
        with fake.watched() as traffic:
            tokens, *_ = found(Search(**{**options, **limits}), device)
        assert all(len(one) == length for one, _ in tokens)
        counts.append((len(traffic.reads), len(traffic.blocking)))
    assert counts[1][0] - counts[0][0] <= 16
    assert counts[1][1] == counts[0][1]


def test_a_language_model_continues_texts(fake: ModuleType) -> None:
    torch.manual_seed(0)
    model = LanguageModel(Encoder(Embedding(9, 6), Recurrent("lstm", 6, 6, 2, batch_first=True))).eval()
    results = []
    for device in (torch.device("cpu"), fake.install()):
        model.to(device)
        lengths = torch.tensor([6, 7], device=device)
        search = Search(sample=True, max_ratio=1.0)
        results.append(search(model.step, None, None, source_lengths=lengths, seeds=[1, 2], prefix=[[4, 5], [6]]))
    assert [one[0].tokens for one in results[0]] == [one[0].tokens for one in results[1]]


@pytest.fixture
def without_float64(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The accelerator as mps is: it refuses float64."""
    monkeypatch.setattr("seqkit.nn.sending.NO_FLOAT64", {fake.NAME})
    monkeypatch.setattr("seqkit.decoding.step.NO_FLOAT64", {fake.NAME})
    monkeypatch.setattr(fake, "REFUSED", {torch.float64})
    device: torch.device = fake.install()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64, device=device)
    return device


def test_a_crf_where_float64_is_lacking(without_float64: torch.device) -> None:
    torch.manual_seed(0)
    crf = CRF(3)
    torch.nn.init.normal_(crf.transitions)
    emissions, tags, lengths = torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5)), torch.tensor([5, 0, 2, 4])
    found = []
    for device in (without_float64, torch.device("cpu")):
        own, crf = emissions.to(device).requires_grad_(), crf.to(device)
        crf.zero_grad()
        loss = crf(own, tags.to(device), lengths)
        loss.sum().backward()
        parts = [
            loss,
            own.grad,
            crf.transitions.grad,
            crf.start.grad,
            *crf.decode(own, lengths),
            crf.marginals(own, lengths),
        ]
        assert all(part.device.type == device.type for part in parts)
        found.append([part.detach().cpu() for part in parts])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=1e-5, atol=1e-5)
    assert found[0][0].dtype == torch.float32


@pytest.mark.parametrize("kind", SEARCHES)
def test_search_where_float64_is_lacking(without_float64: torch.device, kind: str) -> None:
    options = {"max_length": 8, **SEARCHES[kind]}
    there, here = (found(Search(**options), device) for device in (without_float64, torch.device("cpu")))
    assert there[0] == here[0]
