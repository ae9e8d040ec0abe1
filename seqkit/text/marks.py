"""Words that stand without white space before them carry a mark, so that a text can be put together again.

The mark is `￭`, as in OpenNMT's tokenizer: `L'homme, ici` is `L ￭' ￭homme ￭, ici`. What begins a text has none. A
word whose marked form is not in the vocabulary has the mark before it as a token of its own: `￭ <unk>`. A text's own
`￭` is escaped, so that nothing in it is mistaken for a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from seqkit.text.patterns import any_of

MARK = "￭"
SPACED = "\t"  # on the way through the library: stands before a word that has white space before it
# How characters that mean something here are written within a word. A space is part of a word only where another
# library splits.
_OWN = {"￮": "￮0", MARK: "￮1", " ": "￮2"}
OWN_RUN = r"(￮[01])\1*"
"""A run of one such character, as a pattern with one group."""
_FAR = 40  # characters behind the last word, within which the next one is looked for
_LONGEST_LISTED = 100  # characters; the pattern of known words nests as deep as they share their beginnings
# White_Space of Unicode, by which the patterns of the library go: Python counts these four more.
_NO_SPACE = "\x1c\x1d\x1e\x1f"


def is_marked(token: str) -> bool:
    """Return whether an entry of a marked vocabulary is a word that stands without white space before it."""
    return token.startswith(MARK) and token != MARK


def plain(token: str) -> str:
    """Return an entry of a marked vocabulary as it stands in a text."""
    token = token.removeprefix(MARK)
    if "￮" in token:
        token = re.sub("￮([012])", lambda found: list(_OWN)[int(found[1])], token)
    return token


def written(word: str, joined: bool) -> str:
    """Return a word of a text as the entry of a marked vocabulary that it would be."""
    return MARK * joined + "".join(_OWN.get(character, character) for character in word)


def join(tokens: Iterable[str]) -> str:
    """Return the text of entries of a marked vocabulary; a space before each that has no mark, but the first."""
    parts: list[str] = []
    joined = True
    for token in tokens:
        if token == MARK:
            joined = True
            continue
        parts += [plain(token)] if joined or is_marked(token) else [" ", plain(token)]
        joined = False
    return "".join(parts)


def is_space(character: str) -> bool:
    """Return whether it is white space, and so a border of words."""
    return character.isspace() and character not in _NO_SPACE


def spaced(words: Sequence[str], text: str) -> list[str]:
    """Words of a text that another library made, each that has white space before it there with a tab before it.

    A word that is not found behind the last one was changed by that library, and counts as one with white space before
    it; so does what begins the text, and a word that begins with white space itself.
    """
    found: list[str] = []
    place, changed = 0, False  # where the last word ends that was found, and whether others came after it
    lower = text.lower()
    forms = [text, lower] if len(lower) == len(text) else [text]
    for word in words:
        end = place + _FAR + len(word)
        # The nearest in either form: behind `The`, which became `the`, another `the` may follow.
        at = min((at for form in forms if word and (at := form.find(word, place, end)) >= 0), default=-1)
        if at < 0:
            joined, changed = False, True
        else:  # where nothing came between, what stands there was dropped, and no white space may be in it
            joined = bool(found) and not any(map(is_space, text[at - 1 : at] if changed else text[place:at]))
            place, changed = at + len(word), False
        found.append(word if joined and not word[:1].isspace() else SPACED + word)
    return found


def normalising(foreign: bool) -> list[Any]:
    """Return the last steps of a normaliser: own marks are escaped, spaces become tabs, one before the text."""
    escaped = [normalizers.Replace(own, code) for own, code in _OWN.items() if foreign or own != " "]
    return escaped if foreign else [*escaped, normalizers.Prepend(SPACED), normalizers.Replace(" ", SPACED)]


def marking(foreign: bool) -> list[Any]:
    """Return steps of a splitter that mark pieces, which begin with white space where that stands before them.

    Args:
        foreign: whether another library has split, so that further white space belongs to the word.
    """
    space = SPACED if foreign else r"\s"
    mark = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always", split=False)
    return [mark, pre_tokenizers.Split(Regex(rf"\A{MARK}{space}"), "removed")]


def parting(kept: Iterable[str]) -> Any:
    """Return the last step of a splitter: a marked word that the vocabulary lacks becomes the mark and the word.

    Args:
        kept: the entries of the vocabulary that are marked, and the mark itself; without it, it is dropped.
    """
    kept = set(kept)
    way = "isolated" if MARK in kept else "removed"
    listed = sorted(token.removeprefix(MARK) for token in kept - {MARK})
    known = [word for word in listed if len(word) <= _LONGEST_LISTED]
    long = [rf"(?m:.{{{_LONGEST_LISTED + 1},}})"] if len(known) < len(listed) else []
    some = "|".join([*long, *([any_of(known)] if known else [])])
    return pre_tokenizers.Split(Regex(rf"\A{MARK}(?!(?:{some})\z)" if some else rf"\A{MARK}"), way)


def decoder() -> Any:
    """Return `join` as components of the library."""
    spaces = [decoders.Replace(Regex(rf"\A(?!{MARK})"), " "), decoders.Replace(Regex(rf"\A{MARK}(?!\z)"), "")]
    alone = [decoders.Replace(Regex(f"{MARK} ?"), "")]
    own = [decoders.Replace(code, own) for own, code in reversed(_OWN.items())]
    return decoders.Sequence([*spaces, decoders.Fuse(), *alone, *own, decoders.Strip(" ", 1, 0)])
