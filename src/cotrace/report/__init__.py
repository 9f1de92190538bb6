"""Figures and the report, from results only: nothing here knows of language models."""

from cotrace.arguments import door
from cotrace.report.comparison import compare
from cotrace.report.draw import draw, drawn
from cotrace.report.frontiers import frontier
from cotrace.report.image import to_bytes, to_png
from cotrace.report.layers import layers
from cotrace.report.maps import head_map
from cotrace.report.matrix import interactions
from cotrace.report.page import Material, examples_of, report_html
from cotrace.report.tradeoffs import tradeoff
from cotrace.report.write import write

__all__ = [
    "Material",
    "compare",
    "draw",
    "drawn",
    "examples_of",
    "frontier",
    "head_map",
    "interactions",
    "layers",
    "report_html",
    "to_bytes",
    "to_png",
    "tradeoff",
    "write",
]

door("ct.report", globals(), __all__)
