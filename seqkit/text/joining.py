"""Tokens back to text, and a text as one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from seqkit.text.config import TextConfig
from seqkit.text.marks import join as join_marked
from seqkit.text.tokenizer import Tokenizer

# Tokens that stand close to the one before (clitics among them), to the one after, or to one or the other in turn.
_RULES = {
    "left": r"[-/]|[.,:;!?)\]}%…»“”’']+|(?i:n['’]t|['’](?:s|re|ve|ll|d|m))",
    "right": r"[-/]|[(\[{$€£#«„]+",
    "quote": '"+',
}
_HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_NEVER = "(?!)"


def one_line(text: str) -> str:
    """Write a space for each line end inside a text (all that `str.splitlines` knows), nothing for one at its end."""
    return " ".join(text.splitlines())


def has_line_end(text: str) -> bool:
    """Return whether a line ends in the text, or at its end."""
    return text.splitlines() not in ([], [text])


def join_tokens(tokens: Sequence[str], tokenizer: Tokenizer) -> str:
    """Join tokens to a line of text, as far as the tokenizer's kind says where spaces belong.

    The pieces of bpe, unigram and char hold their spaces, and words that are marked say where there is none. Of words
    without marks those that were split at spaces are joined by them; those that were split from punctuation are put
    together by rules for European languages: `( well - known , )` becomes `(well-known,)`. Chinese characters that were
    tokens of their own stand close together. A line end that was learned from a target is written as a space.
    """
    config = tokenizer.config
    if config.marked:
        text = join_marked(tokens)
    elif config.kind == "char":
        text = "".join(tokens)
    elif config.kind != "word":
        text = "".join(tokens).replace("▁", " ").removeprefix(" ")
    else:
        text = _join_words(tokens, word_patterns(config))
    return one_line(text)


def word_patterns(config: TextConfig) -> dict[str, str]:
    """Return patterns of whole words by which words without marks are joined.

    Returns:
        `left`: a word without a space before it; `right`: without a space behind it; `quote`: which is both in turn;
        `alike`: without a space between two of them.
    """
    rules = _RULES if config.split == "words" else dict.fromkeys(_RULES, _NEVER)
    return {**rules, "alike": _HAN if config.split_chinese is True else _NEVER}


def _join_words(tokens: Sequence[str], patterns: Mapping[str, str]) -> str:
    left, right, quote, alike = (re.compile(patterns[name]).fullmatch for name in ("left", "right", "quote", "alike"))
    text, close, quoted, last = "", True, False, None
    for token in tokens:
        quotes, same = quote(token), alike(token)
        text += token if close or left(token) or (quotes and quoted) or (last and same) else f" {token}"
        close = bool(right(token) or (quotes and not quoted))
        quoted, last = quoted ^ bool(quotes), same
    return text
