"""The gate viewer: exact values in the page, pictures of one pixel a value, hostile words, empty and long texts."""

from __future__ import annotations

import base64
import html as entities
import json
import re
import struct
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkit import run
from seqkit.drawing import Map, Panel, Word, diverging, gate_viewer, page, sequential
from seqkit.drawing.gates import png, unit_order
from seqkit.tasks.text_trace import LayerTrace

pytest.importorskip("jinja2")

FIXTURES = Path(__file__).parents[1] / "fixtures"
HOSTILE = "</script><script>alert(1)</script>"


class Reader(HTMLParser):
    """Data blocks, pictures, and words of a page, and whether its tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.data: list[Any] = []
        self.pictures: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.scripts = 0
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        given = dict(attributes)
        if tag == "img":
            self.pictures.append(given["src"])
        if tag not in ("img", "meta"):
            self.open.append(tag)
        if tag == "script":
            self.scripts += 1
        if tag == "script" and given.get("type") == "application/json":
            self._inside = "json"
        elif tag == "span" and given.get("dir") == "auto":
            self._inside = "word"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "json":
            self.data.append(json.loads(data))
        elif self._inside == "word":
            self.words.append(data)


def decode(picture: str) -> tuple[np.ndarray, list[str]]:
    """Levels (rows, columns) and palette of a PNG, by its own checksums."""
    raw = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    parts, place = {}, 8
    while place < len(raw):
        (size,) = struct.unpack(">I", raw[place : place + 4])
        kind, body = raw[place + 4 : place + 8], raw[place + 8 : place + 8 + size]
        assert struct.unpack(">I", raw[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        parts[kind] = body
        place += 12 + size
    columns, rows = struct.unpack(">II", parts[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
    assert not lines[:, 0].any()
    colours = [f"#{parts[b'PLTE'][3 * level : 3 * level + 3].hex()}" for level in range(256)]
    return lines[:, 1:], colours


def test_a_picture_has_a_pixel_for_each_value() -> None:
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    for shares in (True, False):
        found, colours = decode(png(levels, shares=shares))
        assert (found == levels).all()
        assert colours[0] == (sequential(0) if shares else diverging(-1))
        assert colours[255] == (sequential(1) if shares else diverging(1))


def holds_the_values(layer: LayerTrace, panel: dict[str, Any], pictures: Iterator[str]) -> None:
    assert [one["name"] for one in panel["maps"]] == list(layer.values)
    for one in panel["maps"]:
        values = layer.values[one["name"]].double().numpy()
        assert sorted(one["units"]) == list(range(values.shape[1]))
        levels, _ = decode(next(pictures))
        assert levels.shape == values.T.shape
        top = 1.0 if values.min() >= 0 and values.max() <= 1 else np.abs(values).max()
        for place, unit in enumerate(one["units"]):
            assert one["values"][place] == pytest.approx(values[:, unit].tolist(), rel=5.1e-3)
            shown = levels[place] / 255 if values.min() >= 0 and values.max() <= 1 else levels[place] / 127.5 - 1
            assert shown * top == pytest.approx(values[:, unit], abs=top / 200)
    lines = {one["name"]: one["values"] for one in panel["lines"]}
    assert lines["norm of the memory"] == pytest.approx(layer.norm.tolist(), rel=5.1e-3)
    if layer.kept is not None:
        assert lines["still in the final state"] == pytest.approx(layer.kept.mean(1).tolist(), rel=5.1e-3)


@pytest.mark.parametrize("name", ["sentiment-finished", "slots-finished", "translation-finished"])
def test_the_page_holds_the_exact_values_of_the_trace(name: str) -> None:
    trace = run.load(FIXTURES / "2026-11" / name, "cpu").trace("the film was dull .")
    read = Reader(page("gates", "", [trace.html()]))
    assert not read.open
    sides = [(trace.tokens, trace.layers)]
    if name == "translation-finished":
        sides.append((trace.output_tokens, trace.output_layers))
    assert read.scripts == len(sides) + 1  # the data of each viewer, and our script once
    pictures = iter(read.pictures)
    for (tokens, layers), data in zip(sides, read.data, strict=True):
        assert data["words"] == [token.text for token in tokens]
        assert len(layers) > 0
        for layer, panel in zip(layers, data["panels"], strict=True):
            holds_the_values(layer, panel, pictures)
    assert next(pictures, None) is None


def panel(length: int, size: int) -> Panel:
    generator = np.random.default_rng(length)
    memory = generator.normal(size=(length, size))
    return Panel("layer 1", [Map("gate", 1 / (1 + np.exp(-memory))), Map("c", memory)], {"norm": memory[:, 0] ** 2})


@pytest.mark.parametrize("length", [1, 2, 500])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_any_length_and_size(length: int, size: int) -> None:
    words = [Word(HOSTILE)] * length
    text = page("gates", "", [gate_viewer(words, [panel(length, size)], "caption")])
    read = Reader(text)
    assert not read.open
    assert read.scripts == 2
    assert read.data[0]["words"] == [HOSTILE] * length
    assert read.words == [HOSTILE] * length
    assert "alert(1)</script>" not in text.replace(entities.escape(HOSTILE), "")
    for one in read.data[0]["panels"][0]["maps"]:
        assert len(one["units"]) == len(set(one["units"])) == min(size, 64)
    assert (f"64 of {size} units" in text) == (size > 64)
    assert len(text) < 900_000


def test_the_units_whose_memory_moves_most_are_chosen_and_those_alike_are_neighbours() -> None:
    up, down = np.linspace(0, 1, 6), np.linspace(0, -1, 6)
    memory = np.stack([up, 0.001 * up, down, 0.9 * up, 0.8 * down, 0.7 * up, np.zeros(6)], 1)
    order = unit_order(memory, 5)
    assert set(order) == {0, 2, 3, 4, 5}
    signs = [memory[-1, unit] > 0 for unit in order]
    assert signs == [True, True, True, False, False]
    assert unit_order(memory, 1) in ([0], [2])


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="layer 1, gate: expected 3 rows"):
        gate_viewer([Word("a")] * 3, [panel(2, 4)], "")
    with pytest.raises(ValueError, match="units must be positive, got 0"):
        gate_viewer([Word("a")], [panel(1, 4)], "", units=0)


def test_values_that_are_not_finite_do_not_break_the_data() -> None:
    values = np.array([[np.nan, 1.0, 0.5], [np.inf, -1.0, 0.5]])
    read = Reader(gate_viewer([Word("a"), Word("b")], [Panel("x", [Map("c", values)])], ""))
    (found,) = read.data[0]["panels"][0]["maps"]
    rows = dict(zip(found["units"], found["values"], strict=True))
    assert rows == {0: [None, None], 1: [1.0, -1.0], 2: [0.5, 0.5]}


def test_a_page_without_gates_has_no_script() -> None:
    assert "<script" not in page("plain", "", ["<p>text</p>"])
    assert re.search(r"<script>\s*//", page("gates", "", [gate_viewer([Word("a")], [panel(1, 2)], "")]))
