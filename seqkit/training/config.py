"""The schema of a configuration's `training:` section."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from seqkit.config import Named, OneOf, Section, WithOptions, as_list, maker
from seqkit.training.loggers import LOGGERS, Logger
from seqkit.training.optim import OptimizerConfig
from seqkit.training.schedules import ScheduleConfig
from seqkit.training.scores import more_is_better

Patterns = Annotated[list[str], BeforeValidator(as_list, json_schema_input_type=str | list[str])]


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


class TrainingConfig(Section):
    """`training:` how to learn, whatever is learned."""

    metrics: ClassVar[Mapping[str, Callable[..., Any]]] = {}  # of the task

    epochs: int | None = Field(default=None, gt=0)
    """How many times to go through the data; 10 where neither epochs nor steps is given."""
    steps: int | None = Field(default=None, gt=0)
    """How many updates to make, instead of epochs."""
    optimizer: Annotated[OptimizerConfig, WithOptions(("params", "lr"))] = Field(
        default=OptimizerConfig(), validate_default=True
    )
    schedule: Annotated[ScheduleConfig, WithOptions()] = Field(default=ScheduleConfig(), validate_default=True)
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
    """Whether a higher metric is better: max, min, or auto: as the metric says, or else lower for names that end in
    loss, perplexity or error and higher for the rest."""
    early_stopping: EarlyStoppingConfig | None = None
    keep_best: int = Field(default=1, gt=0)
    """How many of the best checkpoints to keep, beside the last."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is evaluated and kept."""
    average_best: bool = False
    """At the end, average the weights of the kept best checkpoints, and keep that if dev says it is no worse."""
    loggers: list[Annotated[str, OneOf("logger", LOGGERS, Logger, supplied=())]] = ["jsonl"]
    """What follows the training: jsonl (metrics.jsonl and timing.jsonl), tensorboard (event files; needs the
    tensorboard extra), or `mypackage.module:MyLogger`."""
    report: bool = True
    """Write report.html into the run folder when training from the command line or by seqkit.train has ended: curves,
    scores and examples from dev.jsonl (needs the extras html and plot). It holds texts of the dev data."""
    keep_outputs: int = Field(default=2000, ge=0)
    """How many dev examples dev.jsonl in the run folder holds at most, evenly spread over the dev data: text, right
    answer, answer of the kept weights and its confidence. 0: no such file, for private data."""
    tensorboard: bool | None = Field(default=None, exclude=True)
    """Short for adding tensorboard to loggers (true), or for leaving it out (false)."""

    @model_validator(mode="before")
    @classmethod
    def _lists_tensorboard(cls, value: object) -> object:
        if isinstance(value, Mapping) and isinstance(value.get("tensorboard"), bool):
            loggers = value.get("loggers", ["jsonl"])
            if isinstance(loggers, list):
                others = [one for one in loggers if one != "tensorboard"]
                return {**value, "loggers": [*others, "tensorboard"] if value["tensorboard"] else others}
        return value

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
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers: each can be there once, got {', '.join(self.loggers)}")
        return self

    def make_loggers(self) -> dict[str, Logger]:
        """Make the loggers, by name.

        Raises:
            UserError: one needs something that is not installed.
        """
        return {str(name): maker(name, LOGGERS)() for name in self.loggers}

    @property
    def margin(self) -> float:
        """Return by how much the metric must improve to count as better, for early stopping and for plateau."""
        return self.early_stopping.min_delta if self.early_stopping else 0.0

    @property
    def most_epochs(self) -> int:
        """Return how many times to go through the data at the most, where `steps` does not say when to end."""
        return self.epochs or 10

    @property
    def more_is_better(self) -> bool:
        """Return whether a higher value of `metric` is the better one."""
        return self.higher_is_better(self.metric)

    def higher_is_better(self, name: str) -> bool:
        """Return whether a higher value of the score `name` is the better one."""
        if name == self.metric and self.metric_mode != "auto":
            return {"max": True, "min": False}[self.metric_mode]
        known = {**self.metrics, **({str(self.metric): self.metric.entry} if isinstance(self.metric, Named) else {})}
        return more_is_better(known[name]) if name in known else not name.endswith(("loss", "perplexity", "error"))
