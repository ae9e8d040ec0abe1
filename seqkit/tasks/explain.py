"""Explanations: which words decided, what was attended to, how surprising each token was, what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from seqkit import drawing
from seqkit.console import table
from seqkit.drawing import number
from seqkit.tasks.attribution import BASELINE, Attribution
from seqkit.tasks.text_trace import LayerTrace, Token, digits, figure_axes, plain_words, words_of


@dataclass(frozen=True)
class Kept:
    """What one layer and direction did with each token, as means over its units.

    Attributes:
        title: which layer and direction.
        gates: the mean of each gate by name, (T,) each.
        still: how much of the memory after each token is still in the final state; None where the cell cannot tell.
        share: the part of the final memory that each token wrote; None as above.
    """

    title: str
    gates: dict[str, list[float]]
    still: list[float] | None
    share: list[float] | None


@dataclass(frozen=True)
class Surprisal:
    """How surprising a token was to a language model.

    Attributes:
        token: as it stands in the text; `<eos>` for its end.
        bits: minus the logarithm to base 2 of its probability.
        rank: 1 for the token that the model thought most probable.
        alternatives: the most probable tokens and their probabilities, best first.
        joined: no white space stands before it.
    """

    token: str
    bits: float
    rank: int
    alternatives: list[tuple[str, float]]
    joined: bool = False


@dataclass(frozen=True)
class Attention:
    """The attention of a translation.

    Attributes:
        outputs: its tokens, T, `<eos>` last where it ends by itself.
        weights: (T, S), over the tokens of the source.
    """

    outputs: list[str]
    weights: list[list[float]]


@dataclass(frozen=True)
class Explanation:
    """Why a model answered as it did. A notebook shows it.

    Attributes:
        text: as it was given.
        answer: what the model answered, in one line; None for a text without tokens.
        tokens: of the text.
        attributions: what each token added to the answer, or to each part of it.
        kept: what each layer and direction kept of each token.
        attention: of a translation whose model has one.
        surprisals: of a language model, for each token and the end.
    """

    text: str
    answer: str | None = None
    tokens: list[Token] = field(default_factory=list)
    attributions: list[Attribution] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    attention: Attention | None = None
    surprisals: list[Surprisal] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the explanation for a terminal."""
        if not self.tokens and not self.surprisals:
            return ["nothing to explain: the text has no tokens"]
        lines = [f"answer: {self.answer}"]
        for attribution in self.attributions:
            lines += ["", *_about(attribution), *_attribution_table(self.tokens, attribution)]
        if self.attention is not None:
            lines += ["", "attention, the source token with the highest weight:", *self._attended()]
        if self.surprisals:
            lines += [
                "",
                "surprise of each token, and what the model expected:",
                *table(_surprise_rows(self.surprisals)),
            ]
        for kept in self.kept:
            lines += ["", f"{kept.title}: means over the units", *table(_kept_rows(self.tokens, kept))]
        return lines

    def _attended(self) -> list[str]:
        assert self.attention is not None
        rows = []
        for output, weights in zip(self.attention.outputs, self.attention.weights, strict=True):
            best = max(range(len(weights)), key=weights.__getitem__) if weights else None
            rows.append([output, *([] if best is None else [self.tokens[best].text, f"{weights[best]:.3f}"])])
        return table(rows)

    def html(self) -> str:
        """Return the explanation as an HTML fragment.

        Raises:
            UserError: jinja2 is not installed.
        """
        if not self.tokens and not self.surprisals:
            return drawing.paragraph("Nothing to explain: the text has no tokens.")
        parts = [drawing.paragraph(f"Answer: {self.answer}".replace("`", "'"))]
        if len(self.attributions) == 1:
            parts += _attribution_parts(self.tokens, self.attributions[0])
        elif self.attributions:
            parts += _attribution_matrix(self.tokens, self.attributions)
        if self.attention is not None:
            parts.append(
                drawing.word_matrix(
                    self.attention.outputs,
                    plain_words(self.tokens),
                    self.attention.weights,
                    "Attention: a row for each token of the translation, a column for each token of the source. The "
                    "darker, the more of the weight lies there; a row adds up to 1.",
                )
            )
        if self.surprisals:
            parts += _surprise_parts(self.surprisals)
        parts += [part for kept in self.kept for part in _kept_parts(self.tokens, kept)]
        return "".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as dicts, lists, texts and numbers."""
        made = asdict(self)
        made["tokens"] = [token.text for token in self.tokens]
        made["baseline"] = BASELINE
        for plain, attribution in zip(made["attributions"], self.attributions, strict=True):
            plain["gap"] = attribution.gap
        rounded: dict[str, Any] = digits(made)
        return rounded

    def _repr_html_(self) -> str | None:
        return drawing.notebook(lambda: [self.html()])

    def plot(self) -> Any:
        """Return matplotlib axes: bars of what each token added, the attention, or the surprise of each token.

        Raises:
            UserError: matplotlib is not installed.
        """
        if self.attention is not None:
            return plot_matrix(self.attention.outputs, plain_words(self.tokens), self.attention.weights, "attention")
        if len(self.attributions) > 1:
            rows = [one.target for one in self.attributions]
            values = [one.best for one in self.attributions]
            return plot_matrix(rows, plain_words(self.tokens), values, "added to the logit", diverging=True)
        if self.surprisals:
            names, heights, label = (
                [one.token for one in self.surprisals],
                [one.bits for one in self.surprisals],
                "bits",
            )
        else:
            best = self.attributions[0].best if self.attributions else []
            names, heights, label = plain_words(self.tokens), best, "added to the logit"
        return plot_bars(names, heights, label)


def kept_of(layers: Sequence[LayerTrace]) -> list[Kept]:
    """Return what layers kept of each token, in short."""
    found = []
    for layer in layers:
        still, share = layer.still(), layer.share
        found.append(
            Kept(
                layer.title,
                {name: value.double().mean(1).tolist() for name, value in layer.gates.items()},
                None if still is None else still.tolist(),
                None if share is None else share.tolist(),
            )
        )
    return found


def plot_bars(names: Sequence[str], heights: Sequence[float], label: str) -> Any:
    """Return matplotlib axes with a bar for each word.

    Raises:
        UserError: matplotlib is not installed.
    """
    axes = figure_axes(0.35 * len(names))
    axes.bar(range(len(heights)), heights)
    axes.set_xticks(range(len(heights)), [name.replace("$", r"\$") for name in names], rotation=90)
    axes.set_ylabel(label)
    return axes


def plot_matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    label: str,
    *,
    diverging: bool = False,
) -> Any:
    """Return matplotlib axes with a matrix of words against words.

    Raises:
        UserError: matplotlib is not installed.
    """
    axes = figure_axes(0.35 * len(columns), 0.3 * len(rows))
    top = max((abs(value) for row in values for value in row), default=1.0) or 1.0
    scale: dict[str, Any] = (
        {"cmap": "PuOr", "vmin": -top, "vmax": top} if diverging else {"cmap": "Blues", "vmin": 0, "vmax": 1}
    )
    image = axes.imshow([list(row) for row in values] or [[0.0]], aspect="auto", **scale)
    axes.set_xticks(range(len(columns)), [name.replace("$", r"\$") for name in columns], rotation=90)
    axes.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in rows])
    axes.xaxis.tick_top()
    axes.figure.colorbar(image, label=label)
    return axes


def _about(attribution: Attribution) -> list[str]:
    """What the numbers of an attribution mean, and whether they add up."""
    difference = attribution.score - attribution.baseline_score
    line = (
        f"{attribution.target}: logit {attribution.score:.4f}, with {BASELINE} for all words "
        f"{attribution.baseline_score:.4f}, difference {difference:.4f}"
    )
    if attribution.gradients is None:
        return [line, "no integrated gradients, which need captum: pip install '.[explain]' in a checkout of seqkit"]
    return [
        line,
        f"integrated gradients add up to {sum(attribution.gradients):.4f} (gap {attribution.gap:.1e}, "
        f"{attribution.steps} steps)",
    ]


def _attribution_table(tokens: Sequence[Token], attribution: Attribution) -> list[str]:
    columns = {"gradients": attribution.gradients, "occlusion": attribution.occlusion}
    shown = {name: values for name, values in columns.items() if values is not None}
    top = max((abs(value) for value in attribution.best), default=0.0) or 1.0
    rows = [["token", *shown, ""]]
    for place, token in enumerate(tokens):
        best = attribution.best[place]
        mark = ("+" if best >= 0 else "-") * round(20 * abs(best) / top)
        rows.append([_shown(token), *(f"{values[place]:+.4f}" for values in shown.values()), mark])
    return table(rows)


def _shown(token: Token) -> str:
    return token.text.replace(" ", "␣") + (" (unknown)" if token.unknown else "")


def _attribution_parts(tokens: Sequence[Token], attribution: Attribution) -> list[str]:
    about = " ".join(f"{line[:1].upper()}{line[1:]}." for line in _about(attribution))
    words, top = (
        words_of(tokens),
        max((abs(value) for value in (*attribution.best, *attribution.occlusion)), default=0.0),
    )
    parts = []
    if attribution.gradients is not None:
        caption = f"Integrated gradients for {attribution.target}: purple words speak for it, orange ones against it."
        parts.append(drawing.marked_words(words, attribution.gradients, f"{caption} {about}", largest=top))
    caption = (
        f"Occlusion: how far the logit of {attribution.target} falls when this word alone is replaced by {BASELINE}; "
        "computed without gradients, as a check."
    )
    if attribution.gradients is None:
        caption += f" {about}"
    parts.append(drawing.marked_words(words, attribution.occlusion, caption, largest=top))
    rows = [
        [_shown(token), *([] if attribution.gradients is None else [_signed(attribution.gradients[place])]),
         _signed(attribution.occlusion[place])]
        for place, token in enumerate(tokens)
    ]  # fmt: skip
    header = ["token", *([] if attribution.gradients is None else ["integrated gradients"]), "occlusion"]
    parts.append(drawing.folded("The numbers", drawing.table(header, rows, f"Logit of {attribution.target}.")))
    return parts


def _signed(value: float) -> str:
    return number(value) if value < 0 else f"+{number(value)}"


def _attribution_matrix(tokens: Sequence[Token], attributions: Sequence[Attribution]) -> list[str]:
    """Several targets: a row for each."""
    names = [one.target for one in attributions]
    has_gradients = all(one.gradients is not None for one in attributions)
    gaps = [abs(one.gap) for one in attributions if one.gap is not None]
    how = "integrated gradients" if has_gradients else "occlusion"
    checked = f" A row adds up to the difference of its logits; the largest gap is {number(max(gaps))}." if gaps else ""
    caption = (
        f"What each token of the text (columns) added to each output (rows), by {how}: purple for it, orange against "
        f"it.{checked} Baseline: {BASELINE}."
    )
    parts = [drawing.word_matrix(names, plain_words(tokens), [one.best for one in attributions], caption, shares=False)]
    if has_gradients:
        caption = f"The same by occlusion, as a check: each token alone is replaced by {BASELINE}."
        values = [one.occlusion for one in attributions]
        other = drawing.word_matrix(names, plain_words(tokens), values, caption, shares=False)
        parts.append(drawing.folded("Occlusion", other))
    header = ["output", "logit", "baseline", "difference"] + ["sum", "gap", "steps"] * has_gradients
    rows = []
    for one in attributions:
        cells = [number(one.score), number(one.baseline_score), _signed(one.score - one.baseline_score)]
        if one.gradients is not None and one.gap is not None:
            cells += [_signed(sum(one.gradients)), _signed(one.gap), f"{one.steps:,}"]
        rows.append([one.target, *cells[: len(header) - 1]])
    caption = f"The logit of each output, of the text and of the baseline, {BASELINE} for all words."
    if has_gradients:
        caption += " The integrated gradients of a row add up to the sum; the gap is what it misses the difference by."
    parts.append(drawing.folded("The logits", drawing.table(header, rows, caption)))
    return parts


def _surprise_rows(surprisals: Sequence[Surprisal]) -> list[list[str]]:
    rows = [["token", "bits", "rank", "expected"]]
    for one in surprisals:
        expected = ", ".join(f"{token} {share:.2f}" for token, share in one.alternatives)
        rows.append([one.token.replace(" ", "␣"), f"{one.bits:.2f}", str(one.rank), expected])
    return rows


def _surprise_parts(surprisals: Sequence[Surprisal]) -> list[str]:
    words = [drawing.Word(one.token, one.joined) for one in surprisals]
    caption = (
        "The darker a token, the more it surprised the model, in bits: 1 bit is a coin's toss, 10 bits one in 1,024."
    )
    header, *rows = _surprise_rows(surprisals)
    return [
        drawing.marked_words(words, [one.bits for one in surprisals], caption, shares=True),
        drawing.table(header, rows, "Each token with what the model expected in its place, and the probabilities."),
    ]


def _kept_rows(tokens: Sequence[Token], kept: Kept) -> list[list[str]]:
    columns = dict(kept.gates)
    if kept.still is not None and kept.share is not None:
        columns |= {"still there": kept.still, "share of the final memory": kept.share}
    rows = [["token", *columns]]
    for place, token in enumerate(tokens):
        rows.append([_shown(token), *(f"{values[place]:.3f}" for values in columns.values())])
    return rows


def _kept_parts(tokens: Sequence[Token], kept: Kept) -> list[str]:
    parts = []
    if kept.share is not None:
        caption = (
            f"What {kept.title} kept: the darker a word, the larger its share of the final memory. It is what the word "
            "wrote, times the product of what each later step keeps."
        )
        parts.append(drawing.marked_words(words_of(tokens), kept.share, caption, shares=True))
    header, *rows = _kept_rows(tokens, kept)
    if len(header) > 1:
        caption = f"{kept.title.capitalize()}: means over the units."
        parts.append(drawing.folded(f"Gates of {kept.title}", drawing.table(header, rows, caption)))
    return parts
