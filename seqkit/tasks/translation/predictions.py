"""Translations: what the search found as text, and how a line of output shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from seqkit import drawing
from seqkit.errors import UserError, require
from seqkit.files import to_json
from seqkit.tasks.explain import plot_matrix
from seqkit.tasks.lines import as_json
from seqkit.text.joining import one_line


@dataclass(frozen=True)
class Translation:
    """One translation; a blank text has an empty one.

    Attributes:
        text: as it would be written.
        tokens: what `text` was put together from.
        score: what the search ranks by, None for a blank text.
        log_probs: natural log-probability of each token, and last of <eos> where `finished`.
        finished: it ends by itself, and was not cut at the maximum length.
        source_tokens: of the text that was translated, as it stands there.
        attention: (T, S) weights over the source tokens, T as in `log_probs`; None where none was kept.
        n_best: all that was asked for, best first; the first is this one (without its own n_best).
    """

    text: str
    tokens: list[str] = field(default_factory=list)
    score: float | None = None
    log_probs: list[float] = field(default_factory=list)
    finished: bool = True
    source_tokens: list[str] = field(default_factory=list)
    attention: Tensor | None = None
    n_best: tuple[Translation, ...] = ()

    def _repr_html_(self) -> str | None:
        return drawing.notebook(self._parts)

    def _parts(self) -> list[str]:
        parts = [drawing.labelled_text([(self.text, "")], f"Score {self.score:.4g}." if self.score is not None else "")]
        if self.n_best:
            rows = [[one.text, "" if one.score is None else f"{one.score:.4g}"] for one in self.n_best]
            parts.append(drawing.table(["translation", "score"], rows, "All that the search found, best first."))
        if self.attention is not None and self.tokens:
            caption = "Attention: a row for each token of the translation, a column for each token of the source."
            weights = self.attention[: len(self._rows)].tolist()
            parts.append(drawing.word_matrix(self._rows, self.source_tokens, weights, caption))
        return parts

    @property
    def _rows(self) -> list[str]:
        return self.tokens + ["<eos>"] * (len(self.log_probs) - len(self.tokens))

    def plot(self) -> Any:
        """Return matplotlib axes with the attention: a row for each token of the translation, a column for each token
        of the source.

        Raises:
            UserError: matplotlib is not installed, or no attention was kept.
        """
        if self.attention is None:
            refuse_without_attention()
        weights = self.attention[: len(self._rows)].tolist()
        return plot_matrix(self._rows, self.source_tokens, weights, "attention")

    def alignment(self) -> list[tuple[int, int]]:
        """(place in the source, place in the translation): for each token the source token with the most attention.

        Raises:
            UserError: no attention was kept.
        """
        if not self.tokens:
            return []
        if self.attention is None:
            refuse_without_attention()
        best = self.attention[: len(self.tokens)].argmax(1).tolist()
        return [(place, number) for number, place in enumerate(best)]


def refuse_without_attention() -> NoReturn:
    """Where attention is needed and was not kept.

    Raises:
        UserError: always.
    """
    raise UserError(
        "there is no attention: this model has none, or models with different source tokens decode together"
    )


def format_translation(found: Translation, form: str, *, number: int = 0, alignments: bool = False) -> str:
    """Write a translation as one line, or each of several n-best as a line.

    Args:
        found: what to show.
        form: `text` or `jsonl`.
        number: of the sentence, from 0; n-best lists in the form `text` begin with it, as Moses writes them:
            `number ||| text ||| score`.
        alignments: add `||| 0-0 1-2 ...`, pairs of places (source-translation), or the same as a key.

    Raises:
        UserError: alignments are wanted and there was no attention.
    """
    if as_json(form):
        return to_json(_as_dict(found, alignments))
    if not found.n_best:
        return one_line(found.text) + _aligned(found, alignments)
    lines = []
    for one in found.n_best:
        score = "" if one.score is None else f"{one.score:.6g}"
        lines.append(f"{number} ||| {one_line(one.text)} ||| {score}{_aligned(one, alignments)}")
    return "\n".join(lines)


def _aligned(found: Translation, wanted: bool) -> str:
    return " ||| " + " ".join(f"{s}-{t}" for s, t in found.alignment()) if wanted else ""


def _as_dict(found: Translation, alignments: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "translation": found.text,
        "score": found.score,
        "finished": found.finished,
        "tokens": found.tokens,
        "log_probs": [round(value, 6) for value in found.log_probs],
    }
    if alignments:
        shown["source_tokens"] = found.source_tokens
        shown["alignment"] = found.alignment()
    if found.n_best:
        shown["n_best"] = [_as_dict(one, alignments) for one in found.n_best]
    return shown


def check_plot(path: Path) -> None:
    """Refuse what `plot_attention` would refuse after the translation.

    Raises:
        UserError: matplotlib is not installed, or draws no file with this ending.
    """
    require("matplotlib", "plot")
    known = require("matplotlib.backend_bases", "plot").FigureCanvasBase.get_supported_filetypes()
    ending = path.suffix.removeprefix(".").lower()
    if ending not in known:
        raise UserError(f"{path}: cannot be written (expected the ending .png, .pdf or .svg, got {path.suffix!r})")


def plot_attention(found: Translation, path: Path) -> None:
    """Draw the attention of a translation: a row a token of it, a column a token of the source.

    Raises:
        UserError: matplotlib is not installed, no attention was kept, or the file cannot be written.
    """
    axes = found.plot()
    try:
        axes.figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: a format that matplotlib does not know
        raise UserError(f"{path}: cannot be written ({error})") from None
