"""Mistakes of the person at the keyboard, and what helps to name them."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

_OPTION = re.compile("\0(\\w+)=([^\0]*)\0([\\w-]+)\0")


class UserError(Exception):
    """A mistake of the person at the keyboard: shown as its message alone, with exit code 2.

    What `option` names in the message is a keyword argument to those who catch it in Python.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_OPTION.sub(lambda found: found[1] + (f"={found[2]}" if found[2] else ""), message))
        self._written = message

    def at(self, place: str) -> Self:
        """The same mistake, with the place or the key it was made at in front."""
        return type(self)(f"{place}: {self._written}")

    def for_shell(self) -> str:
        """The message with options as a command line has them."""
        return _OPTION.sub(
            lambda found: found[3] + (f" {found[2]}" if found[2] not in ("", "True") else ""), self._written
        )


class Stopped(Exception):
    """A run ended before its end, for a reason that is not a defect of the program; its message is for the user.

    Attributes:
        exit_code: what the process should exit with.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def named(key: str) -> Iterator[None]:
    """Mistakes inside the block are told with the key, or the place, that they were made at in front."""
    try:
        yield
    except UserError as error:
        raise error.at(key) from None


def option(keyword: str, value: str = "", flag: str = "") -> str:
    """A setting of the caller's in the message of a `UserError`.

    Args:
        keyword: of the functions in Python, such as `max_length`.
        value: what to give, such as `FILE` (`data=FILE`, `--data FILE`), `True` for a switch; "" for the name alone.
        flag: what the command line calls it, where that is not the keyword with dashes.
    """
    return f"\0{keyword}={value}\0{flag or '--' + keyword.replace('_', '-')}\0"


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice nearest to `name`, or an empty string where none is near."""
    found = difflib.get_close_matches(str(name), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def shown(value: object, most: int = 60) -> str:
    """A value for a message, as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: a whole number of more digits than Python writes
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def listed(names: Iterable[object], most: int = 10, length: int = 200) -> str:
    """Names for a message, of which there may be any number, of any length: `a, b, c and 29,997 more`, in one line.

    Args:
        names: what to list.
        most: how many at most.
        length: how many characters at most, beside the last words and the first name, which is cut where it is longer.
    """
    items = [" ".join(str(name).split()) for name in names]
    parts, room = list[str](), length
    for item in items[:most]:
        if parts and len(item) + 2 > room:
            break
        parts.append(item if len(item) <= length else f"{item[: length - 3]}...")
        room -= len(parts[-1]) + 2
    left = len(items) - len(parts)
    return ", ".join(parts) + (f" and {left:,} more" if left else "")


# Control characters, line and paragraph separators, halves of surrogate pairs, and what turns the direction of text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, *, lines: bool = False) -> str:
    """The text for a terminal: what would steer it is written as an escape, such as `\\x1b`.

    Args:
        text: one line.
        lines: it may be several: line feeds stay.
    """
    return _UNSAFE.sub(lambda found: found[0] if lines and found[0] == "\n" else repr(found[0])[1:-1], text)


def require(module: str, extra: str, package: str | None = None) -> ModuleType:
    """Import an optional third-party module.

    Args:
        module: its name, such as `sacrebleu.metrics`.
        extra: the extra of seqkit that brings it.
        package: what pip calls it, or several packages with spaces between; by default the first part of the module's
            name.

    Raises:
        UserError: it is not installed; the message says what to type.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module.split(".", maxsplit=1)[0]
        hint = f"pip install {package}, or pip install '.[{extra}]' in a checkout of seqkit"
        raise UserError(f"this needs {package.replace(' ', ' and ')}: {hint} ({error})") from error
