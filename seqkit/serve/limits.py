"""What a server takes from its clients, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients may ask.

    Attributes:
        body: bytes in a request.
        texts: texts in a request.
        tokens: tokens in a text.
        beam: hypotheses that a request may ask for, as `beam_size` or `n_best`.
        queue: texts that wait for a run.
        batch: texts that are answered together; 1: each request alone.
        explain_tokens: tokens in a text that is to be explained.
        explain_queue: explanations that wait.
        read_seconds: how long a client may take to send a request.
    """

    body: int = 1 << 20
    texts: int = 64
    tokens: int = 1000
    beam: int = 16
    queue: int = 1024
    batch: int = 64
    explain_tokens: int = 128
    explain_queue: int = 8
    read_seconds: float = 10.0


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP, such as 422.
        message: one sentence for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# The shortest text of N tokens has about N characters, and hardly a language has more than this many in a token.
_LONGEST_TOKEN = 32


def too_long(name: str, characters: int, tokens: int) -> bool:
    """Return whether a text may have more tokens than allowed, so that they must be counted.

    Raises:
        Refused: it has far more.
    """
    if characters > tokens * _LONGEST_TOKEN:
        raise Refused(
            422, f"{name}: {characters:,} characters are too long a text; this server takes {tokens:,} tokens"
        )
    return characters * 4 + 2 > tokens  # bytes as tokens, and two marks
