"""The tokenizers of torchtext, and torchtext itself, which few environments have.

torchtext ended with 0.18.0, whose compiled part loads with torch 2.3.x alone: everything here needs such an
environment, and everything else in seqkit does without.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch

from seqkit.errors import UserError, at_key, nearest
from seqkit.text.config import FOREIGN

NAMES = ("basic_english", "spacy", "moses", "toktok", "revtok", "subword")
"""Tokenizers that `torchtext.data.get_tokenizer` knows by name."""


def load_torchtext() -> Any:
    """Return the module torchtext.

    Raises:
        UserError: it is not installed, or does not load with this torch.
    """
    try:
        with quiet():
            import torchtext
            import torchtext.data
            import torchtext.vocab
    except (ImportError, OSError) as error:
        if torch.__version__.startswith("2.3."):
            raise UserError(f"this needs torchtext: pip install '.[torchtext]' ({error})") from None
        raise UserError(
            f"this needs torchtext, whose last version, 0.18.0, loads with torch 2.3.x only, and this is torch "
            f"{torch.__version__}; make an environment for it (python3.11 -m venv tt && tt/bin/pip install "
            "'.[torchtext]'), or read data with hub:NAME and split text with text.tokenizer: word"
        ) from None
    return torchtext


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of torchtext and torchdata that they have ended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*(Torchtext is deprecated|torchdata)")
        yield


@lru_cache(maxsize=8)
def splitter(tokenizer: str) -> Callable[[str], list[str]]:
    """Return a tokenizer of torchtext, a function from a text to its tokens.

    Args:
        tokenizer: `torchtext:NAME`, as in `text.tokenizer`.

    Raises:
        UserError: there is none of that name; see also `load_torchtext`; the library behind it is not installed.
    """
    name = tokenizer.removeprefix(FOREIGN)
    if name not in NAMES:
        raise UserError(
            f"torchtext has no {name!r} (it has: {', '.join(NAMES)}){nearest(name, NAMES)}", key="text.tokenizer"
        )
    with at_key("text.tokenizer", tokenizer):
        get_tokenizer = load_torchtext().data.get_tokenizer
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it then raises
            split = get_tokenizer(name)
    except (ImportError, OSError, AttributeError) as error:
        raise UserError(f"{tokenizer} cannot be made ({error})", key="text.tokenizer") from None

    def checked(text: str) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(f"expected str, got {type(text).__name__}")
        return list(split(text))

    return checked
