"""The encoder-decoder against its equations written as loops, and its steps of decoding against teacher forcing."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.models import Decoder, Embedding, Encoder, Seq2Seq
from seqkit.nn import ATTENTIONS, CELLS, Recurrent

OPTIONS: list[dict[str, Any]] = [
    {"attention": "none"},
    {"attention": "none", "output_bias": False, "tie": "target"},
    {"attention": "none", "feed_context": True, "residual": True},
    {"attention": "none", "feed_context": True, "output": "deep"},
    *(
        {"attention": "bahdanau", "input_feeding": feeding, "attention_layer": layer, "output": output, "tie": tie}
        for feeding, layer, output, tie in product((False, True), (0, 1), ("linear", "deep"), ("none", "target"))
    ),
    *({"attention": kind, "residual": True, "attention_layer": 1} for kind in list(ATTENTIONS)[1:-1]),
    *({"attention": kind, "input_feeding": True, "residual": True} for kind in list(ATTENTIONS)[1:-1]),
    {"attention": "multi_head", "heads": 2, "attention_size": 4, "attention_layer": 1},
    {"attention": "multi_head", "heads": 2, "attention_size": 4, "input_feeding": True},
]


def described(options: dict[str, Any]) -> str:
    return "-".join(f"{name}={value}" for name, value in options.items())


@pytest.mark.parametrize("options", OPTIONS, ids=described)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_features_and_weights_are_those_of_the_equations(plain: Any, cell: str, options: dict[str, Any]) -> None:
    model = plain.build(cell, **options)
    source, source_lengths, inputs, _, lengths = plain.batch((7, 1, 4))
    logits = model.decoder.output(model(source, source_lengths, inputs, lengths))
    weights = model.attend(source, source_lengths, inputs, lengths)
    for row, (length, steps) in enumerate(zip(source_lengths.tolist(), lengths.tolist(), strict=True)):
        expected, at = plain.plain_logits(model, source[row, :length], inputs[row, :steps])
        torch.testing.assert_close(logits[row, :steps], expected, rtol=1e-10, atol=1e-12)
        assert (at is None) == (weights is None)
        if at is not None:
            torch.testing.assert_close(weights[row, :steps, :length], at, rtol=1e-10, atol=1e-12)
            assert weights[row, steps:].eq(0).all()
            assert weights[row, :, length:].eq(0).all()


def steps_by_steps(model: Seq2Seq, source: Any, source_lengths: Any, inputs: Any, beams: int = 1) -> tuple[Any, Any]:
    """Logits (B, K, T, V) and weights (B, K, T, S) of `step`, inputs (B, K, T)."""
    state, memory = model.encode(source, source_lengths)
    if beams > 1:
        state = repeat(state, beams)
    logits, weights = [], []
    for tokens in inputs.unbind(2):
        scores, state, at = model.step(tokens, state, memory)
        logits.append(scores)
        weights.append(at)
    return torch.stack(logits, 2), None if weights[0] is None else torch.stack(weights, 2)


def repeat(tree: Any, beams: int) -> Any:
    if isinstance(tree, tuple):
        return tuple(repeat(part, beams) for part in tree)
    return None if tree is None else tree.expand(-1, beams, *tree.shape[2:])


@pytest.mark.parametrize("options", OPTIONS, ids=described)
@pytest.mark.parametrize("cell", [*sorted(CELLS), "user"])
def test_steps_are_teacher_forcing(plain: Any, cell: str, options: dict[str, Any]) -> None:
    model = plain.build(plain.MinLSTM if cell == "user" else cell, **options)
    source, source_lengths, inputs, _, lengths = plain.batch()
    with torch.no_grad():
        expected = model.decoder.output(model(source, source_lengths, inputs, lengths))
        attention = model.attend(source, source_lengths, inputs, lengths)
        logits, weights = steps_by_steps(model, source, source_lengths, inputs.unsqueeze(1))
    for row, steps in enumerate(lengths.tolist()):
        torch.testing.assert_close(logits[row, 0, :steps], expected[row, :steps], rtol=1e-12, atol=1e-12)
        if weights is not None:
            torch.testing.assert_close(weights[row, 0, :steps], attention[row, :steps], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_many_hypotheses_step_like_one_each(plain: Any, cell: str, layers: int) -> None:
    model = plain.build(cell, layers, attention="general", input_feeding=True)
    source, source_lengths, _, _, _ = plain.batch((7, 0, 4, 2), (3, 5, 1, 4))
    tokens = torch.randint(2, plain.TARGET, (4, 12, 5))  # 48 rows: enough for the fused backends, 4 are not
    logits, weights = steps_by_steps(model, source, source_lengths, tokens, 12)
    for beam in range(12):
        one, at = steps_by_steps(model, source, source_lengths, tokens[:, beam : beam + 1])
        torch.testing.assert_close(logits[:, beam], one[:, 0], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(weights[:, beam], at[:, 0], rtol=1e-11, atol=1e-12)


def test_hypotheses_share_their_memory_and_may_leave_the_batch(plain: Any) -> None:
    model = plain.build(attention="bahdanau", input_feeding=True)
    source, source_lengths, inputs, _, _ = plain.batch()
    state, memory = model.encode(source, source_lengths)
    whole, state, _ = model.step(inputs[:, :1], state, memory)
    assert all(part.size(0) == 3 for part in memory)
    keep = torch.tensor([2, 0])
    layers, fed = state
    state = tuple(tuple(part[keep] for part in layer) for layer in layers), fed[keep]
    rest, _, _ = model.step(inputs[keep, 1:2], state, tuple(part[keep] for part in memory))
    logits, _ = steps_by_steps(model, source, source_lengths, inputs[:, None, :2])
    torch.testing.assert_close(rest[:, 0], logits[keep, 0, 1], rtol=1e-12, atol=1e-12)
    assert whole.shape == (3, 1, plain.TARGET)
    with pytest.raises(RuntimeError, match="eval"):
        model.train().step(inputs[:, :1], state, memory)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3], OPTIONS[4], OPTIONS[10], OPTIONS[-1]], ids=described)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_counts_every_valid_target_once(plain: Any, options: dict[str, Any], smoothing: float) -> None:
    model = plain.build("lstm", **options)
    source, source_lengths, inputs, targets, lengths = plain.batch((7, 2, 4))
    loss, nll = model.loss(source, source_lengths, inputs, targets, lengths, label_smoothing=smoothing)
    expected = plain_nll = 0.0
    for row, (length, steps) in enumerate(zip(source_lengths.tolist(), lengths.tolist(), strict=True)):
        logits, _ = plain.plain_logits(model, source[row, :length], inputs[row, :steps])
        wanted = targets[row, :steps]
        expected += F.cross_entropy(logits, wanted, reduction="sum", label_smoothing=smoothing)
        plain_nll += F.cross_entropy(logits, wanted, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(nll, plain_nll, rtol=1e-12, atol=0)
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@settings(deadline=None, max_examples=12)
@given(
    cell=st.sampled_from(sorted(CELLS)),
    options=st.sampled_from(OPTIONS),
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=2, max_size=5),
    pad=st.integers(0, 3),
)
def test_a_batch_is_its_sentences(plain: Any, cell: str, options: Any, pairs: Any, pad: int) -> None:
    model = plain.build(cell, **options)
    source, source_lengths, inputs, targets, lengths = plain.batch(*map(tuple, zip(*pairs, strict=True)), pad)
    total, _ = model.loss(source, source_lengths, inputs, targets, lengths)
    alone = 0.0
    for row, (length, steps) in enumerate(pairs):
        width = max(1, length)
        one = slice(row, row + 1)
        alone += model.loss(
            source[one, :width], source_lengths[one], inputs[one, :steps], targets[one, :steps], lengths[one]
        )[0]
    torch.testing.assert_close(total, alone, rtol=1e-11, atol=1e-11)
    parameters = list(model.parameters())
    total.backward()
    grads = [parameter.grad for parameter in parameters]
    # A sentence alone may leave a parameter out.
    for one, other in zip(grads, torch.autograd.grad(alone, parameters, allow_unused=True), strict=True):
        assert (one is None) == (other is None)
        if one is None or other is None:
            continue
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("feeding", [False, True])
@pytest.mark.parametrize("k", [1, 2])
def test_dropout_between_layers_acts_on_what_enters_a_layer(plain: Any, k: int, feeding: bool) -> None:
    # With everything dropped, layers above the first see the context alone.
    model = plain.build("gru", 2, attention_layer=k, input_feeding=feeding, dropout=1.0)
    source, source_lengths, inputs, _, lengths = plain.batch()
    dropped = model.train()(source, source_lengths, inputs, lengths)
    recurrent, index = model.decoder.layer(1)
    with torch.no_grad():
        getattr(recurrent, f"weight_ih_l{index}")[:, :8] = 0
    expected = model.eval()(source, source_lengths, inputs, lengths)
    torch.testing.assert_close(dropped[1], expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("feeding", [False, True])
def test_locked_dropout_between_layers_keeps_its_mask_over_time(plain: Any, feeding: bool) -> None:
    # A second layer that passes its input on shows the mask that the input met.
    model = plain.build("rnn", 2, attention_layer=1, input_feeding=feeding, locked_dropout=0.5, backend="reference")
    source, source_lengths, inputs, _, lengths = plain.batch((7, 5, 4), (5, 5, 5))
    decoder, seen = model.decoder.train(), []
    decoder.upper[0].cell_at(0).project = lambda x, prepared: seen.append(x[:, :8]) or x[:, :8]  # type: ignore[func-returns-value]
    torch.manual_seed(3)
    model(source, source_lengths, inputs, lengths)
    zeros = (torch.cat(seen).view(5, 3, 8) == 0).flatten(1)
    assert 0 < zeros[0].float().mean() < 1
    assert all(torch.equal(one, zeros[0]) for one in zeros)


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "none", "feed_context": True, "tie": "target"},
        {"attention_layer": 1, "tie": "target"},
        {"attention_layer": 1, "input_feeding": True, "tie": "target"},
        {"attention_layer": 2},
    ],
    ids=described,
)
def test_both_kinds_of_dropout_between_layers_act_together(plain: Any, options: dict[str, Any]) -> None:
    """Of what enters the second layer, the locked mask takes whole columns, the other one single numbers."""
    both = {"dropout": 0.5, "locked_dropout": 0.5, "backend": "reference"}
    model = plain.build("gru", 2, hidden_size=32, **both, **options)
    source, source_lengths, inputs, _, lengths = plain.batch((7, 5, 4), (20, 20, 20))
    recurrent, index = model.decoder.layer(1)
    cell, seen = recurrent.cell_at(index), []
    project = cell.project
    cell.project = lambda x, prepared: seen.append(x[:, :32].detach().clone()) or project(x, prepared)  # type: ignore[func-returns-value]
    shares = []
    for mode in (True, False):
        seen.clear()
        torch.manual_seed(1)
        model.train(mode)(source, source_lengths, inputs, lengths)
        shares.append(torch.cat(seen).reshape(20, 3, 32))
    share = shares[0] / shares[1]
    if "input_feeding" in options:  # the features that are fed back differ, too, so that only zeros can be told
        share = (share != 0) * 4.0
    assert torch.allclose(share[share != 0], torch.tensor(4.0, dtype=share.dtype), rtol=1e-6)
    gone = (share == 0).all(0)
    assert 0.25 < gone.double().mean() < 0.75
    left = (share != 0).double().mean(0)[~gone]
    assert 0.4 < left.mean() < 0.6
    assert left.max() < 1


@pytest.mark.parametrize("output", ["linear", "deep"])
def test_dropout_before_a_tied_output_layer(plain: Any, output: str) -> None:
    """With a projection to the table's size and a fed context: everything dropped leaves the bias alone."""
    options = {"attention": "none", "feed_context": True, "tie": "target", "output": output}
    model = plain.build("gru", 2, output_dropout=1.0, **options).train()
    source, source_lengths, inputs, _, lengths = plain.batch()
    features = model(source, source_lengths, inputs, lengths)[0]
    assert not features.any()
    assert model.eval()(source, source_lengths, inputs, lengths)[0].any()


@pytest.mark.parametrize("options", [OPTIONS[4], OPTIONS[12]], ids=described)
def test_only_torchs_generator_decides_what_is_dropped(plain: Any, options: dict[str, Any]) -> None:
    model = plain.build(
        "lstm", **options, dropout=0.3, output_dropout=0.3, recurrent_dropout=0.2, zoneout=0.1, weight_drop=0.1
    ).train()
    source, source_lengths, inputs, targets, lengths = plain.batch()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model.loss(source, source_lengths, inputs, targets, lengths)[0].item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("tie", ["none", "target", "all"])
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3], OPTIONS[4], OPTIONS[6], OPTIONS[12]], ids=described)
def test_the_first_loss_is_that_of_knowing_nothing(options: dict[str, Any], tie: Any) -> None:
    torch.manual_seed(0)
    words, size = 2000, 64
    encoder = Encoder(Embedding(words, size), Recurrent("lstm", size, 64, bidirectional=True, batch_first=True))
    decoder = Decoder(Embedding(words, size), 128, "lstm", 96, 2, **{**options, "tie": tie})
    model = Seq2Seq(encoder, decoder)
    source, targets = torch.randint(4, words, (20, 10)), torch.randint(4, words, (20, 10))
    lengths = torch.full((20,), 10)
    loss, _ = model.loss(source, lengths, targets.roll(1, 1), targets, lengths)
    assert loss.item() / 200 == pytest.approx(math.log(words), abs=0.1)
    for embedding in (encoder.embedding, decoder.embedding):
        assert embedding(source).std().item() == pytest.approx(1.0, rel=0.1)


def test_tied_tables_are_one_parameter(plain: Any) -> None:
    def make(tie: Any, source: int = 11) -> Seq2Seq:
        encoder = Encoder(Embedding(source, 6), Recurrent("gru", 6, 4, batch_first=True))
        return Seq2Seq(encoder, Decoder(Embedding(11, 6), 4, "gru", 5, tie=tie))

    shared = Embedding(11, 6)
    one = Seq2Seq(Encoder(shared, Recurrent("gru", 6, 4, batch_first=True)), Decoder(shared, 4, "gru", 5, tie="all"))
    assert one.encoder.embedding.scale == pytest.approx(6**0.5)
    none, target, every = (make(tie) for tie in ("none", "target", "all"))
    assert target.decoder.output.weight is target.decoder.embedding.table.weight
    assert every.encoder.embedding.table.weight is every.decoder.output.weight
    sizes = [sum(p.numel() for p in model.parameters()) for model in (target, every)]
    assert sizes[0] - sizes[1] == 11 * 6
    assert none.decoder.output.weight is not none.decoder.embedding.table.weight
    with pytest.raises(ValueError, match=r"^tie 'all'.*\(9, 6\).*\(11, 6\)"):
        make("all", 9)


def test_tokens_are_drawn_as_torch_draws_them(plain: Any) -> None:
    model = plain.build("gru")
    features = torch.randn(50, model.decoder.feature_size, dtype=torch.float64)
    torch.manual_seed(3)
    drawn = model._predict(features, sample=True)
    torch.manual_seed(3)
    probs = torch.softmax(model.decoder.output(features).float(), 1)
    assert torch.equal(drawn, torch.multinomial(probs, 1).squeeze(1))


def test_mixed_inputs_are_the_models_own_predictions(plain: Any) -> None:
    model = plain.build("gru", attention="dot")
    source, source_lengths, inputs, _, lengths = plain.batch((7, 0, 4), (5, 6, 2))
    given_ = (source, source_lengths, inputs, lengths)
    assert torch.equal(model.mix_inputs(*given_, 0.0), inputs)
    mixed = model.mix_inputs(*given_, 1.0)
    best = model.decoder.output(model(*given_)).argmax(2)
    for row, steps in enumerate(lengths.tolist()):
        assert torch.equal(mixed[row, :1], inputs[row, :1])
        assert torch.equal(mixed[row, 1:steps], best[row, : steps - 1])
        assert torch.equal(mixed[row, steps:], inputs[row, steps:])
    with pytest.raises(ValueError, match=r"^rate"):
        model.mix_inputs(*given_, 1.5)


def test_mixed_inputs_at_a_rate_and_by_sampling(plain: Any) -> None:
    model = plain.build("gru", attention="none")
    rows = 400
    source, lengths = torch.full((rows, 3), 5), torch.full((rows,), 3)
    inputs, sizes = torch.full((rows, 5), 4), torch.full((rows,), 5)
    with torch.no_grad():
        probs = torch.softmax(model.decoder.output(model(source, lengths, inputs, sizes))[0, 0], 0)
    torch.manual_seed(0)
    sampled = model.mix_inputs(source, lengths, inputs, sizes, 1.0, sample=True)
    share = torch.bincount(sampled[:, 1], minlength=plain.TARGET) / rows
    assert (share - probs).abs().max() < 0.08
    torch.manual_seed(0)
    assert torch.equal(model.mix_inputs(source, lengths, inputs, sizes, 1.0, sample=True), sampled)
    best = model.mix_inputs(source, lengths, inputs, sizes, 1.0)[:, 1:]
    assert not best.eq(4).any()  # so that a replaced token shows
    mixed = model.mix_inputs(source, lengths, inputs, sizes, 0.25)
    assert (mixed != 4)[:, 1:].float().mean().item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("cell", [*sorted(CELLS), "user"])
def test_every_cell_learns_to_copy(plain: Any, cell: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(Embedding(9, 8), Recurrent("gru", 8, 12, bidirectional=True, batch_first=True))
    kind = plain.MinLSTM if cell == "user" else cell
    model = Seq2Seq(encoder, Decoder(Embedding(9, 8), 24, kind, 16, attention="general", tie="target"))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    source, lengths = torch.randint(4, 9, (32, 4)), torch.full((32,), 4)
    inputs = torch.cat([torch.full((32, 1), 2), source], 1)
    targets = torch.cat([source, torch.full((32, 1), 3)], 1)
    for _ in range(90):
        loss, nll = model.loss(source, lengths, inputs, targets, lengths + 1)
        optimizer.zero_grad()
        (loss / 160).backward()
        optimizer.step()
    assert nll.item() / 160 < 0.5 * math.log(9)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"attention": "bahdanu"}, ValueError, "attention must"),
        ({"attention": "none", "input_feeding": True}, ValueError, "input_feeding"),
        ({"attention": "none", "attention_layer": 1}, ValueError, "attention_layer"),
        ({"attention": "none", "attention_size": 4}, ValueError, "attention_size"),
        ({"attention": "none", "heads": 2}, ValueError, "heads"),
        ({"attention": "bahdanau", "feed_context": True}, ValueError, "feed_context"),
        ({"attention_layer": 3}, ValueError, "attention_layer"),
        ({"attention": "dot", "hidden_size": 5}, ValueError, "query_size 5 and memory_size 8"),
        ({"output": "shallow"}, ValueError, "output must"),
        ({"output_dropout": 1.5}, ValueError, "output_dropout"),
        ({"tie": "source"}, ValueError, "tie must"),
        ({"attention": "none", "memory_dropout": 0.1}, ValueError, "memory_dropout"),
        ({"bidirectional": True}, TypeError, "bidirectional"),
        ({"learn_initial_state": True}, TypeError, "learn_initial_state"),
        ({"input_feeding": True, "checkpoint_chunks": 2}, ValueError, "checkpoint_chunks"),
        ({"layers": 1, "residual": True}, ValueError, "residual"),
        ({"layers": 1, "locked_dropout": 0.1}, ValueError, "locked_dropout"),
        ({"layers": 0}, ValueError, "num_layers"),
        ({"peepholes": True}, TypeError, "peepholes"),
        ({"bridge": "max"}, ValueError, "bridge"),
    ],
    ids=lambda value: described(value) if isinstance(value, dict) else "",
)
def test_senseless_arguments_are_named(plain: Any, options: Any, error: Any, word: str) -> None:
    with pytest.raises(error, match=f"^{word}"):
        plain.build(**options)


def test_parts_that_do_not_fit_are_named(plain: Any) -> None:
    encoder = Encoder(Embedding(9, 6), Recurrent("gru", 6, 4, batch_first=True))
    with pytest.raises(ValueError, match=r"^decoder: its memory_size 5 is not the encoder's output_size 4"):
        Seq2Seq(encoder, Decoder(Embedding(9, 6), 5))
    with pytest.raises(ValueError, match=r"^bridge 'zero'.*no source"):
        Seq2Seq(encoder, Decoder(Embedding(9, 6), 4, attention="none"), "zero")
    model = plain.build()
    source, source_lengths, inputs, targets, lengths = plain.batch()
    with pytest.raises(ValueError, match=r"^targets"):
        model.loss(source, source_lengths, inputs, targets[:, 1:], lengths)
    with pytest.warns(UserWarning, match="output_dropout"):
        Decoder(Embedding(9, 6), 5, dropout=0.2)


@pytest.mark.parametrize("options", [OPTIONS[3], OPTIONS[6], OPTIONS[12], OPTIONS[-2]], ids=described)
def test_autocast_learns_the_same(plain: Any, options: dict[str, Any]) -> None:
    model = plain.build("lstm", **options).float()
    expected = model.loss(*plain.batch())[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(*plain.batch())[0]
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(
        p.grad is None or (p.grad.dtype == torch.float32 and p.grad.isfinite().all()) for p in model.parameters()
    )
