"""A default lives once: sections that stand for constructors have their arguments and their defaults, all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from seqkit.config import Section
from seqkit.decoding import Search
from seqkit.errors import UserError
from seqkit.models import (
    CharacterEncoder,
    Decoder,
    Embedding,
    LanguageModel,
    Seq2Seq,
    SequenceClassifier,
    Tagger,
    WindowEncoder,
)
from seqkit.nn import CELLS, AttentionalRecurrent, Recurrent
from seqkit.tasks.common import EmbeddingConfig, encoder_config, make_recurrent
from seqkit.tasks.language_model.config import language_model_schema
from seqkit.tasks.sentiment.config import sentiment_schema
from seqkit.tasks.slots.config import slots_schema
from seqkit.tasks.translation.config import DecodingConfig, translation_schema

SUPPLIED = {
    Embedding: {"num_embeddings", "padding_idx", "unk_idx"},
    Recurrent: {"cell", "input_size", "batch_first", "device", "dtype", "cell_options"},
    SequenceClassifier: {"encoder", "num_classes"},
    Decoder: {"embedding", "memory_size", "cell", "options"},
    AttentionalRecurrent: {"input_size", "memory_size", "cell", "hidden_size", "feature_size", "options"},
    Seq2Seq: {"encoder", "decoder"},
    Tagger: {"encoder", "num_tags", "num_intents", "characters", "allowed", "allowed_start"},
    CharacterEncoder: {"encoder"},
    WindowEncoder: {"embedding", "extra_size"},
}


def check_section(section: type[Section], call: Callable[..., Any], supplied: set[str]) -> None:
    for name, argument in inspect.signature(call).parameters.items():
        if name in supplied:
            continue
        field = section.model_fields[name]
        if argument.default is argument.empty:
            assert field.is_required(), name
        else:
            default = list(argument.default) if isinstance(argument.default, tuple) else argument.default
            assert field.get_default(call_default_factory=True) == default, name


def test_embedding_section() -> None:
    check_section(EmbeddingConfig, Embedding, SUPPLIED[Embedding])


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_encoder_section_reaches_every_argument(cell: str) -> None:
    section = encoder_config({"encoder": {"cell": cell}}, "encoder")
    check_section(section, Recurrent, SUPPLIED[Recurrent])
    check_section(section, CELLS[cell], {"input_size", "hidden_size", "device", "dtype"})


def test_model_section() -> None:
    model = sentiment_schema({}).model_fields["model"].annotation
    assert model is not None
    check_section(model, SequenceClassifier, SUPPLIED[SequenceClassifier])


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_translation_sections(cell: str) -> None:
    model = translation_schema({"model": {"decoder": {"cell": cell}}}).model_fields["model"].annotation
    assert model is not None
    check_section(model, Seq2Seq, SUPPLIED[Seq2Seq])
    section = model.model_fields["decoder"].annotation
    assert section is not None
    check_section(section, Decoder, SUPPLIED[Decoder])
    check_section(section, AttentionalRecurrent, SUPPLIED[AttentionalRecurrent])
    own = {"input_size", "batch_first", "bidirectional", "learn_initial_state", "hidden_size"}  # the decoder's business
    check_section(section, Recurrent, SUPPLIED[Recurrent] | own)
    check_section(section, CELLS[cell], {"input_size", "hidden_size", "device", "dtype"})
    check_section(DecodingConfig, Search, set())


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_language_model_sections(cell: str) -> None:
    model = language_model_schema({"model": {"encoder": {"cell": cell}}}).model_fields["model"].annotation
    assert model is not None
    check_section(model, LanguageModel, {"encoder"})
    section = model.model_fields["encoder"].annotation
    assert section is not None
    check_section(section, Recurrent, SUPPLIED[Recurrent] | {"bidirectional"})
    check_section(section, CELLS[cell], {"input_size", "hidden_size", "device", "dtype"})


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_slots_sections(cell: str) -> None:
    def section(of: Any, name: str) -> Any:
        return of.model_fields[name].annotation

    model = section(slots_schema({"model": {"characters": {"encoder": {"cell": cell}}}}), "model")
    check_section(model, Tagger, SUPPLIED[Tagger])
    letters = next(kind for kind in section(model, "characters").__args__ if kind is not type(None))
    check_section(letters, CharacterEncoder, SUPPLIED[CharacterEncoder])
    check_section(section(letters, "encoder"), CELLS[cell], {"input_size", "hidden_size", "device", "dtype"})
    windowed = section(slots_schema({"model": {"encoder": {"window": 1}}}), "model")
    check_section(section(windowed, "encoder"), WindowEncoder, SUPPLIED[WindowEncoder])


def test_what_the_section_says_reaches_the_module() -> None:
    options: dict[str, Any] = {
        "hidden_size": 6,
        "num_layers": 2,
        "bidirectional": True,
        "residual": True,
        "peephole": True,
        "layer_norm": True,
        "zoneout": 0.1,
        "locked_dropout": 0.2,
        "backend": "reference",
    }
    section = encoder_config({"e": {"cell": "lstm", **options}}, "e")
    module = make_recurrent(section(**options), 3)
    assert (module.num_layers, module.bidirectional, module.residual, module.locked_dropout) == (2, True, True, 0.2)
    names = {name for name, _ in module.named_parameters()}
    plain = {
        name
        for name, _ in make_recurrent(section(hidden_size=6, num_layers=2, bidirectional=True), 3).named_parameters()
    }
    assert plain < names


def test_an_unknown_cell_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model\.encoder\.cell: .*did you mean 'gru'"):
        encoder_config({"model": {"encoder": {"cell": "gur"}}}, "model", "encoder")
    with pytest.raises(UserError, match=r"e\.cell: "):
        encoder_config({"e": {"cell": "no_such_package:Cell"}}, "e")
    with pytest.raises(UserError, match=r"e\.cell: "):
        encoder_config({"e": {"cell": 3}}, "e")
