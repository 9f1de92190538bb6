"""Sizes: what the slider over k moves through, thinned so that the page stays small, and coded by what changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cotrace.components import ComponentSpace
from cotrace.report.page.material import Material, Places
from cotrace.results import Frontier, Selection

MOST_SIZES = 48
"""Sizes of one search that the slider stops at."""
MOST_MEMBERS = 20_000
"""Larger sets are on the curve, not on the slider."""
MOST_CHANGES = 120_000
"""Components that come and go over all stops of all searches."""
MOST_POINTS = 400
"""Points of one curve."""


def spread(count: int, most: int, keep: Sequence[int] = ()) -> list[int]:
    """At most ``most`` of so many places (and those to keep), evenly over their logarithms, first and last included."""
    if count <= most:
        return list(range(count))
    ratio = count ** (1 / (most - 1))
    places = {min(count, max(1, round(ratio**step))) - 1 for step in range(most)}
    return sorted(places | {place for place in keep if 0 <= place < count})


@dataclass(frozen=True)
class Stops:
    """The selections of one search that the slider stops at."""

    frontier: Frontier
    selections: tuple[Selection, ...]
    places: tuple[Places, ...]
    """Mask indices of the members of each."""

    @property
    def words(self) -> str:
        """What was left out; empty where nothing was."""
        left = len(self.frontier) - len(self.selections)
        if not left:
            return ""
        return f"{self.frontier.search}: the slider stops at {len(self.selections)} of {len(self.frontier)} sizes"


def stops_of(material: Material) -> tuple[Stops, ...]:
    """The stops of every search, fewer where the sets change so much that the page would grow too large."""
    most = MOST_SIZES
    while True:
        found = tuple(_stops(material, frontier, most) for frontier in material.frontiers)
        if most <= 4 or sum(map(_changes, found)) <= MOST_CHANGES:
            return found
        most //= 2


def _stops(material: Material, frontier: Frontier, most: int) -> Stops:
    keep = material.chosen.k
    small = [one for one in frontier if one.k <= MOST_MEMBERS] or list(frontier)[:1]
    kept = [i for i, one in enumerate(small) if one.k == keep]
    shown = tuple(small[i] for i in spread(len(small), most, kept))
    return Stops(frontier, shown, tuple(map(material.places, shown)))


def _changes(stops: Stops) -> int:
    return sum(len(step["in"]) + len(step["out"]) for step in _steps(stops))


def _steps(stops: Stops) -> list[dict[str, list[int]]]:
    """For each stop the mask indices that come in and go out."""
    before, steps = np.zeros(0, np.int64), []
    for now in stops.places:
        came, went = np.setdiff1d(now, before), np.setdiff1d(before, now)
        steps.append({"in": came.tolist(), "out": went.tolist()})
        before = now
    return steps


def search_data(stops: Stops) -> dict[str, Any]:
    """One search for the page: its figures at every stop, and what comes and goes."""
    shown = stops.selections
    return {
        "name": stops.frontier.search,
        "sizes": [one.k for one in shown],
        "effect": [rounded(one.effect) for one in shown],
        "heldout": [rounded(one.effect_heldout) for one in shown],
        "interval": [None if one.interval is None else [rounded(x) for x in one.interval] for one in shown],
        "p": [rounded(one.p_value) for one in shown],
        "steps": _steps(stops),
    }


def blocks_data(space: ComponentSpace) -> list[dict[str, Any]]:
    """The component space as runs of one site, layer and role, from which names are made."""
    return [
        {
            "site": block.site.value,
            "tag": block.site.tag,
            "layer": block.layer,
            "role": block.role,
            "start": block.start,
            "whole": not block.site.has_units,
            "units": _units(block.units),
        }
        for block in space.blocks
    ]


def _units(units: tuple[int, ...]) -> dict[str, Any]:
    """First and count of consecutive units; a list of others."""
    if units == tuple(range(units[0], units[0] + len(units))):
        return {"first": units[0], "count": len(units)}
    return {"list": list(units), "count": len(units)}


def rounded(value: float | None, digits: int = 5) -> float | None:
    """A figure with so many significant digits; None for one that is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{digits - 1}e}")


def rounded_all(values: Float[np.ndarray, "value"], digits: int = 4) -> list[float | None]:
    """The same of many."""
    return [rounded(value, digits) for value in values.tolist()]
