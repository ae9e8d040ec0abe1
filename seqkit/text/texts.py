"""Texts as a caller gives them: any iterable of str, taken once, in its order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from seqkit.errors import shown


def take_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """Return the texts as a list, in the order of iteration; labels or an index that they carry are ignored.

    Args:
        texts: a list, a tuple, a generator, a pandas Series, a numpy array, the view of a dict, ...
        name: what messages call them.

    Returns:
        plain `str` objects.

    Raises:
        TypeError: one text where several are expected, something that is not iterable, a whole table, or an item
            that is not a str; the message names its place.
        ValueError: an item is not valid Unicode (half of a surrogate pair).
    """
    return [_text(item, name, place) for place, item in enumerate(_items(texts, name))]


def take_sentences(sentences: Iterable[Sequence[str]], name: str = "texts") -> list[list[str]]:
    """Return sentences that are split already as lists of their tokens.

    Args:
        sentences: an iterable of lists, tuples or arrays of tokens.
        name: what messages call them.

    Returns:
        a list of tokens for each sentence, in order.

    Raises:
        TypeError: see `take_texts`; an item that is not a list of tokens, or a token that is not a str.
        ValueError: a token that is blank, or not valid Unicode.
    """
    return [take_tokens(item, f"{name}[{place}]") for place, item in enumerate(_items(sentences, name))]


def take_tokens(tokens: Sequence[str], name: str = "tokens") -> list[str]:
    """Return the tokens of one sentence; see `take_sentences`."""
    if not (isinstance(tokens, (list, tuple)) or (not isinstance(tokens, str) and getattr(tokens, "ndim", 0) == 1)):
        raise TypeError(f"{name} is {shown(tokens)}; expected a list of tokens")
    texts = [_text(token, name, place) for place, token in enumerate(tokens)]
    for place, token in enumerate(texts):
        if not token.strip():
            raise ValueError(f"{name}[{place}] is {token!r}, a blank token")
    return texts


def _items(texts: Iterable[Any], name: str) -> Iterator[Any]:
    if isinstance(texts, (str, bytes, bytearray)):
        raise TypeError(f"{name} is {shown(texts)}, one text; expected several: write [{shown(texts)}]")
    if getattr(texts, "ndim", 1) != 1:  # a data frame would give its columns' names
        raise TypeError(f"{name} is a {type(texts).__name__} of {texts.ndim} dimensions; expected one of str")  # type: ignore[attr-defined]
    try:
        return iter(texts)
    except TypeError:
        raise TypeError(f"{name} is {shown(texts)}; expected an iterable of str") from None


def _text(item: object, name: str, place: int) -> str:
    if not isinstance(item, str):
        raise TypeError(f"{name}[{place}] is {shown(item)}; expected a str")
    if not item.isascii():
        try:
            item.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}[{place}]: not valid Unicode ({error.reason})") from None
    # A subclass, as numpy's, becomes a plain str; str(text) of an Enum would be its name.
    return item if type(item) is str else str.__str__(item)
