"""How a file's text is written: its encoding, and what separates the columns of a CSV file."""

from __future__ import annotations

import codecs
import encodings.aliases
from dataclasses import dataclass

from seqkit.errors import UserError, nearest

_ESCAPES = ("idna", "raw-unicode-escape", "unicode-escape")  # Python's for other ends: they decode what is plain ASCII


@dataclass(frozen=True)
class Form:
    """How text is written: what separates the columns of a CSV file (None: a comma, or what its first line `sep=`
    says), and the encoding."""

    delimiter: str | None = None
    encoding: str = "utf-8"


def text_encoding(name: str) -> str:
    """Return the name that Python has for an encoding in which lines can be found: one that begins with ASCII.

    Raises:
        ValueError: it begins with `encoding`.
    """
    found, fits = _codec(name)
    if not found:
        known = {*encodings.aliases.aliases, *encodings.aliases.aliases.values()}
        usable = sorted(one for one in known if _codec(one)[1])
        raise ValueError(f"encoding: no text encoding {name!r}{nearest(name, usable)}")
    if not fits:
        raise ValueError(
            f"encoding: {name!r} does not begin with ASCII, so that no lines can be found; iconv -f {found} -t utf-8 "
            "FILE makes another file of it"
        )
    return found


def _codec(name: str) -> tuple[str, bool]:
    """Return the name that Python has for an encoding of text, "" where it has none, and whether that begins with
    ASCII."""
    try:
        found = codecs.lookup(name).name.removesuffix("-sig")
        if found in _ESCAPES:
            return "", False
        return found, bytes(range(128)).decode(found) == bytes(range(128)).decode("ascii")
    except (LookupError, ValueError, TypeError):  # of codecs that are not for text, too
        return "", False


def check_delimiter(text: str, place: str) -> None:
    """Refuse what cannot separate fields.

    Raises:
        UserError: it begins with `place`.
    """
    if len(text) != 1 or text in '"\r\n\0':
        raise UserError(f"{place}: expected one character, neither a quote nor a line end, got {text!r}")
