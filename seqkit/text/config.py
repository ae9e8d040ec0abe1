"""The `text` section of a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from seqkit.config import Section
from seqkit.errors import nearest

FOREIGN = "torchtext:"
_NAMES = ("word", "bpe", "unigram", "char")


class TextConfig(Section):
    """How a text becomes tokens: normalise, split, drop stop words, look up, cut to length, in this order."""

    tokenizer: str = Field(default="word", json_schema_extra={"pattern": f"^({'|'.join(_NAMES)}|{FOREIGN}.+)$"})
    """word: whole words. bpe, unigram: pieces of words (Sennrich et al. 2016; Kudo 2018). char: one token a Unicode
    code point. torchtext:NAME: words as torchtext's tokenizer of that name splits them (basic_english, moses, ...);
    needs torch 2.3 and torchtext."""
    split: Literal["auto", "words", "spaces"] = "auto"
    """words: punctuation and English clitics (n't, 's) are tokens of their own, at white space and inside words joined
    by a hyphen. spaces: only white space separates, for text that is tokenised already. auto: words; for slot filling
    the one of the two that splits the training sentences, written with spaces, as their tokens are. char has no words
    and takes the default only."""
    lowercase: bool = False
    """Lower-case the text."""
    normalize: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] = "nfc"
    """Unicode normalisation form (Unicode Standard Annex 15)."""
    strip_accents: bool = False
    """Remove the combining marks: é becomes e. Scripts that write vowels as marks (Hindi) lose them."""
    split_chinese: Literal["auto"] | bool = "auto"
    """Each Chinese (Han) character is a token of its own; char does so in any case. auto: true; for slot filling as the
    training sentences have it."""
    mark_joined: bool | None = None
    """Mark each word that stands without white space before it (L'homme: L ￭' ￭homme), so that texts can be put
    together again as they were. The marked form is an entry of its own; vectors, stop words and init see it without the
    mark, and one that is not in the vocabulary is two tokens, ￭ and the word. For word and torchtext:NAME; the others
    keep spaces in any case. Default: yes for texts that are written (targets of translation, both sides where joint;
    language models), else no."""
    vocab_size: int | None = Field(default=None, gt=4, lt=2**31)
    """Largest vocabulary, the four special tokens included; the most frequent survive. Default: no limit for word and
    char, 8000 for bpe and unigram."""
    min_frequency: int = Field(default=1, gt=0, lt=2**31)
    """A word or character (bpe: a merge) seen fewer times in training is unknown. Not for unigram."""
    max_length: int | None = Field(default=None, gt=0)
    """Longest sequence, in tokens, <bos> and <eos> included; longer ones are cut."""
    keep: Literal["start", "end"] = "start"
    """Which end of a text survives max_length."""
    stop_words: str = "none"
    """Words to drop, whatever their case: none, english (a built-in list without negations), or the path of a UTF-8
    file with one word a line. Not for char."""
    add_bos: bool = False
    """Put <bos> before every sequence."""
    add_eos: bool = False
    """Put <eos> after every sequence."""

    @model_validator(mode="after")
    def _consistent(self) -> TextConfig:
        if self.tokenizer not in _NAMES and not self.tokenizer.startswith(FOREIGN):
            names = [*_NAMES, f"{FOREIGN}basic_english"]
            hint = nearest(self.tokenizer, names)
            raise ValueError(f"tokenizer: expected {', '.join(names)}, ..., got {self.tokenizer!r}{hint}")
        if self.tokenizer == "char" or self.is_foreign:
            why = "splits by itself" if self.is_foreign else "has no words"
            defaults = (("split", "auto", "words"), ("stop_words", "none", "none"), ("split_chinese", "auto", True))
            for name, value, settled in defaults:
                if getattr(self, name) not in (value, settled):
                    raise ValueError(
                        f"{name}: the {self.tokenizer} tokenizer {why}; leave it at its default ({value!r})"
                    )
        if self.mark_joined and self.kind != "word":
            raise ValueError(f"mark_joined: the {self.tokenizer} tokenizer keeps spaces in any case; leave it out")
        if self.tokenizer == "unigram" and self.min_frequency != 1:
            raise ValueError("min_frequency: the unigram tokenizer does not count words; use vocab_size")
        if self.max_length is not None and self.max_length <= self.add_bos + self.add_eos:
            raise ValueError("max_length: leaves no room for a token beside <bos> and <eos>")
        return self

    def settled(self) -> TextConfig:
        """Return the same settings with what `auto` stands for instead of it."""
        chosen = {"split": "words", "split_chinese": True}
        return self.model_copy(update={key: value for key, value in chosen.items() if getattr(self, key) == "auto"})

    @property
    def is_foreign(self) -> bool:
        """Return whether another library splits the texts."""
        return self.tokenizer.startswith(FOREIGN)

    @property
    def kind(self) -> str:
        """Return what the tokens are: word, bpe, unigram or char."""
        return "word" if self.is_foreign else self.tokenizer

    @property
    def marked(self) -> bool:
        """Return whether words without white space before them are marked."""
        return bool(self.mark_joined)

    def for_writing(self) -> TextConfig:
        """Return the same settings for texts that are written: words are marked unless the settings say no."""
        if self.mark_joined is not None or self.kind != "word":
            return self
        return self.model_copy(update={"mark_joined": True})
