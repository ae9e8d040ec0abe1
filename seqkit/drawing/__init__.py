"""Pictures and pages: values in, HTML and SVG out. Knows no task."""

from seqkit.drawing.charts import Line, line_chart
from seqkit.drawing.colours import contrast, diverging, luminance, readable_on, sequential
from seqkit.drawing.examples import Example, Piece, count_matrix, example_list, link_table, pieces
from seqkit.drawing.html import Step, heat_map, number, numbered, page, paragraph, section, table, unrolled

__all__ = [
    "Example",
    "Line",
    "Piece",
    "Step",
    "contrast",
    "count_matrix",
    "diverging",
    "example_list",
    "heat_map",
    "line_chart",
    "link_table",
    "luminance",
    "number",
    "numbered",
    "page",
    "paragraph",
    "pieces",
    "readable_on",
    "section",
    "sequential",
    "table",
    "unrolled",
]
