"""From a `TextConfig` to the parts of a `tokenizers.Tokenizer`: normaliser, splitter, decoder.

All of it is expressed in the library's own components, so its JSON needs no file beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from seqkit.errors import UserError, nearest
from seqkit.files import read_bytes
from seqkit.text import marks
from seqkit.text.config import TextConfig
from seqkit.text.patterns import any_of

PAD, UNK, BOS, EOS = SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
"""The first four entries of every vocabulary: ids 0, 1, 2, 3."""

SPACE = "▁"  # how bpe and unigram write a space, so that a piece knows whether it begins a word

_LETTER = r"[\p{L}\p{M}\p{N}_]"
_END = rf"(?!{_LETTER})"
# In this order: numbers; the word before n't; clitics; words; runs of one punctuation mark.
_WORD = "|".join(
    (
        r"\p{N}+(?:[.,:]\p{N}+)+" + _END,
        rf"{_LETTER}{{1,32}}?(?=[nN]['’][tT]{_END})",
        rf"[nN]['’][tT]{_END}",
        rf"['’](?:[sS]|[rR][eE]|[vV][eE]|[lL][lL]|[dD]|[mM]){_END}",
        rf"{_LETTER}+",
        r"([^\s\p{L}\p{M}\p{N}_])\1*",
    )
)
# The same where own marks are escaped.
_MARKED_WORD = marks.OWN_RUN + "|" + _WORD.replace(r"\1", r"\2")
# Pieces of at most 64 characters: merging is quadratic in the length of a piece. Every character belongs to a piece.
_KINDS = (r"[\p{L}\p{M}]", r"\p{N}", rf"[^{SPACE}\p{{L}}\p{{M}}\p{{N}}]")
_SUBWORD = "|".join(rf"{SPACE}?{kind}{{1,64}}" for kind in _KINDS)
_CHUNK = rf"{SPACE}?[^{SPACE}]{{1,64}}"
# A special token written out in a text must not become one (<unk> may: it means the same).
_SPECIAL = r"<(?=(?:pad|bos|eos)>)"


_LONGEST_STOP_WORD = 100  # characters; the pattern nests as deep as the words share their beginnings


def normalizer(config: TextConfig) -> Any:
    """Return Unicode form, accents, case; for bpe and unigram also the space mark. None where nothing is to do."""
    form = "nfc" if config.normalize == "none" and config.strip_accents else config.normalize
    parts: list[Any] = []
    if config.strip_accents:
        parts += [normalizers.NFKD() if form.startswith("nfk") else normalizers.NFD(), normalizers.StripAccents()]
    if form != "none":
        parts.append(getattr(normalizers, form.upper())())
    if config.lowercase:
        parts.append(normalizers.Lowercase())
    if config.tokenizer in ("bpe", "unigram"):
        parts += [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    if config.marked:
        parts += marks.normalising(config.is_foreign)
    return normalizers.Sequence(parts) if parts else None


def splitter(config: TextConfig, kept: Iterable[str] | None = None) -> Any:
    """Return the pre-tokenizer: words or white space, Chinese characters, marks, then stop words. None for char.

    What another library has split it only keeps from being a special token.

    Args:
        config: the settings.
        kept: the marked entries of the vocabulary, where words are marked; None while there is no vocabulary.
    """
    if config.tokenizer == "char":
        return None
    if config.marked:
        parts = [*_marked_pieces(config), *marks.marking(config.is_foreign)]
    elif config.is_foreign:
        return pre_tokenizers.Split(Regex(_SPECIAL), "isolated")
    else:
        parts = _pieces(config)
    words = _stop_words(config)
    if words:
        before = marks.MARK if config.marked else SPACE
        parts.append(pre_tokenizers.Split(Regex(rf"(?i)\A{before}?{any_of(words)}\z"), "removed"))
    if config.marked and kept is not None:
        parts.append(marks.parting(kept))
    return pre_tokenizers.Sequence(parts)


def _pieces(config: TextConfig) -> list[Any]:
    """Return the steps that split texts, for bpe and unigram with the space mark before a piece."""
    config = config.settled()
    subword = {"word": False, "bpe": True, "unigram": True}[config.tokenizer]
    if {"words": True, "spaces": False}[config.split]:
        parts = [_matches(_SUBWORD + "|" + SPACE if subword else _WORD)]
    else:
        parts = [_matches(_CHUNK + "|" + SPACE) if subword else pre_tokenizers.WhitespaceSplit()]
        parts.append(pre_tokenizers.Split(Regex(_SPECIAL), "isolated"))
    if config.split_chinese:
        parts.append(pre_tokenizers.Split(Regex(rf"{SPACE}?\p{{Han}}"), "isolated"))
    return parts


def _marked_pieces(config: TextConfig) -> list[Any]:
    """Return the same for words that are marked, with one of the characters of white space before a word."""
    config, parts = config.settled(), []
    words = {"words": True, "spaces": False}[config.split]
    if not config.is_foreign:
        parts.append(_matches(rf"\s?(?:{_MARKED_WORD})" if words else r"\s?\S+"))
    if config.is_foreign or not words:
        parts.append(pre_tokenizers.Split(Regex(rf"\s?{_SPECIAL}"), "isolated"))
    if config.split_chinese and not config.is_foreign:
        parts.append(pre_tokenizers.Split(Regex(r"\s?\p{Han}"), "isolated"))
    return parts


def decoder(config: TextConfig) -> Any:
    """Return how tokens join: None (with spaces) for word, seamlessly for the others and where words are marked."""
    if config.marked:
        return marks.decoder()
    if config.kind == "word":
        return None
    if config.kind == "char":
        return decoders.Fuse()
    return decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def _matches(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "removed", invert=True)


def _stop_words(config: TextConfig) -> list[str]:
    """Return the words to drop, normalised and sorted.

    Raises:
        UserError: no such file, not UTF-8, no word in it, or a line that the tokenizer would split.
    """
    if config.stop_words == "none":
        return []
    if config.stop_words == "english":
        name = "the built-in list"
        data = resources.files("seqkit.text").joinpath("stop_words_en.txt").read_bytes()
    else:
        name = config.stop_words
        data = _read(Path(name))
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name}:{line}: not UTF-8 text (byte {data[error.start]:#04x})") from None
    # The same steps, without marks: a stop word has no place in a sentence.
    normal = normalizer(config.model_copy(update={"tokenizer": "word", "mark_joined": False}))
    split = pre_tokenizers.Sequence(_pieces(config))
    words = set()
    for number, line_text in enumerate(lines, 1):
        word = line_text.strip()
        if not word or word.startswith("#"):
            continue
        word = word if normal is None else normal.normalize_str(word)
        pieces = [piece for piece, _ in split.pre_tokenize_str(word)]
        if pieces != [word] and config.stop_words == "english":
            continue  # a clitic, which bpe and unigram do not make a token
        if len(word) > _LONGEST_STOP_WORD:
            raise UserError(f"{name}:{number}: a word of {len(word):,} characters; expected one word a line")
        if pieces != [word]:
            raise UserError(
                f"{name}:{number}: {word!r} is {len(pieces)} tokens ({' '.join(pieces)}); expected one word a line"
            )
        words.add(word)
    if not words:
        raise UserError(f"{name}: no word in this stop word list; expected one a line")
    return sorted(words)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path.expanduser())
    except FileNotFoundError:
        hint = nearest(str(path), ["none", "english"])
        raise UserError(f"stop_words: no such file: {path} (or none, or english){hint}") from None
    except OSError as error:
        raise UserError(f"stop_words: {path} cannot be read ({error.strerror})") from None
    except RuntimeError as error:  # no such ~user
        raise UserError(f"stop_words: {path} cannot be read ({error})") from None
