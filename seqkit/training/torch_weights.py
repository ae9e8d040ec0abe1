"""State dicts of other people's torch models, and the words of their embeddings. Nothing in a file is executed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from seqkit.errors import UserError, listed, opening
from seqkit.files import read_bytes
from seqkit.training.checkpoint import load_weights

# Where training scripts put the state dict beside optimiser and epoch.
NESTS = ("state_dict", "model_state_dict", "model")
_AGAIN = "save its weights alone: torch.save(model.state_dict(), 'weights.pt'), or safetensors.torch.save_file"


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file: safetensors, or what torch.save wrote, read without running what a pickle may hold.

    Args:
        path: the file; its content decides, not its name.

    Returns:
        name -> tensor, on the CPU; and a line about what was passed over, or "".

    Raises:
        UserError: no such file; it is damaged; it holds Python objects; it is not a state dict.
    """
    path = Path(path)
    start = _start(path)
    if start[:2] != b"PK" and start[:1] != b"\x80":
        return load_weights(path), ""
    tree = _load(path)
    nest = ""
    if isinstance(tree, Mapping) and not any(isinstance(value, Tensor) for value in tree.values()):
        nest = next((name for name in NESTS if isinstance(tree.get(name), Mapping)), "")
        tree = tree[nest] if nest else tree
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: holds a {type(tree).__name__}, not a state dict; {_AGAIN}")
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = listed(tree) or "nothing"
        raise UserError(f"{path}: no state dict: no tensor at the top, nor under {' or '.join(NESTS)}; it has: {keys}")
    for name, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized:
            raise UserError(f"{path}: {name} is sparse or quantised; dense numbers are needed")
    rest = [str(name) for name in tree if str(name) not in tensors]
    notes = [f"{path}: the state dict under {nest!r} is used"] if nest else []
    notes += [f"{path}: passed over, no tensors: {listed(rest)}"] if rest else []
    return tensors, "; ".join(notes)


def _start(path: Path) -> bytes:
    with opening(path, "a state dict (init.run takes a run folder)"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: this is a pipe, a device or a socket; expected a state dict")
        with path.open("rb") as file:
            start = file.read(8)
    if not start:
        raise UserError(f"{path}: the file is empty")
    return start


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about storages of old files, which do not concern the user
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"(?:Unsupported class|GLOBAL) ([\w.]+)", str(error))
        what = f"holds Python objects ({found.group(1)})" if found else "is damaged, or holds Python objects"
        raise UserError(f"{path}: {what}; they are never loaded, as that could run anything; {_AGAIN}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged, or not written by torch.save ({reason})") from None


def read_words(path: str | Path) -> list[str]:
    """Return the words of a vocabulary file, a word a line, in the order of the lines.

    Raises:
        UserError: no such file, not UTF-8, or a word twice.
    """
    path = Path(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    words = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    seen: dict[str, int] = {}
    for line, word in enumerate(words, 1):
        if seen.setdefault(word, line) != line:
            raise UserError(f"{path}:{line}: {word!r} is on line {seen[word]} already")
    return words
