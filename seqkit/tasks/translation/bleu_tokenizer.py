"""Which of sacreBLEU's tokenizers fits a language: by the script that it is written in."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

READ = 20_000
"""Texts that are looked at."""

# Unicode names of letters -> the script: those whose words have no spaces between them, and Korean, whose words are
# phrases. Mongolian, Ethiopic and the like are not among them.
_SCRIPTS = {
    "CJK": "Chinese",
    "IDEOGRAPHIC": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "KATAKANA-HIRAGANA": "Japanese",
    "HANGUL": "Korean",
    "THAI": "Thai",
    "LAO": "Lao",
    "KHMER": "Khmer",
    "MYANMAR": "Burmese",
    "TIBETAN": "Tibetan",
    "BOPOMOFO": "Bopomofo",
    "YI": "Yi",
    "JAVANESE": "Javanese",
    "BALINESE": "Balinese",
    "SUNDANESE": "Sundanese",
    "CHAM": "Cham",
    "TAI": "Tai",
    "NEW TAI": "Tai",
}
_SHARE = 0.15  # of all letters, from which on a text counts as one without spaces: names and terms are often Latin
_OTHER = 0.1  # of those letters: with so much kana or Hangul beside Han it is not Chinese


@dataclass(frozen=True)
class Fitting:
    """A tokenizer of sacreBLEU, and why it is that one."""

    name: str
    why: str


@lru_cache(1 << 14)
def _script(character: str) -> str:
    """Return the script of a letter, "other" for one whose words stand between spaces, "" for what is not a letter."""
    if unicodedata.category(character)[0] not in "LM":
        return ""
    words = unicodedata.name(character, "").removeprefix("HALFWIDTH ").split()
    return _SCRIPTS.get(" ".join(words[:2]), _SCRIPTS.get(words[0] if words else "", "other"))


def fitting_tokenizer(texts: Iterable[str]) -> Fitting:
    """Return the tokenizer for BLEU by the script of texts: zh for Han, char for Japanese, Korean, Thai and the other
    scripts that put no space between words, else 13a. The first `READ` texts are looked at."""
    characters: Counter[str] = Counter()
    for text in islice(texts, READ):
        characters.update(text)
    counts: Counter[str] = Counter()
    for character, number in characters.items():
        if script := _script(character):
            counts[script] += number
    letters, spaced = counts.total(), counts.pop("other", 0)
    unspaced = letters - spaced
    if not letters or unspaced < _SHARE * letters:
        return Fitting("13a", "their words stand between spaces" if letters else "they hold no letters")
    if counts["Chinese"] > (1 - _OTHER) * unspaced:
        return Fitting("zh", f"{unspaced / letters:.0%} of their letters are Chinese")
    # Japanese and Korean are written with Han beside their own letters.
    own = max((name for name in counts if name != "Chinese"), key=lambda name: counts[name])
    return Fitting("char", f"{unspaced / letters:.0%} of their letters are {own}")


def settled(tokenize: str, targets: Iterable[str]) -> tuple[str, str]:
    """Return the tokenizer of a run that begins with this `scoring.tokenize`, and a line that says which and why."""
    if tokenize != "auto":
        return tokenize, f"BLEU: split by sacreBLEU's {tokenize}, as scoring.tokenize says"
    found = fitting_tokenizer(targets)
    return found.name, f"BLEU: split by sacreBLEU's {found.name}, which fits the training targets: {found.why}"


def cannot_split(tokenize: str, references: Iterable[str]) -> str:
    """Return why BLEU stays 0 where the tokenizer takes whole sentences for words; empty where it does not."""
    found = fitting_tokenizer(references)
    if tokenize not in ("13a", "intl", "none") or found.name == "13a":
        return ""
    return f"{tokenize} cannot split the references ({found.why}); begin a run with scoring.tokenize={found.name}"
