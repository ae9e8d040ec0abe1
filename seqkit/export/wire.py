"""A look at a file of ONNX before anything parses it: parsed, small messages take fifty times their bytes of memory."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

_LARGEST = 1 << 31  # bytes of a file; protobuf itself takes no more
_MOST = 1 << 23  # bytes beside the weights; a graph of seqkit's takes a few kilobytes a node
# Message -> number of a field -> the message in it, or "" where it holds weights as they lie in memory.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
    "tensor": {9: ""},
}


def check_size(path: Path) -> None:
    """Refuse a file of ONNX that would take much more memory than its size, or one that is too large.

    Raises:
        ValueError: it is too large, or not in the encoding of protobuf.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"more than {_LARGEST:,} bytes")
    if not size:
        raise ValueError("not a file of ONNX (it is empty)")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            small = _beside_weights(data)
        except IndexError:
            raise ValueError("not a file of ONNX (it ends within a field)") from None
    if small > _MOST:
        raise ValueError(f"more than {_MOST:,} bytes beside the weights, which no graph of seqkit has")


def _beside_weights(data: mmap.mmap) -> int:
    """Return how many bytes of a model are no weights, or a number above the limit as soon as it is passed."""
    found, waiting = 0, [("model", 0, len(data))]
    while waiting:
        kind, place, end = waiting.pop()
        while place < end and found <= _MOST:
            start = place
            tag, place = _varint(data, place)
            wire = tag & 7
            length = {1: 8, 5: 4}.get(wire, 0)
            if wire in (0, 2):
                length, place = _varint(data, place)
            elif not length:
                raise ValueError(f"not a file of ONNX (wire type {wire})")
            found += place - start
            if wire == 0:
                continue
            if place + length > end:
                raise IndexError
            inside = _FIELDS[kind].get(tag >> 3) if wire == 2 else None
            if inside:
                waiting.append((inside, place, place + length))
            elif inside is None:
                found += length
            place += length
    return found


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("not a file of ONNX (a number of more than 64 bits)")
