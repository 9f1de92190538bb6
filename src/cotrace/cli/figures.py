"""The figures of a run as files."""

from __future__ import annotations

from collections.abc import Sequence

from cotrace import report
from cotrace.results import Frontier
from cotrace.runs.results import enough


def figures(frontiers: Sequence[Frontier]) -> dict[str, bytes]:
    """frontier.png with every search, and map.png with the selection of the first that is enough."""
    first = frontiers[0]
    return {
        "frontier.png": report.to_png(report.frontier(frontiers)),
        "map.png": report.to_png(report.head_map(first, enough(first).k)),
    }
