"""Translation: a graph that reads a source, and one that is a step of decoding."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqkit.decoding import Search
from seqkit.decoding.constraints import MaxLength, MaxRatio, MinLength, MinRatio, NoRepeatNgram, NoUnknown
from seqkit.errors import UserError
from seqkit.export.base import Exporter, Graph
from seqkit.export.classes import check_splitting
from seqkit.models import Seq2Seq
from seqkit.tasks.translation.config import LONGEST
from seqkit.text import TextConfig
from seqkit.text.joining import word_patterns

_ENCODER, _STEP = "encoder.onnx", "decoder_step.onnx"
NEXT = "next_"


class _Encoder(nn.Module):
    """Tokens (B, S), lengths (B,) -> the decoder's first state and memory as one list of tensors."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, lengths: Tensor) -> list[Tensor]:
        state, memory = self.model.encode(tokens, lengths)
        return [*_parts(state), *memory]


class _Step(nn.Module):
    """Tokens (B, K), the parts of state (B, K, ...) and memory (B, ...) -> log-probabilities, state, attention."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        tokens, *parts = inputs
        state, memory = _joined(self.model, parts)
        logits, after, attention = self.model.step(tokens, state, memory)
        return [torch.log_softmax(logits, -1), *_parts(after), *([] if attention is None else [attention])]


def _parts(state: Any) -> list[Tensor]:
    layers, fed = state
    return [*(part for layer in layers for part in layer), *([] if fed is None else [fed])]


def _joined(model: Seq2Seq, parts: Iterable[Tensor]) -> tuple[Any, tuple[Tensor, ...]]:
    """Return the decoder's state and memory, put together from a flat list of their parts."""
    decoder, left = model.decoder, iter(parts)
    layers = tuple(tuple(next(left) for _ in decoder.state_names) for _ in range(decoder.num_layers))
    fed = next(left) if decoder.input_feeding else None
    return (layers, fed), tuple(left)


def _names(model: Seq2Seq) -> tuple[list[str], list[str]]:
    """Return a name for each part of the decoder's state, and for each part of its memory."""
    decoder = model.decoder
    states = [f"{name}{layer + 1}" for layer in range(decoder.num_layers) for name in decoder.state_names]
    memory = ["keys", "values", "padding"] if decoder.attention is not None else ["vector"] * decoder.feed_context
    return [*states, *["fed"] * decoder.input_feeding], memory


class TranslationExporter(Exporter):
    """See `Exporter`."""

    script = "seqkit.export.scripts.translation"

    def graphs(self, task: Any) -> Mapping[str, Graph]:
        check_splitting(task, "source")
        search_settings(task.translator.search)
        model: Seq2Seq = task.model
        states, memory = _names(model)
        encoder, step = _Encoder(model).eval(), _Step(model).eval()
        tokens, lengths = torch.full((2, 7), 1), torch.tensor([7, 3])
        with torch.no_grad():
            parts, wider = encoder(tokens, lengths), encoder(torch.full((2, 8), 1), lengths)
        read = {"tokens": {0: "sentences", 1: "source"}, "lengths": {0: "sentences"}}
        graph = Graph(encoder, {"tokens": tokens, "lengths": lengths}, read, [*states, *memory])
        count = len(states)
        examples = [torch.full((2, 3), 1), *(part.repeat_interleave(3, 1) for part in parts[:count]), *parts[count:]]
        sizes = {name: {0: "sentences", 1: "hypotheses"} for name in ("tokens", *states)}
        for name, one, other in zip(memory, parts[count:], wider[count:], strict=True):
            longer = [place for place in range(one.dim()) if one.size(place) != other.size(place)]
            sizes[name] = {0: "sentences", **dict.fromkeys(longer, "source")}
        outputs = ["log_probs", *(NEXT + name for name in states)]
        outputs += [] if model.decoder.attention is None else ["attention"]
        inputs = dict(zip(["tokens", *states, *memory], examples, strict=True))
        return {_ENCODER: graph, _STEP: Graph(step, inputs, sizes, outputs)}

    def settings(self, task: Any) -> dict[str, Any]:
        source, target = task.source.config, task.target.config
        return {
            "decoding": {**search_settings(task.translator.search), "replace_unknown": task.translator.copy_unknown},
            "longest": LONGEST,
            "source": {
                "marked": source.marked,
                "spaces": source.kind in ("bpe", "unigram"),
                "before": int(source.add_bos),
                "after": int(source.add_eos),
            },
            "target": joining(target),
        }

    def attach(self, task: Any, folder: Path, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        model: Any = task.model
        names = [*itertools.chain(*_names(model))]
        encoder, step = run[_ENCODER], run[_STEP]

        def encode(source: Tensor, lengths: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
            tokens = source if source.size(1) else source.new_zeros(len(source), 1)
            return _joined(model, encoder(tokens=tokens, lengths=lengths))

        def one_step(tokens: Tensor, state: Any, memory: tuple[Tensor, ...]) -> tuple[Tensor, Any, Tensor | None]:
            named = dict(zip(names, [*_parts(state), *memory], strict=True))
            log_probs, *rest = step(tokens=tokens, **named)
            after, left = _joined(model, rest)
            return log_probs, after, left[0] if left else None

        def loss(source: Tensor, source_lengths: Tensor, inputs: Tensor, targets: Tensor, lengths: Tensor) -> Any:
            state, memory = encode(source, source_lengths)
            total = torch.zeros((), dtype=torch.float64)
            for time in range(inputs.size(1)):
                log_probs, state, _ = one_step(inputs[:, time : time + 1], state, memory)
                found = log_probs[:, 0].gather(1, targets[:, time : time + 1]).squeeze(1)
                total -= found[lengths > time].double().sum()
            return total, total

        model.encode, model.step, model.loss = encode, one_step, loss


def search_settings(search: Search) -> dict[str, Any]:
    """Return the settings of a search as the script reads them.

    Raises:
        UserError: one that only seqkit has.
    """
    if search.sample or search.n_best > 1:
        name = "sample" if search.sample else "n_best"
        raise UserError(
            f"an exported folder decodes greedily or by a beam for one translation; {name} stays in seqkit "
            f"(seqkit translate RUN {name}=...)",
            key=f"decoding.{name}",
        )
    values: dict[type, list[Any]] = {kind: [] for kind in (*_LIMITS, NoRepeatNgram, NoUnknown)}
    for one in search.constraints:
        if type(one) not in values:
            raise UserError(
                f"{type(one).__name__} is Python code, which cannot be exported; it stays in `seqkit translate`",
                key="decoding.constraints",
            )
        values[type(one)].append(one)
    limits: dict[str, Any] = {}
    for kind, (name, strictest) in _LIMITS.items():
        numbers = [getattr(one, "length", None) or getattr(one, "ratio", 0) for one in values[kind]]
        limits[name] = strictest(numbers) if numbers else None
    return {
        "beam_size": search.beam_size,
        "length_penalty": search.length_penalty,
        "length_penalty_kind": search.length_penalty_kind,
        "coverage_penalty": search.coverage_penalty,
        **limits,
        "no_repeat_ngram": sorted({one.size for one in values[NoRepeatNgram] if one.size}),
        "allow_unknown": not values[NoUnknown],
    }


_LIMITS: dict[type, tuple[str, Any]] = {
    MinLength: ("min_length", max),
    MaxLength: ("max_length", min),
    MinRatio: ("min_ratio", max),
    MaxRatio: ("max_ratio", min),
}


def joining(config: TextConfig) -> dict[str, Any]:
    """Return how tokens become a text again; see `seqkit.text.joining.join_tokens`."""
    plain = config.kind == "word" and not config.marked  # other tokenizers have a decoder that does it
    return {"marked": config.marked, "words": word_patterns(config) if plain else None}
