"""Selections, frontiers and the tables that show them."""

from cotrace.results.bound import Bound
from cotrace.results.frontier import Frontier
from cotrace.results.outcomes import EditPoint, Outcome, Tradeoff
from cotrace.results.selection import Selection, members_of
from cotrace.results.table import Table

__all__ = ["Bound", "EditPoint", "Frontier", "Outcome", "Selection", "Table", "Tradeoff", "members_of"]
