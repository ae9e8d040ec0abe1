"""What slot filling tags: a text, or a sentence that is split into its tokens already."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from seqkit.data.readers import BadRow, Column, json_row
from seqkit.errors import UserError
from seqkit.tasks.slots.data import LONGEST
from seqkit.text.texts import take_tokens

_COLUMNS = [Column("tokens", list)]


def read_tokens(line: str) -> list[str]:
    """Return the tokens in a line like the lines of the training data, `{"tokens": [...]}`; other keys are passed over.

    Raises:
        UserError: it is not such a line, or a token is blank.
    """
    row = json_row(line, _COLUMNS)
    if isinstance(row, BadRow):
        raise UserError(f'{row.message}; with tokens=true, a line is like {{"tokens": ["to", "Rome"]}}')
    try:
        tokens = take_tokens(row[0])
    except ValueError as error:
        raise UserError(str(error)) from None
    refuse_long(tokens, "tokens")
    return tokens


def looks_like_tokens(line: str) -> bool:
    """Return whether `read_tokens` would read it."""
    return line.lstrip().startswith("{") and '"tokens"' in line and not isinstance(json_row(line, _COLUMNS), BadRow)


def refuse_long(tokens: Sequence[str], name: str) -> None:
    """There is to be a tag for each token, so that none can be cut off.

    Raises:
        UserError: there are too many.
    """
    if len(tokens) > LONGEST:
        raise UserError(f"{name}: {len(tokens):,} tokens are not a sentence (the limit is {LONGEST:,})")


def token_offsets(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Return where the tokens stand in the text that they make with a space between each two."""
    ends = accumulate((len(token) + 1 for token in tokens), initial=0)
    return [(start, end - 1) for start, end in pairwise(ends)]
