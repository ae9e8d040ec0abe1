"""Texts as a caller gives them: any iterable of str, taken once, in its order."""

from __future__ import annotations

from collections.abc import Iterable


def take_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """The texts as a list, in the order in which iteration gives them: a label or an index of theirs says nothing.

    Args:
        texts: a list, a tuple, a generator, a pandas Series, a numpy array, the view of a dict, ...
        name: what messages call them.

    Raises:
        TypeError: one text where several are expected, something that is no iterable or a whole table, or an item
            that is no str; it names the place.
        ValueError: an item is not valid Unicode (half of a surrogate pair).
    """
    if isinstance(texts, (str, bytes, bytearray)):
        raise TypeError(f"{name} is {_shown(texts)}, one text; expected several: write [{_shown(texts)}]")
    if getattr(texts, "ndim", 1) != 1:  # a data frame would give its columns' names
        raise TypeError(f"{name} is a {type(texts).__name__} of {texts.ndim} dimensions; expected one of str")  # type: ignore[attr-defined]
    try:
        items = iter(texts)
    except TypeError:
        raise TypeError(f"{name} is {_shown(texts)}; expected an iterable of str") from None
    found = []
    for place, text in enumerate(items):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{place}] is {_shown(text)}; expected a str")
        # A subclass, as numpy's, becomes a plain str; str(text) of an Enum would be its name.
        found.append(text if type(text) is str else str.__str__(text))
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(f"{name}[{place}]: not valid Unicode ({error.reason})") from None
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
