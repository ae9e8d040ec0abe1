"""The sections `init:` and `lora:`: what a model starts from, and what is trained of that."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from pydantic import Field, model_validator

from seqkit.config import Section, from_signature
from seqkit.nn.lora import add_lora, check_numbers
from seqkit.training.config import Patterns
from seqkit.training.patterns import matches
from seqkit.training.weight_map import Choice


class InitConfig(Section):
    """`init:` weights to start from; what is not taken is reported.

    Rows that stand for words, classes or tags are matched by name. A word that both vocabularies have keeps its vector.
    Where an embedding is taken from a run and there is no `text:` section, the run's tokenizer is kept with it.
    """

    run: str | None = None
    """A run folder, of any task, to take weights from."""
    torch: str | None = None
    """A state dict of any other torch model instead: safetensors, or written by torch.save. Nothing in it is ever
    executed."""
    take: Patterns = []
    """Take only the weights whose names in the new model match one of these patterns (`encoder.*`, as in a shell)."""
    leave: Patterns = []
    """Do not take the weights whose names in the new model match one of these."""
    map: dict[str, Patterns] = {}
    """Name of a weight there, or the beginning of names (`lstm.`), -> its name in the new model, or several names. The
    longest entry that fits holds; a weight without an entry keeps its name."""
    new_rows: Literal["mean", "fresh"] = "mean"
    """What words start from that the earlier vocabulary lacks: "mean", the mean of the vectors taken over; "fresh", new
    random vectors. Words with a pretrained vector start from that. New classes and tags always start at random."""
    vocabulary: str | None = None
    """With `torch`: a file that names the words of the embedding's rows there, one word a line."""

    @model_validator(mode="after")
    def _consistent(self) -> InitConfig:
        if (self.run is None) == (self.torch is None):
            raise ValueError("give one of run (a run folder) and torch (a state dict)")
        if self.vocabulary is not None and self.torch is None:
            raise ValueError("vocabulary: belongs to init.torch; a run brings its own")
        for name, targets in self.map.items():
            if not targets:
                raise ValueError(f"map: {name!r} maps to nothing; init.leave skips a weight")
        return self

    @property
    def choice(self) -> Choice:
        """The same for `transfer_weights`."""
        return Choice(self.take, self.leave, self.map, self.new_rows)

    def takes(self, name: str) -> bool:
        """Return whether a weight of that name here would be taken."""
        return (not self.take or matches(name, self.take)) and not matches(name, self.leave)


class _Buildable(Section):
    """`lora:` freeze the weights that `init` gives, except what `train` names, and train low-rank adapters on `on`.

    The run folder gets plain weights, the adapters added in: whatever loads a run knows nothing of them.
    """

    @model_validator(mode="after")
    def _sensible(self) -> _Buildable:
        check_numbers(**self.model_dump(include={"rank", "alpha", "dropout"}))
        return self


def _patterns(name: str) -> Any:
    return Patterns, Field(default=list(inspect.signature(add_lora).parameters[name].default))


LoraConfig: Any = from_signature(
    "LoraConfig",
    add_lora,
    skip=("model",),
    base=_Buildable,
    on=_patterns("on"),
    train=_patterns("train"),
)
