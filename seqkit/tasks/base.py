"""What every task that a YAML file can name has beyond the trainer's contract."""

from __future__ import annotations

import copy
import shlex
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field, PrivateAttr, model_validator
from torch import Tensor

from seqkit import drawing
from seqkit.config import Names, OneOf, Section
from seqkit.errors import UserError, require
from seqkit.nn.lora import merge_lora, merged
from seqkit.tasks.attribution import Method, check_method
from seqkit.tasks.explain import Explanation
from seqkit.tasks.sending import sent
from seqkit.tasks.showing import model_summary
from seqkit.tasks.start_config import InitConfig, LoraConfig
from seqkit.tasks.stream import Stream
from seqkit.tasks.text_trace import TextTrace
from seqkit.text import take_texts
from seqkit.training import Task, TrainingConfig
from seqkit.training.devices import check_name
from seqkit.training.transfer import Rows

if TYPE_CHECKING:
    from typing_extensions import Self


class RunTask(Task):
    """A task described by a configuration: it reads data, saves what prediction needs, predicts and is scored."""

    kind: ClassVar[str]
    options_section: ClassVar[str] = ""  # of the configuration: its keys may be given as options by their names alone
    needs: ClassVar[dict[str, str]] = {}  # optional modules that every training needs, each with the extra it is in
    config: Any  # of the class that `schema` returned; what the run folder keeps
    splits: Mapping[str, Any] = MappingProxyType({})  # train, dev, test: data with a `fingerprint()`
    notes: Sequence[str] = ()  # lines of the report on how the model was built

    @classmethod
    @abstractmethod
    def schema(cls, tree: Mapping[str, Any]) -> type[RunConfig]:
        """Return the schema of a configuration; it may depend on parts of it, such as which cell is chosen."""

    @classmethod
    def predict_options(cls, config: Any) -> type[Section]:
        """Return the schema of the options of `adjust`, which `seqkit predict RUN key=value` takes.

        Args:
            config: of the run, whose values are the defaults.
        """
        return Section

    @classmethod
    def score_options(cls, config: Any) -> type[Section]:
        """Return the schema of the options of `score` beside `data`, which `seqkit evaluate RUN key=value` takes."""
        return Section

    @classmethod
    def check_needs(cls, config: Any) -> None:
        """Refuse, before any data is read, what would be refused for want of a library after an epoch.

        Raises:
            UserError: something is not installed.
        """
        for module, extra in cls.needs.items():
            require(module, extra)
        config.training.make_loggers()

    @classmethod
    @abstractmethod
    def create(cls, config: Any, folder: Path | None = None, *, fresh: bool = True) -> RunTask:
        """Read the data and build the model.

        Args:
            config: of the class that `schema` returned.
            folder: take vocabulary and classes from this run instead of from the data (to resume it).
            fresh: the weights are not restored afterwards, so that pretrained vectors are wanted.
        """

    @classmethod
    @abstractmethod
    def restore(cls, config: Any, folder: Path) -> RunTask:
        """Build the model of a run from its folder alone, without its data and without its weights."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `restore` needs."""

    @property
    def device(self) -> torch.device:
        """Return where the model lies."""
        return next(self.model.parameters()).device

    def _repr_html_(self) -> str | None:
        return drawing.notebook(lambda: model_summary(self.kind, self.model))

    def data_lines(self) -> list[str]:
        """Return lines about the data, for the report."""
        return []

    def report(self) -> list[str]:
        """Return lines about data and model, printed before training."""
        trained = sum(value.numel() for value in self.model.parameters() if value.requires_grad)
        return [*self.data_lines(), *self.notes, f"model: {trained:,} trained parameters"]

    @abstractmethod
    def score(self, data: str | None = None, **options: Any) -> tuple[dict[str, float], list[str]]:
        """Return scores and a report on a file of the same columns, or on the configuration's test data (or else dev).

        `options` are those of `score_options`.

        Raises:
            UserError: there is no such data.
        """

    @abstractmethod
    def predict(self, texts: Iterable[str]) -> Sequence[Any]:
        """Return one prediction for each text, in their order; `seqkit.text.take_texts` says what counts as texts."""

    def stream(self) -> Stream[Any]:
        """Return a stream: it takes a text bit by bit and gives the prediction for what is there.

        Raises:
            UserError: this model cannot, and why.
        """
        raise UserError(f"a {self.kind} run cannot stream; call predict on each text")

    def adjust(self, **options: Any) -> None:
        """Change the settings of `predict` from now on: those of `predict_options`.

        Raises:
            UserError: one is out of range, or they contradict each other.
        """

    def adjusted(self, **options: Any) -> Self:
        """Return a task with this model and other settings of `predict`, as if loaded anew; this one stays as it is.

        Raises:
            UserError: see `adjust`.
        """
        twin = copy.copy(self)
        twin.adjust(**options)
        return twin

    @property
    def independent(self) -> bool:
        """Whether `predict` gives a text the same answer whatever was asked before and beside it: nothing is drawn."""
        return True

    def count_tokens(self, text: str) -> int:
        """Return how many tokens the model reads of a text; words, unless the task says otherwise."""
        return len(text.split())

    def read_line(self, line: str) -> Any:
        """Return what `predict` is given for a line of a file.

        Raises:
            UserError: it is none; the caller adds where it stands.
        """
        return line

    @abstractmethod
    def format(self, prediction: Any, form: str, **options: Any) -> str:
        """Return a prediction as one line, in the form `text` or `jsonl`; some tasks have options for it."""

    def read_dev(self, data: str) -> None:
        """Let `evaluate` and `dev_outputs` be about a file, which has the columns of the run's own dev data.

        Raises:
            UserError: this kind of run cannot, or the file is bad.
        """
        raise UserError(f"a {self.kind} run shows no other data")

    def explain(self, texts: Iterable[str], *, method: Method = "auto") -> list[Explanation]:
        """Return for each text why `predict` answers as it does.

        Args:
            texts: as in `predict`.
            method: "gradients": integrated gradients beside occlusion, which needs captum (extra `explain`);
                "occlusion": that alone; "auto": gradients where captum is installed.

        Raises:
            TypeError, ValueError: see `take_texts`.
            UserError: this kind of run explains nothing; captum is missing; a text is too long.
        """
        gradients = check_method(method)
        self.model.eval()
        return [self.explain_one(text, gradients) for text in take_texts(texts)]

    def explain_one(self, text: str, gradients: bool) -> Explanation:
        """Return why `predict` answers a text as it does; see `explain`."""
        raise UserError(f"a {self.kind} run explains nothing")

    def trace(self, text: str) -> TextTrace:
        """Return what the gates of every layer did at every token of a text.

        Raises:
            TypeError, ValueError: see `take_texts`.
            UserError: the model has no recurrent layers.
        """
        self.model.eval()
        return self.trace_one(take_texts([text])[0])

    def trace_one(self, text: str) -> TextTrace:
        """Return the gates of a text; see `trace`."""
        raise UserError(f"a {self.kind} run has no gates to show")

    def example(self, folder: Path) -> str:
        """Return a command line that uses this run, shown at the end of training."""
        return f"seqkit evaluate {shlex.quote(str(folder))}"

    def fingerprint(self, part: str = "train") -> str:
        """Return a digest of the data of a part (train, dev), "" where there are none: a run is resumed on the data
        that it was started with."""
        return self.splits[part].fingerprint() if part in self.splits else ""

    def rows(self) -> Mapping[str, Rows]:
        """Weight name -> what its rows stand for, where they have names (words, classes); see `transfer_weights`."""
        return {}

    def send(self, batch: Any, device: torch.device) -> Any:
        return sent(batch, device)

    def export(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return merged(weights)

    def settle(self) -> None:
        merge_lora(self.model)

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of this run."""
        self.model.load_state_dict(dict(weights))


TASKS = {
    "language_model": "seqkit.tasks.language_model.task:LanguageModelTask",
    "sentiment": "seqkit.tasks.sentiment.task:SentimentTask",
    "slots": "seqkit.tasks.slots.task:SlotsTask",
    "translation": "seqkit.tasks.translation.task:TranslationTask",
}
"""What `task` may be; each is imported when it is named."""


class RunConfig(Section):
    """The top level of a configuration, whatever the task."""

    task: Annotated[str, OneOf("task", TASKS, RunTask)]
    """The name of a task, or `mypackage.module:MyTask`."""
    name: str | None = None
    """Name of the run, which is written to runs/NAME; null: a new numbered folder."""
    seed: int = Field(default=1, ge=0, lt=2**62)
    """Seed of every random generator."""
    device: Annotated[str, AfterValidator(check_name)] = "auto"
    """Where to compute: cpu, cuda, mps, xpu, one of several by its number (cuda:1), or auto: the first of CUDA, mps,
    xpu and the CPU that this machine has."""
    init: InitConfig | None = None
    lora: LoraConfig | None = None
    training: TrainingConfig = TrainingConfig()
    _names: Names = PrivateAttr(default_factory=Names)  # how the modules that it names were found

    @model_validator(mode="after")
    def _something_to_adapt(self) -> RunConfig:
        if self.lora is not None and self.init is None:
            raise ValueError("lora needs weights that have learned something: give an init section too")
        return self
