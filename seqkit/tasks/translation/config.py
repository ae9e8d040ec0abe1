"""The schema of a translation configuration, and the model that it describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, create_model, model_validator

from seqkit.config import OneOf, Section, arguments, from_signature, maker
from seqkit.data.pairs import PairConfig
from seqkit.decoding import CONSTRAINTS, Constraint, Search
from seqkit.decoding.search import WIDEST
from seqkit.errors import UserError
from seqkit.models import BRIDGES, Bridge, Decoder, Embedding, Encoder, Seq2Seq
from seqkit.nn import ATTENTIONS, Attention, AttentionalRecurrent, Recurrent
from seqkit.tasks.base import RunConfig
from seqkit.tasks.common import (
    SUPPLIED,
    CellSection,
    EmbeddingConfig,
    SplitData,
    cell_section,
    check_dev,
    encoder_config,
    fill_vectors,
    make_embedding,
    make_recurrent,
)
from seqkit.tasks.init_weights import SOURCE_TABLE, TARGET_TABLE, check_new_words, keeps_text
from seqkit.tasks.translation.metrics import LIKELIHOOD, METRICS
from seqkit.text import TextConfig, Tokenizer
from seqkit.training import TrainingConfig
from seqkit.training.schedules import schedule_factor

LONGEST = 5_000
"""Tokens in a sentence. A longer one is a broken file, not a sentence, and would take gigabytes."""


class TranslationData(SplitData):
    """`data:` where the sentence pairs are, which of them are learned, and how they are batched."""

    train: PairConfig
    """`{source: FILE, target: FILE}`, one file with both columns, or `builtin:phrases`."""
    dev: PairConfig | None = None
    """Chooses the best checkpoint; without it the last one is kept."""
    test: PairConfig | None = None
    """Scored once, at the end."""
    max_source_length: int = Field(default=500, gt=0, le=LONGEST)
    """Training pairs with a longer source, in tokens, are left out and counted; dev and test keep theirs."""
    max_target_length: int = Field(default=500, gt=0, le=LONGEST)
    """Training pairs with a longer target, in tokens, are left out and counted; dev and test keep theirs."""
    max_ratio: float | None = Field(default=None, ge=1)
    """Training pairs are also left out if one side has more than this many times the tokens of the other."""
    window: int | None = Field(default=None, gt=0)
    """Read the training pairs from their file in every epoch, N at a time, and shuffle and bucket them within such
    windows, instead of keeping an indexed copy in the cache: for files too large to copy (100000 is a good size)."""


def _sides_in_schema(schema: dict[str, Any]) -> None:
    """Editors should know that the keys of a side may stand beside the sides."""
    schema["properties"].update(TextConfig.model_json_schema()["properties"])


def check_side(side: str, text: TextConfig) -> None:
    """Refuse what would change the sentences that are to be written.

    Raises:
        ValueError: it starts with the side.
    """
    if side == "target" and (text.add_bos or text.add_eos):
        raise ValueError("target: <bos> and <eos> are added by the decoder; leave add_bos and add_eos out")
    if side == "target" and text.max_length is not None:
        raise ValueError("target: max_length would teach cut sentences; use data.max_target_length")


class TranslationText(Section):
    """`text:` how sentences become tokens. Keys beside source and target hold for both."""

    model_config = ConfigDict(json_schema_extra=_sides_in_schema)
    sides: ClassVar[tuple[str, ...]] = ("source", "target")

    source: TextConfig = TextConfig()
    target: TextConfig = TextConfig()
    joint: bool = False
    """Whether both sides share one vocabulary, trained on both."""

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = ("joint", *cls.sides)
        both = {key: item for key, item in value.items() if key not in own}
        spread = {key: item for key, item in value.items() if key in own}
        for side in cls.sides:
            given = spread.get(side, {})
            if isinstance(given, Mapping) and (both or side in spread):
                spread[side] = {**both, **given}
        return spread

    @model_validator(mode="after")
    def _consistent(self) -> TranslationText:
        if self.joint and self.source != self.target:
            raise ValueError("joint: one vocabulary has one set of settings: give them beside joint, for both sides")
        check_side("target", self.target)
        return self

    def resolved(self) -> TranslationText:
        """Return these settings with the target's words marked unless they say no; both sides' if joint."""
        sides = {side: getattr(self, side).for_writing() for side in (self.sides if self.joint else ("target",))}
        return self.model_copy(update=sides)


class ScoringConfig(Section):
    """`scoring:` how BLEU, chrF and TER are computed (sacreBLEU)."""

    lowercase: bool | None = None
    """Compare without case; null: where the target's tokenizer lower-cases."""
    tokenize: Literal["auto", "13a", "intl", "zh", "char", "ja-mecab", "ko-mecab", "flores200", "none"] = "auto"
    """BLEU's tokenizer. auto: by the script of the training targets, settled when a run begins: zh for Chinese, char
    for Japanese, Korean, Thai and other scripts without spaces, else 13a (as mteval). ja-mecab and ko-mecab need an
    extra (ja, ko); flores200 needs one, too (flores), and downloads a model when it is first used. none: the text is
    tokenised already."""


class TranslationTraining(TrainingConfig):
    """`training:` with the loss of a translation model and how it is watched."""

    metrics = METRICS
    metric: Annotated[str, OneOf("metric", METRICS, Callable, supplied=("outcome",))] = "bleu"
    """The dev score that chooses the best checkpoint."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability that is spread over all tokens (Szegedy et al. 2016)."""
    scheduled_sampling: float = Field(default=0.0, ge=0, le=1)
    """Probability that the decoder reads its own prediction instead of the reference's token (Bengio et al. 2015, in
    two passes: Mihaylova & Martins 2019)."""
    scheduled_sampling_warmup: int = Field(default=0, ge=0)
    """Epochs over which that probability rises from 0, linearly, from one epoch to the next."""
    dev_beam_size: int = Field(default=1, gt=0, le=WIDEST)
    """Width of the beam that decodes dev during training; the other settings of `decoding` hold there, too."""
    dev_limit: int | None = Field(default=None, ge=0)
    """Decode only the first N dev sentences during training (0: none, so no BLEU); the loss covers all of them."""
    samples: int = Field(default=3, ge=0)
    """Number of dev sentences that are shown and logged at each evaluation, with reference and output."""

    @model_validator(mode="after")
    def _decodes(self) -> TranslationTraining:
        if self.dev_limit == 0 and self.metric not in LIKELIHOOD:
            raise ValueError(f"dev_limit: {self.metric} needs decoded sentences; use metric: loss, or a limit above 0")
        if self.scheduled_sampling_warmup and not self.scheduled_sampling:
            raise ValueError("scheduled_sampling_warmup needs scheduled_sampling above 0")
        return self


class _DecodingBase(Section):
    @model_validator(mode="after")
    def _buildable(self) -> _DecodingBase:
        make_search(self.model_dump())
        return self


def make_search(settings: Mapping[str, Any]) -> Search:
    """Make the search that the values of a `decoding:` section describe."""
    return Search(**{**settings, "constraints": [maker(one, CONSTRAINTS)() for one in settings["constraints"]]})


_Rule = Annotated[str, OneOf("constraint", CONSTRAINTS, Constraint, supplied=())]
DecodingConfig = from_signature("DecodingConfig", Search, base=_DecodingBase, constraints=list[_Rule])


class _DecoderBase(CellSection):
    @model_validator(mode="after")
    def _buildable(self) -> _DecoderBase:
        _probe_decoder(self, _probe_table(8), 8)
        return self


def _probe_table(size: int) -> Embedding:
    """Return a small table for trying a section out; not on the meta device, where torch's normal_ imports its
    compiler."""
    with torch.random.fork_rng(devices=[]):
        return Embedding(4, size)


def _probe_decoder(section: Any, table: Embedding, memory_size: int) -> Decoder:
    with torch.device("meta"):  # however large, no memory
        return Decoder(table, memory_size, **arguments(section))


# Beside what the program supplies, what a decoder cannot have: it has one direction and starts from the bridge.
_NOT_IN_DECODER = ("embedding", "memory_size", "feature_size", "bidirectional", "learn_initial_state", *SUPPLIED)
_READS = ("query_size", "memory_size", "size", "heads")  # `attention_size` and `heads` of the decoder
_Attention = Annotated[str, OneOf("attention", ATTENTIONS, Attention, supplied=_READS, also=("none",))]
_JOINS = ("encoder", "state_names", "state_sizes", "num_layers")
_Bridge = Annotated[str, OneOf("bridge", BRIDGES, Bridge, supplied=_JOINS)]


def decoder_config(tree: Mapping[str, Any], *path: str) -> type[Section]:
    """Return the schema of a decoder section: the arguments of `Decoder`, its bases and the cell that the section
    names.

    See `encoder_config` for the arguments.
    """
    modules = (Decoder, AttentionalRecurrent, Recurrent)
    return cell_section("Decoder", modules, _NOT_IN_DECODER, _DecoderBase, tree, *path, attention=_Attention)


class TranslationModel(Section):
    """`model:` source -> encoder -> bridge -> decoder with attention -> target."""

    source: EmbeddingConfig = EmbeddingConfig()  # type: ignore[valid-type]
    target: EmbeddingConfig = EmbeddingConfig()  # type: ignore[valid-type]
    encoder: Section
    """The arguments of `seqkit.nn.Recurrent` and of the cell."""
    decoder: Section
    """The arguments of `seqkit.models.Decoder`, of its bases in `seqkit.nn` and of the cell."""

    @model_validator(mode="after")
    def _buildable(self) -> TranslationModel:
        source, target = (_probe_table(section.size) for section in (self.source, self.target))  # type: ignore[attr-defined]
        encoder = Encoder(source, make_recurrent(self.encoder, source.size, device="meta"))
        decoder = _probe_decoder(self.decoder, target, encoder.output_size)
        with torch.device("meta"):
            Seq2Seq(encoder, decoder, **_own(self))
        return self


_Model = from_signature("_Model", Seq2Seq, skip=("encoder", "decoder"), base=TranslationModel, bridge=_Bridge)


def _own(model: Section) -> dict[str, Any]:
    """Return the arguments of `Seq2Seq` beside its parts."""
    return arguments(model, exclude={"source", "target", "encoder", "decoder"})


class TranslationConfig(RunConfig):
    """The whole file."""

    data: TranslationData
    text: TranslationText = TranslationText()
    model: TranslationModel
    training: TranslationTraining = TranslationTraining()
    decoding: DecodingConfig = DecodingConfig()  # type: ignore[valid-type]
    """How outputs are searched for, for the test score and by `seqkit evaluate` and `seqkit translate`."""
    scoring: ScoringConfig = ScoringConfig()

    @model_validator(mode="after")
    def _sensible(self) -> TranslationConfig:
        check_dev(self.training, self.data.dev)
        if self.data.window is not None and self.training.steps is None:
            try:
                schedule_factor(self.training.schedule, 0, None)
            except UserError as error:
                raise ValueError(f"{error}; with data.window it is unknown until the first epoch ends") from None
        model: Any = self.model
        decoding: Any = self.decoding
        if decoding.coverage_penalty and model.decoder.attention == "none":
            raise ValueError("decoding.coverage_penalty needs an attention, got model.decoder.attention 'none'")
        if model.decoder.tie == "all" and not (self.text.joint or keeps_text(self, TARGET_TABLE)):
            raise ValueError("model.decoder.tie 'all' needs one vocabulary: text.joint: true")
        check_new_words(self, "model.source", model.source, SOURCE_TABLE)
        check_new_words(self, "model.target", model.target, TARGET_TABLE)
        return self


def translation_schema(tree: Mapping[str, Any]) -> type[TranslationConfig]:
    """Return the schema for the cells that the configuration names."""
    encoder = encoder_config(tree, "model", "encoder")
    decoder = decoder_config(tree, "model", "decoder")
    fields: dict[str, Any] = {"encoder": (encoder, ...), "decoder": (decoder, Field(default_factory=decoder))}
    model = create_model("ModelConfig", __base__=_Model, **fields)
    return create_model("TranslationConfig", __base__=TranslationConfig, model=(model, ...))


def make_model(config: Any, source: Tokenizer, target: Tokenizer, *, load: bool) -> tuple[Seq2Seq, list[str]]:
    """Return the model that a `model:` section describes.

    Args:
        config: of the class `TranslationModel`.
        source, target: give the vocabularies.
        load: read the pretrained vectors (not needed where weights are loaded anyway).

    Returns:
        the model, and lines that report the coverage of the vectors.
    """
    tables = make_embedding(config.source, source), make_embedding(config.target, target)
    encoder = Encoder(tables[0], make_recurrent(config.encoder, tables[0].size))
    decoder = Decoder(tables[1], encoder.output_size, **arguments(config.decoder))
    model = Seq2Seq(encoder, decoder, **_own(config))
    lines = []
    if load:  # after the decoder, which scales a tied table's start
        lines += fill_vectors(tables[0], config.source, source)
        lines += fill_vectors(tables[1], config.target, target)
    return model, lines
