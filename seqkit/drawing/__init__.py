"""Pictures and pages: values in, HTML and SVG out. Knows no task."""

from seqkit.drawing.charts import Line, line_chart
from seqkit.drawing.colours import contrast, diverging, luminance, readable_on, sequential
from seqkit.drawing.html import Step, heat_map, number, numbered, page, paragraph, section, table, unrolled

__all__ = [
    "Line",
    "Step",
    "contrast",
    "diverging",
    "heat_map",
    "line_chart",
    "luminance",
    "number",
    "numbered",
    "page",
    "paragraph",
    "readable_on",
    "section",
    "sequential",
    "table",
    "unrolled",
]
