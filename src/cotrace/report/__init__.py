"""Figures from results only: nothing here knows of language models."""

from cotrace.report.frontiers import frontier
from cotrace.report.image import to_png
from cotrace.report.maps import head_map
from cotrace.report.tradeoffs import tradeoff

__all__ = ["frontier", "head_map", "to_png", "tradeoff"]
