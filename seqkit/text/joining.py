"""Tokens back to text, and a text as one line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from seqkit.text.marks import join as join_marked
from seqkit.text.tokenizer import Tokenizer

# Tokens that stand close to the one before (clitics among them), or to the one after.
_CLOSE_LEFT = re.compile(r"[.,:;!?)\]}%…»“”’']+|n['’]t|['’](?:s|re|ve|ll|d|m)", re.I)
_CLOSE_RIGHT = re.compile(r"[(\[{$€£#«„]+")
_BOTH = re.compile(r"[-/]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


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
        text = _join_words(tokens, rules=config.split == "words", chinese=config.split_chinese is True)
    return one_line(text)


def _join_words(tokens: Sequence[str], *, rules: bool, chinese: bool) -> str:
    text, close, quoted, han = "", True, False, False
    for token in tokens:
        quote = rules and set(token) == {'"'}
        was_han, han = han, chinese and bool(_HAN.fullmatch(token))
        left = rules and (_CLOSE_LEFT.fullmatch(token) or _BOTH.fullmatch(token) or (quote and quoted))
        text += token if close or left or (han and was_han) else f" {token}"
        close = rules and bool(_CLOSE_RIGHT.fullmatch(token) or _BOTH.fullmatch(token) or (quote and not quoted))
        quoted ^= quote
    return text
