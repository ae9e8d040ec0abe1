"""What the sentiment task says of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqkit import drawing
from seqkit.tasks.explain import plot_bars


@dataclass(frozen=True)
class Prediction:
    """The classes' probabilities for a text; label and probabilities are None and empty for a blank text."""

    label: str | None
    probabilities: dict[str, float]

    def _repr_html_(self) -> str | None:
        return drawing.notebook(self._parts)

    def _parts(self) -> list[str]:
        if self.label is None:
            return [drawing.paragraph("A blank text: no label.")]
        names = sorted(self.probabilities, key=self.probabilities.__getitem__, reverse=True)
        values = [[self.probabilities[name] for name in names]]
        caption = f"The label is {self.label}; the darker, the more probable."
        return [drawing.heat_map(["probability"], names, values, caption, shares=True)]

    def plot(self) -> Any:
        """Return matplotlib axes with a bar for the probability of each label.

        Raises:
            UserError: matplotlib is not installed.
        """
        return plot_bars(list(self.probabilities), list(self.probabilities.values()), "probability")
