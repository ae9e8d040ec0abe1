"""What decides in a target of the fuzzer, and what it raises where a promise did not hold."""

from __future__ import annotations

from typing import Any


class Broken(Exception):
    """A promise of the package that did not hold."""


class Choices:
    """Decisions out of raw bytes; when these are used up every decision is the first one."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.place = raw, 0

    def number(self, most: int) -> int:
        """0 to `most`."""
        size = max(1, (most.bit_length() + 7) // 8)
        part = self.raw[self.place : self.place + size]
        self.place += size
        return int.from_bytes(part, "little") % (most + 1)

    def one(self, options: Any) -> Any:
        """One of a sequence."""
        return options[self.number(len(options) - 1)]

    def chance(self, out_of: int) -> bool:
        """True once in so many times; False when nothing is left to decide."""
        return self.number(out_of - 1) == 1

    def stretch(self, most: int) -> bytes:
        """Up to so many raw bytes."""
        part = self.raw[self.place : self.place + self.number(most)]
        self.place += len(part)
        return part

    def mutated(self, valid: bytes, tokens: Any, edits: int = 6) -> bytes:
        """A valid document with a few edits: tokens put in, stretches deleted, doubled or moved, bytes changed."""
        found = bytearray(valid)
        for _ in range(self.number(edits)):
            start = self.number(len(found)) if found else 0
            end = min(len(found), start + self.number(40))
            kind = self.number(5)
            if kind <= 1:
                found[start : end if kind else start] = self.one(tokens)
            elif kind == 2:
                del found[start:end]
            elif kind == 3:
                found[start:start] = found[start:end] * (1 + self.number(3))
            elif kind == 4:
                found[start:start] = self.stretch(8)
            elif start < len(found):
                found[start] = self.number(255)
        return bytes(found)
