"""Models: what lies in the padding never matters, and traces are right for other lengths or refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkit.models import Decoder, Embedding, Encoder, LanguageModel, Seq2Seq, SequenceClassifier, Tagger, WindowEncoder
from seqkit.models.bridge import BRIDGES
from seqkit.nn import ATTENTIONS, Recurrent
from seqkit.nn.custom_op import AVAILABLE

LENGTHS = torch.tensor([2, 0, 4, 1])
ROTTEN = [torch.nan, torch.inf, -torch.inf, 3e38]


def recurrent(kind: str = "gru", size: int = 4, **options: Any) -> Recurrent:
    return Recurrent(kind, size, 4, batch_first=True, **options)


def encoder(**options: Any) -> Encoder:
    return Encoder(Embedding(9, 4), recurrent(**options))


def seq2seq(**options: Any) -> Seq2Seq:
    options = {"cell": "gru", "hidden_size": 4, **options}
    return Seq2Seq(encoder(bidirectional=True), Decoder(Embedding(9, 4), 8, **options), "mean")


def ids(rows: int, steps: int) -> Tensor:
    return torch.randint(2, 9, (rows, steps))


def assert_padding_is_ignored(run: Any, clean: Tensor, padding: Tensor, parameters: list[Tensor]) -> None:
    """`run(x)` gives tensors; x and its gradients are the same whatever lies on the padding of x."""

    def outcome(x: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        results = [one for one in run(x) if one.is_floating_point()]
        total = sum(one.sin().sum() for one in results)
        grads = torch.autograd.grad(total, [x, *parameters], allow_unused=True)  # type: ignore[arg-type]
        return [*results, *(grad for grad in grads if grad is not None)]

    wanted = outcome(clean.masked_fill(padding, 0.0))
    for value in ROTTEN:
        for one, other in zip(outcome(clean.masked_fill(padding, value)), wanted, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["copy", "linear", "mean", "zero"])
def test_bridge_ignores_the_padding(kind: Any) -> None:
    torch.manual_seed(0)
    inner = recurrent("lstm", bidirectional=True)
    bridge = BRIDGES[kind](inner, ("h", "c"), (8, 8), 1)
    padding = (torch.arange(4) >= LENGTHS.unsqueeze(1)).unsqueeze(2)
    state = tuple(torch.randn(2, 4, 4, requires_grad=True) for _ in range(2))

    def run(output: Tensor) -> Any:
        return [part + 0 * output[2].sum() for part in bridge(output, state, LENGTHS)]

    assert_padding_is_ignored(run, torch.randn(4, 4, 8), padding, [*state, *bridge.parameters()])


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("feeding", [False, True])
def test_decoder_ignores_the_padding_of_its_memory(kind: str, feeding: bool) -> None:
    torch.manual_seed(0)
    decoder = Decoder(Embedding(9, 4), 4, "gru", 4, attention=kind, input_feeding=feeding)  # type: ignore[arg-type]
    padding = torch.arange(4) >= LENGTHS.unsqueeze(1)
    tokens, state = ids(4, 3), (torch.randn(1, 4, 4),)

    def run(output: Tensor) -> Any:
        memory = decoder.remember(output, LENGTHS)
        return decoder(tokens, torch.tensor([3, 1, 2, 3]), state, memory)

    parameters = list(decoder.parameters())
    assert_padding_is_ignored(run, torch.randn(4, 4, 4), padding.unsqueeze(2), parameters)


@pytest.mark.parametrize("of", ["recurrent", "window"])
def test_encoders_ignore_the_padding(of: str) -> None:
    torch.manual_seed(0)
    model: Encoder | WindowEncoder = WindowEncoder(Embedding(9, 4), 3, 5) if of == "window" else encoder()
    tokens = ids(4, 4)

    def run(shift: Tensor) -> Any:
        output, state = model(tokens, LENGTHS, shift)
        return output, *state

    padding = (torch.arange(4) >= LENGTHS.unsqueeze(1)).unsqueeze(2)
    assert_padding_is_ignored(run, torch.randn(4, 4, 4), padding, list(model.parameters()))


class Call(nn.Module):
    """A model as `torch.jit.trace` wants one: tensors in, tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *given: Tensor) -> Any:
        result = self.model(*given)
        return tuple(part for part in result if isinstance(part, Tensor)) if isinstance(result, tuple) else result


class Reads(nn.Module):
    """A language model that is given lengths and no state."""

    def __init__(self) -> None:
        super().__init__()
        self.model = LanguageModel(encoder())

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.model(tokens, None, lengths).features  # type: ignore[no-any-return]


def drawn(rows: int, steps: int, pairs: int) -> list[Tensor]:
    """(B, T) ids and (B,) lengths, so many times."""
    given: list[Tensor] = []
    for extra in range(pairs):
        lengths = torch.randint(0, steps + extra + 1, (rows,))
        given += [ids(rows, steps + extra), lengths]
    return given


def trace(model: nn.Module, given: list[Tensor]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model.eval(), tuple(given), check_trace=False)  # type: ignore[no-untyped-call]


@pytest.mark.skipif(not AVAILABLE, reason="torch before 2.4 has no custom operators")
@pytest.mark.parametrize(
    ("make", "pairs"),
    [
        (lambda: SequenceClassifier(encoder(bidirectional=True), 3, pooling=("last", "mean", "max", "attention")), 1),
        (lambda: Call(Tagger(encoder(), 3, 2)), 1),
        (lambda: Call(Tagger(WindowEncoder(Embedding(9, 4), 3), 3, 2)), 1),
        (Reads, 1),
        *((lambda kind=kind: seq2seq(attention=kind, attention_size=0 if kind in ("dot", "general") else 4,
                                     memory_dropout=0.1, num_layers=2, attention_layer=1,
                                     hidden_size=8), 2) for kind in ATTENTIONS),
        (lambda: seq2seq(attention="none", feed_context=True), 2),
    ],
)  # fmt: skip
def test_traces_are_right_for_other_lengths(make: Any, pairs: int) -> None:
    torch.manual_seed(0)
    model = make()
    found = trace(model, drawn(3, 4, pairs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rows, steps in [(3, 4), (2, 6), (5, 3), (1, 1)]:
            given = drawn(rows, steps, pairs)
            results, wanted = found(*given), model(*given)
            several = isinstance(wanted, tuple)
            for one, other in zip(results if several else [results], wanted if several else [wanted], strict=True):
                torch.testing.assert_close(one, other)


def test_a_trace_of_input_feeding_is_refused() -> None:
    with pytest.raises(RuntimeError, match="cannot record"):
        trace(seq2seq(attention="dot", hidden_size=8, input_feeding=True), drawn(3, 4, 2))


@pytest.mark.parametrize("bridge", ["copy", "linear", "mean", "zero"])
@pytest.mark.parametrize("options", [{"attention": kind} for kind in ATTENTIONS] + [{"input_feeding": True}], ids=str)
def test_batches_without_a_sentence(bridge: Any, options: dict[str, Any]) -> None:
    decoder = Decoder(Embedding(9, 4), 8, "gru", 8, num_layers=1, **options)
    model = Seq2Seq(encoder(bidirectional=True), decoder, bridge)
    tokens, lengths = torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    features = model(tokens, lengths, tokens, lengths)
    assert features.shape == (0, 4, 8)
    features.sum().backward()
    state, memory = model.eval().encode(tokens, lengths)
    logits, _, _ = model.step(tokens[:, :1], state, memory)
    assert logits.shape == (0, 1, 9)


def test_classifiers_and_taggers_of_no_sentence() -> None:
    tokens, lengths = torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    assert SequenceClassifier(encoder(), 3, pooling=("last", "mean", "max"))(tokens, lengths).shape == (0, 3)
    tagger = Tagger(WindowEncoder(Embedding(9, 4), 3), 3)
    scores, _ = tagger(tokens, lengths)
    assert tagger.tag_loss(scores, tokens, lengths).item() == 0
    assert tagger.decode(scores, lengths).shape == (0, 4)
    assert LanguageModel(encoder())(tokens, None, lengths).features.shape == (0, 4, 4)
