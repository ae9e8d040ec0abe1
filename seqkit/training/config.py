"""The schema of a configuration's `training:` section."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from seqkit.config import Section


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Patterns = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]


class OptimizerConfig(Section):
    """`training.optimizer`: the optimiser and its numbers. A bare name in YAML is short for `{name: ...}`."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Which optimiser of torch.optim."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay: decoupled for adamw, an L2 term for adam and sgd. Vectors (biases, gains) are not decayed."""
    betas: list[float] = Field(default=[0.9, 0.999], min_length=2, max_length=2)
    """Adam's two decay rates."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of Adam's second moment, so that nothing is divided by 0."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of sgd."""
    nesterov: bool = False
    """Whether sgd with momentum uses Nesterov's form."""
    lr_factors: dict[str, float] = {}
    """Parameter name pattern (`embedding*`, as in a shell) -> what the learning rate is multiplied by; the first
    pattern that matches a name holds, and a pattern that matches none is an error."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor between the learning rates of neighbouring groups of layers, from the output to the input (Howard & Ruder
    2018, section 3.1: 1 / 2.6); lr_factors come on top."""

    @model_validator(mode="after")
    def _sensible(self) -> OptimizerConfig:
        only = {"momentum": "sgd", "nesterov": "sgd", "betas": "adamw and adam", "eps": "adamw and adam"}
        for key, names in only.items():
            if self.name not in names and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is for {names}, not for {self.name}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must each lie in [0, 1), got {self.betas}")
        return self


class ScheduleConfig(Section):
    """`training.schedule`: how the learning rate moves. A bare name in YAML is short for `{name: ...}`."""

    name: Literal["constant", "linear", "cosine", "one_cycle", "plateau"] = "constant"
    """How the rate moves after the warm-up: not at all, down in a line or a half cosine, up and down in one cycle
    (Smith & Topin 2018), or down by `factor` whenever the metric stops improving."""
    warmup: float = Field(default=0.0, ge=0)
    """Linear warm-up: below 1 a share of all steps, from 1 on a number of steps. one_cycle rises for this long
    (0.3 of all steps where it is 0)."""
    final: float = Field(default=0.0, ge=0, le=1)
    """The rate at which linear, cosine and one_cycle end, as a share of the peak."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """plateau: the rate is multiplied by this when the metric stops improving."""
    patience: int = Field(default=2, ge=0)
    """plateau: how many evaluations without a better metric to wait before that."""

    @model_validator(mode="after")
    def _sensible(self) -> ScheduleConfig:
        only = {"factor": "plateau", "patience": "plateau", "final": "linear, cosine and one_cycle"}
        for key, names in only.items():
            if self.name not in names and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is for {names}, not for {self.name}")
        return self


class EarlyStoppingConfig(Section):
    """`training.early_stopping`: when to stop because the metric no longer improves."""

    patience: int = Field(default=5, gt=0)
    """Stop after this many evaluations in a row without a better metric."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much the metric must improve to count as better."""


class StageConfig(Section):
    """One entry of `training.unfreeze.stages`."""

    at: int = Field(ge=0)
    """The number of epochs or steps after which the stage begins; the first stage begins at 0."""
    train: Patterns = Field(min_length=1)
    """Patterns of the parameters that train too from then on."""


class UnfreezeConfig(Section):
    """`training.unfreeze`: what is frozen at first, and when it starts to learn."""

    every: int | None = Field(default=None, gt=0)
    """Unfreeze gradually: the last group of layers trains from the start, and each time this many epochs or steps have
    passed, the group before it joins (Howard & Ruder 2018, section 3.3)."""
    stages: list[StageConfig] = []
    """Unfreeze by hand instead: a list of `{at: 2, train: ["encoder.recurrent*"]}`, the first of them at 0. What none
    of them names never trains."""
    unit: Literal["epochs", "steps"] = "epochs"
    """What `every` and `at` count."""

    @model_validator(mode="after")
    def _sensible(self) -> UnfreezeConfig:
        if (self.every is None) == (not self.stages):
            raise ValueError("every and stages exclude each other: give one")
        starts = [stage.at for stage in self.stages]
        if starts and starts[0] != 0:
            raise ValueError("stages: the first must be at 0; nothing would train before it")
        if len(starts) == 1:
            raise ValueError("stages: one alone unfreezes nothing; training.freeze names what never trains")
        if any(low >= high for low, high in itertools.pairwise(starts)):
            raise ValueError(f"stages: each must be at a later time than the one before, got {starts}")
        return self


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class TrainingConfig(Section):
    """`training:` how to learn, whatever is learned."""

    epochs: int | None = Field(default=None, gt=0)
    """How many times to go through the data; 10 where neither epochs nor steps is given."""
    steps: int | None = Field(default=None, gt=0)
    """How many updates to make, instead of epochs."""
    optimizer: Annotated[OptimizerConfig, BeforeValidator(_named, json_schema_input_type=str | OptimizerConfig)] = (
        OptimizerConfig()
    )
    schedule: Annotated[ScheduleConfig, BeforeValidator(_named, json_schema_input_type=str | ScheduleConfig)] = (
        ScheduleConfig()
    )
    freeze: Patterns = []
    """Patterns of parameter names (`encoder.embedding*`, as in a shell) that never train; one that matches none is an
    error."""
    unfreeze: UnfreezeConfig | None = None
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Scale the gradient down to this length where it is longer; null: leave it. The norm is logged either way."""
    clip_value: float | None = Field(default=None, gt=0)
    """Clamp every entry of the gradient to this size; clip_norm is then null."""
    accumulate: int = Field(default=1, gt=0)
    """Number of batches to an update."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format: with bf16 and fp16 the forward pass runs under autocast; fp16 also scales the loss."""
    deterministic: bool = False
    """On a GPU, take only algorithms that give the same bits for the same input, at some cost in speed (on the CPU
    they do so anyway): torch.use_deterministic_algorithms, no trials in cuDNN, and CUBLAS_WORKSPACE_CONFIG=:4096:8,
    which acts if nothing was computed on the device before. An operator that has no such algorithm stops the run."""
    compile: bool = False
    """Run the model through torch.compile."""
    evaluate_every: int | None = Field(default=None, gt=0)
    """Evaluate on dev every N updates; null: at the end of each epoch."""
    evaluate_epochs: int = Field(default=1, gt=0)
    """Without evaluate_every: evaluate at the end of every N-th epoch, and at the end of training."""
    checkpoint_every: int | None = Field(default=None, gt=0)
    """Save what a resume needs every N updates; null: after each evaluation."""
    log_every: int = Field(default=50, gt=0)
    """Write loss, gradient norm and learning rate every N updates."""
    metric: str = "loss"
    """The dev score that chooses the best checkpoint (of equal ones the lower dev loss does, then the later step),
    stops early and drives plateau (where an equal one is no better)."""
    metric_mode: Literal["auto", "max", "min"] = "auto"
    """Whether a higher metric is better: max, min, or auto: lower for loss, perplexity and names that end in them,
    higher for the rest."""
    early_stopping: EarlyStoppingConfig | None = None
    keep_best: int = Field(default=1, gt=0)
    """How many of the best checkpoints to keep, beside the last."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is evaluated and kept."""
    average_best: bool = False
    """At the end, average the weights of the kept best checkpoints, and keep that if dev says it is no worse."""
    tensorboard: bool = False
    """Also write event files of TensorBoard (needs the tensorboard extra)."""

    @model_validator(mode="before")
    @classmethod
    def _clips_one_way(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("clip_value") is not None and "clip_norm" not in value:
            return {**value, "clip_norm": None}
        return value

    @model_validator(mode="after")
    def _sensible(self) -> TrainingConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("steps and epochs exclude each other: give one")
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_value and clip_norm exclude each other: give one")
        if self.average_best and self.keep_best < 2:
            raise ValueError("average_best needs keep_best of at least 2")
        return self

    @property
    def margin(self) -> float:
        """By how much the metric must improve to count as better, for early stopping and for plateau."""
        return self.early_stopping.min_delta if self.early_stopping else 0.0

    @property
    def most_epochs(self) -> int:
        """How many times to go through the data at the most, where `steps` does not say when to end."""
        return self.epochs or 10

    @property
    def more_is_better(self) -> bool:
        """Whether a higher value of `metric` is the better one."""
        return self.higher_is_better(self.metric)

    def higher_is_better(self, name: str) -> bool:
        """Return whether a higher value of the score `name` is the better one."""
        if name == self.metric and self.metric_mode != "auto":
            return {"max": True, "min": False}[self.metric_mode]
        return not name.endswith(("loss", "perplexity", "error"))
