"""Mistakes of the person at the keyboard, and what helps to name them."""

from __future__ import annotations

import copy
import difflib
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


# The flags of the command that runs, by the names of its arguments; none where the caller is Python.
_FLAGS: ContextVar[Mapping[str, str] | None] = ContextVar("flags", default=None)


@dataclass(frozen=True)
class Option:
    """A setting of the caller's, in the message of a `UserError`: `data=FILE` in Python, and the command line's own
    spelling there; see `spelled`.

    Args:
        keyword: the argument's name in Python, such as `max_length`.
        value: what to give, such as `FILE`, or `True` for a switch; "" for the name alone.
    """

    keyword: str
    value: str = ""

    def __str__(self) -> str:
        flag = (_FLAGS.get() or {}).get(self.keyword)
        if flag is not None:
            return flag if self.value in ("", "True") else f"{flag} {self.value}"
        return f"{self.keyword}={self.value}" if self.value else self.keyword


@contextmanager
def spelled(flags: Mapping[str, str]) -> Iterator[None]:
    """Spell options as flags in every message that is written inside the block.

    Args:
        flags: of a command, by the names of its arguments: `trust` is `--trust`.
    """
    before = _FLAGS.set(flags)
    try:
        yield
    finally:
        _FLAGS.reset(before)


Part = str | Option


class UserError(Exception):
    """A mistake of the person at the keyboard: shown as its message alone, with exit code 2.

    Args:
        message: the text, in parts where it names options.
        key: the key of the configuration, or the option, that the message is about; it goes in front of the message.

    Attributes:
        key: the key as text, "" where the message is about none.
        message: the parts without key and place.
        parts: the parts with them.
    """

    def __init__(self, *message: Part, key: Part = "") -> None:
        self.key, self.message = key.keyword if isinstance(key, Option) else key, message
        self._place((key, ": ", *message) if key else message)

    def _place(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        super().__init__("".join(map(str, parts)))

    def __str__(self) -> str:
        return "".join(map(str, self.parts))

    def about(self, key: Part) -> Self:
        """Return the same mistake as one about a key, which goes in front of the message."""
        error = copy.copy(self)
        error.key, error.message = key.keyword if isinstance(key, Option) else key, self.parts
        error._place((key, ": ", *self.parts))
        return error

    def at(self, place: str) -> Self:
        """Return the same mistake with the place where it was made in front, such as a file and a line."""
        error = copy.copy(self)
        error._place((f"{place}: ", *self.parts))
        return error


class Stopped(Exception):
    """A run ended before its end, for a reason that is not a defect of the program; its message is for the user.

    Attributes:
        exit_code: what the process should exit with.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def at_key(key: str, value: str = "") -> Iterator[None]:
    """Say of mistakes inside the block which key of the configuration led to them, and its value."""
    try:
        yield
    except UserError as error:
        raise UserError(*((f"{value}: ",) if value else ()), *error.parts, key=key) from None


@contextmanager
def opening(path: Path, expected: str = "a file", others: str = "*") -> Iterator[None]:
    """Turn what goes wrong where a file of the user's is opened into a `UserError`.

    Args:
        path: of the file.
        expected: what it should be, for messages.
        others: pattern of the names beside it that the user may have meant.
    """
    try:
        yield
    except FileNotFoundError:
        names = [str(other) for other in path.parent.glob(others)] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(str(path), names)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a directory; expected {expected}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RuntimeError) as error:  # a NUL or half of a surrogate pair in the name; no such ~user
        raise UserError(f"{str(path)!r}: cannot be read ({error})") from None


def argument_of(error: Exception) -> tuple[str, str]:
    """Return the argument that an error of nn, models or decoding is about, and the message.

    Those rooms cannot raise a `UserError`. Their messages begin with the argument's name, as a sentence or before a
    colon.
    """
    message = str(error)
    name = re.split(r"\W", message, maxsplit=1)[0]
    return name, message.removeprefix(f"{name}: ")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the choice nearest to `name`, or an empty string where none is near."""
    found = difflib.get_close_matches(str(name), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def shown(value: object, most: int = 60) -> str:
    """Return a value for a message, as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: a whole number of more digits than Python writes
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def listed(names: Iterable[object], most: int = 10, length: int = 200) -> str:
    """Return names for a message, of which there may be any number, of any length: `a, b, c and 29,997 more`, in one
    line.

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
    """Return the text for a terminal: what would steer it is written as an escape, such as `\\x1b`.

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
