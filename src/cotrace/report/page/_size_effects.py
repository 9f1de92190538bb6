"""The rows and charts of every size, and the effects of single pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from cotrace.components import ComponentSpace
from cotrace.report.page.inputs import PART_WORDS, Example, Places, ReportInputs
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
        """Note on rows that were left out; empty where none were."""
        left = len(self.frontier) - len(self.selections)
        if not left:
            return ""
        return f"{self.frontier.search}: the slider stops at {len(self.selections)} of {len(self.frontier)} sizes"


def stops_of(inputs: ReportInputs) -> tuple[Stops, ...]:
    """The stops of every search, fewer where the sets change so much that the page would grow too large."""
    most = MOST_SIZES
    while True:
        found = tuple(_stops(inputs, frontier, most) for frontier in inputs.frontiers)
        if most <= 4 or sum(map(_changes, found)) <= MOST_CHANGES:
            return found
        most //= 2


def _stops(inputs: ReportInputs, frontier: Frontier, most: int) -> Stops:
    keep = inputs.chosen.k
    small = [one for one in frontier if one.k <= MOST_MEMBERS] or list(frontier)[:1]
    kept = [i for i, one in enumerate(small) if one.k == keep]
    shown = tuple(small[i] for i in spread(len(small), most, kept))
    return Stops(frontier, shown, tuple(map(inputs.places, shown)))


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


MOST_EXAMPLES = 160
"""Pairs whose texts go into the page."""
MOST_TEXT = 72_000
"""Characters of one pair that go into the page."""
MOST_ANSWERS = 8
TEXT_BUDGET = 1_200_000
"""Characters of all texts together."""
BINS = 24
MOST_SUBGROUPS = 40

Table = Float[np.ndarray, "stop example"]


@dataclass(frozen=True)
class Shown:
    """One pair on the page."""

    part: str
    place: int
    """Its place among the pairs of its part."""
    example: Example
    effect: float
    """At the judged size."""
    complete: bool = True
    """Whether its texts are there in full."""


class Effects:
    """The effects of the first search's sets, at every stop, on each pair of each part."""

    def __init__(self, inputs: ReportInputs, stops: Stops) -> None:
        self.inputs, self.stops = inputs, stops
        at = [one.k for one in stops.selections].index(inputs.chosen.k)
        self.judged_stop = at

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Part -> effects; NaN rows where no search kept them. Empty where the metric has none of each pair."""
        found = {part: self._table(part) for part in self.inputs.parts}
        return {part: table for part, table in found.items() if table is not None}

    def _table(self, part: str) -> Table | None:
        rows = [self.inputs.example_effects(self.inputs.places(s), part) for s in self.stops.selections]
        known = next((row for row in rows if row is not None), None)
        if known is None or rows[self.judged_stop] is None:
            return None
        return np.stack([np.full(len(known), np.nan) if row is None else row for row in rows])

    @cached_property
    def shown(self) -> tuple[Shown, ...]:
        """The most and the least affected pairs of every subgroup and part, in turn, up to the page's limits."""
        turns = [list(self._ends(part, places)) for part, places in self._groups()]
        kept: list[Shown] = []
        budget = TEXT_BUDGET
        for rank in range(max(map(len, turns), default=0)):
            for turn in turns:
                if rank < len(turn) and len(kept) < MOST_EXAMPLES:
                    one = self._shown(*turn[rank], budget)
                    budget -= _length(one.example) if one.complete else 0
                    kept.append(one)
        return tuple(sorted(kept, key=lambda one: (-abs(one.effect), one.part, one.place)))

    def _groups(self) -> Iterator[tuple[str, list[int]]]:
        for part in self.tables:
            places: dict[str, list[int]] = {}
            for i, one in enumerate(self.inputs.pairs(part)):
                places.setdefault(one.fields.get("group", ""), []).append(i)
            yield from ((part, some) for some in places.values())

    def _ends(self, part: str, places: list[int]) -> Iterator[tuple[str, int]]:
        """Most affected, least affected, second most, and so on."""
        effects = self.tables[part][self.judged_stop]
        order = sorted(places, key=lambda i: (-abs(effects[i]), i))
        for i in range(len(order)):
            yield part, order[i // 2] if i % 2 == 0 else order[-1 - i // 2]

    def _shown(self, part: str, place: int, budget: int) -> Shown:
        example = self.inputs.pairs(part)[place]
        effect = float(self.tables[part][self.judged_stop][place])
        complete = _length(example) <= min(budget, MOST_TEXT)
        if not complete:
            example = Example(example.id, weight=example.weight, fields=example.fields)
        return Shown(part, place, example, effect, complete)

    @property
    def total(self) -> int:
        """Pairs with an effect."""
        return sum(table.shape[1] for table in self.tables.values())

    @property
    def bound(self) -> float:
        """The largest effect of a pair at the judged size, which the colours end at (its 98th centile)."""
        rows = [np.abs(table[self.judged_stop]) for table in self.tables.values()]
        top = float(np.percentile(np.concatenate(rows), 98)) if rows else 0.0
        return top if top > 0 and np.isfinite(top) else 1.0

    def data(self) -> dict[str, Any]:
        """The effects of the pairs shown, histograms and subgroups, at every stop."""
        return {
            "bound": rounded(self.bound),
            "shown": [rounded_all(self.tables[one.part][:, one.place]) for one in self.shown],
            "histogram": self._histogram(),
            "subgroups": [self._subgroup(*row) for row in self.subgroups],
        }

    def _histogram(self) -> dict[str, Any]:
        finite = [table[np.isfinite(table)] for table in self.tables.values()]
        every = np.concatenate([*finite, np.zeros(1)])
        edges = np.linspace(*_span(every), BINS + 1)
        counts = {
            part: [
                np.histogram(np.clip(row[np.isfinite(row)], edges[0], edges[-1]), edges)[0].tolist() for row in table
            ]
            for part, table in self.tables.items()
        }
        return {"edges": rounded_all(edges), "counts": counts}

    @cached_property
    def subgroups(self) -> tuple[tuple[str, str, str, list[int]], ...]:
        """(part, field, value, places), all pairs first."""
        return tuple(row for part in self.tables for row in self._subgroups(part))

    def _subgroups(self, part: str) -> Iterator[tuple[str, str, str, list[int]]]:
        pairs = self.inputs.pairs(part)
        yield part, "", "all", list(range(len(pairs)))
        places: dict[tuple[str, str], list[int]] = {}
        for i, one in enumerate(pairs):
            for name, value in one.fields.items():
                places.setdefault((name, value), []).append(i)
        for (name, value), some in sorted(places.items())[:MOST_SUBGROUPS]:
            yield part, name, value, some

    def _subgroup(self, part: str, _field: str, _value: str, places: list[int]) -> dict[str, Any]:
        table = self.tables[part]
        some, weights = table[:, places], self.inputs.weights(part, table.shape[1])[places]
        if not weights.sum() > 0:
            weights = np.ones(len(places))
        means = (some * weights).sum(axis=1) / weights.sum()
        sign = self.inputs.first.sign
        moved = np.where(np.isfinite(some).all(axis=1), (sign * some > 0).mean(axis=1), np.nan)
        return {
            "mean": rounded_all(means),
            "median": rounded_all(np.median(some, axis=1)),
            "moved": rounded_all(moved),
        }

    @property
    def words(self) -> str:
        """Note on rows that were left out; empty where none were."""
        if len(self.shown) == self.total:
            return ""
        parts = " and ".join(PART_WORDS[part] for part in self.tables)
        return (
            f"{len(self.shown)} of {self.total:,} pairs are shown: the most and the least affected of every group "
            f"among the {parts}; histogram and subgroups count all"
        )


def _length(example: Example) -> int:
    answers = sum(map(len, example.answers[:MOST_ANSWERS]))
    return len(example.base.text) + (0 if example.donor is None else len(example.donor.text)) + answers


def _span(values: Float[np.ndarray, "value"]) -> tuple[float, float]:
    """Return the range from the first to the last but half a per cent on either side, 0 within."""
    low, high = np.percentile(values, [0.5, 99.5])
    low, high = min(0.0, float(low)), max(0.0, float(high))
    return (low, high) if high > low else (-1.0, 1.0)
