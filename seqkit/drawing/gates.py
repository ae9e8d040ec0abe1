"""The gate viewer: what the gates of a layer did at every word, as heat maps over time."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from seqkit.drawing.colours import diverging, sequential
from seqkit.drawing.html import fragment, number
from seqkit.drawing.words import Word

if TYPE_CHECKING:  # numpy takes a while to import, and commands without a picture do not need it
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.floating[Any]]

_LEVELS = 256


@dataclass(frozen=True)
class Map:
    """A heat map over time.

    Attributes:
        name: of the gate or state.
        values: (T, H), a row a word, a column a unit.
    """

    name: str
    values: Values

    @property
    def shares(self) -> bool:
        """Whether all values lie in [0, 1]."""
        return bool(self.values.size and self.values.min() >= 0 and self.values.max() <= 1)


@dataclass(frozen=True)
class Panel:
    """One layer and direction.

    Attributes:
        title: what it is.
        maps: of its gates and states; the last one is the memory, by which units are chosen and sorted.
        lines: name -> (T,), a number for each word.
    """

    title: str
    maps: Sequence[Map]
    lines: Mapping[str, Values] = field(default_factory=dict)


def gate_viewer(words: Sequence[Word], panels: Sequence[Panel], caption: str, *, units: int = 64) -> str:
    """Return the gates of layers as pictures of one pixel a value, with the words as HTML above; a click picks a unit.

    Args:
        words: of the text, T.
        panels: the layers; their maps may differ in number and size.
        caption: what is seen.
        units: how many of a panel are shown at most: those whose memory moves most.

    Raises:
        UserError: jinja2 is not installed.
        ValueError: a map or line that is not T long, or units below 1.
    """
    if units < 1:
        raise ValueError(f"units must be positive, got {units}")
    shown = [_panel(panel, len(words), units) for panel in panels]
    return fragment("gates.html", "viewer", words, shown, caption)


def unit_order(memory: Values, units: int) -> list[int]:
    """Return the numbers of the units to show, those with like memories beside each other.

    Args:
        memory: (T, H).
        units: how many; those that move most over time are chosen.
    """
    import numpy as np

    memory = np.nan_to_num(memory, posinf=0.0, neginf=0.0)
    moves = np.abs(np.diff(memory, axis=0, prepend=0.0)).sum(0)
    chosen = np.sort(np.argsort(-moves, kind="stable")[:units])
    if memory.shape[0] < 2 or len(chosen) < 3:
        return [int(unit) for unit in chosen[np.argsort(-memory[-1, chosen] if len(memory) else chosen, kind="stable")]]
    kept = memory[:, chosen]
    size = np.linalg.norm(kept, axis=0)
    alike = kept / np.where(size > 0, size, 1.0)
    # The first direction in which the shapes of the units differ; its sign is fixed by the last word.
    _, _, right = np.linalg.svd(alike, full_matrices=False)
    place = right[0] * (1.0 if float(right[0] @ alike[-1]) >= 0 else -1.0)
    return [int(unit) for unit in chosen[np.argsort(-place, kind="stable")]]


def _panel(panel: Panel, length: int, units: int) -> dict[str, Any]:
    for map_ in panel.maps:
        if map_.values.ndim != 2 or len(map_.values) != length:
            raise ValueError(f"{panel.title}, {map_.name}: expected {length} rows, got shape {map_.values.shape}")
    for name, line in panel.lines.items():
        if line.shape != (length,):
            raise ValueError(f"{panel.title}, {name}: expected {length} numbers, got shape {line.shape}")
    orders: dict[int, list[int]] = {}
    if panel.maps:
        memory = panel.maps[-1].values
        orders[memory.shape[1]] = unit_order(memory, units)
    maps = []
    for map_ in panel.maps:
        size = map_.values.shape[1]
        order = orders.setdefault(size, unit_order(map_.values, units))  # a projected output has fewer units
        maps.append(_map(map_, order))
    lines = [_line(name, values) for name, values in panel.lines.items()]
    data = {
        "maps": [{"name": one["name"], "units": one["units"], "values": one["rows"]} for one in maps],
        "lines": [{"name": one["name"], "values": one["values"]} for one in lines],
    }
    total = panel.maps[-1].values.shape[1] if panel.maps else 0
    count = len(orders.get(total, []))
    note = f"{count} of {total} units, those whose memory moves most" if count < total else f"{total} units"
    return {"title": panel.title, "note": note, "maps": maps, "lines": lines, "data": data}


def _map(map_: Map, order: list[int]) -> dict[str, Any]:
    import numpy as np

    values = map_.values[:, order].T  # (units, T)
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    shares = map_.shares
    level = values if shares else values / (largest or 1.0) / 2 + 0.5
    picture = png(np.round(np.nan_to_num(level, nan=0.5).clip(0, 1) * (_LEVELS - 1)).astype(np.uint8), shares=shares)
    low, high = ("0", "1") if shares else (number(-largest), number(largest))
    return {
        "name": map_.name,
        "units": order,
        "rows": [[three(value) for value in row] for row in values.tolist()],
        "picture": picture,
        "height": min(max(len(order) * 3, 18), 200),
        "scale": "pale 0, dark 1" if shares else f"orange {low}, purple {high}",
    }


def _line(name: str, values: Values) -> dict[str, Any]:
    numbers = [three(value) for value in values.tolist()]
    top = max((abs(value) for value in numbers if value is not None), default=0.0) or 1.0
    points = [(place + 0.5, round(30 - 28 * (value or 0.0) / top, 3)) for place, value in enumerate(numbers)]
    return {
        "name": name,
        "values": numbers,
        "top": number(top),
        "points": " ".join(f"{x},{y}" for x, y in points),
        "dots": points,
        "width": max(len(numbers), 1),
    }


def three(value: float) -> float | None:
    """Return a number with three significant digits, None where it is not finite."""
    return float(f"{value:.3g}") if math.isfinite(value) else None


def png(levels: NDArray[np.uint8], *, shares: bool) -> str:
    """Return a picture of one pixel a value as a `data:` address.

    Args:
        levels: (rows, columns), from 0 to 255.
        shares: from pale to dark blue; otherwise from orange over near white to purple.
    """
    rows, columns = levels.shape
    if not levels.size:
        return ""
    lines = b"".join(b"\0" + row.tobytes() for row in levels)
    head = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", head), (b"PLTE", _palette(shares)), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


@cache
def _palette(shares: bool) -> bytes:
    steps = [level / (_LEVELS - 1) for level in range(_LEVELS)]
    return b"".join(bytes.fromhex((sequential(step) if shares else diverging(2 * step - 1))[1:]) for step in steps)
