"""What the references themselves would score: a model that is always right writes them as its tokenizer can."""

from __future__ import annotations

from collections.abc import Mapping

from seqkit.tasks.translation.bleu_tokenizer import READ, cannot_split
from seqkit.tasks.translation.data import Pairs
from seqkit.tasks.translation.metrics import CorpusScores
from seqkit.text import Tokenizer
from seqkit.text.joining import join_tokens

_ENOUGH = 99.0
_FIRST = 2_000  # references that are looked at


def reachable(splits: Mapping[str, Pairs], target: Tokenizer, scores: CorpusScores) -> list[str]:
    """Return lines for the report: BLEU and chrF of references that are tokenised and joined again.

    Args:
        splits: the parts of the data; what is told is of dev, or else of test, or of training.
        target: tokenizer of the target.
        scores: of the run.

    Returns:
        lines: with unknown words as they stand in the text, which is what joining can lose; where there are some, also
        with `<unk>` in their places; and a warning where joining costs more than a point of BLEU.
    """
    part = next((part for part in ("dev", "test", "train") if part in splits), None)
    if part is None:
        return []
    references = splits[part].texts("target", _FIRST)
    unknown = target.vocabulary[target.unk_id]
    whole, told = [], []
    for text in references:
        tokens = target.tokens(text)
        told.append(join_tokens(tokens, target))
        if unknown in tokens:
            pieces = [target.written(*pair) for pair in target.placed(text)]
            tokens = [piece if token == unknown else token for token, piece in zip(tokens, pieces, strict=True)]
        whole.append(join_tokens(tokens, target))
    best, itself = scores(whole, references), scores(references, references)
    line = f"{part} references, tokenised and joined again: BLEU {best['bleu']:.1f}, chrF {best['chrf']:.1f}"
    if told != whole:
        least = scores(told, references)
        line += f"; with {unknown} for unknown words BLEU {least['bleu']:.1f}, chrF {least['chrf']:.1f}"
    lines = [f"{line}: what a model that is always right reaches"]
    lost = itself["bleu"] - best["bleu"]
    if counts_nothing(itself):
        lines.append(f"warning: BLEU is 0 for the references themselves: {FEW_WORDS}")
    if lost > 100 - _ENOUGH:
        first = next((pair for pair in zip(references, whole, strict=True) if pair[0].split() != pair[1].split()), None)
        joining = "" if target.config.marked or target.config.kind != "word" else "mark_joined, "
        lines.append(
            f"warning: {lost:.1f} BLEU are lost in tokenising and joining the target, whatever the model learns"
            + (f" ({first[0]!r:.80} becomes {first[1]!r:.80})" if first else "")
            + f"; see text.target: {joining}lowercase, strip_accents, normalize, stop_words"
        )
    return lines


FEW_WORDS = (
    "it counts groups of up to four words, and no reference has four as scoring.tokenize splits them; "
    "training.metric=chrf chooses by another score"
)


def counts_nothing(itself: Mapping[str, float]) -> bool:
    """Return whether BLEU is 0 whatever is written, by the scores of the references against themselves."""
    return itself["bleu"] == 0


def why_bleu_is_zero(dev: Pairs, tokenize: str, scores: CorpusScores) -> str:
    """Return why BLEU is 0 whatever a model learns: its tokenizer cannot split the script, or the references are too
    short.

    Returns:
        the reason, "" where there is none of these.
    """
    references = dev.texts("target", READ)
    few = FEW_WORDS if counts_nothing(scores(references, references)) else ""
    return cannot_split(tokenize, references) or few
