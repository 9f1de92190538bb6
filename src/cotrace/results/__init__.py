"""Selections, frontiers and the tables that show them."""

from cotrace.results.effects import Bound
from cotrace.results.frontier import Frontier
from cotrace.results.outcomes import EditPoint, Outcome, Tradeoff
from cotrace.results.selection import AnySet, Selection, is_named, members_of, selection_of
from cotrace.results.table import Table

__all__ = [
    "AnySet",
    "Bound",
    "EditPoint",
    "Frontier",
    "Outcome",
    "Selection",
    "Table",
    "Tradeoff",
    "is_named",
    "members_of",
    "selection_of",
]
