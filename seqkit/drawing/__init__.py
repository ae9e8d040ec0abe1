"""Pictures and pages: values in, HTML and SVG out. Knows no task."""

from seqkit.drawing.charts import Line, line_chart
from seqkit.drawing.colours import contrast, diverging, luminance, readable_on, sequential
from seqkit.drawing.examples import Example, Piece, count_matrix, example_list, link_table, pieces
from seqkit.drawing.gates import Map, Panel, gate_viewer
from seqkit.drawing.html import (
    Step,
    embedded,
    folded,
    heat_map,
    notebook,
    number,
    numbered,
    page,
    paragraph,
    script,
    section,
    style,
    table,
    unrolled,
)
from seqkit.drawing.words import Word, labelled_text, marked_words, word_matrix

__all__ = [
    "Example",
    "Line",
    "Map",
    "Panel",
    "Piece",
    "Step",
    "Word",
    "contrast",
    "count_matrix",
    "diverging",
    "embedded",
    "example_list",
    "folded",
    "gate_viewer",
    "heat_map",
    "labelled_text",
    "line_chart",
    "link_table",
    "luminance",
    "marked_words",
    "notebook",
    "number",
    "numbered",
    "page",
    "paragraph",
    "pieces",
    "readable_on",
    "script",
    "section",
    "sequential",
    "style",
    "table",
    "unrolled",
    "word_matrix",
]
